"""Generators: an original checkpoint, read by `from_pretrained`, predicts and samples what the original did."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import golden_fill
from golden_checkpoints import figures, relative_error, small_weights, write_checkpoint
from titok_hf import MaskGitScheduler, MaskGitTransformer1DModel

pytestmark = pytest.mark.slow

DATA = Path(__file__).parent.parent / "data"
RUNS = {case["case"]: case for case in json.loads((DATA / "sampling.json").read_text())["cases"]}


@pytest.fixture(scope="module", params=["l32", "s128"])
def generator(request, tmp_path_factory):
    folder = write_checkpoint(f"generator_{request.param}", tmp_path_factory.mktemp(request.param))
    model = MaskGitTransformer1DModel.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    return request.param, model


@torch.no_grad()
def test_logits_equal_the_original(generator):
    name, model = generator
    scalars, arrays = figures(f"generator_{name}")
    batch, length, num_codes = torch.arange(2)[:, None], torch.arange(scalars["L"]), scalars["K"]
    input_ids = (batch * 977 + length * 613 + 5) % num_codes
    input_ids[(7 * length + 3 * batch) % 5 < 2] = model.mask_token_id
    assert torch.equal(input_ids, arrays["input_ids"].long())

    labels, no_class = torch.tensor(scalars["labels"]), model.null_class_label
    dropped = torch.tensor(scalars["mixed"]["dropped"])
    conditions = {
        "cond": labels,
        "uncond": torch.full_like(labels, no_class),
        "mixed": labels.masked_fill(dropped, no_class),
    }
    for condition, class_labels in conditions.items():
        logits = model(input_ids, class_labels=class_labels).logits
        stored = arrays[f"{condition}_logits_slice"]
        torch.testing.assert_close(logits[:, ::4, ::64], stored, atol=5e-4, rtol=1e-4)
        assert logits.mean().item() == pytest.approx(scalars[condition]["mean"], abs=1e-4)
        assert logits.std().item() == pytest.approx(scalars[condition]["std"], abs=1e-4)
        if condition != "mixed":
            clear = arrays[f"{condition}_argmax_gap"] > 1e-3
            assert torch.equal(logits.argmax(-1)[clear], arrays[f"{condition}_argmax"].long()[clear])
            assert clear.float().mean() > 0.98

    # With small weights, the epsilon of the normalisations decides: a wrong one moves these by 1e-2 or more.
    with small_weights(model):
        logits = model(input_ids, class_labels=labels).logits
    assert relative_error(logits[:, ::4, ::64], figures("norm_epsilon_probe")[1][f"{name}_generator"]) < 1e-4


@torch.no_grad()
def test_sampling_equals_the_original(generator):
    """A whole run of the original's sampler, with its noise put in."""
    name, model = generator
    case = RUNS[f"real_{name}"]
    with np.load(DATA / "sampling.npz") as arrays:
        expected = torch.from_numpy(arrays[f"real_{name}_ids"]).long()
    scheduler = MaskGitScheduler(
        mask_token_id=model.mask_token_id,
        num_inference_steps=case["num_sample_steps"],
        temperature=case["randomize_temperature"],
        softmax_temperature_annealing=case["softmax_temperature_annealing"],
        # Constant and linear scales of the original are added to the conditional logits, and smaller by 1.
        guidance_scale=case["guidance_scale"] + (case["guidance_decay"] != "power-cosine"),
        guidance_schedule=case["guidance_decay"],
        guidance_power=case["guidance_scale_pow"],
    )
    uniforms = golden_fill.UniformStream(case["noise_key"])
    labels = torch.tensor(case["labels"])
    no_class = torch.full_like(labels, model.null_class_label)
    codes = torch.full((case["B"], case["L"]), model.mask_token_id)
    for timestep, before in zip(scheduler.timesteps, expected[:-1], strict=True):
        assert torch.equal(codes, before)
        logits = model(codes, class_labels=labels).logits
        if scheduler.needs_unconditional(timestep):
            logits = scheduler.guide(logits, model(codes, class_labels=no_class).logits, timestep)
        noise = [torch.from_numpy(uniforms.draw(shape)) for shape in (logits.shape, codes.shape)]
        codes = scheduler.step(logits, timestep, codes, noise=tuple(noise)).prev_sample
    assert torch.equal(codes, expected[-1])
    assert uniforms_drawn(case) == case["noise_values_drawn"]


def uniforms_drawn(case):
    return case["num_sample_steps"] * case["B"] * case["L"] * (case["K"] + 1)
