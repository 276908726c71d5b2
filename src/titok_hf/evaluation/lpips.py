"""The network of LPIPS (arXiv 1801.03924)."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from torch import nn

# The names under which torchvision publishes the networks of LPIPS, at https://download.pytorch.org/models/.
LPIPS_FILES = {
    "vgg": "vgg16-397923af.pth",
    "alex": "alexnet-owt-7be5be79.pth",
    "squeeze": "squeezenet1_1-b8a52dc0.pth",
}


def load_lpips(network: str, folder: str | None = None) -> nn.Module:
    """torchmetrics' LPIPS network: its own linear layers, which come with it, over a network of torchvision.

    Args:
        network: "vgg", "alex" or "squeeze".
        folder: where torchvision's weights lie, laid out like the cache of `torch.hub`: the file is
            `checkpoints/<file>` in it. None for that cache itself, into which torchvision downloads what is missing.
    Returns:
        a module of two images in [0, 1], shape (batch, 3, height, width), called with `normalize=True`; it returns
        distances of shape (batch, 1, 1, 1).
    Raises:
        ValueError: weights, torchvision or a network connection are missing.
    """
    file = Path(folder or torch.hub.get_dir(), "checkpoints", LPIPS_FILES[network])
    source = f"https://download.pytorch.org/models/{file.name}"
    if folder is not None and not file.is_file():
        raise ValueError(
            f"The folder of its weights is {folder!r}, but there is no file {file}. Download {source} to there."
        )
    try:
        import torchvision  # noqa: F401 - torchmetrics imports it late, and hides why it cannot
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision of another torch
        raise ValueError(
            f"The network of LPIPS comes from torchvision, and torchvision cannot be imported ({error}). Install the "
            f"release that belongs to torch {torch.__version__}, or leave LPIPS out."
        ) from error
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    cache = torch.hub.get_dir()
    torch.hub.set_dir(str(folder or cache))
    try:
        # The metric around it would keep every loss, and wait for the device to check the range of the images.
        return LearnedPerceptualImagePatchSimilarity(net_type=network).net
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"The weights of LPIPS could not be loaded ({error}). Without a network connection, download {source} "
            f"elsewhere and put it at {file}; replace that file if it is there already."
        ) from error
    finally:
        torch.hub.set_dir(cache)


__all__ = ["load_lpips"]
