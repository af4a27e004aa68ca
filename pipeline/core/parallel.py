"""Parallel work over many items by processes, in order, surviving the death of a worker."""

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from pipeline.core.errors import PipelineError

T = TypeVar("T")
R = TypeVar("R")
# With fewer pixels than this to decode, starting processes (about 2 s) costs more time than it saves.
FEW_PIXELS = 100_000_000
# Items under way for each worker: enough that none waits, few enough that finished results do not pile up.
_UNDER_WAY = 4


def map_in_order(
    function: Callable[[T], R],
    items: Sequence[T],
    *,
    threads: int,
    on_crash: Callable[[T], R],
) -> Iterator[R]:
    """Yield ``function(item)`` for each item, in the order of the items whatever `threads` is.

    Processes are started afresh (``spawn``): forked ones can hang once libraries have started threads.

    Parameters
    ----------
    function
        A function of a module, so that it can be sent to another process. What it raises is raised here.
    items
        What it is called with.
    threads
        Number of processes; with 1, everything runs in this process and an item can take it down.
    on_crash
        Gives the result of an item whose process was killed, by the system for want of memory, say. Such an
        item has been tried a second time with a process of its own.

    Raises
    ------
    PipelineError
        If processes cannot be started at all.
    """
    if threads < 2:
        yield from map(function, items)
        return
    done = 0
    while done < len(items):
        for result in _until_crash(function, items[done:], threads):
            yield result
            done += 1
        for item in items[done : done + threads * _UNDER_WAY]:
            yield _alone(function, item, on_crash)
            done += 1


def _until_crash(function: Callable[[T], R], items: Sequence[T], threads: int) -> Iterator[R]:
    """Yield results in order until all are done or a worker dies."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(threads, mp_context=context) as pool:
        waiting: deque[Future[R]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) == threads * _UNDER_WAY:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            return
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _alone(function: Callable[[T], R], item: T, on_crash: Callable[[T], R]) -> R:
    """Do one item in a process of its own, which has shown first that processes can be started at all."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            pool.submit(os.getpid).result()
        except BrokenProcessPool as error:
            what = "further processes cannot be started"
            raise PipelineError(what, remedy="check the free memory, or run with one thread") from error
        try:
            return pool.submit(function, item).result()
        except BrokenProcessPool:
            return on_crash(item)
