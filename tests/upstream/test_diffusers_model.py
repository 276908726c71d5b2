"""MaskGitTransformer1DModel under diffusers' own model suite, where a checkout of diffusers is given."""

import unittest
from typing import Any

import torch

from titok_hf import MaskGitTransformer1DModel
from upstream_sources import upstream_suite

ModelTesterMixin = upstream_suite("diffusers", "models.test_modeling_common").ModelTesterMixin

SIZES = {
    "codebook_size": 16,
    "num_latent_tokens": 8,
    "num_classes": 3,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}


class MaskGitViTTest(ModelTesterMixin, unittest.TestCase):
    model_class = MaskGitTransformer1DModel
    main_input_name = "input_ids"
    architecture = "vit"

    @property
    def dummy_input(self) -> dict[str, torch.Tensor]:
        return {"input_ids": torch.arange(16).reshape(2, 8), "class_labels": torch.tensor([0, 3])}

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (8,)

    @property
    def output_shape(self) -> tuple[int, ...]:
        return (8, 16)

    def prepare_init_args_and_inputs_for_common(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        return SIZES | {"architecture": self.architecture}, self.dummy_input


class MaskGitUViTTest(MaskGitViTTest):
    architecture = "uvit"
