"""
Run every command once as an environment would that has this package with some extras, and nothing else.

    python tests/installed_subset.py FOLDER [EXTRA ...]

Distributions that neither the package nor these extras require, as their metadata says, cannot be imported here. An
import that should have been left for later, in ours or where we call others, so shows as it would there. FOLDER is a
place for the results, and receives `faults.json`: the number of runs, and what did not end as it has to.
"""

import json
import os
import runpy
import sys
from collections.abc import Iterable
from importlib.abc import MetaPathFinder
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).resolve().parents[1]


def required(extras: Iterable[str]) -> set[str]:
    """Names of the distributions that come with this package and these extras, directly or not."""
    found: set[str] = set()
    waiting = [("titok-hf", frozenset(extras))]
    seen = set()
    while waiting:
        name, wanted = waiting.pop()
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        found.add(canonicalize_name(name))
        try:
            requirements = requires(name) or ()
        except PackageNotFoundError:
            continue
        for requirement in map(Requirement, requirements):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *wanted)):
                waiting.append((requirement.name, frozenset(requirement.extras)))
    return found


class Without:
    """Stands before one of Python's finders, and finds no modules of distributions that are not to be there."""

    def __init__(self, finder: MetaPathFinder, blocked: set[str]) -> None:
        self.finder, self.blocked = finder, blocked

    def __getattr__(self, name: str):
        return getattr(self.finder, name)

    def find_spec(self, fullname, path=None, target=None):
        if fullname.partition(".")[0] in self.blocked:
            return None
        return self.finder.find_spec(fullname, path, target)


def block_what_is_not_required(extras: Iterable[str]) -> None:
    allowed = required(extras)
    blocked = {
        module
        for module, distributions in packages_distributions().items()
        if not {canonicalize_name(name) for name in distributions} & allowed
    }
    sys.meta_path[:] = [Without(finder, blocked) for finder in sys.meta_path]


def commands(folder: Path, extras: tuple[str, ...]) -> dict[str, list[str]]:
    """The arguments of every run, by its name. They build on each other, in this order."""
    from image_sources import image_folder
    from original_pipeline import write_generator, write_tokenizer
    from tiny_pipeline import tiny_pipeline
    from titok_hf.bundled import example_images
    from titok_hf.modeling_maskgit_vqgan import MaskGitVQGANConfig, MaskGitVQGANModel

    tiny_pipeline().save_pretrained(folder / "tiny")
    write_tokenizer(folder / "original-tokenizer")
    write_generator(folder / "original-generator")
    image_folder(folder / "images" / "train", 6)
    image_folder(folder / "images" / "test", 6)
    picture = str(example_images()[0])
    on_cpu = ["--device", "cpu"]
    runs = {
        "generate": ["generate", "Sneaker", "-n", "1", "--steps", "1", "-o", "new", *on_cpu],
        "reconstruct": ["reconstruct", picture, "-o", "again", *on_cpu],
        "encode": ["encode", picture, "-o", "codes.safetensors", *on_cpu],
        "decode": ["decode", "codes.safetensors", "-o", "decoded", *on_cpu],
        "edit": ["edit", "variations", picture, "--class", "0", "-n", "1", "-o", "edited", *on_cpu],
        "info": ["info"],
        "export": ["export", "tiny", "-o", "exported"],
        "convert tokenizer": ["convert", "tokenizer", "original-tokenizer", "-o", "tokenizer"],
        "convert generator": ["convert", "generator", "original-generator", "-o", "generator"],
        "convert export": ["convert", "export", "tokenizer", "-o", "back"],
        "convert vqgan": ["convert", "vqgan", "no-such-file.bin", "-o", "vqgan"],
        "prepare": ["prepare", "images", "-o", "prepared", "--size", "32", "--workers", "0"],
        "pretokenize": ["pretokenize", "images", "-o", "codes", "-m", "tiny", "--workers", "0", *on_cpu],
        "push": ["push", "tiny", "not an id"],
        "pull": ["pull", "not an id"],
        "train": ["train", "fashion_classifier", "--set", "data.source=./nowhere", "--set", "output_dir=run"],
        "linear-probe": ["evaluate", "linear-probe", "tiny", "images", *on_cpu],
        "rate": ["evaluate", "rate", "tiny", "images", "-n", "2", *on_cpu],
        "token-map": ["evaluate", "token-map", "tiny", "images", "-n", "2", *on_cpu],
        "sweep": ["sweep", "tiny", "images", "--network", "./nowhere", "--temperature", "1", *on_cpu],
    }
    if "convert" in extras:
        MaskGitVQGANModel(MaskGitVQGANConfig()).save_pretrained(folder / "ours")
        runs["export to Flax"] = ["convert", "export", "ours", "-o", "flax", "--format", "flax"]
    else:
        runs["export to Flax"] = ["convert", "export", "tokenizer", "-o", "flax", "--format", "flax"]
        (folder / "checkpoint").write_bytes(b"\x80")
        runs["a Flax file"] = ["convert", "vqgan", "checkpoint", "-o", "vqgan"]
    return runs


# What a run has to say where the extra is missing that it needs.
NEEDS = {
    "export": "titok-hf[onnx]",
    "prepare": "titok-hf[data]",
    "pretokenize": "titok-hf[data]",
    "train": "titok-hf[train]",
    "linear-probe": "titok-hf[eval]",
    "rate": "titok-hf[eval]",
    "token-map": "titok-hf[eval]",
    "sweep": "titok-hf[eval]",
    "a Flax file": "titok-hf[convert]",
    "export to Flax": "titok-hf[convert]",
}
# What an extra makes work of it.
BROUGHT = {
    "convert": ("a Flax file", "export to Flax"),
    "data": ("prepare", "pretokenize"),
    "eval": ("prepare", "pretokenize", "linear-probe", "rate", "token-map", "sweep"),
    "onnx": ("export",),
    "train": ("prepare", "pretokenize", "linear-probe", "rate", "token-map", "sweep", "train"),
}
# What these say to what they are given, where nothing is missing.
REFUSED = {
    "convert vqgan": "no-such-file.bin",
    "push": "is no id",
    "pull": "is no id",
    "train": "nowhere",
    "sweep": "nowhere",
}


def faults(results: dict[str, tuple[int, str]], extras: tuple[str, ...]) -> list[str]:
    """What did not end as it has to with these extras."""
    brought = [name for extra in extras for name in BROUGHT.get(extra, ())]
    found = []
    for name, (code, stderr) in results.items():
        expected = NEEDS.get(name) if name not in brought else None
        expected = expected or REFUSED.get(name)
        if code not in ((0,) if expected is None else (1, 2)):  # 2: a wrong recipe, as wrong arguments
            found.append(f"{name} ended with {code}: {stderr}")
        elif expected and (expected not in stderr or len(stderr.strip().splitlines()) != 1):
            found.append(f"{name} should have said {expected!r} in one line: {stderr}")
    return found


def run_all(folder: Path, extras: tuple[str, ...]) -> dict[str, tuple[int, str]]:
    """Each run's exit code and what it said on stderr."""
    from typer.testing import CliRunner

    from titok_hf.cli import app

    def run(arguments: list[str]) -> tuple[int, str]:
        result = CliRunner().invoke(app, arguments)
        unforeseen = result.exception if not isinstance(result.exception, SystemExit) else None
        return result.exit_code, result.stderr + (repr(unforeseen) if unforeseen else "")

    os.chdir(folder)
    results = {}
    for name, arguments in commands(folder, extras).items():
        group = arguments[: 2 if arguments[0] in ("convert", "edit", "evaluate") else 1]
        results[f"{name} --help"] = run([*group, "--help"])
        results[name] = run(arguments)
    return results


def run_scripts() -> dict[str, tuple[int, str]]:
    """The same of the scripts of `conversion/`, which are asked for help and for what they offer for import."""
    results = {}
    for script in sorted((REPOSITORY / "conversion").glob("*.py")):
        sys.argv = [script.name, "--help"]
        try:
            runpy.run_path(str(script), run_name="__main__")
        except SystemExit as left:
            results[f"{script.name} --help"] = (int(left.code or 0), "")
        runpy.run_path(str(script))
    return results


def main(folder: Path, *extras: str) -> None:
    block_what_is_not_required(extras)
    results = run_all(folder, extras) | run_scripts()
    Path(folder, "faults.json").write_text(json.dumps([len(results), *faults(results, extras)]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
