"""Every block of Python and every command of the guides, as they stand there, in a folder that has what they name."""

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from hub_client import HUB
from image_sources import image_folder, picture
from original_pipeline import write_generator, write_tokenizer
from tiny_pipeline import tiny_pipeline
from titok_hf import TiTokModel, TiTokPipeline, bundled_checkpoint
from titok_hf.bundled import example_images
from titok_hf.cli import app
from titok_hf.modeling_maskgit_vqgan import MaskGitVQGANConfig, MaskGitVQGANModel
from titok_hf.training.configs import load_training_recipe
from titok_hf.training.recipes import find_recipe

REPOSITORY = Path(__file__).parents[2]
# The guide for newcomers has a test of its own, which trains, in tests/training.
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
# Two guides need Fashion-MNIST and torchao; tests/training/test_lora.py and tests/test_memory_options.py do the same.
PAGES = [page for page in PAGES if page.name not in ("own_images.md", "lora.md", "memory.md")]
BLOCK = re.compile(r"^```(python|bash|sh)\n(.*?)^```", re.DOTALL | re.MULTILINE)

PROGRAMS_NOT_RUN = {
    "export": "names a machine of a cluster",
    "srun": "starts processes on a cluster",
    "make": "the tests are one of its targets",
    "pip": "installs what is installed here",
    "hf": "uploads to the Hub",
}
# Lines of Python and of the shell, and why they are not run here.
LINES_NOT_RUN = {
    r"tokenizer_titok_l32\.bin": "a file of 2.5 GB; tests/original reads the golden ones",
    r"convert tokenizer --all": "more than 22 GB; tests/conversion converts small ones",
    r"titok-hf serve": "runs until it is stopped; tests/serve starts the page",
    r"-m http\.server": "runs until it is stopped",
    r"python benchmarks/": "take minutes; tests/test_benchmarks.py runs them on small models",
    r"titok-hf.*(openvino|int8)": "tests/exported exports to them",
    r"tokenizer_imagenet256_checkpoint": "217 MB in Flax form; tests/conversion reads one that it writes",
}
REPLACED = {"https://example.org/dog.jpg": "dog.jpg"}  # no network


def blocks(page: Path) -> list[tuple[str, str]]:
    return BLOCK.findall(page.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def things(tmp_path_factory):
    """A folder with all that the guides name before they make it, and what the Hub has of it."""
    folder = tmp_path_factory.mktemp("guides")
    small = tiny_pipeline()
    pipe = TiTokPipeline.from_pretrained(bundled_checkpoint())
    pipe.save_pretrained(folder / "my-titok")
    pipe.save_pretrained(folder / "my-titok", variant="fp16")
    shutil.copytree(folder / "my-titok" / "tokenizer", folder / "my-tokenizer")
    small.tokenizer.save_pretrained(folder / "runs" / "fashion_stage2" / "model")
    vqgan = MaskGitVQGANModel(MaskGitVQGANConfig(base_channels=32, channel_multipliers=[1, 1, 1, 1, 1]))
    vqgan.save_pretrained(folder / "checkpoints" / "maskgit-vqgan")
    write_tokenizer(folder / "hub" / "tokenizer")
    write_generator(folder / "hub" / "generator")
    TiTokModel.from_pretrained(folder / "hub" / "tokenizer").save_pretrained(folder / "titok-l32")
    for name in ("photos", "hub/images/train", "hub/images/validation", "hub/images/test"):
        image_folder(folder / name, 6)
    shutil.copytree(folder / "photos", folder / "squares")
    for name in ("photo.png", "other.jpg", "cat.jpg", "dog.jpg"):
        picture(len(name)).save(folder / name)
    for path in example_images():
        shutil.copy(path, folder)
    hole = np.zeros((28, 28), dtype=np.uint8)
    hole[8:20, 8:20] = 255
    Image.fromarray(hole).save(folder / "hole.png")
    result = CliRunner().invoke(app, ["pretokenize", str(folder / "photos"), "-o", str(folder / "clothes-codes")])
    assert result.exit_code == 0, result.output
    (folder / "my_recipe.yaml").write_text(find_recipe("fashion_tokenizer").read_text())
    findings = (REPOSITORY / "docs" / "findings.md").read_text(encoding="utf-8")
    (folder / "findings.yaml").write_text(re.search(r"^```yaml\n(.*?)^```", findings, re.DOTALL | re.MULTILINE)[1])
    return folder


@pytest.fixture
def hub_as_the_guides_need_it(things):
    """Each guide begins with the same Hub."""
    HUB.repositories.clear()
    for name, here in (
        ("yucornetto/tokenizer_titok_l32_imagenet", "hub/tokenizer"),
        ("yucornetto/generator_titok_l32_imagenet", "hub/generator"),
        ("user/titok-l32", "my-titok"),
        ("user/my-titok", "my-titok"),
        ("user/my-tokenizer", "my-tokenizer"),
    ):
        HUB.repository(name).add_folder(things / here)
    repository = HUB.repository("user/my-titok")
    repository.private = True
    repository.refs["refs/tags/v1.0"] = repository.at("main").oid
    for name in ("ILSVRC/imagenet-1k", "zalando-datasets/fashion_mnist"):
        HUB.repository(name, "datasets").add_folder(things / "hub" / "images")


def lines_of(block: str) -> list[str]:
    joined = block.replace("\\\n", " ")
    return [line for line in joined.splitlines() if line.strip() and not line.startswith("#")]


def is_run(line: str) -> bool:
    return not any(re.search(pattern, line) for pattern in LINES_NOT_RUN)


def run_command(line: str) -> None:
    words = [word for word in shlex.split(line, comments=True)]
    while "=" in words[0]:  # variables of the environment
        words.pop(0)
    if words[0] in PROGRAMS_NOT_RUN:
        return
    if words[0] in ("accelerate", "torchrun", "python"):
        module = words.index("-m")
        program, arguments = words[module + 1], words[module + 2 :]
    else:
        program, arguments = words[0], words[1:]
    if program == "titok_hf.training.classifier":
        find_recipe(arguments[0])
    elif program == "titok_hf.training" or arguments[0] == "train":
        # Training takes hours: the recipe is read, with the values that the command sets.
        name, *options = [word for word in arguments if word != "train"]
        load_training_recipe(name, [value for key, value in zip(options, options[1:], strict=False) if key == "--set"])
    else:
        assert program in ("titok-hf", "titok_hf.cli"), f"nobody knows how to run {line!r}"
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, (line, result.output)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_guide_says_can_be_pasted(page, things, hub_as_the_guides_need_it, monkeypatch):
    monkeypatch.chdir(things)
    for number, (language, block) in enumerate(blocks(page)):
        for old, new in REPLACED.items():
            block = block.replace(old, new)
        lines = [line for line in (lines_of(block) if language != "python" else block.splitlines()) if is_run(line)]
        if language == "python":
            code = compile("\n".join(lines), f"{page.name}, block {number}", "exec")
            exec(code, {"__name__": "guide"})
        else:
            for line in lines:
                run_command(line)


def test_commands_that_stand_in_texts_are_whole():
    """Commands in sentences and in blocks that are not run: the arguments of the evaluation are parsed."""
    commands = typer.main.get_command(app).commands
    found = 0
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        lines = [
            line
            for block in re.findall(r"^```console\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
            for line in lines_of(block)
        ]
        lines += re.findall(r"[`\"](titok-hf evaluate [\w-]+ [^`\"]*)", text)
        for line in lines:
            program, name, *arguments = shlex.split(
                line.replace("torchrun --nproc-per-node 8 -m titok_hf.cli", "titok-hf")
            )
            if program != "titok-hf" or name not in ("evaluate", "sweep"):
                continue
            command = commands[name]
            if name == "evaluate":
                command, (name, *arguments) = command.commands[arguments[0]], arguments
            command.make_context(name, arguments)
            found += 1
    assert found > 10
