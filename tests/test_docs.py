"""The guides: links lead somewhere, and the index lists every page. `hub_round_trip/client_docs.py` runs the code."""

import ast
import re
from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name

import pytest

REPOSITORY = Path(__file__).parents[1]
README = REPOSITORY / "README.md"
PAGES = [README, REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
PYTHON_BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def python_blocks(page: Path) -> list[str]:
    return PYTHON_BLOCK.findall(page.read_text())


def local_links(page: Path) -> list[str]:
    """Targets of the page's links to files of this repository, without their #fragment."""
    targets = [target.partition("#")[0] for target in LINK.findall(page.read_text())]
    return [target for target in targets if target and "://" not in target]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    missing = [target for target in local_links(page) if not (page.parent / target).exists()]
    assert missing == []


def test_the_index_lists_every_page():
    index = REPOSITORY / "docs" / "index.md"
    listed = {(index.parent / target).resolve() for target in local_links(index)}
    assert set(PAGES) - {index} <= listed


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_import_names_that_exist(page):
    for block in python_blocks(page):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "titok_hf":
                module = import_module(node.module)
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


def test_names_on_the_page_of_the_architecture_exist():
    page = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    names = sorted(set(re.findall(r"`(titok_hf(?:\.\w+)+)`", page)))
    assert len(names) > 40
    for name in names:
        resolve_name(name)  # AttributeError or ModuleNotFoundError if there is no such thing
    paths = re.findall(r"`(src/[\w/.]+)`", page)
    assert paths and [path for path in paths if not (REPOSITORY / path).exists()] == []
