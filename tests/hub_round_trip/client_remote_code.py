"""Loading in a process that has torch, transformers and diffusers, but has not imported titok_hf.

Each check runs in a fork of this process, since the first one that loads something imports the package.
"""

import hashlib
import importlib.util
import os
import pickle
import sys
import traceback
from pathlib import Path

import diffusers.pipelines.pipeline_utils
import pytest
import torch
import transformers.pipelines
from diffusers import DiffusionPipeline
from transformers import AutoImageProcessor, AutoModel, pipeline

from hub_client import HUB

PACKAGE = Path(importlib.util.find_spec("titok_hf").origin).parent
BUNDLED = PACKAGE / "bundled" / "titok-fashion-32"
HUB.repository("user/fashion").add_folder(BUNDLED)
HUB.repository("user/tokenizer").add_folder(BUNDLED / "tokenizer")

assert "titok_hf" not in sys.modules
assert diffusers.pipelines.pipeline_utils and transformers.pipelines  # imported now, and not anew in every fork


def in_a_fork(check):
    """What `check` returns in a copy of this process, or its exception as text."""
    receiving, sending = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            answer = (True, check())
        except BaseException:
            answer = (False, traceback.format_exc())
        with os.fdopen(sending, "wb") as stream:
            pickle.dump(answer, stream)
        os._exit(0)
    os.close(sending)
    with os.fdopen(receiving, "rb") as stream:
        answer = pickle.load(stream)
    os.waitpid(process, 0)
    return answer


def loaded(check):
    """As `in_a_fork`, for a check that must succeed."""
    succeeded, answer = in_a_fork(check)
    assert succeeded, answer
    return answer


def digest(pipe):
    pipe.set_progress_bar_config(disable=True)
    images = pipe(["Bag", 7], generator=torch.Generator().manual_seed(3)).images
    return hashlib.sha256(b"".join(image.tobytes() for image in images)).hexdigest()


@pytest.fixture(scope="module")
def expected():
    def with_its_own_class():
        from titok_hf import TiTokPipeline

        return digest(TiTokPipeline.from_pretrained(BUNDLED))

    return loaded(with_its_own_class)


@pytest.mark.parametrize("source", ["user/fashion", str(BUNDLED)], ids=["id", "folder"])
def test_diffusion_pipeline_makes_the_same_images(hub, source, expected):
    def check():
        pipe = DiffusionPipeline.from_pretrained(source, trust_remote_code=True)
        return type(pipe).__module__, type(pipe.tokenizer).__module__, digest(pipe)

    assert loaded(check) == ("titok_hf.pipeline_titok", "titok_hf.modeling_titok", expected)


@pytest.mark.parametrize(
    "place",
    [
        {"pretrained_model_name_or_path": "user/tokenizer"},
        {"pretrained_model_name_or_path": "user/fashion", "subfolder": "tokenizer"},
        {"pretrained_model_name_or_path": str(BUNDLED / "tokenizer")},
        {"pretrained_model_name_or_path": str(BUNDLED), "subfolder": "tokenizer"},
    ],
    ids=["id", "id and subfolder", "folder", "folder and subfolder"],
)
def test_auto_classes_load_model_and_image_processor(hub, place, tmp_path):
    def model():
        model = AutoModel.from_pretrained(**place, trust_remote_code=True)
        model.save_pretrained(tmp_path / "again")
        again = sorted(path.name for path in (tmp_path / "again").iterdir())
        return type(model).__module__, model.config.num_latent_tokens, again

    files = ["config.json", "model.safetensors", "titok.py"]
    assert loaded(model) == ("titok_hf.modeling_titok", 32, files)

    def image_processor():
        return type(AutoImageProcessor.from_pretrained(**place, trust_remote_code=True)).__module__

    assert loaded(image_processor).startswith("titok_hf.image_processing")


@pytest.mark.parametrize("source", ["user/tokenizer", str(BUNDLED / "tokenizer")], ids=["id", "folder"])
def test_the_tasks_work(hub, source):
    def check():
        codes = list(range(32))
        image = pipeline("codes-to-image", model=source, trust_remote_code=True, device="cpu")(codes)
        return image.size, len(pipeline("image-to-codes", model=source, device="cpu")(image))

    assert loaded(check) == ((32, 32), 32)


def test_without_trust_nothing_of_the_repository_is_run(hub):
    for load in (DiffusionPipeline.from_pretrained, AutoModel.from_pretrained):
        source = "user/fashion" if load.__self__ is DiffusionPipeline else "user/tokenizer"
        succeeded, error = in_a_fork(lambda load=load, source=source: load(source, trust_remote_code=False))
        assert not succeeded and "trust_remote_code=True" in error


class NotInstalled:
    """A finder in front of all others: the package is not there."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "titok_hf":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.mark.parametrize("source", ["id", "folder"])
def test_where_the_package_is_not_installed_the_error_names_it(hub, source):
    pipeline_source, model_source = {
        "id": ("user/fashion", "user/tokenizer"),
        "folder": (str(BUNDLED), str(BUNDLED / "tokenizer")),
    }[source]

    def check(load, place):
        sys.meta_path.insert(0, NotInstalled())
        load(place, trust_remote_code=True)

    for load, place in (
        (DiffusionPipeline.from_pretrained, pipeline_source),
        (AutoModel.from_pretrained, model_source),
        (AutoImageProcessor.from_pretrained, model_source),
    ):
        succeeded, error = in_a_fork(lambda load=load, place=place: check(load, place))
        assert not succeeded
        assert "pip install titok-hf" in error.strip().splitlines()[-1]
