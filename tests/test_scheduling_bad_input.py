"""MaskGitScheduler: settings, steps and values that are refused, and with what sentence."""

import json
import math

import numpy as np
import pytest
import torch

from tiny_pipeline import generators
from titok_hf.scheduling_maskgit import (
    SAMPLER_VARIANTS,
    MaskGitScheduler,
)

MASK = 16  # mask token of the made-up codes below


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"mask_schedule": "square"}, "'square'.*arccos"),
        ({"guidance_schedule": "cosine"}, "'cosine'.*power-cosine"),
        ({"num_inference_steps": 0}, "num_inference_steps is 0"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"guidance_interval": [0.5]}, "two numbers"),
        ({"guidance_interval": [0.9, 0.1]}, "two numbers"),
        ({"guidance_interval": [0.0, 1.5]}, "two numbers"),
        ({"guidance_interval": "01"}, "two numbers"),
        ({"guidance_interval": 0.5}, "two numbers"),
        ({"guidance_interval": [0.0, math.nan]}, "two numbers"),
        ({"num_inference_steps": 10**9}, "num_inference_steps is 1000000000. Use at most 5000"),
        ({"num_inference_steps": "8"}, "num_inference_steps is '8', but an integer"),
        ({"num_inference_steps": True}, "num_inference_steps is True"),
        ({"mask_schedule": 3}, "mask_schedule is 3"),
        ({"temperature": "4.5"}, "temperature is '4.5', but a number"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"temperature": math.inf}, "temperature is inf"),
        ({"guidance_scale": None}, "guidance_scale is None"),
        ({"guidance_scale": -math.inf}, "guidance_scale is -inf"),
        ({"guidance_scale": 10**400}, "guidance_scale is inf"),
        ({"guidance_power": -1.0}, "guidance_power is -1.0"),
        ({"softmax_temperature_annealing": "yes"}, "softmax_temperature_annealing is 'yes'"),
    ],
)
def test_settings_out_of_range_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        MaskGitScheduler(MASK, **bad)


@pytest.mark.parametrize(
    "field, value", [("temperature", "hot"), ("mask_token_id", 1.5), ("num_inference_steps", [8])]
)
def test_a_saved_configuration_of_another_type_is_refused(tmp_path, field, value):
    MaskGitScheduler(MASK).save_pretrained(tmp_path)
    path = tmp_path / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(ValueError, match=f"{field} is .*expected"):
        MaskGitScheduler.from_pretrained(tmp_path)


def test_settings_of_numpy_are_saved_as_plain_numbers(tmp_path):
    settings = {"temperature": np.float32(0.5), "num_inference_steps": np.int64(3), "guidance_scale": np.float16(2)}
    MaskGitScheduler(np.uint16(MASK), **settings).save_pretrained(tmp_path)
    config = MaskGitScheduler.from_pretrained(tmp_path).config
    assert {name: config[name] for name in settings} == settings and config.mask_token_id == MASK


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_are_refused(value):
    logits = torch.zeros(2, 8, MASK)
    logits[1, 3, 5] = value
    with pytest.raises(ValueError, match="logits of the transformer.*not all finite"):
        MaskGitScheduler(MASK).step(logits, 1.0, torch.full((2, 8), MASK))


def test_a_seed_is_no_generator():
    with pytest.raises(ValueError, match=r"generator is 42.*manual_seed"):
        MaskGitScheduler(MASK).step(torch.zeros(1, 8, MASK), 1.0, torch.full((1, 8), MASK), generator=42)


def test_unpublished_variant_is_refused():
    with pytest.raises(ValueError, match="'l64_512'.*" + ".*".join(SAMPLER_VARIANTS)):
        MaskGitScheduler.from_variant("l64_512")


@pytest.mark.parametrize("method", ["step", "guide", "needs_unconditional"])
def test_unknown_timestep_is_refused(method):
    scheduler, codes, logits = MaskGitScheduler(MASK), torch.full((1, 8), MASK), torch.zeros(1, 8, MASK)
    arguments = {"step": (logits, 0.123, codes), "guide": (logits, logits, 0.123), "needs_unconditional": (0.123,)}
    with pytest.raises(ValueError, match="0.123, which is not among the 8 timesteps"):
        getattr(scheduler, method)(*arguments[method])


@pytest.mark.parametrize("shape", [(2, 8), (2, 7, MASK), (1, 8, MASK)])
def test_logits_that_do_not_fit_the_codes_are_refused(shape):
    with pytest.raises(ValueError, match="model_output has shape"):
        MaskGitScheduler(MASK).step(torch.zeros(shape), 1.0, torch.full((2, 8), MASK))


def test_wrong_number_of_generators_is_refused():
    with pytest.raises(ValueError, match="list of 1, but the batch has 2"):
        MaskGitScheduler(MASK).step(torch.zeros(2, 8, MASK), 1.0, torch.full((2, 8), MASK), generator=generators(0))


def test_wrong_number_of_mask_counts_is_refused():
    scheduler = MaskGitScheduler(MASK)
    scheduler.set_timesteps(8, num_masked_tokens=[8, 8, 8])
    with pytest.raises(ValueError, match="2 images, but set_timesteps was given 3"):
        scheduler.step(torch.zeros(2, 8, MASK), 1.0, torch.full((2, 8), MASK))


@pytest.mark.parametrize("shares", [[0.5, math.nan], [0.0, 0.5], [1.5, 0.5]])
def test_shares_to_mask_out_of_range_are_refused(shares):
    with pytest.raises(ValueError, match=r"Use numbers in \(0, 1\]"):
        MaskGitScheduler(MASK).add_noise(torch.zeros(2, 8, dtype=torch.long), torch.tensor(shares))


@pytest.mark.parametrize("share", [0.0, 1.5, -0.1, math.nan])
def test_share_to_mask_out_of_range_is_refused(share):
    with pytest.raises(ValueError, match=f"mask is {share}"):
        MaskGitScheduler(MASK).add_noise(torch.zeros(1, 8, dtype=torch.long), share)
