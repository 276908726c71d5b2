"""Command line of `titok_hf.evaluation.measure`: metrics as JSON, contact sheets beside it."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from pathlib import Path

import torch
from transformers import AutoModelForImageClassification

from titok_hf.pictures import write_atomically
from titok_hf.pipeline_titok import TiTokPipeline

from .measure import MeasureConfig, measure, measured_with


def main(arguments: list[str] | None = None) -> None:
    """Measures a model and writes what it found, with the command, the seed and the versions."""
    arguments = sys.argv[1:] if arguments is None else arguments
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
    options = vars(parser.parse_args(arguments))
    output, device = options.pop("output"), options.pop("device")
    pipeline = TiTokPipeline.from_pretrained(options.pop("model")).to(device)
    judge = AutoModelForImageClassification.from_pretrained(options.pop("judge")).to(device)
    config = MeasureConfig(**options)

    start = time.monotonic()
    measurement = measure(pipeline, judge, config)
    report = {
        "command": shlex.join(["python", "-m", "titok_hf.evaluation", *arguments]),
        "seed": config.seed,
        "seconds": round(time.monotonic() - start, 1),
        "device": torch.cuda.get_device_name() if torch.device(device).type == "cuda" else device,
        "versions": measured_with(),
        **measurement.metrics,
    }
    for name, picture in measurement.pictures.items():
        write_atomically(output.with_name(f"{output.stem}-{name}"), picture.save)
    write_atomically(output, (json.dumps(report, indent=2) + "\n").encode())
    print(json.dumps(measurement.metrics, indent=2))


if __name__ == "__main__":
    main()
