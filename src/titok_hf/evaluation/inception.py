"""
The Inception network of the published FID: that of TensorFlow (2015-12-05), with 1,008 outputs.

It reads the weights that torch-fidelity publishes and needs neither torch-fidelity nor torchvision. Blocks and names
are those of Inception v3 (arXiv 1512.00567) as torchvision calls them.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import nn

from .adm import resize_like_tensorflow1

INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION_FILE}"
INPUT_SIZE = 299
NUM_POOLED, NUM_SPATIAL, NUM_CLASSES = 2048, 2023, 1008
_SPATIAL_CHANNELS = 7

Layer: TypeAlias = "tuple[int, int | tuple[int, int]]"  # output channels and kernel size of a convolution
Branch: TypeAlias = "tuple[str, Sequence[Layer]]"  # its name and its convolutions, one after the other


@dataclass
class InceptionFeatures:
    """
    Args:
        pooled: float32, shape (batch, 2048), for FID, precision and recall; another length for another network.
        spatial: float32, shape (batch, 2023), 17 x 17 positions of 7 channels, the channels last; for sFID. Networks
            other than Inception have none.
        probabilities: of the 1,008 classes, float32, shape (batch, 1008), from logits without their bias; for the
            Inception score. Networks other than Inception have none.
    """

    pooled: torch.Tensor
    spatial: torch.Tensor | None = None
    probabilities: torch.Tensor | None = None


class InceptionConvolution(nn.Module):
    """Convolution without bias, batch norm, ReLU. Stride 1 keeps the size of the map unless `padding` is 0."""

    def __init__(
        self, in_channels: int, layer: Layer, stride: int = 1, padding: int | tuple[int, int] | None = None
    ) -> None:
        super().__init__()
        out_channels, kernel = layer
        height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (height // 2, width // 2) if padding is None else padding
        self.conv = nn.Conv2d(in_channels, out_channels, (height, width), stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, eps=0.001)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return F.relu(self.bn(self.conv(maps)))


class InceptionBlock(nn.Module):
    """
    Branches of convolutions side by side, whose outputs are concatenated; the last branch pools.

    Args:
        in_channels: of the input.
        branches: in the order of their outputs.
        pool_channels: of the convolution behind the pooling; None for none.
        max_pool: whether the last branch takes the maximum and not the mean. The mean leaves out the padding.
        stride: 2 halves the map, in the last convolution of each branch and in the pooling.
        splits: the last layer of a branch with several layers is a pair of (1, 3) and (3, 1), side by side.
    """

    def __init__(
        self,
        in_channels: int,
        branches: Sequence[Branch],
        pool_channels: int | None = None,
        max_pool: bool = False,
        stride: int = 1,
        splits: bool = False,
    ) -> None:
        super().__init__()
        self.max_pool, self.stride = max_pool, stride
        self._names: list[list[tuple[str, ...]]] = []  # of each branch, each of its layers
        for name, layers in branches:
            names, channels = [], in_channels
            for number, layer in enumerate(layers, start=1):
                is_last = number == len(layers)
                layer_name = name if len(layers) == 1 else f"{name}_{number}"
                if splits and is_last and len(layers) > 1:
                    pair = {f"{layer_name}a": (layer[0], (1, 3)), f"{layer_name}b": (layer[0], (3, 1))}
                    for each, one_of_pair in pair.items():
                        self.add_module(each, InceptionConvolution(channels, one_of_pair))
                    names.append(tuple(pair))
                else:
                    halves = stride == 2 and is_last
                    convolution = InceptionConvolution(channels, layer, 2 if halves else 1, 0 if halves else None)
                    self.add_module(layer_name, convolution)
                    names.append((layer_name,))
                channels = layer[0]
            self._names.append(names)
        if pool_channels is not None:
            self.branch_pool = InceptionConvolution(in_channels, (pool_channels, 1))

    def branches(self, maps: torch.Tensor) -> list[torch.Tensor]:
        """The output of each branch, the pooling's last."""
        outputs = []
        for names in self._names:
            output = maps
            for layer in names:
                output = torch.cat([self.get_submodule(name)(output) for name in layer], dim=1)
            outputs.append(output)
        padding = 1 if self.stride == 1 else 0
        if self.max_pool:
            pooled = F.max_pool2d(maps, 3, self.stride, padding)
        else:
            pooled = F.avg_pool2d(maps, 3, self.stride, padding, count_include_pad=False)
        return [*outputs, self.branch_pool(pooled) if hasattr(self, "branch_pool") else pooled]

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return torch.cat(self.branches(maps), dim=1)


def _block_a(in_channels: int, pool_channels: int) -> InceptionBlock:
    branches: list[Branch] = [
        ("branch1x1", [(64, 1)]),
        ("branch5x5", [(48, 1), (64, 5)]),
        ("branch3x3dbl", [(64, 1), (96, 3), (96, 3)]),
    ]
    return InceptionBlock(in_channels, branches, pool_channels)


def _block_c(width: int) -> InceptionBlock:
    row, column = (1, 7), (7, 1)  # kernels
    branches: list[Branch] = [
        ("branch1x1", [(192, 1)]),
        ("branch7x7", [(width, 1), (width, row), (192, column)]),
        ("branch7x7dbl", [(width, 1), (width, column), (width, row), (width, column), (192, row)]),
    ]
    return InceptionBlock(768, branches, pool_channels=192)


def _block_e(in_channels: int, max_pool: bool) -> InceptionBlock:
    branches: list[Branch] = [
        ("branch1x1", [(320, 1)]),
        ("branch3x3", [(384, 1), (384, 3)]),
        ("branch3x3dbl", [(448, 1), (384, 3), (384, 3)]),
    ]
    return InceptionBlock(in_channels, branches, pool_channels=192, max_pool=max_pool, splits=True)


class InceptionNetwork(nn.Module):
    """
    The network in evaluation mode, with random weights; [`load_inception`] reads the published ones.

    The first operations are those of its TensorFlow graph: resize to 299 x 299, then (x - 128) / 128.
    """

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = InceptionConvolution(3, (32, 3), stride=2, padding=0)
        self.Conv2d_2a_3x3 = InceptionConvolution(32, (32, 3), padding=0)
        self.Conv2d_2b_3x3 = InceptionConvolution(32, (64, 3))
        self.Conv2d_3b_1x1 = InceptionConvolution(64, (80, 1))
        self.Conv2d_4a_3x3 = InceptionConvolution(80, (192, 3), padding=0)
        self.Mixed_5b = _block_a(192, pool_channels=32)
        self.Mixed_5c = _block_a(256, pool_channels=64)
        self.Mixed_5d = _block_a(288, pool_channels=64)
        halving: list[Branch] = [("branch3x3", [(384, 3)]), ("branch3x3dbl", [(64, 1), (96, 3), (96, 3)])]
        self.Mixed_6a = InceptionBlock(288, halving, max_pool=True, stride=2)
        self.Mixed_6b = _block_c(128)
        self.Mixed_6c = _block_c(160)
        self.Mixed_6d = _block_c(160)
        self.Mixed_6e = _block_c(192)
        halving = [("branch3x3", [(192, 1), (320, 3)])]
        halving += [("branch7x7x3", [(192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3)])]
        self.Mixed_7a = InceptionBlock(768, halving, max_pool=True, stride=2)
        self.Mixed_7b = _block_e(1280, max_pool=False)
        self.Mixed_7c = _block_e(2048, max_pool=True)  # so in TensorFlow's graph, in this block alone
        self.fc = nn.Linear(NUM_POOLED, NUM_CLASSES)
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> InceptionFeatures:
        """
        Args:
            images: uint8, shape (batch, 3, height, width).
        Raises:
            ValueError: another dtype or shape.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(
                f"The images are {images.dtype} of shape {tuple(images.shape)}. "
                "Give uint8 of shape (batch, 3, height, width)."
            )
        maps = (resize_like_tensorflow1(images, INPUT_SIZE) - 128) / 128  # (B, 3, 299, 299)
        maps = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(maps)))
        maps = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(maps, 3, 2)))
        maps = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(F.max_pool2d(maps, 3, 2))))  # (B, 288, 35, 35)
        maps = self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(maps)))  # (B, 768, 17, 17)
        branches = self.Mixed_6d.branches(maps)
        spatial = branches[0][:, :_SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)  # (B, 17 * 17 * 7)
        maps = self.Mixed_7a(self.Mixed_6e(torch.cat(branches, dim=1)))  # (B, 1280, 8, 8)
        pooled = self.Mixed_7c(self.Mixed_7b(maps)).mean(dim=(2, 3))  # (B, 2048)
        return InceptionFeatures(pooled, spatial, (pooled @ self.fc.weight.T).softmax(dim=-1))


def load_inception(path: str | Path) -> InceptionNetwork:
    """
    The network with the published weights.

    Args:
        path: the file `INCEPTION_FILE`.
    Raises:
        ValueError: no such file, or one that holds something else.
    """
    path = Path(path)
    advice = f"Download {INCEPTION_URL} and name the file."
    if not path.is_file():
        raise ValueError(f"There is no file {str(path)!r} of Inception weights. {advice}")
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, AttributeError) as error:
        raise ValueError(f"{str(path)!r} is not a readable file of weights. {advice}") from error
    network = InceptionNetwork()
    counters = {name for name in network.state_dict() if name.endswith("num_batches_tracked")}
    try:
        missing, unknown = network.load_state_dict(weights, strict=False)
    except (RuntimeError, AttributeError, TypeError) as error:
        raise ValueError(
            f"{str(path)!r} holds other weights than those of FID's Inception network. {advice}"
        ) from error
    if set(missing) - counters or unknown:
        raise ValueError(f"{str(path)!r} holds other weights than those of FID's Inception network. {advice}")
    return network


def file_digest(path: str | Path) -> str:
    """The first eight hexadecimal digits of a file's SHA-256, which the names of published weights end in."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:8]


__all__ = [
    "INCEPTION_FILE",
    "INCEPTION_URL",
    "InceptionFeatures",
    "InceptionNetwork",
    "load_inception",
    "file_digest",
]
