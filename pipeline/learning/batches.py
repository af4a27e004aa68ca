"""Batches: rows of the stored pixel array as normalised tensors on the device."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.core.seeding import derive_seed
from pipeline.learning.devices import Placement
from pipeline.learning.sources import Normalisation

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class PixelSource:
    """Stored images and how they are brought to a network.

    Attributes
    ----------
    pixels
        Memory map of shape (images, height, width), uint8 (0 to 255) or float16 (0 to 1).
    normalisation
        Mean and deviation per channel that the network was trained with.
    placement
        Device and precision.
    """

    pixels: np.ndarray
    normalisation: Normalisation
    placement: Placement

    def grey(self, rows: np.ndarray) -> "Tensor":
        """Read images as float32 in [0, 1] of shape (batch, 1, height, width) on the device."""
        import torch

        stored = torch.from_numpy(np.array(self.pixels[rows])).to(self.placement.device, non_blocking=True)
        values = stored.float().unsqueeze(1)
        return values / 255 if stored.dtype == torch.uint8 else values

    def prepare(self, grey: "Tensor") -> "Tensor":
        """Repeat the grey channel and normalise each as the source wants; the result is channels-last."""
        import torch

        mean = grey.new_tensor(self.normalisation.mean).view(1, -1, 1, 1)
        deviation = grey.new_tensor(self.normalisation.deviation).view(1, -1, 1, 1)
        return ((grey - mean) / deviation).contiguous(memory_format=torch.channels_last)


def shuffled_batches(rows: np.ndarray, batch_size: int, seed: int, *names: str | int) -> list[np.ndarray]:
    """Divide rows into batches of nearly equal size in a random order that depends on the names only.

    Nearly equal sizes avoid a last batch of one image, on which batch normalisation would learn nothing.
    """
    order = np.random.default_rng(derive_seed(seed, "order", *names)).permutation(rows)
    return list(np.array_split(order, max(1, round(len(order) / batch_size))))


def plain_batches(rows: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Divide rows into batches in the order given."""
    return [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
