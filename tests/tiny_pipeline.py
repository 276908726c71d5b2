"""A pipeline with random weights, small enough for tests: 32 x 32 images, 8 codes of 16, three classes."""

from typing import Any

import numpy as np
import torch
from PIL import Image

from titok_hf.configuration_titok import TiTokConfig
from titok_hf.image_processing_pil_titok import TiTokImageProcessorPil
from titok_hf.modeling_maskgit import MaskGitTransformer1DModel
from titok_hf.modeling_titok import TiTokModel
from titok_hf.pipeline_titok import TiTokPipeline
from titok_hf.scheduling_maskgit import MaskGitScheduler

ID2LABEL = {0: "tabby, tabby cat", 1: "Cardigan, Cardigan Welsh corgi", 2: "cardigan"}

# A MaskGIT-VQGAN of eight pixels a code, for two-stage tokenizers.
TINY_VQGAN = {
    "base_channels": 8,
    "channel_multipliers": [1, 1, 2, 2],
    "num_groups": 4,
    "codebook_dim": 6,
    "codebook_size": 20,
    "num_resnet_blocks": 1,
}


def tiny_tokenizer(seed: int = 0, **overrides: Any) -> TiTokModel:
    """A tokenizer of one layer a side, whose random decoder uses the whole range from black to white."""
    torch.manual_seed(seed)
    sizes = {
        f"{side}_{name}": value
        for side in ("encoder", "decoder")
        for name, value in {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}.items()
    }
    fields = {"image_size": 32, "patch_size": 8, "num_latent_tokens": 8, "codebook_size": 16, "codebook_dim": 4}
    tokenizer = TiTokModel(TiTokConfig(**(sizes | fields | overrides))).eval()
    with torch.no_grad():
        for parameter in tokenizer.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
    return tokenizer


def tiny_pipeline(seed: int = 0, **scheduler_settings: Any) -> TiTokPipeline:
    """A pipeline of four steps with guidance; equal seeds give equal weights."""
    tokenizer = tiny_tokenizer(seed)
    transformer = MaskGitTransformer1DModel(
        codebook_size=16,
        num_latent_tokens=8,
        num_classes=3,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
    ).eval()
    with torch.no_grad():
        for parameter in transformer.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
    settings = {"num_inference_steps": 4, "guidance_schedule": "linear", "temperature": 2.0} | scheduler_settings
    pipe = TiTokPipeline(
        tokenizer=tokenizer,
        image_processor=tiny_image_processor(),
        transformer=transformer,
        scheduler=MaskGitScheduler(mask_token_id=16, **settings),
        id2label=ID2LABEL,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def tiny_image_processor() -> TiTokImageProcessorPil:
    """The image processor for the tiny tokenizer's size."""
    return TiTokImageProcessorPil(size={"shortest_edge": 32})


def generators(*seeds: int) -> list[torch.Generator]:
    """One generator an image."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def random_images(count: int, size: tuple[int, int] = (40, 50)) -> list[Image.Image]:
    """RGB images of random pixels, of that height and width, always the same."""
    values = np.random.default_rng(0).integers(0, 256, (count, *size, 3), dtype=np.uint8)
    return [Image.fromarray(value) for value in values]


def random_codes(rows: int, seed: int = 0) -> torch.Tensor:
    """Codes of the tiny tokenizer, shape (rows, 8)."""
    return torch.randint(16, (rows, 8), generator=torch.Generator().manual_seed(seed))
