"""Options and answers that the commands on data sets share."""

from __future__ import annotations

import functools
import glob
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer
from rich.markup import escape
from rich.panel import Panel

from ..checkpoints.locations import check_location
from ..extras import check_extra
from .console import answer, bold, progress_bar
from .options import AsJson
from .sources import check_push

if TYPE_CHECKING:
    from titok_hf.data.report import Report

_EXAMPLES_SHOWN = 5

Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="A folder of images, Parquet files, webdataset shards (.tar) or the id of a Hub data set.",
        show_default=False,
    ),
]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder of the new data set.")]


@dataclass(frozen=True)
class DataSetOptions:
    """The options that `prepare` and `pretokenize` share; `shares_options` adds them to a command."""

    exif: Annotated[
        bool, typer.Option("--exif/--ignore-exif", help="Turn images upright. The published transform does not.")
    ] = True
    unusual_modes: Annotated[
        Literal["skip", "scale", "published"],
        typer.Option(
            help="CMYK and 16-bit files: leave out and list, convert (16 bits scaled to 8), or convert as published "
            "(for ImageNet; 16-bit grey turns white)."
        ),
    ] = "skip"
    background: Annotated[
        str,
        typer.Option(
            metavar="COLOUR",
            help="Behind transparent pixels, by a name or number of CSS; none drops alpha, as published does.",
        ),
    ] = "white"
    split: Annotated[str, typer.Option(help="Name of the split.")] = "train"
    config_name: Annotated[
        str | None, typer.Option("--config", help="Configuration of a Hub data set with several.")
    ] = None
    image_column: Annotated[str | None, typer.Option(help="By default the only column of images.")] = None
    label_column: Annotated[
        str | None, typer.Option(help='By default the classes, if there are any; "none" for no labels.')
    ] = None
    limit: Annotated[int | None, typer.Option(min=1, help="Use only so many images from the start.")] = None
    streaming: Annotated[bool, typer.Option("--streaming", help="Read the source as a stream, without a copy.")] = (
        False
    )
    shard_size: Annotated[int, typer.Option(min=1, help="Images of the source in one shard.")] = 10_000
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes; 0 uses this one. By default one per processor.")
    ] = None
    part: Annotated[
        str | None,
        typer.Option("--part", metavar="I/N", help="Make the share I of N, for several machines: 0/4 ... 3/4."),
    ] = None
    on_error: Annotated[
        Literal["skip", "stop"], typer.Option(help="Leave unusable images out and list them, or stop at the first.")
    ] = "skip"
    push_to_hub: Annotated[
        str | None,
        typer.Option(metavar="USER/NAME", help="Upload the data set when all its parts are complete."),
    ] = None
    as_json: AsJson = False

    def reading(self) -> dict[str, Any]:
        """Keywords of `ReadingSettings`."""
        return {
            "exif_transpose": self.exif,
            "unusual_modes": self.unusual_modes,
            "background": self.background,
            "shard_size": self.shard_size,
        }

    def make(self, make_split: Callable[..., Report], output: Path, what: str) -> None:
        """Makes the split with a progress bar, pushes it if that is wanted, and shows the report."""
        from titok_hf.data.shards import Part

        names = ("split", "config_name", "image_column", "label_column", "limit", "streaming", "workers", "on_error")
        options = {name: getattr(self, name) for name in names}
        options["part"] = None if self.part is None else Part.from_text(self.part)
        with progress_bar() as bar:
            task = bar.add_task(what, total=self.limit)
            report = make_split(**options, progress=lambda num_images: bar.advance(task, num_images))
        if report.num_rows == 0 and is_complete(output, self.split):
            first = f"; the first is {report.skipped[0]}" if report.skipped else ""
            raise ValueError(
                f"None of the {report.num_images:,} images can be used{first}. All of them are listed in "
                f"{output / f'report-{self.split}.json'}."
            )
        address = push_if_complete(output, self.split, self.push_to_hub)
        show_report(report, output, self.split, address, self.as_json)


def shares_options(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose keyword `options` takes [`DataSetOptions`]: each of its fields becomes an option."""
    own = get_type_hints(command, include_extras=True)
    shared = get_type_hints(DataSetOptions, include_extras=True)
    names = [field.name for field in fields(DataSetOptions)]

    @functools.wraps(command)
    def with_options(**values: Any) -> None:
        options = DataSetOptions(**{name: values.pop(name) for name in names})
        command(**values, options=options)

    parameters = [
        parameter.replace(annotation=own[name], kind=inspect.Parameter.KEYWORD_ONLY)
        for name, parameter in inspect.signature(command).parameters.items()
        if name != "options"
    ]
    parameters += [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=shared[field.name]
        )
        for field in fields(DataSetOptions)
    ]
    with_options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer reads both
    with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return with_options


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


def is_complete(output: Path, split: str) -> bool:
    """Whether all parts of a split are there."""
    return (output / f"report-{split}.json").is_file()


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
        lines += [f"  {escape(str(unused))}" for unused in report.unused[:_EXAMPLES_SHOWN]]
        lines += ["  ..."] * (len(report.unused) > _EXAMPLES_SHOWN)
    if report.skipped:
        lines.append(f"{len(report.skipped):,} left out:")
        lines += [f"  {escape(str(image))}" for image in report.skipped[:_EXAMPLES_SHOWN]]
        if len(report.skipped) > _EXAMPLES_SHOWN:
            lines.append("  ...")
    if complete and (report.skipped or report.converted or report.unused):
        lines.append(f"all of them: {bold(output / f'report-{split}.json')}")
    if address:
        lines.append(f"on the Hub: {escape(address)}")
    values = {"folder": output, "split": split, "complete": complete, "address": address, **report.as_dict()}
    answer(values, as_json, Panel.fit("\n".join(lines), title=split))


__all__ = ["DataSetOptions", "Output", "Source", "check_before_work", "shares_options"]
