"""`titok-hf evaluate npz` and `compare`: published metrics of files of images, and two reports side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from ..checkpoints.atomic_files import write_atomically
from .console import answer, as_json_text, messages, progress_bar
from .images import check_can_be_written, check_inputs_stay
from .options import AsJson, BatchSize, Device

if TYPE_CHECKING:
    from titok_hf.evaluation.numbers import Report

Weights = Annotated[
    Path,
    typer.Option(
        "--weights",
        help="The file of Inception weights of torch-fidelity, weights-inception-2015-12-05-6726825d.pth.",
        show_default=False,
    ),
]


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
    from titok_hf.devices import default_device
    from titok_hf.evaluation.features import FeatureNetwork
    from titok_hf.evaluation.npz import NpzFile
    from titok_hf.evaluation.npz import compare as compare_files

    files = [NpzFile.open(path) for path in (samples, reference)]
    network = FeatureNetwork(weights, device or default_device())
    with progress_bar() as bar:
        task = bar.add_task("images", total=sum(file.shape[0] for file in files if file.shape))
        report = compare_files(samples, reference, network, batch_size, lambda count: bar.advance(task, count))
    show(report, output, as_json)


def compare(
    first: Annotated[Path, typer.Argument(metavar="FIRST", help="A report of an evaluation.", show_default=False)],
    second: Annotated[Path, typer.Argument(metavar="SECOND", help="Another one.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """
    Compare the numbers of two evaluations, as far as they were measured alike.

    Numbers that differ in what they depend on, such as the number of images, are named and not compared. If no number
    can be compared, the command fails.

    **Example**

    `titok-hf evaluate compare first.json second.json`
    """
    from titok_hf.evaluation.numbers import read_report

    numbers = [read_report(path).numbers for path in (first, second)]
    table = Table()
    for column in ("metric", first.name, second.name, "difference"):
        table.add_column(escape(column), justify="left" if column == "metric" else "right")
    differences: dict[str, float] = {}
    refused = []
    for name in (name for name in numbers[0] if name in numbers[1]):
        one, other = (each[name] for each in numbers)
        try:
            differences[name] = -one.minus(other)
        except ValueError as error:
            refused.append(str(error))
            continue
        table.add_row(one.title, f"{one.value:.4f}", f"{other.value:.4f}", f"{differences[name]:+.4f}")
    if not differences:
        raise ValueError(refused[0] if refused else f"{first} and {second} have no metric in common.")
    for text in refused:
        messages.print(f"[yellow]warning[/yellow] {escape(text)}")
    answer({"differences": differences, "not_compared": refused}, as_json, table)


def show(report: Report, output: Path | None, as_json: bool) -> None:
    """Print the numbers and what they depend on, and write both to a file if one is named."""
    values = report.as_dict()
    for warning in report.warnings:
        messages.print(f"[yellow]warning[/yellow] {escape(warning)}")
    if output is not None:
        write_atomically(output, (as_json_text(values) + "\n").encode())
    table = Table()
    table.add_column("metric")
    table.add_column("value", justify="right")
    for number in report.numbers.values():
        table.add_row(number.title, f"{number.value:.4f}")
    depends_on = {**values["convention"], **report.conditions}
    text = "\n".join(f"{name.replace('_', ' ')}: {value}" for name, value in depends_on.items())
    answer(values, as_json, *([table] if report.values else []), escape(text))


__all__ = ["compare", "npz", "show"]
