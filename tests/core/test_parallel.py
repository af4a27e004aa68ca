import multiprocessing
import os
import signal
import time
from functools import partial

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


def _map(function, series, *, pixels=10, threads=1, needs_decoder=lambda _: False):
    lost = partial(parallel.map_series, on_crash=lambda _: -1)
    return list(lost(function, series, pixels=pixels, threads=threads, needs_decoder=needs_decoder))


def test_small_series_stay_in_this_process_and_large_ones_do_not(monkeypatch):
    assert set(_map(_process_number, [1, 2])) == {os.getpid()}
    monkeypatch.setattr(parallel, "FEW_PIXELS", 5)
    assert os.getpid() not in _map(_process_number, [1, 2])


@pytest.mark.parametrize("threads", [1, 2])
def test_what_takes_a_decoder_never_runs_in_this_process(threads):
    found = _map(_process_number, range(6), threads=threads, needs_decoder=lambda item: item % 3 == 1)
    assert [process == os.getpid() for process in found] == [True, False, True, True, False, True]
    assert len({found[1], found[4]}) <= threads


def test_a_series_that_hangs_costs_itself_only(monkeypatch):
    monkeypatch.setattr(parallel, "_SERIES_SECONDS", 3.0)
    assert _map(_hang_at_two, [1, 2, 3, 4], needs_decoder=lambda item: item != 3) == [1, -1, 3, 4]


@pytest.mark.parametrize("end", [os.abort, partial(os._exit, 3)])
def test_a_decoder_that_dies_costs_its_series_only(end):
    assert _map(partial(_end_at_two, end), [1, 2, 3], needs_decoder=lambda _: True) == [1, -1, 3]


def test_nobody_is_left_decoding_when_the_rest_is_no_longer_wanted():
    before = set(multiprocessing.active_children())
    results = parallel.map_series(
        _square, range(50), pixels=1, threads=2, on_crash=_lost, needs_decoder=lambda item: item > 0
    )
    assert [next(results), next(results)] == [0, 1]
    results.close()
    assert set(multiprocessing.active_children()) <= before


def _end_at_two(end, item):
    if item == 2:
        end()
    return item


def _process_number(_item):
    return os.getpid()


def _hang_at_two(item):
    if item == 2:
        time.sleep(60)
    return item
