"""See `titok_hf.checkpoints.push`."""

from ..checkpoints.push import Pushed, push_folder

__all__ = ["Pushed", "push_folder"]
