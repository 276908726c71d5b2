"""Worker processes: they outlive the signals that are meant for their parent, end with it, and work in order."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import context, resource_tracker
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# Items under way for each worker: one in work, one waiting, and some slack for items of uneven cost.
ITEMS_PER_WORKER = 4

# A cluster sends these to every process of a job, and a terminal Ctrl-C. The parent decides: it may need its workers
# until it has saved its state, and they end with it.
PARENTS_SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)
]

WORKER_ENDED = (
    "A worker process ended without an answer; perhaps it was killed for its memory. What is finished is kept: run "
    "the same command again, with fewer workers if it happens again."
)

_function: Callable[[Any], Any] | None = None


def available_processors() -> int:
    """The number of processors that this process may use, shared with the others of its launcher on this machine."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, count // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


class _Worker(multiprocessing.process.BaseProcess):
    """A process that its parent's signals do not reach, and that ends with its parent, however that ends."""

    def start(self) -> None:
        # It inherits the blocked signals, so it is safe before it has imported anything.
        with _parents_signals_blocked():
            super().start()

    def run(self) -> None:
        _block_parents_signals()
        threading.Thread(target=_end_with_parent, daemon=True).start()
        super().run()

    def terminate(self) -> None:
        self.kill()  # SIGTERM would not reach it


class _SpawnedWorker(_Worker, context.SpawnProcess):
    pass


class _SpawnContext(context.SpawnContext):
    """Starts each worker as a new Python: a fork would copy the locks of threads that do not exist there."""

    Process = _SpawnedWorker  # type: ignore[assignment]


if "forkserver" in multiprocessing.get_all_start_methods():

    class _ForkedWorker(_Worker, context.ForkServerProcess):
        pass

    class _ForkServerContext(context.ForkServerContext):
        """Forks workers from one process without threads, which imports torch once for all of them."""

        Process = _ForkedWorker  # type: ignore[assignment]


def context_of_torch_workers(*modules: str) -> context.BaseContext:
    """How to start workers that need these modules; each would take seconds to import torch by itself."""
    if "forkserver" not in multiprocessing.get_all_start_methods():  # Windows
        return _SpawnContext()
    forkserver = _ForkServerContext()
    forkserver.set_forkserver_preload(list(modules))
    return forkserver


def ordered_map(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int
) -> Generator[Result, None, None]:
    """
    `map`, computed by several processes. What comes out, and in which order, does not depend on their number.

    Args:
        function: has to be picklable if there are workers; each gets one copy.
        items: taken only as fast as results are.
        workers: number of processes; 0 computes in this one.

    Raises:
        OSError: a worker ended without an answer, for example because the system ran out of memory.
    """
    if workers == 0:
        yield from map(function, items)
        return
    executor = ProcessPoolExecutor(workers, _SpawnContext(), initializer=_set_function, initargs=(function,))
    under_way: deque[Future] = deque()
    try:
        for item in items:
            under_way.append(executor.submit(_apply, item))
            if len(under_way) >= workers * ITEMS_PER_WORKER:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    except BrokenProcessPool as error:
        raise OSError(WORKER_ENDED) from error
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _parents_signals_blocked() -> Iterator[None]:
    """The parent's own signals wait for the moment that starting a process takes."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    # The tracker of shared memory unblocks signals when it is started, so it is started before they are blocked.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, PARENTS_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _block_parents_signals() -> None:
    for number in PARENTS_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):  # torch installs a handler of SIGTERM in its workers
        signal.pthread_sigmask(signal.SIG_BLOCK, PARENTS_SIGNALS)


def _end_with_parent() -> None:
    """A parent that was killed cannot end its workers, and they would wait for it for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _set_function(function: Callable[[Any], Any]) -> None:
    global _function
    _function = function


def _apply(item: Any) -> Any:
    assert _function is not None  # the initializer ran
    return _function(item)


__all__ = ["WORKER_ENDED", "available_processors", "context_of_torch_workers", "ordered_map"]
