"""TiTokPipeline under diffusers' own pipeline suite, where a checkout of diffusers is given."""

import unittest
from typing import Any

import torch

from tiny_pipeline import tiny_pipeline
from titok_hf import TiTokPipeline
from upstream_sources import upstream_suite

PipelineTesterMixin = upstream_suite("diffusers", "pipelines.test_pipelines_common").PipelineTesterMixin


class TiTokPipelineTest(PipelineTesterMixin, unittest.TestCase):
    pipeline_class = TiTokPipeline
    params = frozenset(["class_labels"])
    batch_params = frozenset(["class_labels"])
    # The start is masked codes, not noise, and a class is no prompt (num_images_per_class is the counterpart).
    required_optional_params = PipelineTesterMixin.required_optional_params - {"latents", "num_images_per_prompt"}
    test_attention_slicing = False
    test_xformers_attention = False
    supports_dduf = False

    def get_dummy_components(self) -> dict[str, Any]:
        return tiny_pipeline().components

    def get_dummy_inputs(self, device: str, seed: int = 0) -> dict[str, Any]:
        generator = torch.Generator(device="cpu").manual_seed(seed)
        return {"class_labels": [1], "generator": generator, "num_inference_steps": 2, "output_type": "np"}
