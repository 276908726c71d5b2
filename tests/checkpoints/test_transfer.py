"""Push and pull against a Hub on this machine, through the command, in processes of their own."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from huggingface_hub import RepoCard
from PIL import Image

from hub_server import STRANGER_TOKEN, Fault, local_hub
from tiny_pipeline import tiny_pipeline, tiny_tokenizer
from titok_hf.checkpoints.cards import CARD_NAME, is_generated, write_model_card
from titok_hf.checkpoints.pull import needed_files
from titok_hf.data.prepare import PrepareSettings, prepare

COMMAND = [sys.executable, "-m", "titok_hf.cli"]


@pytest.fixture
def hub():
    with local_hub() as hub:
        yield hub


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A saved pipeline that no test changes."""
    folder = tmp_path_factory.mktemp("saved") / "tiny"
    tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of it."""
    return shutil.copytree(saved, tmp_path / "tiny")


@pytest.fixture
def titok_hf(hub, tmp_path):
    """Runs the command with `--json` against the Hub; gives its answer, or its error when `exit_code` is not 0."""

    def run(*arguments, exit_code=0, **environment):
        options = hub.environment(tmp_path / "cache") | environment
        command = [*COMMAND, *map(str, arguments), "--json"]
        result = subprocess.run(command, env=os.environ | options, capture_output=True, text=True, timeout=120)
        assert result.returncode == exit_code, result.stderr
        assert "Traceback" not in result.stderr
        return json.loads(result.stdout) if exit_code == 0 else result.stderr

    return run


def files_in(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def titok_hf_card(folder):
    """A generated card in the place of the one that is there."""
    (folder / CARD_NAME).unlink()
    return write_model_card(folder).read_text()


def remote_files(hub, repo_id, revision="main", kind="models"):
    return {path: file.content for path, file in hub.repositories[kind, repo_id].at(revision).files.items()}


def test_a_pipeline_is_pushed_in_one_commit_and_pulled_the_same(hub, titok_hf, folder, tmp_path):
    (folder / CARD_NAME).unlink()
    (folder / ".hidden").write_text("mine")
    (folder / "pickle.bin").write_text("never")
    pushed = titok_hf("push", folder, "user/tiny", "--private")
    assert pushed["kind"] == "pipeline" and pushed["repo_id"] == "user/tiny" and not pushed["deleted"]
    there = remote_files(hub, "user/tiny")
    expected = {name: content for name, content in files_in(folder).items() if name not in (".hidden", "pickle.bin")}
    assert {name: content for name, content in there.items() if name != ".gitattributes"} == expected
    assert 'from_pretrained("user/tiny")' in there[CARD_NAME].decode() and is_generated(there[CARD_NAME].decode())
    assert len([request for request in hub.requests if "/commit/" in request]) == 1
    assert hub.repositories["models", "user/tiny"].private

    pulled = titok_hf("pull", "user/tiny", tmp_path / "here")
    assert pulled["folder"] == str(tmp_path / "here") and files_in(tmp_path / "here") == expected
    hub.fetched.clear()
    cached = titok_hf("pull", "user/tiny")
    assert hub.fetched == [] and files_in(tmp_path / "here").keys() == set(cached["files"])
    offline = titok_hf("pull", "user/tiny", HF_HUB_OFFLINE="1")
    assert offline["folder"] == cached["folder"]


@pytest.mark.slow
def test_the_card_of_a_person_on_the_hub_stays(hub, titok_hf, folder):
    (folder / CARD_NAME).write_text("my own card\n")
    titok_hf("push", folder, "user/tiny")
    assert remote_files(hub, "user/tiny")[CARD_NAME] == b"my own card\n"
    (folder / CARD_NAME).unlink()
    pushed = titok_hf("push", folder, "user/tiny")
    assert pushed["card_kept"] and remote_files(hub, "user/tiny")[CARD_NAME] == b"my own card\n"
    # Which of two edited cards is the newer one nobody can tell but the person.
    (folder / CARD_NAME).write_text("my other card\n")
    assert titok_hf("push", folder, "user/tiny")["card_kept"]
    assert remote_files(hub, "user/tiny")[CARD_NAME] == b"my own card\n"
    assert not titok_hf("push", folder, "user/tiny", "--replace-card")["card_kept"]
    assert remote_files(hub, "user/tiny")[CARD_NAME] == b"my other card\n"
    hub.faults.append(Fault(r"POST .*/commit/", status=403))
    generated = titok_hf_card(folder)
    titok_hf("push", folder, "user/other", exit_code=1)
    assert (folder / CARD_NAME).read_text() == generated  # a failed push changes nothing here


@pytest.mark.slow
def test_weights_in_one_file_replace_those_in_several(hub, titok_hf, tmp_path):
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    tokenizer.save_pretrained(tmp_path / "whole")
    tokenizer.save_pretrained(tmp_path / "variant", variant="fp16")
    titok_hf("push", tmp_path / "shards", "user/tiny")
    shards = [name for name in remote_files(hub, "user/tiny") if "safetensors" in name]
    assert len(shards) > 2
    titok_hf("push", tmp_path / "variant", "user/tiny")
    assert set(shards) < set(remote_files(hub, "user/tiny"))
    assert set(titok_hf("push", tmp_path / "whole", "user/tiny")["deleted"]) == set(shards)
    there = {name for name in remote_files(hub, "user/tiny") if "safetensors" in name}
    assert there == {"model.safetensors", "model.fp16.safetensors"}
    assert "model.fp16.safetensors" not in titok_hf("pull", "user/tiny")["files"]
    assert "model.safetensors" not in titok_hf("pull", "user/tiny", "--variant", "fp16")["files"]
    described = titok_hf("info", "user/tiny")
    assert described["kind"] == "tokenizer" and described["weights"]["tokenizer"]["variants"] == [None, "fp16"]


@pytest.mark.slow
def test_branches_and_pull_requests(hub, titok_hf, folder):
    titok_hf("push", folder, "user/tiny", "--message", "First")
    before = remote_files(hub, "user/tiny")
    (folder / CARD_NAME).write_text("another card\n")
    titok_hf("push", folder, "user/tiny", "--revision", "next")
    assert remote_files(hub, "user/tiny", "next")[CARD_NAME] == b"another card\n"
    assert "discussions" in titok_hf("push", folder, "user/tiny", "--create-pr")["address"]
    assert remote_files(hub, "user/tiny") == before
    next_card = os.path.join(titok_hf("pull", "user/tiny", "--revision", "next")["folder"], CARD_NAME)
    with open(next_card) as file:
        assert file.read() == "another card\n"


def test_a_data_set_is_pushed_and_pulled(hub, titok_hf, tmp_path):
    for name in ("data/train-00000.parquet", ".titok_hf/train/state.json"):
        (tmp_path / "codes" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "codes" / name).write_text(name)
    assert "is not finished" in titok_hf("push", tmp_path / "codes", "user/codes", exit_code=1)
    (tmp_path / "codes" / CARD_NAME).write_text("# Codes\n")
    assert titok_hf("push", tmp_path / "codes", "user/codes")["kind"] == "data set"
    there = remote_files(hub, "user/codes", kind="datasets")
    assert {name for name in there if not name.startswith(".")} == {CARD_NAME, "data/train-00000.parquet"}
    titok_hf("pull", "user/codes", tmp_path / "here")
    assert files_in(tmp_path / "here") == {name: there[name] for name in (CARD_NAME, "data/train-00000.parquet")}


@pytest.mark.slow
def test_a_data_set_pushed_again_leaves_no_old_shards_and_keeps_an_edited_card(hub, titok_hf, tmp_path):
    images = [Image.new("RGB", (8, 8), (shade, 0, 0)) for shade in range(5)]
    rows = Dataset.from_dict({"image": images}, features=Features({"image": ImageFeature()}))
    folder = tmp_path / "data set"
    for split in ("train", "train_b"):
        prepare(rows, folder, PrepareSettings(image_size=8, shard_size=2), split=split, workers=0)
    titok_hf("push", folder, "user/data")
    card = remote_files(hub, "user/data", kind="datasets")[CARD_NAME].decode()
    assert 'load_dataset("user/data")' in card and str(tmp_path) not in card
    hub.repositories["datasets", "user/data"].add_files({CARD_NAME: card.replace("# Images", "# My images").encode()})

    shutil.rmtree(folder)
    prepare(rows, folder, PrepareSettings(image_size=8, shard_size=4), split="train", workers=0)
    pushed = titok_hf("push", folder, "user/data")
    there = remote_files(hub, "user/data", kind="datasets")
    shards = sorted(name for name in there if name.endswith(".parquet"))
    assert shards == [f"data/train-0000{n}.parquet" for n in (0, 1)] + [
        f"data/train_b-0000{n}.parquet" for n in range(3)
    ]
    assert pushed["deleted"] == ["data/train-00002.parquet"]
    card = RepoCard(there[CARD_NAME].decode())
    assert pushed["card_kept"] and "# My images" in card.content
    assert [split["name"] for split in card.data["dataset_info"]["splits"]] == ["train"]


@pytest.mark.slow
def test_links_out_of_the_folder_are_not_uploaded(hub, titok_hf, folder, tmp_path):
    (tmp_path / "secret.txt").write_text("mine")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.png").write_text("mine")
    (folder / "notes.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "assets").symlink_to(tmp_path / "photos")
    (folder / "loop").symlink_to(folder)
    (folder / "old").mkdir()
    (folder / "old" / "model.safetensors").write_text("unrelated")
    (folder / "again.png").symlink_to(folder / "README.md")  # stays inside
    (folder / "LICENSE").write_text("mine")
    (folder / "e").write_text("a name that stands in every card, as a letter")
    pushed = titok_hf("push", folder, "user/tiny")
    assert sorted(pushed["left_out"]) == ["assets", "e", "loop", "notes.txt", "old/model.safetensors"]
    there = remote_files(hub, "user/tiny")
    assert {"again.png", "LICENSE"} <= there.keys() and not {"notes.txt", "assets/me.png"} & there.keys()
    weights = folder / "tokenizer" / "model.safetensors"
    weights.rename(tmp_path / "elsewhere.safetensors")
    weights.symlink_to(tmp_path / "elsewhere.safetensors")
    assert "is a link to a file outside" in titok_hf("push", folder, "user/tiny", exit_code=1)
    cached = titok_hf("pull", "user/tiny")["folder"]  # where every file is a link
    assert not titok_hf("push", cached, "user/again")["left_out"]
    assert remote_files(hub, "user/again").keys() == there.keys()


@pytest.mark.slow
def test_info_of_an_id_reads_no_weights(hub, titok_hf, folder, tmp_path):
    titok_hf("push", folder, "user/tiny")
    described, here = titok_hf("info", "user/tiny"), titok_hf("info", folder)
    assert described == here and described["weights"]["transformer"]["num_parameters"] > 0
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


PUSH_MODELS = """
import sys
from titok_hf import MaskGitTransformer1DModel, TiTokModel, TiTokPipeline
TiTokModel.from_pretrained(sys.argv[1] + "/tokenizer").push_to_hub("user/tokenizer")
generator = MaskGitTransformer1DModel.from_pretrained(sys.argv[1] + "/transformer")
print(generator.push_to_hub("user/generator", private=True, variant="fp16"))
"""


@pytest.mark.slow
def test_models_are_pushed_with_our_card_and_without_local_paths(hub, saved, tmp_path):
    command = [sys.executable, "-c", PUSH_MODELS, str(saved)]
    options = {"env": os.environ | hub.environment(tmp_path / "cache"), "timeout": 120, "check": True}
    address = subprocess.run(command, stdout=subprocess.PIPE, text=True, **options).stdout
    assert "/user/generator/commit/" in address and hub.repositories["models", "user/generator"].private
    for name, class_name in (("tokenizer", "TiTokModel"), ("generator", "MaskGitTransformer1DModel")):
        files = remote_files(hub, f"user/{name}")
        card = files[CARD_NAME].decode()
        assert is_generated(card) and f'{class_name}.from_pretrained("user/{name}")' in card
        assert not [path for path, content in files.items() if str(saved).encode() in content]


@pytest.mark.slow
def test_errors_are_one_line_and_change_nothing(hub, titok_hf, folder, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "is not a TiTok pipeline" in titok_hf("push", tmp_path / "empty", "user/tiny", exit_code=1)
    assert "is no id of a Hub" in titok_hf("push", folder, "not an id", exit_code=1)
    assert "no weights of the variant 'fp16'" in titok_hf(
        "push", folder, "user/tiny", "--variant", "fp16", exit_code=1
    )
    assert hub.repositories == {}
    assert "The Hub request for" in titok_hf("pull", "user/none", tmp_path / "out", exit_code=1)
    hub.faults.append(Fault(r"POST .*/commit/", status=0))
    error = titok_hf("push", folder, "user/tiny", exit_code=1)
    assert "The Hub request for 'user/tiny' failed" in error and len(error.strip().splitlines()) == 1
    assert "tokenizer/config.json" not in remote_files(hub, "user/tiny")
    hub.faults.clear()
    titok_hf("push", folder, "user/tiny")
    assert "403" in titok_hf("push", folder, "user/tiny", exit_code=1, HF_TOKEN=STRANGER_TOKEN)
    hub.faults.append(Fault(r"GET .*safetensors", status=0))
    titok_hf("pull", "user/tiny", tmp_path / "out", exit_code=1, HF_HUB_DOWNLOAD_TIMEOUT="2")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".unfinished*"))


def test_needed_files_are_those_of_one_variant_without_pickles():
    names = [
        "a.json",
        "t/model.safetensors",
        "t/model.fp16.safetensors",
        "g/model.safetensors",
        "g/x.bin",
        ".git/a.md",
    ]
    assert needed_files(names) == ["a.json", "g/model.safetensors", "t/model.safetensors"]
    assert needed_files(names, "fp16") == ["a.json", "g/model.safetensors", "t/model.fp16.safetensors"]
    sharded = ["model.safetensors.index.fp16.json", "model.fp16-00001-of-00002.safetensors"]
    plain = ["model.safetensors.index.json", "model-00001-of-00002.safetensors"]
    assert needed_files(sharded + plain) == sorted(plain)
    assert needed_files(sharded + plain, "fp16") == sorted(sharded)
