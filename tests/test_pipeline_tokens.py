"""The pipeline: images to tokens and tokens to images."""

import numpy as np
import pytest
import torch

from tiny_pipeline import (
    generators,
    random_codes,
    random_images,
    tiny_image_processor,
    tiny_pipeline,
    tiny_tokenizer,
)
from titok_hf.pipeline_titok import TiTokPipeline


@pytest.fixture
def pipe():
    return tiny_pipeline()


@pytest.fixture
def kl_pipe():
    return TiTokPipeline(tiny_tokenizer(quantizer="kl"), tiny_image_processor())


def test_encode_is_the_tokenizer_on_prepared_images(pipe):
    images = random_images(3)
    pixel_values = tiny_image_processor()(images, return_tensors="pt").pixel_values
    expected = pipe.tokenizer.encode(pixel_values).codes
    assert torch.equal(pipe.preprocess(images), pixel_values)
    assert torch.equal(pipe.encode(images), expected)
    assert torch.equal(pipe.encode(pixel_values), expected)
    assert torch.equal(pipe.encode(np.stack([np.asarray(image) for image in images])), expected)
    assert torch.equal(pipe.encode(images[1]), expected[1:2])
    assert len(expected.unique(dim=0)) > 1


def test_paths_are_images_too(pipe, tmp_path):
    paths = [tmp_path / f"{index}.png" for index in range(2)]
    for image, path in zip(random_images(2), paths, strict=True):
        image.save(path)
    assert torch.equal(pipe.encode(paths), pipe.encode(random_images(2)))
    assert torch.equal(pipe.encode(str(paths[1])), pipe.encode(random_images(2)[1]))


def test_no_more_than_one_batch_is_in_the_tokenizer(pipe):
    sizes = {"encoder": [], "decoder": []}
    for side, seen in sizes.items():
        getattr(pipe.tokenizer, side).register_forward_pre_hook(
            lambda module, inputs, seen=seen: seen.append(len(inputs[0]))
        )
    images = random_images(5)
    in_batches = pipe.reconstruct(images, output_type="pt", batch_size=2)
    assert sizes == {"encoder": [2, 2, 1], "decoder": [2, 2, 1]}
    torch.testing.assert_close(in_batches, pipe.reconstruct(images, output_type="pt"))
    with pytest.raises(ValueError, match="batch_size is 0"):
        pipe.encode(images, batch_size=0)


def test_decode_takes_codes_in_any_container(pipe):
    codes = random_codes(3)
    expected = pipe.decode(codes, "pt")
    assert torch.equal(expected, pipe.tokenizer.decode(codes=codes).pixel_values.clamp(0, 1))
    for container in (codes.numpy().astype(np.uint16), codes.tolist(), list(codes), codes.int()):
        assert torch.equal(pipe.decode(container, "pt"), expected)


@pytest.mark.parametrize("size", [32, 40])
@pytest.mark.parametrize("kind", [torch.Tensor.float, torch.Tensor.double, torch.Tensor.half, torch.Tensor.numpy])
def test_images_of_another_range_are_refused_at_every_size(pipe, size, kind):
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    for values in (images * 2 - 1, images * 255, images.masked_fill(images > 0.9, float("nan"))):
        wrong = kind(values)
        for container in (wrong, wrong[0], list(wrong), [random_images(1)[0], wrong[0]]):
            for entrance in (pipe.encode, pipe.preprocess, pipe.reconstruct, pipe.image_processor):
                with pytest.raises(ValueError, match="values from .*(0 to 1 are expected|expected 0 to 1)"):
                    entrance(container)


def test_a_prepared_image_has_the_same_codes_in_any_company(pipe):
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    others = random_images(2)
    pixel_values = pipe.preprocess(images)
    assert torch.equal(pixel_values, images)  # no rounding to 8 bits
    for same in (images.double(), list(images), tuple(images), [list(images)]):
        assert torch.equal(pipe.preprocess(same), images)
    assert torch.equal(pipe.preprocess(images[0]), images[:1])
    mixed = pipe.preprocess([others[0], images[1], others[1]])
    assert torch.equal(mixed[1], images[1])
    assert torch.equal(mixed[::2], pipe.preprocess(others))


@pytest.mark.parametrize(
    "dtype, scale", [(np.uint8, 255), (np.int64, 255), (np.uint16, 65535), (np.float64, 1.0), (np.float16, 1.0)]
)
@pytest.mark.parametrize("of", [lambda array: array, torch.from_numpy])
def test_every_dtype_has_its_range_as_array_and_as_tensor(pipe, dtype, scale, of):
    levels = np.random.default_rng(0).integers(0, 2, (2, 3, 40, 40))  # black and white, exact in every dtype
    expected = pipe.encode((levels * 255).astype(np.uint8))
    assert torch.equal(pipe.encode(of((levels * scale).astype(dtype))), expected)
    assert torch.equal(pipe.encode(of(levels.astype(bool))), expected)


def test_an_encoder_that_gives_no_numbers_is_refused(pipe, kl_pipe):
    for each in (pipe, kl_pipe):
        with torch.no_grad():
            each.tokenizer.encoder.class_token.fill_(float("nan"))
        for entrance in (each.encode, each.reconstruct):
            with pytest.raises(ValueError, match="tokens of the encoder are not all finite.*bfloat16"):
                entrance(random_images(3), batch_size=2)


def test_a_kl_tokenizer_takes_a_generator_an_image(kl_pipe):
    images = random_images(3)
    together = kl_pipe.encode(images, generator=generators(0, 1, 2), batch_size=2)
    alone = [kl_pipe.encode(image, generator=generators(seed)) for seed, image in enumerate(images)]
    torch.testing.assert_close(together, torch.cat(alone))
    for wrong, message in ((42, "generator is 42"), (generators(0), "list of 1 for 3 images")):
        with pytest.raises(ValueError, match=message):
            kl_pipe.encode(images, generator=wrong)


@pytest.mark.parametrize("images", [[], np.empty((0, 8, 8, 3))])
def test_no_images_are_refused(pipe, images):
    with pytest.raises(ValueError, match="There are no images"):
        pipe.encode(images)


def test_wrong_tokens_are_refused(pipe):
    for tokens, message in (
        (random_codes(1).float(), "dtype torch.float32"),
        (random_codes(1) > 3, "dtype torch.bool"),
        ([[0.5] * 8], "dtype torch.float32"),
        (random_codes(1).numpy() / 2, "dtype torch.float64"),
        (torch.tensor(3), r"shape \(\)"),
        (["a"], "cannot be read as one tensor"),
        (None, "cannot be read as one tensor"),
        (random_codes(1) + 16, r"lie in \[0, 16\)"),
        (random_codes(1)[:, :3], r"shape \(1, 3\)"),
        (torch.empty(0, 8), "no tokens"),
    ):
        with pytest.raises(ValueError, match=message):
            pipe.decode(tokens)
    with pytest.raises(ValueError, match="output_type is 'latent'"):
        pipe.reconstruct(random_images(1), output_type="latent")


def test_a_kl_tokenizer_has_latents_in_place_of_codes(kl_pipe):
    images = random_images(2)
    latents = kl_pipe.encode(images)
    assert latents.shape == (2, 8, 4) and latents.is_floating_point()
    assert torch.equal(latents, kl_pipe.encode(images))  # the mean, unless a generator is given
    samples = [kl_pipe.encode(images, generator=torch.Generator().manual_seed(0)) for _ in range(2)]
    assert torch.equal(*samples) and not torch.equal(samples[0], latents)
    assert torch.equal(kl_pipe.decode(latents, "pt"), kl_pipe.reconstruct(images, "pt"))
    with pytest.raises(ValueError, match="KL model: it has no codes to generate"):
        kl_pipe(0)
    for wrong, message in ((random_codes(1), "latents has shape"), (latents * float("inf"), "not finite numbers")):
        with pytest.raises(ValueError, match=message):
            kl_pipe.decode(wrong, "pt")
