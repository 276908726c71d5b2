"""Checkpoints of the original implementations, bytedance/1d-tokenizer and google-research/maskgit: to ours and back.

`from_pretrained` of the models reads them through [`loading.read`]. `key_maps` and `configs` describe the two formats;
[`StateDictAdapter`] translates in both directions. `conversion` converts whole folders.
"""

from .configs import (
    generator_config,
    original_generator_config,
    original_tokenizer_config,
    scheduler_config,
    tokenizer_config,
)
from .loading import generator_adapter, maskgit_vqgan_adapter, titok_adapter
from .state_dict_adapter import CheckpointMismatchError, StateDictAdapter

__all__ = [
    "CheckpointMismatchError",
    "StateDictAdapter",
    "generator_adapter",
    "generator_config",
    "maskgit_vqgan_adapter",
    "original_generator_config",
    "original_tokenizer_config",
    "scheduler_config",
    "titok_adapter",
    "tokenizer_config",
]
