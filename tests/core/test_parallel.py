import os
import signal

import pytest

from pipeline.core.errors import PipelineError
from pipeline.core.parallel import map_in_order


def _square(number: int) -> int:
    return number * number


def _square_or_die(number: int) -> int:
    if number % 10 == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def _refuse_seven(number: int) -> int:
    if number == 7:
        message = "seven"
        raise ValueError(message)
    return number


def _lost(number: int) -> int:
    return -number


@pytest.mark.parametrize("threads", [1, 2])
def test_results_come_in_the_order_of_the_items(threads):
    found = list(map_in_order(_square, range(40), threads=threads, on_crash=_lost))
    assert found == [number * number for number in range(40)]


def test_one_thread_works_in_this_process():
    found = list(map_in_order(lambda _: os.getpid(), range(5), threads=1, on_crash=_lost))
    assert found == [os.getpid()] * 5


def test_a_killed_worker_costs_its_item_only():
    found = list(map_in_order(_square_or_die, range(12), threads=2, on_crash=_lost))
    assert found == [-3 if number == 3 else number * number for number in range(12)]


def test_processes_that_cannot_be_started_are_an_error_and_no_lost_items(monkeypatch):
    """Every process dies at its start, as with a damaged installation."""
    broken = {"init_main_from_path": "/nowhere/main.py"}
    monkeypatch.setattr("multiprocessing.spawn.get_preparation_data", lambda _: broken)
    with pytest.raises(PipelineError, match="cannot be started"):
        list(map_in_order(_square, range(12), threads=2, on_crash=_lost))


def test_an_exception_is_raised_here():
    with pytest.raises(ValueError, match="seven"):
        list(map_in_order(_refuse_seven, range(30), threads=2, on_crash=_lost))
