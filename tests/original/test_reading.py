"""Files of original checkpoints: what is read, and what is refused before it can do anything."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from titok_hf.original.reading import find_original, read_state_dict

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.float16)}
CONFIG = {"model": {"vq_model": {}}, "experiment": {"tokenizer_checkpoint": "runs/tokenizer_titok_l32.bin"}}


class OpensFile:
    """Unpickling it would leave a trace."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def write_torch(path: Path, **options) -> Path:
    torch.save(TENSORS, path, **options)
    return path


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".ckpt"])
def test_pickles_of_tensors_are_read(tmp_path, suffix):
    tensors = read_state_dict(write_torch(tmp_path / f"file{suffix}"))
    assert all(
        torch.equal(tensors[name], tensor) and tensors[name].dtype == tensor.dtype for name, tensor in TENSORS.items()
    )


def test_pickles_of_old_torch_are_read(tmp_path):
    tensors = read_state_dict(write_torch(tmp_path / "old.bin", _use_new_zipfile_serialization=False))
    assert tensors.keys() == TENSORS.keys()


def test_safetensors_are_read(tmp_path):
    save_file(TENSORS, tmp_path / "model.safetensors")
    assert read_state_dict(tmp_path / "model.safetensors").keys() == TENSORS.keys()


@pytest.mark.parametrize("new_format", [True, False])
def test_a_pickle_with_code_is_refused_and_the_code_not_run(tmp_path, new_format):
    trace = tmp_path / "trace"
    torch.save(TENSORS | {"c": OpensFile(trace)}, tmp_path / "x.bin", _use_new_zipfile_serialization=new_format)
    with pytest.raises(OSError, match="x.bin is refused"):
        read_state_dict(tmp_path / "x.bin")
    assert not trace.exists()
    torch.load(tmp_path / "x.bin", weights_only=False)
    assert trace.exists(), "the file is as dangerous as it should be"


def test_a_plain_pickle_with_code_is_refused_and_the_code_not_run(tmp_path):
    (tmp_path / "x.bin").write_bytes(pickle.dumps(OpensFile(tmp_path / "trace"), protocol=2))
    with pytest.raises(OSError, match="x.bin is"):
        read_state_dict(tmp_path / "x.bin")
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": dict(TENSORS)}, {"a": 1.0}])
def test_other_content_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "x.bin")
    with pytest.raises(OSError, match="not a state dict"):
        read_state_dict(tmp_path / "x.bin")


@pytest.mark.parametrize("name", ["x.bin", "x.safetensors", "tokenizer_imagenet256_checkpoint"])
@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_truncated_files_are_refused(tmp_path, name, keep):
    path = tmp_path / name
    if name == "x.bin":
        write_torch(path)
    elif name == "x.safetensors":
        save_file(TENSORS, path)
    else:
        from titok_hf.original.flax_checkpoint import flax_bytes

        path.write_bytes(flax_bytes({f"params/{key}": tensor.numpy() for key, tensor in TENSORS.items()}))
    content = path.read_bytes()
    path.write_bytes(content[: keep if keep in (0, 10) else int(len(content) * keep)])
    with pytest.raises(OSError, match=name):
        read_state_dict(path)


@pytest.mark.parametrize("name", ["x.bin", "x.safetensors"])
def test_noise_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(bytes(range(256)) * 10)
    with pytest.raises(OSError, match=name):
        read_state_dict(tmp_path / name)


def write_folder(folder: Path, config=CONFIG, weights: str | None = "model.safetensors") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    if weights:
        (folder / weights).touch()
    return folder


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin", "tokenizer_titok_l32.bin"])
def test_a_folder_is_known_by_its_config(tmp_path, weights):
    found = find_original(write_folder(tmp_path, weights=weights))
    assert found.weights == tmp_path / weights and found.config == CONFIG


@pytest.mark.parametrize("config", [{"model_type": "titok"}, {"_class_name": "X"}, "[1]", "{ damaged", "3"])
def test_other_folders_are_none_of_ours(tmp_path, config):
    assert find_original(write_folder(tmp_path, config)) is None


@pytest.mark.parametrize("source", ["no/such-repository", "not a name", "", None, 3, {"state": "dict"}])
def test_what_is_not_there_is_left_to_others(source):
    assert find_original(source) is None


def test_a_subfolder_is_looked_into(tmp_path):
    write_folder(tmp_path / "part")
    assert find_original(tmp_path) is None
    assert find_original(tmp_path, subfolder="part").weights == tmp_path / "part" / "model.safetensors"


def test_a_hub_repository_is_read_from_the_cache(tmp_path):
    repository = tmp_path / "models--user--name"
    snapshot = repository / "snapshots" / ("1" * 40)
    write_folder(snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("1" * 40)
    found = find_original("user/name", cache_dir=tmp_path, local_files_only=True)
    assert found.weights == snapshot / "model.safetensors" and found.config == CONFIG
    assert find_original("user/name", cache_dir=tmp_path, revision="other", local_files_only=True) is None


def test_an_original_folder_without_weights_is_one_clear_error(tmp_path):
    with pytest.raises(OSError, match="has no weights.*model.safetensors, pytorch_model.bin, tokenizer_titok_l32.bin"):
        find_original(write_folder(tmp_path, weights=None))


def test_a_named_variant_finds_its_published_file(tmp_path):
    (tmp_path / "tokenizer_titok_b64.bin").touch()
    (tmp_path / "tokenizer_titok_l32.bin").touch()
    found = find_original(tmp_path, "b64", released_file="tokenizer_titok_b64.bin")
    assert found.weights.name == "tokenizer_titok_b64.bin" and found.config is None


def test_a_file_is_original_by_itself(tmp_path):
    found = find_original(write_torch(tmp_path / "x.bin"))
    assert found.weights == tmp_path / "x.bin" and not found.is_flax
    (tmp_path / "checkpoint").touch()
    assert find_original(tmp_path / "checkpoint").is_flax
