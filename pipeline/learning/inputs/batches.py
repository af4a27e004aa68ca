"""Batches: rows of stored images or volumes, or of anything computed from them, as tensors on the device."""

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

import numpy as np

from pipeline.core.seeding import derive_seed
from pipeline.learning.inputs.augmentation import NO_CHANGE, Augmentation, augment
from pipeline.learning.inputs.devices import Placement
from pipeline.learning.inputs.transfer import on_device
from pipeline.learning.volumes.roads import Road
from pipeline.learning.weights.sources import Normalisation

if TYPE_CHECKING:
    from torch import Tensor


class Inputs(Protocol):
    """What a network, or the trained upper part of one, is fed with: stored images, or a bank of activations."""

    @property
    def placement(self) -> Placement:
        """Device and precision."""

    @property
    def looks(self) -> int:
        """About how many images' work one row is: many for a volume."""

    def train(self, rows: np.ndarray, seed: int) -> "Tensor":
        """Give a random variant of each row, shape (batch, ...), on the device; equal seeds give equal tensors."""

    def plain(self, rows: np.ndarray) -> "Tensor":
        """Give the rows without random changes, shape (batch, ...), on the device."""


@runtime_checkable
class Fetched(Inputs, Protocol):
    """Inputs that are read from a disk as they are, so that a thread may read the next batch during the current one."""

    def fetch(self, rows: np.ndarray, seed: int | None, place: slice) -> "Tensor":
        """Read a part of a batch into the processor's memory; without a seed the plain rows."""

    def arrive(self, values: "Tensor") -> "Tensor":
        """Make what was read and copied to the device what the network takes."""


class Part(NamedTuple):
    """One of several nearly equal parts of a batch: what one of several devices computes."""

    number: int = 0
    of: int = 1

    def within(self, count: int) -> slice:
        """Give the place of the part in a batch of so many images.

        Examples
        --------
        >>> [Part(number, 3).within(8) for number in range(3)]
        [slice(0, 2, None), slice(2, 5, None), slice(5, 8, None)]
        """
        return slice(count * self.number // self.of, count * (self.number + 1) // self.of)


WHOLE = Part()


@dataclass(frozen=True)
class PixelSource:
    """Stored images and how they are brought to a network: the usual `Inputs`.

    Attributes
    ----------
    pixels
        Memory map of shape (images, height, width) or (volumes, slices, height, width), uint8 (0 to 255) or
        float16 (0 to 1).
    normalisation
        Mean and deviation per channel that the network was trained with.
    placement
        Device and precision.
    augmentation
        Random changes of training images. All slices of a volume are moved, and changed in contrast and brightness,
        alike; noise is drawn for each.
    resident
        All of `pixels` on the device, where it has room for them (`pipeline.learning.inputs.feeding`).
    road
        How volumes are looked at; None for images.
    """

    pixels: np.ndarray
    normalisation: Normalisation
    placement: Placement
    augmentation: Augmentation = NO_CHANGE
    resident: "Tensor | None" = None
    road: Road | None = None

    @property
    def looks(self) -> int:
        """How many slices, or groups of slices, of a volume are looked at; 1 for images."""
        return self.road.slices if self.road else 1

    def train(self, rows: np.ndarray, seed: int) -> "Tensor":
        """Read images, change each at random and prepare them."""
        return self.finish(self._stored(rows), seed)

    def plain(self, rows: np.ndarray) -> "Tensor":
        """Read images and prepare them."""
        return self.finish(self._stored(rows))

    def read(self, rows: np.ndarray) -> "Tensor":
        """Read images as they are stored, shape (batch, ..., height, width), into the processor's memory."""
        import torch

        return torch.from_numpy(np.array(self.pixels[rows]))

    def finish(self, stored: "Tensor", seed: int | None = None, *, first: int = 0, of: int | None = None) -> "Tensor":
        """Change stored images on the device at random if there is a seed, and prepare them.

        They may be a part of a batch: those from `first` on, of so many.
        """
        grey = self._as_grey(stored)
        if seed is None:
            return self.prepare(grey)
        keeps = self.normalisation.of == "volume"
        changed = augment(grey, self.augmentation, seed, first=first, of=of, keeps_background=keeps)
        return self.prepare(changed, measured=grey)

    def grey(self, rows: np.ndarray) -> "Tensor":
        """Read images as float32 in [0, 1] on the device: (batch, 1 or slices, height, width)."""
        return self._as_grey(self._stored(rows))

    def _stored(self, rows: np.ndarray) -> "Tensor":
        import torch

        if self.resident is None:
            return on_device(self.read(rows), self.placement.device)
        places = torch.from_numpy(np.asarray(rows, dtype=np.int64))
        return self.resident.index_select(0, on_device(places, self.placement.device))

    def _as_grey(self, stored: "Tensor") -> "Tensor":
        """Scale stored values to [0, 1]; of volumes only the slices that are looked at, each once."""
        import torch

        taken = stored.unsqueeze(1) if self.road is None else stored[:, self.road.read(str(stored.device))[0]]
        return taken.float() / 255 if stored.dtype == torch.uint8 else taken.float()

    def prepare(self, grey: "Tensor", *, measured: "Tensor | None" = None) -> "Tensor":
        """Arrange grey values as the network takes them, and normalise each channel as its source wants.

        Parameters
        ----------
        grey
            Values in [0, 1], changed or not.
        measured
            The same before they were changed: where every volume is normalised by its own mean and deviation, those of
            the unchanged one are taken, so that training and prediction see one scale, and a change stays a change.

        Returns
        -------
        Tensor
            Shape (batch, channels, height, width), channels-last, the grey channel repeated. Of volumes (batch, slices,
            channels, height, width): repeated, too, or of neighbouring slices; for networks that are inflated, with
            one channel, (batch, 1, slices, height, width).
        """
        import torch

        mean = _channels(self.normalisation.mean, str(grey.device))
        deviation = _channels(self.normalisation.deviation, str(grey.device))
        if self.road is None:
            return ((grey - mean) / deviation).contiguous(memory_format=torch.channels_last)
        if self.road.name == "inflation":
            volumes = (
                _standardised(grey, grey if measured is None else measured)
                if self.normalisation.of == "volume"
                else grey
            )
            return ((volumes - mean) / deviation).unsqueeze(1).contiguous(memory_format=torch.channels_last_3d)
        colours = self.road.name == "slices_as_channels"
        bags = grey[:, self.road.read(str(grey.device))[1]] if colours else grey.unsqueeze(2)
        return (bags - mean) / deviation


def _standardised(volumes: "Tensor", measured: "Tensor") -> "Tensor":
    """Scale every volume so that the measured one has mean 0 and deviation 1 over its voxels above 0.

    MedicalNet's authors did so, and put random numbers in the place of the other voxels; here these are what 0 becomes.
    """
    import torch

    picture = (measured > 0).float()
    count = picture.sum(dim=(1, 2, 3), keepdim=True).clamp_min(1)
    mean = (measured * picture).sum(dim=(1, 2, 3), keepdim=True) / count
    variance = (((measured - mean) * picture) ** 2).sum(dim=(1, 2, 3), keepdim=True) / count
    return (volumes - mean) / torch.sqrt(variance).clamp_min(1e-6)


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
