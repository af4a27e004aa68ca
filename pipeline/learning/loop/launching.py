"""Launching: the other processes of a team, from their start to their end, whatever happens to one of them."""

import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from mmap import mmap
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np

from pipeline.core.errors import PipelineError, TrainingError
from pipeline.core.progress import say
from pipeline.learning.loop.team import ALONE, Team, TeamError

SECONDS_TO_START = 600.0  # importing PyTorch from a busy shared file system takes minutes
SECONDS_WITHOUT_ANSWER = 600.0  # between two exchanges lie one step, or the judgement of an epoch
# A process that is gone ends the others by itself on the processor. A GPU may wait for it for ever.
SECONDS_TO_END = 30.0
_HOST = "127.0.0.1"
_EXIT_USER_ERROR = 2
_READY = "ready"
_AGAIN = "run the same command again: it goes on from the last saved state"


@dataclass
class _Follower:
    """A process of the team, the line on which it says that it is ready or what went wrong, and what it said."""

    number: int
    process: SpawnProcess
    line: Connection
    is_ready: bool = False
    failure: tuple[str, str, str] | None = None

    def listen(self) -> None:
        """Take note of what was said."""
        with suppress(EOFError, OSError):
            while self.line.poll():
                said = self.line.recv()
                self.is_ready = self.is_ready or said == _READY
                self.failure = said if isinstance(said, tuple) else self.failure

    def error(self) -> TrainingError | None:
        """Say in words why it ended; None if it did not, or ended well."""
        self.listen()
        name = f"process {self.number + 1} of the training"
        if self.failure is not None:
            what, where, remedy = self.failure
            return TrainingError(f"{name}: {what}", where=where, remedy=remedy)
        code = self.process.exitcode
        if not code:
            return None
        how = signal.Signals(-code).name if code < 0 else f"status {code}"
        return TrainingError(f"{name} ended ({how})", where="train.devices", remedy=_AGAIN)


@contextmanager
def together(size: int, device: str, follow: Callable[..., None], *arguments: Any) -> Iterator[Team]:
    """Start the other processes of a team, and end them when this one is done with the block or fails in it.

    Parameters
    ----------
    size
        How many processes there are with this one; with one, none is started.
    device
        ``cpu``, or ``cuda``: each process then has the GPU of its number.
    follow
        What the others do, a function of a module that takes its `Team` and `arguments`. It makes the same exchanges
        with the team as the block does.
    arguments
        Sent to the others; memory maps are opened there again.

    Raises
    ------
    TrainingError
        If there are too few GPUs, a process cannot start, or one fails or dies: what it said, or its signal.
    """
    if size == 1:
        yield ALONE
        return
    _require_devices(size, device)
    # The processes are on one machine; a name of the host that leads nowhere must not matter.
    if sys.platform == "linux":
        for library in ("GLOO", "NCCL"):
            os.environ.setdefault(f"{library}_SOCKET_IFNAME", "lo")
    store = _open_store()
    context = multiprocessing.get_context("spawn")
    followers, is_over = [], threading.Event()
    try:
        for number in range(1, size):
            here, there = context.Pipe(duplex=False)
            process = context.Process(
                target=_serve, args=(there, number, size, store.port, device, follow, arguments), daemon=True
            )
            process.start()
            there.close()
            followers.append(_Follower(number, process, here))
        _await(followers)
        threading.Thread(target=_watch, args=(followers, is_over), daemon=True).start()
        _join(store, 0, size, device)
        yield Team(0, size)
        is_over.set()
        for one in followers:
            one.process.join(SECONDS_TO_END)
    except TeamError as error:
        raise _cause(followers, error) from error
    finally:
        is_over.set()
        for one in followers:
            one.process.kill()
            one.process.join()
            one.line.close()
        _leave()


def _require_devices(size: int, device: str) -> None:
    if device != "cuda":
        return
    import torch

    there = torch.cuda.device_count()
    if there < size:
        what = f"{size} GPUs are asked for, and PyTorch sees {there}"
        remedy = "set train.devices lower, or ask the scheduler for more: --set-resources train:gpu=N"
        raise TrainingError(what, where="train.devices", remedy=remedy)


def _open_store() -> Any:
    """Listen for the others on this machine only; left to itself, a `TCPStore` listens on all of its networks."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    with socket.socket() as listening:
        listening.bind((_HOST, 0))
        listening.listen()
        port = listening.getsockname()[1]
        # The store closes what it is given.
        return TCPStore(
            _HOST, port, is_master=True, wait_for_workers=False, master_listen_fd=os.dup(listening.fileno())
        )


def _join(store: Any, number: int, size: int, device: str) -> None:
    import torch
    import torch.distributed as dist

    if device == "cuda":
        torch.cuda.set_device(number)
    # What lies in the processor's memory is exchanged by Gloo in any case: no GPU is waited for.
    backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    patience = timedelta(seconds=SECONDS_WITHOUT_ANSWER)
    dist.init_process_group(backend, store=store, rank=number, world_size=size, timeout=patience)


def _leave() -> None:
    import torch.distributed as dist

    if dist.is_initialized():
        with suppress(RuntimeError):  # the others may be gone
            dist.destroy_process_group()


def _await(followers: list[_Follower]) -> None:
    """Wait until all are ready.

    Raises
    ------
    TrainingError
        If one ends before, or is not ready in time.
    """
    deadline = time.monotonic() + SECONDS_TO_START
    for one in followers:
        wait([one.line, one.process.sentinel], max(0.0, deadline - time.monotonic()))
        one.listen()
        if not one.is_ready:
            raise _cause(followers, TeamError("a process of the training does not start", where="train.devices"))


def _cause(followers: list[_Follower], error: TrainingError) -> TrainingError:
    """Find out which process ended first and why; without one it is the error itself."""
    wait([one.process.sentinel for one in followers], timeout=5.0)
    time.sleep(0.2)  # who failed first may still be writing
    found = [one.error() for one in followers]
    told = [other for other, one in zip(found, followers, strict=True) if one.failure is not None]
    return next((other for other in (*told, *found) if other is not None), error)


def _watch(followers: list[_Follower], is_over: threading.Event) -> None:
    """End this process if another one failed and this one waits for it for ever, as one with a GPU may."""
    watched = list(followers)
    while watched and not is_over.is_set():
        for sentinel in wait([one.process.sentinel for one in watched], timeout=1.0):
            gone = next(one for one in watched if one.process.sentinel == sentinel)
            watched.remove(gone)
            gone.process.join()
            error = gone.error()
            if error is not None and not is_over.wait(SECONDS_TO_END):
                say(f"error in train: {error}")
                for one in followers:
                    one.process.kill()
                os._exit(_EXIT_USER_ERROR)


def _serve(
    line: Connection,
    number: int,
    size: int,
    port: int,
    device: str,
    follow: Callable[..., None],
    arguments: tuple[Any, ...],
) -> None:
    """Be a process of the team: signals are for the first one, which also saves; its end is the end of this one."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    try:
        store = TCPStore(_HOST, port, is_master=False)
        line.send(_READY)
        _join(store, number, size, device)
        follow(Team(number, size), *arguments)
    except TeamError:
        sys.exit(1)  # who is gone is known to the first process
    except PipelineError as error:
        line.send((error.what, error.where, error.remedy))
        sys.exit(_EXIT_USER_ERROR)
    except Exception as error:
        line.send((f"{type(error).__name__}: {error}", "train.devices", "please report the lines above: this is a bug"))
        raise
    finally:
        _leave()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _reduce_map(values: np.memmap) -> Any:
    """Send the place of a whole memory map to another process, and the values of any other."""
    base: object = values.base
    if isinstance(base, mmap) and values.flags.c_contiguous:
        return _open_map, (str(values.filename), values.dtype.str, values.offset, values.shape)
    return np.array(values).__reduce__()


def _open_map(path: str, kind: str, offset: int, shape: tuple[int, ...]) -> np.memmap:
    return np.memmap(path, kind, "r", offset, shape)


ForkingPickler.register(np.memmap, _reduce_map)
