"""The wheel and the source archive: what is in them, that one builds the other, and that the wheel works alone."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
BUILD = "from setuptools.build_meta import *; import sys; build_{kind}(sys.argv[1])"
OF_THE_REPOSITORY = (
    "src",
    "tests",
    "docs",
    "space",
    "conversion",
    "*.cfg",
    "*.toml",
    "*.txt",
    "*.md",
    "*.in",
    "*.cff",
    "Makefile",
)

pytestmark = pytest.mark.slow


def build(kind: str, source: Path, folder: Path) -> Path:
    """Run the build backend (`kind` is `"sdist"` or `"wheel"`) as pip does, in the folder of the sources."""
    folder.mkdir()
    command = [sys.executable, "-c", BUILD.format(kind=kind), str(folder)]
    process = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    (archive,) = folder.iterdir()
    return archive


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources, with a cache in it as a tree in use has them."""
    copy = tmp_path_factory.mktemp("distribution") / "source"
    for path in {match for pattern in OF_THE_REPOSITORY for match in REPOSITORY.glob(pattern)} | {
        REPOSITORY / "LICENSE"
    }:
        if path.is_dir():
            shutil.copytree(path, copy / path.name, ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
        else:
            copy.mkdir(exist_ok=True)
            shutil.copy(path, copy)
    for folder in ("src/titok_hf", "tests"):
        (copy / folder / "__pycache__").mkdir()
        (copy / folder / "__pycache__" / "cache.cpython-311.pyc").write_bytes(b"")
    return copy


@pytest.fixture(scope="module")
def source_archive(source: Path) -> Path:
    return build("sdist", source, source.parent / "sdist")


@pytest.fixture(scope="module")
def wheel(source: Path) -> Path:
    return build("wheel", source, source.parent / "wheel")


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_wheel_holds_the_package_and_nothing_else(source, wheel):
    package = source / "src" / "titok_hf"
    files = {f"titok_hf/{path.relative_to(package).as_posix()}" for path in package.rglob("*") if path.is_file()}
    expected = {name for name in files if "__pycache__" not in name}
    held = set(contents(wheel))
    metadata = {name for name in held if name.partition("/")[0].endswith(".dist-info")}
    assert held - metadata == expected
    assert any(name.endswith("/licenses/LICENSE") for name in metadata)
    for name in (
        "py.typed",
        "bundled/titok-fashion-32/tokenizer/model.safetensors",
        "training/recipes/maskgit_l32.yaml",
    ):
        assert f"titok_hf/{name}" in held


def test_the_source_archive_holds_what_make_needs_and_no_caches(source, source_archive):
    with tarfile.open(source_archive) as archive:
        held = {member.name.partition("/")[2] for member in archive if member.isfile()}
    expected = {path.relative_to(source).as_posix() for path in (source / "tests").rglob("*") if path.is_file()}
    assert {name for name in expected if "__pycache__" not in name} <= held
    assert {"Makefile", "constraints.txt", "CHANGELOG.md", "LICENSE", "README.md", "pyproject.toml"} <= held
    assert not [name for name in held if "__pycache__" in name or name.endswith(".pyc")]


def test_the_source_archive_builds_the_same_wheel(source_archive, wheel, tmp_path):
    with tarfile.open(source_archive) as archive:
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.iterdir()
    rebuilt = build("wheel", unpacked, tmp_path / "wheel")
    assert rebuilt.name == wheel.name
    assert contents(rebuilt) == contents(wheel)


def test_the_wheel_works_without_the_source_tree(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    # What the test environment has installed serves for the requirements; `make dist-check` installs them anew.
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    for name in ("use_installed_package", "installed_subset", "image_sources", "original_pipeline", "tiny_pipeline"):
        shutil.copy(REPOSITORY / "tests" / f"{name}.py", tmp_path)
    process = subprocess.run(
        [sys.executable, tmp_path / "use_installed_package.py", "convert", "data", "onnx", "train"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    assert f"works from {tmp_path / 'site' / 'titok_hf'}" in process.stdout
