"""Real pictures for the trainers: the examples that ship with the package, as a folder of images by class."""

import shutil
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState, GradientState

from titok_hf.bundled import example_images

TINY_TOKENIZER = {
    "patch_size": 8,
    "encoder_hidden_size": 16,
    "encoder_num_hidden_layers": 1,
    "encoder_num_attention_heads": 2,
    "decoder_hidden_size": 16,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
    "num_latent_tokens": 4,
    "codebook_size": 16,
    "codebook_dim": 4,
}


@pytest.fixture(autouse=True)
def fresh_accelerate_state():
    """accelerate keeps precision and accumulation for the whole process; each test starts without."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture(scope="session")
def picture_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 pictures of 10 classes, 28 x 28, as `train` and as `test`."""
    folder = tmp_path_factory.mktemp("pictures")
    for picture in example_images():
        for split in ("train", "test"):
            class_folder = folder / split / picture.stem.rsplit("_", 1)[0]
            class_folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(picture, class_folder)
    return folder


@pytest.fixture
def tokenizer_values(picture_folder: Path, tmp_path: Path) -> dict:
    """The values of a tokenizer recipe that takes a second."""
    return {
        "kind": "tokenizer",
        "output_dir": str(tmp_path / "run"),
        "data": {"source": str(picture_folder), "image_size": 32, "resize_mode": "pad"},
        "model": dict(TINY_TOKENIZER),
        "optimization": {"num_steps": 8, "batch_size": 4, "learning_rate": 1e-2, "warmup_steps": 2},
        "cadence": {"log_every": 2, "evaluate_every": 4, "checkpoint_every": 3, "num_test_images": 20},
    }
