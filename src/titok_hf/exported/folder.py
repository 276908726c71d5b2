"""The folder of an export: `titok_export.json`, which describes it, and the files of each engine."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from .. import __version__
from ..checkpoints.connection import clear_errors, with_retries
from ..checkpoints.layout import EXPORT_NAME, VERSION_KEY, read_json
from ..checkpoints.locations import check_location
from .engines import Engine, engine_of

FORMAT_VERSION = 1
"""Counts changes of `titok_export.json` that an older version cannot read."""

_AGAIN = "Export the model again with `titok-hf export`, or copy the whole folder."


@dataclass(frozen=True)
class SavedProgram:
    """
    One exported graph in a folder.

    Args:
        folder: of the export.
        files: size in bytes and SHA-256 of each of its files, by the path in the folder; the graph comes first.
        metadata: what transformers recorded when it was exported.
    """

    folder: Path
    files: dict[str, dict[str, Any]]
    metadata: dict[str, Any]

    @property
    def path(self) -> Path:
        """The file of the graph."""
        return self.folder / next(iter(self.files))

    def check_sizes(self) -> None:
        """OSError for a file that is missing or of another size."""
        for name, recorded in self.files.items():
            path = self.folder / name
            if not path.is_file():
                raise OSError(f"{path} is missing, which belongs to this export. {_AGAIN}")
            if path.stat().st_size != recorded["bytes"]:
                raise OSError(
                    f"{path} has {path.stat().st_size} bytes, and the export wrote {recorded['bytes']}: it is "
                    f"damaged, or of another model. {_AGAIN}"
                )

    def check_contents(self) -> None:
        """OSError for a file with another content than was written."""
        self.check_sizes()
        for name, recorded in self.files.items():
            if digest(self.folder / name) != recorded["sha256"]:
                raise OSError(
                    f"{self.folder / name} is not the file that the export wrote: it is damaged, or of another model. "
                    f"{_AGAIN}"
                )


@dataclass(frozen=True)
class ExportFolder:
    """
    An export that was read.

    Args:
        folder: where it lies.
        description: the content of its `titok_export.json`.
        download: for one on the Hub, puts files into `folder`, given their names.
    """

    folder: Path
    description: dict[str, Any]
    download: Callable[[list[str]], Path] | None = None

    @classmethod
    def read(cls, location: str | os.PathLike, **hub_arguments: Any) -> ExportFolder:
        """
        Read the description of an export.

        Args:
            location: a folder, or the id of a Hub repository, of which only the files that are used are downloaded.
            hub_arguments: `revision`, `token`, `cache_dir`, `force_download`, `local_files_only`.

        Raises:
            OSError: it is not there, is no export, is damaged, or was written by a newer version.
        """
        download = None if check_location(location) else partial(_download, str(location), hub_arguments)
        folder = Path(location).expanduser() if download is None else download([EXPORT_NAME])
        path = folder / EXPORT_NAME
        if not path.is_file():
            raise OSError(
                f"{location} is not an exported model: it has no {EXPORT_NAME}. Give a folder that `titok-hf export` "
                "wrote."
            )
        description = read_json(path)
        if description.get("format_version") != FORMAT_VERSION:
            raise OSError(
                f"{path} has the format version {description.get('format_version')!r}, and titok_hf {__version__} "
                f"reads {FORMAT_VERSION}. Use titok_hf {description.get(VERSION_KEY)}, or export the model again."
            )
        missing = {"model", "fingerprint", "codebook", "tokenizer", "image_processor", "generator", "exports"} - set(
            description
        )
        if missing:
            raise OSError(f"{path} is damaged: it has no {', '.join(sorted(missing))}. {_AGAIN}")
        return cls(folder, description, download)

    @property
    def exports(self) -> list[dict[str, Any]]:
        """The exports in the folder: each an engine, a precision, losses, and programs."""
        return self.description["exports"]

    def choose(self, engine: str | None, precision: str | None) -> tuple[Engine, dict[str, Any]]:
        """
        One of the exports. By default the first engine in the folder, and float32 where the folder has it.

        Raises:
            ValueError: an unknown engine, or one that the folder has no export for.
        """
        if engine is not None:
            engine_of(engine)
        found = [
            export
            for export in self.exports
            if engine in (None, export["engine"]) and precision in (None, export["precision"])
        ]
        if not found:
            wanted = " ".join(filter(None, (engine, precision)))
            there = ", ".join(f"{export['engine']} {export['precision']}" for export in self.exports)
            raise ValueError(
                f"{self.folder} has no export for {wanted}; it has {there}. Use one of these, or add it: "
                f"titok-hf export MODEL -o {self.folder} --format {engine or 'ENGINE'}"
                f"{f' --precision {precision}' if precision else ''}"
            )
        first = [export for export in found if export["engine"] == found[0]["engine"]]
        chosen = next((export for export in first if export["precision"] == "fp32"), first[0])
        return engine_of(chosen["engine"]), chosen

    def programs(self, export: dict[str, Any]) -> dict[str, SavedProgram]:
        """The programs of an export by name; OSError if one of their files is missing or of another size."""
        if self.download is not None:
            self.download([file for saved in export["programs"].values() for file in saved["files"]])
        programs = {
            name: SavedProgram(self.folder, saved["files"], saved["metadata"])
            for name, saved in export["programs"].items()
        }
        for program in programs.values():
            program.check_sizes()
        return programs


def _download(repository: str, hub_arguments: dict[str, Any], names: list[str]) -> Path:
    """The folder in the cache, after files of a repository were downloaded into it."""
    with clear_errors(repository):
        return Path(with_retries(lambda: snapshot_download(repository, allow_patterns=names, **hub_arguments)))


def describe_files(folder: Path, paths: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of files by their path in a folder."""
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": digest(path)} for path in paths
    }


def digest(path: Path) -> str:
    """The SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        if hasattr(hashlib, "file_digest"):  # Python 3.11
            return hashlib.file_digest(file, "sha256").hexdigest()
        hashed = hashlib.sha256()
        while block := file.read(1 << 20):
            hashed.update(block)
        return hashed.hexdigest()
