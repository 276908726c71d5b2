"""What exported models save: a class label to an image, and its parts, on each engine beside PyTorch.

    python benchmarks/engines.py --variant l32 --engines onnx openvino --rounds 5

The model has random weights. In each round every way runs once, in turn, in one process and with the same number of
threads; ratios are those of single rounds. "original" is the original implementation's way to compute the same, see
`original_way.py`. The images of all ways are compared. An export is written to --folder and read from there again.
"""

import argparse
import gc
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from original_way import Sampler, Tokenizer

from titok_hf import ExportedTiTokPipeline, MaskGitScheduler, MaskGitTransformer1DModel, TiTokConfig, TiTokModel
from titok_hf.exported.export import export_pipeline
from titok_hf.pipeline_titok import TiTokPipeline


def random_pipeline(variant: str) -> TiTokPipeline:
    """A pipeline of a published size with random weights, which are the same in every run."""
    torch.manual_seed(0)
    tokenizer = TiTokModel(TiTokConfig.from_variant(variant)).eval()
    transformer = MaskGitTransformer1DModel.from_variant(variant).eval()
    processor = TiTokPipeline.image_processor_class(size=tokenizer.config.image_size)
    return TiTokPipeline(tokenizer, processor, transformer, MaskGitScheduler.from_variant(variant))


def original(pipe: TiTokPipeline) -> dict[str, Callable[..., Any]]:
    """The parts, computed as the original does."""
    tokenizer, generator = Tokenizer.like(pipe.tokenizer), Sampler.like(pipe.transformer)
    scheduler = pipe.scheduler.config
    settings = {"num_steps": scheduler.num_inference_steps, "temperature": scheduler.temperature}
    settings["scale"] = scheduler.guidance_scale - (scheduler.guidance_schedule != "power-cosine")
    settings["decay"] = scheduler.guidance_schedule
    return {
        "encode": lambda pixels, labels, codes: tokenizer.encode(pixels),
        "decode": lambda pixels, labels, codes: tokenizer.decode(codes).clamp(0, 1),
        "generate": lambda pixels, labels, codes: generator.generate(labels, **settings),
        "class -> image": lambda pixels, labels, codes: tokenizer.decode(generator.generate(labels, **settings)).clamp(
            0, 1
        ),
    }


def package(pipe: TiTokPipeline) -> dict[str, Callable[..., Any]]:
    """The parts, computed by a pipeline of this package, exported or not."""
    pipe.set_progress_bar_config(disable=True)
    return {
        "encode": lambda pixels, labels, codes: pipe.encode(pixels),
        "decode": lambda pixels, labels, codes: pipe.decode(codes, output_type="pt"),
        "generate": lambda pixels, labels, codes: pipe(labels.tolist(), output_type="latent").codes,
        "class -> image": lambda pixels, labels, codes: pipe(labels.tolist(), output_type="pt").images,
    }


def exported(pipe: TiTokPipeline, folder: Path, engine: str, precision: str) -> TiTokPipeline:
    """The export of a pipeline in a folder, which is written if it is not there."""
    try:
        return ExportedTiTokPipeline.from_pretrained(folder, engine, precision)
    except (OSError, ValueError):
        start = time.perf_counter()
        losses = export_pipeline(pipe, folder, engine, [precision], "random weights")
        print(f"{engine} {precision}: exported and compared in {time.perf_counter() - start:.0f} s: {losses[0]}")
        return ExportedTiTokPipeline.from_pretrained(folder, engine, precision)


@torch.no_grad()
def measure(ways: dict[str, dict[str, Callable]], parts: list[str], rounds: int, config: Any, batch_size: int) -> None:
    """Alternate between the ways, and print the seconds and the ratios to the first way."""
    rng = torch.Generator().manual_seed(0)
    pixels = torch.rand(batch_size, 3, config.image_size, config.image_size, generator=rng)
    codes = torch.randint(config.codebook_size, (batch_size, config.num_latent_tokens), generator=rng)
    labels = torch.arange(batch_size)
    for part in parts:
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        outputs = {}
        for turn in range(rounds + 1):
            for name, functions in ways.items():
                torch.manual_seed(turn)
                start = time.perf_counter()
                outputs[name] = functions[part](pixels, labels, codes)
                if turn:  # the first round opens programs and fills caches
                    seconds[name].append(time.perf_counter() - start)
        base = next(iter(ways))
        for name in ways:
            ratios = [one / other for one, other in zip(seconds[base], seconds[name], strict=True)]
            difference = (outputs[base].double() - outputs[name].double()).abs().max().item()
            print(
                f"{part:15} {name:16} median {1000 * statistics.median(seconds[name]):8.0f} ms, ratio to {base} "
                f"{min(ratios):.2f} / {statistics.median(ratios):.2f} / {max(ratios):.2f}, "
                f"largest difference {difference:.1e}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="l32", choices=["l32", "b64", "s128"])
    parser.add_argument("--engines", nargs="*", default=["onnx", "openvino"], help='with a precision: "openvino:bf16"')
    parser.add_argument("--parts", nargs="*", default=["encode", "decode", "generate", "class -> image"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path("build/engines"), help="for the exports")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--only-export", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    pipe = random_pipeline(arguments.variant)
    names = [(engine.partition(":")[0], engine.partition(":")[2] or "fp32") for engine in arguments.engines]
    engines = {
        f"{engine} {precision}": exported(pipe, arguments.folder / arguments.variant, engine, precision)
        for engine, precision in names
    }
    if arguments.only_export:
        return
    ways = {"original": original(pipe), "PyTorch": package(pipe)}
    ways |= {name: package(each) for name, each in engines.items()}
    gc.collect()
    print(f"{arguments.variant}, batch {arguments.batch_size}, {arguments.threads} threads, {arguments.rounds} rounds")
    measure(ways, arguments.parts, arguments.rounds, pipe.tokenizer.config, arguments.batch_size)


if __name__ == "__main__":
    main()
