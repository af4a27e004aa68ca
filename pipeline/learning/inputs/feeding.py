"""Feeding: batch after batch on the device, the next one on its way while the current one is computed.

Where a GPU has room, all stored images lie on it. Otherwise, and for maps of a bank, a thread reads the next batches
into page-locked memory and copies them beside the computation. Neither changes a bit of what the network sees.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pipeline.core.progress import say
from pipeline.learning.inputs.batches import WHOLE, Fetched, Inputs, Part, PixelSource
from pipeline.learning.inputs.rendered import RenderedSource
from pipeline.learning.inputs.transfer import on_device

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# The rest is for weights, activations and the caches of the libraries; other jobs may share the GPU.
RESIDENT_SHARE = 0.3
GIB = 1024**3
_CHUNK_BYTES = 256 * 1024**2
_AHEAD = 2  # one batch is copied while another is read


def settle(source: PixelSource) -> PixelSource:
    """Bring all stored images to a GPU if they take no more than `RESIDENT_SHARE` of what is free there; say so."""
    if source.placement.device != "cuda" or source.resident is not None:
        return source
    import torch

    free, size = torch.cuda.mem_get_info()[0], source.pixels.nbytes
    share = f"{RESIDENT_SHARE:.0%} of the {free / GIB:.1f} GiB that the GPU has free"
    if size > RESIDENT_SHARE * free:
        say(f"train: {size / GIB:.2f} GiB of images are more than {share}: batches are read ahead")
        return source
    say(f"train: {size / GIB:.2f} GiB of images are brought to the GPU, at most {share}")
    return replace(source, resident=brought(source.pixels, source.placement.device))


def brought(pixels: np.ndarray, device: str, chunk_bytes: int = _CHUNK_BYTES) -> "Tensor":
    """Copy stored images of shape (images, height, width) to a device, a chunk at a time."""
    import torch

    kind = torch.from_numpy(np.empty(0, pixels.dtype)).dtype
    there = torch.empty(pixels.shape, dtype=kind, device=device)
    step = max(1, chunk_bytes // max(1, pixels[:1].nbytes))
    for first in range(0, len(pixels), step):
        part = torch.from_numpy(np.array(pixels[first : first + step]))
        there[first : first + step].copy_(on_device(part, device))
    return there


def feed(
    inputs: Inputs,
    batches: Sequence[np.ndarray],
    seeds: Sequence[int] | None = None,
    part: Part = WHOLE,
    *,
    is_ahead: bool | None = None,
) -> "Iterator[Tensor]":
    """Give the inputs of one batch after the other, on the device.

    Parameters
    ----------
    inputs
        What the network takes.
    batches
        Rows of each batch.
    seeds
        Of each batch's random changes; None: plain inputs.
    part
        Which part of each batch is wanted. Its inputs are those that the whole batch would hold.
    is_ahead
        Whether a thread reads the next batches; None: for a GPU.

    Yields
    ------
    Tensor
        Shape (images of the part, ...).
    """
    places = [part.within(len(rows)) for rows in batches]
    if isinstance(inputs, Fetched):
        device = inputs.placement.device

        def fetch(index: int) -> "Tensor":
            return inputs.fetch(batches[index], None if seeds is None else seeds[index], places[index])

        # Drawing keeps one core busy, whatever the device: a thread draws beside the computation.
        ahead = True if isinstance(inputs, RenderedSource) else is_ahead
        yield from map(inputs.arrive, _brought_one_by_one(fetch, len(batches), device, is_ahead=ahead))
        return
    if not isinstance(inputs, PixelSource):
        for index, rows in enumerate(batches):
            whole = inputs.plain(rows) if seeds is None else inputs.train(rows, seeds[index])
            yield whole if part.of == 1 else whole[places[index]]
        return
    wanted = [rows[place] for rows, place in zip(batches, places, strict=True)]
    for index, stored in enumerate(_stored(inputs, wanted, is_ahead=is_ahead)):
        if seeds is None:
            yield inputs.finish(stored)
        else:
            yield inputs.finish(stored, seeds[index], first=places[index].start, of=len(batches[index]))


def _stored(source: PixelSource, wanted: list[np.ndarray], *, is_ahead: bool | None) -> "Iterator[Tensor]":
    """Give the stored values of each batch on the device, by the shortest way there is."""
    import torch

    device = source.placement.device
    if source.resident is not None:
        # The rows of all batches go to the device at once.
        rows = on_device(torch.from_numpy(np.concatenate([*wanted, np.empty(0, np.int64)]).astype(np.int64)), device)
        for one in torch.split(rows, [len(batch) for batch in wanted]):
            yield source.resident.index_select(0, one)
    else:
        yield from _brought_one_by_one(lambda index: source.read(wanted[index]), len(wanted), device, is_ahead=is_ahead)


def _brought_one_by_one(
    read: "Callable[[int], Tensor]", count: int, device: str, *, is_ahead: bool | None
) -> "Iterator[Tensor]":
    """Give tensors on the device in their order; a thread reads the next ones if asked to, or for a GPU."""
    if device == "cuda" if is_ahead is None else is_ahead:
        yield from read_ahead(read, count, device)
    else:
        for index in range(count):
            yield on_device(read(index), device)


class _Arrival(NamedTuple):
    """A tensor on its way to a device, and what tells that it is there."""

    values: "Tensor"
    is_there: "torch.cuda.Event | None"


def read_ahead(read: "Callable[[int], Tensor]", count: int, device: str, depth: int = _AHEAD) -> "Iterator[Tensor]":
    """Read tensors in a thread and copy them to a device beside its computation, in their order.

    Parameters
    ----------
    read
        Gives a tensor in the processor's memory, by its number from 0; called in another thread, one at a time.
    count
        How many there are.
    device
        Where they are to go.
    depth
        How many are under way at most.

    Yields
    ------
    Tensor
        On the device; what `read` raises is raised here.
    """
    import torch

    side = torch.cuda.Stream() if device == "cuda" else None  # type: ignore[no-untyped-call]

    def bring(index: int) -> _Arrival:
        values = read(index)
        if side is None:
            return _Arrival(values.to(device), None)
        with torch.cuda.stream(side):  # of this thread, whose device would be the first otherwise
            return _Arrival(on_device(values, device), side.record_event())

    pool = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
    try:
        under_way = deque(pool.submit(bring, index) for index in range(min(depth, count)))
        for index in range(count):
            values, is_there = under_way.popleft().result()
            if index + depth < count:
                under_way.append(pool.submit(bring, index + depth))
            if is_there is not None:
                stream = torch.cuda.current_stream()
                stream.wait_event(is_there)
                values.record_stream(stream)  # its memory is not given to the side stream again before it was used
            yield values
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
