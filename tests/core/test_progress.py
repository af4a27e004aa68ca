"""Progress: seldom lines where nobody looks, one line on a terminal, a copy in the log."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core import progress
from pipeline.core.errors import ArtefactError
from pipeline.core.progress import Progress, format_duration, open_log, say


class Clock:
    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_log_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ArtefactError, match="the log cannot be written"):
        open_log(tmp_path / "file" / "log")


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "logs" / "stage.log"
    open_log(path)
    yield path
    open_log(None)


def work(clock, items, seconds_each):
    shown = Progress("train: epochs", items)
    for _ in range(items):
        clock.now += seconds_each
        shown.advance()


def test_lines_come_seldom_where_nobody_looks(clock, capsys):
    work(clock, items=100, seconds_each=1)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "train: epochs 10/100, 1 min 30 s left"
    assert lines[-1] == "train: epochs 100/100, in 1 min 40 s"
    assert len(lines) == 10


def test_fast_work_gives_one_line(clock, capsys):
    work(clock, items=1000, seconds_each=0.001)
    assert capsys.readouterr().err == "train: epochs 1000/1000, in 1 s\n"


def test_a_terminal_keeps_one_line_and_the_log_holds_no_redraws(clock, log, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(progress.sys, "stderr", terminal)
    work(clock, items=10, seconds_each=1)
    assert terminal.getvalue().count("\n") == 1
    assert terminal.getvalue().count("\r") == 10
    assert log.read_text(encoding="utf-8") == "train: epochs 10/10, in 10 s\n"


def test_what_is_said_reaches_the_log_and_is_added_to_it(log, capsys):
    say("one")
    open_log(log)
    say("two")
    assert log.read_text(encoding="utf-8") == "one\ntwo\n"
    assert capsys.readouterr().err == "one\ntwo\n"


def test_a_closed_terminal_does_not_stop_the_work(log, monkeypatch):
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(progress.sys, "stderr", closed)
    say("on with it")
    assert log.read_text(encoding="utf-8") == "on with it\n"


@given(st.floats(0, 1e6))
def test_durations_are_written_to_the_second_or_minute(seconds):
    text = format_duration(seconds)
    parts = text.replace(" h", ":h ").replace(" min", ":min ").replace(" s", ":s ").split()
    unit = {"h": 3600, "min": 60, "s": 1}
    total = sum(int(part.split(":")[0]) * unit[part.split(":")[1]] for part in parts)
    assert abs(total - seconds) <= (60 if "h" in text else 0.5)


@pytest.mark.parametrize(("seconds", "text"), [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (3600, "1 h 00 min")])
def test_known_durations(seconds, text):
    assert format_duration(seconds) == text
