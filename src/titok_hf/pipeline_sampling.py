"""The loop of `TiTokPipeline`: logits of each step, guided, and the scheduler's step over them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .accepted_values import can_look_at, check_finite, whole_number
from .class_names import ClassLabels
from .modeling_maskgit import MaskGitTransformer1DModel
from .pipeline_inputs import StepCallback, Tokens, codes_from_callback, editing_inputs
from .sampler_settings import SETTINGS_OF
from .scheduling_maskgit import LOGITS, MaskGitScheduler


class GuidedLogits:
    """
    The logits of the steps of one call.

    Args:
        transformer: predicts the codes.
        scheduler: says which steps are guided, how strongly, and by which kind of guidance.
        labels: classes, int64, shape (batch,).
        guiding_transformer: the weaker model of autoguidance.
    """

    def __init__(
        self,
        transformer: MaskGitTransformer1DModel,
        scheduler: MaskGitScheduler,
        labels: torch.Tensor,
        guiding_transformer: MaskGitTransformer1DModel | None = None,
    ) -> None:
        self.transformer, self.scheduler, self.labels = transformer, scheduler, labels
        self.guiding_transformer = guiding_transformer
        self._previous: torch.Tensor | None = None

    def __call__(self, codes: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        """
        Args:
            codes: int64, shape (batch, num_latent_tokens), some of them the mask token.
            timestep: of the scheduler.
        Returns:
            logits, shape (batch, num_latent_tokens, codebook_size).
        """
        kind, is_guided = self.scheduler.config.guidance, self.scheduler.needs_unconditional(timestep)
        weaker: torch.Tensor | None = None
        if kind == "classifier-free" and is_guided:
            conditional, weaker = self._with_and_without_class(codes)
        else:
            conditional = self.transformer(codes, class_labels=self.labels).logits
        if kind == "autoguidance" and is_guided:
            assert self.guiding_transformer is not None  # checked before the first step
            weaker = self.guiding_transformer(codes, class_labels=self.labels).logits
        elif kind == "previous-step":
            weaker, self._previous = self._previous, conditional  # the first step has no step before it
        if weaker is None or not is_guided:
            return conditional
        return self.scheduler.guide(conditional, weaker, timestep)

    def _with_and_without_class(self, codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Both in one pass of twice the batch."""
        no_class = torch.full_like(self.labels, self.transformer.null_class_label)
        labels = torch.cat([self.labels, no_class])
        conditional, unconditional = self.transformer(codes.repeat(2, 1), class_labels=labels).logits.chunk(2)
        return conditional, unconditional


# A call computes all of its images at once: a larger number is refused before memory runs out.
_MAX_IMAGES_PER_CLASS = 100_000


def inputs_of_call(
    pipe: Any,
    class_labels: ClassLabels,
    num_images_per_class: int,
    init_codes: Tokens | None,
    strength: float | None,
    mask: Tokens | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """
    Labels (batch,), codes (batch, num_latent_tokens) to start from, and which of them to mask; arguments are those of
    the pipeline's call. ValueError if they do not fit one another.
    """
    repeats = whole_number("num_images_per_class", num_images_per_class, highest=_MAX_IMAGES_PER_CLASS)
    device = pipe._execution_device
    labels = torch.tensor(pipe.get_label_ids(class_labels), device=device)
    num_tokens, mask_token_id = pipe.tokenizer.config.num_latent_tokens, pipe.transformer.mask_token_id
    if init_codes is None:
        if strength is not None or mask is not None:
            raise ValueError("strength and mask choose codes of init_codes, which is missing. Pass init_codes.")
        codes = torch.full((len(labels), num_tokens), mask_token_id, device=device)
    else:
        codes, mask = editing_inputs(init_codes, strength, mask, pipe.tokenizer.config)
    rows = max(len(labels), len(codes))
    if {len(labels), len(codes)} - {1, rows}:
        raise ValueError(
            f"class_labels has {len(labels)} entries and init_codes {len(codes)} rows. "
            "Give equal numbers, or one of them."
        )

    def spread(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(device).expand(rows, *tensor.shape[1:]).repeat_interleave(repeats, dim=0)

    return spread(labels), spread(codes), None if mask is None else spread(mask)


def masked_at_start(
    codes: torch.Tensor,
    strength: float | None,
    mask: torch.Tensor | None,
    scheduler: MaskGitScheduler,
    generator: torch.Generator | list[torch.Generator] | None,
) -> torch.Tensor:
    """Codes, (batch, num_latent_tokens), with those masked that a call resamples: a random share, or `mask`."""
    if strength is not None:
        return scheduler.add_noise(codes, strength, generator=generator)
    return codes if mask is None else codes.masked_fill(mask, scheduler.config.mask_token_id)


def scheduler_of_call(
    scheduler: MaskGitScheduler, guidance_scale: float | None, temperature: float | None
) -> MaskGitScheduler:
    """A scheduler for one call; ValueError for a temperature that its sampler would ignore."""
    if temperature is not None and "temperature" not in SETTINGS_OF[scheduler.config.sampler]:
        raise ValueError(
            f"temperature is {temperature}, but the sampler {scheduler.config.sampler!r} does not use it. Leave it "
            "out, and set softmax_temperature of the scheduler."
        )
    settings = {"guidance_scale": guidance_scale, "temperature": temperature}
    given: dict[str, Any] = {name: value for name, value in settings.items() if value is not None}
    return type(scheduler).from_config(scheduler.config, **given)


def check_guiding(
    guiding_transformer: Any, transformer: MaskGitTransformer1DModel, guidance: str, device: torch.device
) -> None:
    """ValueError unless there is a second generator exactly for autoguidance, one over the same codes and classes."""
    if (guidance == "autoguidance") != (guiding_transformer is not None):
        given = "no guiding_transformer" if guiding_transformer is None else "a guiding_transformer"
        raise ValueError(
            f"The scheduler's guidance is {guidance!r}, and there is {given}. Pass a second, weaker generator "
            "exactly with guidance 'autoguidance'."
        )
    if guiding_transformer is None:
        return
    if not isinstance(guiding_transformer, MaskGitTransformer1DModel):
        raise ValueError(
            f"guiding_transformer is {type(guiding_transformer).__name__}. Give a MaskGitTransformer1DModel."
        )
    for name in ("codebook_size", "num_latent_tokens", "num_classes"):
        own, other = getattr(transformer.config, name), getattr(guiding_transformer.config, name)
        if own != other:
            raise ValueError(
                f"{name} is {own} in the transformer and {other} in guiding_transformer. Use a generator that was "
                "trained on the same codes and classes."
            )
    if guiding_transformer.device != device:
        raise ValueError(
            f"guiding_transformer is on {guiding_transformer.device} and the pipeline on {device}. Move it with "
            f'guiding_transformer.to("{device}").'
        )


def sample(
    pipe: Any,
    logits_of: GuidedLogits,
    codes: torch.Tensor,
    generator: torch.Generator | list[torch.Generator] | None,
    callback: StepCallback | None,
    callback_tensors: Sequence[str],
) -> torch.Tensor:
    """
    All sampling steps. Values are checked once, after the last step, so that no step waits for the device.

    Args:
        pipe: shows progress, is given to the callback, and says whether to end after a step.
        logits_of: the scheduler's steps, and what predicts.
        codes: int64, shape (batch, num_latent_tokens), to start from.
        generator, callback, callback_tensors: as in a call of the pipeline.
    Returns:
        codes without a mask token.
    Raises:
        ValueError: logits that are not finite, or codes of a callback that do not exist.
    """
    scheduler, mask_token_id = logits_of.scheduler, logits_of.transformer.mask_token_id
    finite = known = torch.ones((), dtype=torch.bool, device=codes.device)
    pipe._interrupt = False
    for index, timestep in enumerate(pipe.progress_bar(scheduler.timesteps)):
        with pipe._fast_on_cpu():
            logits = logits_of(codes, timestep)
        codes, predicted, logits = scheduler.step(logits, timestep, codes, generator, return_dict=False)
        finite = finite & logits.isfinite().all()
        if callback is not None:
            available = {"codes": codes, "predicted_codes": predicted}
            tensors = {name: available[name] for name in callback_tensors}
            returned = codes_from_callback(callback(pipe, index, timestep, tensors), codes)
            if returned is not codes:
                # An index out of range would make a CUDA device unusable for this process.
                codes = returned.clamp(0, mask_token_id)
                known = known & (codes == returned).all()
        if pipe.interrupt:
            codes = torch.where(codes == mask_token_id, predicted, codes)
            break
        if scheduler.config.sampler == "entropy-bounded" and can_look_at(codes) and (codes != mask_token_id).all():
            break  # on an accelerator, where looking would wait, the steps that are left change nothing
    is_finite, is_known = torch.stack([finite, known & (codes != mask_token_id).all()]).tolist()
    check_finite(is_finite, LOGITS)
    if not is_known:
        raise ValueError(
            "callback_on_step_end returned codes that do not exist, or masked codes after the last step. Codes "
            f"are in [0, {mask_token_id}); {mask_token_id} is the mask token."
        )
    return codes
