"""titok_hf.training.checkpoints: damage is seen before anything is loaded, a full disk, a change of precision."""

import logging
import re
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from titok_hf.training.checkpoints import CHECKSUMS_NAME, damage_of
from titok_hf.training.loop import TrainingLoop
from titok_hf.training.recipes import RecipeError
from training_runs import cut_off, entries_of, equal, loop_of, trained


def checkpoint_names(loop: TrainingLoop) -> list[str]:
    return sorted(path.name for path in loop.folder.checkpoints.iterdir())


def flip_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], None]] = {
    "flipped byte": lambda folder: flip_a_byte(folder / "model.safetensors"),
    "cut off": lambda folder: (folder / "optimizer.bin").write_bytes((folder / "optimizer.bin").read_bytes()[:100]),
    "missing file": lambda folder: (folder / "ema.pt").unlink(),
    "empty file": lambda folder: (folder / "custom_checkpoint_0.pkl").write_bytes(b""),
    "no checksums": lambda folder: (folder / CHECKSUMS_NAME).unlink(),
    "damaged checksums": lambda folder: (folder / CHECKSUMS_NAME).write_bytes(b"[\xff"),
}


def test_each_file_is_on_record_and_each_kind_of_damage_is_seen(tokenizer_values, tmp_path):
    loop = cut_off(tokenizer_values, after_step=3)
    whole = loop.folder.newest_checkpoint()
    assert damage_of(whole) is None
    assert len({file.stat().st_mode for file in whole.iterdir()}) == 1  # also those that safetensors writes
    for file in sorted(whole.iterdir()):
        copy = shutil.copytree(whole, tmp_path / file.stem, dirs_exist_ok=True)
        flip_a_byte(copy / file.name)
        assert damage_of(copy) is not None, file.name
    for name, damage in DAMAGE.items():
        damage(copy := shutil.copytree(whole, tmp_path / name))
        assert damage_of(copy) is not None, name


def test_a_damaged_checkpoint_is_passed_over_with_a_warning(tokenizer_values, tmp_path, caplog):
    whole = trained(tokenizer_values, output_dir=str(tmp_path / "whole"))
    loop = cut_off(tokenizer_values, after_step=7)
    assert checkpoint_names(loop) == ["step_00000003", "step_00000006"]
    flip_a_byte(loop.folder.checkpoints / "step_00000006" / "ema.pt")
    with caplog.at_level(logging.WARNING):
        assert equal(trained(tokenizer_values), whole)
    assert "step_00000006 is damaged: ema.pt has changed since it was saved" in caplog.text
    assert re.search("Falling back to .*step_00000003", caplog.text)
    # The damaged one has gone: the run saved that step again.
    assert checkpoint_names(loop) == ["step_00000006", "step_00000008"]
    steps = [entry["step"] for entry in entries_of(tokenizer_values) if "loss" in entry]
    assert steps == [2, 4, 6, 8]


def test_a_damaged_checkpoint_does_not_push_a_whole_one_out(tokenizer_values):
    loop = cut_off(tokenizer_values, after_step=7)
    flip_a_byte(loop.folder.checkpoints / "step_00000006" / "ema.pt")
    again = cut_off(tokenizer_values, after_step=4, intervals={"checkpoint_every": 4, "num_checkpoints": 1})
    assert checkpoint_names(again) == ["damaged_step_00000006", "step_00000004"]


def test_a_run_without_a_whole_checkpoint_does_not_start_anew(tokenizer_values):
    loop = cut_off(tokenizer_values, after_step=7)
    before = entries_of(tokenizer_values)
    for checkpoint in loop.folder.all_checkpoints():
        flip_a_byte(checkpoint / "optimizer.bin")
    with pytest.raises(RecipeError, match="No checkpoint in .* is whole .*step_00000003, step_00000006.*remove"):
        trained(tokenizer_values)
    assert entries_of(tokenizer_values) == before
    assert checkpoint_names(loop) == ["step_00000003", "step_00000006"]


def test_a_state_that_is_saved_is_not_written_again(tokenizer_values):
    loop = cut_off(tokenizer_values, after_step=3)
    file = loop.folder.newest_checkpoint() / "ema.pt"
    before = file.stat().st_mtime_ns
    loop.checkpoints.save(3)
    assert file.stat().st_mtime_ns == before


@pytest.mark.parametrize("limit", [2_000, 30_000])
def test_a_full_disk_is_said_in_one_sentence_and_older_checkpoints_stay(limit, tokenizer_values, tmp_path):
    """A limit on the size of files fails a write just like a full disk: torch's, safetensors' or the system's own."""
    whole = trained(tokenizer_values, output_dir=str(tmp_path / "whole"))
    loop = loop_of(tokenizer_values)
    finish_step = loop.task.after_step
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_the_disk() -> None:
        finish_step()
        if loop.step == 5:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))

    loop.task.after_step = fill_the_disk
    try:
        with pytest.raises(OSError, match=r"could not be written to .* goes on from step_00000003\.$") as error:
            loop.run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(error.value)
    assert checkpoint_names(loop) == ["step_00000003"]
    assert equal(trained(tokenizer_values), whole)


class Scaler:
    """A gradient scaler where accelerate puts it; a CPU has none. Its state is what is saved and loaded."""

    @staticmethod
    def put_into(loop: TrainingLoop, scale: float) -> Any:
        loop.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        return loop.accelerator.scaler


def test_a_run_goes_on_with_a_gradient_scaler_that_its_checkpoint_has_not(tokenizer_values):
    cut_off(tokenizer_values, after_step=3)
    loop = loop_of(tokenizer_values)
    scaler = Scaler.put_into(loop, 2.0**9)
    loop._resume()
    assert loop.step == 3 and loop.accelerator.scaler is scaler and scaler.get_scale() == 2.0**9
    loop.progress.step = 4
    loop.checkpoints.save(4)
    # With a scaler again, its scale is the saved one; without one, the file is left alone.
    loop = loop_of(tokenizer_values)
    scaler = Scaler.put_into(loop, 2.0**5)
    loop._resume()
    assert loop.step == 4 and scaler.get_scale() == 2.0**9
    loop = loop_of(tokenizer_values)
    loop._resume()
    assert loop.step == 4 and loop.accelerator.scaler is None


def test_a_checkpoint_of_other_parts_is_refused_in_one_sentence(tokenizer_values):
    cut_off(tokenizer_values, after_step=3)
    loop = loop_of(tokenizer_values)
    loop.accelerator.register_for_checkpointing(loop.learners["model"].schedule)
    with pytest.raises(RecipeError, match="step_00000003 does not fit this run: Number of custom checkpoints"):
        loop.run()


assert signal.SIGXFSZ  # which Python ignores, so that a write that is too long is an error
