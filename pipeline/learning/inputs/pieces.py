"""Pieces: what does not fit into memory at once is computed in smaller pieces, where nothing is learned from it."""

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakKeyDictionary

from pipeline.core.errors import TrainingError
from pipeline.core.progress import say

if TYPE_CHECKING:
    from torch import nn

T = TypeVar("T")


class Pieces:
    """How many images of a network fit at a time; learned once, from the first batch that does not.

    Images do not meet in a network in evaluation mode, so that pieces change results by rounding only.
    """

    def __init__(self) -> None:
        self._most: int | None = None

    def over(self, count: int, compute: Callable[[slice], T]) -> list[T]:
        """Compute a batch of `count` images, piece by piece.

        Parameters
        ----------
        compute
            Computes the images of a part of the batch.

        Returns
        -------
        list
            What each piece gave, in order.

        Raises
        ------
        TrainingError
            If not even one image fits.
        """
        found: list[T] = []
        start = 0
        while start < count:
            part = slice(start, min(count, start + (self._most or count)))
            try:
                found.append(compute(part))
                start = part.stop
                continue
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            # Beyond the except clause, because the exception holds the tensors of the failed pass.
            self._halve(part.stop - part.start)
        return found

    def _halve(self, images: int) -> None:
        empty_cache()
        if images == 1:
            what = "out of memory with one image at a time, though nothing is trained"
            remedy = "choose a smaller preprocess.size or train.backbone, or end what else uses the memory"
            raise TrainingError(what, where="train.device", remedy=remedy)
        if self._most is None:
            say(f"out of memory with {images} images at a time: what is only looked at goes on in smaller pieces")
        self._most = images // 2


_PIECES: "WeakKeyDictionary[nn.Module, Pieces]" = WeakKeyDictionary()


def pieces_of(network: "nn.Module") -> Pieces:
    """Give what was learned about a network, for as long as it lives."""
    return _PIECES.setdefault(network, Pieces())


def is_out_of_memory(error: RuntimeError) -> bool:
    """Tell a lack of memory from other faults; the processor's allocator has no exception of its own."""
    import torch

    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def empty_cache() -> None:
    """Give back what the allocator of a GPU keeps for later; without a GPU nothing is kept."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
