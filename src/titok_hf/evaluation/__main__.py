"""Command line of `titok_hf.evaluation.measure`: metrics as JSON, contact sheets beside it."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from titok_hf.checkpoints.atomic_files import write_atomically

if TYPE_CHECKING:
    from .measure import Measurement


def main(arguments: list[str] | None = None) -> None:
    """Measures a model and writes what it found, with the command, the seed and the versions."""
    arguments = sys.argv[1:] if arguments is None else arguments
    arguments_of = parser()
    options = vars(arguments_of.parse_args(arguments))
    output = options.pop("output")
    if output.is_dir() or (output.parent.exists() and not os.access(output.parent, os.W_OK)):
        arguments_of.exit(2, f"{output} cannot be written. Name a JSON file in a folder that can.\n")
    command = shlex.join(["python", "-m", "titok_hf.evaluation", *arguments])
    try:
        measurement = _measure(**options)
    except (OSError, ValueError) as error:
        arguments_of.exit(2, f"{error}\n")
    for name, picture in measurement.pictures.items():
        write_atomically(output.with_name(f"{output.stem}-{name}"), picture.save)
    report = json.dumps({"command": command, **measurement.metrics}, indent=2)
    write_atomically(output, f"{report}\n".encode())
    print(report)


def parser() -> argparse.ArgumentParser:
    """What the command takes."""
    parser = argparse.ArgumentParser(prog="python -m titok_hf.evaluation", description="Measure a trained model.")
    parser.add_argument("--model", required=True, help="folder or Hub id of a TiTokPipeline")
    parser.add_argument("--judge", required=True, help="folder or Hub id of a classifier of the same data set")
    parser.add_argument("--data", required=True, help="folder or Hub id of the data set")
    parser.add_argument(
        "--resize-mode", choices=("pad", "resize"), default="pad", help="how images get the model's size"
    )
    parser.add_argument("--train-split", default="train")
    parser.add_argument("--test-split", default="test")
    parser.add_argument("--images-per-class", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, required=True, help="JSON file; the pictures are written beside it")
    return parser


def _measure(model: str, judge: str, device: str, **options: Any) -> Measurement:
    """Loads everything, measures, and puts what the numbers depend on in front of them."""
    # These import torch, which takes seconds, so that wrong arguments are refused before.
    import torch

    from titok_hf.pipeline_titok import TiTokPipeline

    from .frozen_classifier import load_classifier
    from .measure import MeasureConfig, Measurement, measure, measured_with

    config = MeasureConfig(**options)
    pipeline = TiTokPipeline.from_pretrained(model).to(device)
    judge_model = load_classifier(judge).to(device)
    start = time.monotonic()
    measurement = measure(pipeline, judge_model, config)
    conditions = {
        "seed": config.seed,
        "seconds": round(time.monotonic() - start, 1),
        "device": torch.cuda.get_device_name() if torch.device(device).type == "cuda" else device,
        "versions": measured_with(),
    }
    return Measurement(conditions | measurement.metrics, measurement.pictures)


if __name__ == "__main__":
    main()
