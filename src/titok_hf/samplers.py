"""The samplers of `MaskGitScheduler`: which codes a step draws, and which tokens are masked after it.

Notation of the formulas: l the logits of a position, p = softmax(l), H the entropy of p, a_t the share of tokens known
at time t, and s the time after the step, so that a_t <= a_s.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .accepted_values import as_integer, check_known, real_number
from .sampling_noise import StepNoise, gumbel

Draws = tuple[torch.Tensor, torch.Tensor]
"""Codes for all positions, int64, of which those of masked positions count; and which positions are masked after the
step, bool. Both of shape (batch, num_latent_tokens)."""


@dataclass(frozen=True)
class Step:
    """
    One step, as a sampler sees it.

    Args:
        logits: divided by the softmax temperature, at least float32, shape (batch, num_latent_tokens, codebook_size).
        is_masked: which tokens are masked before the step, bool, shape (batch, num_latent_tokens).
        num_masked: how many tokens of each image the schedule masks after the step, shape (batch, 1).
        temperature: weight of the Gumbel noise.
        known_before, known_after: a_t and a_s, the share of tokens that the schedule knows before and after the step.
        is_first, is_last: the last step leaves no token masked.
        is_in_loop: whether ReMDM's loop contains the step.
        noise: random numbers.
    """

    logits: torch.Tensor
    is_masked: torch.Tensor
    num_masked: torch.Tensor
    temperature: float
    known_before: float
    known_after: float
    is_first: bool
    is_last: bool
    is_in_loop: bool
    noise: StepNoise


class Sampler:
    """
    Draws codes and chooses positions. One object serves one call, so that it may remember earlier steps.

    Args:
        config: of the scheduler.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config

    def draw(self, step: Step) -> Draws:
        """The codes and masked positions of one step. Reads no value from the device."""
        raise NotImplementedError


class ConfidenceSampler(Sampler):
    """
    MaskGIT (arXiv 2202.04200) with the noise of TiTok (arXiv 2406.07550).

    x_i = argmax_x l_i(x) + T G_i(x), and the positions with the smallest l_i(x_i) + T G_i are masked again; T is the
    temperature of the step and each G new Gumbel noise.
    """

    def draw(self, step: Step) -> Draws:
        codes = _noisy(step.logits, step.temperature, lambda: step.noise.codes(step.logits)).argmax(dim=-1)
        if step.is_last:
            return codes, torch.zeros_like(step.is_masked)
        confidence = step.logits.gather(-1, codes[..., None]).squeeze(-1)
        confidence = _noisy(confidence, step.temperature, lambda: gumbel(step.noise.positions(confidence)))
        return codes, _least(confidence, step)


class MomentSampler(Sampler):
    """
    The moment sampler (arXiv 2510.04525), what MaskGIT's choice tends to for many tokens.

    beta = 1 + 1 / T with the temperature T of the step; positions with the smallest log sum_x p_i(x)^beta + G_i are
    masked again; x_i is drawn in proportion to p_i(x)^beta. T = 0 is the limit: the likeliest codes of the positions
    with the largest max_x p_i(x).
    """

    def draw(self, step: Step) -> Draws:
        log_p = step.logits.log_softmax(dim=-1)
        if step.temperature == 0:
            moments, codes = log_p.max(dim=-1)
            return codes, _least(moments, step)
        powers = (1 + 1 / step.temperature) * log_p
        codes = _sample(powers, step.noise)
        if step.is_last:
            return codes, torch.zeros_like(step.is_masked)
        return codes, _least(powers.logsumexp(dim=-1) + gumbel(step.noise.positions(step.is_masked)), step)


class OrderedSampler(Sampler):
    """
    Codes x_i from p_i; positions in a given order, or in a random one: `token_order` is a list of positions or None.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        order = config["token_order"]
        self._lateness = None if order is None else torch.tensor(order, device="cpu").argsort()

    def draw(self, step: Step) -> Draws:
        codes = _sample(step.logits, step.noise)
        if step.is_last:
            return codes, torch.zeros_like(step.is_masked)
        if self._lateness is None:
            return codes, _least(step.noise.positions(step.is_masked), step)
        num_tokens = step.is_masked.shape[1]
        if len(self._lateness) != num_tokens:
            raise ValueError(
                f"token_order names {len(self._lateness)} positions, but the codes have {num_tokens}. "
                "Name each position once."
            )
        earliness = -self._lateness.to(step.logits.device, step.logits.dtype, non_blocking=True)
        return codes, _least(earliness.expand(step.is_masked.shape), step)


class EntropyBoundedSampler(Sampler):
    """
    Entropy-bounded unmasking (arXiv 2505.24857).

    The masked positions of an image are sorted by H; it takes the first k, for the largest k with
    H_1 + ... + H_k - max(H_1, ..., H_k) <= gamma, and draws their codes from p. Images need different
    numbers of steps. One that is done does not change in the steps that follow; the last step takes all that is left.
    """

    def draw(self, step: Step) -> Draws:
        codes = _sample(step.logits, step.noise)
        if step.is_last:
            return codes, torch.zeros_like(step.is_masked)
        log_p = step.logits.log_softmax(dim=-1)
        entropy = -(log_p.exp() * log_p).sum(dim=-1)
        order = entropy.masked_fill(~step.is_masked, math.inf).argsort(dim=1, stable=True)
        in_order = entropy.gather(1, order)
        sums = in_order.cumsum(dim=1).roll(1, dims=1)  # of the positions before: the largest, the own one, is left out
        sums[:, 0] = 0
        taken = torch.zeros_like(step.is_masked).scatter(1, order, sums <= self.config["entropy_bound"])
        return codes, step.is_masked & ~taken


class RemaskingSampler(Sampler):
    """
    ReMDM (arXiv 2503.00307): ancestral sampling in which tokens that are known may be masked again.

    With sigma_max = min(1, (1 - a_s) / a_t), 1 if a_t = 0, a known token becomes a mask with probability sigma. A
    masked one stays a mask with (1 - a_s - sigma a_t) / (1 - a_t), and else is drawn from p. Then the share of masks
    is 1 - a_s for every sigma; eta = 0 is plain ancestral sampling. `remask` names sigma:

    - `"cap"`: min(eta, sigma_max);
    - `"rescale"`: eta sigma_max;
    - `"confidence"`: sigma_i = sigma_max softmax_i(-c_i) over the known tokens, c_i the probability of token i when it
      was drawn;
    - `"loop"`: `"cap"` in the steps of `loop_interval`, during which a is constant, and 0 in all others.

    Tokens that were known before the first step, as in editing, are never masked.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        self._was_masked: torch.Tensor | None = None
        self._confidence: torch.Tensor | None = None

    def draw(self, step: Step) -> Draws:
        codes = _sample(step.logits, step.noise)
        if step.is_last:
            return codes, torch.zeros_like(step.is_masked)
        if step.is_first or self._was_masked is None:
            self._was_masked = step.is_masked if step.is_first else torch.ones_like(step.is_masked)
        is_known = self._was_masked & ~step.is_masked
        share = (step.known_after - step.known_before) / (1 - step.known_before)
        largest = 1.0 if step.known_before == 0 else min(1.0, (1 - step.known_after) / step.known_before)
        uniforms = step.noise.positions(step.is_masked)
        if self.config["remask"] == "confidence":
            remasks, unmasks = self._by_confidence(codes, step, is_known, share, largest)
        else:
            remasks = self._constant_sigma(step, largest)
            unmasks = share + remasks * step.known_before / (1 - step.known_before)
        stays_masked = step.is_masked & (uniforms >= unmasks)
        return codes, stays_masked | (is_known & (uniforms < remasks))

    def _constant_sigma(self, step: Step, largest: float) -> float:
        remask, eta = self.config["remask"], self.config["eta"]
        if remask == "loop" and not step.is_in_loop:
            return 0.0
        return eta * largest if remask == "rescale" else min(eta, largest)

    def _by_confidence(
        self, codes: torch.Tensor, step: Step, is_known: torch.Tensor, share: float, largest: float
    ) -> Draws:
        """
        Probabilities to mask a known token, (batch, num_latent_tokens), and to draw a masked one, (batch, 1).

        The published code draws masked tokens as if sigma were 0, so that the share of masks exceeds 1 - a_s. Here as
        many more are drawn as are masked again in the mean: with M masked tokens, sum_i sigma_i / M is added. The sum
        is at most M (1 - a_s) / (1 - a_t), the mean number of masks after the step, which keeps this a probability.
        """
        p = step.logits.softmax(dim=-1).gather(-1, codes[..., None]).squeeze(-1)
        earlier = p if self._confidence is None else self._confidence
        self._confidence = torch.where(step.is_masked, p, earlier)  # those that stay masked are drawn once more
        num_masked = step.is_masked.sum(dim=1, keepdim=True)
        sums = (num_masked * (1 - share)).clamp(max=largest) * is_known.any(dim=1, keepdim=True)
        # A row without a known token has no softmax; its sum is 0.
        weights = (-self._confidence).masked_fill(~is_known, -math.inf).softmax(dim=1).nan_to_num()
        return weights * sums, share + sums / num_masked.clamp(min=1)


SAMPLERS: dict[str, type[Sampler]] = {
    "confidence": ConfidenceSampler,
    "moment": MomentSampler,
    "ordered": OrderedSampler,
    "entropy-bounded": EntropyBoundedSampler,
    "remdm": RemaskingSampler,
}
REMASK_RULES = ("cap", "rescale", "confidence", "loop")


def checked_settings(
    sampler: str,
    token_order: Sequence[int] | None,
    entropy_bound: float,
    remask: str,
    eta: float,
    loop_interval: Sequence[float],
    loop_known_share: float,
) -> dict[str, Any]:
    """The settings of the samplers as JSON has them; ValueError for unknown ones and those that contradict."""
    check_known("sampler", sampler, SAMPLERS)
    check_known("remask", remask, REMASK_RULES)
    if token_order is not None:
        if sampler != "ordered":
            raise ValueError(
                f"token_order is for the sampler 'ordered', but sampler is {sampler!r}. Set token_order=None."
            )
        positions = _integers(token_order)
        if not positions or set(positions) != set(range(len(positions))):
            raise ValueError(
                f"token_order is {token_order!r}. Give each position of the codes once, from 0, in the order in which "
                "they are drawn; or None for a random order."
            )
        token_order = positions
    loop_known_share = real_number("loop_known_share", loop_known_share)
    if not 0 < loop_known_share < 1:
        raise ValueError(f"loop_known_share is {loop_known_share}. Use a number between 0 and 1.")
    ends = read_interval(loop_interval)
    if ends is None or not 0 < ends[0] < ends[1] < 1:
        raise ValueError(
            f"loop_interval is {loop_interval!r}. Give the progress at which the loop begins and ends, two numbers, "
            "0 < first < last < 1."
        )
    return {
        "token_order": token_order,
        "entropy_bound": real_number("entropy_bound", entropy_bound, lowest=0),
        "eta": real_number("eta", eta, 0, 1),
        "loop_interval": ends,
        "loop_known_share": loop_known_share,
    }


def read_interval(interval: Any) -> list[float] | None:
    """Two rising numbers in [0, 1] as floats; None for anything else."""
    try:
        first, last = (real_number("interval", end, 0, 1) for end in interval)
    except (TypeError, ValueError):
        return None
    return [first, last] if first <= last else None


def looped(share: Callable[[float], float], progress: float, config: Mapping[str, Any]) -> float:
    """
    The share of known tokens in ReMDM's loop: it rises to `loop_known_share` before the loop, is constant in it, and
    rises to 1 after it, each time along the mask schedule.

    Args:
        share: the share of known tokens at a progress by the mask schedule.
        progress: in [0, 1].
        config: of the scheduler.
    """
    (first, last), constant = config["loop_interval"], config["loop_known_share"]
    if progress < first:
        return constant * share(progress / first)
    if progress <= last:
        return constant
    return constant + (1 - constant) * share((progress - last) / (1 - last))


def _noisy(values: torch.Tensor, temperature: float, noise: Callable[[], torch.Tensor]) -> torch.Tensor:
    return values + temperature * noise() if temperature > 0 else values


def _sample(logits: torch.Tensor, noise: StepNoise) -> torch.Tensor:
    """A code for each position, drawn from the softmax of its logits."""
    return (logits + noise.codes(logits)).argmax(dim=-1)


def _least(scores: torch.Tensor, step: Step) -> torch.Tensor:
    """The masked positions with the smallest scores, as many as are to stay masked and with ties more; bool."""
    if step.is_last:
        return torch.zeros_like(step.is_masked)
    scores = scores.masked_fill(~step.is_masked, math.inf)
    cut_off = scores.sort(dim=1).values.gather(1, step.num_masked - 1)
    return step.is_masked & (scores <= cut_off)


def _integers(values: Any) -> list[int] | None:
    """The integers of a sequence or tensor; None if it is none, or holds something else."""
    try:
        integers = [as_integer(value) for value in values]
    except TypeError:
        return None
    return [value for value in integers if value is not None] if None not in integers else None
