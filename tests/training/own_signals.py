"""
titok_hf.training.processes: signals that a run gets in the process that runs it. `test_processes.py` runs these tests
in a process of their own, which a signal that the run does not take ends.
"""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from training_runs import equal, loop_of, train_command, trained


@pytest.fixture(autouse=True)
def default_handlers() -> Iterator[None]:
    """Those of a command in a terminal: a job in the background is started with Ctrl-C ignored."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def signalled_after(step: int, number: int, values: dict[str, Any]) -> Any:
    """A loop that gets a signal in the middle of a step."""
    loop = loop_of(values)
    finish_step = loop.task.after_step

    def finish_and_signal() -> None:
        finish_step()
        if loop.step == step:
            assert callable(signal.getsignal(number)), "the signal would end the tests"
            os.kill(os.getpid(), number)

    loop.task.after_step = finish_and_signal
    return loop


@pytest.mark.parametrize(
    ("number", "kind", "code"),
    [
        (signal.SIGTERM, SystemExit, 143),
        (signal.SIGINT, KeyboardInterrupt, None),
        (signal.SIGUSR1, SystemExit, 138),
    ],
)
def test_a_signal_ends_a_run_after_the_step_and_its_state_is_saved(number, kind, code, tokenizer_values, tmp_path):
    whole = trained(tokenizer_values, output_dir=str(tmp_path / "whole"))
    loop = signalled_after(5, number, tokenizer_values)
    handlers = signal.getsignal(number)
    with pytest.raises(kind) as stopped:
        loop.run()
    assert code is None or stopped.value.code == code
    assert signal.getsignal(number) == handlers
    assert loop.folder.newest_checkpoint().name == "step_00000005"
    assert equal(trained(tokenizer_values), whole)


def test_a_signal_to_the_workers_of_a_loader_too_does_not_break_the_step(tokenizer_values):
    """As a cluster sends it: to every process of a job."""
    tokenizer_values["data"]["num_workers"] = 2
    tokenizer_values["optimization"]["num_steps"] = 100
    loop = loop_of(tokenizer_values)
    finish_step = loop.task.after_step

    def finish_and_signal() -> None:
        finish_step()
        if loop.step == 2:
            for worker in multiprocessing.active_children():
                os.kill(worker.pid, signal.SIGTERM)
        if loop.step == 12:  # every batch that was under way has been used
            os.kill(os.getpid(), signal.SIGTERM)

    loop.task.after_step = finish_and_signal
    with pytest.raises(SystemExit):
        loop.run()
    assert loop.folder.newest_checkpoint().name == "step_00000012"


def test_a_signal_in_the_last_step_leaves_a_run_that_ends_at_once(tokenizer_values):
    loop = signalled_after(8, signal.SIGTERM, tokenizer_values)
    with pytest.raises(SystemExit):
        loop.run()
    assert loop.folder.newest_checkpoint().name == "step_00000008"
    trained(tokenizer_values)


def test_a_handler_of_the_caller_stays(tokenizer_values):
    seen = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    try:
        signalled_after(2, signal.SIGTERM, tokenizer_values).run()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [signal.SIGTERM]


def test_the_command_reports_what_shells_report(tokenizer_values, tmp_path, monkeypatch, capsys):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tokenizer_values))
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        monkeypatch.setattr("titok_hf.training.loop.AveragedWeights.step", _signal_once(number))
        with pytest.raises(SystemExit) as stopped:
            train_command([str(path)])
        assert stopped.value.code == code
        assert "Traceback" not in capsys.readouterr().err


def _signal_once(number: int) -> Any:
    from titok_hf.training.optimization import AveragedWeights

    step, sent = AveragedWeights.step, []

    def step_and_signal(self: Any, *arguments: Any) -> None:
        step(self, *arguments)
        if not sent:
            sent.append(os.kill(os.getpid(), number))

    return step_and_signal
