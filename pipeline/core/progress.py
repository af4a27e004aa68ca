"""Progress of long work as lines: on a terminal one line is rewritten, elsewhere lines come seldom."""

import sys
import time
from pathlib import Path
from typing import TextIO

from pipeline.core.errors import ArtefactError

SECONDS_BETWEEN_LINES = 10.0
SECONDS_BETWEEN_REDRAWS = 0.2

_log: TextIO | None = None


def open_log(path: Path | None) -> None:
    """Copy everything that `say` prints into a file, beside the terminal (None: to the terminal only).

    Raises
    ------
    ArtefactError
        If the file cannot be written.
    """
    global _log  # noqa: PLW0603  one process runs one stage with one log
    if _log is not None:
        _log.close()
        _log = None
    if path is not None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _log = path.open("a", encoding="utf-8")
        except OSError as error:
            what = f"the log cannot be written ({error.strerror})"
            raise ArtefactError(what, where=str(path), remedy="name a file in a folder of yours") from error


def say(line: str) -> None:
    """Print one line to standard error and to the log; a closed terminal is no reason to stop work."""
    for stream in (sys.stderr, _log):
        if stream is None:
            continue
        try:
            stream.write(f"{line}\n")
            stream.flush()
        except (BrokenPipeError, ValueError, OSError):
            continue


def format_duration(seconds: float) -> str:
    """Write a duration for people.

    Examples
    --------
    >>> format_duration(7.4), format_duration(125), format_duration(7300)
    ('7 s', '2 min 05 s', '2 h 01 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class Progress:
    """Count items done of a known total and show the time left.

    Parameters
    ----------
    what
        Name of the work and its unit, for example ``"ingest: files"``.
    total
        Number of items.
    """

    def __init__(self, what: str, total: int) -> None:
        self.what = what
        self.total = total
        self.done = 0
        self._started = time.monotonic()
        self._shown = self._started
        self._interactive = sys.stderr.isatty()

    def advance(self, count: int = 1) -> None:
        """Note that `count` more items are done; prints only when a line is due."""
        self.done += count
        now = time.monotonic()
        finished = self.done >= self.total
        pause = SECONDS_BETWEEN_REDRAWS if self._interactive else SECONDS_BETWEEN_LINES
        if not finished and now - self._shown < pause:
            return
        self._shown = now
        spent = now - self._started
        left = spent / self.done * (self.total - self.done) if self.done else 0.0
        tail = f"in {format_duration(spent)}" if finished else f"{format_duration(left)} left"
        line = f"{self.what} {self.done}/{self.total}, {tail}"
        if self._interactive and not finished:
            sys.stderr.write(f"\r\x1b[K{line}")
            sys.stderr.flush()
        else:
            if self._interactive:
                sys.stderr.write("\r\x1b[K")
            say(line)
