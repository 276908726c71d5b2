"""The scheduler: from masked codes to an image's codes in a few steps.

By default MaskGIT (arXiv 2202.04200, section 3.2) as in TiTok (arXiv 2406.07550): the most confident codes first, with
decreasing Gumbel noise on the logits and on the confidences. Other samplers are in `titok_hf.samplers`, kinds of
guidance in `titok_hf.guidance`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import ConfigMixin, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from diffusers.utils import BaseOutput

from .accepted_values import can_look_at, check_finite, check_known, real_number, whole_number
from .checkpoints.mixin import ReaderMixin
from .guidance import GUIDANCE_KINDS, GUIDANCE_SCHEDULES, guided, scale_at
from .guidance_scales import NO_GUIDANCE, NO_GUIDANCE_KEY, with_present_scale
from .mask_schedules import MASK_SCHEDULES as MASK_SCHEDULES
from .mask_schedules import mask_ratio as mask_ratio
from .mask_schedules import num_masked as num_masked
from .samplers import SAMPLERS, Step, checked_settings, looped, read_interval
from .sampling_noise import Sources, StepNoise, uniforms

LOGITS = "The logits of the transformer, guided,"
MAX_INFERENCE_STEPS = 5000
"""With more steps, neighbouring timesteps of the cosine schedule are the same float32 number."""

SAMPLER_VARIANTS: dict[str, dict[str, Any]] = {
    "l32": {"num_inference_steps": 8, "temperature": 9.5, "guidance_scale": 5.5, "guidance_schedule": "linear"},
    "b64": {"num_inference_steps": 8, "temperature": 11.0, "guidance_scale": 4.0, "guidance_schedule": "linear"},
    "s128": {
        "num_inference_steps": 64,
        "temperature": 2.8,
        "guidance_scale": 6.9,
        "guidance_schedule": "power-cosine",
    },
}
"""The settings of the published ImageNet 256 benchmark, all with softmax temperature annealing; those of the 512 pixel
models were not published. A linear scale is larger by 1 than in the original's files (see `guidance_scales`)."""


@dataclass
class MaskGitSchedulerOutput(BaseOutput):
    """
    Args:
        prev_sample (`torch.LongTensor` of shape `(batch, num_latent_tokens)`): input of the next step, with the less
            confident codes masked again.
        pred_original_sample (`torch.LongTensor` of shape `(batch, num_latent_tokens)`): the prediction of this step
            for all codes: a preview of the image.
        pred_logits (`torch.FloatTensor` of shape `(batch, num_latent_tokens, codebook_size)`): the logits, divided by
            the softmax temperature, from which the codes were drawn.
    """

    prev_sample: torch.LongTensor
    pred_original_sample: torch.LongTensor
    pred_logits: torch.FloatTensor


class MaskGitScheduler(ReaderMixin, SchedulerMixin, ConfigMixin):
    """Parallel decoding of masked codes.

    Each step draws codes for masked positions and leaves fewer positions masked. `set_timesteps` computes the values
    of all steps (`timesteps`, `mask_ratios`, `known_shares`, `temperatures`, `softmax_temperatures`,
    `guidance_scales`) as Python numbers, so that `step` and `guide` never wait for the device.

    A timestep is the share of masked tokens when its step begins by the mask schedule, in (0, 1], decreasing from 1.
    Timesteps stay on the CPU, where reading one does not wait.

    Args:
        mask_token_id: id of the mask token, outside the codebook.
        mask_schedule: how the share of masked tokens falls: `"arccos"` (TiTok's), `"cosine"`, `"linear"` or `"root"`.
        num_inference_steps: default number of steps, at most 5000.
        temperature: weight of the Gumbel noise of the samplers `"confidence"` and `"moment"`, at least 0; it falls
            linearly to 0 in the last step. The other samplers do not use it.
        softmax_temperature_annealing: divide the logits by 0.5 + 0.8 (1 - progress), from about 1.3 down to 0.5.
        guidance_scale: strength of the guidance, `weaker + scale (prediction - weaker)` as in diffusers: 1 or less is
            no guidance.
        guidance_schedule: `"constant"`; `"linear"`, rising from 1 at the first step towards the scale; or
            `"power-cosine"`, rising from 1 along half a cosine wave (MDT, arXiv 2303.14389).
        guidance_power: exponent of the progress in `"power-cosine"`; with a larger one, guidance begins later.
        guidance_interval: first and last progress, in [0, 1], of the steps with guidance (arXiv 2404.07724); None for
            all steps. The progress of step i of n is i / n.
        guidance: what the weaker prediction is: `"classifier-free"`, `"autoguidance"` or `"previous-step"`, see
            `titok_hf.guidance`.
        sampler: `"confidence"`, `"moment"`, `"ordered"`, `"entropy-bounded"` or `"remdm"`, see `titok_hf.samplers`.
        softmax_temperature: divide the logits by this number too, for every sampler; above 0.
        token_order: of `"ordered"`: each position once, in the order in which they are drawn; None for a random order.
        entropy_bound: gamma of `"entropy-bounded"`, in nats, at least 0. Its number of steps is the largest number.
        remask: of `"remdm"`: `"cap"`, `"rescale"`, `"confidence"` or `"loop"`.
        eta: of `"remdm"`, in [0, 1]; 0 masks no token again.
        loop_interval, loop_known_share: of `"remdm"` with `"loop"`: first and last progress of the loop, and the share
            of known tokens in it, between 0 and 1.

    Raises:
        ValueError: an unknown name, a number of steps outside of [1, 5000], a negative temperature, an interval that
            is not two rising numbers in [0, 1], a value of another type, NaN and infinity included, or settings that
            contradict one another.
    """

    order = 1
    init_noise_sigma = 1.0

    @register_to_config
    def __init__(
        self,
        mask_token_id: int,
        mask_schedule: str = "arccos",
        num_inference_steps: int = 8,
        temperature: float = 4.5,
        softmax_temperature_annealing: bool = False,
        guidance_scale: float = 4.0,
        guidance_schedule: str = "constant",
        guidance_power: float = 3.0,
        guidance_interval: Sequence[float] | None = None,
        guidance: str = "classifier-free",
        sampler: str = "confidence",
        softmax_temperature: float = 1.0,
        token_order: Sequence[int] | None = None,
        entropy_bound: float = 1.0,
        remask: str = "cap",
        eta: float = 0.05,
        loop_interval: Sequence[float] = (0.45, 0.95),
        loop_known_share: float = 0.9,
    ) -> None:
        check_known("guidance_schedule", guidance_schedule, GUIDANCE_SCHEDULES)
        check_known("guidance", guidance, GUIDANCE_KINDS)
        if not isinstance(softmax_temperature_annealing, bool):
            raise ValueError(f"softmax_temperature_annealing is {softmax_temperature_annealing!r}. Use True or False.")
        # As Python numbers: the configuration is saved as JSON.
        self.register_to_config(
            mask_token_id=whole_number("mask_token_id", mask_token_id, lowest=0),
            num_inference_steps=whole_number("num_inference_steps", num_inference_steps, highest=MAX_INFERENCE_STEPS),
            temperature=real_number("temperature", temperature, lowest=0),
            guidance_scale=real_number("guidance_scale", guidance_scale),
            guidance_power=real_number("guidance_power", guidance_power, lowest=0),
            softmax_temperature=real_number("softmax_temperature", softmax_temperature, lowest=1e-3),
            **checked_settings(sampler, token_order, entropy_bound, remask, eta, loop_interval, loop_known_share),
            **{NO_GUIDANCE_KEY: NO_GUIDANCE},
        )
        if guidance_interval is not None and read_interval(guidance_interval) is None:
            raise ValueError(
                f"guidance_interval is {guidance_interval!r}. "
                "Give two numbers, 0 <= first <= last <= 1, or None to guide every step."
            )
        self.set_timesteps()

    @classmethod
    def from_config(cls, config: Any, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """
        As in diffusers. The guidance scale of a configuration that an earlier version saved, which counted from the
        conditional logits, is translated; one in `kwargs` is not. Another `sampler` in `kwargs` takes no `token_order`
        over.
        """
        if isinstance(config, Mapping):
            config = with_present_scale(config)
            # diffusers takes arguments that were given by position for defaults, and would leave out mask_token_id.
            config.pop("_use_default_values", None)
            if kwargs.get("sampler", "ordered") != "ordered":
                config["token_order"] = None
        return super().from_config(config, return_unused_kwargs, **kwargs)

    @classmethod
    def from_variant(cls, name: str, mask_token_id: int = 4096, **overrides: Any) -> MaskGitScheduler:
        """The sampler of the published benchmark.

        Args:
            name: `"l32"`, `"b64"` or `"s128"`.
            mask_token_id: id of the mask token; the published generators have 4096.
            overrides: arguments of the class to change.
        Raises:
            ValueError: no settings were published under that name.
        """
        if name not in SAMPLER_VARIANTS:
            raise ValueError(
                f"No published sampler settings are called {name!r}. Use one of {list(SAMPLER_VARIANTS)}."
            )
        settings = {**SAMPLER_VARIANTS[name], "softmax_temperature_annealing": True}
        return cls(mask_token_id=mask_token_id, **{**settings, **overrides})

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        num_masked_tokens: int | Sequence[int] | torch.Tensor | None = None,
    ) -> None:
        """Compute the values of all steps.

        Args:
            num_inference_steps: number of steps; by default the configured one.
            device: device of the codes.
            num_masked_tokens: for editing, how many tokens are masked at the start: one number, or one for each image.
                The schedule then applies to these tokens only. None means all tokens.
        Raises:
            ValueError: the number of steps is not an integer in [1, 5000].
        """
        steps = self.config.num_inference_steps if num_inference_steps is None else num_inference_steps
        steps = whole_number("num_inference_steps", steps, highest=MAX_INFERENCE_STEPS)
        self.num_inference_steps = steps
        begins = [step / steps for step in range(steps)]
        ends = [(step + 1) / steps for step in range(steps)]

        self.timesteps = self._mask_ratios_at(begins).float()
        ratios = self._mask_ratios_at(ends)
        self.mask_ratios: list[float] = ratios.tolist()
        self.temperatures = [self.config.temperature * (1 - progress) for progress in ends]
        annealing = self.config.softmax_temperature_annealing
        self.softmax_temperatures = [
            self.config.softmax_temperature * (0.5 + 0.8 * (1 - progress) if annealing else 1.0) for progress in ends
        ]
        self.guidance_scales = [scale_at(progress, self.config) for progress in begins]
        self.known_shares = [self._known_share_at(progress) for progress in [*begins, 1.0]]
        self._sampler = SAMPLERS[self.config.sampler](self.config)

        self._index_of_timestep = {timestep: index for index, timestep in enumerate(self.timesteps.tolist())}
        self._mask_lengths = None
        if num_masked_tokens is not None:
            tokens = torch.as_tensor(num_masked_tokens, dtype=torch.float64, device="cpu").reshape(-1, 1)
            self._mask_lengths = (ratios[:, None, None] * tokens).floor().long().to(device)  # (steps, B or 1, 1)

    def scale_model_input(self, sample: torch.LongTensor, timestep: float | torch.Tensor) -> torch.LongTensor:
        """The codes as they are. For interchangeability with other schedulers."""
        return sample

    def needs_unconditional(self, timestep: float | torch.Tensor) -> bool:
        """Whether this step is guided, so that it needs a weaker prediction. ValueError for an unknown timestep."""
        return self.guidance_scales[self._index(timestep)] > NO_GUIDANCE

    def guide(
        self, conditional: torch.Tensor, unconditional: torch.Tensor, timestep: float | torch.Tensor
    ) -> torch.Tensor:
        """Guidance with the scale of this step: 1 gives the conditional logits.

        Args:
            conditional: logits of the model given the class, float, shape (batch, num_latent_tokens, codebook_size).
            unconditional: those of the weaker prediction, same shape: for classifier-free guidance the model's logits
                given no class; for the other kinds see `titok_hf.guidance`.
            timestep: one of `timesteps`.
        Returns:
            guided logits, same shape, at least float32: a large scale would amplify the rounding of half precision.
        Raises:
            ValueError: `timestep` is none of `timesteps`.
        """
        scale = self.guidance_scales[self._index(timestep)]
        conditional, unconditional = _at_least_float32(conditional), _at_least_float32(unconditional)
        return guided(conditional, unconditional, scale, self.config.guidance_schedule)

    def step(
        self,
        model_output: torch.Tensor,
        timestep: float | torch.Tensor,
        sample: torch.LongTensor,
        generator: Sources = None,
        noise: tuple[torch.Tensor, torch.Tensor] | None = None,
        return_dict: bool = True,
    ) -> MaskGitSchedulerOutput | tuple[torch.LongTensor, torch.LongTensor, torch.Tensor]:
        """One step of the sampler: codes for masked positions, of which fewer stay masked; the last step leaves none.

        With `"confidence"`, codes are drawn by adding Gumbel noise to the logits, and a code's confidence is its logit
        plus new noise. `"confidence"`, `"moment"` and `"ordered"` mask n tokens of each image again (with ties, more):
        the scheduled number, but at least 1, and less than the number of masked tokens now. Codes that were not masked
        never change; `"remdm"` may mask those that it drew itself.

        Args:
            model_output: logits after guidance, float, shape (batch, num_latent_tokens, codebook_size). Computation is
                in float32 at least.
            timestep: one of `timesteps`.
            sample: codes, int64, shape (batch, num_latent_tokens), `mask_token_id` where unknown.
            generator: source of the noise, which is drawn on the generator's device. With a list of one generator for
                each image, an image does not depend on the others in its batch.
            noise: uniform numbers in [0, 1) to use instead, float32: shape of `model_output` for the codes, and shape
                of `sample` for the positions.
            return_dict: whether to return a dataclass rather than a tuple.
        Raises:
            ValueError: shapes do not fit, `timestep` is none of `timesteps`, `generator` is something else or has
                another length than the batch, or (on the CPU, where the check does not wait) logits are not finite. On
                an accelerator check `pred_logits` after the last step, as the pipeline does.
        """
        index = self._index(timestep)
        self._check_shapes(model_output, sample)
        is_masked = sample == self.config.mask_token_id
        logits = _at_least_float32(model_output) / self.softmax_temperatures[index]
        if can_look_at(logits):
            check_finite(logits.isfinite().all(), LOGITS)
        step = Step(
            logits=logits,
            is_masked=is_masked,
            num_masked=self._mask_length(index, is_masked),
            temperature=self.temperatures[index],
            known_before=self.known_shares[index],
            known_after=self.known_shares[index + 1],
            is_first=index == 0,
            is_last=index == self.num_inference_steps - 1,
            is_in_loop=self._is_in_loop(index),
            noise=StepNoise(generator, noise),
        )
        codes, stays_masked = self._sampler.draw(step)
        predicted = torch.where(is_masked, codes, sample)
        prev_sample = predicted.masked_fill(stays_masked, self.config.mask_token_id)

        if not return_dict:
            return (prev_sample, predicted, logits)
        return MaskGitSchedulerOutput(prev_sample=prev_sample, pred_original_sample=predicted, pred_logits=logits)

    def add_noise(
        self,
        original_samples: torch.LongTensor,
        timesteps: float | torch.Tensor,
        generator: Sources = None,
        noise: torch.Tensor | None = None,
    ) -> torch.LongTensor:
        """Mask a random part of the codes: the reverse of sampling, for training and for editing.

        Args:
            original_samples: codes, int64, shape (batch, num_latent_tokens).
            timesteps: share of tokens to mask, in (0, 1], one number or float of shape (batch,). The number of tokens
                is rounded, half to even, and at least 1.
            generator: source of randomness, as in `step`.
            noise: uniform numbers of the codes' shape to use instead; the smallest ones are masked.
        Returns:
            the codes with `mask_token_id` at the chosen positions.
        Raises:
            ValueError: a share is not in (0, 1] (not checked for tensors on an accelerator), or the list of generators
                has another length than the batch.
        """
        if not isinstance(timesteps, torch.Tensor) and not 0 < real_number("The share to mask", timesteps) <= 1:
            raise ValueError(f"The share of tokens to mask is {timesteps}. Use a number above 0 and up to 1.")
        device, num_tokens = original_samples.device, original_samples.shape[1]
        shares = torch.as_tensor(timesteps, device=device).reshape(-1, 1)
        if can_look_at(shares) and not ((shares > 0) & (shares <= 1)).all():
            raise ValueError(f"The share of tokens to mask is {shares.flatten().tolist()}. Use numbers in (0, 1].")
        if noise is None:
            noise = uniforms(original_samples.shape, device, generator)
        chosen = noise.argsort(dim=1) < num_masked(shares, num_tokens)
        return original_samples.masked_fill(chosen, self.config.mask_token_id)

    def _mask_ratios_at(self, progress: list[float]) -> torch.Tensor:
        # On the CPU whatever the default device is: some accelerators have no float64.
        return mask_ratio(torch.tensor(progress, dtype=torch.float64, device="cpu"), self.config.mask_schedule)

    def _known_share_at(self, progress: float) -> float:
        """The share of tokens that the mask schedule knows, from exactly 0 to exactly 1; ReMDM's loop changes it."""

        def share(progress: float) -> float:
            return 1 - self._mask_ratios_at([progress]).item() if 0 < progress < 1 else float(progress)

        if (self.config.sampler, self.config.remask) == ("remdm", "loop"):
            return looped(share, progress, self.config)
        return share(progress)

    def _is_in_loop(self, index: int) -> bool:
        first, last = self.config.loop_interval
        return first <= index / self.num_inference_steps and (index + 1) / self.num_inference_steps <= last

    def _mask_length(self, index: int, is_masked: torch.Tensor) -> torch.Tensor:
        """Number of tokens of each image to mask again, (batch, 1)."""
        if self._mask_lengths is None:
            scheduled: int | torch.Tensor = math.floor(is_masked.shape[1] * self.mask_ratios[index])
        else:
            scheduled = self._mask_lengths[index]
        return (is_masked.sum(dim=1, keepdim=True) - 1).clamp(max=scheduled).clamp(min=1)

    def _index(self, timestep: float | torch.Tensor) -> int:
        value = float(timestep)
        if value not in self._index_of_timestep:
            raise ValueError(
                f"timestep is {value}, which is not among the {self.num_inference_steps} timesteps set. "
                "Iterate over scheduler.timesteps, and call set_timesteps before the loop, not inside it."
            )
        return self._index_of_timestep[value]

    def _check_shapes(self, model_output: torch.Tensor, sample: torch.Tensor) -> None:
        if model_output.ndim != 3 or model_output.shape[:2] != sample.shape:
            raise ValueError(
                f"model_output has shape {tuple(model_output.shape)} and sample {tuple(sample.shape)}. "
                "Give logits (batch, num_latent_tokens, codebook_size) for codes (batch, num_latent_tokens)."
            )
        if self._mask_lengths is not None and self._mask_lengths.shape[1] not in (1, len(sample)):
            raise ValueError(
                f"sample has {len(sample)} images, but set_timesteps was given {self._mask_lengths.shape[1]} "
                "num_masked_tokens. Give one number for each image."
            )


def _at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
