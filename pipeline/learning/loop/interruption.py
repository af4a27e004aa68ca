"""Interruption: a wish to end, noted when a signal comes and granted where nothing is lost."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from pipeline.core.errors import TrainingError
from pipeline.core.progress import say

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_asked: list[str] = []  # names of the signals that came; signals belong to the process, and so does this list
_time_is_over = threading.Event()


class TrainingInterruptedError(TrainingError):
    """The process was asked to end; what was trained so far is saved, and the same command goes on from there."""


class TimeIsOverError(TrainingInterruptedError):
    """The time given to a training is over; what was trained so far is saved."""


@contextmanager
def interruptible() -> Iterator[None]:
    """Note SIGTERM (of a scheduler) and SIGINT (of a user) instead of ending at once.

    Training and prediction look for the note after every batch, so that the process ends within the time of one
    batch and of writing the state: seconds, where schedulers give 30. A second SIGINT ends at once. Elsewhere
    than in the main thread, which alone may handle signals, nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _note) for number in _SIGNALS}
    try:
        yield
    finally:
        _asked.clear()
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def ended_after(seconds: float) -> Iterator[None]:
    """Ask a training to end after some time, where it would end after a signal; infinity is as long as a timer can."""
    # A longer wait is an error in the timer's thread, where nobody hears of it.
    timer = threading.Timer(min(max(0.0, seconds), threading.TIMEOUT_MAX), _time_is_over.set)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()  # one that has just gone off must not end the next training
        _time_is_over.clear()


def is_asked_to_end() -> bool:
    """Tell whether a signal came or the time is over."""
    return bool(_asked) or _time_is_over.is_set()


def end_if_asked() -> None:
    """Stop if a signal came or the time is over; to be called where nothing has to be saved, or the caller saves it.

    Raises
    ------
    TrainingInterruptedError
        If a signal came.
    TimeIsOverError
        If none came, but the time is over.
    """
    if _time_is_over.is_set() and not _asked:
        raise TimeIsOverError("the time given to the training is over", remedy="give it more time: it goes on")
    if _asked:
        raise TrainingInterruptedError(f"interrupted by {_asked[0]}", remedy="run the same command again: it goes on")


def _note(number: int, _frame: FrameType | None) -> None:
    if number == signal.SIGINT and signal.SIGINT.name in _asked:
        raise KeyboardInterrupt
    _asked.append(signal.Signals(number).name)
    say(f"{signal.Signals(number).name}: ending after this batch")
