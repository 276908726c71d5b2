"""The guide for newcomers: its recipes and commands run as they stand there, for a few steps on twenty pictures."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from titok_hf.bundled import example_images
from titok_hf.cli import app
from titok_hf.data.encoders import ImageEncoder
from titok_hf.data.prepare import PrepareSettings, prepare
from titok_hf.data.pretokenize import pretokenize
from titok_hf.pipeline_titok import TiTokPipeline
from titok_hf.training.start import train
from training_runs import recipe_of

PAGE = (Path(__file__).parents[2] / "docs" / "own_images.md").read_text(encoding="utf-8")
FEW_STEPS = [
    "optimization.num_steps=2",
    "optimization.batch_size=2",
    "optimization.warmup_steps=1",
    "intervals.num_test_images=4",
]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `images/` of two classes and the two recipes under the names that the page gives them."""
    for number, picture in enumerate(example_images()):
        folder = tmp_path / "images" / ("cat", "dog")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, folder)
    for name, recipe in zip(("tokenizer.yaml", "generator.yaml"), blocks("yaml"), strict=True):
        assert f"`{name}`" in PAGE
        (tmp_path / name).write_text(recipe, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_page_leads_from_pictures_to_new_pictures(workplace):
    commands = [line for block in blocks("bash") for line in block.splitlines() if line.startswith("titok-hf ")]
    assert [shlex.split(command)[1] for command in commands] == [
        "prepare",
        "train",
        "pretokenize",
        "train",
        "generate",
    ]
    for command in commands:
        arguments = shlex.split(command)[1:]
        if arguments[0] == "train":
            arguments += [argument for setting in FEW_STEPS for argument in ("--set", setting)]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, (command, result.output)
    assert len(list((workplace / "new").rglob("*.png"))) >= 16
    namespace: dict = {}
    exec(compile(blocks("python")[0], "own_images.md", "exec"), namespace)
    assert Image.open("cat.png").size == (64, 64)
    assert (workplace / "runs/my_generator/model/README.md").is_file()


@pytest.mark.parametrize("layout", ["pictures/cat", "cat"])
def test_one_class_goes_the_whole_way_with_its_name(layout, generator_values, tmp_path):
    """A single folder of a class, and a folder without classes, which is the class of its name."""
    source = tmp_path / Path(layout).parts[0]
    for picture in example_images():
        (tmp_path / layout).mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, tmp_path / layout)
    prepare(source, tmp_path / "squares", PrepareSettings(image_size=32, crop="none"), workers=0)
    pretokenize(tmp_path / "squares", tmp_path / "codes", ImageEncoder(generator_values["tokenizer"]), workers=0)
    values = {key: value for key, value in generator_values.items() if key != "data"}
    values |= {"codes": {"source": str(tmp_path / "codes")}}
    values["optimization"] |= {"num_steps": 1}
    values["intervals"] |= {"num_test_images": 4}
    folder = train(recipe_of(values))
    pipeline = TiTokPipeline.from_pretrained(folder)
    assert pipeline.id2label == {0: "cat"} and len(pipeline("cat").images) == 1
