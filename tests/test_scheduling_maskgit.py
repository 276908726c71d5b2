"""MaskGitScheduler: figures of the original sampler to the digit, and what must hold for any schedule."""

import inspect
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import golden_fill
from tiny_pipeline import generators
from titok_hf.scheduling_maskgit import (
    GUIDANCE_SCHEDULES,
    MASK_SCHEDULES,
    MAX_INFERENCE_STEPS,
    MaskGitScheduler,
    mask_ratio,
)

DATA = Path(__file__).parent / "data"
SCHEDULES = json.loads((DATA / "sampling_schedules.json").read_text())
MASKING = json.loads((DATA / "training_masking.json").read_text())
TABLE_CASES = [case for case in json.loads((DATA / "sampling.json").read_text())["cases"] if "table_key" in case]
MASK = 16  # mask token of the made-up codes below


def counted_from(guidance_schedule):
    """What the original's scales of a schedule lack to those here, where 1 is no guidance for every schedule."""
    return 0.0 if guidance_schedule == "power-cosine" else 1.0


def sampler(case):
    """The scheduler with the settings of a golden case."""
    schedule = case.get("guidance_decay", "constant")
    return MaskGitScheduler(
        mask_token_id=case.get("K", 4096),
        num_inference_steps=case["num_sample_steps"],
        temperature=case.get("randomize_temperature", 0.0),
        softmax_temperature_annealing=case.get("softmax_temperature_annealing", True),
        guidance_scale=case.get("guidance_scale", 0.0) + counted_from(schedule),
        guidance_schedule=schedule,
        guidance_power=case.get("guidance_scale_pow", 3.0),
    )


def sample(scheduler, codes, generator=None):
    """All states of a run on random logits, the first included."""
    logits = 3 * torch.randn(*codes.shape, MASK, generator=torch.Generator().manual_seed(5))
    states = [codes]
    for timestep in scheduler.timesteps:
        states.append(scheduler.step(logits, timestep, states[-1], generator=generator).prev_sample)
    return states


class TableGenerator:
    """Exact float32 logits looked up in tables: A[l] + C[label] + N[codes[l]] / 2 + N[codes[l + 1]] / 4."""

    def __init__(self, case):
        self.positions = self._table(case, "A", (case["L"], case["K"]))
        self.classes = self._table(case, "C", (case["classes"] + 1, case["K"]))
        self.neighbours = self._table(case, "N", (case["K"] + 1, case["K"]))

    @staticmethod
    def _table(case, name, shape):
        integers = golden_fill.integers(f"{case['table_key']}:{name}", shape, 65537) - 32768
        return torch.from_numpy(integers.astype(np.float32) / 8192)

    def __call__(self, codes, labels):
        near, next_one = self.neighbours[codes], self.neighbours[codes.roll(-1, dims=1)]
        return self.positions + self.classes[labels][:, None] + 0.5 * near + 0.25 * next_one


@pytest.mark.parametrize("case", TABLE_CASES, ids=lambda case: case["case"])
def test_sampling_equals_the_original(case):
    golden = np.load(DATA / "sampling.npz")
    ids, sampled = (torch.from_numpy(golden[f"{case['case']}_{name}"]).long() for name in ("ids", "sampled"))
    batch, num_tokens, codebook_size = case["B"], case["L"], case["K"]
    generator, scheduler = TableGenerator(case), sampler(case)
    labels = torch.tensor(case["labels"])
    no_class = torch.full_like(labels, case["classes"])
    uniforms = golden_fill.UniformStream(case["noise_key"])

    codes = torch.full((batch, num_tokens), codebook_size)
    for index, (timestep, step) in enumerate(zip(scheduler.timesteps, case["steps"], strict=True)):
        assert (codes == codebook_size).sum(dim=1).tolist() == step["masked_before"]
        logits = generator(codes, labels)
        if scheduler.needs_unconditional(timestep):
            logits = scheduler.guide(logits, generator(codes, no_class), timestep)
        noise = [torch.from_numpy(uniforms.draw(s)) for s in (logits.shape, codes.shape)]
        output = scheduler.step(logits, timestep, codes, noise=tuple(noise))
        assert torch.equal(output.pred_original_sample, sampled[index])
        assert torch.equal(output.prev_sample, ids[index + 1])
        codes = output.prev_sample


@pytest.mark.parametrize("name", SCHEDULES["mask_len"])
def test_mask_lengths_equal_the_original(name):
    num_tokens, steps = map(int, re.findall(r"\d+", name))
    expected = SCHEDULES["mask_len"][name]
    scheduler = MaskGitScheduler(mask_token_id=MASK, num_inference_steps=steps)
    states = sample(scheduler, torch.full((2, num_tokens), MASK))
    masked = [(state == MASK).sum(dim=1).tolist() for state in states]
    # The last mask length of the original is not used: its last step keeps every code.
    assert masked[:-1] == [[count] * 2 for count in expected["masked_before"]]
    assert masked[1:-1] == [[count] * 2 for count in expected["mask_len"][:-1]]
    assert masked[-1] == [0, 0]
    floors = [math.floor(num_tokens * ratio) for ratio in scheduler.mask_ratios]
    assert floors == expected["floor_only"]


@pytest.mark.parametrize(
    "case",
    SCHEDULES["cfg_scale"],
    ids=lambda c: f"{c['guidance_decay']}-{c['guidance_scale']}-{c['num_sample_steps']}",
)
def test_guidance_scales_equal_the_original(case):
    expected = [scale + counted_from(case["guidance_decay"]) for scale in case["cfg_scale"]]
    assert sampler(case).guidance_scales == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("case", SCHEDULES["temperature"], ids=lambda c: str(c["randomize_temperature"]))
def test_temperatures_equal_the_original(case):
    scheduler = sampler(case)
    assert scheduler.temperatures == pytest.approx(case["annealed_temperature"], rel=1e-6)
    assert scheduler.softmax_temperatures == pytest.approx(case["softmax_temperature"], rel=1e-6)


@pytest.mark.parametrize("case", MASKING["counts"], ids=lambda c: str(c["seq_len"]))
def test_noise_masks_as_many_tokens_as_the_original(case):
    shares = mask_ratio(torch.tensor(case["timesteps"]))
    codes = torch.zeros(len(shares), case["seq_len"], dtype=torch.long)
    noisy = MaskGitScheduler(mask_token_id=MASK).add_noise(codes, shares)
    assert (noisy == MASK).sum(dim=1).tolist() == case["num_masked"]


@pytest.mark.parametrize("case", MASKING["draws"], ids=lambda c: str(c["seq_len"]))
def test_noise_masks_the_positions_of_the_original(case):
    num_tokens, batch = case["seq_len"], case["batch"]
    shares = mask_ratio(torch.from_numpy(golden_fill.uniform(f"mask-t:a:{num_tokens}", (batch,))))
    uniforms = torch.from_numpy(golden_fill.uniform(f"mask-perm:a:{num_tokens}", (batch, num_tokens)))
    codes = torch.arange(batch * num_tokens).reshape(batch, num_tokens) % 4096
    noisy = MaskGitScheduler(mask_token_id=4096).add_noise(codes, shares, noise=uniforms)
    is_masked = noisy == 4096
    assert [row.nonzero().flatten().tolist() for row in is_masked] == case["masked_positions"]
    assert torch.equal(noisy[~is_masked], codes[~is_masked])


@pytest.mark.parametrize(("variant", "temperature"), [("l32", 9.5), ("b64", 11.0), ("s128", 2.8)])
def test_variants_are_the_published_benchmark(variant, temperature):
    scheduler = MaskGitScheduler.from_variant(variant)
    steps = scheduler.config.num_inference_steps
    published = [(c["randomize_temperature"], c["num_sample_steps"]) for c in SCHEDULES["temperature"]]
    assert (scheduler.config.temperature, steps) in published and scheduler.config.temperature == temperature
    assert scheduler.config.softmax_temperature_annealing and scheduler.config.mask_token_id == 4096
    guidance = (scheduler.config.guidance_schedule, scheduler.config.guidance_scale, scheduler.config.guidance_power)
    expected = {"l32": ("linear", 4.5 + 1, 3.0), "b64": ("linear", 3.0 + 1, 3.0), "s128": ("power-cosine", 6.9, 3.0)}
    assert guidance == expected[variant]
    assert len(scheduler.timesteps) == steps


@settings(deadline=None, max_examples=60)
@given(
    mask_schedule=st.sampled_from(MASK_SCHEDULES),
    steps=st.integers(1, 20),
    temperature=st.sampled_from([0.0, 1.0, 10.0]),
    annealing=st.booleans(),
    masks=st.integers(1, 24).flatmap(lambda n: st.lists(st.lists(st.booleans(), min_size=n, max_size=n), min_size=1)),
    count_masked=st.booleans(),
)
def test_masked_tokens_fall_to_none_and_known_tokens_stay(
    mask_schedule, steps, temperature, annealing, masks, count_masked
):
    is_masked = torch.tensor(masks)
    codes = torch.arange(is_masked.numel()).reshape(is_masked.shape) % MASK
    start = codes.masked_fill(is_masked, MASK)
    scheduler = MaskGitScheduler(MASK, mask_schedule, temperature=temperature, softmax_temperature_annealing=annealing)
    scheduler.set_timesteps(steps, num_masked_tokens=is_masked.sum(dim=1) if count_masked else None)
    states = sample(scheduler, start)

    counts = torch.stack([(state == MASK).sum(dim=1) for state in states])
    assert torch.equal(counts[0], is_masked.sum(dim=1))
    assert (counts[-1] == 0).all()
    # A step fills at least one position; the last masked one is kept until the end.
    assert ((counts[1:] < counts[:-1]) | (counts[:-1] <= 1)).all()
    for before, after in zip(states, states[1:], strict=False):
        known = before != MASK
        assert torch.equal(after[known], before[known])
    assert ((states[-1] >= 0) & (states[-1] < MASK)).all()


@settings(deadline=None, max_examples=60)
@given(steps=st.integers(1, 200), mask_schedule=st.sampled_from(MASK_SCHEDULES))
@example(steps=MAX_INFERENCE_STEPS, mask_schedule="cosine")
@example(steps=MAX_INFERENCE_STEPS, mask_schedule="arccos")
def test_timesteps_fall_from_one(steps, mask_schedule):
    scheduler = MaskGitScheduler(MASK, mask_schedule, num_inference_steps=steps)
    timesteps = scheduler.timesteps
    assert len(timesteps) == steps and timesteps[0] == 1
    assert (timesteps[1:] < timesteps[:-1]).all() and timesteps[-1] > 0
    assert scheduler.mask_ratios[:-1] == pytest.approx(timesteps[1:].tolist(), rel=1e-6)
    assert scheduler.mask_ratios[-1] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("mask_schedule", "halfway"),
    [("arccos", 2 / 3), ("cosine", math.sqrt(0.5)), ("linear", 0.5), ("root", 1 - math.sqrt(0.5))],
)
def test_mask_schedules_differ_halfway(mask_schedule, halfway):
    assert mask_ratio(torch.tensor(0.5), mask_schedule).item() == pytest.approx(halfway)


def test_exact_thirds_are_not_rounded_down():
    scheduler = MaskGitScheduler(MASK, num_inference_steps=2)  # arccos(1/2) is two thirds of the way
    states = sample(scheduler, torch.full((1, 96), MASK))
    assert (states[1] == MASK).sum() == 64


def test_each_image_depends_on_its_own_generator_alone():
    scheduler = MaskGitScheduler(MASK, num_inference_steps=4)
    start = torch.full((1, 12), MASK)
    alone = [sample(scheduler, start, generators(seed))[-1] for seed in (3, 7, 3)]
    logits = 3 * torch.randn(1, 12, MASK, generator=torch.Generator().manual_seed(5))

    codes, sources = start.repeat(3, 1), generators(3, 7, 3)
    for timestep in scheduler.timesteps:
        codes = scheduler.step(logits.repeat(3, 1, 1), timestep, codes, generator=sources).prev_sample
    assert torch.equal(codes, torch.cat(alone))
    assert not torch.equal(alone[0], alone[1])


def test_one_generator_makes_a_batch_reproducible():
    scheduler, start = MaskGitScheduler(MASK), torch.full((3, 12), MASK)
    runs = [sample(scheduler, start, *generators(seed))[-1] for seed in (1, 1, 2)]
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])


def test_editing_fills_the_same_share_in_each_step_whatever_is_masked():
    codes = torch.zeros(3, 32, dtype=torch.long)
    codes[0], codes[1, :16], codes[2, 5] = MASK, MASK, MASK
    scheduler = MaskGitScheduler(MASK)
    scheduler.set_timesteps(8, num_masked_tokens=(codes == MASK).sum(dim=1).tolist())
    counts = torch.stack([(state == MASK).sum(dim=1) for state in sample(scheduler, codes)], dim=1)
    assert counts[0].tolist() == [*SCHEDULES["mask_len"]["L32_steps8"]["masked_before"], 0]
    assert counts[1].tolist() == [16, 14, 13, 12, 10, 9, 7, 5, 0]
    assert counts[2].tolist() == [1] * 8 + [0]


def test_one_number_of_masked_tokens_serves_a_batch():
    scheduler, start = MaskGitScheduler(MASK), torch.full((2, 32), MASK)
    plain = sample(scheduler, start, *generators(0))
    scheduler.set_timesteps(8, num_masked_tokens=32)
    assert all(map(torch.equal, plain, sample(scheduler, start, *generators(0))))


def test_ties_at_the_cut_off_are_all_masked_again():
    scheduler = MaskGitScheduler(MASK, temperature=0.0)
    codes = torch.full((1, 8), MASK)
    codes[0, 3] = 2
    logits = torch.zeros(1, 8, MASK)
    for timestep in scheduler.timesteps[:-1]:
        assert torch.equal(scheduler.step(logits, timestep, codes).prev_sample, codes)
    final = scheduler.step(logits, scheduler.timesteps[-1], codes).prev_sample
    assert final.tolist() == [[0, 0, 0, 2, 0, 0, 0, 0]]


@pytest.mark.parametrize("num_masked_tokens", [None, [4, 8]])
def test_a_step_never_reads_a_value_from_the_device(num_masked_tokens):
    """Tensors on the meta device have shapes and no values: reading one raises."""
    scheduler = MaskGitScheduler(MASK, softmax_temperature_annealing=True)
    scheduler.set_timesteps(4, device="meta", num_masked_tokens=num_masked_tokens)
    codes = torch.empty(2, 8, dtype=torch.long, device="meta")
    logits = torch.empty(2, 8, MASK, device="meta")
    for timestep in scheduler.timesteps:
        guided = scheduler.guide(logits, logits, timestep)
        codes = scheduler.step(guided, timestep, codes, generator=generators(0, 1)).prev_sample
    assert codes.is_meta and codes.shape == (2, 8)


def test_timesteps_stay_on_the_cpu_under_another_default_device():
    with torch.device("meta"):
        scheduler = MaskGitScheduler.from_variant("s128")
        scheduler.set_timesteps(4, num_masked_tokens=[3, 4])
    assert scheduler.timesteps.tolist()[0] == 1 and scheduler.guidance_scales[0] == 1


def test_output_names_codes_and_logits():
    scheduler = MaskGitScheduler(MASK, softmax_temperature_annealing=True)
    logits, codes = torch.randn(2, 8, MASK), torch.full((2, 8), MASK)
    output = scheduler.step(logits, 1.0, codes, *generators(0))
    assert torch.equal(output.pred_logits, logits / 1.2)
    assert (output.pred_original_sample < MASK).all()
    known = output.prev_sample != MASK
    assert torch.equal(output.prev_sample[known], output.pred_original_sample[known])
    as_tuple = scheduler.step(logits, 1.0, codes, *generators(0), return_dict=False)
    assert all(map(torch.equal, as_tuple, output.to_tuple()))


def test_half_precision_logits_are_treated_in_float32():
    scheduler = MaskGitScheduler(MASK, guidance_scale=100.0)
    conditional, unconditional = (torch.randn(1, 8, MASK).bfloat16() for _ in range(2))
    guided = scheduler.guide(conditional, unconditional, 1.0)
    assert guided.dtype == torch.float32
    assert torch.equal(guided, conditional.float() + 99 * (conditional.float() - unconditional.float()))
    assert scheduler.step(conditional, 1.0, torch.full((1, 8), MASK)).pred_logits.dtype == torch.float32


@pytest.mark.parametrize("schedule", GUIDANCE_SCHEDULES)
def test_guidance_is_that_of_diffusers(schedule):
    conditional, unconditional = torch.randn(2, 1, 8, MASK).unbind()
    scheduler = MaskGitScheduler(MASK, guidance_scale=4.0, guidance_schedule=schedule, num_inference_steps=8)
    for timestep, scale in zip(scheduler.timesteps, scheduler.guidance_scales, strict=True):
        guided = scheduler.guide(conditional, unconditional, timestep)
        torch.testing.assert_close(guided, unconditional + scale * (conditional - unconditional))
    assert scheduler.guidance_scales[0] == (4.0 if schedule == "constant" else 1.0)
    assert 1.0 < scheduler.guidance_scales[-1] <= 4.0


@pytest.mark.parametrize("schedule", GUIDANCE_SCHEDULES)
def test_guided_logits_equal_those_of_the_original_to_the_last_bit(schedule):
    conditional, unconditional = torch.randn(2, 1, 8, MASK).unbind()
    scale = 4.5 + counted_from(schedule)
    scheduler = MaskGitScheduler(MASK, guidance_scale=scale, guidance_schedule=schedule, num_inference_steps=8)
    base = unconditional if schedule == "power-cosine" else conditional
    for timestep, scale in zip(scheduler.timesteps, scheduler.guidance_scales, strict=True):
        original = base + (scale - counted_from(schedule)) * (conditional - unconditional)
        assert torch.equal(scheduler.guide(conditional, unconditional, timestep), original)


@pytest.mark.parametrize("schedule", GUIDANCE_SCHEDULES)
@pytest.mark.parametrize("scale", [1.0, 0.5, 0.0, -2.0])
def test_a_scale_of_1_or_less_is_no_guidance_for_any_schedule(schedule, scale):
    scheduler = MaskGitScheduler(MASK, guidance_scale=scale, guidance_schedule=schedule)
    assert scheduler.guidance_scales == [1.0] * 8
    assert not any(map(scheduler.needs_unconditional, scheduler.timesteps))


@pytest.mark.parametrize(
    ("guidance", "needed"),
    [
        ({"guidance_scale": 3.0, "guidance_schedule": "constant"}, [True] * 8),
        ({"guidance_scale": 1.0, "guidance_schedule": "constant"}, [False] * 8),
        ({"guidance_scale": 3.0, "guidance_schedule": "linear"}, [False] + [True] * 7),
        ({"guidance_scale": 3.0, "guidance_schedule": "power-cosine"}, [False] + [True] * 7),
        ({"guidance_scale": 1.0, "guidance_schedule": "power-cosine"}, [False] * 8),
        ({"guidance_scale": 3.0, "guidance_interval": [0.25, 0.5]}, [False] * 2 + [True] * 3 + [False] * 3),
        (
            {"guidance_scale": 3.0, "guidance_schedule": "power-cosine", "guidance_interval": [0.5, 1.0]},
            [False] * 4 + [True] * 4,
        ),
    ],
)
def test_the_unconditional_pass_is_left_out_where_it_changes_nothing(guidance, needed):
    scheduler = MaskGitScheduler(MASK, **guidance)
    assert [scheduler.needs_unconditional(timestep) for timestep in scheduler.timesteps] == needed
    conditional, unconditional = torch.randn(2, 1, 8, MASK).unbind()
    for timestep, is_needed in zip(scheduler.timesteps, needed, strict=True):
        guided = scheduler.guide(conditional, unconditional, timestep)
        assert torch.allclose(guided, conditional, atol=1e-5) != is_needed


def test_noise_of_each_image_comes_from_its_own_generator():
    scheduler, codes = MaskGitScheduler(MASK), torch.zeros(2, 32, dtype=torch.long)
    together = scheduler.add_noise(codes, 0.5, generators(4, 9))
    alone = [scheduler.add_noise(codes[:1], 0.5, generators(seed)) for seed in (4, 9)]
    assert torch.equal(together, torch.cat(alone))
    assert (together == MASK).sum(dim=1).tolist() == [16, 16]
    assert not torch.equal(together[0], together[1])


def test_saved_settings_come_back(tmp_path):
    scheduler = MaskGitScheduler.from_variant("s128", num_inference_steps=16, guidance_interval=[0.1, 0.9])
    scheduler.save_pretrained(tmp_path)
    reloaded = MaskGitScheduler.from_pretrained(tmp_path)
    names = inspect.signature(MaskGitScheduler.__init__).parameters.keys() - {"self"}
    assert {name: reloaded.config[name] for name in names} == {name: scheduler.config[name] for name in names}
    assert reloaded.guidance_scales == scheduler.guidance_scales
    assert torch.equal(reloaded.timesteps, scheduler.timesteps)
    changed = MaskGitScheduler.from_config(reloaded.config, temperature=1.5)
    assert changed.config.temperature == 1.5 and changed.config.guidance_scale == 6.9


@pytest.mark.parametrize(("schedule", "present"), [("constant", 4.5), ("linear", 4.5), ("power-cosine", 3.5)])
def test_a_scale_saved_before_1_was_no_guidance_is_translated(tmp_path, schedule, present):
    scheduler = MaskGitScheduler(MASK, guidance_scale=present, guidance_schedule=schedule)
    scheduler.save_pretrained(tmp_path)
    path = tmp_path / "scheduler_config.json"
    config = json.loads(path.read_text())
    assert config.pop("_no_guidance") == 1.0  # such files did not have this
    path.write_text(json.dumps(config | {"guidance_scale": 3.5}))

    old = MaskGitScheduler.from_pretrained(tmp_path)
    assert old.config.guidance_scale == present and old.guidance_scales == scheduler.guidance_scales
    assert MaskGitScheduler.from_config(json.loads(path.read_text())).config.guidance_scale == present
    assert MaskGitScheduler.from_pretrained(tmp_path, guidance_scale=2.0).config.guidance_scale == 2.0
    assert MaskGitScheduler.from_config(old.config).config.guidance_scale == present  # translated once
    old.save_pretrained(tmp_path)
    assert MaskGitScheduler.from_pretrained(tmp_path).config.guidance_scale == present


def test_settings_that_were_not_saved_are_in_present_numbers():
    assert MaskGitScheduler.from_config({"mask_token_id": MASK, "guidance_scale": 3.5}).config.guidance_scale == 3.5


def test_plain_timesteps_are_the_configured_ones():
    scheduler = MaskGitScheduler.from_variant("s128")
    scheduler.set_timesteps(8)
    assert scheduler.num_inference_steps == len(scheduler.guidance_scales) == 8
    scheduler.set_timesteps()
    assert scheduler.num_inference_steps == 64


def test_codes_need_no_scaling():
    scheduler, codes = MaskGitScheduler(MASK), torch.tensor([[1, MASK]])
    assert scheduler.scale_model_input(codes, 1.0) is codes and scheduler.init_noise_sigma == 1.0
