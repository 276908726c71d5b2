"""What a recipe can get wrong: the command answers with one line and exit code 2 and writes nothing."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import ClassLabel, Dataset, Features, List, Value
from transformers import ConvNextConfig, ConvNextForImageClassification, ViTImageProcessor

from titok_hf import TiTokConfig, TiTokModel
from titok_hf.training.start import train
from training_runs import recipe_of, train_command


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture) -> Any:
    """`command(values, *overrides)`: exit code and error text of the trainer's command."""

    def command(values: dict[str, Any], *overrides: str) -> tuple[int, str]:
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(values))
        with pytest.raises(SystemExit) as exit_:
            train_command([str(path), *(part for override in overrides for part in ("--set", override))])
        error = capsys.readouterr().err
        assert "Traceback" not in error
        return exit_.value.code, error

    return command


def codes_data_set(folder: Path, codes: list[list[int]]) -> str:
    """A data set of codes as `pretokenize` writes it."""
    features = Features({"codes": List(Value("uint16")), "label": ClassLabel(names=["a", "b"])})
    columns = {"codes": codes, "label": [number % 2 for number in range(len(codes))]}
    folder.mkdir()
    Dataset.from_dict(columns, features).to_parquet(folder / "train-00000-of-00001.parquet")
    return str(folder)


def pictures_without_classes(picture_folder: Path, folder: Path) -> str:
    for split in ("train", "test"):
        (folder / split).mkdir(parents=True)
        for picture in (picture_folder / split).rglob("*.png"):
            shutil.copy(picture, folder / split)
    return str(folder)


@pytest.mark.parametrize(
    ("kind", "override", "message"),
    [
        (
            "tokenizer",
            "optimization.lerning_rate=1",
            "optimization.lerning_rate'. Did you mean 'learning_rate'",
        ),
        ("tokenizer", "model.codebok_size=8", "model.codebok_size is not a field of TiTokConfig"),
        ("generator", "model.hiden_size=8", "model: .*hiden_size"),
        ("generator", "sampler.steps=8", "sampler: .*steps"),
        ("tokenizer", "kind=poem", "kind"),
        ("tokenizer", "optimization.mixed_precision=fp8", "optimization.mixed_precision is 'fp8'"),
        ("tokenizer", "optimization.num_steps=0", "optimization.num_steps is 0; it must be larger than 0"),
        (
            "tokenizer",
            "optimization.batch_size=21",
            "21 in each of 1 processes, and there are 20 examples",
        ),
        ("tokenizer", "model.patch_size=7", "image_size 32 is not a multiple of encoder_patch_size 7"),
        ("tokenizer", "data.image_size=30", "image_size 30 is not a multiple of encoder_patch_size 8"),
        ("vqgan", "data.image_size=36", "data.image_size is 36, which is no multiple of the 8 pixels"),
        ("stage1", "model.patch_size=16", "a code of the teacher .* stands for 8. Set model.decoder_patch_size"),
        ("stage1", "teacher=/nowhere", "teacher is '/nowhere', and there is no such folder. Train it first"),
        ("stage2", "tokenizer=/nowhere", "tokenizer is '/nowhere', and there is no such folder. Train it first"),
        ("stage2", "teacher=/nowhere", "teacher is '/nowhere', and there is no such folder. Train it first"),
        ("tokenizer", "data.source=/nowhere", "/nowhere does not exist"),
        ("tokenizer", "data.test_split=null", "20 examples, of which intervals.num_test_images=20 would be held out"),
        ("generator", "codes={source: somewhere}", "exactly one of the two"),
    ],
)
def test_a_mistake_is_named_before_anything_is_written(kind, override, message, values_of, command):
    values = values_of(kind)
    code, error = command(values, override)
    assert code == 2
    assert_matches(message, error)
    assert not Path(values["output_dir"]).exists()


def assert_matches(pattern: str, text: str) -> None:
    assert re.search(pattern, text), text


def test_a_generator_needs_labels(values_of, command, picture_folder, tmp_path):
    values = values_of("generator")
    source = pictures_without_classes(picture_folder, tmp_path / "unlabelled")
    code, error = command(values, f"data.source={source}")
    assert code == 2
    assert "no column 'label'" in error and "one folder a class" in error
    assert not Path(values["output_dir"]).exists()


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        ([[0, 1, 2, 3], [4, 5, 6, 16]], r"Row 1 holds the code 16; this model's codes lie in \[0, 16\)"),
        ([[0, 1, 2, 3], [4, 5, 6]], "Row 1 has 3 codes; this model has 4 latent tokens"),
    ],
)
def test_codes_have_to_be_the_tokenizer_s(codes, message, values_of, command, tmp_path):
    values = values_of("generator")
    del values["data"]
    source = codes_data_set(tmp_path / "codes", codes)
    code, error = command(values, f"codes={{source: {source}, test_split: train}}", "optimization.batch_size=1")
    assert code == 2
    assert_matches(message, error)
    assert not Path(values["output_dir"]).exists()


def test_too_few_codes_for_a_batch(values_of, command, tmp_path):
    values = values_of("generator")
    del values["data"]
    source = codes_data_set(tmp_path / "codes", [[0, 1, 2, 3]] * 3)
    code, error = command(values, f"codes={{source: {source}, test_split: train}}")
    assert (code, "there are 3 examples to train on" in error) == (2, True)
    assert not Path(values["output_dir"]).exists()


def test_a_generator_needs_a_codebook(values_of, command, tmp_path):
    values = values_of("generator")
    sizes = {key: value for key, value in values_of("kl")["model"].items()}
    TiTokModel(TiTokConfig(image_size=32, **sizes)).save_pretrained(tmp_path / "kl")
    code, error = command(values, f"tokenizer={tmp_path / 'kl'}")
    assert (code, "is a KL model; a generator needs one with a codebook" in error) == (2, True)


def test_stage_2_starts_from_stage_1(values_of, command, tmp_path):
    """Not from a tokenizer whose head is pixels."""
    values = values_of("stage2")
    TiTokModel(TiTokConfig(image_size=32, **values_of("tokenizer")["model"])).save_pretrained(tmp_path / "pixels")
    code, error = command(values, f"tokenizer={tmp_path / 'pixels'}")
    assert code == 2
    assert_matches("does not end in proxy codes.*Train one with a recipe of kind tokenizer_stage1", error)
    assert not Path(values["output_dir"]).exists()


@pytest.mark.parametrize("change", ["seed=1", "optimization.learning_rate=1e-4", "loss.quantizer_weight=0.5"])
def test_another_recipe_leaves_a_run_as_it_is(change, values_of, command):
    values = values_of("tokenizer")
    values["optimization"]["num_steps"] = 1
    train(recipe_of(values))
    run = Path(values["output_dir"])
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    code, error = command(values, change)
    assert code == 2
    assert "holds a run with another recipe" in error and "choose another output_dir" in error
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_folder_with_other_things_is_left_as_it_is(values_of, command):
    values = values_of("tokenizer")
    folder = Path(values["output_dir"])
    folder.mkdir()
    (folder / "thesis.tex").write_text("mine")
    code, error = command(values)
    assert (code, "is not empty and holds no run" in error) == (2, True)
    assert [path.name for path in folder.iterdir()] == ["thesis.tex"]


def test_memory_that_does_not_suffice_is_said_with_the_way_out(values_of, command, tmp_path):
    """A perceptual network whose images have 400,000 x 400,000 pixels needs more memory than there is."""
    config = ConvNextConfig(hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], num_labels=2)
    ConvNextForImageClassification(config).save_pretrained(tmp_path / "network")
    ViTImageProcessor(size={"height": 400_000, "width": 400_000}).save_pretrained(tmp_path / "network")
    code, error = command(values_of("tokenizer"), f"loss.perceptual.model={tmp_path / 'network'}")
    assert code == 1
    assert "A batch of 4 does not fit into memory. Lower optimization.batch_size" in error
