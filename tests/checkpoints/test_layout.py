"""Finding a saved pipeline, here or on the Hub."""

import json
import os
import subprocess
import sys

import pytest

from hub_server import hub_server
from titok_hf import TiTokPipeline, __version__
from titok_hf.checkpoints.layout import INDEX_NAME, VERSION_KEY, outdated_files, read_index


def write_index(folder, **content):
    (folder / INDEX_NAME).write_text(json.dumps(content))
    return folder


def test_a_folder_with_an_index_is_taken_as_it_is(tmp_path):
    write_index(tmp_path, a=1)
    assert TiTokPipeline.download(tmp_path) == str(tmp_path) == TiTokPipeline.download(str(tmp_path))
    assert read_index(tmp_path) == {"a": 1}


def test_a_folder_that_is_no_pipeline_is_refused(tmp_path):
    with pytest.raises(OSError, match="is not a TiTok pipeline: it has no model_index.json"):
        TiTokPipeline.download(tmp_path)


@pytest.mark.parametrize("content", ["{", "[1]", b"\xff\xfe"])
def test_a_damaged_index_is_refused(tmp_path, content):
    (tmp_path / INDEX_NAME).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(OSError, match="model_index.json is damaged"):
        TiTokPipeline.download(tmp_path)


def test_a_checkpoint_of_a_newer_version_is_refused(tmp_path):
    write_index(tmp_path, **{VERSION_KEY: "999.0"})
    with pytest.raises(OSError, match=rf"saved by titok_hf 999\.0, and this is {__version__}.*pip install -U"):
        TiTokPipeline.download(tmp_path)


@pytest.mark.parametrize("version", [__version__, "0.0.1"])
def test_checkpoints_of_this_version_and_older_ones_are_read(tmp_path, version):
    assert TiTokPipeline.download(write_index(tmp_path, **{VERSION_KEY: version})) == str(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (VERSION_KEY, "new"),
        (VERSION_KEY, 5),
        ("tokenizer", "titok"),
        ("transformer", ["a", 1]),
        ("id2label", {"x": "name"}),
        ("id2label", {"0": 1}),
        ("id2label", "names"),
    ],
)
def test_an_index_with_values_of_another_kind_is_refused(tmp_path, key, value):
    write_index(tmp_path, **{key: value})
    with pytest.raises(OSError, match=f"model_index.json is damaged: {key} is"):
        read_index(tmp_path)


PLAIN = ["model.safetensors", "model-00001-of-00002.safetensors", "model.safetensors.index.json", "pytorch_model.bin"]
PLAIN += ["pytorch_model.bin.index.json", "pytorch_model-00001-of-00002.bin", "diffusion_pytorch_model.safetensors"]
FP16 = ["model.fp16.safetensors", "model.fp16-00001-of-00002.safetensors", "model.safetensors.index.fp16.json"]
FP16 += ["diffusion_pytorch_model.fp16.bin", "diffusion_pytorch_model-00001-of-00002.fp16.safetensors"]
OTHERS = [
    "config.json",
    "README.md",
    "adapter_model.safetensors",
    "optimizer.bin",
    "my_model.safetensors",
    "model.txt",
]
OTHERS += ["model.safetensors.bak", "remodel.safetensors", "other/model.safetensors", "train-00001.parquet"]


def test_new_weights_outdate_those_of_the_same_part_and_variant_in_any_form():
    there = PLAIN + FP16 + OTHERS
    for new in PLAIN:
        assert set(outdated_files(there, [new])) == set(PLAIN) - {new}
    for new in FP16:
        assert set(outdated_files(there, [new])) == set(FP16) - {new}
    assert outdated_files(there, ["config.json", "README.md", "new/model.safetensors"]) == []
    assert outdated_files([f"part/{name}" for name in there], ["part/model.safetensors"]) == sorted(
        f"part/{name}" for name in PLAIN if name != "model.safetensors"
    )


def test_a_split_outdates_its_shards_alone():
    there = ["data/train-00000.parquet", "data/train-00001.parquet", "data/test-00000.parquet", "data/mine.parquet"]
    assert outdated_files(there, ["data/train-00000.parquet"]) == ["data/train-00001.parquet"]


@pytest.mark.parametrize("model", ["./no/such/folder", "a b", "/nowhere"])
def test_neither_folder_nor_repository(model):
    with pytest.raises(OSError, match="is no id of a Hub repository, and no folder here either"):
        TiTokPipeline.download(model)


def test_a_repository_that_is_not_cached_needs_the_network():
    with pytest.raises(OSError, match="HF_HUB_OFFLINE is set, so the Hub is not asked for 'nobody/nothing'"):
        TiTokPipeline.download("nobody/nothing")


def download(endpoint, tmp_path, *arguments):
    """`TiTokPipeline.download` in a process with another Hub, whose address the client reads when it is imported."""
    program = (
        "import json, sys; from titok_hf.checkpoints.pipeline_mixin import PipelineCheckpointMixin;"
        "print(PipelineCheckpointMixin.download(sys.argv[1], **json.loads(sys.argv[2])))"
    )
    environment = {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(tmp_path / "cache"),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
    }
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_the_hub_gives_what_the_pipeline_reads_and_nothing_that_runs_code(tmp_path, variant):
    source = tmp_path / "source"
    names = ["README.md", "pipeline.py", "tokenizer/config.json", "tokenizer/model.safetensors"]
    names += ["tokenizer/model.fp16.safetensors", "tokenizer/pytorch_model.bin", "tokenizer/weights.pkl"]
    names += ["optimizer.safetensors", "tokenizer/optimizer.safetensors", "another/model.safetensors"]
    for name in names:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(name)
    write_index(source)
    with hub_server(source, "user/titok") as (endpoint, fetched):
        result = download(endpoint, tmp_path, "user/titok", json.dumps({"variant": variant}))
    assert result.returncode == 0, result.stderr
    weights = f"tokenizer/model{'.fp16' if variant else ''}.safetensors"
    assert set(fetched) == {INDEX_NAME, "tokenizer/config.json", weights}
    folder = result.stdout.strip()
    assert {
        os.path.relpath(os.path.join(top, name), folder) for top, _, files in os.walk(folder) for name in files
    } == (set(fetched))


def test_a_repository_that_does_not_exist_is_one_clear_error(tmp_path):
    with hub_server(tmp_path, "user/titok") as (endpoint, _):
        result = download(endpoint, tmp_path, "user/other", "{}")
    assert result.returncode == 1
    assert "OSError: The Hub request for 'user/other' failed" in result.stderr
