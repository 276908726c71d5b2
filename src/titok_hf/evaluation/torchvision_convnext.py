"""torchvision's ConvNeXt classifiers, read from torchvision's own weights without torchvision."""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import ConvNextConfig, ConvNextForImageClassification

# The perceptual network of the published recipes: its name in torchvision, and the file in which it is published.
PUBLISHED_CONVNEXT = "ConvNeXt_Small_Weights.IMAGENET1K_V1"
_URL = "https://download.pytorch.org/models/convnext_small-0c510722.pth"

# What torchvision's transforms of these weights do to an image in [0, 1].
INPUT_SIZE = (224, 224)
IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]

# torchvision's names, and transformers'. `features` holds the stem, then stages and what shrinks the map before them.
_NAMES = [
    (r"features\.0\.0\.(.*)", r"convnext.embeddings.patch_embeddings.\1"),
    (r"features\.0\.1\.(.*)", r"convnext.embeddings.layernorm.\1"),
    (r"features\.(\d*[13579])\.(\d+)\.layer_scale", r"convnext.encoder.stages.\1.layers.\2.layer_scale_parameter"),
    (r"features\.(\d*[13579])\.(\d+)\.block\.0\.(.*)", r"convnext.encoder.stages.\1.layers.\2.dwconv.\3"),
    (r"features\.(\d*[13579])\.(\d+)\.block\.2\.(.*)", r"convnext.encoder.stages.\1.layers.\2.layernorm.\3"),
    (r"features\.(\d*[13579])\.(\d+)\.block\.3\.(.*)", r"convnext.encoder.stages.\1.layers.\2.pwconv1.\3"),
    (r"features\.(\d*[13579])\.(\d+)\.block\.5\.(.*)", r"convnext.encoder.stages.\1.layers.\2.pwconv2.\3"),
    (r"features\.(\d*[02468])\.([01])\.(.*)", r"convnext.encoder.stages.\1.downsampling_layer.\2.\3"),
    (r"classifier\.0\.(.*)", r"convnext.layernorm.\1"),
    (r"classifier\.2\.(.*)", r"classifier.\1"),
]


def is_torchvision_convnext(name: str) -> bool:
    """Whether a classifier's name is torchvision's of the published weights, or the path of a file of torchvision."""
    return name == PUBLISHED_CONVNEXT or name.endswith((".pth", ".pt"))


def load_torchvision_convnext(name: str) -> ConvNextForImageClassification:
    """
    A ConvNeXt of torchvision as the equal network of transformers, which computes the same logits.

    Args:
        name: `PUBLISHED_CONVNEXT`, whose file is taken from the cache of `torch.hub` or downloaded into it; or the
            path of a file with the state dict of any of torchvision's ConvNeXts.
    Raises:
        ValueError: the file is not there and can't be downloaded, or it is something else.
    """
    try:
        if name == PUBLISHED_CONVNEXT:
            weights = torch.hub.load_state_dict_from_url(
                _URL, map_location="cpu", progress=False, check_hash=True, weights_only=True
            )
        else:
            weights = torch.load(name, map_location="cpu", weights_only=True)
        return convnext_from_torchvision(weights)
    except (OSError, RuntimeError, EOFError, KeyError, ValueError, pickle.UnpicklingError) as error:
        cached = Path(torch.hub.get_dir(), "checkpoints", Path(_URL).name)
        raise ValueError(
            f"{name!r} can't be read as a ConvNeXt of torchvision ({error}). Without a network, download {_URL} "
            f"elsewhere and put it at {cached}, or name the file."
        ) from error


def convnext_from_torchvision(weights: Mapping[str, torch.Tensor]) -> ConvNextForImageClassification:
    """
    The network that torchvision's weights belong to.

    Args:
        weights: state dict of torchvision's `ConvNeXt`, of any size. The tensors become those of the network.
    Raises:
        ValueError: names or shapes are not those of a ConvNeXt.
    """
    named = {_translate(name): _without_map_axes(name, weight) for name, weight in weights.items()}
    try:
        num_labels, embedding = named["classifier.bias"], named["convnext.embeddings.patch_embeddings.weight"]
    except KeyError as error:
        raise ValueError(f"it has no {error.args[0]}") from error
    depths, hidden_sizes = _sizes(named)
    config = ConvNextConfig(
        num_channels=embedding.shape[1],
        patch_size=embedding.shape[2],
        num_stages=len(depths),
        depths=depths,
        hidden_sizes=hidden_sizes,
        num_labels=len(num_labels),
        layer_norm_eps=1e-6,  # of the last norm; the others have no choice
        image_size=INPUT_SIZE[0],
    )
    with torch.device("meta"):
        network = ConvNextForImageClassification(config)
    try:
        network.load_state_dict(named, assign=True)
    except RuntimeError as error:
        raise ValueError(" ".join(str(error).split())) from error
    return network.eval()


def _translate(name: str) -> str:
    for pattern, replacement in _NAMES:
        match = re.fullmatch(pattern, name)
        if match is not None:
            translated = match.expand(replacement)
            # Stage n is features.{2n + 1}, and what shrinks the map before it features.{2n}.
            return re.sub(r"stages\.(\d+)", lambda found: f"stages.{int(found[1]) // 2}", translated)
    raise ValueError(f"it holds {name}, which no ConvNeXt of torchvision has")


def _without_map_axes(name: str, weight: torch.Tensor) -> torch.Tensor:
    """torchvision keeps the scale of a block's channels as (channels, 1, 1)."""
    return weight.flatten() if name.endswith("layer_scale") else weight


def _sizes(named: Mapping[str, torch.Tensor]) -> tuple[list[int], list[int]]:
    """Blocks and channels of each stage."""
    widths: dict[int, dict[int, int]] = {}
    for name, weight in named.items():
        found = re.fullmatch(r"convnext\.encoder\.stages\.(\d+)\.layers\.(\d+)\.dwconv\.bias", name)
        if found is not None:
            widths.setdefault(int(found[1]), {})[int(found[2])] = len(weight)
    stages = [widths[stage] for stage in sorted(widths)]
    return [len(blocks) for blocks in stages], [blocks[0] for blocks in stages]


__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "INPUT_SIZE",
    "PUBLISHED_CONVNEXT",
    "convnext_from_torchvision",
    "is_torchvision_convnext",
    "load_torchvision_convnext",
]
