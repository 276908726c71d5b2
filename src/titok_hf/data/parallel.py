"""Work that is spread over processes and comes back in order, with a bounded number of items under way."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import resource_tracker
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# Items under way for each worker: one in work, one waiting, and some slack for items of uneven cost.
ITEMS_PER_WORKER = 4

# Ctrl-C, and the end of a job that a cluster announces to each process of it, are the parent's business: it may need
# its workers until it has finished what it does, and they end with it.
PARENTS_SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)
]

_function: Callable[[Any], Any] | None = None


def available_processors() -> int:
    """The number of processors that this process may use, shared with the others of its launcher on this machine."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, count // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def ordered_map(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int, items_per_worker: int = ITEMS_PER_WORKER
) -> Generator[Result, None, None]:
    """
    `map`, computed by several processes. What comes out, and in which order, does not depend on their number.

    Args:
        function: has to be picklable if there are workers; each gets one copy.
        items: taken only as fast as results are.
        workers: number of processes; 0 computes in this one.
        items_per_worker: how many items are taken ahead of the result that is asked for, for each worker.

    Raises:
        OSError: a worker ended without an answer, for example because the system ran out of memory.
    """
    if workers == 0:
        yield from map(function, items)
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy the locks of threads that are not there
    executor = ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(function,))
    under_way: deque[Future] = deque()
    try:
        for item in items:
            with _no_signal_for_new_processes():
                under_way.append(executor.submit(_apply, item))
            if len(under_way) >= workers * items_per_worker:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    except BrokenProcessPool as error:
        raise OSError(
            "A worker process ended without an answer; perhaps it was killed for its memory. What is finished is "
            "kept: run the same command again, with fewer workers if it happens again."
        ) from error
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _no_signal_for_new_processes() -> Iterator[None]:
    """
    A process that starts here gets none of the parent's signals before it ignores them: it inherits the blocked set.

    An executor starts its processes one by one as items come, and each needs seconds to import what it works with. The
    parent's own signals wait for the moment that a start takes.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows, which has no such signals either
        yield
        return
    # The tracker of shared memory unblocks signals when it is started, so it is started before they are blocked.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, PARENTS_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(function: Callable[[Any], Any]) -> None:
    global _function
    _function = function
    for number in PARENTS_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that was killed cannot end its workers, and they would wait for it for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _apply(item: Any) -> Any:
    assert _function is not None  # the initializer ran
    return _function(item)


__all__ = ["available_processors", "ordered_map"]
