"""What a judge, a classifier of real images, recognises in reconstructed and in generated ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from titok_hf.accepted_values import check_pixel_dtype


class JudgeMeter:
    """A judge's accuracy over a stream of batches, overall and by class.

    Args:
        judge: an image classifier of `transformers` that takes pixel values in [0, 1].
        names: the classes, in the order of the labels that will be given.
    Raises:
        ValueError: the judge was trained on other classes, or on the same ones in another order.
    """

    def __init__(self, judge: PreTrainedModel, names: Sequence[str]) -> None:
        known = [judge.config.id2label[index] for index in range(judge.config.num_labels)]
        if known != list(names):
            raise ValueError(
                f"The judge knows the classes {', '.join(known)}; the images have {', '.join(names)}. "
                "Use a judge that was trained on the same data set."
            )
        self.judge = judge.eval()
        self.names = list(names)
        self._hits = torch.zeros(len(known), dtype=torch.int64)
        self._totals = torch.zeros(len(known), dtype=torch.int64)

    @torch.inference_mode()
    def update(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        """Shows the judge a batch.

        Args:
            images: float, shape (batch, 3, height, width), values in [0, 1].
            labels: int64, shape (batch,): what they are meant to show.
        Raises:
            ValueError: images of another dtype.
        """
        check_pixel_dtype(images, "images")
        logits = self.judge(pixel_values=images.to(self.judge.device, self.judge.dtype)).logits
        hits = logits.argmax(dim=1).cpu() == labels
        self._hits += torch.bincount(labels[hits], minlength=len(self.names))
        self._totals += torch.bincount(labels, minlength=len(self.names))

    def compute(self) -> dict[str, object]:
        """`accuracy` over all images, `by_class` for the classes that occurred, and `lowest_class`; in [0, 1]."""
        by_class = {
            name: hits / total
            for name, hits, total in zip(self.names, self._hits.tolist(), self._totals.tolist(), strict=True)
            if total
        }
        accuracy = self._hits.sum().item() / self._totals.sum().item()
        return {"accuracy": accuracy, "lowest_class": min(by_class.values()), "by_class": by_class}


__all__ = ["JudgeMeter"]
