"""What the web page does, without a page and without Gradio."""

import threading

import pytest
import torch
from PIL import Image

from titok_hf.bundled import bundled_checkpoint, example_images
from titok_hf.pipeline_titok import TiTokPipeline
from titok_hf.serve import snippets
from titok_hf.serve.actions import MAX_IMAGES, MAX_STEPS, Sampling, ServedModel, ServedModels
from titok_hf.serve.tiles import tiles


@pytest.fixture(scope="module")
def served():
    pipe = TiTokPipeline.from_pretrained(bundled_checkpoint())
    pipe.set_progress_bar_config(disable=True)
    return ServedModel(None, pipe)


@pytest.fixture(scope="module")
def image():
    return Image.open(example_images()[0])


def test_an_image_becomes_tokens_and_comes_back(served, image):
    found = served.tokenize(image)
    assert found.codes == served.pipe.encode(image)[0].tolist()
    assert [tile["text"] for tile in found.tiles] == [str(code) for code in found.codes]
    original = served.pipe.preprocess(image)
    decoded = served.pipe.decode([found.codes], output_type="np")
    error = (original.permute(0, 2, 3, 1) - torch.from_numpy(decoded).mul(255).round() / 255).square().mean()
    assert found.psnr == pytest.approx(float(-10 * error.double().log10()), abs=1e-4)


def test_a_changed_token_is_framed_and_changes_the_image(served, image):
    codes = served.tokenize(image).codes
    other = [(codes[0] + 1) % 1024, *codes[1:]]
    picture, shown = served.decode(other, codes)
    assert [tile["state"] for tile in shown] == ["changed"] + [""] * 31
    assert picture.tobytes() != served.decode(codes, codes)[0].tobytes()


def test_generating_shows_every_step_and_ends_with_the_images_of_the_python_under_the_tab(served):
    sampling = Sampling(seed=3, steps=4)
    steps = list(served.generate(7, 2, sampling))
    masked = [sum(tile["state"] == "masked" for tile in step.tiles) for step in steps]
    assert masked[0] > masked[1] > masked[2] > masked[3] == 0
    assert [step.number for step in steps] == [1, 2, 3, 4, 4]
    variables: dict = {}
    exec(snippets.generate(None, 7, 2, sampling), variables)
    assert [one.tobytes() for one in steps[-1].images] == [one.tobytes() for one in variables["images"]]


@pytest.mark.parametrize("sampler", ["moment", "remdm"])
def test_the_sampler_is_that_of_the_call_and_of_its_python(served, sampler):
    sampling = Sampling(steps=3, sampler=sampler)
    *_, last = served.generate(1, 1, sampling)
    variables: dict = {}
    exec(snippets.generate(None, 1, 1, sampling), variables)
    assert variables["pipe"].scheduler.config.sampler == sampler
    assert last.images[0].tobytes() == variables["images"][0].tobytes()


def test_closing_the_iterator_ends_the_sampling_and_leaves_no_thread(served):
    threads = threading.active_count()
    steps = served.generate(0, 1, Sampling(steps=MAX_STEPS))
    assert next(steps).number == 1
    steps.close()
    assert threading.active_count() == threads
    assert served.pipe.interrupt
    assert list(served.generate(0, 1, Sampling(steps=2)))[-1].of == 2


def test_what_is_computed_for_a_visitor_has_limits(served, image):
    with pytest.raises(ValueError, match="steps"):
        next(served.generate(0, 1, Sampling(steps=MAX_STEPS + 1)))
    with pytest.raises(ValueError, match="images"):
        next(served.generate(0, MAX_IMAGES + 1, Sampling()))
    with pytest.raises(ValueError, match="seed"):
        next(served.vary(image, 0, 0.5, 1, Sampling(seed=-1)))


def test_an_error_in_the_thread_is_raised_to_the_caller(served):
    with pytest.raises(ValueError, match="class"):
        list(served.generate(10, 1, Sampling(steps=1)))


def test_models_are_loaded_once_when_first_used():
    loaded = []
    models = ServedModels(["a", "b"], lambda name: loaded.append(name))
    models.get(1)
    models.get(1)
    assert loaded == ["b"]


def test_tiles_of_masked_tokens_have_no_code():
    colours = torch.tensor([[0, 0, 0], [255, 255, 255]])
    shown = tiles([0, 2, 1], colours, mask_token_id=2)
    assert [tile["text"] for tile in shown] == ["0", "", "1"]
    assert shown[1]["state"] == "masked"
    assert "color: #fff" in shown[0]["style"] and "color: #000" in shown[2]["style"]
