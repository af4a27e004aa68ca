import multiprocessing
import os
import signal
import time

import pytest

from pipeline.core import parallel
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


def _sleep_or_square(number: int) -> int:
    if number == 3:
        time.sleep(600)
    return number * number


def test_a_hang_costs_its_item_and_its_time_only():
    start = time.monotonic()
    found = list(map_in_order(_sleep_or_square, range(8), threads=2, on_crash=_lost, seconds=1.5))
    assert found == [-3 if number == 3 else number * number for number in range(8)]
    assert time.monotonic() - start < 60


def _hoard_or_square(number: int) -> int:
    if number == 3:
        return len(bytearray(4_000_000_000))
    return number * number


def _hoard_quietly(number: int) -> int:
    try:
        return _hoard_or_square(number)
    except MemoryError:
        return 0


@pytest.mark.parametrize("threads", [1, 2])
def test_a_storm_of_memory_costs_its_item_only(threads):
    found = list(map_in_order(_hoard_or_square, range(8), threads=threads, on_crash=_lost, memory_bytes=1_000_000_000))
    assert found == [-3 if number == 3 else number * number for number in range(8)]


def test_a_function_may_deal_with_want_of_memory_itself():
    found = list(map_in_order(_hoard_quietly, range(5), threads=1, on_crash=_lost, memory_bytes=1_000_000_000))
    assert found == [0, 1, 4, 0, 16]


def _die_once(path: str) -> str:
    if not os.path.exists(path):  # noqa: PTH110
        with open(path, "w"):  # noqa: PTH123
            os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def test_an_item_whose_process_was_killed_from_outside_is_tried_again(tmp_path):
    found = map_in_order(_die_once, [str(tmp_path / "mark")] * 3, threads=2, on_crash=lambda _: "lost")
    assert list(found) == ["done"] * 3


def test_nobody_is_left_working_when_results_are_no_longer_wanted():
    before = set(multiprocessing.active_children())
    results = map_in_order(_square, range(100), threads=2, on_crash=_lost)
    assert next(results) == 0
    results.close()
    assert set(multiprocessing.active_children()) <= before


def test_no_items_need_no_processes():
    assert list(map_in_order(_square, [], threads=2, on_crash=_lost, seconds=1)) == []


def test_small_series_stay_in_this_process_and_large_ones_do_not(monkeypatch):
    def here(pixels):
        return list(parallel.map_series(_process_number, [1, 2], pixels=pixels, threads=1, on_crash=lambda _: -1))

    assert set(here(10)) == {os.getpid()}
    monkeypatch.setattr(parallel, "FEW_PIXELS", 5)
    assert os.getpid() not in here(10)


def test_a_series_that_hangs_costs_itself_only(monkeypatch):
    monkeypatch.setattr(parallel, "FEW_PIXELS", 5)
    monkeypatch.setattr(parallel, "_SERIES_SECONDS", 3.0)
    found = parallel.map_series(_hang_at_two, [1, 2, 3], pixels=10, threads=1, on_crash=lambda _: -1)
    assert list(found) == [1, -1, 3]


def _process_number(_item):
    return os.getpid()


def _hang_at_two(item):
    if item == 2:
        time.sleep(60)
    return item
