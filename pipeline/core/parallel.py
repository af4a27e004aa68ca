"""Parallel work over many items by processes, in order; a crash, a hang or a storm of memory costs one item."""

import multiprocessing
import resource
import signal
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

from pipeline.core.errors import PipelineError

T = TypeVar("T")
R = TypeVar("R")
# With fewer native pixels than this to read, starting processes (about 2 s) costs more time than it saves.
FEW_PIXELS = 100_000_000
# What decoding one series may cost, far above any real one.
_SERIES_SECONDS = 900.0
_SERIES_MEMORY_BYTES = 16 << 30
# Items ahead of the next result for each worker: enough that none waits, few enough that results do not pile up.
_UNDER_WAY = 4
_TRIES = 2  # of an item whose process dies: the system may have killed it for want of memory elsewhere
_RAISED, _RETURNED, _OUT_OF_MEMORY = range(3)


def map_in_order(
    function: Callable[[T], R],
    items: Sequence[T],
    *,
    threads: int,
    on_crash: Callable[[T], R],
    seconds: float | None = None,
    memory_bytes: int | None = None,
) -> Generator[R]:
    """Yield ``function(item)`` for each item, in the order of the items whatever `threads` is.

    Processes are started afresh (``spawn``): forked ones can hang once libraries have started threads.

    Parameters
    ----------
    function
        A function of a module, so that it can be sent to another process. What it raises is raised here.
    items
        What it is called with.
    threads
        Number of processes; with 1 and no limit, everything runs in this process and an item can take it down.
    on_crash
        Gives the result of an item whose process died twice (it is tried again, in a new process), was out of
        time, or was out of the memory it may have.
    seconds
        Longest time for one item; the process is killed then.
    memory_bytes
        Most memory that a process may allocate, its libraries included (``RLIMIT_DATA``).

    Raises
    ------
    PipelineError
        If processes cannot be started at all.
    """
    if threads < 2 and seconds is None and memory_bytes is None:
        yield from map(function, items)
        return
    pool = _Pool(function, items, on_crash, seconds, memory_bytes)
    try:
        yield from pool.results(max(1, min(threads, len(items))))
    finally:
        pool.close()


def map_series(
    function: Callable[[T], R],
    series: Sequence[T],
    *,
    pixels: int,
    threads: int,
    on_crash: Callable[[T], R],
    needs_decoder: Callable[[T], bool],
) -> Iterator[R]:
    """Read the pixels of series, one result for each, as `map_in_order` does.

    A series that takes a decoder is read in a process with limits of time and memory, always: what the decoder does
    with a hostile file costs that series and no other. Others are only cut into arrays, and if all of them together
    have fewer than `FEW_PIXELS` pixels, that is done in this process.

    Parameters
    ----------
    function, series, threads, on_crash
        As for `map_in_order`; with more than one thread, all of them decode.
    pixels
        Of all series together.
    needs_decoder
        Whether reading a series takes a decoder.
    """
    is_apart = [pixels >= FEW_PIXELS or needs_decoder(one) for one in series]
    decoded = map_in_order(
        function,
        [one for one, apart in zip(series, is_apart, strict=True) if apart],
        threads=threads,
        on_crash=on_crash,
        seconds=_SERIES_SECONDS,
        memory_bytes=_SERIES_MEMORY_BYTES,
    )
    try:
        for one, apart in zip(series, is_apart, strict=True):
            yield next(decoded) if apart else function(one)
    finally:
        decoded.close()


@dataclass(eq=False)
class _Worker:
    """A process, and what it works on: None while it starts or waits."""

    process: BaseProcess
    connection: Connection
    is_ready: bool = False
    item: int | None = None
    deadline: float | None = None


class _Pool(Generic[T, R]):
    """Workers with a pipe each, so that it is known which item a dead one had."""

    def __init__(
        self,
        function: Callable[[T], R],
        items: Sequence[T],
        on_crash: Callable[[T], R],
        seconds: float | None,
        memory_bytes: int | None,
    ) -> None:
        self._function = function
        self._items = items
        self._on_crash = on_crash
        self._seconds = seconds
        self._memory_bytes = memory_bytes
        self._workers: list[_Worker] = []
        self._finished: dict[int, R] = {}
        self._again: list[int] = []
        self._tries: dict[int, int] = {}

    def results(self, threads: int) -> Iterator[R]:
        """Yield all results in order."""
        if not self._items:
            return
        for _ in range(threads):
            self._workers.append(self._started())
        given = 0
        for wanted in range(len(self._items)):
            while wanted not in self._finished:
                for worker in self._workers:
                    if not worker.is_ready or worker.item is not None:
                        continue
                    if self._again:
                        self._give(worker, self._again.pop())
                    elif given < min(len(self._items), wanted + threads * _UNDER_WAY):
                        self._give(worker, given)
                        given += 1
                self._listen()
            yield self._finished.pop(wanted)

    def close(self) -> None:
        """End all processes, whatever they do."""
        for worker in self._workers:
            _end(worker)
        self._workers.clear()

    def _started(self) -> _Worker:
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        arguments = (there, self._function, self._memory_bytes)
        process = context.Process(target=_serve, args=arguments, daemon=True)
        try:
            process.start()
        except OSError as error:  # it died before it had read what to do
            raise _cannot_start() from error
        finally:
            there.close()
        return _Worker(process, here)

    def _give(self, worker: _Worker, number: int) -> None:
        worker.item = number
        worker.deadline = None if self._seconds is None else time.monotonic() + self._seconds
        with suppress(OSError):  # it is dead: noticed when listening
            worker.connection.send(self._items[number])

    def _listen(self) -> None:
        """Wait for a message, a death or a deadline, and take note of it."""
        now = time.monotonic()
        deadlines = [worker.deadline for worker in self._workers if worker.deadline is not None]
        patience = max(0.0, min(deadlines) - now) if deadlines else None
        speaking = wait([worker.connection for worker in self._workers], patience)
        now = time.monotonic()
        for place, worker in enumerate(self._workers):
            if worker.connection in speaking:
                self._hear(place, worker)
            elif worker.deadline is not None and worker.deadline <= now:
                self._replace(place, worker, is_final=True)

    def _hear(self, place: int, worker: _Worker) -> None:
        try:
            kind, content = worker.connection.recv()
        except (EOFError, OSError):
            self._replace(place, worker, is_final=False)
            return
        if not worker.is_ready:
            worker.is_ready = True
            return
        if kind == _OUT_OF_MEMORY:
            self._replace(place, worker, is_final=True)
            return
        number, worker.item, worker.deadline = worker.item, None, None
        if kind == _RAISED:
            raise content
        if number is not None:
            self._finished[number] = content

    def _replace(self, place: int, worker: _Worker, *, is_final: bool) -> None:
        """Start another process for one that is dead or must die, and try its item again, or give it up."""
        if not worker.is_ready:
            raise _cannot_start()
        worker.process.kill()
        self._workers[place] = self._started()
        _end(worker)
        number = worker.item
        if number is None:
            return
        self._tries[number] = self._tries.get(number, 0) + 1
        if is_final or self._tries[number] == _TRIES:
            self._finished[number] = self._on_crash(self._items[number])
        else:
            self._again.append(number)


def _cannot_start() -> PipelineError:
    what = "further processes cannot be started"
    return PipelineError(what, remedy="check the free memory, or run with one thread")


def _end(worker: _Worker) -> None:
    worker.process.kill()
    worker.process.join()
    worker.process.close()
    worker.connection.close()


def _serve(connection: Connection, function: Callable[[Any], Any], memory_bytes: int | None) -> None:
    """Work in a process of its own until the other side hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    if memory_bytes is not None:
        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, most))
    connection.send((_RETURNED, None))
    while True:
        try:
            item = connection.recv()
        except (EOFError, OSError):
            return
        try:
            answer: tuple[int, Any] = (_RETURNED, function(item))
        except MemoryError as error:
            answer = (_RAISED, error) if memory_bytes is None else (_OUT_OF_MEMORY, None)
        except Exception as error:  # noqa: BLE001  raised again where the work was asked for
            answer = (_RAISED, error)
        connection.send(answer)
