"""Batches: rows of stored images, or of anything computed from them, as tensors on the device."""

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from pipeline.core.seeding import derive_seed
from pipeline.learning.augmentation import NO_CHANGE, Augmentation, augment
from pipeline.learning.devices import Placement
from pipeline.learning.sources import Normalisation
from pipeline.learning.transfer import on_device

if TYPE_CHECKING:
    from torch import Tensor


class Inputs(Protocol):
    """What a network, or the trained upper part of one, is fed with: stored images, or a bank of activations."""

    @property
    def placement(self) -> Placement:
        """Device and precision."""

    def train(self, rows: np.ndarray, seed: int) -> "Tensor":
        """Give a random variant of each row, shape (batch, ...), on the device; equal seeds give equal tensors."""

    def plain(self, rows: np.ndarray) -> "Tensor":
        """Give the rows without random changes, shape (batch, ...), on the device."""


@dataclass(frozen=True)
class PixelSource:
    """Stored images and how they are brought to a network: the usual `Inputs`.

    Attributes
    ----------
    pixels
        Memory map of shape (images, height, width), uint8 (0 to 255) or float16 (0 to 1).
    normalisation
        Mean and deviation per channel that the network was trained with.
    placement
        Device and precision.
    augmentation
        Random changes of training images.
    """

    pixels: np.ndarray
    normalisation: Normalisation
    placement: Placement
    augmentation: Augmentation = NO_CHANGE

    def train(self, rows: np.ndarray, seed: int) -> "Tensor":
        """Read images, change each at random and normalise them: shape (batch, channels, height, width)."""
        return self.prepare(augment(self.grey(rows), self.augmentation, seed))

    def plain(self, rows: np.ndarray) -> "Tensor":
        """Read images and normalise them: shape (batch, channels, height, width)."""
        return self.prepare(self.grey(rows))

    def grey(self, rows: np.ndarray) -> "Tensor":
        """Read images as float32 in [0, 1] of shape (batch, 1, height, width) on the device."""
        import torch

        stored = on_device(torch.from_numpy(np.array(self.pixels[rows])), self.placement.device)
        values = stored.float().unsqueeze(1)
        return values / 255 if stored.dtype == torch.uint8 else values

    def prepare(self, grey: "Tensor") -> "Tensor":
        """Repeat the grey channel and normalise each as the source wants; the result is channels-last."""
        import torch

        mean = _channels(self.normalisation.mean, str(grey.device))
        deviation = _channels(self.normalisation.deviation, str(grey.device))
        return ((grey - mean) / deviation).contiguous(memory_format=torch.channels_last)


@functools.cache
def _channels(values: tuple[float, ...], device: str) -> "Tensor":
    """Constants per channel on a device, shape (1, channels, 1, 1); made once, as making them waits for a GPU."""
    import torch

    with torch.inference_mode(mode=False):  # a tensor born in inference mode could not be used in training
        return torch.tensor(values, dtype=torch.float32, device=device).view(1, -1, 1, 1)


def shuffled_batches(rows: np.ndarray, batch_size: int, seed: int, *names: str | int) -> list[np.ndarray]:
    """Divide rows into batches of nearly equal size in a random order that depends on the names only.

    No batch holds one image only, unless there is but one: batch normalisation would learn nothing from it.
    """
    order = np.random.default_rng(derive_seed(seed, "order", *names)).permutation(rows)
    most = max(1, len(order) // 2)
    return list(np.array_split(order, min(most, max(1, round(len(order) / batch_size)))))


def plain_batches(rows: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Divide rows into batches in the order given."""
    return [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
