"""The checkpoints and images that ship with the package, so that it works without a network."""

from pathlib import Path

_FOLDER = Path(__file__).parent

DEFAULT_CHECKPOINT = "titok-fashion-32"


def bundled_checkpoint(name: str = DEFAULT_CHECKPOINT) -> Path:
    """
    Where a bundled checkpoint lies, for [`TiTokPipeline.from_pretrained`].

    Args:
        name: `"titok-fashion-32"`, a class-conditional model of Fashion-MNIST (32 x 32 pixels, 32 codes of 1024).
            Its tokenizer alone is the subfolder `tokenizer`.

    Raises:
        ValueError: no checkpoint of that name is bundled.
    """
    folder = _FOLDER / name
    if not (folder / "model_index.json").is_file():
        names = sorted(path.parent.name for path in _FOLDER.glob("*/model_index.json"))
        raise ValueError(f"No checkpoint named {name!r} is bundled. Choose one of: {', '.join(names)}.")
    return folder


def example_images() -> list[Path]:
    """PNG files of 20 test images of Fashion-MNIST, two of each class in the order of the classes, 28 x 28, grey."""
    return sorted((_FOLDER / "examples").glob("*.png"))


__all__ = ["DEFAULT_CHECKPOINT", "bundled_checkpoint", "example_images"]
