"""Classes by number or by name, with suggestions where a name is unknown; the names of the ImageNet classes."""

import difflib
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import TypeAlias

import numpy as np
import torch

from .accepted_values import as_integer

ClassLabels: TypeAlias = int | str | Sequence[int | str] | np.ndarray | torch.Tensor
IMAGENET_CLASSES = 1000


class ClassNames:
    """
    The classes of a model.

    Args:
        id2label: number -> name. Synonyms are separated by commas, as in ImageNet ("tench, Tinca tinca"). Some classes
            may have no name.
        num_classes: number of classes.
    """

    def __init__(self, id2label: Mapping[int, str], num_classes: int) -> None:
        self.id2label = id2label
        self.num_classes = num_classes

    def __contains__(self, name: str) -> bool:
        """Whether a class has this name or synonym, in any case."""
        return bool(self._labels_of(name))

    def label_ids(self, class_labels: ClassLabels) -> list[int]:
        """
        Numbers of classes that are given by number or by name.

        Args:
            class_labels: one or several; a name is a whole entry of `id2label` or one of its synonyms, in any case.

        Raises:
            ValueError: an empty list, a number outside [0, num_classes), a name that is unknown or ambiguous, or
                anything else, booleans included.
        """
        if isinstance(class_labels, (np.ndarray, torch.Tensor)):
            class_labels = class_labels.tolist()
        if isinstance(class_labels, str | bytes) or not isinstance(class_labels, Sequence):
            class_labels = [class_labels]
        if not class_labels:
            raise ValueError("class_labels is empty. Name at least one class.")
        return [self._named(label) if isinstance(label, str) else self._numbered(label) for label in class_labels]

    def _numbered(self, label: int) -> int:
        number = as_integer(label)
        if number is None:
            raise ValueError(
                f"class_labels has {label!r}, which is neither a number nor a name. Use integers or strings."
            )
        if not 0 <= number < self.num_classes:
            raise ValueError(
                f"class_labels has {number}, but this model has {self.num_classes} classes. "
                f"Use an integer from 0 to {self.num_classes - 1}, or a name from `pipe.id2label`."
            )
        return number

    def _named(self, name: str) -> int:
        labels = self._labels_of(name)
        if len(labels) == 1:
            return labels[0]
        if labels:
            choices = ", ".join(f"{label} ({self.id2label[label]})" for label in labels)
            raise ValueError(f"class_labels has {name!r}, which names several classes: {choices}. Use the number.")
        if not self.id2label:
            raise ValueError(f"class_labels has {name!r}, but this model's classes have no names. Use integers.")
        known = {synonym.casefold(): synonym for text in self.id2label.values() for synonym in _synonyms(text)}
        nearest = [known[match] for match in difflib.get_close_matches(name.casefold(), known, n=3, cutoff=0.4)]
        suggestion = f"Nearest names: {', '.join(nearest)}. " if nearest else ""
        raise ValueError(
            f"class_labels has {name!r}, which is not a class of this model. {suggestion}"
            f"Use an integer below {self.num_classes}, or a name from `pipe.id2label`."
        )

    def _labels_of(self, name: str) -> list[int]:
        """Classes of that full name; if there are none, classes with that synonym."""
        name = name.strip().casefold()
        full = [label for label, text in self.id2label.items() if text.casefold() == name]
        return full or [
            label
            for label, text in self.id2label.items()
            if name in (synonym.casefold() for synonym in _synonyms(text))
        ]


def _synonyms(text: str) -> list[str]:
    return [synonym.strip() for synonym in text.split(",")]


def imagenet_id2label() -> dict[int, str]:
    """
    Number of each ImageNet-1k class -> its names, separated by commas, the usual one first ("tench, Tinca tinca").

    Classes are in the order of their WordNet ids, and names are the words of their synset, as timm lists them. First
    names are unique: where WordNet has two classes of one name (crane, maillot), a word in front distinguishes them.
    """
    return dict(enumerate(json.loads(files("titok_hf").joinpath("imagenet_classes.json").read_text(encoding="utf-8"))))
