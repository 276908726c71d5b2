"""`titok-hf evaluate`: published metrics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from ..checkpoints.atomic_files import write_atomically
from .console import answer, messages, progress_bar, report_errors
from .images import check_can_be_written, check_inputs_stay
from .options import AsJson, BatchSize, Device

_NAMES = {
    "fid": "FID",
    "sfid": "sFID",
    "inception_score": "Inception score",
    "inception_score_std": "Inception score, std over blocks",
    "precision": "precision",
    "recall": "recall",
}

Weights = Annotated[
    Path,
    typer.Option(
        "--weights",
        help="The file of Inception weights of torch-fidelity, weights-inception-2015-12-05-6726825d.pth.",
        show_default=False,
    ),
]

app = typer.Typer(help="Published metrics.", no_args_is_help=True, rich_markup_mode="markdown")


def npz(
    samples: Annotated[
        Path,
        typer.Argument(metavar="SAMPLES", help="An npz file of generated images, uint8, arr_0.", show_default=False),
    ],
    reference: Annotated[
        Path,
        typer.Argument(
            metavar="REFERENCE",
            help="An npz file of real images, or of their statistics mu, sigma, mu_s and sigma_s.",
            show_default=False,
        ),
    ],
    weights: Weights,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the numbers to this JSON file.", show_default=False)
    ] = None,
    batch_size: BatchSize = 64,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """
    Compare two npz files in the layout of ADM: FID, sFID, Inception score, precision and recall as published.

    The numbers follow ADM's evaluator, by which the results of TiTok and other generators were computed. Each is
    printed with what it depends on.

    **Example**

    `titok-hf evaluate npz samples.npz VIRTUAL_imagenet256_labeled.npz --weights inception.pth`
    """
    if output is not None:
        check_inputs_stay([output], [samples, reference, weights])
        check_can_be_written(output)
    import torch

    from titok_hf.devices import default_device
    from titok_hf.evaluation.inception import load_inception, weights_digest
    from titok_hf.evaluation.npz import NpzFile, compare

    files = [NpzFile.open(path) for path in (samples, reference)]
    network = load_inception(weights)
    try:
        network.to(device or default_device())
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {device!r} cannot be used here: {error}. Try --device cpu.") from error
    with progress_bar() as bar:
        task = bar.add_task("images", total=sum(file.shape[0] for file in files if file.shape))
        found = compare(samples, reference, network, batch_size, lambda count: bar.advance(task, count))
    convention = found.convention | {
        "samples": samples.name,
        "reference": reference.name,
        "network": f"Inception of TensorFlow 2015-12-05, weights {weights_digest(weights)}",
        "torch": torch.__version__,
    }
    _report(found.metrics, convention, found.warnings, output, as_json)


def _report(
    metrics: dict[str, float], convention: dict[str, Any], warnings: list[str], output: Path | None, as_json: bool
) -> None:
    """Print the numbers and what they depend on, and write both to a file if one is named."""
    values = metrics | {"convention": convention, "warnings": warnings}
    for warning in warnings:
        messages.print(f"[yellow]warning[/yellow] {escape(warning)}")
    if output is not None:
        write_atomically(output, (json.dumps(values, indent=2) + "\n").encode())
    table = Table()
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name, value in metrics.items():
        table.add_row(_NAMES[name], f"{value:.4f}")
    text = "\n".join(f"{name.replace('_', ' ')}: {value}" for name, value in convention.items())
    answer(values, as_json, table, escape(text))


@app.callback()
def _group() -> None:
    """Published metrics."""


app.command()(report_errors(npz))

__all__ = ["app"]
