"""Speed of the package beside the original's way, in sections, and what the work costs as it grows.

    python benchmarks/speed.py all                       # all sections, then the tables and plots
    python benchmarks/speed.py images generate --rounds 5
    python benchmarks/speed.py original --original ../1d-tokenizer
    python benchmarks/speed.py report                    # joins docs/speed/*.json

Ways are timed by turns in one process, and their outputs are compared in the same run. Weights are random. "original's
way" is `original_way.py`; "pipeline" is the package, "optimized" after `pipe.enable_cpu_optimizations()`. Ratios
are those of the original's way, round by round. Each section writes `FOLDER/SECTION.json`.

Where other programs run at the same time, use `--threads 1 --clock processor`.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from harness import CLOCKS, Row, in_new_process, peak_memory, race, write
from original_way import Sampler, Tokenizer, class_to_images
from speed_models import Models, fill, pipeline_of, row, three_ways

from titok_hf import TiTokModel
from titok_hf.configuration_titok import TiTokConfig


def tokenizer(models: Models) -> list[Row]:
    """Encode, decode, and the pixel decoder alone."""
    return [line for batch in models.options.batch for line in tokenizer_at(models, batch)]


def tokenizer_at(models: Models, batch: int) -> list[Row]:
    """[`tokenizer`] at one batch size."""
    pipe, (original, _) = models.pipeline(), models.originals()
    images = models.images(batch)
    codes = original.encode(images)
    ways = three_ways(pipe, lambda: original.encode(images), lambda: pipe.encode(images, batch))
    rows = [row(models, "tokenizer", f"encode, batch {batch}", ways, batch=batch)]
    ways = three_ways(pipe, lambda: original.decode(codes).clamp(0, 1), lambda: pipe.decode(codes, "pt", batch))
    rows.append(row(models, "tokenizer", f"decode, batch {batch}", ways, batch=batch))
    if original.pixel_decoder is None:
        return rows
    decoder, config = pipe.tokenizer.pixel_decoder.decoder, pipe.tokenizer.config
    grid = config.image_size // config.decoder_patch_size
    latents = torch.randn(batch, config.pixel_decoder.codebook_dim, grid, grid).to(models.device, models.dtype)

    def ours() -> torch.Tensor:
        with pipe._fast_on_cpu():
            return decoder(latents)

    ways = three_ways(pipe, lambda: original.pixel_decoder(latents), ours)
    return [*rows, row(models, "tokenizer", f"pixel decoder, batch {batch}", ways, batch=batch)]


def generate(models: Models) -> list[Row]:
    """Codes of classes."""
    return [generate_at(models, batch) for batch in models.options.batch]


def generate_at(models: Models, batch: int) -> Row:
    """[`generate`] at one batch size."""
    pipe, (_, original) = models.pipeline(), models.originals()
    labels = torch.arange(batch, device=models.device)
    ways = three_ways(
        pipe,
        lambda: original.generate(labels, **models.sampling),
        lambda: pipe(labels.tolist(), output_type="latent").codes,
    )
    return row(models, "generate", f"generate, batch {batch}", ways, batch=batch)


def images(models: Models) -> list[Row]:
    """Images of classes, from labels to 8-bit pixels."""
    return [images_at(models, batch) for batch in models.options.batch]


def images_at(models: Models, batch: int) -> Row:
    """[`images`] at one batch size."""
    pipe, (tokenizer, generator) = models.pipeline(), models.originals()
    labels = torch.arange(batch, device=models.device)

    def ours() -> torch.Tensor:
        pixels = pipe(labels.tolist(), output_type="pt").images
        return (pixels * 255).permute(0, 2, 3, 1).to("cpu", torch.uint8)

    def theirs() -> torch.Tensor:
        return class_to_images(generator, tokenizer, labels, **models.sampling)

    return row(models, "images", f"class -> image, batch {batch}", three_ways(pipe, theirs, ours), batch=batch)


def growth(models: Models) -> list[Row]:
    """
    Seconds and peak memory as batch, tokens, image size and steps grow; each figure from a fresh process. After a size
    that took more than half of `--seconds`, larger ones are left out.
    """
    options = models.options
    rows = []
    for kind, option, sizes in (
        ("batch", "--case-batch", options.growth_batches),
        ("tokens", "--tokens", options.growth_tokens),
        ("image size", "--image-size", options.growth_sizes),
        ("steps", "--steps", options.growth_steps),
    ):
        spent = 0.0
        for size in sizes:
            if spent > options.seconds / 2:
                print(f"  {kind} {size}: left out, as the size before took {spent:.0f} s", flush=True)
                break
            figures = in_new_process(__file__, "one-case", f"{option}={size}", *shared_arguments(options))
            seconds = figures.pop("seconds")
            rows.append(Row("growth", f"{kind} {size}", seconds, {"kind": kind, "value": size} | figures))
            spent = sum(map(min, seconds.values()))
            print(
                f"  {kind} {size}: " + ", ".join(f"{part} {min(s):.3f} s" for part, s in seconds.items()), flush=True
            )
    return rows


def one_case(options: argparse.Namespace) -> dict[str, Any]:
    """One point of [`growth`]: encode, generate and decode at one size."""
    models = Models(options)
    token_change = {} if options.tokens is None else {"num_latent_tokens": options.tokens}
    size_change = {} if options.image_size is None else {"image_size": options.image_size}
    pipe = pipeline_of(
        models.tokenizer(**token_change, **size_change), models.generator(**token_change), models.variant
    )
    batch = options.case_batch
    size = pipe.tokenizer.config.image_size
    pixels = torch.rand(batch, 3, size, size).to(models.device)
    memory_before = peak_memory()
    codes = pipe.encode(pixels, batch)
    labels = [0] * batch
    ways = {
        "encode": lambda: pipe.encode(pixels, batch),
        "generate": lambda: pipe(labels, num_inference_steps=options.steps, output_type="latent"),
        "decode": lambda: pipe.decode(codes, "pt", batch),
    }
    seconds = models.race(ways)
    return {"seconds": seconds, "memory before": memory_before, "peak memory": peak_memory()}


def load(models: Models) -> list[Row]:
    """Import, and loading a tokenizer from safetensors beside the original's way; each figure from a fresh process."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pipe = models.pipeline()
        pipe.tokenizer.save_pretrained(folder / "tokenizer")
        torch.save(Tokenizer.like(pipe.tokenizer).state_dict(), folder / "original.bin")
        size = sum(tensor.nbytes for tensor in pipe.tokenizer.state_dict().values()) / 2**30
        seconds: dict[str, list[float]] = {"original's way": [], "pipeline": []}
        values: dict[str, Any] = {"GiB of weights": size}
        imports: list[float] = []
        for _ in range(models.options.rounds):
            for way, command in (("original's way", "load-original"), ("pipeline", "load-ours")):
                figures = in_new_process(__file__, command, f"--folder={folder}", *shared_arguments(models.options))
                seconds[way].append(figures["seconds"])
                values[f"GiB of memory, {way}"] = figures["memory"]
            clock = CLOCKS[models.options.clock].__name__
            imports.append(in_new_process("-c", IMPORT.format(clock, clock)))
        rows.append(Row("load", "load the tokenizer", seconds, values))
        rows.append(Row("load", "import titok_hf and its pipeline", {"pipeline": imports}))
    return rows


def load_ours(options: argparse.Namespace) -> dict[str, Any]:
    before = peak_memory()
    start = CLOCKS[options.clock]()
    model = TiTokModel.from_pretrained(options.folder / "tokenizer")
    touched = sum(float(parameter.detach().sum()) for parameter in model.parameters())  # files may be mapped, not read
    seconds = CLOCKS[options.clock]() - start
    return {"seconds": seconds, "memory": peak_memory() - before, "sum": touched}


def load_original(options: argparse.Namespace) -> dict[str, Any]:
    config = TiTokConfig.from_pretrained(options.folder / "tokenizer")
    before = peak_memory()
    start = CLOCKS[options.clock]()
    model = Tokenizer(config)
    model.initialise()
    model.load_state_dict(torch.load(options.folder / "original.bin", map_location="cpu"))
    touched = sum(float(parameter.detach().sum()) for parameter in model.parameters())
    seconds = CLOCKS[options.clock]() - start
    return {"seconds": seconds, "memory": peak_memory() - before, "sum": touched}


def preprocessing(models: Models) -> list[Row]:
    """Photographs to pixel values: Pillow alone, as the original's data pipeline does it, and the image processor."""
    import numpy as np
    from PIL import Image

    size = models.pipeline().tokenizer.config.image_size
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 256, (375, 500, 3), dtype=np.uint8)).resize((500, 375))
    pipe = models.pipeline()

    def by_pillow() -> torch.Tensor:
        scale = size / min(photo.size)
        width, height = (round(side * scale) for side in photo.size)
        image = photo.resize((width, height), Image.Resampling.BICUBIC)
        left, top = (width - size) // 2, (height - size) // 2
        values = np.asarray(image.crop((left, top, left + size, top + size)), dtype=np.float32) / 255
        return torch.from_numpy(values).permute(2, 0, 1)[None].contiguous()

    ways = {"original's way": by_pillow, "pipeline": lambda: pipe.preprocess(photo)}
    return [row(models, "preprocessing", "500 x 375 pixels", ways)]


def training(models: Models) -> list[Row]:
    """A training step of the generator: forward, loss, backward and AdamW, on the masked codes of a batch."""
    ours, original = models.generator(), None
    original = Sampler.like(ours)
    batch = max(models.options.batch)
    rng = torch.Generator().manual_seed(0)
    codes = torch.randint(ours.config.codebook_size, (batch, ours.config.num_latent_tokens), generator=rng)
    labels = torch.zeros(batch, dtype=torch.int64)
    codes, labels = codes.to(models.device), labels.to(models.device)
    masked = codes.masked_fill(torch.rand(codes.shape, generator=rng).to(models.device) < 0.6, ours.mask_token_id)

    def step(model: Any, predict: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        model.requires_grad_(True)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)

        def run() -> torch.Tensor:
            loss = torch.nn.functional.cross_entropy(predict().float().flatten(0, 1), codes.flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss.detach()

        return run

    ways = {
        "original's way": step(original, lambda: original.predict(masked, labels, 0.0)),
        "pipeline": step(ours, lambda: ours(masked, labels).logits),
    }
    losses = [float(way()) for way in ways.values()]
    seconds = race(ways, models.options.rounds, models.options.clock, models.device)
    values = {"largest difference, pipeline": abs(losses[0] - losses[1]), "batch": batch}
    return [Row("training", f"generator, batch {batch}", seconds, values)]


def dit(models: Models) -> list[Row]:
    """One step of `diffusers` DiT-XL/2 at 256 pixels with guidance and random weights; the rest is extrapolated."""
    from diffusers import DiTTransformer2DModel

    sizes = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 1} if models.tiny else {"num_layers": 28}
    with torch.device("meta"):
        model = DiTTransformer2DModel(in_channels=4, out_channels=8, sample_size=32, **sizes)
    model = fill(model.to_empty(device=models.device).to(models.dtype).eval().requires_grad_(False))
    latents = torch.randn(2, 4, 32, 32).to(models.device, models.dtype)  # with and without a class
    labels = torch.tensor([0, 1000], device=models.device)
    timesteps = torch.tensor([500, 500], device=models.device)
    pipe = models.pipeline()
    ways = {
        "one step of DiT-XL/2": lambda: model(latents, timestep=timesteps, class_labels=labels).sample,
        "pipeline": lambda: pipe([0], output_type="pt").images,
    }
    seconds = models.race(ways)
    ratio = statistics.median(seconds["one step of DiT-XL/2"]) / statistics.median(seconds["pipeline"])
    values = {"extrapolated: times our image with 250 steps": 250 * ratio, "with 50 steps": 50 * ratio}
    return [Row("dit", "one step beside a whole image, batch 1", seconds, values)]


def original(models: Models) -> list[Row]:
    """The original itself, from `--original`, beside our rendering of it: equal outputs, and how fast it is."""
    folder = models.options.original
    if folder is None:
        print("  left out: name a checkout of bytedance/1d-tokenizer with --original")
        return []
    sys.path.insert(0, str(folder))
    from modeling.maskgit import ImageBert, UViTBert
    from modeling.titok import TiTok
    from omegaconf import OmegaConf

    config = OmegaConf.load(folder / f"configs/infer/TiTok/titok_{models.variant}.yaml")
    tokenizer, generator = models.originals()
    theirs = TiTok(config)
    theirs.load_state_dict(tokenizer.state_dict())
    kind = ImageBert if config.model.generator.model_type == "ViT" else UViTBert
    their_generator = kind(config)
    their_generator.load_state_dict(generator.state_dict(), strict=False)
    theirs.eval(), their_generator.eval()
    pixels, labels = models.images(1), torch.zeros(1, dtype=torch.int64)
    codes = tokenizer.encode(pixels)
    settings = {"guidance_scale": models.sampling["scale"], "guidance_decay": models.sampling["decay"]}
    settings |= {"randomize_temperature": models.sampling["temperature"], "softmax_temperature_annealing": True}
    settings |= {"num_sample_steps": models.sampling["num_steps"]}
    pairs = {
        "encode": (
            lambda: theirs.encode(pixels)[1]["min_encoding_indices"].view(1, -1),
            lambda: tokenizer.encode(pixels),
        ),
        "decode": (lambda: theirs.decode_tokens(codes), lambda: tokenizer.decode(codes)),
        "generate": (
            lambda: their_generator.generate(labels, **settings),
            lambda: generator.generate(labels, **models.sampling),
        ),
    }
    return [
        row(models, "original", name, {"the original": theirs_way, "original's way": rendering})
        for name, (theirs_way, rendering) in pairs.items()
    ]


SECTIONS: dict[str, Callable[[Models], list[Row]]] = {
    "tokenizer": tokenizer,
    "generate": generate,
    "images": images,
    "training": training,
    "preprocessing": preprocessing,
    "load": load,
    "growth": growth,
    "dit": dit,
    "original": original,
}
PARTS = {"one-case": one_case, "load-ours": load_ours, "load-original": load_original}
IMPORT = "import json, time; s = time.{}(); from titok_hf import TiTokPipeline; print(json.dumps(time.{}() - s))"


def shared_arguments(options: argparse.Namespace) -> list[str]:
    """The options that a process of one figure needs too."""
    names = ("model", "dtype", "device", "threads", "clock", "rounds", "seconds")
    return [f"--{name}={getattr(options, name)}" for name in names]


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="+", choices=[*SECTIONS, *PARTS, "all", "report"])
    parser.add_argument("--model", default="l32", choices=["l32", "b64", "s128", "tiny"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8], help="batch sizes of the comparisons")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each way, at most")
    parser.add_argument(
        "--seconds", type=float, default=60, help="of a row, after which no further round or larger size is measured"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--clock", default="wall", choices=list(CLOCKS))
    parser.add_argument("--out", type=Path, default=Path("docs/speed"), help="folder of the results")
    parser.add_argument("--original", type=Path, help="a checkout of bytedance/1d-tokenizer")
    parser.add_argument("--growth-batches", type=int, nargs="*", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--growth-tokens", type=int, nargs="*", default=[32, 64, 128, 256])
    parser.add_argument("--growth-sizes", type=int, nargs="*", default=[256, 512])
    parser.add_argument("--growth-steps", type=int, nargs="*", default=[1, 2, 4, 8, 16])
    one = parser.add_argument_group("of the processes that measure one figure")
    one.add_argument("--case-batch", type=int, default=1)
    one.add_argument("--tokens", type=int)
    one.add_argument("--image-size", type=int)
    one.add_argument("--steps", type=int, default=8)
    one.add_argument("--folder", type=Path)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Run the sections that were asked for."""
    import json

    options = parsed(arguments)
    torch.set_num_threads(options.threads)
    if options.sections[0] in PARTS:
        print(json.dumps(PARTS[options.sections[0]](options)))
        return
    names = list(SECTIONS) if "all" in options.sections else [name for name in options.sections if name in SECTIONS]
    models = Models(options)
    for name in names:
        print(f"{name} ...", flush=True)
        start = time.perf_counter()
        rows = SECTIONS[name](models)
        if rows:
            write(options.out, name, vars(options) | {"seconds of the section": time.perf_counter() - start}, rows)
    if {"all", "report"} & set(options.sections):
        from speed_report import report

        print(report(options.out))


if __name__ == "__main__":
    main()
