"""Opens a source of any kind; finds its digest, which of its files are not used, and why it has no labels."""

import glob
import json
import os
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, Features, Image, IterableDataset, load_dataset, load_dataset_builder
from datasets import load_from_disk as load_saved
from datasets.exceptions import DatasetsError
from datasets.packaged_modules.webdataset.webdataset import WebDataset
from huggingface_hub import HfFileSystem
from huggingface_hub.repocard import metadata_load
from yaml import YAMLError

from ..checkpoints.locations import may_be_hub_id
from .columns import NO_LABELS, label_column, with_image_columns, with_numbered_labels
from .decoding import reason_of
from .folder_listing import TAR_SUFFIXES, FolderListing, listing_digest, suffix_of
from .idx_files import is_idx_folder, load_idx_folder
from .image_folders import check_split, file_splits, folder_splits, lies_in, read_image_folder
from .report import Unused
from .tar_files import open_tar_files

# A folder without images, Parquet and tar files, but with one of these, is opened by `datasets`.
_OTHER_DATA = (".arrow", ".json", ".jsonl", ".csv")


@dataclass
class Opened:
    """
    A split of a source.

    Args:
        dataset: map-style or streaming.
        digest: of the names and sizes of its files; None if they are not known.
        unused: files and folders of the source that are not used.
        no_labels: why a folder of images has no labels.
        single_class: name of the one folder that holds all images.
        others: opens the other splits, whose labels are numbered together with those of this split.
        name: what records call the source: for a path, its last part.
        folder: that holds the files; None if they are not on this machine.
    """

    dataset: Dataset | IterableDataset
    digest: str | None = None
    unused: list[Unused] = field(default_factory=list)
    no_labels: str | None = None
    single_class: str | None = None
    others: Callable[[str], Iterable[Dataset]] = lambda column: ()
    name: str | None = None
    folder: Path | None = None


@dataclass(frozen=True)
class _Request:
    source: str
    split: str
    config_name: str | None
    streaming: bool
    labels: str | None


def open_source(
    source: str | os.PathLike | Dataset | IterableDataset,
    split: str,
    config_name: str | None = None,
    streaming: bool = False,
    labels: str | None = None,
) -> Opened:
    """
    Opens a source; see `open_dataset`.

    Args:
        source: an open data set is used as it is.
        labels: name of the column of labels; by default it is found by its type. "none" for no labels.
    """
    if isinstance(source, Dataset | IterableDataset):
        return Opened(source, name=f"a datasets.{type(source).__name__}")
    source = str(source)
    request = _Request(source, split, config_name, streaming, labels)
    try:
        opened = _open(request)
    # What `datasets` and Arrow raise for files that are damaged or of another kind.
    except (DatasetsError, pa.ArrowException, LookupError, TypeError, AttributeError, AssertionError) as error:
        if isinstance(error, OSError):
            raise
        cause = error
        while isinstance(cause.__cause__, Exception):
            cause = cause.__cause__
        raise ValueError(f"{source} cannot be opened as a data set: {reason_of(cause)}") from error
    is_elsewhere = "://" in source or not (Path(source).expanduser().exists() or glob.has_magic(source))
    path = Path(source).expanduser().absolute()
    opened.name = source if is_elsewhere else path.resolve().name
    opened.folder = None if is_elsewhere else path if path.is_dir() else path.parent
    if opened.dataset.features is None:
        opened.dataset = opened.dataset._resolve_features()  # reads the first examples of a stream
    opened.dataset = with_image_columns(opened.dataset)
    if isinstance(opened.dataset, Dataset):
        column = None
        with suppress(ValueError):  # which `Source` raises again where labels are needed
            column = label_column(opened.dataset, labels)
        if column is not None:
            opened.dataset = with_numbered_labels(opened.dataset, column, opened.others(column))
        if streaming:
            opened.dataset = opened.dataset.to_iterable_dataset()
    return opened


def _open(request: _Request) -> Opened:
    source, split = request.source, request.split
    path = Path(source).expanduser()
    if "://" in source:
        if source.endswith(TAR_SUFFIXES):
            return Opened(open_tar_files(source, split, request.streaming))
        return _open_with_datasets(request, "parquet", source)
    if is_idx_folder(path):
        listed = [str(file) for file in sorted(path.glob("*-idx?-ubyte.gz"))]
        return Opened(load_idx_folder(path, split), _digest_of_files(listed))
    if path.is_dir():
        try:
            return _open_folder(request, path)
        except ValueError as error:
            raise ValueError(f"The folder {source} cannot be used: {error}") from error
    files = [str(path)] if path.exists() else sorted(glob.glob(str(path), recursive=True))
    if files:
        return _open_files(request, files)
    if glob.has_magic(source) or not may_be_hub_id(source, needs_user=False):
        raise FileNotFoundError(f"The data source {source} does not exist. Name a folder, files or a Hub id.")
    try:
        return _open_with_datasets(request, source)
    except ConnectionError as error:
        raise ConnectionError(
            f"There is no folder or file {source!r} here, and the Hub cannot be reached for a data set of this name "
            f"({error}). Check the path, or the network."
        ) from error


def _open_folder(request: _Request, path: Path) -> Opened:
    saved = _open_saved(request, path)
    if saved is not None:
        return saved
    listing = FolderListing.of(path)
    if _is_described(path):
        return _open_with_datasets(request, str(path))
    parquet, tar = listing.files.get(".parquet", []), listing.tar_files
    if listing.images and (parquet or tar):
        lie_in_folders = all("/" in image for image in listing.images)
        if parquet or not lie_in_folders or len(listing.images) <= len(tar):
            raise ValueError(
                f"it holds both images ({listing.images[0]}) and data files ({(parquet + tar)[0]}). Name the data "
                'files, such as "folder/*.parquet", or move one kind elsewhere.'
            )
    if listing.images:
        return (_open_described_images if listing.metadata else _open_images)(request, listing)
    if parquet and tar:
        raise ValueError(f"it holds Parquet ({parquet[0]}) and tar files ({tar[0]}). Name the files of one kind.")
    if parquet or tar:
        return _open_data_files(request, listing, parquet or tar)
    if any(suffix in listing.files for suffix in _OTHER_DATA):
        return _open_with_datasets(request, str(path))
    if ".zip" in listing.files:
        raise ValueError(f"it holds no images, but {listing.files['.zip'][0]}. Unpack that first.")
    found = "; ".join(f"{unused.path}: {unused.reason}" for unused in listing.unused()[:3])
    raise ValueError(f"it holds no images. {found or 'It is empty'}.")


def _open_images(request: _Request, listing: FolderListing) -> Opened:
    found = read_image_folder(listing, request.split, request.labels != NO_LABELS)
    unused = found.unused + listing.folders_without_images() + listing.unused()
    return Opened(found.dataset(), listing.digest(found.images), unused, found.no_labels, found.single_class)


def _open_described_images(request: _Request, listing: FolderListing) -> Opened:
    """A folder of images with metadata files, which `datasets` reads; it uses the images that these files name."""
    splits = folder_splits({os.path.dirname(image) for image in listing.images}, request.split)

    def load(split: str) -> Dataset:
        patterns = [f"{glob.escape(listing.path(folder))}/**" for folder in splits[split]]
        return load_dataset("imagefolder", data_files={split: patterns}, split=split)

    own = splits[request.split]
    metadata, images = ([p for p in paths if lies_in(p, own)] for paths in (listing.metadata, listing.images))
    if not metadata:
        raise ValueError(
            f"{listing.metadata[0]} lies beside the folder of the split {request.split!r}, not in it. Put one into "
            "the folder of each split."
        )
    try:
        dataset = load(request.split)
    except (ValueError, LookupError, DatasetsError) as error:
        reason = reason_of(error.__cause__ if isinstance(error.__cause__, Exception) else error)
        raise ValueError(f"{listing.metadata[0]} cannot be used as metadata of images: {reason}") from error
    columns = [name for name, feature in dataset.features.items() if isinstance(feature, Image)]
    named = set()
    for column in columns:
        paths = dataset.cast_column(column, Image(decode=False)).select_columns(column)
        named |= {os.path.realpath(row[column]["path"]) for row in paths if row[column] is not None}
    unused = [
        Unused(image, f"an image that no {os.path.basename(listing.metadata[0])} names")
        for image in images
        if os.path.realpath(listing.path(image)) not in named
    ]
    unused += _other_splits(splits, request.split)
    digest = listing.digest([*images, *metadata])
    others = [name for name in splits if name != request.split]
    return Opened(dataset, digest, unused + listing.unused(), others=lambda column: map(load, others))


def _open_data_files(request: _Request, listing: FolderListing, files: list[str]) -> Opened:
    """A folder of Parquet or tar files, some of which may belong to other splits."""
    splits = file_splits(files)
    check_split(request.split, splits)
    opened = _open_files(request, [listing.path(file) for file in splits[request.split]])
    opened.digest = listing.digest(splits[request.split])
    opened.unused += _other_splits(splits, request.split) + listing.unused(set(files))
    if files[0].endswith(".parquet"):
        others = [[listing.path(file) for file in splits[name]] for name in splits if name != request.split]
        opened.others = lambda column: (_column_of(paths, column) for paths in others)
    return opened


def _open_files(request: _Request, files: list[str]) -> Opened:
    unused = [Unused(os.path.basename(file), "not a regular file") for file in files if not os.path.isfile(file)]
    files = [file for file in files if os.path.isfile(file)]
    if not files:
        raise ValueError(f"{', '.join(entry.path for entry in unused[:3])} is not a regular file.")
    suffixes = {suffix_of(file) for file in files}
    if suffixes <= set(TAR_SUFFIXES):
        opened = Opened(open_tar_files(files, request.split, request.streaming))
    elif suffixes == {".parquet"}:
        opened = _open_with_datasets(request, "parquet", [glob.escape(file) for file in _alike(files)])
    else:
        raise ValueError(
            f"{files[0]} is not a data source. Name a folder of images, or files of the suffix .parquet or .tar."
        )
    opened.digest, opened.unused = _digest_of_files(files), unused
    return opened


def _open_with_datasets(request: _Request, name: str, files: str | list[str] | None = None) -> Opened:
    """A Hub data set, a folder with a card that says what its files are, or Parquet files."""
    split = request.split
    names: dict[str, Any] = {"name": request.config_name} if files is None else {"data_files": {split: files}}
    builder = load_dataset_builder(name, **names)
    digest = _digest_of_builder(builder, split)
    if isinstance(builder, WebDataset) and split in builder.config.data_files:
        tar_files = [str(file) for file in builder.config.data_files[split]]
        return Opened(open_tar_files(tar_files, split, request.streaming), digest)
    opened = Opened(load_dataset(name, **names, split=split, streaming=request.streaming), digest)
    if files is None:
        opened.others = lambda column: load_dataset(name, request.config_name).values()
    return opened


def _open_saved(request: _Request, path: Path) -> Opened | None:
    """A folder that `save_to_disk` wrote, or None."""
    is_single = (path / "state.json").is_file() and (path / "dataset_info.json").is_file()
    if is_single:
        saved = _load_saved(path)
        folders = {str(saved.split or "train"): path}
    elif (path / "dataset_dict.json").is_file():
        names = json.loads((path / "dataset_dict.json").read_bytes())["splits"]
        folders = {name: path / name for name in names}
    else:
        return None
    check_split(request.split, folders)
    folder = folders.pop(request.split)
    dataset = saved if is_single else _load_saved(folder)
    files = sorted(str(file) for file in folder.glob("*.arrow"))
    return Opened(dataset, _digest_of_files(files), others=lambda column: map(_load_saved, folders.values()))


def _load_saved(path: Path) -> Dataset:
    if not json.loads((path / "state.json").read_bytes())["_data_files"]:
        return Dataset.from_dict({})  # `datasets` writes an empty split and cannot read it
    return load_saved(str(path))


def _other_splits(splits: dict[str, list[str]], split: str) -> list[Unused]:
    return [Unused(path, f"the split {name!r}") for name in splits if name != split for path in splits[name]]


def _is_described(folder: Path) -> bool:
    """Whether a data-set card says which files belong to which split."""
    card = folder / "README.md"
    try:
        return card.is_file() and bool((metadata_load(card) or {}).get("configs"))
    except (ValueError, YAMLError):
        return False  # a README that is no data-set card


def _alike(files: list[str]) -> list[str]:
    """
    The Parquet files that have rows: `datasets` stops at an empty one.

    Raises:
        ValueError: no rows, a damaged file, or one whose columns or classes differ from those of the first file:
            `datasets` would use the class names of the first file for all of them.
    """
    found: dict[str, Features] = {}
    for file in files:
        try:
            with pq.ParquetFile(file) as content:
                if content.metadata.num_rows:
                    found[file] = Dataset(content.schema_arrow.empty_table()).features
        except (OSError, ValueError) as error:
            raise ValueError(f"{file} is not a Parquet file that can be read: {error}") from error
    if not found:
        raise ValueError(f"{files[0]} has no rows.")
    (first, features), *others = found.items()
    for file, theirs in others:
        if set(theirs) != set(features):
            raise ValueError(f"{file} has other columns ({', '.join(theirs)}) than {first} ({', '.join(features)}).")
        names = [
            name
            for name, feature in features.items()
            if isinstance(feature, ClassLabel) and getattr(theirs[name], "names", feature.names) != feature.names
        ]
        if names:
            raise ValueError(
                f"{file} numbers the classes of {names[0]!r} in another way than {first}. Prepare them one by one, or "
                "write them with the same list of classes."
            )
    return list(found)


def _column_of(files: list[str], column: str) -> Dataset:
    """One column of Parquet files; a data set without columns if they do not have it."""
    names = [column] if column in pq.read_schema(files[0]).names else []
    return Dataset(pa.concat_tables([pq.read_table(file, columns=names) for file in files]))


def _digest_of_files(files: list[str]) -> str:
    top = os.path.commonpath([os.path.dirname(os.path.abspath(file)) for file in files]) if files else ""
    return listing_digest((os.path.relpath(file, top), os.stat(file).st_size) for file in files)


def _digest_of_builder(builder: Any, split: str) -> str | None:
    """Of the files of a split: by content ids on the Hub, by sizes on this machine, by etags of other servers."""
    files = (builder.config.data_files or {}).get(split)
    if not files:
        return None
    names = [str(file) for file in files]
    if all("://" not in name for name in names):
        return _digest_of_files(names)
    hub = HfFileSystem()
    entries = []
    for name, origin in zip(names, files.origin_metadata, strict=False):
        fact: Any = origin
        if name.startswith("hf://"):
            fact = hub.info(name).get("blob_id") or origin
        entries.append((re.sub(r"@[0-9a-f]{40}", "", name), fact))
    return listing_digest(entries)
