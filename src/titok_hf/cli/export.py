"""`titok-hf export`: a model as files for ONNX Runtime (also in browsers), OpenVINO or ExecuTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from .console import answer, bold, messages
from .models import load_pipeline, model_name
from .options import AsJson, OptionalModel

_PERCENT = ("codes_that_differ", "best_codes_that_differ")
_DECIBELS = ("decoded_psnr", "psnr_of_pytorch", "psnr")


def export(
    model: OptionalModel = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write.")] = Path("exported"),
    engine: Annotated[
        str, typer.Option("--format", help="The engine: onnx, openvino or executorch.", metavar="ENGINE")
    ] = "onnx",
    precisions: Annotated[
        list[str] | None,
        typer.Option(
            "--precision",
            help="fp32, fp16, bf16, int8 or q4, as the engine has it; may be repeated.",
            show_default="fp32",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """
    Export encoder, decoder and generator of MODEL, compare them with PyTorch, and state what each precision loses.

    Without MODEL it exports the model that comes with titok-hf. The other commands run an export: `--model FOLDER`.

    **Examples**

    `titok-hf export -o exported`

    `titok-hf export user/titok -o exported --format openvino --precision fp32 --precision int8`
    """
    precisions = list(dict.fromkeys(precisions or ["fp32"]))
    with messages.status("loading the engine"):
        from titok_hf.exported.engines import check_precision, engine_of

        chosen = engine_of(engine)
        for precision in precisions:
            check_precision(chosen, precision)
            chosen.check_installed(precision)
    pipe = load_pipeline(model, "cpu")
    with messages.status(f"exporting {escape(model_name(model))} to {chosen.title}"):
        from titok_hf.exported.export import export_pipeline

        losses = export_pipeline(pipe, output, engine, precisions, model_name(model))
    by_precision = dict(zip(precisions, losses, strict=True))
    values = {"folder": output, "engine": engine, "model": model_name(model), "losses": by_precision}
    answer(values, as_json, _table(by_precision), f"{chosen.title}, in {bold(output)}")


def _table(losses: dict[str, dict[str, Any]]) -> Table:
    """A column for each precision, a row for each loss."""
    table = Table("compared with PyTorch", *losses)
    for name in next(iter(losses.values())):
        table.add_row(name.replace("_", " "), *(_shown(name, each[name]) for each in losses.values()))
    return table


def _shown(name: str, value: Any) -> str:
    if value is None:
        return "equal"
    if name in _PERCENT:
        return f"{100 * value:.2f} %"
    if name in _DECIBELS:
        return f"{value:.2f} dB"
    return f"{value:.1e}" if isinstance(value, float) else str(value)
