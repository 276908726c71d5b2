"""`titok-hf convert`: checkpoints of the original implementation to our format, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from ..checkpoints.locations import check_apart
from .console import answer, messages, report_errors
from .models import check_model, check_push
from .options import AsJson, with_bundled

if TYPE_CHECKING:
    from titok_hf.original.verification import Verification

Source = Annotated[
    str,
    typer.Argument(metavar="SOURCE", help="A weights file, a folder or a Hub id of the original.", show_default=False),
]
Output = Annotated[Path, typer.Option("--output", "-o", help="The folder to write.", show_default=False)]
Variant = Annotated[
    str | None,
    typer.Option("--variant", help='The released checkpoint in a weights file, such as "l32".', show_default=False),
]
Push = Annotated[
    str | None,
    typer.Option(
        "--push-to-hub",
        "--push",
        metavar="USER/NAME",
        help="Upload the folder to this Hub repository.",
        show_default=False,
    ),
]

app = typer.Typer(
    help="Convert checkpoints of the original implementation to our format, and back; each run verifies the result.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


def tokenizer(
    output: Output,
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[SOURCE]",
            help="A weights file, a folder or a Hub id of the original; with --all, a folder of weights files.",
            show_default=False,
        ),
    ] = None,
    variant: Variant = None,
    convert_all: Annotated[
        bool, typer.Option("--all", help="All released tokenizers: from the Hub, or single files from SOURCE.")
    ] = False,
    push: Push = None,
    as_json: AsJson = False,
) -> None:
    """
    Convert one tokenizer, or all, to folders with model, image processor and card. With --all,
    --push-to-hub takes a user.

    **Examples**

    `titok-hf convert tokenizer yucornetto/tokenizer_titok_l32_imagenet -o titok-l32`

    `titok-hf convert tokenizer tokenizer_titok_b64.bin --variant b64 -o titok-b64`

    `titok-hf convert tokenizer --all -o converted`
    """
    if convert_all and variant is not None:
        raise ValueError("--all converts every variant. Leave --variant out, or name one SOURCE.")
    if source is None and not convert_all:
        raise ValueError("Nothing to convert was named. Give a file, a folder or a Hub id, or --all.")
    if source is not None:
        _check(source, None if convert_all else output)
    check_push(f"{push}/titok-l32" if push and convert_all else push, "model")
    from titok_hf.original.conversion import convert_all_tokenizers, convert_tokenizer

    if convert_all or source is None:
        with messages.status("converting all tokenizers"):
            verifications = convert_all_tokenizers(output, source, push)
        _report(output, list(verifications.items()), as_json)
    else:
        with messages.status(f"converting {escape(source)}"):
            verification = convert_tokenizer(source, output, variant, push)
        _report(output, [(str(output), verification)], as_json)


def generator(
    source: Source,
    output: Output,
    with_tokenizer: Annotated[
        str | None,
        typer.Option("--tokenizer", help="Its original tokenizer, for a complete pipeline.", show_default=False),
    ] = None,
    variant: Variant = None,
    push: Push = None,
    as_json: AsJson = False,
) -> None:
    """
    Convert one generator; with --tokenizer, a complete pipeline that samples as the published benchmark.

    **Examples**

    `titok-hf convert generator yucornetto/generator_titok_l32_imagenet --tokenizer yucornetto/tokenizer_titok_l32_imagenet -o titok-l32`

    `titok-hf convert generator generator_titok_b64.bin --tokenizer tokenizer_titok_b64.bin --variant b64 -o titok-b64`
    """  # noqa: E501 - a command is one line
    for one in filter(None, (source, with_tokenizer)):
        _check(one, output)
    check_push(push, "model")
    from titok_hf.original.conversion import convert_generator

    with messages.status(f"converting {escape(source)}"):
        verifications = convert_generator(source, output, with_tokenizer, variant, push)
    _report(output, [(str(output), verification) for verification in verifications], as_json)


def vqgan(source: Source, output: Output, push: Push = None, as_json: AsJson = False) -> None:
    """
    Convert the MaskGIT-VQGAN, from its PyTorch or its Flax file.

    **Examples**

    `titok-hf convert vqgan maskgit-vqgan-imagenet-f16-256.bin -o maskgit-vqgan`

    `titok-hf convert vqgan tokenizer_imagenet256_checkpoint -o maskgit-vqgan`
    """
    _check(source, output)
    check_push(push, "model")
    from titok_hf.original.conversion import convert_vqgan

    with messages.status(f"converting {escape(source)}"):
        verification = convert_vqgan(source, output, push)
    _report(output, [(str(output), verification)], as_json)


def export(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A folder or a Hub id of a model of ours.",
            callback=with_bundled,
            show_default=False,
        ),
    ],
    output: Output,
    form: Annotated[
        str, typer.Option("--format", "--form", help="safetensors, bin or (MaskGIT-VQGAN) flax.")
    ] = "safetensors",
    as_json: AsJson = False,
) -> None:
    """
    Convert a tokenizer, a generator, a MaskGIT-VQGAN or a whole pipeline of ours to the original's format.

    **Examples**

    `titok-hf convert export my-titok -o for-the-original`
    """
    check_model(model, needs_folder=True)
    check_apart(output, model)
    from titok_hf.original.conversion import export_to_original

    with messages.status(f"exporting {escape(model)}"):
        verifications = export_to_original(model, output, form)
    _report(output, [(str(output), verification) for verification in verifications], as_json)


def _check(source: str, output: Path | None) -> None:
    """Check that a source is there, and that the output does not overwrite it."""
    check_model(source)
    if output is not None:
        check_apart(output, source)


def _report(output: Path, verifications: Sequence[tuple[str, Verification]], as_json: bool) -> None:
    """Print what was verified of each model, after its name."""
    values = {"folder": output, "verified": [{"name": name} | asdict(found) for name, found in verifications]}
    answer(values, as_json, *(escape(f"{name}: {found}") for name, found in verifications))


for command in (tokenizer, generator, vqgan, export):
    app.command()(report_errors(command))
