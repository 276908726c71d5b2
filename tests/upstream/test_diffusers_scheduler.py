"""MaskGitScheduler under diffusers' own scheduler suite, where a checkout of diffusers is given."""

import unittest
from typing import Any

import torch

from titok_hf import MaskGitScheduler
from upstream_sources import upstream_suite

SchedulerCommonTest = upstream_suite("diffusers", "schedulers.test_schedulers").SchedulerCommonTest

CODEBOOK_SIZE = 16


class Codes(torch.Tensor):
    """Codes of which a tenth is logits: the suite takes a tenth of the sample for the model's output."""

    def __rmul__(self, factor: float) -> torch.Tensor:
        return factor * torch.randn(*self.shape, CODEBOOK_SIZE)


class MaskGitSchedulerTest(SchedulerCommonTest):
    scheduler_classes = (MaskGitScheduler,)
    forward_default_kwargs = (("num_inference_steps", 4),)

    def get_scheduler_config(self, **overrides: Any) -> dict[str, Any]:
        return {"mask_token_id": CODEBOOK_SIZE, "num_inference_steps": 4} | overrides

    @property
    def dummy_sample(self) -> torch.Tensor:
        return torch.full((4, 8), CODEBOOK_SIZE).as_subclass(Codes)

    @unittest.skip("it fails where no other scheduler is compatible; none of diffusers reads these logits")
    def test_compatibles(self) -> None: ...

    @unittest.skip("it adds a tensor of noise to the sample; here noise is a choice of codes to mask")
    def test_add_noise_device(self) -> None: ...

    @unittest.skip("it asks for betas; masking has none")
    def test_trained_betas(self) -> None: ...


del SchedulerCommonTest  # pytest would collect it once more, without a scheduler
