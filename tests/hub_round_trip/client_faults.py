"""A push or a pull that fails leaves no half checkpoint, and the same call works once the fault is gone."""

import time

import numpy as np
import pytest
import torch

from hub_client import failing
from hub_server import Fault
from tiny_pipeline import generators, tiny_pipeline
from titok_hf import TiTokModel, TiTokPipeline
from titok_hf.checkpoints.connection import check_push
from titok_hf.checkpoints.pull import pull

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """The client waits up to 23 seconds between its attempts; what it does in them is the same without."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


def images_of(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe([0, 1, 2], generator=generators(0, 1, 2), output_type="np").images


@pytest.fixture(scope="module")
def old():
    return tiny_pipeline()


@pytest.fixture(scope="module")
def new():
    return tiny_pipeline(seed=1)


@pytest.fixture(scope="module")
def images(old, new):
    return {"old": images_of(old), "new": images_of(new)}


@pytest.fixture
def repository(hub, old, tmp_path):
    """A repository that holds the old pipeline."""
    old.save_pretrained(tmp_path / "old")
    repository = hub.repository(f"user/{tmp_path.name}")
    repository.add_folder(tmp_path / "old")
    return repository


PUSH_FAULTS = {
    "not allowed": Fault("POST ", 401),
    "the repository vanishes": Fault("POST .*/preupload/", 404),
    "too many requests": Fault("POST .*/preupload/", 429),
    "the server fails before the weights": Fault("POST .*/objects/batch", 500),
    "the server fails in the weights": Fault("PUT /lfs/", 500),
    "the server fails at the commit": Fault("POST .*/commit/", 500),
    "the connection is cut in the weights": Fault("PUT /lfs/", 0),
    "the connection is cut in the commit": Fault("POST .*/commit/", 0),
}


@pytest.mark.parametrize("fault", PUSH_FAULTS.values(), ids=PUSH_FAULTS)
def test_a_failed_push_changes_nothing_and_can_be_repeated(hub, repository, new, images, fault, tmp_path):
    before = repository.files()
    with failing(fault), pytest.raises(OSError):
        new.push_to_hub(repository.name)
    assert repository.files() == before
    pipe = TiTokPipeline.from_pretrained(repository.name, cache_dir=tmp_path / "1")
    assert np.array_equal(images_of(pipe), images["old"])
    new.push_to_hub(repository.name)
    pipe = TiTokPipeline.from_pretrained(repository.name, cache_dir=tmp_path / "2")
    assert np.array_equal(images_of(pipe), images["new"])


def test_a_failed_first_push_leaves_nothing_that_loads(hub, new, tmp_path):
    with failing(Fault("PUT /lfs/", 0)), pytest.raises(OSError):
        new.push_to_hub("user/first")
    with pytest.raises(OSError, match="model_index.json"):
        TiTokPipeline.from_pretrained("user/first", cache_dir=tmp_path)
    new.push_to_hub("user/first")
    assert TiTokPipeline.from_pretrained("user/first", cache_dir=tmp_path).transformer is not None


PULL_FAULTS = {
    "not allowed": Fault("GET /api/models/", 401),
    "gone": Fault("resolve/.*/model_index.json", 404),
    "too many requests": Fault(f"GET .*/resolve/.*/{WEIGHTS}", 429),
    "the server fails": Fault(f"GET .*/resolve/.*/{WEIGHTS}", 500),
    "the connection is cut": Fault(f"GET .*/resolve/.*/{WEIGHTS}", 0),
    "the connection is cut in a configuration": Fault("GET .*/resolve/.*/scheduler_config.json", 0),
}


@pytest.mark.parametrize("fault", PULL_FAULTS.values(), ids=PULL_FAULTS)
def test_a_failed_pull_leaves_nothing_that_loads_and_can_be_repeated(hub, repository, images, fault, tmp_path):
    with failing(fault), pytest.raises(OSError):
        TiTokPipeline.from_pretrained(repository.name, cache_dir=tmp_path)
    with pytest.raises(OSError):
        TiTokPipeline.from_pretrained(repository.name, cache_dir=tmp_path, local_files_only=True)
    pipe = TiTokPipeline.from_pretrained(repository.name, cache_dir=tmp_path)
    assert np.array_equal(images_of(pipe), images["old"])


@pytest.mark.parametrize("status", [0, 429, 500])
def test_a_model_alone_fails_and_recovers_alike(hub, repository, old, status, tmp_path):
    place = {"subfolder": "tokenizer", "cache_dir": tmp_path}
    with failing(Fault("GET .*/resolve/.*/model.safetensors", status)), pytest.raises(OSError):
        TiTokModel.from_pretrained(repository.name, **place)
    with pytest.raises(OSError):
        TiTokModel.from_pretrained(repository.name, **place, local_files_only=True)
    model = TiTokModel.from_pretrained(repository.name, **place)
    assert torch.equal(model.quantizer.codebook.weight, old.tokenizer.quantizer.codebook.weight)


TRANSIENT = {
    "a busy Hub": Fault(f"GET .*/resolve/.*/{WEIGHTS}", 429, times=2),
    "a Hub that is unwell": Fault(f"GET .*/resolve/.*/{WEIGHTS}", 500, times=2),
    "a Hub that is not there for a moment": Fault("GET /api/models/", 503, times=2),
    "one cut, after which the download goes on": Fault(f"GET .*/resolve/.*/{WEIGHTS}", 0, times=1),
    "a slow Hub": Fault("resolve", None, seconds=0.3),
}


@pytest.mark.parametrize("fault", TRANSIENT.values(), ids=TRANSIENT)
def test_what_passes_by_itself_is_waited_for(hub, repository, images, fault, tmp_path):
    with failing(fault):
        pipe = TiTokPipeline.from_pretrained(repository.name, cache_dir=tmp_path)
    assert np.array_equal(images_of(pipe), images["old"])


@pytest.mark.parametrize("request_", ["POST .*/repos/create", "GET /api/models/.*", "POST .*/commit/"])
@pytest.mark.parametrize("status", [500, 503])
def test_a_push_waits_for_what_passes_by_itself(hub, repository, new, request_, status, tmp_path):
    with failing(Fault(request_, status, times=1)):
        new.push_to_hub(repository.name)
    new.save_pretrained(tmp_path / "new")
    pushed = repository.files()[WEIGHTS]
    assert pushed == (tmp_path / "new" / WEIGHTS).read_bytes()


def test_a_model_alone_is_waited_for_too(hub, repository, old, tmp_path):
    with failing(Fault("GET .*/resolve/.*/model.safetensors", 503, times=2)):
        model = TiTokModel.from_pretrained(repository.name, subfolder="tokenizer", cache_dir=tmp_path)
    assert torch.equal(model.quantizer.codebook.weight, old.tokenizer.quantizer.codebook.weight)


def test_what_cannot_be_pushed_is_known_before_the_work(hub, repository):
    check_push(repository.name)
    check_push("user/not-yet-there", "dataset")
    check_push("name-alone")
    with pytest.raises(OSError, match="logged in as 'user', who may not write to 'stranger/model'"):
        check_push("stranger/model")
    with pytest.raises(ValueError, match="is no id of a Hub repository"):
        check_push("a/b/c")
    with failing(Fault("GET /api/whoami", 401)), pytest.raises(OSError, match="Invalid user token"):
        check_push(repository.name)
    with failing(Fault("GET .*/auth-check/write", 403)), pytest.raises(OSError, match="a token that may write"):
        check_push(repository.name)
    assert ("models", "user/not-yet-there") not in hub.repositories  # asking makes nothing


def test_a_private_push_to_a_public_repository_uploads_nothing(hub, repository, new):
    before = repository.files()
    with pytest.raises(ValueError, match="exists and is public"):
        new.push_to_hub(repository.name, private=True)
    assert repository.files() == before


def test_a_variant_that_nobody_has_is_not_pulled(hub, repository):
    with pytest.raises(ValueError, match="no weights of the variant 'fp8'. Variants there: none"):
        pull(repository.name, variant="fp8")
