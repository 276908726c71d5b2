"""Stage 1: the loss, and one forward and backward pass of a whole model, compute what the original computed."""

import pytest
import torch

import golden_fill
from golden_checkpoints import figures, write_checkpoint
from golden_training import assert_gradient, case
from titok_hf import MaskGitVQGANModel, TiTokModel
from titok_hf.original import titok_adapter
from titok_hf.training.losses import proxy_code_loss, weighted_loss

WEIGHTS = {"reconstruction_loss": 1.0, "quantizer_loss": 1.0}


def test_loss_and_gradient_equal_the_original():
    wanted = case("stage1_loss")
    logits = torch.from_numpy(golden_fill.normal("stage1-logits:a", (2, 1024, 16, 16), std=2.0)).requires_grad_()
    codes = torch.from_numpy(golden_fill.integers("stage1-codes:a", (2, 256), 1024))
    terms = {
        "reconstruction_loss": proxy_code_loss(logits.flatten(2).mT, codes),
        "quantizer_loss": torch.tensor(wanted["quantizer_dict"]["quantizer_loss"]),
    }
    result = weighted_loss(terms, WEIGHTS)
    result["loss"].backward()
    assert result["loss"].item() == pytest.approx(wanted["result"]["total_loss"], rel=1e-5)
    assert result["reconstruction_loss"].item() == pytest.approx(wanted["result"]["reconstruction_loss"], rel=1e-5)
    assert_gradient(logits.grad, wanted["grad_wrt_logits"])


@pytest.mark.slow
def test_a_step_of_the_s128_model_equals_the_original(tmp_path):
    wanted, arrays = figures("training_stage1_step")
    images = golden_fill.image_batch(wanted["image_seed"], wanted["batch"])
    teacher = MaskGitVQGANModel.from_pretrained(write_checkpoint("maskgit_vqgan", tmp_path / "teacher"))
    with torch.no_grad():
        proxy_codes = teacher.encode(images).codes
    assert torch.equal(proxy_codes, arrays["stage1_proxy_codes"].long())

    model = TiTokModel.from_pretrained(write_checkpoint("tokenizer_s128_stage1", tmp_path / "model")).train()
    output = model(images, return_loss=True)
    assert torch.equal(output.codes, arrays["stage1_indices"][:, 0].long())
    result = weighted_loss(
        {"reconstruction_loss": proxy_code_loss(output.logits, proxy_codes), "quantizer_loss": output.loss}, WEIGHTS
    )
    result["loss"].backward()
    original = wanted["result"]
    assert result["loss"].item() == pytest.approx(original["total_loss"], rel=1e-5)
    assert result["reconstruction_loss"].item() == pytest.approx(original["reconstruction_loss"], rel=1e-5)
    for name in ("commitment_loss", "codebook_loss"):
        assert output[name].item() == pytest.approx(original[name], rel=1e-5)

    parameters = dict(model.named_parameters())
    norm = torch.nn.utils.get_total_norm(parameter.grad for parameter in parameters.values())
    assert norm.item() == pytest.approx(wanted["total_grad_norm"], rel=1e-3)
    ours = {name: parameter.grad for name, parameter in parameters.items()}
    gradients = titok_adapter(model.config, model.state_dict()).to_original(ours)
    for name, gradient in wanted["grads"].items():
        assert_gradient(gradients[name], gradient)
