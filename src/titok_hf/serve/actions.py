"""What the web page does, without the page: a model and its inputs to images and tiles."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from PIL import Image

from ..accepted_values import whole_number
from ..pipeline_titok import TiTokPipeline
from ..scheduling_maskgit import MaskGitScheduler
from .tiles import latent_tiles, palette, tiles

MAX_IMAGES = 8
MAX_STEPS = 64
# Small models show what each step predicts; where decoding takes longer than this many seconds, only the tokens.
_PREVIEW_SECONDS = 0.25


@dataclass
class Sampling:
    """Settings of a call of the pipeline, as a visitor chose them. None: the scheduler's own."""

    seed: int = 0
    steps: int = 8
    guidance_scale: float | None = None
    temperature: float | None = None
    sampler: str = "confidence"

    def arguments(self, num_images: int) -> dict[str, Any]:
        """
        Arguments of the pipeline; one rng for each image, so that an image does not depend on how many there are.

        Raises:
            ValueError: more steps or images than the page computes for one visitor, or a seed that is no whole number.
        """
        whole_number("steps", self.steps, highest=MAX_STEPS)
        whole_number("images", num_images, highest=MAX_IMAGES)
        seed = whole_number("seed", self.seed, lowest=0, highest=2**31)
        return {
            "num_inference_steps": int(self.steps),
            "guidance_scale": self.guidance_scale,
            "temperature": self.temperature,
            "generator": [torch.Generator().manual_seed(seed + index) for index in range(num_images)],
        }


@dataclass
class Step:
    """What is known after a sampling step: tiles of the first image's tokens, and images if they were decoded."""

    number: int
    of: int
    tiles: list[dict[str, Any]]
    images: list[Image.Image] | None


@dataclass
class Tokenized:
    """An image, its tokens and what they decode to."""

    model_input: Image.Image
    reconstruction: Image.Image
    codes: list[int]
    tiles: list[dict[str, Any]]
    psnr: float


@dataclass
class ServedModel:
    """
    A pipeline for many visitors, who take turns.

    Args:
        name: how the page and the Python under its tabs call it: a folder, a Hub id, or None for the bundled model.
        pipe: the pipeline.
    """

    name: str | None
    pipe: TiTokPipeline
    _turn: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def can_generate(self) -> bool:
        return self.pipe.transformer is not None

    @property
    def has_codes(self) -> bool:
        return self.pipe.tokenizer.config.has_codebook

    @cached_property
    def colours(self) -> torch.Tensor:
        """See [`palette`]."""
        return palette(self.pipe.tokenizer)

    @cached_property
    def class_names(self) -> list[tuple[str, int]]:
        """Names and numbers of the classes, for a menu."""
        names = self.pipe.id2label
        return [(names.get(label, str(label)).split(",")[0], label) for label in range(self.pipe.classes.num_classes)]

    def tokenize(self, image: Image.Image) -> Tokenized:
        """An image to tokens and back; PSNR in decibels is that of pixels in [0, 1], rounded to 8 bits."""
        with self._turn:
            pixel_values = self.pipe.preprocess(image)
            tokens = self.pipe.encode(pixel_values)
            decoded = self.pipe.decode(tokens, output_type="pt").cpu()
        both = self.pipe.image_processor.post_process(torch.cat([pixel_values.cpu(), decoded]), output_type="pil")
        squared = (pixel_values.cpu() - (decoded * 255).round() / 255).double().square().mean()
        psnr = float(-10 * squared.log10())
        if not self.has_codes:
            return Tokenized(both[0], both[1], [], latent_tiles(tokens[0]), psnr)
        codes = tokens[0].tolist()
        return Tokenized(both[0], both[1], codes, tiles(codes, self.colours), psnr)

    def decode(self, codes: Sequence[int], original: Sequence[int]) -> tuple[Image.Image, list[dict[str, Any]]]:
        """The image of changed codes, and tiles that frame the changed ones."""
        with self._turn:
            image = self.pipe.decode([list(codes)])[0]
        changed = [position for position, code in enumerate(codes) if code != original[position]]
        return image, tiles(codes, self.colours, changed)

    def generate(self, label: int, num_images: int, sampling: Sampling) -> Iterator[Step]:
        """Images of a class, step by step; the last step has the result. Closing the iterator ends the sampling."""
        yield from self._steps([label] * num_images, sampling.arguments(num_images), sampling.sampler)

    def vary(self, image: Image.Image, label: int, strength: float, num: int, sampling: Sampling) -> Iterator[Step]:
        """Variations of an image, step by step, as [`ServedModel.generate`]."""
        arguments = sampling.arguments(num)
        with self._turn:
            codes = self.pipe.encode(image)
        yield from self._steps(
            [label] * num, {**arguments, "init_codes": codes, "strength": strength}, sampling.sampler
        )

    def inpaint(
        self, image: Image.Image, mask: Image.Image, label: int | None, sampling: Sampling
    ) -> list[Image.Image]:
        """An image whose masked region is filled: by the generator, given a class; else by optimised tokens."""
        arguments = sampling.arguments(1)
        with self._turn:
            if label is None:
                return list(self.pipe.inpaint(image, mask, generator=arguments["generator"]).images)
            self._use(sampling.sampler)
            return list(self.pipe.infill(image, mask, label, **arguments).images)

    def interpolate(self, first: Image.Image, second: Image.Image, num_images: int) -> list[Image.Image]:
        """Images from the reconstruction of the first one to that of the second one."""
        whole_number("images", num_images, lowest=2, highest=2 * MAX_IMAGES)
        with self._turn:
            return self.pipe.interpolate(first, second, num_images=num_images)

    def _use(self, sampler: str) -> None:
        """Give the pipeline a sampler; call it within a turn."""
        if self.pipe.scheduler.config.sampler != sampler:
            self.pipe.scheduler = MaskGitScheduler.from_config(self.pipe.scheduler.config, sampler=sampler)

    def _steps(self, labels: list[int], arguments: dict[str, Any], sampler: str) -> Iterator[Step]:
        """Each sampling step as it happens. The pipeline works in a thread, which ends when the iterator is closed."""
        steps: queue.Queue[Step | Exception | None] = queue.Queue()
        wanted = threading.Event()
        wanted.set()
        mask_token_id = self.pipe.transformer.mask_token_id
        decoded_in_time = True

        def after_step(pipe: TiTokPipeline, index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            nonlocal decoded_in_time
            pipe._interrupt = not wanted.is_set()
            start, images = time.monotonic(), None
            if decoded_in_time and wanted.is_set():
                images = pipe.decode(tensors["predicted_codes"])
                decoded_in_time = time.monotonic() - start < _PREVIEW_SECONDS
            shown = tiles(tensors["codes"][0].tolist(), self.colours, mask_token_id=mask_token_id)
            steps.put(Step(index + 1, pipe.num_timesteps, shown, images))
            return {}

        def sample() -> None:
            try:
                with self._turn:
                    self._use(sampler)
                    output = self.pipe(
                        labels,
                        callback_on_step_end=after_step,
                        callback_on_step_end_tensor_inputs=["codes", "predicted_codes"],
                        **arguments,
                    )
                total = self.pipe.num_timesteps
                steps.put(Step(total, total, tiles(output.codes[0].tolist(), self.colours), output.images))
            except Exception as error:
                steps.put(error)
            steps.put(None)

        worker = threading.Thread(target=sample, daemon=True)
        worker.start()
        try:
            while (step := steps.get()) is not None:
                if isinstance(step, Exception):
                    raise step
                yield step
        finally:
            wanted.clear()
            worker.join()


class ServedModels:
    """
    The models of a page, each loaded when it is first used.

    Args:
        names: folders or Hub ids; none means the bundled model.
        load: a name, or None, to a pipeline.
    """

    def __init__(self, names: Sequence[str], load: Any) -> None:
        self.names: list[str | None] = list(names) or [None]
        self._load = load
        self._loaded: dict[str | None, ServedModel] = {}
        self._loading = threading.Lock()

    def get(self, index: int = 0) -> ServedModel:
        """The model of a menu entry."""
        name = self.names[index]
        with self._loading:
            if name not in self._loaded:
                self._loaded[name] = ServedModel(name, self._load(name))
            return self._loaded[name]
