"""
Where a command ends that cannot continue: each error becomes one sentence, each signal an exit code.

It imports the standard library only, so that it is in force before anything slow is imported.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any, NoReturn

TRACEBACK_VARIABLE = "TITOK_HF_TRACEBACK"  # the environment variable that makes errors show their traceback

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_OF_A_SIGNAL = 128  # a shell reports this plus the number of the signal that ended a program
INTERRUPTED = _OF_A_SIGNAL + signal.SIGINT

# Errors that a user can cause, and that are therefore raised with a sentence for them.
_EXPECTED = (ValueError, OSError, FloatingPointError, NotImplementedError, ImportError)
# Arguments of commands that name what is read; an unexpected error is reported with their values.
_INPUTS = ("source", "model", "codes", "images", "recipe", "folder", "repo_id", "with_tokenizer")
# Arguments of Python functions that some commands offer under another name.
_OPTIONS = {"exif_transpose": "--exif", "num_inference_steps": "--steps", "original_variant": "--variant"}


def run(program: Callable[[], object]) -> NoReturn:
    """
    Run a whole program, its imports included, and leave the process with its exit code: 130 after Ctrl-C, 143 after
    SIGTERM, 1 after an error, always with one sentence instead of a traceback.
    """
    _open_missing_streams()
    received: list[int] = []
    process = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)  # a second one ends the program at once
        if os.getpid() != process:  # a child that was forked: the signal means what it meant before
            os.kill(os.getpid(), number)
            return
        received.append(number)
        raise KeyboardInterrupt

    stop.ends_the_program = True  # type: ignore[attr-defined]  # training puts a gentler one in its place
    for number in _STOP_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as `nohup` and background jobs of scripts have it
            signal.signal(number, stop)
    code = 0
    try:
        program()
    except SystemExit as request:
        code = request.code if isinstance(request.code, int) else int(request.code is not None)
    except (KeyboardInterrupt, Exception) as error:
        # C code that is interrupted during an import may raise an error of its own.
        code = 1 if received else end_with(error)
    for number in _STOP_SIGNALS:
        if signal.getsignal(number) is stop:
            signal.signal(number, signal.SIG_DFL)  # nothing is left to clean up
    if received:
        if code != INTERRUPTED:  # else the command has said it
            say("interrupted")
        code = _OF_A_SIGNAL + received[0]
    sys.exit(_flush(code))


def end_with(
    error: BaseException, given: Mapping[str, Any] | None = None, options: Mapping[str, str] | None = None
) -> int:
    """
    Print one sentence about an error on stderr.

    Args:
        error: what a command did not catch.
        given: the arguments of the command, by their Python names.
        options: the options of the command ("--size"), by the same names.

    Returns:
        the exit code.
    """
    code = INTERRUPTED if isinstance(error, KeyboardInterrupt) else getattr(error, "exit_code", 1)
    if isinstance(error, BrokenPipeError):  # a reader of the output, such as `head`, has stopped reading
        return code
    if os.environ.get(TRACEBACK_VARIABLE, "0") not in ("", "0"):
        say("".join(traceback.format_exception(error)).rstrip())
    if code == INTERRUPTED:
        say(str(error) or "interrupted")  # training says what was saved
    else:
        say(f"error: {sentence_of(error, given or {}, options or {})}")
    return code


def sentence_of(error: BaseException, given: Mapping[str, Any], options: Mapping[str, str]) -> str:
    """
    An error in the words of the command line; arguments as for [`end_with`]. An unexpected error is named with its
    type and with the files that the command was reading.
    """
    text = " ".join(str(error).split())
    if isinstance(error, ModuleNotFoundError) and error.name:
        from ..extras import how_to_install

        return how_to_install(error.name)
    if isinstance(error, MemoryError) or "out of memory" in text.lower():
        reason = f" ({text})" if text else ""
        return f"there is not enough memory{reason}. Use smaller batches, or a smaller model.{_reading(given)}"
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{os.fsdecode(error.filename)} cannot be used ({error.strerror})."
    if isinstance(error, _EXPECTED) and text and not isinstance(error, UnicodeError):
        return _in_options(text, options)
    what = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return f"{what}.{_reading(given)} This was not expected; {TRACEBACK_VARIABLE}=1 shows where it happened."


def say(message: str) -> None:
    """Write to stderr, red on a terminal; errors in writing to it are ignored."""
    colour = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    try:
        print(f"\033[31m{message}\033[0m" if colour else message, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        pass


def _reading(given: Mapping[str, Any]) -> str:
    """A sentence about the files that the command was reading."""
    values = [given[name] for name in _INPUTS if given.get(name)]
    names = [str(value[0] if isinstance(value, list) else value) for value in values]
    return f" It was reading {' and '.join(names)}." if names else ""


def _in_options(text: str, options: Mapping[str, str]) -> str:
    """A message with options in place of the names of Python's arguments: `--num-views` for `num_views`."""
    renamed = {name: option for name, option in _OPTIONS.items() if option in options.values()}
    options = renamed | {name: option for name, option in options.items() if "_" in name}
    if not options:
        return text
    # Whole words only, not parts of paths, quoted names or shapes, as in "(num_images, height, width, 3)"; "name=" is
    # how Python would pass the argument.
    words = rf"(?<![\w./\\'\"-])({'|'.join(map(re.escape, options))})=?(?![\w/\\'\"-])"
    shape = r"\(\w+(?: [*+/-] \w+)*(?:, \w+(?: [*+/-] \w+)*)+\)"
    return re.sub(rf"{shape}|{words}", lambda found: options[found[1]] if found[1] else found[0], text)


def _open_missing_streams() -> None:
    """
    Open the standard streams that are closed (as by `>&-`), since the next opened file would get the number of such a
    stream. Characters that the terminal cannot show are shown with backslashes.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def _flush(code: int) -> int:
    """Write buffered output; returns the exit code, which is an error if that fails."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError) as error:
            if stream is sys.stdout and not code:
                code = end_with(OSError(f"the answer cannot be written to standard output ({error})"))
            # Python would try to write again when it ends, and print a traceback.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return code
