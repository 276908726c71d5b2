"""titok_hf.training.recipes: YAML and overrides become typed dataclasses, or one clear error."""

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from titok_hf.training.recipes import (
    RECIPES_FOLDER,
    RecipeError,
    build_recipe,
    load_recipe,
    read_recipe,
    recipe_to_yaml,
)


@dataclass
class Optimizer:
    learning_rate: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.99)
    milestones: tuple[int, ...] = ()


@dataclass
class Training:
    output_dir: str
    num_steps: int
    precision: Literal["no", "bf16"] = "no"
    compile: bool = False
    limit: int | None = None
    optimizer: Optimizer = field(default_factory=Optimizer)
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.num_steps < 1:
            raise ValueError(f"num_steps is {self.num_steps}; it has to be at least 1.")


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("output_dir: out\nnum_steps: 10\noptimizer:\n  betas: [0.9, 1]\noptions: {depths: [1, 2]}\n")
    return path


def test_values_come_from_the_file_then_from_overrides(recipe):
    overrides = [
        "num_steps=20",
        "optimizer.milestones=[1, 2, 3]",
        "optimizer.learning_rate=1e-3",
        "limit=5",
        "num_steps=30",
        "compile=true",
    ]
    training = load_recipe(Training, recipe, overrides)
    assert training == Training(
        output_dir="out",
        num_steps=30,
        compile=True,
        limit=5,
        optimizer=Optimizer(learning_rate=1e-3, betas=(0.9, 1.0), milestones=(1, 2, 3)),
        options={"depths": [1, 2]},
    )
    assert isinstance(training.optimizer.betas, tuple)


@pytest.mark.parametrize(
    ("text", "value"), [("1e-4", 1e-4), ("-2.5E+3", -2500.0), (".5", 0.5), ("3", 3.0), (".inf", float("inf"))]
)
def test_numbers_are_written_as_people_write_them(recipe, text, value):
    assert load_recipe(Training, recipe, [f"optimizer.learning_rate={text}"]).optimizer.learning_rate == value


def test_no_is_a_word(recipe):
    training = load_recipe(Training, recipe, ["precision=no", "output_dir=yes", "compile=false"])
    assert (training.precision, training.output_dir, training.compile) == ("no", "yes", False)


def test_a_recipe_survives_being_written(recipe, tmp_path):
    training = load_recipe(Training, recipe, ["options.name=a"])
    written = tmp_path / "written.yaml"
    written.write_text(recipe_to_yaml(training))
    assert load_recipe(Training, written) == training


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("nun_steps=3", "no key 'nun_steps'. Did you mean 'num_steps'"),
        ("optimizer.learning_rat=3", "no key 'optimizer.learning_rat'. Did you mean 'learning_rate'"),
        ("zzz=3", "Known keys: output_dir, num_steps"),
        ("num_steps=many", "num_steps is 'many' .str.; expected a valid integer"),
        ("num_steps=1.5", "num_steps is 1.5"),
        ("num_steps=true", "num_steps is True"),
        ("num_steps=0", "num_steps is 0; it has to be at least 1"),
        ("output_dir=3", "output_dir is 3 .int.; expected a valid string"),
        ("compile=1", "compile is 1"),
        ("limit=a", "limit is 'a'"),
        ("precision=fp8", "expected 'no' or 'bf16'"),
        ("optimizer=3", "optimizer is 3 .int.; expected a group of keys"),
        ("optimizer.betas=[0.9, a]", r"optimizer.betas\[1\] is 'a'"),
        ("optimizer.betas=0.9", "expected a list"),
        ("optimizer.betas=[0.9]", r"needs a value for optimizer.betas\[1\]"),
        ("options=3", "expected a group of keys"),
        ("num_steps.x=3", "'num_steps' is a value, not a group of keys"),
        ("num_steps", "not of the form key=value"),
        ("num_steps=[", "not valid YAML"),
    ],
)
def test_a_wrong_override_is_refused_by_name(recipe, override, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(Training, recipe, [override])


def test_missing_values_and_recipes_are_named(recipe, tmp_path):
    recipe.write_text("num_steps: 3\n")
    with pytest.raises(RecipeError, match="needs a value for output_dir"):
        load_recipe(Training, recipe)
    with pytest.raises(
        RecipeError, match="no recipe 'fashion_clasifier'. Did you mean 'fashion_classifier'.* Use one of "
    ):
        load_recipe(Training, "fashion_clasifier")
    with pytest.raises(RecipeError, match="does not exist"):
        load_recipe(Training, tmp_path / "absent.yaml")


@pytest.mark.parametrize(("text", "message"), [("a: [", "not valid YAML"), ("- 1", "holds a list")])
def test_a_file_that_is_no_mapping_is_refused(recipe, text, message):
    recipe.write_text(text)
    with pytest.raises(RecipeError, match=message):
        load_recipe(Training, recipe)


def test_the_old_name_of_a_section_is_still_read_in_files_and_overrides(tmp_path):
    """Run folders and recipes of earlier versions call `intervals` `cadence`."""

    @dataclass
    class Intervals:
        log_every: int = 1
        save_every: int = 1

    @dataclass
    class Run:
        intervals: Intervals = field(default_factory=Intervals)

    old = tmp_path / "old.yaml"
    old.write_text("cadence: {log_every: 7}\n")
    assert load_recipe(Run, old, ["cadence.save_every=3"]) == Run(Intervals(7, 3))
    assert load_recipe(Run, old, ["intervals.save_every=3"]) == Run(Intervals(7, 3))
    assert build_recipe(Run, {"cadence": {"log_every": 7}}) == Run(Intervals(7))
    old.write_text("cadence: {log_every: 7}\nintervals: {log_every: 8}\n")
    with pytest.raises(RecipeError, match="both cadence and intervals"):
        load_recipe(Run, old)


def test_guidance_scales_of_recipes_of_earlier_versions_are_translated(tmp_path):
    """They count from the conditional logits where the schedule is constant or linear, and are smaller by 1."""
    recipe = tmp_path / "recipe.yaml"
    sampler = "sampler: {guidance_scale: 4.5, guidance_schedule: linear}\n"
    recipe.write_text("cadence: {log_every: 7}\n" + sampler)
    assert read_recipe(recipe)["sampler"] == {"guidance_scale": 5.5, "guidance_schedule": "linear"}
    assert read_recipe(recipe, ["sampler.guidance_scale=3.0"])["sampler"]["guidance_scale"] == 3.0
    recipe.write_text("intervals: {log_every: 7}\n" + sampler)
    assert read_recipe(recipe)["sampler"]["guidance_scale"] == 4.5


def test_recipes_lie_in_the_package():
    assert (RECIPES_FOLDER / "fashion_classifier.yaml").is_file()
