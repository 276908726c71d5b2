"""titok_hf.evaluation: the whole command on a tiny model, whose numbers can be computed in another way."""

import gzip
import json
import struct

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import RegNetConfig, RegNetForImageClassification

from titok_hf import (
    MaskGitScheduler,
    MaskGitTransformer1DModel,
    TiTokConfig,
    TiTokImageProcessorPil,
    TiTokModel,
    TiTokPipeline,
)
from titok_hf.contact_sheets import contact_sheet
from titok_hf.data.images import images_to_tensor
from titok_hf.data.training_data import open_images
from titok_hf.evaluation.__main__ import main
from titok_hf.evaluation.measure import MeasureConfig, generate, measure, reconstruct

NAMES = [str(digit) for digit in range(10)]


@pytest.fixture
def mnist(tmp_path):
    """A folder like MNIST's: 24 training and 13 test images of 12 x 12 pixels."""
    random = np.random.default_rng(0)
    folder = tmp_path / "mnist"
    folder.mkdir()
    for prefix, count in (("train", 24), ("t10k", 13)):
        images = random.integers(0, 256, (count, 12, 12), dtype=np.uint8)
        for name, array in (("images", images), ("labels", np.arange(count, dtype=np.uint8) % 10)):
            header = struct.pack(f">I{array.ndim}I", 0x0800 + array.ndim, *array.shape)
            (folder / f"{prefix}-{name}-idx{array.ndim}-ubyte.gz").write_bytes(gzip.compress(header + array.tobytes()))
    return folder


def tiny_pipeline(names=NAMES):
    torch.manual_seed(0)
    vit = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    tokenizer = TiTokModel(
        TiTokConfig(
            image_size=16,
            patch_size=8,
            num_latent_tokens=4,
            codebook_size=32,
            codebook_dim=4,
            initializer_range=0.5,  # so that untrained codes already make a difference
            **{f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in vit.items()},
        )
    )
    transformer = MaskGitTransformer1DModel(
        codebook_size=32, num_latent_tokens=4, num_classes=len(names), intermediate_size=32, **vit
    )
    return TiTokPipeline(
        tokenizer=tokenizer.eval(),
        image_processor=TiTokImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}),
        transformer=transformer.eval(),
        scheduler=MaskGitScheduler(mask_token_id=32),
        id2label=dict(enumerate(names)),
    )


@pytest.fixture
def judge():
    torch.manual_seed(1)
    config = RegNetConfig(
        embedding_size=4,
        hidden_sizes=[4],
        depths=[1],
        groups_width=4,
        id2label=dict(enumerate(NAMES)),
        label2id={name: index for index, name in enumerate(NAMES)},
    )
    return RegNetForImageClassification(config).eval()


def test_reconstruction_numbers_equal_those_of_all_images_at_once(mnist, judge):
    pipeline = tiny_pipeline()
    metrics = measure(pipeline, judge, MeasureConfig(str(mnist), images_per_class=2, batch_size=4)).metrics
    images, labels = images_to_tensor(open_images(str(mnist), "test"), 16, "pad")
    reconstructed, codes = reconstruct(pipeline, images)
    squared_error = ((images.double() - reconstructed.double()) / 255).square()
    content = squared_error[:, :, 2:-2, 2:-2]
    for group, error in (("reconstruction", squared_error), ("reconstruction_content", content)):
        psnr = -10 * error.flatten(1).mean(dim=1).log10()
        assert metrics[group]["psnr"] == pytest.approx(psnr.mean().item(), abs=1e-4)
    assert metrics["reconstruction"]["num_images"] == 13
    assert metrics["codebook"]["num_used"] == len(codes.unique())
    with torch.inference_mode():
        right = judge(pixel_values=images.float() / 255).logits.argmax(dim=1) == labels
    assert metrics["judge"]["real"]["accuracy"] == pytest.approx(right.float().mean().item())


def test_reconstructions_pass_through_the_pipeline_unchanged(mnist):
    """`reconstruct` calls the tokenizer itself; what users get from the pipeline has to be the same."""
    pipeline = tiny_pipeline()
    images, _ = images_to_tensor(open_images(str(mnist), "test"), 16, "pad")
    reconstructed, codes = reconstruct(pipeline, images)
    assert torch.equal(pipeline.encode(images.float() / 255), codes)
    pictures = pipeline.decode(codes)
    assert np.array_equal(np.stack([np.asarray(picture) for picture in pictures]), reconstructed.permute(0, 2, 3, 1))


@pytest.mark.parametrize("part, what", [("encoder", "tokens of the encoder"), ("decoder", "pixels of the decoder")])
def test_a_model_that_gives_no_numbers_is_not_measured(part, what):
    pipeline = tiny_pipeline()
    with torch.no_grad():
        getattr(pipeline.tokenizer, part).class_token.fill_(float("nan"))
    with pytest.raises(ValueError, match=f"{what} are not all finite"):
        reconstruct(pipeline, torch.zeros(1, 3, 16, 16, dtype=torch.uint8))


def test_generated_images_depend_on_the_seed_and_not_on_the_batch_size(mnist):
    pipeline = tiny_pipeline()
    labels = torch.arange(10)
    first, again, other = (
        torch.cat(list(generate(pipeline, labels, MeasureConfig(str(mnist), batch_size=size, seed=seed))))
        for size, seed in ((10, 0), (3, 0), (10, 1))
    )
    assert first.shape == (10, 3, 16, 16) and first.dtype == torch.uint8
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_sheet_shows_test_images_from_the_whole_split_beside_their_own_reconstructions(mnist, judge):
    pipeline = tiny_pipeline()
    sheet = measure(pipeline, judge, MeasureConfig(str(mnist), images_per_class=1, batch_size=4)).pictures
    images, _ = images_to_tensor(open_images(str(mnist), "test"), 16, "pad")
    images = images[[0, 1, 2, 4, 5, 6, 8, 9, 10, 12]]  # 10 of 13, evenly
    pairs = torch.stack([images, reconstruct(pipeline, images)[0]], dim=1).flatten(0, 1)
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in pairs]
    assert np.array_equal(sheet["reconstructed.png"], contact_sheet(pictures, columns=10))


def test_a_generator_that_repeats_its_training_images_is_found_out(mnist, judge):
    """The test images of this data set are training images: that is what a model that memorised would return."""
    config = MeasureConfig(str(mnist), train_split="test", images_per_class=1)
    report = measure(tiny_pipeline(), judge, config).metrics["memorization"]
    assert report["copy_share_held_out"] == 1.0
    assert report["median_distance_held_out"] == 0.0
    assert report["copy_share_generated"] < 0.5


def test_a_model_of_other_classes_is_refused(mnist, judge):
    with pytest.raises(ValueError, match="The model has the classes a, b; the data set has 0, 1"):
        measure(tiny_pipeline(["a", "b"]), judge, MeasureConfig(str(mnist)))


def test_counts_below_one_are_refused(mnist):
    with pytest.raises(ValueError, match="images_per_class is 0"):
        MeasureConfig(str(mnist), images_per_class=0)


def test_the_command_writes_numbers_and_pictures(mnist, judge, tmp_path):
    tiny_pipeline().save_pretrained(tmp_path / "model")
    judge.save_pretrained(tmp_path / "judge")
    arguments = [
        *("--model", str(tmp_path / "model"), "--judge", str(tmp_path / "judge"), "--data", str(mnist)),
        *("--images-per-class", "2", "--seed", "3", "--output", str(tmp_path / "out" / "metrics.json")),
    ]
    main(arguments)
    report = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert report["seed"] == 3
    assert report["command"] == " ".join(["python -m titok_hf.evaluation", *arguments])
    assert set(report["versions"]) >= {"python", "torch", "transformers", "titok-hf"}
    assert set(report["judge"]) == {"real", "reconstructed", "generated"}
    assert set(report["judge"]["generated"]["by_class"]) == set(NAMES)
    assert report["reconstruction_content"]["height"] == 12
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "metrics-generated.png",
        "metrics-nearest.png",
        "metrics-reconstructed.png",
        "metrics.json",
    ]
    for picture in (tmp_path / "out").glob("*.png"):
        Image.open(picture).load()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--data": "/nowhere"}, "The data source /nowhere does not exist"),
        ({"--model": "/nowhere"}, "/nowhere"),
        ({"--images-per-class": "0"}, "images_per_class is 0"),
        ({"--output": "/"}, "/ cannot be written"),
    ],
)
def test_the_command_says_what_is_wrong_and_fails(mnist, judge, tmp_path, capsys, changes, message):
    tiny_pipeline().save_pretrained(tmp_path / "model")
    judge.save_pretrained(tmp_path / "judge")
    options = {"--model": str(tmp_path / "model"), "--judge": str(tmp_path / "judge"), "--data": str(mnist)}
    options |= {"--output": str(tmp_path / "metrics.json")} | changes
    with pytest.raises(SystemExit) as stop:
        main([text for option in options.items() for text in option])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "metrics.json").exists()
