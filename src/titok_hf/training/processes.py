"""What the processes of a run share: values, errors that stop all of them, and signals that ask them to stop."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from accelerate.utils import gather_object

# SIGHUP: the terminal is gone. SIGUSR1: the usual choice for SLURM's `--signal`.
_STOP_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1") if hasattr(signal, name)]

# Larger than the number of any signal.
_TROUBLE = 1_000


def gather(value: Any) -> list[Any]:
    """The values of all processes, by rank; runs in all of them."""
    return list(gather_object([value]))


@contextmanager
def raised_together(*kinds: type[Exception]) -> Iterator[None]:
    """
    A block that runs in all processes. An error of these kinds in one of them is raised in all of them, so that no
    process waits for one that has ended.
    """
    error: Exception | None = None
    try:
        yield
    except kinds as caught:
        error = caught
    errors = gather(None if error is None else (type(error), str(error)))
    if error is not None:
        raise error
    for kind, text in filter(None, errors):
        raise kind(text)


class StopRequest:
    """
    A context in which SIGTERM, SIGINT, SIGHUP and SIGUSR1 no longer end the process at once: they ask the run to stop
    before its next step. Handlers of the caller and ignored signals stay as they are.

    A second signal ends a single process at once. It does not under a launcher, which sends the signal repeatedly.
    """

    def __init__(self) -> None:
        self.received = 0
        self._group: Any = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            # On the CPU, so that this does not wait for computations of the devices.
            self._group = dist.new_group(backend="gloo")
        if threading.current_thread() is threading.main_thread():
            for number in _STOP_SIGNALS:
                handler = signal.getsignal(number)
                at_once = handler in (signal.SIG_DFL, signal.default_int_handler)
                if at_once or getattr(handler, "ends_the_program", False):  # the second is that of our commands
                    self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *error: object) -> None:
        self._restore()

    def agreed(self, trouble: bool = False) -> int:
        """
        Whether all processes take the next step; runs in all of them.

        Args:
            trouble: whether this process cannot take it.
        Returns:
            0 if they do; -1 if a process cannot; else the number of a signal that one of them received.
        """
        value = _TROUBLE if trouble else self.received
        if self._group is not None:
            values = torch.tensor(value)
            dist.all_reduce(values, op=dist.ReduceOp.MAX, group=self._group)
            value = int(values)
        return -1 if value == _TROUBLE else value

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        if int(os.environ.get("WORLD_SIZE", 1)) == 1:
            self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}


def stop_for(number: int, message: str) -> BaseException:
    """The exception for a signal: KeyboardInterrupt for Ctrl-C, else an exit with 128 + its number, as in shells."""
    return KeyboardInterrupt(message) if number == signal.SIGINT else SystemExit(128 + number)
