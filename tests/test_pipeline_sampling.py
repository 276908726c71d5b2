"""The pipeline with every sampler and every kind of guidance."""

from itertools import product

import pytest
import torch

from tiny_pipeline import generators, tiny_pipeline
from titok_hf.guidance import GUIDANCE_KINDS
from titok_hf.modeling_maskgit import MaskGitTransformer1DModel
from titok_hf.pipeline_sampling import GuidedLogits
from titok_hf.pipeline_titok import TiTokPipeline
from titok_hf.samplers import SAMPLERS
from titok_hf.scheduling_maskgit import MaskGitScheduler

LABELS = [0, 1, 2]


def codes_of(pipe, **arguments):
    return pipe(LABELS, generator=generators(0, 1, 2), output_type="latent", **arguments).codes


def passes(*models):
    """The batch sizes of all forward passes of models from now on."""
    sizes = []
    for model in models:
        model.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    return sizes


def other_generator(**overrides):
    sizes = {"codebook_size": 16, "num_latent_tokens": 8, "num_classes": 3, "hidden_size": 16}
    sizes |= {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32} | overrides
    torch.manual_seed(1)
    return MaskGitTransformer1DModel(**sizes).eval()


def guiding(kind):
    return {"guiding_transformer": other_generator()} if kind == "autoguidance" else {}


@pytest.mark.parametrize(("kind", "sampler"), list(product(GUIDANCE_KINDS, SAMPLERS)))
def test_a_scale_of_1_is_no_guidance_to_the_last_bit_and_needs_no_further_pass(kind, sampler):
    settings = {"sampler": sampler, "guidance_schedule": "constant", "entropy_bound": 0.0}
    plain = tiny_pipeline(guidance_scale=1.0, **settings)
    expected = codes_of(plain)
    pipe = tiny_pipeline(guidance=kind, guidance_scale=1.0, **settings)
    sizes = passes(pipe.transformer)
    assert torch.equal(codes_of(pipe, **guiding(kind)), expected) and sizes == [3] * 4
    guided = codes_of(pipe, guidance_scale=20.0, **guiding(kind))
    assert not torch.equal(guided, expected)


def test_autoguidance_moves_away_from_the_weaker_generator():
    pipe, weaker = tiny_pipeline(), other_generator()
    scheduler = MaskGitScheduler(16, guidance="autoguidance", guidance_scale=3.0)
    codes, labels = torch.full((2, 8), 16), torch.tensor([0, 2])
    with torch.no_grad():
        guided = GuidedLogits(pipe.transformer, scheduler, labels, weaker)(codes, scheduler.timesteps[0])
        main, bad = (model(codes, class_labels=labels).logits for model in (pipe.transformer, weaker))
    torch.testing.assert_close(guided, bad + 3 * (main - bad))


def test_a_generator_that_guides_itself_changes_nothing():
    pipe = tiny_pipeline(guidance="autoguidance", guidance_schedule="constant", guidance_scale=4.0)
    assert torch.equal(codes_of(pipe, guiding_transformer=pipe.transformer), codes_of(tiny_pipeline(guidance_scale=1)))


def test_guidance_by_the_step_before_needs_no_further_pass():
    pipe = tiny_pipeline(guidance="previous-step", guidance_schedule="constant", guidance_scale=2.0)
    sizes = passes(pipe.transformer)
    codes_of(pipe)
    assert sizes == [3] * 4
    labels = torch.tensor(LABELS)
    logits_of = GuidedLogits(pipe.transformer, pipe.scheduler, labels)
    before, after = torch.full((3, 8), 16), torch.full((3, 8), 16)
    after[:, ::2] = 5
    with torch.no_grad():
        unguided = [pipe.transformer(codes, class_labels=labels).logits for codes in (before, after)]
        first, second = (
            logits_of(codes, timestep)
            for codes, timestep in zip((before, after), pipe.scheduler.timesteps, strict=False)
        )
    assert torch.equal(first, unguided[0])
    torch.testing.assert_close(second, unguided[0] + 2 * (unguided[1] - unguided[0]))


def test_a_power_cosine_scale_of_1_in_the_first_step_is_unguided():
    settings = {"guidance_schedule": "power-cosine", "guidance_scale": 5.0}
    pipe = tiny_pipeline(guidance="autoguidance", **settings)
    weaker = other_generator()
    sizes = passes(weaker)
    codes_of(pipe, guiding_transformer=weaker)
    assert sizes == [3] * 3


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_sampler_is_saved_with_the_pipeline_and_exchanged(sampler, tmp_path):
    pipe = tiny_pipeline()
    default = codes_of(pipe)
    pipe.scheduler = MaskGitScheduler.from_config(pipe.scheduler.config, sampler=sampler)
    expected = codes_of(pipe)
    assert expected.max() < 16 and torch.equal(expected, default) == (sampler == "confidence")
    pipe.save_pretrained(tmp_path)
    assert torch.equal(codes_of(TiTokPipeline.from_pretrained(tmp_path)), expected)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_editing_leaves_the_other_codes_with_every_sampler(sampler):
    pipe = tiny_pipeline(sampler=sampler, eta=1.0)
    start = torch.randint(16, (3, 8), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(8).expand(3, 8) % 2 == 0
    edited = codes_of(pipe, init_codes=start, mask=mask)
    assert torch.equal(edited[~mask], start[~mask]) and edited.max() < 16


def test_entropy_bounded_sampling_ends_on_the_cpu_when_all_images_are_done(monkeypatch):
    pipe = tiny_pipeline(sampler="entropy-bounded", entropy_bound=1e6, num_inference_steps=8, guidance_scale=1.0)
    sizes = passes(pipe.transformer)
    expected = codes_of(pipe)
    assert sizes == [3]
    monkeypatch.setattr("titok_hf.pipeline_sampling.can_look_at", lambda tensor: False)  # as on an accelerator
    assert torch.equal(codes_of(pipe), expected) and sizes == [3] * 9


@pytest.mark.parametrize(
    ("settings", "arguments", "message"),
    [
        ({"guidance": "autoguidance"}, {}, "guidance is 'autoguidance', and there is no guiding_transformer"),
        ({}, {"guiding_transformer": other_generator()}, "is 'classifier-free', and there is a guiding_transformer"),
        ({"guidance": "autoguidance"}, {"guiding_transformer": "early"}, "guiding_transformer is str. Give a MaskGit"),
        (
            {"guidance": "autoguidance"},
            {"guiding_transformer": other_generator(codebook_size=32)},
            "codebook_size is 16 in the transformer and 32 in guiding_transformer",
        ),
        (
            {"guidance": "autoguidance"},
            {"guiding_transformer": other_generator(num_classes=2)},
            "num_classes is 3 in the transformer and 2",
        ),
        (
            {"guidance": "autoguidance"},
            {"guiding_transformer": other_generator().to("meta")},
            r'guiding_transformer is on meta and the pipeline on cpu.*\.to\("cpu"\)',
        ),
        ({"sampler": "remdm"}, {"temperature": 2.0}, "temperature is 2.0, but the sampler 'remdm' does not use it"),
        (
            {"sampler": "ordered", "token_order": [1, 0]},
            {},
            "token_order names 2 positions, but the codes have 8",
        ),
    ],
)
def test_settings_that_contradict_one_another_are_refused(settings, arguments, message):
    pipe = tiny_pipeline(**settings)
    with pytest.raises(ValueError, match=message):
        codes_of(pipe, **arguments)
