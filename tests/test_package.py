"""The package itself: what an import costs, which names it has, and that the Auto classes know them."""

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import titok_hf
from titok_hf import TiTokConfig, TiTokImageProcessorPil, TiTokModel

SOURCE = Path(titok_hf.__file__).parent
HEAVY = ("torch", "transformers", "diffusers", "datasets", "accelerate", "numpy")


def run_python(code: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run code in a new interpreter, for what only a first import shows."""
    return subprocess.run([sys.executable, *options, "-c", code], capture_output=True, text=True, timeout=300)


def heavy_imports(import_times: str) -> list[str]:
    """The heavy packages among the modules that `python -X importtime` lists."""
    imported = [line.rpartition("|")[2].strip() for line in import_times.splitlines()]
    return [name for name in HEAVY if name in imported]


def test_importing_the_package_imports_nothing_heavy():
    process = run_python("import titok_hf; dir(titok_hf)", "-X", "importtime")
    assert process.returncode == 0, process.stderr
    assert "titok_hf.auto" in process.stderr
    assert heavy_imports(process.stderr) == []


def test_help_of_the_command_imports_nothing_heavy():
    code = "import sys; sys.argv = ['titok-hf', '--help']; from titok_hf.cli import main; main()"
    process = run_python(code, "-X", "importtime")
    assert process.returncode == 0, process.stderr
    assert "generate" in process.stdout
    assert heavy_imports(process.stderr) == []


def test_importtime_would_show_a_heavy_import():
    assert heavy_imports(run_python("import numpy", "-X", "importtime").stderr) == ["numpy"]


@pytest.mark.parametrize("name", titok_hf.__all__)
def test_every_public_name_can_be_used(name):
    assert getattr(titok_hf, name).__name__ == name
    assert name in dir(titok_hf)


def test_type_checkers_see_the_same_names_as_python():
    block = next(
        node
        for node in ast.parse((SOURCE / "__init__.py").read_text()).body
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    )
    seen = {statement.names[0].name: statement.module for statement in block.body}
    assert seen == titok_hf._MODULE_OF_NAME


def test_unknown_name_is_an_attribute_error_that_lists_the_public_ones():
    with pytest.raises(AttributeError, match="no attribute 'TitokModel'.*TiTokModel"):
        titok_hf.TitokModel  # noqa: B018


def test_only_the_version_is_imported_from_the_package_itself():
    """The import contract cannot see through the package's own names, so they must not be used inside it."""
    imported = set()
    for path in SOURCE.rglob("*.py"):
        package = ("titok_hf", *path.relative_to(SOURCE).parent.parts)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                base = package[: len(package) - node.level + 1] if node.level else ()
                if ".".join((*base, *filter(None, [node.module]))) == "titok_hf":
                    imported |= {alias.name for alias in node.names}
    modules = {path.stem for path in SOURCE.iterdir()}
    assert imported - modules == {"__version__"}


IMPORT_ORDERS = {
    "titok_hf first": "import titok_hf; from transformers import AutoConfig, AutoImageProcessor, AutoModel",
    "transformers first": "from transformers import AutoConfig, AutoImageProcessor, AutoModel; import titok_hf",
    # AutoModel is imported half-way through transformers.modeling_layers, which our models need complete.
    "another model between": (
        "import titok_hf; from transformers import ViTModel, AutoConfig, AutoImageProcessor, AutoModel"
    ),
    # Our own modeling file is what imports AutoModel.
    "our model first": (
        "from titok_hf import TiTokModel; from transformers import AutoConfig, AutoImageProcessor, AutoModel"
    ),
}


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny TiTok model and its image processor."""
    sizes = {
        f"{part}_{name}": value
        for part in ("encoder", "decoder")
        for name, value in {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}.items()
    }
    folder = tmp_path_factory.mktemp("model")
    TiTokModel(TiTokConfig(image_size=32, num_latent_tokens=4, codebook_size=16, **sizes)).save_pretrained(folder)
    TiTokImageProcessorPil(size={"shortest_edge": 32}, crop_size=32).save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("order", IMPORT_ORDERS)
def test_auto_classes_know_our_classes_in_any_order_of_imports(order, saved_model):
    code = f"""{IMPORT_ORDERS[order]}
for auto_class in (AutoConfig, AutoModel, AutoImageProcessor):
    print(type(auto_class.from_pretrained({str(saved_model)!r})).__name__)
print(type(AutoConfig.for_model("maskgit_vqgan")).__name__)
"""
    process = run_python(code)
    assert process.returncode == 0, process.stderr
    processor = "TiTokImageProcessor" if importlib.util.find_spec("torchvision") else "TiTokImageProcessorPil"
    assert process.stdout.split() == ["TiTokConfig", "TiTokModel", processor, "MaskGitVQGANConfig"]


def test_a_module_can_be_run_while_the_auto_classes_wait():
    code = """
import importlib.util, sys, titok_hf
spec = importlib.util.find_spec("titok_hf.configuration_titok")
assert "transformers" not in sys.modules
print(spec.loader.get_code(spec.name).co_filename)
"""
    process = run_python(code)
    assert process.stdout.strip() == str(SOURCE / "configuration_titok.py"), process.stderr
