"""The Python that does what a tab of the web page did."""

from __future__ import annotations

from typing import Any


def loading(name: str | None) -> str:
    """Lines that load a model; None is the bundled one."""
    if name is None:
        return (
            "from titok_hf import TiTokPipeline\nfrom titok_hf.bundled import bundled_checkpoint\n\n"
            "pipe = TiTokPipeline.from_pretrained(bundled_checkpoint())\n"
        )
    return f"from titok_hf import TiTokPipeline\n\npipe = TiTokPipeline.from_pretrained({name!r})\n"


def tokenize(name: str | None, changes: dict[int, int]) -> str:
    """Encode, change the tokens at some positions to other codes, decode."""
    edits = "".join(f"codes[0, {position}] = {code}\n" for position, code in sorted(changes.items()))
    return f'{loading(name)}\ncodes = pipe.encode("image.png")\n{edits}image = pipe.decode(codes)[0]\n'


def generate(name: str | None, label: int, num_images: int, sampling: Any) -> str:
    """Images of one class."""
    return (
        f"import torch\n{loading(name)}{_sampler(sampling)}\n"
        f"images = pipe(\n    {label},\n    num_images_per_class={num_images},\n"
        f"{_sampling(num_images, sampling)}).images\n"
    )


def vary(name: str | None, label: int, strength: float, num_images: int, sampling: Any) -> str:
    """Variations of an image."""
    return (
        f"import torch\n{loading(name)}{_sampler(sampling)}\n"
        f'images = pipe.variations(\n    "image.png",\n    {label},\n'
        f"    strength={strength},\n    num_images={num_images},\n{_sampling(num_images, sampling)}).images\n"
    )


def inpaint(name: str | None, label: int | None, sampling: Any) -> str:
    """Fill a region by token optimisation, or by the generator if a class is given."""
    if label is None:
        rng = f"generator=[torch.Generator().manual_seed({sampling.seed})]"
        call = f'pipe.inpaint("image.png", "mask.png", {rng})'
        return f"import torch\n{loading(name)}\nimage = {call}.images[0]\n"
    return (
        f"import torch\n{loading(name)}{_sampler(sampling)}\n"
        f'image = pipe.infill(\n    "image.png",\n    "mask.png",\n    {label},\n'
        f"{_sampling(1, sampling)}).images[0]\n"
    )


def interpolate(name: str | None, num_images: int) -> str:
    """Images between two images."""
    return f'{loading(name)}\nimages = pipe.interpolate("first.png", "second.png", num_images={num_images})\n'


def _sampler(sampling: Any) -> str:
    config = f"pipe.scheduler.config, sampler={sampling.sampler!r}"
    return f"pipe.scheduler = pipe.scheduler.from_config({config})\n"


def _sampling(num_images: int, sampling: Any) -> str:
    lines = [f"num_inference_steps={sampling.steps}"]
    for setting in ("guidance_scale", "temperature"):
        if getattr(sampling, setting) is not None:
            lines.append(f"{setting}={getattr(sampling, setting)}")
    lines.append(f"generator=[torch.Generator().manual_seed({sampling.seed} + i) for i in range({num_images})]")
    return "".join(f"    {line},\n" for line in lines)
