"""What exported models save: the parts of a model, and a class to an image, on each engine beside PyTorch.

    python benchmarks/engines.py --engines onnx openvino

As in `speed.py`: random weights, all ways by turns in one process with the same number of threads, ratios to the
original's way round by round, outputs compared. The export is written to `--folder`, and read from there again.
"""

import argparse
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from harness import CLOCKS, Row, write
from original_way import class_to_images
from speed_models import Models, row
from speed_report import report

from titok_hf import ExportedTiTokPipeline, TiTokPipeline
from titok_hf.exported.export import export_pipeline


def exported(pipe: TiTokPipeline, folder: Path, engine: str, precision: str) -> TiTokPipeline:
    """The export of a pipeline in a folder, which is written if it is not there."""
    try:
        loaded = ExportedTiTokPipeline.from_pretrained(folder, engine, precision)
    except (OSError, ValueError):
        start = time.perf_counter()
        losses = export_pipeline(pipe, folder, engine, [precision], "random weights")
        print(f"  {engine} {precision}: exported and compared in {time.perf_counter() - start:.0f} s: {losses[0]}")
        loaded = ExportedTiTokPipeline.from_pretrained(folder, engine, precision)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def engines(models: Models) -> list[Row]:
    """All parts at each batch size, on PyTorch and on each engine."""
    options = models.options
    pipes = {"pipeline": models.pipeline()}
    for name in options.engines:
        engine, _, precision = name.partition(":")
        precision = precision or "fp32"
        pipes[f"{engine} {precision}"] = exported(pipes["pipeline"], options.folder / options.model, engine, precision)
    return [line for batch in options.batch for line in engines_at(models, pipes, batch)]


def engines_at(models: Models, pipes: dict[str, TiTokPipeline], batch: int) -> list[Row]:
    """Encode, decode, generate and class -> image at one batch size."""
    tokenizer, generator = models.originals()
    images, labels = models.images(batch), torch.arange(batch)
    codes, classes = tokenizer.encode(images), labels.tolist()
    ways: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
        "encode": (lambda: tokenizer.encode(images), lambda pipe: pipe.encode(images, batch)),
        "decode": (lambda: tokenizer.decode(codes).clamp(0, 1), lambda pipe: pipe.decode(codes, "pt", batch)),
        "generate": (
            lambda: generator.generate(labels, **models.sampling),
            lambda pipe: pipe(classes, output_type="latent").codes,
        ),
        "class -> image": (
            lambda: class_to_images(generator, tokenizer, labels, **models.sampling),
            lambda pipe: (pipe(classes, output_type="pt").images * 255).permute(0, 2, 3, 1).to(torch.uint8),
        ),
    }
    rows = []
    for name, (original, ours) in ways.items():
        own = {way: partial(ours, pipe) for way, pipe in pipes.items()}
        each = {"original's way": original} | own
        rows.append(row(models, "engines", f"{name}, batch {batch}", each, batch=batch))
    return rows


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="l32", choices=["l32", "b64", "s128", "tiny"])
    parser.add_argument("--engines", nargs="*", default=["onnx", "openvino"], help='with a precision: "openvino:bf16"')
    parser.add_argument("--batch", type=int, nargs="+", default=[1])
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each way, at most")
    parser.add_argument("--seconds", type=float, default=60, help="of a row, after which no further round begins")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--clock", default="wall", choices=list(CLOCKS))
    parser.add_argument("--folder", type=Path, default=Path("build/engines"), help="for the exports")
    parser.add_argument("--out", type=Path, default=Path("docs/speed"), help="folder of the results")
    options = parser.parse_args(arguments)
    options.device, options.dtype = "cpu", "float32"
    torch.set_num_threads(options.threads)
    write(options.out, "engines", vars(options), engines(Models(options)))
    print(report(options.out))


if __name__ == "__main__":
    main()
