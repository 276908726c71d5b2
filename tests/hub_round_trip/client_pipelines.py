"""Push and pull of pipelines: by id, private, from revisions, as variants, from subfolders, in pieces, offline."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

from hub_client import CACHE
from hub_server import OWNER_TOKEN, STRANGER_TOKEN
from plain_engine import PLAIN
from tiny_pipeline import generators, tiny_pipeline
from titok_hf import ExportedTiTokPipeline, TiTokPipeline, bundled_checkpoint
from titok_hf.exported.engines import ENGINES
from titok_hf.exported.export import export_pipeline

SMALL_FILES = {"model_index.json", "scheduler/scheduler_config.json", "image_processor/preprocessor_config.json"}
SMALL_FILES |= {"tokenizer/config.json", "transformer/config.json"}
WEIGHTS = {"tokenizer/model.safetensors", "transformer/diffusion_pytorch_model.safetensors"}

PROGRAM = """
import sys, numpy, torch
from titok_hf import TiTokPipeline
pipe = TiTokPipeline.from_pretrained(sys.argv[1])
generator = [torch.Generator().manual_seed(seed) for seed in range(3)]
numpy.save(sys.argv[2], pipe([0, 1, 2], generator=generator, output_type="np").images)
"""


def images_of(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe([0, 1, 2], generator=generators(0, 1, 2), output_type="np").images


@pytest.fixture(scope="module")
def tiny_images():
    return images_of(tiny_pipeline())


@pytest.fixture
def tiny_repository(hub, tmp_path):
    """A public repository with the tiny pipeline, made without the client."""
    tiny_pipeline().save_pretrained(tmp_path / "tiny")
    repository = hub.repository(f"user/{tmp_path.name}")
    repository.add_folder(tmp_path / "tiny")
    return repository


def test_the_bundled_pipeline_comes_back_bit_for_bit(hub, tmp_path):
    pipe = TiTokPipeline.from_pretrained(bundled_checkpoint())
    pipe.push_to_hub("user/fashion")
    pulled = TiTokPipeline.from_pretrained("user/fashion")
    assert np.array_equal(images_of(pulled), images_of(pipe))
    assert pulled.config._name_or_path == "user/fashion" and pulled.id2label == pipe.id2label
    assert b"library_name: titok-hf" in hub.repository("user/fashion").files()["README.md"]


def test_a_second_load_fetches_nothing_and_works_offline(hub, tiny_repository, tiny_images, tmp_path):
    name = tiny_repository.name
    assert np.array_equal(images_of(TiTokPipeline.from_pretrained(name)), tiny_images)
    assert set(hub.fetched) == SMALL_FILES | WEIGHTS and len(hub.fetched) == len(set(hub.fetched))
    hub.fetched.clear()
    hub.requests.clear()
    TiTokPipeline.from_pretrained(name)
    assert hub.fetched == [] and len(hub.requests) <= 2
    hub.requests.clear()
    TiTokPipeline.from_pretrained(name, local_files_only=True)
    assert hub.requests == []
    offline = os.environ | hub.environment(CACHE, offline=True)
    subprocess.run([sys.executable, "-c", PROGRAM, name, str(tmp_path / "images.npy")], env=offline, check=True)
    assert np.array_equal(np.load(tmp_path / "images.npy"), tiny_images) and hub.requests == []
    TiTokPipeline.from_pretrained(name, force_download=True)
    assert set(hub.fetched) == SMALL_FILES | WEIGHTS


def test_nothing_is_fetched_that_the_pipeline_does_not_read(hub, tiny_repository):
    others = ["optimizer.safetensors", "tokenizer/optimizer.safetensors", "checkpoints/step_1/model.safetensors"]
    others += ["tokenizer/model.fp16.safetensors", "tokenizer/pytorch_model.bin", "samples.png", "curves/loss.json"]
    tiny_repository.add_files(dict.fromkeys(others, b"x" * 100_000))
    hub.page_size = 5  # the listing comes in several pages
    try:
        TiTokPipeline.from_pretrained(tiny_repository.name)
    finally:
        hub.page_size = 1000
    assert set(hub.fetched) == SMALL_FILES | WEIGHTS
    assert not any(request.endswith(".py") for request in hub.requests)


def test_a_cache_folder_can_be_named(hub, tiny_repository, tmp_path):
    TiTokPipeline.from_pretrained(tiny_repository.name, cache_dir=tmp_path / "elsewhere")
    assert list((tmp_path / "elsewhere").rglob("model_index.json"))
    with pytest.raises(OSError, match="the cache does not have all of it"):
        TiTokPipeline.from_pretrained(tiny_repository.name, cache_dir=tmp_path / "empty", local_files_only=True)


def test_private_repositories_open_to_their_owner_alone(hub, tmp_path):
    tiny_pipeline().push_to_hub("user/secret", private=True, token=OWNER_TOKEN)
    assert hub.repositories["models", "user/secret"].private
    for token in (False, STRANGER_TOKEN, "hf_invented"):
        with pytest.raises(OSError, match="your login"):
            TiTokPipeline.from_pretrained("user/secret", token=token, cache_dir=tmp_path)
    with pytest.raises(OSError):
        tiny_pipeline().push_to_hub("user/secret", token=STRANGER_TOKEN)
    TiTokPipeline.from_pretrained("user/secret", token=OWNER_TOKEN, cache_dir=tmp_path)


def test_branches_tags_and_pull_requests_hold_their_own_state(hub, tiny_repository, tiny_images):
    first = tiny_repository.refs["refs/heads/main"]
    tiny_repository.refs["refs/tags/v1"] = first
    other = tiny_pipeline(seed=1)
    other.push_to_hub(tiny_repository.name, create_pr=True)
    assert tiny_repository.refs["refs/heads/main"] == first and "refs/pr/1" in tiny_repository.refs
    other.push_to_hub(tiny_repository.name)
    images = images_of(other)
    for revision, expected in {"v1": tiny_images, first: tiny_images, "refs/pr/1": images, "main": images}.items():
        pipe = TiTokPipeline.from_pretrained(tiny_repository.name, revision=revision)
        assert np.array_equal(images_of(pipe), expected), revision
    with pytest.raises(OSError, match="the revision"):
        TiTokPipeline.from_pretrained(tiny_repository.name, revision="v2")


def test_a_variant_lies_beside_the_plain_weights_and_is_fetched_alone(hub, tiny_repository):
    half = tiny_pipeline(seed=2).to(torch.float16)
    half.push_to_hub(tiny_repository.name, variant="fp16")
    pipe = TiTokPipeline.from_pretrained(tiny_repository.name, variant="fp16", dtype=torch.float16)
    assert torch.equal(pipe.transformer.lm_head.weight, half.transformer.lm_head.weight)
    weights = {path for path in hub.fetched if path.endswith(".safetensors")}
    assert weights == {path.replace(".safetensors", ".fp16.safetensors") for path in WEIGHTS}


def test_a_part_without_the_variant_comes_plain(hub, tiny_repository):
    tiny_repository.add_files(
        {"transformer/diffusion_pytorch_model.ema.safetensors": tiny_repository.files()[max(WEIGHTS)]}
    )
    pipe = TiTokPipeline.from_pretrained(tiny_repository.name, variant="ema")
    assert pipe.tokenizer is not None
    weights = {path for path in hub.fetched if path.endswith(".safetensors")}
    assert weights == {"tokenizer/model.safetensors", "transformer/diffusion_pytorch_model.ema.safetensors"}


def test_a_pipeline_may_lie_in_a_subfolder(hub, tiny_images, tmp_path):
    tiny_pipeline().save_pretrained(tmp_path / "models" / "small")
    tiny_pipeline(seed=1).save_pretrained(tmp_path)
    hub.repository("user/both").add_folder(tmp_path)
    assert np.array_equal(images_of(TiTokPipeline.from_pretrained(tmp_path, subfolder="models/small")), tiny_images)
    pipe = TiTokPipeline.from_pretrained("user/both", subfolder="models/small", cache_dir=tmp_path / "cache")
    assert np.array_equal(images_of(pipe), tiny_images)
    assert all(path.startswith("models/small/") for path in hub.fetched)


def test_weights_in_pieces_are_pushed_and_pulled(hub, tiny_images, tmp_path):
    tiny_pipeline().save_pretrained(tmp_path, max_shard_size="50KB", push_to_hub=True, repo_id="user/pieces")
    pieces = [path for path in hub.repository("user/pieces").files() if path.endswith(".safetensors")]
    assert len(pieces) > 3
    assert np.array_equal(images_of(TiTokPipeline.from_pretrained("user/pieces")), tiny_images)


def test_of_two_pushes_at_once_one_stays_whole(hub):
    pipes = [tiny_pipeline(seed) for seed in (3, 4)]
    expected = [images_of(pipe) for pipe in pipes]
    pushes = [threading.Thread(target=pipe.push_to_hub, args=("user/race",)) for pipe in pipes]
    for push in pushes:
        push.start()
    for push in pushes:
        push.join()
    repository = hub.repository("user/race")
    assert len(repository.commits) >= 3
    for revision in repository.commits:
        if repository.files(revision):
            images = images_of(TiTokPipeline.from_pretrained("user/race", revision=revision))
            assert sum(np.array_equal(images, each) for each in expected) == 1


def test_of_an_export_on_the_hub_only_the_chosen_files_are_fetched(hub, tiny_images, tmp_path, monkeypatch):
    pytest.importorskip("transformers.exporters.runners", reason="exporting needs transformers 5.23")
    monkeypatch.setitem(ENGINES, "plain", PLAIN)
    export_pipeline(tiny_pipeline(), tmp_path / "exported", "plain", ["fp32", "bf16"])
    hub.repository("user/exported").add_folder(tmp_path / "exported")
    exported = ExportedTiTokPipeline.from_pretrained("user/exported")
    np.testing.assert_allclose(images_of(exported), tiny_images, atol=1e-5)
    programs = {f"plain/{name}_model.pt2" for name in ("encoder", "decoder", "generator")}
    assert set(hub.fetched) == {"titok_export.json"} | programs
