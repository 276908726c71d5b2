"""`make docs`: the site builds without a warning, and has every page of the docs and every public name."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import titok_hf

REPOSITORY = Path(__file__).parents[1]
for needed in ("zensical", "mkdocstrings", "yaml"):
    if importlib.util.find_spec(needed) is None:
        pytest.skip(f"The extra `docs` is not installed: there is no {needed}.", allow_module_level=True)


@pytest.fixture(scope="module")
def site() -> Path:
    # --strict makes each warning of Zensical an error: links to pages or headings that do not exist, names that
    # the API reference does not find.
    command = [sys.executable, str(REPOSITORY / "docs" / "build_site.py")]
    process = subprocess.run(command, capture_output=True, text=True)
    output = process.stdout + process.stderr
    assert process.returncode == 0 and "No issues found" in output and "arning" not in output, output
    return REPOSITORY / "build" / "site"


def test_every_page_is_in_the_site_and_in_its_menu(site):
    menu = set(re.findall(r'<a href="(?:\./)?([^"#]+\.html)" class="md-nav__link', (site / "index.html").read_text()))
    for page in (REPOSITORY / "docs").glob("*.md"):
        assert (site / f"{page.stem}.html").is_file()
        assert page.stem == "index" or f"{page.stem}.html" in menu
    assert {"readme.html", "changelog.html", "contributing.html"} <= menu


def test_every_public_name_is_documented(site):
    anchors = {
        anchor for page in (site / "api").glob("*.html") for anchor in re.findall(r'id="([\w.]+)"', page.read_text())
    }
    documented = {anchor.rpartition(".")[2] for anchor in anchors}
    assert set(titok_hf.__all__) <= documented
    assert {"titok_hf.pipeline_titok.TiTokPipeline.encode", "titok_hf.modeling_titok.TiTokModel.decode"} <= anchors


def test_a_result_of_several_lines_is_one_result(site):
    text = " ".join(re.sub(r"<[^>]+>", "", (site / "api" / "editing.html").read_text()).split())
    assert "the losses of all steps. The tokenizer's weights, mode and gradients are as before." in text


def test_a_section_of_a_docstring_that_follows_another_is_a_section(site):
    for page in (site / "api").glob("*.html"):
        assert not re.findall(r"<p>(?:Raises|Returns):.*", page.read_text()), page.name


def test_local_links_and_images_of_the_site_exist(site):
    missing, count = [], 0
    for page in site.rglob("*.html"):
        for target in re.findall(r'(?:href|src)="([^"]+)"', page.read_text()):
            path = target.partition("#")[0].partition("?")[0]
            if path and not re.match(r"[a-z]+:|//|/", path):
                count += 1
                if not (page.parent / path).exists():
                    missing.append(f"{page.name}: {target}")
    assert count > 500 and missing == []


def test_the_page_without_a_server_is_linked_if_it_was_built(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("build_site", REPOSITORY / "docs" / "build_site.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, folder in (("BUILD", "."), ("STAGED", "docs"), ("DEMO", "static_page")):
        monkeypatch.setattr(module, name, tmp_path / folder)
    link = "[**Try it here**](static_page/index.html)"
    module.stage()
    assert link not in (tmp_path / "docs" / "web_page.md").read_text()
    (tmp_path / "static_page").mkdir()
    for name in ("index.html", "page.json", "README.md"):
        (tmp_path / "static_page" / name).write_text("{}")
    module.stage()
    assert link in (tmp_path / "docs" / "web_page.md").read_text()
    assert {path.name for path in (tmp_path / "docs" / "static_page").iterdir()} == {"index.html", "page.json"}
