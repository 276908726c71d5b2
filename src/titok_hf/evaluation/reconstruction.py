"""How well a tokenizer reconstructs images, and how much of its codebook it uses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from titok_hf.accepted_values import check_pixel_dtype


def peak_signal_to_noise_ratio(images: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
    """PSNR of each image, in decibel, for pixel values with a range of 1.

    Args:
        images, references: float, shape (batch, channels, height, width), values in [0, 1].
    Returns:
        float, shape (batch,); infinite where the two images are equal.
    Raises:
        ValueError: anything but floats, or shapes that differ.
    """
    _check_pairs(images, references)
    mean_squared_error = (images - references).square().flatten(1).mean(dim=1)
    return -10 * mean_squared_error.log10()


def structural_similarity(images: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
    """SSIM of each image (Wang et al. 2004: Gaussian window of 11 pixels, sigma 1.5).

    Args:
        images, references: float, shape (batch, channels, height, width), values in [0, 1].
    Returns:
        float, shape (batch,), at most 1.
    Raises:
        ValueError: anything but floats, or shapes that differ.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure  # an extra; PSNR works without

    _check_pairs(images, references)
    return structural_similarity_index_measure(images, references, data_range=1.0, reduction="none")


def _check_pairs(images: torch.Tensor, references: torch.Tensor) -> None:
    check_pixel_dtype(images, "images")
    check_pixel_dtype(references, "references")
    if images.shape != references.shape:
        raise ValueError(
            f"The images have shape {tuple(images.shape)} and the references {tuple(references.shape)}. Give as many "
            "references, of the same size."
        )


def center_crop(images: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The middle of each image of shape (..., H, W), as (..., height, width): padded images without their padding."""
    top, left = (images.shape[-2] - height) // 2, (images.shape[-1] - width) // 2
    return images[..., top : top + height, left : left + width]


class ReconstructionMeter:
    """Mean PSNR and SSIM over a stream of batches; keeps two sums, however many images come.

    The mean is taken over the PSNRs of the images, in decibel, as is usual; it is not the PSNR of the mean error.
    """

    def __init__(self) -> None:
        self.num_images = 0
        self._psnr = 0.0
        self._ssim = 0.0

    def update(self, images: torch.Tensor, references: torch.Tensor) -> None:
        """Adds a batch of reconstructions and their originals, as `peak_signal_to_noise_ratio` takes them."""
        self.num_images += len(images)
        self._psnr += peak_signal_to_noise_ratio(images, references).cpu().double().sum().item()
        self._ssim += structural_similarity(images, references).cpu().double().sum().item()

    def compute(self, sum_over_processes: Callable[[torch.Tensor], torch.Tensor] | None = None) -> dict[str, float]:
        """
        `psnr` in decibel and `ssim`, means over all images so far; those of all processes, given the function that
        adds a tensor up over them.
        """
        sums = torch.tensor([self._psnr, self._ssim, self.num_images], dtype=torch.float64, device="cpu")
        if sum_over_processes is not None:
            sums = sum_over_processes(sums)
        psnr, ssim, num_images = sums.tolist()
        return {"psnr": psnr / num_images, "ssim": ssim / num_images}


@dataclass(frozen=True)
class CodebookUsage:
    """How a set of codes spreads over a codebook.

    Args:
        codebook_size: entries of the codebook.
        num_used: entries that occur at least once.
        perplexity: exponential of the entropy of the codes: the size of a uniformly used codebook of equal entropy, in
            [1, num_used].
    """

    codebook_size: int
    num_used: int
    perplexity: float

    @property
    def share_used(self) -> float:
        """Share of the codebook that occurs at least once, in [0, 1]."""
        return self.num_used / self.codebook_size

    @classmethod
    def from_histogram(cls, histogram: torch.Tensor) -> CodebookUsage:
        """Usage for the number of occurrences of each code, integers of shape (codebook_size,), not all of them 0."""
        histogram = histogram.cpu()  # some accelerators have no float64
        shares = histogram.double() / histogram.sum()
        entropy = -torch.special.xlogy(shares, shares).sum()
        return cls(len(histogram), int((histogram > 0).sum()), entropy.exp().item())

    def as_dict(self) -> dict[str, float]:
        """All numbers by name, for a report."""
        return {
            "codebook_size": self.codebook_size,
            "num_used": self.num_used,
            "share_used": self.share_used,
            "perplexity": self.perplexity,
        }


def count_codes(codes: torch.Tensor, codebook_size: int) -> torch.Tensor:
    """Occurrences of each code: int64, shape (codebook_size,), for int64 codes of any shape in [0, codebook_size)."""
    return torch.bincount(codes.flatten(), minlength=codebook_size).cpu()


__all__ = [
    "CodebookUsage",
    "ReconstructionMeter",
    "center_crop",
    "count_codes",
    "peak_signal_to_noise_ratio",
    "structural_similarity",
]
