"""titok_hf.training.run_folder: whose folder it is, checkpoints that are whole or not there, entries after a kill."""

import json
from pathlib import Path

import pytest

from titok_hf.training.recipes import RecipeError
from titok_hf.training.run_folder import HELD_OUT, RunFolder
from training_runs import recipe_of


@pytest.fixture
def folder(tokenizer_values) -> RunFolder:
    """Claimed by the recipe of `tokenizer_values`."""
    folder = RunFolder(tokenizer_values["output_dir"])
    folder.claim(recipe_of(tokenizer_values))
    return folder


def save(folder: RunFolder, step: int) -> None:
    with folder.new_checkpoint(step, is_main_process=True) as path:
        path.mkdir(parents=True)
        (path / "state").write_text(str(step))
        folder.write_data_record(path)


def test_a_new_and_an_empty_folder_are_free(tokenizer_values, tmp_path):
    RunFolder(tmp_path / "new").check(recipe_of(tokenizer_values))
    (tmp_path / "empty").mkdir()
    RunFolder(tmp_path / "empty").check(recipe_of(tokenizer_values))
    assert not (tmp_path / "new").exists()  # to check is not to claim


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"intervals": {"log_every": 1, "num_checkpoints": 9}},
        {"optimization": {"num_steps": 1_000, "mixed_precision": "bf16"}},
        {"optimization": {"batch_size": 2, "gradient_accumulation_steps": 2}},  # the checkpoint knows their product
        {"push_to_hub": "someone/model"},
    ],
)
def test_the_same_run_may_end_elsewhere_and_speak_more_often(change, folder, tokenizer_values):
    folder.check(recipe_of(tokenizer_values, **change))


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"loss": {"quantizer_weight": 0.5}},
        {"model": {"num_latent_tokens": 8}},
        {"data": {"horizontal_flip": True}},
        {"optimization": {"learning_rate": 1e-3}},
    ],
)
def test_another_run_is_refused(change, folder, tokenizer_values):
    before = folder.recipe_file.read_bytes()
    with pytest.raises(RecipeError, match="holds a run with another recipe .*recipe.yaml"):
        folder.check(recipe_of(tokenizer_values, **change))
    assert folder.recipe_file.read_bytes() == before


@pytest.mark.parametrize("change", [{"num_workers": 3}, {"broken_images": "skip"}])
def test_how_images_are_read_may_change(change, folder, tokenizer_values):
    folder.check(recipe_of(tokenizer_values, data=change))


TRAINED = {"rows": 20, "columns": ["image"], "classes": None, "files": "a", "content": "b"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"training data": TRAINED | {"rows": 19}}, "training data changed .*it had 20 rows, and now it has 19 rows"),
        ({"training data": TRAINED | {"content": "c"}}, "its rows are others.* Restore them as they were. Or choose"),
        ({"intervals.num_test_images": 8}, "num_test_images was 4 when this run began, and is 8.* Set it to 4, or"),
        ({"teacher": "e"}, "The teacher changed since this run began"),
    ],
)
def test_a_run_goes_on_with_the_data_that_it_began_with(change, message, folder, tokenizer_values):
    record = {"training data": TRAINED, "intervals.num_test_images": 4, "teacher": "d"}
    folder.claim(recipe_of(tokenizer_values), record)
    folder.check_data(record | change)  # nothing is learnt yet
    save(folder, 9)
    folder.check_data(record)
    with pytest.raises(RecipeError, match=message):
        folder.check_data(record | change)


def test_a_run_of_another_kind_is_refused(folder, vqgan_values):
    with pytest.raises(RecipeError, match="holds a run with another recipe"):
        folder.check(recipe_of(vqgan_values))


def test_what_is_no_run_is_refused_and_kept(tokenizer_values, tmp_path):
    thesis = tmp_path / "work" / "thesis.tex"
    thesis.parent.mkdir()
    thesis.write_text("mine")
    for path in (thesis, thesis.parent):
        with pytest.raises(RecipeError, match="not empty and holds no run"):
            RunFolder(path).check(recipe_of(tokenizer_values))
    assert thesis.read_text() == "mine"


def test_a_checkpoint_is_there_when_it_is_whole(folder):
    assert folder.newest_checkpoint() is None
    save(folder, 9)
    with pytest.raises(KeyboardInterrupt), folder.new_checkpoint(10, is_main_process=True) as path:
        path.mkdir()
        (path / "half").touch()
        raise KeyboardInterrupt
    newest = folder.newest_checkpoint()
    assert newest is not None
    assert newest.name == "step_00000009"
    folder.tidy(9)
    assert [path.name for path in folder.checkpoints.iterdir()] == ["step_00000009"]


def test_a_step_that_is_saved_again_replaces_its_checkpoint(folder):
    save(folder, 9)
    (folder.checkpoints / "step_00000009" / "old").touch()
    save(folder, 9)
    assert [path.name for path in (folder.checkpoints / "step_00000009").iterdir()] == ["state"]


def test_the_newest_checkpoints_are_kept(folder):
    for step in (8, 9, 10, 100):
        save(folder, step)
    folder.remove_checkpoints_but(2)
    assert sorted(path.name for path in folder.checkpoints.iterdir()) == ["step_00000010", "step_00000100"]
    folder.remove_checkpoints_but(2)
    assert len(list(folder.checkpoints.iterdir())) == 2


def test_removal_that_was_killed_leaves_nothing_that_looks_whole(folder):
    save(folder, 9)
    (folder.checkpoints / "outdated").mkdir()
    (folder.checkpoints / "outdated" / "half").touch()
    assert folder.newest_checkpoint().name == "step_00000009"
    folder.tidy(9)
    assert [path.name for path in folder.checkpoints.iterdir()] == ["step_00000009"]


def test_entries_after_the_checkpoint_are_dropped_and_come_again(folder):
    for step in (2, 4, 6):
        folder.append_metrics({"step": step, "loss": step / 10})
    folder.tidy(4)
    assert folder.metrics() == [{"step": 2, "loss": 0.2}, {"step": 4, "loss": 0.4}]
    folder.append_metrics({"step": 6, "loss": 0.61})
    assert [json.loads(line)["loss"] for line in folder.metrics_file.read_text().splitlines()] == [0.2, 0.4, 0.61]


def test_a_last_line_that_was_cut_off_does_no_harm(folder):
    folder.append_metrics({"step": 2, "loss": 0.2})
    with folder.metrics_file.open("a") as file:
        file.write('{"step": 4, "lo')
    assert folder.metrics() == [{"step": 2, "loss": 0.2}]
    folder.tidy(4)
    folder.append_metrics({"step": 4, "loss": 0.4})
    assert folder.metrics() == [{"step": 2, "loss": 0.2}, {"step": 4, "loss": 0.4}]


def test_a_folder_without_entries_is_tidied_too(tmp_path):
    folder = RunFolder(Path(tmp_path / "run"))
    folder.tidy(0)
    assert not folder.metrics_file.exists()


def test_a_run_of_an_earlier_version_goes_on(folder, tokenizer_values):
    """Its recipe and its record of data call `intervals` `cadence`."""
    folder.data_record = {"cadence.num_test_images": 5}
    save(folder, step=1)
    written = folder.recipe_file.read_text()
    assert "\nintervals:" in written
    folder.recipe_file.write_text(written.replace("\nintervals:", "\ncadence:"))
    folder.check(recipe_of(tokenizer_values))
    folder.check_data({HELD_OUT: 5})
    with pytest.raises(RecipeError, match="intervals.num_test_images was 5 when this run began, and is 6"):
        folder.check_data({HELD_OUT: 6})
    with pytest.raises(RecipeError, match="another recipe"):
        folder.check(recipe_of(tokenizer_values, seed=7))
