"""titok_hf.data.parallel: workers and the signals of their parent."""

import multiprocessing
import os
import signal
import threading
from contextlib import suppress

import pytest

from titok_hf.data.parallel import ordered_map


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_any_time_of_a_workers_life_does_not_end_it(number):
    """From its first moment on, when it has not yet imported anything: a cluster signals every process of a job."""
    ended = threading.Event()

    def send_signals() -> None:
        while not ended.wait(0.01):
            for worker in multiprocessing.active_children():
                with suppress(ProcessLookupError):
                    os.kill(worker.pid, number)

    sender = threading.Thread(target=send_signals)
    sender.start()
    try:
        assert list(ordered_map(abs, range(-40, 0), workers=2)) == list(range(40, 0, -1))
    finally:
        ended.set()
        sender.join()


def test_the_parent_gets_its_own_signals_as_before():
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert list(ordered_map(abs, [-1], workers=1)) == [1]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
