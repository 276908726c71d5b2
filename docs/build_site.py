"""
Build the documentation site in `build/site` from the pages in `docs/`, the README and the docstrings: `make docs`.

The pages are written for readers of the repository: they link to sources, tests and folders. Here every page is copied
to `build/docs`, and its links are changed so that they lead to pages of the site. Files that pages link to get a page
that shows them. The order of the pages and the sections of the menu are those of `docs/index.md`.
"""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).resolve().parents[1]
BUILD = REPOSITORY / "build"
STAGED = BUILD / "docs"
DEMO = BUILD / "static_page"  # made by `make static-page`
DEMO_MARKER = "<!-- live demo -->"

# Pages that are not in docs/, and their names in the site.
OTHER_PAGES = {
    "README.md": "readme.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "src/titok_hf/bundled/titok-fashion-32/README.md": "bundled_model.md",
}

# The API reference: pages with the modules whose public classes and functions they document.
API = {
    "pipeline": ("Pipeline", ["pipeline_titok", "bundled"]),
    "editing": ("Editing", ["editing.pipeline_mixin", "editing.token_optimization", "evaluation.rate"]),
    "tokenizer": ("Tokenizer", ["modeling_titok", "configuration_titok", "quantization_titok"]),
    "image_processing": ("Image processors", ["image_processing_titok", "image_processing_pil_titok"]),
    "generator": ("Generator", ["modeling_maskgit", "configuration_maskgit"]),
    "scheduler": ("Scheduler", ["scheduling_maskgit", "samplers", "guidance", "mask_schedules"]),
    "vqgan": ("MaskGIT-VQGAN", ["modeling_maskgit_vqgan", "configuration_maskgit_vqgan"]),
    "original": ("Original checkpoints", ["original.conversion"]),
    "hub": ("Hub and checkpoints", ["checkpoints.push", "checkpoints.pull"]),
    "engines": ("Exported models", ["exported.pipeline_exported", "exported.export", "exported.losses"]),
    "tasks": ("Tasks of transformers", ["tasks"]),
    "data": ("Data", ["data.training_data", "data.loaders", "data.prepare", "data.sources", "data.decoding"]),
    "training": ("Training", ["training.configs", "training.recipes", "training.start"]),
    "evaluation": ("Evaluation", ["evaluation.frechet", "evaluation.adm", "evaluation.linear_probe"]),
}

LINK = re.compile(r"(!?\[(?:[^\[\]]|\[[^\]]*\])*\])\(([^)\s]+)\)")
FENCE = re.compile(r"^(```.*?^```)", re.DOTALL | re.MULTILINE)
LANGUAGES = {
    ".html": "html",
    ".css": "css",
    ".js": "javascript",
    ".py": "python",
    ".yaml": "yaml",
    ".yml": "yaml",
    ".json": "json",
    ".toml": "toml",
    ".cff": "yaml",
}
IMAGES = {".png", ".jpg", ".svg", ".webp"}


class Site:
    """The staged pages. `shown` has the files and folders for which a page was made because a page links to them."""

    def __init__(self) -> None:
        self.shown: set[str] = set()

    def page_of(self, path: str) -> str:
        """The file in the site for a file or folder of the repository, both relative; made if it is not a page."""
        if path in OTHER_PAGES:
            return OTHER_PAGES[path]
        if path.startswith("docs/") and path.endswith((".md", ".ipynb", *IMAGES)):
            return path.removeprefix("docs/").replace(".ipynb", ".md")
        source = REPOSITORY / path
        if not source.exists():
            raise FileNotFoundError(f"A page links to {path}, which does not exist. Correct the link.")
        if source.suffix in IMAGES:
            copy = STAGED / "files" / path
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)
            return f"files/{path}"
        if path not in self.shown:
            self.shown.add(path)
            self._show(path)
        return f"source/{path}.md"

    def _show(self, path: str) -> None:
        source, page = REPOSITORY / path, STAGED / "source" / f"{path}.md"
        page.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            files = sorted(file for file in source.iterdir() if file.suffix in LANGUAGES)
            links = [f"* [{file.name}]({source.name}/{file.name}.md)" for file in files]
            for file in files:
                self.page_of(f"{path}/{file.name}")
            text = "\n".join(links)
        else:
            text = f"````{LANGUAGES.get(source.suffix, 'text')}\n{source.read_text(encoding='utf-8')}\n````"
        page.write_text(f"---\nsearch: {{exclude: true}}\n---\n# {path}\n\n{text}\n", encoding="utf-8")

    def stage(self, path: str) -> None:
        """Copy a page of the repository into the site, with its links changed."""
        page = self.page_of(path)
        depth = page.count("/")

        def changed(link: re.Match[str]) -> str:
            target, hash_mark, fragment = link[2].partition("#")
            if not target or "://" in target:
                return link[0]
            within = os.path.normpath(os.path.join(os.path.dirname(path), target))
            return f"{link[1]}({'../' * depth}{self.page_of(within)}{hash_mark}{fragment})"

        text = (REPOSITORY / path).read_text(encoding="utf-8")
        if path.endswith(".ipynb"):
            text = notebook_as_markdown(json.loads(text), (STAGED / page).with_suffix(""))
        parts = FENCE.split(text)
        parts[::2] = [LINK.sub(changed, part) for part in parts[::2]]
        (STAGED / page).parent.mkdir(parents=True, exist_ok=True)
        (STAGED / page).write_text("".join(parts), encoding="utf-8")


def notebook_as_markdown(notebook: dict, images: Path) -> str:
    """The cells of a notebook as a page. Images among its outputs become files in the folder `images`, beside it."""
    images.mkdir(parents=True, exist_ok=True)
    parts = []
    for number, cell in enumerate(notebook["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
        elif source.startswith("!"):  # a command of the shell
            parts.append(f"```bash\n{source[1:]}\n```")
        else:
            parts.append(f"```python\n{source}\n```")
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if "image/png" in data:
                file = images / f"{number}.png"
                file.write_bytes(base64.b64decode(data["image/png"]))
                parts.append(f'<img src="{images.name}/{file.name}" alt="Output of the cell above">')
            elif output.get("name") != "stderr":
                text = "".join(output.get("text", data.get("text/plain", "")))
                parts.append(f"```text\n{text.rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


def stage_demo() -> None:
    """Copy the page without a server into the site, if it has been built, and link to it."""
    if not (DEMO / "page.json").is_file():
        return
    shutil.copytree(DEMO, STAGED / DEMO.name, ignore=shutil.ignore_patterns("*.md"))
    page = STAGED / "web_page.md"
    link = f"[**Try it here**]({DEMO.name}/index.html)"
    page.write_text(page.read_text(encoding="utf-8").replace(DEMO_MARKER, link), encoding="utf-8")


def stage_api() -> list[dict[str, str]]:
    """Write the pages of the API reference. Returns their part of the menu."""
    (STAGED / "api").mkdir()
    for page, (title, modules) in API.items():
        blocks = "\n".join(f"::: titok_hf.{module}\n" for module in modules)
        (STAGED / "api" / f"{page}.md").write_text(f"# {title}\n\n{blocks}", encoding="utf-8")
    return [{title: f"api/{page}.md"} for page, (title, _) in API.items()]


def menu(index: str, site: Site) -> list[dict]:
    """The menu: each section of `docs/index.md` with the pages that it links to, in their order."""
    entries: list[dict] = [{"Home": "index.md"}]
    for section in re.split(r"^## ", index, flags=re.MULTILINE)[1:]:
        title, _, body = section.partition("\n")
        pages = [
            (link[1].strip("[]"), os.path.normpath(os.path.join("docs", link[2]))) for link in LINK.finditer(body)
        ]
        entries.append(
            {title: [{name: site.page_of(path)} for name, path in pages if path.endswith((".md", ".ipynb"))]}
        )
    return entries


def stage() -> Path:
    """Write all pages and the configuration of the site. Returns the configuration's path."""
    shutil.rmtree(STAGED, ignore_errors=True)
    STAGED.mkdir(parents=True)
    site = Site()
    docs = REPOSITORY / "docs"
    for file in sorted(path for path in docs.rglob("*") if path.suffix in IMAGES | {".css"}):
        copy = STAGED / file.relative_to(docs)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    pages = sorted([*docs.rglob("*.md"), *docs.rglob("*.ipynb")])
    for path in [*OTHER_PAGES, *(f"docs/{page.relative_to(docs).as_posix()}" for page in pages)]:
        site.stage(path)
    stage_demo()
    settings = yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8"))
    settings["nav"] = menu((docs / "index.md").read_text(encoding="utf-8"), site)
    settings["nav"].insert(-1, {"API reference": stage_api()})
    configuration = BUILD / "mkdocs.yml"
    configuration.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    return configuration


def main() -> None:
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict", "--config-file", str(stage())]
    code = subprocess.run(command, cwd=BUILD, env=os.environ | {"NO_COLOR": "1"}).returncode
    if code:
        sys.exit(code)
    print(f"The site is in {(BUILD / 'site').relative_to(REPOSITORY)}: open index.html there.")


if __name__ == "__main__":
    main()
