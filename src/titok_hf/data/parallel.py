"""Worker processes that ignore signals to their parent, end with it, and return results in order."""

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

# Submitted items for each worker: one in work, one waiting, and two more because items take different times.
ITEMS_PER_WORKER = 4

# A cluster, or Ctrl-C in a terminal, sends these to all processes. The parent may need its workers until it has saved
# its state, so only the parent reacts, and the workers end with it.
PARENTS_SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)
]

WORKER_ENDED = (
    "A worker process ended without an answer; perhaps it was killed for its memory. What is finished is kept: run "
    "the same command again, with fewer workers if it happens again."
)

_function: Callable[[Any], Any] | None = None


def available_processors() -> int:
    """The number of processors for this process; all processes of a launcher on this machine share them."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, count // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


class _Worker(multiprocessing.process.BaseProcess):
    """A process that ignores its parent's signals, and ends when its parent ends."""

    def start(self) -> None:
        # The new process inherits the blocked signals, so they cannot end it while it starts.
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
    """Starts each worker as a new Python: a fork would copy locks that threads of the parent hold."""

    Process = _SpawnedWorker  # type: ignore[assignment]


if "forkserver" in multiprocessing.get_all_start_methods():

    class _ForkedWorker(_Worker, context.ForkServerProcess):
        pass

    class _ForkServerContext(context.ForkServerContext):
        """Forks workers from one process without threads, which imports torch once."""

        Process = _ForkedWorker  # type: ignore[assignment]


def context_of_torch_workers(*modules: str) -> context.BaseContext:
    """How to start workers that need these modules, without importing torch again in each of them."""
    if "forkserver" not in multiprocessing.get_all_start_methods():  # Windows
        return _SpawnContext()
    forkserver = _ForkServerContext()
    forkserver.set_forkserver_preload(list(modules))
    return forkserver


def ordered_map(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int
) -> Generator[Result, None, None]:
    """
    `map`, computed by several processes. The results and their order do not depend on the number of processes.

    Args:
        function: has to be picklable if there are workers; each worker gets one copy.
        items: read only a few items ahead of the results.
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
    """Blocks the signals in this process while a worker starts."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    # Starting the tracker of shared memory unblocks signals, so it is started first.
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
    """A killed parent cannot end its workers, which would wait for ever."""
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
