"""MaskGitScheduler under diffusers' own scheduler suite, where a checkout of diffusers is given."""

import unittest
from typing import Any

import torch

from titok_hf import MaskGitScheduler
from upstream_sources import upstream_suite

SchedulerCommonTest = upstream_suite("diffusers", "schedulers.test_schedulers").SchedulerCommonTest

NOT_LOGITS = "it gives a tenth of the sample for the model's output; here the sample is codes and the output logits"


class MaskGitSchedulerTest(SchedulerCommonTest):
    scheduler_classes = (MaskGitScheduler,)
    forward_default_kwargs = (("num_inference_steps", 4),)

    def get_scheduler_config(self, **overrides: Any) -> dict[str, Any]:
        return {"mask_token_id": 16, "num_inference_steps": 4} | overrides

    @property
    def dummy_sample(self) -> torch.Tensor:
        return torch.full((4, 8), 16)

    @unittest.skip(NOT_LOGITS)
    def test_from_save_pretrained(self) -> None: ...

    @unittest.skip(NOT_LOGITS)
    def test_step_shape(self) -> None: ...

    @unittest.skip(NOT_LOGITS)
    def test_scheduler_outputs_equivalence(self) -> None: ...

    @unittest.skip("it adds a tensor of noise to the sample; here noise is a choice of codes to mask")
    def test_add_noise_device(self) -> None: ...

    @unittest.skip("it asks for betas; masking has none")
    def test_trained_betas(self) -> None: ...


del SchedulerCommonTest  # pytest would collect it once more, without a scheduler
