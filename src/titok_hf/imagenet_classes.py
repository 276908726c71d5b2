"""Names of the 1000 ImageNet classes, in the order of their numbers, which is that of their WordNet ids."""

import json
from functools import cache
from importlib.resources import files

IMAGENET_CLASSES = 1000


@cache
def _names() -> tuple[str, ...]:
    return tuple(json.loads(files("titok_hf").joinpath("imagenet_classes.json").read_text(encoding="utf-8")))


def imagenet_id2label() -> dict[int, str]:
    """
    Number of each ImageNet-1k class -> its names, separated by commas, the usual one first ("tench, Tinca tinca").

    They are the words of the class's WordNet synset, as timm lists them. First names are unique: of the two cranes and
    the two maillots, which WordNet does not tell apart by name, three carry a word in front that does.
    """
    return dict(enumerate(_names()))


__all__ = ["IMAGENET_CLASSES", "imagenet_id2label"]
