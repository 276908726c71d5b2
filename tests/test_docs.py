"""The guides: every link leads somewhere, and every page can be found from the index."""

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


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
