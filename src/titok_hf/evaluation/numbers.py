"""
Numbers with what they depend on, so that unlike ones are not compared.

The same model gets another FID from another resize, reference, rounding or number of images. So a number of this
package is never alone: it carries its `Convention`, in text, in JSON and in Python.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Convention:
    """
    What numbers depend on beside the model. None: it plays no role, or is not known.

    Args:
        network: the network of the features and the hash of its weights.
        resize: how images get the size of that network.
        rounding: how pixels in [0, 1] become 8 bits: "round", "truncate", or "as stored".
        crop: how images of a data set get the size of the model.
        reference: what the images are compared with, by name.
        reference_statistics: whether they were stored or are those of the reference's images.
        split: of the data set that is the reference.
        image_size: height and width in pixels.
        num_images, num_reference_images: how many.
        order: of the images; the Inception score of blocks depends on it.
        score_block: consecutive images in a block of the Inception score; None for all in one.
        distances: how distances of precision and recall are computed.
        device: that computed; a speed depends on it.
        method: how the number is computed, where its name does not say all of it.
    """

    network: str | None = None
    resize: str | None = None
    rounding: str | None = None
    crop: str | None = None
    reference: str | None = None
    reference_statistics: str | None = None
    split: str | None = None
    image_size: tuple[int, int] | None = None
    num_images: int | None = None
    num_reference_images: int | None = None
    order: str | None = None
    score_block: int | None = None
    distances: str | None = None
    device: str | None = None
    method: str | None = None


_IMAGES = ("rounding", "crop", "split", "image_size", "num_images")
_FEATURES = ("network", "resize", *_IMAGES)
_SETS = (*_FEATURES, "reference", "reference_statistics", "num_reference_images")
_PAIRS = (*_IMAGES, "reference")

_KINDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "fid": ("FID", _SETS),
    "rfid": ("rFID", _SETS),
    "frechet_distance": ("Fréchet distance", _SETS),
    "sfid": ("sFID", _SETS),
    "inception_score": ("Inception score", (*_FEATURES, "order", "score_block")),
    "inception_score_std": ("Inception score, std over blocks", (*_FEATURES, "order", "score_block")),
    "precision": ("precision", (*_SETS, "distances")),
    "recall": ("recall", (*_SETS, "distances")),
    "accuracy": ("accuracy of the classifier", _FEATURES),
    "accuracy_on_originals": ("accuracy of the classifier on the originals", _FEATURES),
    "psnr": ("PSNR (dB)", _PAIRS),
    "ssim": ("SSIM", _PAIRS),
    "psnr_inside_padding": ("PSNR inside the padding (dB)", _PAIRS),
    "ssim_inside_padding": ("SSIM inside the padding", _PAIRS),
    "lpips_vgg": ("LPIPS (VGG)", _PAIRS),
    "lpips_alex": ("LPIPS (AlexNet)", _PAIRS),
    "lpips_squeeze": ("LPIPS (SqueezeNet)", _PAIRS),
    "l1": ("L1", _PAIRS),
    "mse": ("MSE", _PAIRS),
    "codes_used": ("codes in use", _PAIRS),
    "codebook_usage": ("codebook usage", _PAIRS),
    "codebook_perplexity": ("codebook perplexity", _PAIRS),
    "codebook_entropy": ("codebook entropy (bits)", _PAIRS),
    "images_per_second": ("images per second", ("image_size", "device")),
}


@dataclass(frozen=True)
class Number:
    """
    One result.

    Args:
        name: such as "fid".
        value: the number.
        convention: of the run that it comes from.
    """

    name: str
    value: float
    convention: Convention

    @property
    def title(self) -> str:
        """The name for people."""
        return _KINDS[self.name][0] if self.name in _KINDS else self.name.replace("_", " ")

    @property
    def depends_on(self) -> dict[str, Any]:
        """The part of the convention that this number depends on; all of it for a number of an unknown kind."""
        convention = asdict(self.convention)
        return {name: convention[name] for name in (_KINDS[self.name][1] if self.name in _KINDS else convention)}

    def minus(self, other: Number) -> float:
        """
        The difference of two alike numbers.

        Raises:
            ValueError: they are different metrics, or depend on something that differs.
        """
        if self.name != other.name:
            raise ValueError(f"{self.title} and {other.title} are different metrics. Compare numbers of one metric.")
        theirs = other.depends_on
        unlike = [
            f"{name.replace('_', ' ')} ({_shown(mine)} and {_shown(theirs[name])})"
            for name, mine in self.depends_on.items()
            if mine != theirs[name]
        ]
        if unlike:
            raise ValueError(
                f"The two values of {self.title} cannot be compared, since they differ in {', '.join(unlike)}. "
                "Measure both in the same way."
            )
        return self.value - other.value


def _shown(value: Any) -> str:
    return "not given" if value is None else str(value)


@dataclass(frozen=True)
class Report:
    """
    The result of an evaluation.

    Args:
        values: of the metrics, by their names.
        convention: what they depend on.
        conditions: what else a reader wants to know, such as model, seed and versions.
        details: tables, such as numbers by class.
        warnings: sentences that a reader of the numbers has to know.
    """

    values: Mapping[str, float]
    convention: Convention
    conditions: Mapping[str, Any] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def numbers(self) -> dict[str, Number]:
        """The numbers by their names."""
        return {name: Number(name, value, self.convention) for name, value in self.values.items()}

    def as_dict(self) -> dict[str, Any]:
        """For JSON; `read_report` reads it. What plays no role is left out of the convention."""
        convention = {name: value for name, value in asdict(self.convention).items() if value is not None}
        return {
            "numbers": dict(self.values),
            "convention": convention,
            **self.conditions,
            **self.details,
            "warnings": list(self.warnings),
        }


def read_report(path: str | Path) -> Report:
    """
    The numbers of a JSON file that an evaluation wrote; NaN for those that were not finite, which JSON has as null.

    Raises:
        OSError: no such file.
        ValueError: a file of something else.
    """
    known = {each.name for each in fields(Convention)}
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        values, convention = dict(content["numbers"]), dict(content["convention"])
        values = {name: math.nan if value is None else value for name, value in values.items()}
        if unknown := convention.keys() - known:
            raise ValueError(f"its convention has {', '.join(sorted(unknown))}")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is no report of `titok-hf evaluate` ({error}). Give a file that --output or --json wrote."
        ) from error
    if "image_size" in convention:
        convention["image_size"] = tuple(convention["image_size"])
    return Report(values, Convention(**convention), warnings=tuple(content.get("warnings", ())))


__all__ = ["Convention", "Number", "Report", "read_report"]
