"""The discriminator of the pixel recipes: tells real patches from reconstructed ones (arXiv 1611.07004)."""

import torch
import torch.nn.functional as F
from torch import nn

_NUM_GROUPS = 32
_NEGATIVE_SLOPE = 0.1
_BLUR = (1.0, 3.0, 3.0, 1.0)


class Discriminator(nn.Module):
    """
    A convolutional network with one logit for each of a grid of overlapping patches, high where the patch looks real.

    The defaults are the sizes of the published recipes. It halves the image `num_stages` times, each time after a blur
    against aliasing (arXiv 1904.11486).

    Args:
        num_channels: of the images.
        hidden_channels: of the first stage; each further stage has twice as many. A multiple of 32, the number of
            groups that are normalised together.
        num_stages: halvings, at least 1.
        logits_size: side of the grid of logits. An image too small for it has one logit for each of its features.

    Raises:
        ValueError: `hidden_channels` is not a multiple of 32, or `num_stages` is below 1.
    """

    def __init__(
        self, num_channels: int = 3, hidden_channels: int = 128, num_stages: int = 3, logits_size: int = 16
    ) -> None:
        super().__init__()
        if hidden_channels % _NUM_GROUPS or hidden_channels < 1:
            raise ValueError(f"hidden_channels is {hidden_channels}; it must be a multiple of {_NUM_GROUPS}.")
        if num_stages < 1:
            raise ValueError(f"num_stages is {num_stages}; it must be at least 1.")
        widths = [hidden_channels, *(hidden_channels * 2**stage for stage in range(num_stages))]
        self.logits_size = logits_size
        self.conv_in = nn.Conv2d(num_channels, hidden_channels, kernel_size=5, padding="same")
        self.stages = nn.ModuleList(
            DiscriminatorStage(width, next_width) for width, next_width in zip(widths, widths[1:], strict=False)
        )
        self.conv_hidden = nn.Conv2d(widths[-1], widths[-1], kernel_size=1)
        self.conv_logits = nn.Conv2d(widths[-1], 1, kernel_size=5, padding="same")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """
        Args:
            images: float, shape (batch, num_channels, height, width), nominally in [0, 1].
        Returns:
            logits, float, shape (batch, 1, logits_size, logits_size); both sides smaller where the image is.
        """
        features = _activate(self.conv_in(images))  # (B, C, H, W)
        for stage in self.stages:
            features = stage(features)  # (B, C * 2^stage, H / 2^(stage + 1), W / 2^(stage + 1))
        features = F.adaptive_max_pool2d(features, [min(self.logits_size, side) for side in features.shape[-2:]])
        return self.conv_logits(_activate(self.conv_hidden(features)))


class DiscriminatorStage(nn.Module):
    """Convolution, blurred halving, normalisation: (batch, in, H, W) to (batch, out, H / 2, W / 2)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding="same")
        self.downsample = BlurDownsample()
        self.norm = nn.GroupNorm(_NUM_GROUPS, out_channels)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return _activate(self.norm(self.downsample(self.conv(features))))


class BlurDownsample(nn.Module):
    """Blurs each channel and takes every second pixel; zeros surround the image. Odd sides are rounded up."""

    def __init__(self) -> None:
        super().__init__()
        weights = torch.tensor(_BLUR) / sum(_BLUR)
        self.register_buffer("kernel", torch.outer(weights, weights)[None, None], persistent=False)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        channels, height, width = features.shape[1:]
        features = F.pad(features, (1, 1 + width % 2, 1, 1 + height % 2))
        return F.conv2d(features, self.kernel.expand(channels, -1, -1, -1), stride=2, groups=channels)


def _activate(features: torch.Tensor) -> torch.Tensor:
    return F.leaky_relu(features, _NEGATIVE_SLOPE)
