"""A small tokenizer and its generator in the original format: 32 x 32 images, 4 codes of 16, the ImageNet classes."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from titok_hf import MaskGitTransformer1DModel, TiTokModel
from titok_hf.original import generator_adapter, generator_config, titok_adapter, tokenizer_config

CONFIG = {
    "experiment": {"output_dir": "somewhere"},
    "model": {
        "vq_model": {
            "codebook_size": 16,
            "token_size": 4,
            "use_l2_norm": True,
            "vit_enc_model_size": "small",  # the smallest that the original knows: 25 million parameters a side
            "vit_dec_model_size": "small",
            "num_latent_tokens": 4,
            "finetune_decoder": False,
            "is_legacy": False,
        },
    },
    "dataset": {"preprocessing": {"crop_size": 32}},
}
GENERATOR = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_seq_len": "${model.vq_model.num_latent_tokens}",
    "condition_num_classes": 1000,
    "num_steps": 8,
    "randomize_temperature": 9.5,
    "guidance_scale": 4.5,
    "guidance_decay": "linear",
}


def write_tokenizer(folder: Path, config: dict[str, Any] = CONFIG) -> Path:
    """A folder as on the Hub, with random weights."""
    with torch.device("meta"):
        model = TiTokModel(tokenizer_config(config))
    return _write(folder, config, titok_adapter(model.config, model.state_dict()).expected_shapes)


def write_generator(folder: Path, **settings: Any) -> Path:
    """The same of a generator; `settings` change its section of the configuration."""
    config = CONFIG | {"model": CONFIG["model"] | {"generator": GENERATOR | settings}}
    with torch.device("meta"):
        model = MaskGitTransformer1DModel(**generator_config(config))
    return _write(folder, config, generator_adapter(model.config, model.state_dict()).expected_shapes)


def _write(folder: Path, config: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> Path:
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    tensors = {name: 0.1 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder
