"""The files of a saved checkpoint, on disk or on the Hub, and checks that they are complete. Needs no torch."""

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from packaging.version import InvalidVersion, Version
from safetensors import SafetensorError, safe_open

from .. import __version__
from .atomic_files import folder_atomically

INDEX_NAME = "model_index.json"
EXPORT_NAME = "titok_export.json"
VERSION_KEY = "_titok_hf_version"
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")
"""Arguments of `from_pretrained` that say where on the Hub a file is and how to download it."""
# These are written last: they make a data set, a model, a pipeline complete.
_LAST_FILES = ("README.md", "config.json", INDEX_NAME)
PIPELINE_FOLDERS = ("tokenizer", "image_processor", "transformer", "scheduler")
# Ends of the names of fields that hold a number of layers.
_DEPTHS = ("num_hidden_layers", "num_resnet_blocks")
# Arguments of the libraries' `from_pretrained` that do not change what is loaded.
_LOADING_ARGUMENTS = {
    *HUB_ARGUMENTS,
    *(
        "variant",
        "dtype",
        "torch_dtype",
        "use_safetensors",
        "low_cpu_mem_usage",
        "output_loading_info",
        "return_unused_kwargs",
    ),
}
_AGAIN = "Save or download the checkpoint again."

# The names under which transformers, diffusers or the original look for weights and for the index of their shards:
# "model.fp16-00001-of-00002.safetensors", "model.safetensors.index.fp16.json", "pytorch_model.bin"; older versions of
# diffusers put the variant after the number. It does not fit "adapter_model", "optimizer" or names of a user's own.
_WEIGHTS_FILE = re.compile(
    r"^(?:model|pytorch_model|diffusion_pytorch_model|flax_model|checkpoint(?=\.msgpack))"
    r"(?:\.(?P<variant>(?!safetensors|bin|msgpack).+?))?(?:-\d+-of-\d+(?:\.(?P<late_variant>[^.]+))?)?"
    r"\.(?P<suffix>safetensors|bin|pt|pth|ckpt|msgpack)(?:\.index(?:\.(?P<index_variant>[^.]+))?\.json)?$"
)
_DATA_SHARD = re.compile(r"^(?P<split>.+)-\d+(?:-of-\d+)?\.parquet$")


def read_index(folder: Path) -> dict[str, Any]:
    """
    The content of a pipeline folder's `model_index.json`.

    Raises:
        OSError: no index, one that is damaged, or one that a newer version of this package wrote.
    """
    path = folder / INDEX_NAME
    if not path.exists():
        if (folder / EXPORT_NAME).is_file():
            raise OSError(
                f"{folder} is an exported model, without weights for PyTorch. Load it with "
                "ExportedTiTokPipeline.from_pretrained."
            )
        raise OSError(
            f"{folder} is not a TiTok pipeline: it has no {INDEX_NAME}. Give a folder that "
            "`TiTokPipeline.save_pretrained` wrote, or the id of a Hub repository."
        )
    index = read_json(path)
    for part in PIPELINE_FOLDERS:
        record = index.get(part, [None, None])
        if not (isinstance(record, list) and len(record) == 2 and all(isinstance(x, str | None) for x in record)):
            raise OSError(f"{path} is damaged: {part} is {_shown(record)}, not a module and a class. {_AGAIN}")
    labels = index.get("id2label") or {}
    if not (isinstance(labels, dict) and all(_is_class(*entry) for entry in labels.items())):
        raise OSError(f"{path} is damaged: id2label is {_shown(labels)}, not numbers and names of classes. {_AGAIN}")
    written_by = index.get(VERSION_KEY, __version__)
    try:
        is_newer = Version(written_by).release > Version(__version__).release
    except (InvalidVersion, TypeError):
        raise OSError(f"{path} is damaged: {VERSION_KEY} is {_shown(written_by)}, not a version. {_AGAIN}") from None
    if is_newer:
        raise OSError(
            f"{folder} was saved by titok_hf {written_by}, and this is {__version__}. Upgrade with "
            "`pip install -U titok-hf`."
        )
    return index


def read_json(path: Path) -> dict[str, Any]:
    """
    The content of a configuration file.

    Raises:
        OSError: the file is missing or damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing. {_AGAIN}") from None
    except IsADirectoryError:
        raise IsADirectoryError(f"{path} is a folder, not a file. {_AGAIN}") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise OSError(f"{path} is damaged ({_reason(error)}). {_AGAIN}") from error
    if not isinstance(content, dict):
        raise OSError(f"{path} is damaged: it holds no JSON object. {_AGAIN}")
    return content


@contextmanager
def naming(
    path: object,
    what: str = "is damaged, or describes nothing that can be built",
    arguments: Iterable[str] | None = None,
) -> Iterator[None]:
    """
    A block that uses the content of a file. If it fails because of that content, the error names the file.

    Args:
        path: the file.
        what: what the error says about the file.
        arguments: names of the caller's arguments, if the block uses them. Errors that may be about them are not
            changed: a RuntimeError (devices, memory), and a TypeError if one of them changes what is loaded.

    Raises:
        OSError, ValueError: the block failed. Errors about missing packages are not changed.
    """
    try:
        yield
    except (ImportError, NotImplementedError):
        raise
    except Exception as error:
        # An OSError of the system that names no file comes from reading a file of another kind.
        if isinstance(error, OSError) and (error.errno is None or error.filename is not None):
            raise
        if arguments is not None and _may_be_callers(error, arguments):
            raise
        if isinstance(error, ValueError) and (
            str(path) in str(error) or type(error).__module__.startswith("titok_hf.")
        ):
            raise
        if type(error) is ValueError:
            raise ValueError(f"{path}: {error}") from error
        raise OSError(f"{path} {what} ({_reason(error)}). {_AGAIN}") from error


def _may_be_callers(error: Exception, arguments: Iterable[str]) -> bool:
    if isinstance(error, TypeError):
        return not _LOADING_ARGUMENTS.issuperset(arguments)
    return isinstance(error, RuntimeError) and not isinstance(error, RecursionError)


def checkpoint_atomically(path: str | os.PathLike) -> AbstractContextManager[Path]:
    """
    [`folder_atomically`] for checkpoints and copies of data sets. Files of the same name are replaced, and those of
    [`outdated_files`] are removed: old weights that could be loaded instead of the new ones. Other files stay.
    """
    return folder_atomically(path, _LAST_FILES, outdated_files)


def outdated_files(there: Iterable[str], new: Iterable[str]) -> list[str]:
    """
    The files that new files make invalid: weights of the same part and variant in another form (one file instead of
    shards, an index, pickles), and shards of the same split of a data set.

    Args:
        there: paths of the present files.
        new: paths of the files that are added.
    """
    new = set(new)
    written = {_series(name) for name in new} - {None}
    return sorted(name for name in there if name not in new and _series(name) in written)


def variant_of(file_name: str) -> str | None:
    """The variant of a weights file or of an index ("model.fp16.safetensors" -> "fp16"); None without one."""
    found = _WEIGHTS_FILE.match(PurePosixPath(file_name).name)
    return None if found is None else found["variant"] or found["late_variant"] or found["index_variant"]


def is_weights_file(file_name: str) -> bool:
    """Whether a file holds weights as safetensors, or is the index of such files."""
    found = _WEIGHTS_FILE.match(PurePosixPath(file_name).name)
    return found is not None and found["suffix"] == "safetensors"


def check_weights_index(path: Path) -> list[Path]:
    """
    The weights files that an index names.

    Raises:
        OSError: a damaged index, or one that names a pickle or a file outside of its folder.
    """
    index = read_json(path)
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not isinstance(index.get("metadata"), dict):
        raise OSError(f"{path} is damaged: it lacks weight_map or metadata. {_AGAIN}")
    names = weight_map.values()
    for name in names:
        if not isinstance(name, str) or not name.endswith(".safetensors") or PurePosixPath(name).name != name:
            raise OSError(
                f"{path} names {_shown(name)} as a weights file. Only safetensors files in the folder of the index "
                "are read, because a pickle runs code when it is opened."
            )
    return [path.parent / name for name in sorted(set(names))]


def stored_tensors(files: Iterable[Path]) -> dict[str, tuple[tuple[int, ...], str]]:
    """
    Shape and dtype ("F32") of each tensor in safetensors files, from their headers.

    Raises:
        OSError: a file is missing or damaged.
    """
    stored = {}
    for path in files:
        try:
            with safe_open(path, framework="numpy") as file:
                for name in file.keys():  # noqa: SIM118 - it is no dict
                    entry = file.get_slice(name)
                    stored[name] = (tuple(entry.get_shape()), entry.get_dtype())
        except FileNotFoundError:
            raise FileNotFoundError(f"The weights file {path} is missing. {_AGAIN}") from None
        except (SafetensorError, OSError, MemoryError) as error:
            raise OSError(f"The weights file {path} is damaged ({_reason(error)}). {_AGAIN}") from error
    return stored


def check_weights(
    source: object,
    stored: Mapping[str, tuple[tuple[int, ...], str]],
    expected: Mapping[str, Any],
    names: bool = True,
    shapes: bool = True,
) -> None:
    """
    Compare the tensors in a checkpoint with those of a model, since libraries fill missing ones with random numbers.

    Args:
        source: folder or Hub id, for the message.
        stored: the result of `stored_tensors`.
        expected: state dict of the model; its tensors may be on the meta device.
        names, shapes: whether to compare these.

    Raises:
        OSError: a name that only one of them has, another shape, or integers instead of floating-point numbers.
    """
    shared = [name for name in expected if name in stored]
    differences = {
        "missing": [name for name in expected if name not in stored] if names else [],
        "unknown": sorted(stored.keys() - expected.keys()) if names else [],
        "misshapen": [
            f"{name} {stored[name][0]} for {tuple(expected[name].shape)}"
            for name in shared
            if shapes and stored[name][0] != tuple(expected[name].shape)
        ],
        "not floating-point": [
            f"{name} {stored[name][1]}"
            for name in shared
            if expected[name].is_floating_point() and not stored[name][1].startswith(("F", "BF"))
        ],
    }
    if any(differences.values()):
        found = ", ".join(f"{_count(names)} {kind}" for kind, names in differences.items() if names)
        raise OSError(f"The weights in {source} do not fit the configuration beside them: {found}. {_AGAIN}")


def check_depth(path: Path, config: object, num_tensors: int) -> None:
    """
    Raises:
        OSError: the configuration has more layers than the checkpoint has tensors. This is checked before the model is
            built, because building a very large number of layers would take too long.
    """
    entries = config.items() if isinstance(config, dict) else enumerate(config) if isinstance(config, list) else []
    for key, value in entries:
        if isinstance(value, int) and str(key).endswith(_DEPTHS) and value > num_tensors:
            raise OSError(f"{path} is damaged: {key} is {_shown(value)} for {num_tensors} tensors. {_AGAIN}")
        check_depth(path, value, num_tensors)


def check_finite_weights(source: object, tensors: Mapping[str, Any]) -> None:
    """
    Args:
        source: file, folder or Hub id, for the message.
        tensors: the state dict; tensors on the meta device (offloaded to the disk) and quantised ones are not checked.

    Raises:
        OSError: NaN or infinity in a tensor.
    """
    bad = [name for name, tensor in tensors.items() if _has_plain_values(tensor) and not bool(tensor.isfinite().all())]
    if bad:
        raise OSError(
            f"The weights in {source} are not finite: {_count(bad)} hold NaN or infinity. The training that made them "
            "diverged, the file is damaged, or the dtype asked for is too small for them."
        )


def _has_plain_values(tensor: Any) -> bool:
    """False for integers, for tensors without values, and for the classes that quantising libraries bring."""
    is_plain = type(tensor).__module__.partition(".")[0] == "torch"
    return is_plain and tensor.is_floating_point() and tensor.device.type != "meta"


def _series(name: str) -> tuple[PurePosixPath, str, str | None] | None:
    """Equal for files that replace one another: weights of a part and variant, shards of a split. None for others."""
    path = PurePosixPath(name)
    weights, shard = _WEIGHTS_FILE.match(path.name), _DATA_SHARD.match(path.name)
    if weights is not None:
        return path.parent, "weights", variant_of(name)
    return None if shard is None else (path.parent, "split", shard["split"])


def _is_class(label: str, name: object) -> bool:
    return label.isdecimal() and len(label) < 10 and isinstance(name, str)


def _shown(value: object) -> str:
    """A value from a file, for a message."""
    return _shortened(repr(value), 80)


def _reason(error: BaseException) -> str:
    """The first line of an error's message, or the name of its class."""
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return _shortened(line if not isinstance(error, KeyError) else f"{line} is missing", 300)


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."


def _count(names: list[str], shown: int = 3) -> str:
    """The number of names, and the first few of them."""
    return f"{len(names)} ({', '.join(names[:shown])}{', ...' if len(names) > shown else ''})"
