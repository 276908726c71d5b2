"""See `titok_hf.checkpoints.pull`."""

from ..checkpoints.pull import pull

__all__ = ["pull"]
