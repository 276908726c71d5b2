"""Images changed through their tokens, with and without a generator."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from tiny_pipeline import generators, tiny_image_processor, tiny_pipeline, tiny_tokenizer
from titok_hf.bundled import bundled_checkpoint, example_images
from titok_hf.editing.token_optimization import TokenOptimization
from titok_hf.pipeline_titok import TiTokPipeline

SHORT = TokenOptimization(num_steps=8)
HOLE = torch.zeros(32, 32, dtype=torch.bool)
HOLE[8:20, 10:24] = True


def images(count=2, seed=0):
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def brightness(pixel_values):
    return pixel_values.clamp(0, 1).mean(dim=(1, 2, 3))


@pytest.fixture
def pipe():
    return tiny_pipeline()


@pytest.fixture(scope="module")
def bundled():
    pipe = TiTokPipeline.from_pretrained(bundled_checkpoint())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def kl_pipeline():
    pipe = TiTokPipeline(tiny_tokenizer(quantizer="kl"), tiny_image_processor())
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("make", [tiny_pipeline, kl_pipeline])
def test_optimised_tokens_have_a_lower_loss(make):
    pipe = make()
    settings = TokenOptimization(num_steps=60, noise=0.1)
    output = pipe.optimize_tokens(images(), brightness, settings, generators(0, 1), output_type="pt")
    before = brightness(pipe.decode(pipe.encode(images()), "pt"))
    assert output.losses.shape == (60, 2)
    assert (brightness(output.images) < before - 0.002).all()
    assert torch.equal(pipe.decode(output.tokens, "pt"), output.images)
    assert output.tokens.is_floating_point() != pipe.tokenizer.config.has_codebook


def test_an_image_depends_on_no_other_of_its_batch(pipe):
    together = pipe.inpaint(images(), HOLE, None, SHORT, generators(0, 1), output_type="pt")
    alone = pipe.inpaint(images()[1:], HOLE, None, SHORT, generators(1), output_type="pt")
    assert torch.equal(together.tokens[1:], alone.tokens)
    assert torch.allclose(together.images[1:], alone.images, atol=1e-5)


def test_equal_seeds_give_equal_images_and_others_differ(pipe):
    first, again, other = (
        pipe.inpaint(images(), HOLE, None, SHORT, torch.Generator().manual_seed(seed)).losses for seed in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_the_result_is_the_average_of_the_steps(pipe):
    seen = []

    def keep(pipe, step, timestep, tensors):
        seen.append((step, timestep.item(), tensors["latents"]))

    settings = replace(SHORT, noise=0.0, average_decay=0.0)
    output = pipe.optimize_tokens(images(), brightness, settings, callback_on_step_end=keep)
    assert [step for step, _, _ in seen] == list(range(8)) and seen[-1][1] == 0
    assert torch.equal(pipe.tokenizer.quantizer(seen[-1][2]).codes, output.tokens)  # decay 0: the last step alone
    seen.clear()
    pipe.optimize_tokens(images(), brightness, replace(settings, average_decay=0.5), callback_on_step_end=keep)
    averages = [latents for _, _, latents in seen]
    # The weights of two steps, 0.5 * 0.5 and 0.5, divided by their sum.
    second = (averages[1] * 0.75 - averages[0] * 0.25) / 0.5
    assert torch.allclose(averages[1], averages[0] / 3 + second * 2 / 3, atol=1e-6)


def test_a_callback_may_end_it(pipe):
    def stop(pipe, step, timestep, tensors):
        pipe._interrupt = step == 2

    output = pipe.optimize_tokens(images(), brightness, SHORT, callback_on_step_end=stop)
    assert len(output.losses) == 3
    assert len(pipe.optimize_tokens(images(), brightness, SHORT).losses) == 8  # the next call is whole


@pytest.mark.parametrize("switched_off", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_models_and_grad_mode_are_left_as_they_were(pipe, switched_off):
    tokenizer = pipe.tokenizer.train()
    tokenizer.encoder.eval()
    tokenizer.decoder.layers[0].norm1.weight.requires_grad_(False)

    def state():
        requires_grad = [parameter.requires_grad for parameter in tokenizer.parameters()]
        return requires_grad, [module.training for module in tokenizer.modules()], torch.is_grad_enabled()

    weights = {name: tensor.clone() for name, tensor in tokenizer.state_dict().items()}
    with switched_off():
        before = state()
        output = pipe.inpaint(images(), HOLE, None, SHORT, output_type="pt")
        assert state() == before
        with pytest.raises(ZeroDivisionError):
            pipe.optimize_tokens(images(), lambda pixel_values: 1 / 0, SHORT)
        assert state() == before
    assert all(parameter.grad is None for parameter in tokenizer.parameters())
    assert all(torch.equal(tensor, weights[name]) for name, tensor in tokenizer.state_dict().items())
    assert not output.images.requires_grad and not output.losses.requires_grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_models_in_half_precision_are_optimised_too(dtype):
    pipe = tiny_pipeline().to(dtype)
    settings = TokenOptimization(num_steps=40, noise=0.1)
    # Gradients of this loss underflow in float16 unless they are scaled.
    output = pipe.optimize_tokens(images(), lambda pixels: 1e-5 * brightness(pixels), settings, output_type="pt")
    before = brightness(pipe.decode(pipe.encode(images()), "pt"))
    assert (brightness(output.images) < before - 0.002).all()
    assert pipe.tokenizer.dtype == dtype


def test_gradients_that_overflow_in_float16_are_skipped_until_they_do_not():
    pipe = tiny_pipeline().to(torch.float16)
    settings = TokenOptimization(num_steps=60, noise=0.0)
    output = pipe.optimize_tokens(images(), lambda pixels: 1e4 * brightness(pixels), settings, output_type="pt")
    assert (brightness(output.images) < brightness(pipe.decode(pipe.encode(images()), "pt")) - 0.002).all()


def test_inpainting_keeps_known_pixels_and_comes_closer_to_them(pipe):
    output = pipe.inpaint(images(), HOLE, None, TokenOptimization(num_steps=60), output_type="pt")
    assert torch.equal(output.images[:, :, ~HOLE], images()[:, :, ~HOLE])
    assert not torch.equal(output.images[:, :, HOLE], images()[:, :, HOLE])
    assert (output.losses[-10:].mean(0) < output.losses[0]).all()


def test_what_is_under_the_mask_does_not_matter(pipe):
    other = torch.where(HOLE, 1 - images(), images())
    first, second = (
        pipe.infill(each, HOLE, 0, generator=torch.Generator().manual_seed(0)) for each in (images(), other)
    )
    assert torch.equal(first.codes, second.codes)
    first, second = (
        pipe.inpaint(each, HOLE, None, SHORT, torch.Generator().manual_seed(0)) for each in (images(), other)
    )
    assert torch.equal(first.tokens, second.tokens)


def test_the_bundled_model_inpaints_better_than_the_mean(bundled):
    """Twelve by twelve pixels in the middle of four examples."""
    pixel_values = bundled.preprocess(example_images()[::5])
    hole = torch.zeros(32, 32, dtype=torch.bool)
    hole[10:22, 10:22] = True
    settings = TokenOptimization(num_steps=40)
    output = bundled.inpaint(pixel_values, hole, None, settings, torch.Generator().manual_seed(0), output_type="pt")
    mean = pixel_values[:, :, ~hole].mean(dim=2)[..., None]

    def error(filled):
        return (filled - pixel_values[:, :, hole]).square().mean()

    assert error(output.images[:, :, hole]) < 0.5 * error(mean)


def test_codes_of_a_region_are_those_that_its_pixels_change(bundled):
    pixel_values = bundled.preprocess(example_images()[:4])
    corner = torch.zeros(32, 32, dtype=torch.bool)
    corner[:4, :4] = True
    few, many = bundled.codes_of_region(pixel_values, corner), bundled.codes_of_region(pixel_values, ~corner)
    assert few.shape == (4, 32) and few.dtype == torch.bool
    assert few.sum() < many.sum()
    black, white = (bundled.encode(pixel_values.masked_fill(corner, value)) for value in (0.0, 1.0))
    assert few[black != white].all()


def test_infilling_keeps_known_codes_and_known_pixels(bundled):
    pixel_values = bundled.preprocess(example_images()[:2])
    corner = torch.zeros(32, 32, dtype=torch.bool)
    corner[:6, :6] = True
    output = bundled.infill(pixel_values, corner, "T-shirt/top", "pt", generator=generators(0, 1))
    depends = bundled.codes_of_region(pixel_values, corner)
    assert 0 < depends.sum() < depends.numel()
    known = bundled.encode(pixel_values.masked_fill(corner, 0.0))
    assert torch.equal(output.codes[~depends], known[~depends])
    assert torch.equal(output.images[:, :, ~corner], pixel_values[:, :, ~corner])


def test_inpainting_with_a_class_starts_from_what_the_generator_fills_in(pipe):
    one_step = TokenOptimization(num_steps=1, learning_rate=1e-9, noise=0.0)
    output = pipe.inpaint(images(), HOLE, [0, 1], one_step, generators(0, 1))
    assert torch.equal(output.tokens, pipe.infill(images(), HOLE, [0, 1], generator=generators(0, 1)).codes)
    with pytest.raises(ValueError, match="tokenizer only"):
        TiTokPipeline(pipe.tokenizer, pipe.image_processor).inpaint(images(), HOLE, 0)


def test_variations_resample_a_share_of_the_codes(pipe):
    settings = {"generator": torch.Generator().manual_seed(0), "output_type": "latent"}
    output = pipe.variations(images(), [0, 1], strength=0.5, num_images=3, **settings)
    codes = pipe.encode(images()).repeat_interleave(3, dim=0)
    assert output.codes.shape == (6, 8)
    assert ((output.codes != codes).sum(dim=1) <= 4).all() and (output.codes != codes).any()


@pytest.mark.parametrize("make", [tiny_pipeline, kl_pipeline])
def test_interpolation_begins_and_ends_with_the_reconstructions(make):
    pipe = make()
    first, second = images(2), images(2, seed=1)
    output = pipe.interpolate(first, second, num_images=3, output_type="pt")
    assert output.shape == (6, 3, 32, 32)
    for images_there, expected in ((output[0::3], first), (output[2::3], second)):
        assert torch.allclose(images_there, pipe.reconstruct(expected, "pt"), atol=1e-5)
    assert not torch.allclose(output[1], output[0], atol=1e-3)


def test_interpolated_codes_are_the_nearest_to_the_mixed_latents(pipe):
    output = pipe.interpolate(images(1), images(1, seed=1), 5, space="codes", output_type="pt")
    entries = pipe.tokenizer.quantizer.lookup(pipe.encode(torch.cat([images(1), images(1, seed=1)])))
    middle = pipe.tokenizer.quantizer(entries.mean(dim=0, keepdim=True)).codes
    assert torch.allclose(output[2:3], pipe.decode(middle, "pt"), atol=1e-5)
    with pytest.raises(ValueError, match="KL tokenizer has none"):
        kl_pipeline().interpolate(images(1), images(1), space="codes")


def stage_1_pipeline():
    tokenizer = tiny_tokenizer(decoder_head="proxy_codes", proxy_codebook_size=16)
    return TiTokPipeline(tokenizer, tiny_image_processor())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda pipe: pipe.optimize_tokens(images(), lambda pixels: pixels.mean(), SHORT), r"shape \(\), but one"),
        (lambda pipe: pipe.optimize_tokens(images(), lambda pixels: 3.0, SHORT), "type float"),
        (lambda pipe: pipe.optimize_tokens(images(), lambda pixels: torch.zeros(2), SHORT), "without gradients"),
        (lambda pipe: pipe.optimize_tokens(images(), lambda p: brightness(p) * float("nan"), SHORT), "not all finite"),
        (lambda pipe: pipe.optimize_tokens([], brightness), "no images"),
        (lambda pipe: pipe.optimize_tokens(images(), brightness, generator=3), "torch.Generator is expected"),
        (lambda pipe: pipe.optimize_tokens(images(), brightness, generator=generators(1)), "list of 1 for 2"),
        (lambda pipe: pipe.optimize_tokens(images(), brightness, callback_on_step_end=3), "function is expected"),
        (lambda pipe: pipe.optimize_tokens(images(), brightness, output_type="png"), "output_type"),
        (lambda pipe: pipe.inpaint(images(), HOLE[:16]), "16 x 32 pixels"),
        (lambda pipe: pipe.inpaint(images(), [np.zeros((32, 32))]), "marks no pixel"),
        (lambda pipe: pipe.infill(images(), HOLE, "tabby", num_inference_steps=0), "at least 1"),
        (lambda pipe: pipe.infill(images(), ~HOLE & HOLE, "tabby"), "marks no pixel"),
        (lambda pipe: pipe.variations(images(), "tabby", strength=2), "strength is 2"),
        (lambda pipe: pipe.interpolate(images(), images(1)), "2 first and 1 second"),
        (lambda pipe: pipe.interpolate(images(), images(), 1), "at least 2"),
        (lambda pipe: pipe.interpolate(images(), images(), space="pixels"), "does not exist"),
        (lambda pipe: kl_pipeline().codes_of_region(images(), HOLE), "has no codes"),
        (lambda pipe: kl_pipeline().infill(images(), HOLE, 0), "KL model"),
        (lambda pipe: stage_1_pipeline().inpaint(images(), HOLE, None, SHORT), "stage-1 tokenizer"),
        (lambda pipe: TokenOptimization(num_steps=0), "num_steps is 0"),
        (lambda pipe: TokenOptimization(learning_rate=0), "learning_rate is 0"),
        (lambda pipe: TokenOptimization(noise=-1), "noise is -1"),
        (lambda pipe: TokenOptimization(average_decay=1), "below 1"),
    ],
)
def test_what_does_not_fit_is_one_clear_error(call, message, pipe):
    with pytest.raises(ValueError, match=message):
        call(pipe)


def test_an_exported_tokenizer_is_refused_where_gradients_or_the_codebook_are_needed(pipe):
    class Exported:
        config = pipe.tokenizer.config

    pipe.tokenizer = Exported()
    for call in (
        lambda: pipe.optimize_tokens(images(), brightness, SHORT),
        lambda: pipe.inpaint(images(), HOLE),
        lambda: pipe.interpolate(images(), images()),
    ):
        with pytest.raises(ValueError, match="exported to another engine"):
            call()


def test_masks_and_images_may_be_files(pipe, tmp_path):
    Image.fromarray((HOLE.numpy() * 255).astype(np.uint8)).resize((64, 64), 0).save(tmp_path / "hole.png")
    Image.new("RGB", (64, 64), "red").save(tmp_path / "photo.png")
    output = pipe.inpaint(tmp_path / "photo.png", tmp_path / "hole.png", None, SHORT)
    assert output.images[0].getpixel((0, 0)) == (255, 0, 0)
