"""
Build the page without a server: `make static-page`, or `python space/static/build.py -o FOLDER`.

The folder then has all that the page needs, and any web server can serve it: the files beside this one, the bundled
model as ONNX files, and ONNX Runtime Web from the npm registry.
"""

import argparse
import json
import shutil
import tarfile
import tempfile
from pathlib import Path

from onnxruntime_web import FILES, archive_path

from titok_hf import TiTokPipeline
from titok_hf.bundled import example_images
from titok_hf.cli.models import load_pipeline
from titok_hf.exported.export import export_pipeline
from titok_hf.serve.tiles import palette

HERE = Path(__file__).resolve().parent
# Half the size of float32, and 3 of the 640 codes of the test images differ (docs/engines.md).
PRECISION = "fp16"
EXAMPLES_OF_A_CLASS = 2


def build_page(output: Path) -> None:
    """
    Write the page to a folder, which must not exist or be a page that was built before.

    Raises:
        OSError: ONNX Runtime Web cannot be downloaded, or the folder is something else.
        ImportError: the extra `onnx` is not installed.
    """
    if output.exists() and not (output / "page.json").is_file():
        raise FileExistsError(f"{output} exists and is not a page that was built before. Choose another folder.")
    runtime = archive_path()
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as parent:
        page = Path(parent) / "page"
        shutil.copytree(HERE, page, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
        (page / "onnxruntime").mkdir()
        with tarfile.open(runtime) as archive:
            for name in FILES:
                content = archive.extractfile(f"package/dist/{name}")
                assert content is not None  # the archive has the digest of one that has the file
                (page / "onnxruntime" / name).write_bytes(content.read())
        pipe = load_pipeline(None, "cpu")
        export_pipeline(pipe, page / "model", "onnx", [PRECISION], model="titok-fashion-32")
        (page / "page.json").write_text(json.dumps(page_settings(pipe, page)), encoding="utf-8")
        shutil.rmtree(output, ignore_errors=True)
        page.rename(output)


def page_settings(pipe: TiTokPipeline, page: Path) -> dict:
    """What `page.js` reads beside the model: a colour for each code, and the test images, which are copied."""
    examples = []
    (page / "examples").mkdir()
    for path in example_images()[::EXAMPLES_OF_A_CLASS]:
        shutil.copy(path, page / "examples")
        label = int(path.name.partition("_")[0])
        examples.append({"file": f"examples/{path.name}", "label": pipe.id2label[label]})
    return {"colours": palette(pipe.tokenizer).tolist(), "examples": examples}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=HERE.parents[1] / "build" / "static_page")
    output = parser.parse_args().output
    try:
        build_page(output)
    except (OSError, ImportError) as error:
        parser.exit(1, f"{error}\n")
    size = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    print(f"The page is in {output}, {size / 1e6:.1f} MB. To see it: python -m http.server -d {output}")


if __name__ == "__main__":
    main()
