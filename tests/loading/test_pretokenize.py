"""titok_hf.data.pretokenize: codes equal the model's, in any number of processes, and survive a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import cache
from importlib.metadata import version

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, load_dataset

from image_sources import content, encoded, image_folder, picture
from tiny_pipeline import tiny_pipeline, tiny_tokenizer
from titok_hf import image_transforms as transforms
from titok_hf.bundled import bundled_checkpoint
from titok_hf.configuration_maskgit_vqgan import MaskGitVQGANConfig
from titok_hf.data.crops import ViewConverter, ViewCutter
from titok_hf.data.encoders import ImageEncoder
from titok_hf.data.pretokenize import EncodingConverter, PretokenizeSettings, encode_chunk, pretokenize
from titok_hf.data.records import Chunk
from titok_hf.data.shards import Part
from titok_hf.data.sources import Source
from titok_hf.data.training_data import recorded_views
from titok_hf.modeling_maskgit_vqgan import MaskGitVQGANModel
from titok_hf.pipeline_titok import TiTokPipeline

BROKEN = (3, 10)
NUMBERS = [number for number in range(22) if number not in BROKEN]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return image_folder(tmp_path_factory.mktemp("source"), 22, BROKEN)


@pytest.fixture(scope="module")
def pipeline():
    """The bundled model, whose codes tell pictures apart."""
    return bundled_checkpoint()


@cache
def reference():
    """The same as a user loads it."""
    pipe = TiTokPipeline.from_pretrained(bundled_checkpoint())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def encoder(model, **settings):
    return ImageEncoder(str(model), batch_size=8, **settings)


def settings(views, **others):
    return PretokenizeSettings(views=views, shard_size=8, **others)


def codes_of(images, model=None):
    """What the model says of pictures, in one batch."""
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2) / 255
    return (model or reference().tokenizer).encode(pixels).codes.numpy()


def test_codes_equal_those_of_the_pipeline(source, pipeline, tmp_path):
    report = pretokenize(source, tmp_path, encoder(pipeline), settings("center"), workers=0)
    assert (report.num_rows, len(report.skipped)) == (20, 2)
    dataset = load_dataset(str(tmp_path), split="train")
    assert dataset.features["codes"].feature.dtype == "uint16" and dataset.features["codes"].length == 32
    assert dataset["source_index"][:] == NUMBERS
    assert dataset["label"][:] == [number * 3 // 22 for number in NUMBERS]
    expected = reference().encode([picture(number) for number in NUMBERS]).numpy()
    assert np.array_equal(np.array(dataset["codes"][:]), expected)
    assert len(np.unique(expected, axis=0)) == 20  # or equality would say nothing


def test_views_are_rows_in_the_published_order(source, pipeline, tmp_path):
    pretokenize(source, tmp_path / "ten", encoder(pipeline), settings("ten_crop"), limit=3, workers=0)
    dataset = load_dataset(str(tmp_path / "ten"), split="train")
    assert dataset["view"][:] == list(range(10)) * 3
    assert dataset["source_index"][:] == [0] * 10 + [1] * 10 + [2] * 10
    expected = codes_of(transforms.ten_crop(picture(1), 32))
    assert np.array_equal(np.array(dataset["codes"][10:20]), expected)
    pretokenize(source, tmp_path / "flip", encoder(pipeline), settings("flip", crop="adm"), limit=1, workers=0)
    square = transforms.adm_center_crop(picture(0), 32)
    codes = load_dataset(str(tmp_path / "flip"), split="train")["codes"][:]
    assert np.array_equal(codes, codes_of([square, transforms.mirror(square)]))


def test_random_views_depend_on_the_seed_and_the_image_alone(source, pipeline, tmp_path):
    def codes(name, limit, seed):
        random = settings("random", num_views=3, seed=seed, min_crop_area=0.3)
        pretokenize(source, tmp_path / name, encoder(pipeline), random, limit=limit, workers=0)
        return np.array(load_dataset(str(tmp_path / name), split="train")["codes"][:])

    many, few, other = codes("many", 9, 0), codes("few", 2, 0), codes("other", 2, 1)
    assert many.shape == (24, 32) and np.array_equal(many[:6], few) and not np.array_equal(few, other)
    assert len(np.unique(few, axis=0)) == 6


def test_random_views_of_equal_images_differ(pipeline, tmp_path):
    twins = Dataset.from_dict({"image": [encoded(0)] * 2}, features=Features({"image": Image()}))
    random = settings("random", num_views=3, min_crop_area=0.3)
    pretokenize(twins, tmp_path, encoder(pipeline), random, workers=0)
    codes = np.array(load_dataset(str(tmp_path), split="train")["codes"][:])
    assert len(np.unique(codes, axis=0)) == 6


def test_workers_and_parts_do_not_matter(source, pipeline, tmp_path):
    tokenizer = encoder(pipeline)
    pretokenize(source, tmp_path / "one", tokenizer, settings("flip"), workers=0)
    for index in (1, 0):
        pretokenize(source, tmp_path / "parts", tokenizer, settings("flip"), workers=0, part=Part(index, 2))
    assert content(tmp_path / "parts") == content(tmp_path / "one")
    threads, used = torch.get_num_threads(), []
    tokenizer.network.encoder.register_forward_pre_hook(lambda *call: used.append(torch.get_num_threads()))
    torch.set_num_threads(2)
    try:
        pretokenize(source, tmp_path / "threads", tokenizer, settings("flip"), workers=0)
        assert torch.get_num_threads() == 2 and set(used) == {1}
    finally:
        torch.set_num_threads(threads)
    assert content(tmp_path / "threads") == content(tmp_path / "one")


def test_a_process_with_a_gpu_encodes_what_workers_cut(source, pipeline):
    """On a GPU the two steps of a CPU worker happen in two processes; their product is the same."""
    tokenizer, views = encoder(pipeline), settings("flip")
    images = Source(load_dataset("imagefolder", data_dir=str(source), split="train"))
    chunk = Chunk(0, list(images.read(0, 5)), False)
    cut = ViewConverter(images.label_names, True, ViewCutter(views, 32))(chunk)
    whole = EncodingConverter(images.label_names, True, ViewCutter(views, 32), tokenizer)(chunk)
    encoded = encode_chunk(cut, tokenizer)
    assert np.array_equal(encoded.columns.pop("codes"), whole.columns.pop("codes"))
    assert encoded == whole and len(whole.report.skipped) == 1


def test_tokens_that_are_not_finite_are_refused(tmp_path):
    torch.manual_seed(0)
    sizes = {"base_channels": 32, "channel_multipliers": (1, 2), "num_resnet_blocks": 1, "codebook_dim": 8}
    models = {
        "vq": tiny_tokenizer(),
        "kl": tiny_tokenizer(quantizer="kl"),
        "vqgan": MaskGitVQGANModel(MaskGitVQGANConfig(codebook_size=300, **sizes)),
    }
    for name, model in models.items():
        model.save_pretrained(tmp_path / name)
        loaded = encoder(tmp_path / name)
        with torch.no_grad():  # as an overflow in half precision would
            for parameter in loaded.network.encoder.parameters():
                parameter.fill_(float("inf"))
        with pytest.raises(ValueError, match="tokens of the encoder are not all finite"):
            loaded(np.zeros((1, 32, 32, 3), dtype=np.uint8))


def test_kl_models_give_their_means_as_float16(source, tmp_path):
    model = tiny_tokenizer(quantizer="kl")
    model.save_pretrained(tmp_path / "kl")
    pretokenize(source, tmp_path / "out", encoder(tmp_path / "kl"), settings("center"), limit=5, workers=0)
    dataset = load_dataset(str(tmp_path / "out"), split="train")
    assert dataset.features["latents"].feature.feature.dtype == "float16"
    squares = np.stack([np.asarray(transforms.center_crop(picture(n), 32)) for n in (0, 1, 2, 4)])
    pixels = torch.from_numpy(squares).permute(0, 3, 1, 2) / 255
    expected = model.encode(pixels, sample_posterior=False).latents.detach().half().numpy()
    assert np.allclose(np.array(dataset["latents"][:]), expected, atol=1e-2)
    assert np.array(dataset["latents"][:]).shape == (4, 8, 4)


def test_maskgit_vqgan_codes_are_made_the_same_way(source, tmp_path):
    torch.manual_seed(0)
    sizes = {"base_channels": 32, "channel_multipliers": (1, 2), "num_resnet_blocks": 1, "codebook_dim": 8}
    model = MaskGitVQGANModel(MaskGitVQGANConfig(codebook_size=300, **sizes))
    model.save_pretrained(tmp_path / "vqgan")
    vqgan = encoder(tmp_path / "vqgan", image_size=8)
    pretokenize(source, tmp_path / "out", vqgan, settings("center"), limit=2, workers=0)
    dataset = load_dataset(str(tmp_path / "out"), split="train")
    expected = codes_of([transforms.center_crop(picture(number), 8) for number in range(2)], model.eval())
    assert np.array_equal(np.array(dataset["codes"][:]), expected) and expected.shape == (2, 16)
    with pytest.raises(ValueError, match="multiples of"):
        pretokenize(source, tmp_path / "no", encoder(tmp_path / "vqgan", image_size=9), workers=0)


def test_latents_that_float16_cannot_hold_are_refused(source, tmp_path):
    model = tiny_tokenizer(quantizer="kl")
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            last = parameter
        last.fill_(1e9)
    model.save_pretrained(tmp_path / "kl")
    with pytest.raises(ValueError, match="which float16 cannot hold"):
        pretokenize(source, tmp_path / "out", encoder(tmp_path / "kl"), settings("center"), limit=5, workers=0)
    assert not list(tmp_path.rglob("*.parquet"))


def test_codes_of_earlier_versions_were_cut_without_a_background(source, pipeline, tmp_path):
    pretokenize(source, tmp_path, encoder(pipeline), settings("center"), limit=2, workers=0)
    assert recorded_views(str(tmp_path)).settings.background == "white"
    report = json.loads((tmp_path / "report-train.json").read_text())
    del report["settings"]["background"]
    (tmp_path / "report-train.json").write_text(json.dumps(report))
    assert recorded_views(str(tmp_path)).settings.background == "none"


def test_bfloat16_encodes(source, pipeline, tmp_path):
    pretokenize(source, tmp_path, encoder(pipeline, precision="bf16"), settings("center"), limit=8, workers=0)
    codes = np.array(load_dataset(str(tmp_path), split="train")["codes"][:])
    expected = reference().encode([picture(n) for n in NUMBERS[:7]]).numpy()
    assert (codes == expected).mean() > 0.8


def test_the_card_says_what_made_the_codes(source, pipeline, tmp_path):
    pretokenize(source, tmp_path, encoder(pipeline), settings("center"), limit=2, workers=0)
    card = (tmp_path / "README.md").read_text()
    record = json.loads((tmp_path / ".titok_hf/train/settings.json").read_text())
    for name in ("config_hash", "weights_hash", "views", "model"):
        assert str(record[name]) in card
    assert f"torch {version('torch')}" in card and "transformers" in card


def test_another_model_or_precision_is_refused(source, pipeline, tmp_path):
    pretokenize(source, tmp_path / "out", encoder(pipeline), settings("center"), limit=2, workers=0)
    tiny_pipeline().save_pretrained(tmp_path / pipeline.name)
    for other in (encoder(tmp_path / pipeline.name), encoder(pipeline, precision="bf16")):
        with pytest.raises(ValueError, match="made with other settings"):
            pretokenize(source, tmp_path / "out", other, settings("center"), limit=2, workers=0)


def test_bad_arguments_are_named(source, pipeline, tmp_path):
    for arguments, message in (
        ({"views": "twelve"}, "views is 'twelve'"),
        ({"views": "random", "num_views": 0}, "num_views is 0"),
        ({"min_crop_area": 0}, "min_crop_area is 0"),
        ({"crop": "none"}, "crop is 'none'"),
    ):
        with pytest.raises(ValueError, match=message):
            PretokenizeSettings(**arguments)
    for arguments, message in (({"precision": "fp8"}, "precision is 'fp8'"), ({"image_size": 64}, "image_size is 64")):
        with pytest.raises(ValueError, match=message):
            pretokenize(source, tmp_path / "out", encoder(pipeline, **arguments), workers=0)
    with pytest.raises(OSError, match="nowhere. does not exist"):
        pretokenize(source, tmp_path / "out", encoder(tmp_path / "nowhere"), workers=0)
    for text in ("3", "4/4", "a/b", "-1/4"):
        with pytest.raises(ValueError):
            Part.from_text(text)
    assert Part.from_text("3/64") == Part(3, 64)


PROGRAM = """
import sys
from titok_hf.data.encoders import ImageEncoder
from titok_hf.data.pretokenize import PretokenizeSettings, pretokenize
if __name__ == "__main__":
    source, model, output, workers = sys.argv[1:]
    settings = PretokenizeSettings(views="flip", shard_size=20)
    pretokenize(source, output, ImageEncoder(model, batch_size=8), settings, workers=int(workers))
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_with_two_processes_and_gives_the_same_bytes(pipeline, tmp_path):
    source = image_folder(tmp_path / "source", 900, broken=(7, 500))
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    arguments = [str(program), str(source), str(pipeline)]
    subprocess.run([sys.executable, *arguments, str(tmp_path / "straight"), "0"], check=True, timeout=300)
    killed = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, *arguments, str(killed), "1"])
    deadline = time.monotonic() + 240
    while not (killed / "data/train-00004.parquet").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait(30) == -signal.SIGKILL
    assert not (killed / "README.md").exists()
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0"]
    subprocess.run([*launcher, *arguments, str(killed), "0"], check=True, timeout=300)
    assert content(killed) == content(tmp_path / "straight")
    assert len(load_dataset(str(killed), split="train")) == 2 * 898


@pytest.mark.parametrize("kind", ["vq", "kl", "vqgan"])
def test_tokens_that_are_not_finite_are_refused_where_they_are_made(kind):
    encoder = ImageEncoder("a model in memory")
    if kind == "vqgan":
        sizes = {"base_channels": 8, "channel_multipliers": [1, 1], "num_groups": 4}
        model = MaskGitVQGANModel(MaskGitVQGANConfig(**sizes, codebook_dim=4, codebook_size=8))
    else:
        model = tiny_tokenizer(quantizer=kind)
    encoder.__dict__["network"] = model.eval()  # where the cached property keeps what it has loaded
    pixels = np.zeros((2, 32, 32, 3), np.uint8)
    assert len(encoder(pixels)) == 2
    last = model.encoder.output_projection if kind != "vqgan" else list(model.encoder.parameters())[-1]
    with torch.no_grad():
        (last.bias if kind != "vqgan" else last)[0] = 1e5 if kind == "kl" else torch.inf
    with pytest.raises(ValueError, match="finite|float16"):
        encoder(pixels)
