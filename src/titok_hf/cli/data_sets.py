"""Options and answers that the commands on data sets share."""

from __future__ import annotations

import glob
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.panel import Panel

from ..checkpoints.locations import check_location
from ..extras import check_extra
from .console import answer, bold
from .sources import check_push

if TYPE_CHECKING:
    from titok_hf.data.report import Report
    from titok_hf.data.shards import Part

_SHOWN_REMARKS = 5


class OnErrorChoice(Enum):
    """What to do with an image that cannot be used."""

    skip = "skip"
    stop = "stop"


class UnusualModesChoice(Enum):
    """What to do with an image whose mode is rare."""

    skip = "skip"
    scale = "scale"
    published = "published"


Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="A folder of images, Parquet files, webdataset shards (.tar) or the id of a Hub data set.",
        show_default=False,
    ),
]
Split = Annotated[str, typer.Option("--split", help="Name of the split.")]
ConfigName = Annotated[str | None, typer.Option("--config", help="Configuration of a Hub data set with several.")]
ImageColumn = Annotated[str | None, typer.Option("--image-column", help="By default the only column of images.")]
LabelColumn = Annotated[
    str | None, typer.Option("--label-column", help='By default the classes, if there are any; "none" for no labels.')
]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Use only so many images from the start.")]
Streaming = Annotated[bool, typer.Option("--streaming", help="Read the source as it comes, without a copy of it.")]
Workers = Annotated[
    int | None, typer.Option("--workers", min=0, help="Processes; 0 uses this one. By default one a processor.")
]
PartOption = Annotated[
    str | None, typer.Option("--part", metavar="I/N", help="Make the share I of N, for several machines: 0/4 ... 3/4.")
]
OnError = Annotated[
    OnErrorChoice, typer.Option("--on-error", help="Leave unusable images out and list them, or stop at the first.")
]
UnusualModes = Annotated[
    UnusualModesChoice,
    typer.Option(
        "--unusual-modes",
        help="CMYK and 16-bit files: leave out and list, convert (16 bits scaled to 8), or convert as published "
        "(for ImageNet; 16-bit grey turns white).",
    ),
]
Background = Annotated[
    str,
    typer.Option(
        "--background",
        metavar="COLOUR",
        help="Behind transparent pixels, by a name or number of CSS; none drops alpha, as published does.",
    ),
]
PushTo = Annotated[
    str | None,
    typer.Option("--push-to-hub", metavar="USER/NAME", help="Upload the data set when all its parts are complete."),
]


def check_before_work(source: str, output: Path, push_to_hub: str | None) -> None:
    """
    What can be known of a command on data sets before it begins.

    Raises:
        ValueError, OSError: a library that is missing, a source that is not there, an output that is the source or
            that `datasets` could not open, or a repository that cannot be pushed to.
    """
    check_extra("data", "datasets", "filelock", "fsspec", "pyarrow")
    if "://" not in source and not glob.glob(str(Path(source).expanduser())):
        check_location(source, "data source", needs_user=False)
    path = Path(source).expanduser()
    if path.exists() and not path.is_dir() and not path.is_file():
        raise ValueError(f"The data source {source} is neither a folder nor a file.")
    written, read = output.resolve(), Path(source).expanduser().resolve()
    if written == read or written in read.parents and read.exists():
        raise ValueError(f"{source} is the data source, and {output} would write into it. Choose another --output.")
    if set(str(written)) & set("*?[]"):
        raise ValueError(
            f"`load_dataset` reads the characters * ? [ ] in a path as a pattern, so it could not open "
            f"{str(written)!r}. Choose another --output."
        )
    check_push(push_to_hub, "dataset")


def part_of(text: str | None) -> Part | None:
    """The part that `--part` names, if it does."""
    from titok_hf.data.shards import Part

    return None if text is None else Part.from_text(text)


def is_complete(output: Path, split: str) -> bool:
    """Whether all parts of a split are there."""
    return (output / f"report-{split}.json").is_file()


def check_rows(report: Report, output: Path, split: str) -> None:
    """Raises ValueError if a split is complete and no row is left."""
    if report.num_rows == 0 and is_complete(output, split):
        first = f"; the first is {report.skipped[0]}" if report.skipped else ""
        raise ValueError(
            f"None of the {report.num_images:,} images can be used{first}. All of them are listed in "
            f"{output / f'report-{split}.json'}."
        )


def push_if_complete(output: Path, split: str, repo_id: str | None) -> str | None:
    """Uploads the data set to the repository that `--push-to-hub` names, once the split is there; its address."""
    if repo_id is None or not is_complete(output, split):
        return None
    from titok_hf.checkpoints.push import push_folder

    return push_folder(output, repo_id, message="Upload the data set").address


def show_report(report: Report, output: Path, split: str, address: str | None, as_json: bool) -> None:
    """Says what was made, what was left out, and where on the Hub it is, if it was pushed."""
    complete = is_complete(output, split)
    lines = [f"{report.num_rows:,} rows of {report.num_images:,} images, {report.num_bytes / 1e6:,.1f} MB"]
    lines.append(f"in {bold(output)}" if complete else f"in {bold(output)}; other parts are not complete yet")
    if report.converted:
        lines.append(f"{len(report.converted):,} of unusual modes were converted")
    if report.num_transparent:
        lines.append(f"{report.num_transparent:,} with transparent pixels were laid on the background")
    if report.no_labels:
        lines.append(f"no labels: {escape(report.no_labels)}")
    if report.unused:
        lines.append(f"not used of the source ({len(report.unused):,}):")
        lines += [f"  {escape(str(unused))}" for unused in report.unused[:_SHOWN_REMARKS]]
        lines += ["  ..."] * (len(report.unused) > _SHOWN_REMARKS)
    if report.skipped:
        lines.append(f"{len(report.skipped):,} left out:")
        lines += [f"  {escape(str(remark))}" for remark in report.skipped[:_SHOWN_REMARKS]]
        if len(report.skipped) > _SHOWN_REMARKS:
            lines.append("  ...")
    if complete and (report.skipped or report.converted or report.unused):
        lines.append(f"all of them: {bold(output / f'report-{split}.json')}")
    if address:
        lines.append(f"on the Hub: {escape(address)}")
    values = {"folder": output, "split": split, "complete": complete, "address": address, **report.as_dict()}
    answer(values, as_json, Panel.fit("\n".join(lines), title=split))


__all__ = [
    "Background",
    "ConfigName",
    "ImageColumn",
    "LabelColumn",
    "Limit",
    "OnError",
    "OnErrorChoice",
    "PartOption",
    "PushTo",
    "Source",
    "Split",
    "Streaming",
    "UnusualModes",
    "UnusualModesChoice",
    "Workers",
    "check_before_work",
    "check_rows",
    "is_complete",
    "part_of",
    "push_if_complete",
    "show_report",
]
