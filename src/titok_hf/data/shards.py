"""A folder of Parquet shards in which each shard is either complete, with its digest in a record, or absent.

Shard number i has the images [i * shard_size, (i + 1) * shard_size) of the source, whichever process makes it. The
records are in `.titok_hf/<split>/`, which only this module reads.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features
from filelock import FileLock, Timeout
from huggingface_hub.utils.sha import sha_fileobj

from ..checkpoints.atomic_files import write_atomically

STATE_FOLDER = ".titok_hf"
DATA_FOLDER = "data"
_SETTINGS = "settings.json"

# Settings in which the splits of one data set may differ.
_SPLIT_SETTINGS: tuple[str, ...] = ("source", "listing", "config_name", "split", "limit", "num_images")


@dataclass(frozen=True)
class Part:
    """
    The share of one process among several.

    Args:
        rank: number of this process, from 0. It makes the shards `rank`, `rank + world_size`, ...
        world_size: number of processes.

    Raises:
        ValueError: a rank outside of [0, world_size).
    """

    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"Part {self.rank}/{self.world_size} does not exist; parts are numbered from 0.")

    @classmethod
    def from_environment(cls) -> Part:
        """Rank and world size that `accelerate launch` or `torchrun` set; without them 0 of 1."""
        return cls(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))

    @classmethod
    def from_text(cls, text: str) -> Part:
        """ "3/64" -> rank 3 of 64; ValueError for anything else."""
        rank, separator, world_size = text.partition("/")
        if not (separator and rank.isdecimal() and world_size.isdecimal()):
            raise ValueError(f"{text!r} names no part. Write the number of this process and of all, such as 3/64.")
        return cls(int(rank), int(world_size))


@dataclass
class ShardFolder:
    """
    One split of a data set under construction.

    Args:
        folder: the data set's folder; several splits share it.
        split: name of the split.
        settings: all values that the content depends on. A folder that was begun with other values is refused.
        features: the columns.
        shard_size: images of the source in one shard.
        row_group_size: rows in one row group, which readers decompress as a whole.
        compression: Parquet codec of the columns.

    Raises:
        ValueError: a split that cannot be the name of one.
    """

    folder: Path
    split: str
    settings: dict[str, Any]
    features: Features
    shard_size: int
    row_group_size: int
    compression: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\w+(\.\w+)*", self.split):
            raise ValueError(
                f"split is {self.split!r}; a split is named by letters, digits and dots. To cut one, use limit."
            )
        self.settings = json.loads(json.dumps(self.settings))
        self.schema = self.features.arrow_schema
        self.state = self.folder / STATE_FOLDER / self.split

    @contextmanager
    def locked(self, part: Part) -> Iterator[None]:
        """
        Locks this part of the folder until the block or the process ends.

        Raises:
            OSError: another process makes the same part, or the folder cannot be written.
            ValueError: the folder was begun with other settings.
        """
        self._check_settings()
        try:
            self.state.mkdir(parents=True, exist_ok=True)
            (self.folder / DATA_FOLDER).mkdir(exist_ok=True)
        except OSError as error:
            raise OSError(f"{self.folder} cannot be written ({error}). Choose another folder.") from error
        lock = FileLock(self.state / f"lock-{part.rank}")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise OSError(
                f"Another run is making the split {self.split!r} in {self.folder} at this moment. Wait for it, end "
                "it, or choose another folder."
            ) from None
        try:
            if not (self.state / _SETTINGS).exists():
                write_atomically(self.state / _SETTINGS, json.dumps(self.settings, indent=1).encode())
            yield
        finally:
            lock.release()

    def path(self, index: int) -> Path:
        """The path of shard `index`."""
        return self.folder / DATA_FOLDER / f"{self.split}-{index:05d}.parquet"

    def whole_record(self, index: int) -> dict[str, Any] | None:
        """The record of shard `index` if the shard exists and has the recorded digest, else None."""
        record = self._record(index)
        if record is None or not self.path(index).is_file():
            return None
        if self.path(index).stat().st_size != record["num_bytes"] or sha256_of(self.path(index)) != record["sha256"]:
            return None
        return record

    def write(self, index: int, columns: Iterable[dict[str, list]]) -> dict[str, Any]:
        """
        Writes shard `index` from batches of columns as they come.

        Returns:
            its digest and sizes, for the record that `commit` writes.
        """
        path = self.path(index)
        for unfinished in path.parent.glob(f".unfinished-*-{path.name}"):
            unfinished.unlink()  # left by a run that was killed
        facts: dict[str, Any] = {}

        def write_to(unfinished: Path) -> None:
            facts["num_rows"] = self._write_row_groups(unfinished, columns)
            facts["num_bytes"] = unfinished.stat().st_size
            facts["sha256"] = sha256_of(unfinished)

        write_atomically(path, write_to)
        return facts

    def commit(self, index: int, record: dict[str, Any]) -> None:
        """Writes the record of shard `index`: from now on the shard counts as complete."""
        write_atomically(self.state / f"{index:05d}.json", json.dumps(record, indent=1).encode())

    def records(self) -> list[dict[str, Any]] | None:
        """The records of all shards in order; None if one is missing."""
        found = []
        for index in range(10**9):
            record = self._record(index)
            if record is None or not self.path(index).is_file():
                return None
            found.append(record)
            if record["is_last"]:
                return found
        return None

    def clean(self) -> None:
        """Removes unfinished files and locks of a complete split."""
        leftovers = [*self.state.glob(".unfinished-*"), *self.state.glob("lock-*")]
        leftovers += (self.folder / DATA_FOLDER).glob(f".unfinished-*-{self.split}-*")
        for path in leftovers:
            path.unlink(missing_ok=True)

    def _write_row_groups(self, path: Path, columns: Iterable[dict[str, list]]) -> int:
        waiting: dict[str, list] = {name: [] for name in self.schema.names}
        num_rows = 0
        # Dictionaries and statistics of image columns would cost time and space and have no use.
        small = [field.name for field in self.schema if not pa.types.is_struct(field.type)]
        options = {"compression": self.compression, "use_dictionary": small, "write_statistics": small}
        with pq.ParquetWriter(path, self.schema, **options) as writer:
            for batch in filter(None, columns):  # a chunk without usable images has no columns
                for name in waiting:
                    waiting[name] += batch[name]
                while len(waiting[self.schema.names[0]]) >= self.row_group_size:
                    num_rows += self._write_rows(writer, waiting, self.row_group_size)
            num_rows += self._write_rows(writer, waiting, self.row_group_size)
        return num_rows

    def _write_rows(self, writer: pq.ParquetWriter, waiting: dict[str, list], count: int) -> int:
        """Moves the first `count` waiting rows into a row group."""
        arrays = [_array(waiting[field.name][:count], field.type) for field in self.schema]
        for values in waiting.values():
            del values[:count]
        table = pa.Table.from_arrays(arrays, schema=self.schema)
        if len(table):
            writer.write_table(table, row_group_size=count)
        return len(table)

    def _record(self, index: int) -> dict[str, Any] | None:
        try:
            return json.loads((self.state / f"{index:05d}.json").read_bytes())
        except (FileNotFoundError, json.JSONDecodeError):  # of a disk that failed; the shard is written again
            return None

    def _check_settings(self) -> None:
        for other in sorted((self.folder / STATE_FOLDER).glob(f"*/{_SETTINGS}")):
            theirs = json.loads(other.read_bytes())
            free = _SPLIT_SETTINGS
            if other.parent.name == self.split:  # if the files of the source are known, its name does not matter
                is_known = None not in (theirs.get("listing"), self.settings.get("listing"))
                free = ("source",) if is_known else ("listing",)
            names = [name for name in theirs | self.settings if name not in free]
            different = [name for name in names if theirs.get(name) != self.settings.get(name)]
            if "listing" in different:
                raise ValueError(
                    f"The source of {self.folder} has changed since that data set was begun: files were added, "
                    "deleted, renamed or rewritten. Use another folder, or restore the source to continue."
                )
            if different:
                shown = "; ".join(
                    f"{name}: {theirs.get(name)!r} there, {self.settings.get(name)!r} now" for name in different[:3]
                )
                raise ValueError(
                    f"{self.folder} holds the split {other.parent.name!r}, made with other settings ({shown}). Use "
                    "the same settings to continue, or another folder."
                )
        is_new = not (self.state / _SETTINGS).exists()
        if is_new and any((self.folder / DATA_FOLDER).glob(f"{self.split}-*")):
            raise ValueError(
                f"{self.folder / DATA_FOLDER} holds files of a split {self.split!r} that this program has no "
                "record of. Choose another folder."
            )


def _array(values: list, data_type: pa.DataType) -> pa.Array:
    """An Arrow array; of images field by field, which is much faster."""
    if not pa.types.is_struct(data_type):
        return pa.array(values, type=data_type)
    parts = [pa.array([value[field.name] for value in values], type=field.type) for field in data_type]
    return pa.StructArray.from_arrays(parts, fields=list(data_type))


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return sha_fileobj(file).hex()
