"""Discriminator, GAN terms and the pixel objectives compute what the original computed."""

import pytest
import torch

import golden_fill
from golden_checkpoints import figures
from golden_training import assert_gradient, case, filled_discriminator, original_name, real_and_fake
from titok_hf.configuration_titok import TiTokConfig
from titok_hf.quantization_titok import TiTokGaussianQuantizer
from titok_hf.training.adversarial import LeCam, discriminator_loss, generator_adversarial_loss, hinge_loss
from titok_hf.training.losses import pixel_loss, weighted_loss

STAGE_2, LOGITS = figures("training_stage2_loss")


@pytest.fixture(scope="module")
def discriminator():
    return filled_discriminator()


@torch.no_grad()
def test_logits_equal_the_original(discriminator):
    real, fake = real_and_fake(0.5)
    torch.testing.assert_close(discriminator(real), LOGITS["disc_logits_real"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(discriminator(fake), LOGITS["disc_logits_fake_w05"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("figures", case("gan_units"), ids=lambda figures: f"average {figures['ema_real']}")
def test_gan_terms_equal_the_original_where_they_saturate(figures):
    logits_real = torch.from_numpy(golden_fill.normal("gan-real:a", (2, 1, 16, 16), 0.25, 1.5))
    logits_fake = torch.from_numpy(golden_fill.normal("gan-fake:a", (2, 1, 16, 16), -0.5, 1.5))
    lecam = LeCam()
    lecam.load_state_dict({"averages": torch.tensor([figures["ema_real"], figures["ema_fake"]])})
    assert hinge_loss(logits_real, logits_fake).item() == pytest.approx(figures["hinge"], rel=1e-5)
    assert lecam.loss(logits_real, logits_fake).item() == pytest.approx(figures["lecam"], rel=1e-5)
    assert generator_adversarial_loss(torch.nn.Identity(), logits_fake).item() == pytest.approx(figures["generator"])


@pytest.mark.slow
def test_discriminator_steps_equal_the_original(discriminator):
    """Three of them in a row, with the averages they leave behind."""
    lecam, weight = LeCam(), STAGE_2["losses_config"]["lecam_regularization_weight"]
    for share, step in zip((0.125, 0.25, 0.5), STAGE_2["discriminator_steps"], strict=True):
        result = discriminator_loss(discriminator, lecam, *real_and_fake(share), weight)
        lecam.step()
        wanted = step["result"]
        assert result["loss"].item() == pytest.approx(wanted["discriminator_loss"], rel=1e-5)
        assert weight * result["lecam_loss"].item() == pytest.approx(wanted["lecam_loss"], rel=1e-5)
        for name in ("logits_real", "logits_fake"):
            assert result[name].item() == pytest.approx(wanted[name], rel=1e-5)
        assert lecam.averages.tolist() == pytest.approx([*step["ema_real_after"], *step["ema_fake_after"]], rel=1e-5)

        names, parameters = zip(*discriminator.named_parameters(), strict=True)
        gradients = torch.autograd.grad(result["loss"], parameters)
        assert torch.stack([gradient.norm() for gradient in gradients]).norm().item() == pytest.approx(
            step["grad_norm"], rel=1e-3
        )
        by_original_name = dict(zip(map(original_name, names), gradients, strict=True))
        for name, gradient in step["grads"].items():
            if name == "to_logits.2.bias":
                # The rest of two sums of a half each, of real and of fake logits. The original's own float32 number is
                # up to 2.9e-6 away from that in float64, so no kernel can be held to more.
                assert by_original_name[name].item() == pytest.approx(gradient["first"][0], abs=1e-5)
            else:
                assert_gradient(by_original_name[name], gradient)


def pixel_objective(discriminator, quantizer_loss, config, started, norm="l2"):
    """What the recipes on pixels minimise, without the perceptual term, which the figures leave out."""
    real, fake = real_and_fake(0.5)
    terms = {"reconstruction_loss": pixel_loss(fake, real, norm), "quantizer_loss": quantizer_loss}
    weights = {
        "reconstruction_loss": config["reconstruction_weight"],
        "quantizer_loss": config["quantizer_weight"] * config.get("kl_weight", 1),
    }
    if started:
        terms["gan_loss"] = generator_adversarial_loss(discriminator, fake)
        weights["gan_loss"] = config["discriminator_weight"]
    result = weighted_loss(terms, weights)
    result["loss"].backward()
    return result, fake.grad


def check_objective(result, gradient, wanted):
    assert result["loss"].item() == pytest.approx(wanted["result"]["total_loss"], rel=1e-5)
    assert result["reconstruction_loss"].item() == pytest.approx(wanted["result"]["reconstruction_loss"], rel=1e-5)
    if "gan_loss" in result:
        assert result["gan_loss"].item() == pytest.approx(wanted["result"]["gan_loss"], rel=1e-5)
    assert_gradient(gradient, wanted["grad_wrt_reconstruction"])


@pytest.mark.parametrize(
    "wanted", STAGE_2["generator"], ids=lambda wanted: f"{wanted['reconstruction_loss']}, step {wanted['global_step']}"
)
def test_stage_2_objective_equals_the_original_before_and_after_the_gan_starts(discriminator, wanted):
    started = wanted["global_step"] >= STAGE_2["losses_config"]["discriminator_start"]
    quantizer_loss = torch.tensor(STAGE_2["quantizer_dict"]["quantizer_loss"])
    norm = wanted["reconstruction_loss"]
    result, gradient = pixel_objective(discriminator, quantizer_loss, STAGE_2["losses_config"], started, norm)
    assert ("gan_loss" in result) == bool(wanted["result"]["discriminator_factor"])
    check_objective(result, gradient, wanted)


@pytest.mark.parametrize(
    "wanted", case("single_stage_loss"), ids=lambda wanted: f"{wanted['quantize_mode']}, step {wanted['global_step']}"
)
def test_single_stage_objective_equals_the_original(discriminator, wanted):
    config = wanted["losses_config"]
    if wanted["quantize_mode"] == "vae":
        parameters = torch.from_numpy(golden_fill.normal("posterior:a", (2, 32, 1, 24)))[:, :, 0].mT
        quantizer_loss = TiTokGaussianQuantizer(TiTokConfig(quantizer="kl", codebook_dim=12))(
            parameters, return_loss=True
        ).loss
        assert quantizer_loss.item() == pytest.approx(wanted["kl_raw"], rel=1e-5)
    else:
        quantizer_loss = torch.tensor(wanted["quantizer_dict"]["quantizer_loss"])
    started = wanted["global_step"] >= config["discriminator_start"]
    check_objective(*pixel_objective(discriminator, quantizer_loss, config, started), wanted)
