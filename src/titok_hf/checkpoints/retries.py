"""Calls of the Hub that are tried again when the Hub is busy or unwell, as its client does for some of them only."""

import time
from collections.abc import Callable
from typing import TypeVar

Answer = TypeVar("Answer")

# Too many requests, and errors of servers, which pass by themselves.
_PASSING = (408, 429, 500, 502, 503, 504)
_WAITS = (1, 2, 4, 8)  # seconds


def with_retries(call: Callable[[], Answer]) -> Answer:
    """
    What a call gives, which is made again, at most four times within a quarter of a minute, while the Hub answers that
    it is busy or unwell. Other errors are raised at once, and the last one in the end.

    Args:
        call: may be made several times: it downloads, asks, or writes what is the same each time.
    """
    for seconds in _WAITS:
        try:
            return call()
        except Exception as error:
            if _status_of(error) not in _PASSING:
                raise
        time.sleep(seconds)
    return call()


def _status_of(error: BaseException | None) -> int | None:
    """The HTTP status that an error came from, though libraries wrap it in their own."""
    while error is not None:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status is not None:
            return status
        error = error.__cause__ or error.__context__
    return None


__all__ = ["with_retries"]
