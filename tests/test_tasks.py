"""The tasks of `transformers.pipeline`, by the folder of a tiny tokenizer."""

import pytest
import torch
from PIL import Image
from transformers import pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from tiny_pipeline import tiny_image_processor, tiny_tokenizer
from titok_hf.tasks import TASKS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny_tokenizer().save_pretrained(folder)
    tiny_image_processor().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def pictures():
    noise = torch.rand(3, 40, 50, 3, generator=torch.Generator().manual_seed(0))
    return [Image.fromarray((picture * 255).byte().numpy()) for picture in noise]


@pytest.fixture(scope="module")
def encoded(pictures):
    """What the model itself makes of the pictures."""
    with torch.no_grad():
        return tiny_tokenizer().encode(tiny_image_processor()(pictures, return_tensors="pt").pixel_values)


def decoded(codes, batch_size):
    """What the model itself makes of the codes, in batches of that size: another one may round a pixel otherwise."""
    tokenizer = tiny_tokenizer()
    with torch.no_grad():
        pixel_values = [tokenizer.decode(codes=batch).pixel_values for batch in codes.split(batch_size)]
    return tiny_image_processor().post_process(torch.cat(pixel_values))


@pytest.mark.parametrize("batch_size", [1, 2])
def test_image_to_latents_gives_the_latents(folder, pictures, encoded, batch_size):
    to_latents = pipeline("image-to-latents", model=folder, device="cpu", batch_size=batch_size)
    latents = torch.tensor(to_latents(pictures))
    torch.testing.assert_close(latents, encoded.latents, rtol=0, atol=1e-6)
    torch.testing.assert_close(torch.tensor(to_latents(pictures[0])), latents[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_image_to_codes_gives_lists_of_integers(folder, pictures, encoded, batch_size):
    to_codes = pipeline("image-to-codes", model=folder, device="cpu")
    assert to_codes(pictures, batch_size=batch_size) == encoded.codes.tolist()
    assert to_codes(pictures[1]) == encoded.codes[1].tolist()
    assert list(to_codes(picture for picture in pictures)) == encoded.codes.tolist()


def test_pictures_come_as_paths_too(folder, pictures, encoded, tmp_path):
    for number, picture in enumerate(pictures):
        picture.save(tmp_path / f"{number}.png")
    to_codes = pipeline("image-to-codes", model=folder, device="cpu")
    paths = [str(tmp_path / f"{number}.png") for number in range(3)]
    assert to_codes(paths, batch_size=3) == encoded.codes.tolist() and to_codes(paths[2]) == encoded.codes[2].tolist()
    with pytest.raises(FileNotFoundError, match="missing.png"):
        to_codes(str(tmp_path / "missing.png"))


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("container", [list, tuple, torch.tensor, lambda rows: torch.tensor(rows).numpy(), iter])
def test_codes_to_image_takes_what_image_to_codes_gives(folder, encoded, container, batch_size):
    to_image = pipeline("codes-to-image", model=folder, device="cpu")
    rows = encoded.codes.tolist()
    given = (row for row in rows) if container is iter else container(rows)
    assert list(to_image(given, batch_size=batch_size)) == decoded(encoded.codes, batch_size)
    alone = decoded(encoded.codes, 1)
    assert to_image(rows[0]) == alone[0] and to_image(torch.tensor(rows[1])) == alone[1]


@pytest.mark.parametrize("codes", [[1, 2, 3], [[0] * 9], [[0.5] * 8], [[99] * 8], [[True] * 8], torch.ones(8).bool()])
def test_codes_that_no_picture_has_are_refused(folder, codes):
    with pytest.raises(ValueError, match=r"this model takes \(batch, 8\)|integers are expected|lie in"):
        pipeline("codes-to-image", model=folder, device="cpu")(codes)


def test_images_of_another_range_are_refused_and_none_is_dropped(folder, pictures, encoded):
    to_codes = pipeline("image-to-codes", model=folder, device="cpu")
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for wrong in (images * 2 - 1, images[0] * 255, images.double() * 255, images[0].numpy() - 0.5):
        with pytest.raises(ValueError, match="values from .*expected 0 to 1"):
            to_codes(wrong)
    assert to_codes(images, batch_size=2) == to_codes(list(images), batch_size=2)  # a batch is as many pictures
    with pytest.raises(ValueError, match="holds 2 images"):
        to_codes([[pictures[0], pictures[1]]])


def test_tokens_that_are_not_finite_have_no_codes(folder):
    to_codes = pipeline("image-to-codes", model=folder, device="cpu")
    with torch.no_grad():
        to_codes.model.encoder.class_token.fill_(float("nan"))
    with pytest.raises(ValueError, match="tokens of the encoder are not all finite"):
        to_codes(torch.rand(3, 32, 32))


def test_parameters_that_do_not_exist_are_refused(folder, pictures):
    with pytest.raises(TypeError, match="no parameter top_k"):
        pipeline("image-to-codes", model=folder, device="cpu")(pictures, top_k=3)


def test_a_kl_model_has_no_codes(tmp_path):
    tiny_tokenizer(quantizer="kl").save_pretrained(tmp_path)
    tiny_image_processor().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="continuous"):
        pipeline("image-to-codes", model=str(tmp_path), device="cpu")


def test_a_pipelines_tokenizer_folder_is_enough(tmp_path, pictures, encoded):
    from tiny_pipeline import tiny_pipeline

    tiny_pipeline().save_pretrained(tmp_path)
    to_codes = pipeline("image-to-codes", model=str(tmp_path / "tokenizer"), device="cpu")
    assert to_codes(pictures) == encoded.codes.tolist()


def test_image_to_latents_of_a_kl_model_gives_the_mean(tmp_path, pictures):
    kl = tiny_tokenizer(quantizer="kl")
    kl.save_pretrained(tmp_path)
    tiny_image_processor().save_pretrained(tmp_path)
    mean = kl.encode(tiny_image_processor()(pictures, return_tensors="pt").pixel_values).posterior_mean
    to_latents = pipeline("image-to-latents", model=str(tmp_path), device="cpu")
    torch.testing.assert_close(torch.tensor(to_latents(pictures)), mean, rtol=0, atol=1e-6)


def test_the_tasks_of_transformers_stay_as_they_are():
    """Ours have names of their own: a task of transformers serves the models of others too."""
    known = PIPELINE_REGISTRY.supported_tasks["image-feature-extraction"]["impl"]  # a class, or the name of one
    assert (known if isinstance(known, str) else known.__module__).startswith("transformers.")
    assert TASKS.keys() <= PIPELINE_REGISTRY.supported_tasks.keys()
