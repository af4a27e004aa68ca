"""Rendered inputs: pictures that no file holds, drawn when a batch asks for them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pipeline.learning.inputs.batches import PixelSource
from pipeline.learning.inputs.devices import Placement
from pipeline.learning.inputs.transfer import on_device
from pipeline.learning.weights.sources import Normalisation

if TYPE_CHECKING:
    from torch import Tensor

Picture = npt.NDArray[np.uint8]
_NOTHING: Picture = np.empty((0, 0, 0), np.uint8)
PLAIN = 0  # the variant that validation looks at


@dataclass(frozen=True)
class RenderedSource:
    """An endless source of pictures as `pipeline.learning.inputs.batches.Inputs`.

    Attributes
    ----------
    draw
        Gives a picture, shape (height, width), values 0 to 255, by its row and a variant; equal arguments give equal
        pictures. Training takes the seed of the batch as variant, so that no picture is seen twice.
    normalisation
        Mean and deviation per channel that the network will expect from now on.
    placement
        Device and precision.
    """

    draw: Callable[[int, int], Picture]
    normalisation: Normalisation
    placement: Placement
    _plain: dict[int, Picture] = field(default_factory=dict, repr=False, compare=False)

    @property
    def looks(self) -> int:
        """A row is one image."""
        return 1

    def train(self, rows: np.ndarray, seed: int) -> "Tensor":
        """Draw a new variant of each row."""
        return self._whole(rows, seed)

    def plain(self, rows: np.ndarray) -> "Tensor":
        """Give the rows' first variants, which are drawn once and kept."""
        return self._whole(rows, None)

    def fetch(self, rows: np.ndarray, seed: int | None, place: slice) -> "Tensor":
        """Draw a part of a batch, shape (rows, height, width), into the processor's memory."""
        import torch

        return torch.from_numpy(np.stack([self._picture(int(row), seed) for row in rows[place]]))

    def arrive(self, values: "Tensor") -> "Tensor":
        """Scale and normalise pictures that are on the device."""
        return PixelSource(_NOTHING, self.normalisation, self.placement).finish(values)

    def _whole(self, rows: np.ndarray, seed: int | None) -> "Tensor":
        return self.arrive(on_device(self.fetch(rows, seed, slice(None)), self.placement.device))

    def _picture(self, row: int, variant: int | None) -> Picture:
        if variant is not None:
            return self.draw(row, variant)
        if row not in self._plain:
            self._plain[row] = self.draw(row, PLAIN)
        return self._plain[row]
