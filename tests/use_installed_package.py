"""
Use the installed package, and nothing of the source tree: every public name, then each command, on real files.

    python -I tests/use_installed_package.py [EXTRA ...]     # -I keeps what lies around out of the path

EXTRA: what is installed beside the base. Commands that need more have to say what to install.

Writes into a temporary folder; ends with an error if anything fails.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import titok_hf
from titok_hf.bundled import example_images

SOURCE_TREE = Path(__file__).resolve().parents[1] / "src"


def main() -> None:
    installed = Path(titok_hf.__file__).resolve()
    if SOURCE_TREE in installed.parents:
        sys.exit(f"{installed} is the source tree. Install the wheel into another environment.")
    for name in titok_hf.__all__:
        getattr(titok_hf, name)
    with tempfile.TemporaryDirectory() as folder:
        # As a module, so that it works too where the package lies on the path without being installed.
        command = [sys.executable, "-m", "titok_hf.cli"]
        pictures = [str(picture) for picture in example_images()]
        subprocess.run([*command, "reconstruct", *pictures, "-o", f"{folder}/reconstruct"], check=True)
        subprocess.run(
            [*command, "generate", "Sneaker", "-n", "2", "--seed", "0", "-o", f"{folder}/generate"], check=True
        )
        # The tests' own helpers, which hold nothing of the package.
        sys.path.append(str(Path(__file__).resolve().parent))
        from installed_subset import faults, run_all

        extras = tuple(sys.argv[1:])
        found = faults(run_all(Path(folder), extras), extras)
        if found:
            sys.exit("\n".join(found))
        for made in ("reconstruct", "generate"):
            if not list(Path(folder, made).rglob("*.png")):
                sys.exit(f"titok-hf {made} wrote no picture.")
    print(f"titok-hf {titok_hf.__version__} works from {installed.parent}.")


if __name__ == "__main__":
    main()
