"""The adversarial terms of the pixel recipes: hinge loss, and LeCam regularisation of the discriminator."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from .losses import weighted_loss

MeanOverProcesses = Callable[[torch.Tensor], torch.Tensor]
"""The mean of a tensor over processes, without gradients: `lambda tensor: accelerator.reduce(tensor, "mean")`."""


def hinge_loss(logits_real: torch.Tensor, logits_fake: torch.Tensor) -> torch.Tensor:
    """
    The hinge loss of a discriminator (arXiv 1705.02894): (mean(relu(1 - real)) + mean(relu(1 + fake))) / 2, a scalar.
    """
    return 0.5 * (F.relu(1 - logits_real).mean() + F.relu(1 + logits_fake).mean())


class LeCam:
    """
    LeCam regularisation (arXiv 2104.03310), of mean logits as in the published recipes: keeps the mean logit of real
    images near the running average of that of fake images, and the other way round.

    The averages are part of the training state, in accelerate's protocol.

    Args:
        mean_over_processes: by default there is one process.
        decay: of the two averages, which start at 0.
    """

    def __init__(self, mean_over_processes: MeanOverProcesses = lambda mean: mean, decay: float = 0.999) -> None:
        self.mean_over_processes = mean_over_processes
        self.decay = decay
        self.averages = torch.zeros(2)  # of real and of fake logits
        # Mean logits, real and fake: of each batch of the step, and of all of them in all processes.
        self._observed: list[torch.Tensor] = []
        self._everywhere: torch.Tensor | None = None

    def observe(self, logits_real: torch.Tensor, logits_fake: torch.Tensor) -> None:
        """Records the logits of one of several batches of a step. All of them come before the first `loss`."""
        self._observed.append(_means(logits_real, logits_fake).detach())

    def loss(self, logits_real: torch.Tensor, logits_fake: torch.Tensor) -> torch.Tensor:
        """
        The regularisation by the present averages, a scalar, of float32 logits of any shape.

        Its value is that of the logits of all batches of the step in all processes. Its gradient reaches the given
        logits, so that the mean of the gradients over batches and processes is that of the whole.
        """
        own = _means(logits_real, logits_fake)
        if not self._observed:
            self.observe(logits_real, logits_fake)
        everywhere = self._observed_everywhere()
        mean_real, mean_fake = everywhere + (own - own.detach())
        average_real, average_fake = self.averages = self.averages.to(everywhere.device)
        return F.relu(mean_real - average_fake).square() + F.relu(average_real - mean_fake).square()

    def step(self, finite: bool | torch.Tensor = True) -> None:
        """Moves the averages towards the mean logits of the step, if there are any and if `finite` is true."""
        if self._observed:
            moved = self.averages.lerp(self._observed_everywhere(), 1 - self.decay)
            # Where fp16 overflows and the discriminator's step is left out, the averages stay too.
            self.averages = torch.where(moved.isfinite() & finite, moved, self.averages)
        self._observed, self._everywhere = [], None

    def _observed_everywhere(self) -> torch.Tensor:
        if self._everywhere is None:
            self._everywhere = self.mean_over_processes(torch.stack(self._observed).mean(dim=0))
        return self._everywhere

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"averages": self.averages}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        self.averages = state["averages"].clone()


def generator_adversarial_loss(discriminator: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """
    The tokenizer's adversarial term: the negative mean logit of its images, a scalar.

    Args:
        discriminator: the module itself, not its wrapper for several processes. Its weights receive no gradients.
        images: reconstructions, float, shape (batch, channels, height, width).
    """
    constants = {name: parameter.detach() for name, parameter in discriminator.named_parameters()}
    return -functional_call(discriminator, constants, (images,)).float().mean()


def discriminator_logits(
    discriminator: nn.Module, real: torch.Tensor, fake: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Float32 logits of real and of fake images, in one forward pass; no gradient reaches the images."""
    logits_real, logits_fake = discriminator(torch.cat([real.detach(), fake.detach()])).float().chunk(2)
    return logits_real, logits_fake


def discriminator_loss(
    discriminator: nn.Module, lecam: LeCam, real: torch.Tensor, fake: torch.Tensor, lecam_weight: float
) -> dict[str, torch.Tensor]:
    """
    The discriminator's own objective.

    Args:
        discriminator: wrapped for its processes or not; gradients reach its weights only.
        lecam: whose averages stay as they are, until its `step`.
        real, fake: float, equal shapes (batch, channels, height, width).
        lecam_weight: weight of LeCam regularisation; the hinge loss has weight 1.
    Returns:
        scalars `loss`, `hinge_loss`, `lecam_loss` (unweighted), and the mean logits `logits_real` and `logits_fake`.
    """
    logits_real, logits_fake = discriminator_logits(discriminator, real, fake)
    terms = {"hinge_loss": hinge_loss(logits_real, logits_fake), "lecam_loss": lecam.loss(logits_real, logits_fake)}
    means = {"logits_real": logits_real.mean().detach(), "logits_fake": logits_fake.mean().detach()}
    return weighted_loss(terms, {"hinge_loss": 1.0, "lecam_loss": lecam_weight}) | means


def _means(logits_real: torch.Tensor, logits_fake: torch.Tensor) -> torch.Tensor:
    return torch.stack([logits_real.mean(), logits_fake.mean()])
