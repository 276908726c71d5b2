"""The notebooks run from the first cell to the last, in an empty folder, and show what they promise."""

import importlib.util
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "docs" / "notebooks").glob("*.ipynb"))
for needed in ("nbclient", "ipykernel"):
    if importlib.util.find_spec(needed) is None:
        pytest.skip(f"The extra `docs` is not installed: there is no {needed}.", allow_module_level=True)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_from_the_first_cell_to_the_last(path, tmp_path):
    import nbformat
    from nbclient import NotebookClient

    stored = nbformat.read(path, as_version=4)
    shown = images_of(stored)
    NotebookClient(stored, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert shown == images_of(stored) > 2, "The stored outputs are older than the cells: run the notebook and save it."


def images_of(notebook) -> int:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return sum("image/png" in output.get("data", {}) for output in outputs)
