"""The models that `speed.py` and `gpu.py` measure, and how the ways of computing a thing are compared and timed."""

import argparse
import math
import statistics
from collections.abc import Callable
from typing import Any

import torch
from harness import Row, race
from original_way import Sampler, Tokenizer

from titok_hf import MaskGitScheduler, MaskGitTransformer1DModel, TiTokModel, TiTokPipeline
from titok_hf.configuration_titok import TiTokConfig

TINY_TOKENIZER = {
    "image_size": 64,
    "num_latent_tokens": 8,
    "codebook_size": 64,
    "proxy_codebook_size": 32,
    "pixel_decoder": {"base_channels": 32, "codebook_size": 32, "codebook_dim": 8, "num_resnet_blocks": 1},
} | {
    f"{side}_{name}": size
    for side in ("encoder", "decoder")
    for name, size in {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}.items()
}
TINY_GENERATOR = {
    "codebook_size": 64,
    "num_latent_tokens": 8,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
# The published settings of the sampler, in the original's units: without guidance 0, or 1 with "power-cosine".
SAMPLING = {
    "l32": {"num_steps": 8, "scale": 4.5, "temperature": 9.5, "decay": "linear"},
    "b64": {"num_steps": 8, "scale": 3.0, "temperature": 11.0, "decay": "linear"},
    "s128": {"num_steps": 64, "scale": 6.9, "temperature": 2.8, "decay": "power-cosine"},
}


class Models:
    """The models of one size with random weights, in the package and in the original's way, made when first used."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.device, self.dtype = options.device, getattr(torch, options.dtype)
        self.variant, self.tiny = ("l32", True) if options.model == "tiny" else (options.model, False)
        self.sampling = SAMPLING[self.variant]
        self._made: dict[str, Any] = {}

    def tokenizer(self, **changes: Any) -> TiTokModel:
        """A tokenizer, also of another number of tokens or image size."""
        config = TiTokConfig.from_variant(self.variant, **((TINY_TOKENIZER if self.tiny else {}) | changes))
        with torch.device("meta"):
            model = TiTokModel(config)
        model = model.to_empty(device=self.device).to(self.dtype).eval().requires_grad_(False)
        return fill(model)

    def generator(self, **changes: Any) -> MaskGitTransformer1DModel:
        """A generator, also of another number of tokens."""
        with torch.device("meta"):
            changes = (TINY_GENERATOR if self.tiny else {}) | changes
            model = MaskGitTransformer1DModel.from_variant(self.variant, **changes)
        model = model.to_empty(device=self.device).to(self.dtype).eval().requires_grad_(False)
        return fill(model)

    def pipeline(self) -> TiTokPipeline:
        """The package's pipeline."""
        if "pipeline" not in self._made:
            tokenizer, generator = self.tokenizer(), self.generator()
            self._made["pipeline"] = pipeline_of(tokenizer, generator, self.variant)
        return self._made["pipeline"]

    def originals(self) -> tuple[Tokenizer, Sampler]:
        """The original's way with the weights of the pipeline."""
        if "originals" not in self._made:
            pipe = self.pipeline()
            self._made["originals"] = Tokenizer.like(pipe.tokenizer), Sampler.like(pipe.transformer)
        return self._made["originals"]

    def images(self, batch: int) -> torch.Tensor:
        """Random pixels, (batch, 3, image size, image size)."""
        size = self.pipeline().tokenizer.config.image_size
        rng = torch.Generator().manual_seed(0)
        return torch.rand(batch, 3, size, size, generator=rng).to(self.device, self.dtype)

    def race(self, ways: dict[str, Callable[[], Any]], warm_up: bool = True) -> dict[str, list[float]]:
        options = self.options
        with torch.inference_mode():
            return race(
                ways, options.rounds, options.clock, self.device, warm_up, getattr(options, "seconds", math.inf)
            )


@torch.no_grad()
def fill(model: Any) -> Any:
    """Random weights that keep activations and logits at the scale of trained ones."""
    rng = torch.Generator(next(model.parameters()).device).manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=min(0.05, parameter[0].numel() ** -0.5), generator=rng)
        else:
            parameter.fill_(float("norm" in name and name.endswith("weight")))
    return model


def pipeline_of(tokenizer: TiTokModel, generator: MaskGitTransformer1DModel, variant: str) -> TiTokPipeline:
    """A pipeline with the published sampler; only the sizes of its parts matter."""
    processor = TiTokPipeline.image_processor_class(size={"shortest_edge": tokenizer.config.image_size})
    scheduler = MaskGitScheduler.from_variant(variant, mask_token_id=generator.mask_token_id)
    pipe = TiTokPipeline(tokenizer, processor, generator, scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def three_ways(
    pipe: TiTokPipeline, original: Callable[[], Any], ours: Callable[[], Any]
) -> dict[str, Callable[[], Any]]:
    """The original's way, the package, and the package with CPU optimizations (measured in the warm-up)."""
    pipe.enable_cpu_optimizations()
    optimizations = pipe._cpu_optimizations
    pipe.disable_cpu_optimizations()

    def optimized() -> Any:
        pipe._cpu_optimizations = optimizations
        try:
            return ours()
        finally:
            pipe._cpu_optimizations = None

    ways = {"original's way": original, "pipeline": ours}
    return ways | ({"optimized": optimized} if pipe.device.type == "cpu" else {})


@torch.inference_mode()
def compared(ways: dict[str, Callable[[], Any]]) -> dict[str, Any]:
    """The share of equal codes, or the largest difference of pixels, from the first way; equal random numbers."""
    outputs = {}
    for name, way in ways.items():
        torch.manual_seed(0)
        outputs[name] = torch.as_tensor(way())
    first = next(iter(outputs))
    expected = outputs.pop(first)
    if expected.dtype == torch.int64:
        return {f"equal codes, {name}": (output == expected).float().mean().item() for name, output in outputs.items()}
    return {
        f"largest difference, {name}": (output.float() - expected.float()).abs().max().item()
        for name, output in outputs.items()
    }


def row(models: Models, section: str, name: str, ways: dict[str, Callable[[], Any]], **values: Any) -> Row:
    """Outputs compared, which warms up too; then all ways timed."""
    same = compared(ways)
    result = Row(section, name, models.race(ways, warm_up=False), values | same)
    times = ", ".join(f"{way} {statistics.median(s) * 1e3:.1f} ms" for way, s in result.seconds.items())
    print(f"  {name}: {times}", flush=True)
    return result
