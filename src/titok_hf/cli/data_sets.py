"""`titok-hf prepare` and `titok-hf pretokenize`: any data set of images as a data set of crops, or of codes."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape
from rich.panel import Panel

from ..checkpoints.locations import check_apart, check_location
from ..extras import check_extra
from .console import answer, bold, messages, progress_bar
from .models import check_model, check_push, model_location
from .options import AsJson, BatchSize, Device, Model
from .shared_options import shares_options

if TYPE_CHECKING:
    from titok_hf.data.report import Report

_EXAMPLES_SHOWN = 5
_PRECISIONS: dict[str, Literal["fp32", "bf16"]] = {"float32": "fp32", "bfloat16": "bf16"}

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
            help="Colour behind transparent pixels, by its CSS name or number; none drops alpha, as published.",
        ),
    ] = "white"
    split: Annotated[str, typer.Option(help="Name of the split.")] = "train"
    config_name: Annotated[
        str | None, typer.Option("--config", help="Configuration of a Hub data set with several.")
    ] = None
    image_column: Annotated[str | None, typer.Option(help="Column of the images. By default the only one.")] = None
    label_column: Annotated[
        str | None, typer.Option(help='Column of the classes. By default the one that there is; "none" for no labels.')
    ] = None
    limit: Annotated[int | None, typer.Option(min=1, help="Use only so many images from the start.")] = None
    streaming: Annotated[bool, typer.Option("--streaming", help="Read the source as a stream, without a copy.")] = (
        False
    )
    shard_size: Annotated[int, typer.Option(min=1, help="Images of the source in one shard.")] = 10_000
    workers: Annotated[
        int | None,
        typer.Option(min=0, help="Number of processes; 0 uses the main one. By default one for each processor."),
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

    def settings(self, cls: Callable[..., Any], **own: Any) -> Any:
        """The settings of `prepare` or of `pretokenize`: those of the command's own options, and those shared here."""
        shared = {"unusual_modes": self.unusual_modes, "background": self.background, "shard_size": self.shard_size}
        return cls(exif_transpose=self.exif, **shared, **own)

    def make(self, make_split: Callable[..., Report], output: Path, what: str) -> None:
        """Make the split with a progress bar, push it if that is wanted, and show the report."""
        from titok_hf.data.shards import Part

        names = ("split", "config_name", "image_column", "label_column", "limit", "streaming", "workers", "on_error")
        options = {name: getattr(self, name) for name in names}
        options["part"] = None if self.part is None else Part.from_text(self.part)
        with progress_bar() as bar:
            task = bar.add_task(what, total=self.limit)
            report = make_split(**options, progress=lambda num_images: bar.advance(task, num_images))
        report_file = output / f"report-{self.split}.json"
        is_complete = report_file.is_file()  # else other machines have not made their parts yet
        if report.num_rows == 0 and is_complete:
            first = f"; the first is {report.skipped[0]}" if report.skipped else ""
            raise ValueError(
                f"None of the {report.num_images:,} images can be used{first}. All are listed in {report_file}."
            )
        address = None
        if self.push_to_hub is not None and is_complete:
            from titok_hf.checkpoints.push import push_folder

            address = push_folder(output, self.push_to_hub, message="Upload the data set").address
        lines = _summary(report, output, is_complete)
        if is_complete and (report.skipped or report.converted or report.unused):
            lines.append(f"all of them: {bold(report_file)}")
        if address:
            lines.append(f"on the Hub: {escape(address)}")
        values = {"folder": output, "split": self.split, "complete": is_complete, "address": address}
        answer(values | report.as_dict(), self.as_json, Panel.fit("\n".join(lines), title=self.split))


def check_before_work(source: str, output: Path, push_to_hub: str | None) -> None:
    """
    Check what can be checked before the work of a command on data sets begins.

    Raises:
        ValueError, OSError: a library or the source is missing, the output is the source or lies above it, `datasets`
            could not open the output, or the repository cannot be pushed to.
    """
    check_extra("data", "datasets", "filelock", "fsspec", "pyarrow")
    if "://" not in source and not glob.glob(str(Path(source).expanduser())):
        check_location(source, "data source", needs_user=False)
    path = Path(source).expanduser()
    if path.exists() and not path.is_dir() and not path.is_file():
        raise ValueError(f"The data source {source} is neither a folder nor a file.")
    check_apart(output, path)
    if set(str(output.resolve())) & set("*?[]"):
        raise ValueError(
            f"`load_dataset` reads the characters * ? [ ] in a path as a pattern, so it could not open "
            f"{str(output.resolve())!r}. Choose another --output."
        )
    check_push(push_to_hub, "dataset")


def _summary(report: Report, output: Path, is_complete: bool) -> list[str]:
    """What was made and what was left out, in lines of Rich markup."""
    lines = [f"{report.num_rows:,} rows of {report.num_images:,} images, {report.num_bytes / 1e6:,.1f} MB"]
    lines.append(f"in {bold(output)}" if is_complete else f"in {bold(output)}; other parts are not complete yet")
    if report.converted:
        lines.append(f"{len(report.converted):,} of unusual modes were converted")
    if report.num_transparent:
        lines.append(f"{report.num_transparent:,} with transparent pixels were laid on the background")
    if report.no_labels:
        lines.append(f"no labels: {escape(report.no_labels)}")
    for entries, title in ((report.unused, "not used of the source ({:,}):"), (report.skipped, "{:,} left out:")):
        if entries:
            lines.append(title.format(len(entries)))
            lines += [f"  {escape(str(entry))}" for entry in entries[:_EXAMPLES_SHOWN]]
            lines += ["  ..."] * (len(entries) > _EXAMPLES_SHOWN)
    return lines


@shares_options(DataSetOptions)
def prepare(
    source: Source,
    output: Output,
    image_size: Annotated[int, typer.Option("--size", min=1, help="Height and width of the crops, in pixels.")] = 256,
    crop: Annotated[
        Literal["center", "adm", "none"],
        typer.Option(help="The published evaluation crop, ADM's, or none (for random crops in training)."),
    ] = "center",
    image_format: Annotated[
        Literal["jpg", "png", "webp"], typer.Option("--format", help="Format of the stored images.")
    ] = "jpg",
    quality: Annotated[int, typer.Option(min=1, max=100, help="Quality of JPEG and WebP.")] = 95,
    enlarge: Annotated[bool, typer.Option(help="Enlarge small images, or give them black margins.")] = True,
    fast_jpeg: Annotated[
        bool, typer.Option("--fast-jpeg", help="Decode large JPEGs at reduced size: faster, other pixels.")
    ] = False,
    *,
    options: DataSetOptions,
) -> None:
    """Make a data set of square crops, ready for training, from any data set of images."""
    check_before_work(source, output, options.push_to_hub)
    if image_format == "png" and quality != 95:
        raise ValueError(
            "--quality is for JPEG and WebP, and PNG keeps every pixel. Leave it out, or change --format."
        )
    from titok_hf.data.prepare import PrepareSettings
    from titok_hf.data.prepare import prepare as prepare_split
    from titok_hf.data.sources import silence_loading

    silence_loading()
    own = {"image_size": image_size, "crop": crop, "image_format": image_format, "quality": quality}
    settings = options.settings(PrepareSettings, enlarge=enlarge, fast_jpeg=fast_jpeg, **own)
    options.make(partial(prepare_split, source, output, settings), output, "preparing")


@shares_options(DataSetOptions)
def pretokenize(
    source: Source,
    output: Output,
    model: Model = None,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of a Hub model. By default main.")
    ] = None,
    views: Annotated[
        Literal["center", "flip", "ten-crop", "random"],
        typer.Option(help="Centre; centre and mirror image; ten crops at 1.1 times the size; random crops."),
    ] = "center",
    num_views: Annotated[int, typer.Option(min=1, help="Random crops per image.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the random crops.")] = 0,
    min_crop_area: Annotated[float, typer.Option(help="Least share of the image in a random crop.")] = 0.8,
    crop: Annotated[
        Literal["center", "adm"], typer.Option(help="The published evaluation crop, or ADM's.")
    ] = "center",
    image_size: Annotated[
        int | None,
        typer.Option("--size", min=1, help="Height and width of the images, for a MaskGIT-VQGAN. By default 256."),
    ] = None,
    dtype: Annotated[
        Literal["float32", "bfloat16"],
        typer.Option("--dtype", help="Precision of weights and computation. Half precision is for accelerators."),
    ] = "float32",
    precision: Annotated[Literal["fp32", "bf16"] | None, typer.Option("--precision", hidden=True)] = None,
    batch_size: BatchSize = 32,
    device: Device = None,
    *,
    options: DataSetOptions,
) -> None:
    """Make a data set of codes, for the training of a generator, from any data set of images."""
    check_before_work(source, output, options.push_to_hub)
    check_model(model, revision)
    if precision is None:
        precision = _PRECISIONS[dtype]
    else:  # an earlier name of the option
        messages.print(f"[yellow]warning[/yellow] --precision {precision} is now called --dtype.")
    random_options = {"--num-views": num_views != 1, "--seed": seed != 0, "--min-crop-area": min_crop_area != 0.8}
    unused = [option for option, is_given in random_options.items() if is_given]
    if views != "random" and unused:
        raise ValueError(f"{unused[0]} is for random crops, and the views are {views!r}. Use --views random.")
    from titok_hf.data.encoders import ImageEncoder
    from titok_hf.data.pretokenize import PretokenizeSettings
    from titok_hf.data.pretokenize import pretokenize as pretokenize_split
    from titok_hf.data.sources import silence_loading
    from titok_hf.devices import default_device

    silence_loading()
    # Under a launcher, the GPU of this process.
    device = device or default_device(local_rank=int(os.environ.get("LOCAL_RANK", 0)))
    encoder = ImageEncoder(model_location(model), revision, precision, device, batch_size, image_size)
    own = {"views": views.replace("-", "_"), "num_views": num_views, "seed": seed, "min_crop_area": min_crop_area}
    settings = options.settings(PretokenizeSettings, crop=crop, **own)
    options.make(partial(pretokenize_split, source, output, encoder, settings), output, "encoding")
