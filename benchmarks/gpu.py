"""Images a second of class -> image, and a training step, on one GPU in under ten minutes.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --variants l32 --batch 1 64
    python benchmarks/gpu.py --device cpu --model tiny       # a trial of the script itself

For the sizes of L-32, B-64 and S-128 with random weights in bfloat16: the package eager, the package with a compiled
generator and decoder (`torch.compile`, whose mode "reduce-overhead" captures the generator's step once as a CUDA graph
that all steps reuse), and the original's way. The paper's figures on an A100 stand beside them. First it checks that
codes in float32 equal those of the CPU. It stops before a case when the time is up, and says so.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from harness import Row, race, write
from original_way import class_to_images
from speed import parsed, training
from speed_models import Models

from titok_hf import TiTokPipeline

# Images a second of the paper (arXiv 2406.07550, table 1), on an A100.
PAPER = {"l32": 101.6, "b64": 89.8, "s128": 7.8}


def compile_models(pipe: TiTokPipeline) -> None:
    """Compiles the generator's step and the decoder in place; a first call of each batch size compiles."""
    mode = "reduce-overhead" if pipe.device.type == "cuda" else "default"
    pipe.transformer.compile(mode=mode, dynamic=False)
    pipe.tokenizer.decoder.compile(dynamic=False)
    if pipe.tokenizer.pixel_decoder is not None:
        pipe.tokenizer.pixel_decoder.compile(dynamic=False)


def uncompiled(pipe: TiTokPipeline) -> None:
    """Undoes [`compile_models`]."""
    torch.compiler.reset()
    for module in (pipe.transformer, pipe.tokenizer.decoder, pipe.tokenizer.pixel_decoder):
        if module is not None:
            module._compiled_call_impl = None


def images_per_second(models: Models, batch: int, rounds: int) -> Row:
    """One batch size: the original's way, eager and compiled."""
    pipe, (tokenizer, generator) = models.pipeline(), models.originals()
    labels = torch.arange(batch, device=models.device) % pipe.transformer.config.num_classes

    def ours() -> torch.Tensor:
        return (pipe(labels.tolist(), output_type="pt").images * 255).to("cpu", torch.uint8)

    def theirs() -> torch.Tensor:
        return class_to_images(generator, tokenizer, labels, **models.sampling)

    eager: dict[str, Callable[[], Any]] = {"original's way": theirs, "eager": ours}
    with torch.inference_mode():
        seconds = race(eager, rounds, device=models.device)
    with torch.no_grad():
        compile_models(pipe)
        ours()  # compiles
        seconds |= race({"compiled": ours}, rounds, device=models.device)
        uncompiled(pipe)
    values: dict[str, Any] = {"batch": batch, "paper, images a second": PAPER[models.variant]}
    for way, times in seconds.items():
        values[f"images a second, {way}"] = batch / statistics.median(times)
    return Row("gpu", f"{models.variant}, class -> image, batch {batch}", seconds, values)


def codes_equal_the_cpu(options: argparse.Namespace, variant: str) -> Row:
    """Codes of images in float32, on the device and on the CPU."""
    models = models_of(options, variant, "float32")
    tokenizer = models.tokenizer()
    size = tokenizer.config.image_size
    pixels = torch.rand(4, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        there = tokenizer.encode(pixels.to(models.device)).codes.cpu()
        here = tokenizer.to("cpu").encode(pixels).codes
    return Row(
        "gpu", f"{variant}, float32 codes", {}, {"share equal to the CPU": (there == here).float().mean().item()}
    )


def models_of(options: argparse.Namespace, variant: str, dtype: str) -> Models:
    """The models of one size."""
    name = "tiny" if options.model == "tiny" else variant
    arguments = ["images", "--model", name, "--device", options.device, "--dtype", dtype]
    arguments += ["--rounds", str(options.rounds), "--batch", *map(str, options.batch), "--threads", "4"]
    return Models(parsed(arguments))


def main(arguments: list[str] | None = None) -> None:
    """All cases in order of their importance, until the time is up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--model", default="published", choices=["published", "tiny"])
    parser.add_argument("--variants", nargs="+", default=["l32", "b64", "s128"], choices=list(PAPER))
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 64, 256])
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=9, help="no case begins after this time")
    parser.add_argument("--out", type=Path, default=Path("docs/speed"))
    options = parser.parse_args(arguments)
    if torch.device(options.device).type == "cuda" and not torch.cuda.is_available():
        parser.error("this machine has no CUDA device; --device cpu --model tiny tries the script")
    torch.set_float32_matmul_precision("highest")  # codes are compared with the CPU's
    end = time.monotonic() + 60 * options.minutes
    variants = options.variants[:1] if options.model == "tiny" else options.variants
    rows, left_out = [codes_equal_the_cpu(options, variants[0])], []
    rows += training(models_of(options, variants[0], options.dtype))
    for variant in variants:
        models = models_of(options, variant, options.dtype)
        for batch in options.batch:
            if time.monotonic() > end:
                left_out.append(f"{variant}, batch {batch}")
                continue
            rows.append(images_per_second(models, batch, options.rounds))
            print(rows[-1].name, json.dumps(rows[-1].values), flush=True)
    settings = vars(options) | {"left out, no time": left_out}
    print(json.dumps(rows[0].values), f"left out for want of time: {left_out}" if left_out else "")
    print(write(options.out, "gpu", settings, rows))


if __name__ == "__main__":
    main()
