"""titok_hf.data.loaders.ImageCodeLoader: the codes of a batch are those that the tokenizer gives its pixels."""

import json
from itertools import islice

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, List, Value, load_dataset

from image_sources import encoded, image_folder, picture
from titok_hf import image_transforms as transforms
from titok_hf.configuration_maskgit_vqgan import MaskGitVQGANConfig
from titok_hf.data.encoders import ImageEncoder
from titok_hf.data.loaders import ImageCodeLoader
from titok_hf.data.prepare import PrepareSettings, prepare
from titok_hf.data.pretokenize import PretokenizeSettings, pretokenize
from titok_hf.data.shards import Part
from titok_hf.data.training_data import center_view, open_codes, open_images, recorded_views
from titok_hf.modeling_maskgit_vqgan import MaskGitVQGANModel

BROKEN = (3, 10)
VIEWS = {
    "center": PretokenizeSettings(),
    "adm-flip": PretokenizeSettings(views="flip", crop="adm"),
    "ten-crop": PretokenizeSettings(views="ten_crop"),
    "random": PretokenizeSettings(views="random", num_views=3, min_crop_area=0.3, seed=7, enlarge=False),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return image_folder(tmp_path_factory.mktemp("source"), 22, BROKEN)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    torch.manual_seed(0)
    sizes = {"base_channels": 32, "channel_multipliers": (1, 2), "num_resnet_blocks": 1, "codebook_dim": 8}
    model = MaskGitVQGANModel(MaskGitVQGANConfig(codebook_size=300, **sizes)).eval()
    model.save_pretrained(folder := tmp_path_factory.mktemp("teacher"))
    return model, ImageEncoder(str(folder), image_size=16)


@torch.no_grad()
def codes_of(model, pixels):
    return model.encode(pixels.float() / 255).codes


@pytest.mark.parametrize("views", VIEWS)
def test_codes_belong_to_the_pixels(views, source, teacher, tmp_path):
    model, encoder = teacher
    pretokenize(str(source), tmp_path, encoder, VIEWS[views], workers=0)
    images, codes = open_images(str(source)), open_codes(str(tmp_path))
    loader = ImageCodeLoader(images, codes, recorded_views(str(tmp_path)), batch_size=20, seed=1)
    epochs = list(islice(loader, 2))
    for batch in epochs:
        assert batch["pixels"].shape == (20, 3, 16, 16) and batch["pixels"].dtype == torch.uint8
        assert batch["codes"].shape == (20, 64) and batch["codes"].dtype == batch["label"].dtype == torch.int64
        assert (codes_of(model, batch["pixels"]) == batch["codes"]).float().mean() > 0.999  # of an untrained model
        assert len(torch.unique(batch["codes"], dim=0)) == 20
    if views != "center":
        rows = [{tuple(row) for row in batch["codes"].tolist()} for batch in epochs]
        assert rows[0] != rows[1]  # other views


def test_workers_parts_and_resume_do_not_matter(source, teacher, tmp_path):
    pretokenize(str(source), tmp_path, teacher[1], VIEWS["random"], workers=0)
    images, codes = open_images(str(source)), open_codes(str(tmp_path))

    def loader(batch_size=6, **arguments):
        return ImageCodeLoader(images, codes, recorded_views(str(tmp_path)), batch_size, **arguments)

    expected = list(islice(loader(), 6))
    parts = [list(islice(loader(3, part=Part(index, 2), workers=1), 2)) for index in range(2)]
    stopped, resumed = loader(), loader(2, part=Part(1, 3))
    list(islice(stopped, 2))
    resumed.load_state_dict(stopped.state_dict())
    rest = list(islice(resumed, 4))
    for name in ("pixels", "codes", "label"):
        for number in range(2):
            shares = [parts[index][number][name] for index in range(2)]
            assert torch.equal(torch.stack(shares, 1).flatten(0, 1), expected[number][name])
        assert all(torch.equal(got[name], whole[name][1::3]) for got, whole in zip(rest, expected[2:], strict=True))


def test_images_are_found_by_their_number_in_the_source(source, teacher, tmp_path):
    model, encoder = teacher
    prepare(str(source), tmp_path / "images", PrepareSettings(image_size=16, image_format="png"), workers=0)
    pretokenize(str(tmp_path / "images"), tmp_path / "codes", encoder, workers=0)
    shuffled = open_images(str(tmp_path / "images")).shuffle(seed=0)
    codes, views = open_codes(str(tmp_path / "codes")), recorded_views(str(tmp_path / "codes"))
    batch = next(iter(ImageCodeLoader(shuffled, codes, views, batch_size=20)))
    assert (codes_of(model, batch["pixels"]) == batch["codes"]).float().mean() > 0.999
    with pytest.raises(ValueError, match="codes of 15 images that are not among the 5 images"):
        ImageCodeLoader(shuffled.select(range(5)), codes, views, batch_size=5)


def test_a_data_set_may_bring_its_own_codes():
    features = Features({"image": Image(), "codes": List(Value("uint16"), length=2)})
    rows = {"image": [encoded(number) for number in range(6)], "codes": [[number, 9] for number in range(6)]}
    loader = ImageCodeLoader(Dataset.from_dict(rows, features=features), None, center_view(16), batch_size=6)
    batch = next(iter(loader))
    assert set(batch) == {"pixels", "codes"} and sorted(batch["codes"][:, 0].tolist()) == list(range(6))
    for pixels, number in zip(batch["pixels"], batch["codes"][:, 0].tolist(), strict=True):
        expected = np.asarray(transforms.center_crop(picture(number), 16)).transpose(2, 0, 1)
        assert np.array_equal(pixels, expected)


def test_bad_input_is_named(source, teacher, tmp_path):
    images = open_images(str(source))
    with pytest.raises(ValueError, match="no column 'codes'"):
        ImageCodeLoader(images, None, center_view(16), batch_size=2)
    with pytest.raises(ValueError, match="a stream does not allow"):
        ImageCodeLoader(open_images(str(source), streaming=True), None, center_view(16), batch_size=2)
    with pytest.raises(FileNotFoundError, match="has no report-train.json"):
        recorded_views(str(source))
    pretokenize(str(source), tmp_path, teacher[1], VIEWS["adm-flip"], workers=0, limit=3)
    with pytest.raises(ValueError, match="not 1 views"):
        ImageCodeLoader(images, load_dataset(str(tmp_path), split="train"), center_view(16), batch_size=2)
    report = json.loads((tmp_path / "report-train.json").read_text())
    del report["settings"]["crop"]
    (tmp_path / "report-train.json").write_text(json.dumps(report))
    with pytest.raises(ValueError, match="does not say how the images were cut: crop is missing"):
        recorded_views(str(tmp_path))


def test_codes_follow_the_image_that_takes_the_place_of_a_broken_one():
    features = Features({"image": Image(), "codes": List(Value("uint16"), length=2), "label": Value("int64")})
    rows = {"image": [encoded(number) for number in range(4)], "codes": [[number, 9] for number in range(4)]}
    rows["image"][1] = {"bytes": b"no picture", "path": "bad.png"}
    dataset = Dataset.from_dict(rows | {"label": [0, 1, 2, 3]}, features=features)
    arguments = {"batch_size": 4, "shuffle": False}
    batch = next(iter(ImageCodeLoader(dataset, None, center_view(16), skip_broken=True, **arguments)))
    assert batch["codes"][:, 0].tolist() == batch["label"].tolist() == [0, 2, 2, 3]
    assert torch.equal(batch["pixels"][1], batch["pixels"][2])
    with pytest.raises(ValueError, match=r"Image 1 \(bad.png\) cannot be used"):
        next(iter(ImageCodeLoader(dataset, None, center_view(16), **arguments)))
