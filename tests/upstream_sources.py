"""Where the test suites of transformers and diffusers come from.

Neither library installs its tests. They are read from a checkout that `TRANSFORMERS_SOURCE` or `DIFFUSERS_SOURCE`
names, or else from the source archive of the installed version, which this script downloads:

    python tests/upstream_sources.py build/upstream

Nothing of them lies in this repository.
"""

import os
import re
import subprocess
import sys
import tarfile
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest

LIBRARIES = ("transformers", "diffusers")
FOLDER_VARIABLE = "UPSTREAM_SOURCES"

# transformers' archive holds the common suites, but not the subfolders from which they import these names.
MISSING_FROM_THE_ARCHIVE = {
    "exporters.test_export": {"ExportTesterMixin": type("ExportTesterMixin", (), {})},
    "generation.test_utils": {"GenerationTesterMixin": type("GenerationTesterMixin", (), {})},
    "utils.test_configuration_utils": {
        "config_common_kwargs": {"return_dict": False, "output_hidden_states": True, "dtype": "float16"}
    },
}


def source_variable(library: str) -> str:
    """The environment variable that names a checkout of a library."""
    return f"{library.upper()}_SOURCE"


def sources_are_given() -> bool:
    """Whether this process was told where to find any suite, as `make test-upstream` does."""
    return any(name in os.environ for name in (FOLDER_VARIABLE, *map(source_variable, LIBRARIES)))


def tests_folder(library: str) -> Path:
    """Where the suites of a library lie, or would lie."""
    if checkout := os.environ.get(source_variable(library)):
        return Path(checkout) / "tests"
    return Path(os.environ[FOLDER_VARIABLE]) / f"{library}-{version(library)}" / "tests"


def upstream_markers() -> set[str]:
    """Names of the pytest markers in the suites that can be had."""
    if not sources_are_given():
        return set()
    modules = [module for library in LIBRARIES for module in tests_folder(library).glob("*.py")]
    return {name for module in modules for name in re.findall(r"\bmark\.(\w+)", module.read_text("utf-8"))}


def fetch(folder: Path) -> None:
    """Download the source archives of the installed versions with pip and unpack their tests.

    Args:
        folder: gets one folder a library, such as `transformers-5.23.0/tests`. What is there stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for library in LIBRARIES:
        name = f"{library}-{version(library)}"
        if source_variable(library) in os.environ or (folder / name).exists():
            continue
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", library]
        requirement = name.replace("-", "==")
        if subprocess.run([*command, "--no-build-isolation", "--dest", folder, requirement]).returncode:
            print(f"{requirement} could not be downloaded: its suites will be skipped.")
            continue
        with tarfile.open(folder / f"{name}.tar.gz") as archive:
            tests = [member for member in archive if member.name.startswith(f"{name}/tests/")]
            archive.extractall(folder, members=tests, filter="data")
        # test_configuration_common runs the file, which an archive has no need to hold.
        (folder / name / "tests" / "__init__.py").touch()


def upstream_suite(library: str, module: str) -> ModuleType:
    """
    Import a module of a library's tests; where it cannot be had, the importing test module is skipped and says so.

    Args:
        library: `"transformers"` or `"diffusers"`.
        module: its name inside the library's `tests`, such as `"test_modeling_common"`.
    """
    folder = tests_folder(library)
    if not folder.joinpath(*module.split(".")).with_suffix(".py").is_file():
        pytest.skip(
            f"tests/{module.replace('.', '/')}.py of {library} {version(library)} is not in {folder}. "
            f"Let {source_variable(library)} name a checkout of that version.",
            allow_module_level=True,
        )
    package = f"{library}_tests"
    if package not in sys.modules:
        # Both libraries call the package of their tests `tests`: here each has a name of its own.
        sys.modules[package] = ModuleType(package)
        sys.modules[package].__path__ = [str(folder)]
        if library == "transformers":
            _stand_in_for_what_is_missing(package, folder)
    return import_module(f"{package}.{module}")


def _stand_in_for_what_is_missing(package: str, folder: Path) -> None:
    for module, names in MISSING_FROM_THE_ARCHIVE.items():
        if not folder.joinpath(*module.split(".")).with_suffix(".py").is_file():
            stand_in = ModuleType(f"{package}.{module}")
            stand_in.__dict__.update(names)
            sys.modules[f"{package}.{module.split('.')[0]}"] = ModuleType(f"{package}.{module.split('.')[0]}")
            sys.modules[stand_in.__name__] = stand_in
    # Upstream's finds a picture on the Hub; tests have no network, and any picture does.
    pictures = ModuleType("fetch_hub_objects_for_ci")
    pictures.url_to_local_path = _bundled_picture
    sys.modules[pictures.__name__] = pictures


def _bundled_picture(url: str) -> str:
    from titok_hf import bundled_checkpoint

    return str(bundled_checkpoint() / "reconstructed.png")


if __name__ == "__main__":
    fetch(Path(sys.argv[1]))
