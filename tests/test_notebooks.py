"""The notebooks run from the first cell to the last, in an empty folder, and show what they promise."""

import gzip
import importlib.util
import shlex
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from titok_hf.bundled import example_images

NOTEBOOKS = sorted((Path(__file__).parents[1] / "docs" / "notebooks").glob("*.ipynb"))
for needed in ("nbclient", "ipykernel"):
    if importlib.util.find_spec(needed) is None:
        pytest.skip(f"The extra `docs` is not installed: there is no {needed}.", allow_module_level=True)

# What cells of `own_images.ipynb` are changed in, so that the test trains for seconds and needs no network.
SMALLER = {"num_steps=400": "num_steps=3", "range(2000)": "range(120)"}
HUB_DATA_SET = "zalando-datasets/fashion_mnist"


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_from_the_first_cell_to_the_last(path, tmp_path):
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    shown = images_of(notebook)
    if path.stem == "own_images":
        change(notebook, SMALLER | {HUB_DATA_SET: str(fashion_mnist_of_examples(tmp_path))})
        run_commands_in_the_kernel(notebook)
    work = tmp_path / "work"
    work.mkdir()
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(work)}}).execute()
    assert shown == images_of(notebook) > 2, (
        "The stored outputs are older than the cells: run the notebook and save it."
    )


def change(notebook, replacements: dict[str, str]) -> None:
    """Replace texts in cells of code; each has to be in one of them."""
    for old, new in replacements.items():
        cells = [cell for cell in notebook.cells if cell.cell_type == "code" and old in cell.source]
        assert cells, f"No cell has {old!r} any more."
        for cell in cells:
            cell.source = cell.source.replace(old, new)


def run_commands_in_the_kernel(notebook) -> None:
    """Commands of the shell become calls of the same commands, which import torch once instead of three times more."""
    for cell in notebook.cells:
        if cell.cell_type == "code" and cell.source.startswith("!"):
            program, *arguments = shlex.split(cell.source[1:].replace("\\\n", " "))
            assert program == "titok-hf"
            cell.source = f"from titok_hf.cli import app\napp({arguments!r}, standalone_mode=False)"


def images_of(notebook) -> int:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return sum("image/png" in output.get("data", {}) for output in outputs)


def fashion_mnist_of_examples(folder: Path) -> Path:
    """The bundled images, several times over, in the files in which Fashion-MNIST is published."""
    folder = folder / "fashion-mnist"
    folder.mkdir()
    images = np.stack([np.asarray(Image.open(path)) for path in example_images()] * 6)
    labels = np.tile(np.repeat(np.arange(10), 2), 6)
    for name, values in (("images-idx3", images), ("labels-idx1", labels)):
        header = struct.pack(f">I{values.ndim}I", 0x0800 + values.ndim, *values.shape)
        (folder / f"train-{name}-ubyte.gz").write_bytes(gzip.compress(header + values.astype(np.uint8).tobytes()))
    return folder
