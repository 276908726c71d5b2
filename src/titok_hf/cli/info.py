"""`titok-hf info`: what a checkpoint is, read from its configuration files alone."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from .console import results
from .models import model_location, model_name

# What tells models apart; the rest of the configuration is in the files themselves and in --json.
_SHOWN = {
    "tokenizer": (
        "image_size patch_size num_latent_tokens quantizer codebook_size codebook_dim decoder_head "
        "encoder_hidden_size encoder_num_hidden_layers decoder_hidden_size decoder_num_hidden_layers"
    ).split(),
    "transformer": "architecture num_classes hidden_size num_hidden_layers num_attention_heads".split(),
}
_TITLES = {"tokenizer": "tokenizer", "transformer": "generator", "scheduler": "sampler"}


def info(
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="A folder or a Hub id.", show_default=False)
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, with every value of the configuration.")
    ] = False,
) -> None:
    """
    Show what a model is: sizes, codes, classes, and the sampler settings it was published with.

    **Examples**

    `titok-hf info`

    `titok-hf info user/titok --json`
    """
    from titok_hf.checkpoint_files import checkpoint_folder

    description = _describe(checkpoint_folder(model_location(model)))
    if as_json:
        typer.echo(json.dumps(description, indent=2))
        return
    table = Table("part", "what", "value", title=escape(model_name(model)))
    for part, title in _TITLES.items():
        configuration = description[part]
        if configuration is None:
            table.add_row(title, "-", "none", end_section=True)
            continue
        shown = _SHOWN.get(part, [name for name in configuration if not name.startswith("_")])
        rows = [(name, configuration[name]) for name in shown if name in configuration]
        if "num_parameters" in description["weights"].get(part, {}):
            rows.append(("parameters", f"{description['weights'][part]['num_parameters']:,}"))
            rows.append(("file size", f"{description['weights'][part]['bytes'] / 1e6:,.1f} MB"))
        for index, (name, value) in enumerate(rows):
            table.add_row(title if index == 0 else "", name, escape(str(value)), end_section=index == len(rows) - 1)
    classes = description["classes"]
    if classes:
        names = [name.split(",")[0] for name in classes.values()]
        shown_names = ", ".join(names[:10]) + (" ..." if len(names) > 10 else "")
        table.add_row("classes", str(len(names)), escape(shown_names))
    results.print(table)


def _describe(folder: Path) -> dict[str, Any]:
    """Everything that a pipeline folder says about itself, as JSON types."""
    from titok_hf.checkpoint_files import VERSION_KEY, read_index

    index = read_index(folder)
    description: dict[str, Any] = {"saved_by": index.get(VERSION_KEY), "classes": index.get("id2label")}
    description["weights"] = {}
    for part in _TITLES:
        component = index.get(part) or (None, None)
        description[part] = None if component[0] is None else _configuration(folder / part)
        if description[part] is not None and part != "scheduler":
            description["weights"][part] = _weights(folder / part)
    return description


def _configuration(folder: Path) -> dict[str, Any]:
    """A component's configuration, whatever its library calls the file."""
    for name in ("config.json", "scheduler_config.json"):
        if (folder / name).is_file():
            try:
                return json.loads((folder / name).read_text(encoding="utf-8"))
            except ValueError as error:
                raise OSError(
                    f"{folder / name} is damaged ({error}). Save or download the checkpoint again."
                ) from error
    raise FileNotFoundError(f"{folder} has no configuration file. Save or download the checkpoint again.")


def _weights(folder: Path) -> dict[str, int]:
    """Parameters and bytes of a component, from the headers of its safetensors files."""
    parameters = size = 0
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        parameters += sum(_product(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
        size += path.stat().st_size
    return {"num_parameters": parameters, "bytes": size}


def _product(shape: list[int]) -> int:
    product = 1
    for length in shape:
        product *= length
    return product


__all__ = ["info"]
