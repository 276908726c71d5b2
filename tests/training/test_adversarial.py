"""titok_hf.training.adversarial: where gradients go, and several processes as one."""

import pytest
import torch

from simulated_processes import on_each_process
from titok_hf.training.adversarial import LeCam, discriminator_loss, generator_adversarial_loss
from titok_hf.training.discriminator import Discriminator


@pytest.fixture
def discriminator():
    return Discriminator(hidden_channels=32, num_stages=2)


def test_the_generator_s_term_leaves_the_discriminator_alone(discriminator):
    images = torch.rand(2, 3, 16, 16, requires_grad=True)
    loss = generator_adversarial_loss(discriminator, images)
    assert loss.item() == pytest.approx(-discriminator(images).mean().item())
    loss.backward()
    assert images.grad.abs().sum() > 0
    assert all(parameter.grad is None and parameter.requires_grad for parameter in discriminator.parameters())


def test_the_discriminator_s_loss_leaves_the_images_alone(discriminator):
    real, fake = (torch.rand(2, 3, 16, 16, requires_grad=True) for _ in range(2))
    discriminator_loss(discriminator, LeCam(), real, fake, 0.001)["loss"].backward()
    assert all(parameter.grad is not None for parameter in discriminator.parameters())
    assert real.grad is None and fake.grad is None


def test_the_averages_are_used_before_they_move_and_are_part_of_the_state():
    lecam = LeCam(decay=0.9)
    logits_real, logits_fake = torch.tensor([[2.0, 2.0], [-1.0, -1.0]], requires_grad=True)
    loss = lecam.loss(logits_real, logits_fake)
    assert lecam.averages.tolist() == [0, 0]
    lecam.step()
    assert loss.item() == pytest.approx(2**2 + 1)
    gradients = torch.autograd.grad(loss, [logits_real, logits_fake])
    assert [gradient.tolist() for gradient in gradients] == [[2, 2], [-1, -1]]  # 2 * mean, for each of two logits
    assert lecam.averages.tolist() == pytest.approx([0.2, -0.1])
    resumed = LeCam(decay=0.9)
    resumed.load_state_dict(lecam.state_dict())
    logits = torch.randn(2, 5)
    assert resumed.loss(*logits) == lecam.loss(*logits)
    resumed.step()
    lecam.step()
    assert torch.equal(resumed.averages, lecam.averages)


def test_two_processes_with_half_the_batch_equal_one(discriminator):
    real, fake = torch.rand(2, 4, 3, 16, 16)
    state = {"averages": torch.tensor([1.0, -1.0])}  # so far from the logits that both halves of the regulariser act

    def compute(share, mean_over_processes):
        lecam = LeCam(mean_over_processes)
        lecam.load_state_dict(state)
        result = discriminator_loss(discriminator, lecam, real[share], fake[share], 5.0)
        gradients = torch.autograd.grad(result["loss"], list(discriminator.parameters()))
        lecam.step()
        scalars = torch.stack([result[name].detach() for name in sorted(result)])
        return scalars, lecam.averages, torch.cat([gradient.flatten() for gradient in gradients])

    one = compute(slice(None), lambda tensor: tensor)
    two = on_each_process(compute, [slice(0, None, 2), slice(1, None, 2)])
    for whole, halves in zip(one, zip(*two, strict=True), strict=True):
        torch.testing.assert_close(sum(halves) / 2, whole, rtol=1e-4, atol=1e-6)
    assert torch.equal(two[0][1], two[1][1]), "the averages are the same in every process"
    assert two[0][0].tolist() != two[1][0].tolist()
