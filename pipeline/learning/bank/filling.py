"""The bank: what frozen blocks make of every image, computed once for all folds, epochs and strategies (decision 0021).

One pass over the plain images gives the pooled features after every block and, where a strategy trains the last
blocks, the maps at its freeze boundary; one more pass for each view gives the maps of that augmented version.
"""

import functools
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.core.errors import TrainingError
from pipeline.core.progress import say
from pipeline.core.provenance import numerical, versions
from pipeline.core.seeding import derive_seed
from pipeline.learning.bank.files import (
    BankManifest,
    Forecast,
    Shard,
    find_shard,
    open_maps,
    read_features,
    require_room,
    write_shard,
)
from pipeline.learning.inputs.batches import PixelSource, plain_batches
from pipeline.learning.inputs.devices import Placement, device_name
from pipeline.learning.inputs.pieces import pieces_of
from pipeline.learning.inputs.transfer import network_on_device, on_device
from pipeline.learning.networks.blocks import feature_blocks, features_after_blocks, lower
from pipeline.learning.weights.loading import VerifiedWeights

if TYPE_CHECKING:
    from torch import Tensor, nn

LARGEST_FLOAT16 = 65504.0
BATCH = 32  # images or slices; fixed, so that values do not depend on the training batch
# A killed job loses at most one shard. Large enough that a file's overhead is nothing.
SHARD_BYTES = 256_000_000
MOST_IMAGES_IN_SHARD = 1024


@dataclass(frozen=True, kw_only=True)
class BankOrder:
    """What a bank is made of.

    Attributes
    ----------
    network
        With the source's weights; its head is not used.
    source
        The stored images, and how they are normalised, augmented and placed.
    weights
        What the network was made from.
    pixels_sha256
        Digest of the stored images.
    boundary
        The first block that will be trained; None: no maps, pooled features only.
    views
        Augmented versions of each image, besides the plain one; without maps there are none.
    seed
        Of the study: view v of image i looks the same wherever and whenever it is made.
    code
        Fingerprint of the code.
    """

    network: "nn.Module"
    backbone: str
    source: PixelSource
    weights: VerifiedWeights
    pixels_sha256: str
    boundary: str | None
    views: int
    seed: int
    code: str

    @property
    def stored_views(self) -> int:
        """Views of which maps are stored."""
        return self.views if self.boundary else 0

    def key(self) -> str:
        """Digest everything that the values depend on: weights, preprocessing, boundary, views, code, precision."""
        facts = {
            "backbone": self.backbone,
            "weights": self.weights.identity,
            "pixels": self.pixels_sha256,
            "boundary": self.boundary,
            "views": self.stored_views,
            "setting": setting_of(self.source, self.seed, self.stored_views),
            "software": numerical(versions()),
            "device": device_name(self.source.placement),  # shards of unlike machines are not mixed
            "code": self.code,
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def place(self, folder: Path) -> Path:
        """Give this bank's own folder below that of all banks of a study."""
        return folder / self.key()[:16]


def setting_of(source: PixelSource, seed: int, views: int) -> str:
    """Write down how images are prepared for a bank; a study whose own setting reads otherwise cannot use it."""
    facts = {
        "normalisation": source.normalisation,
        "road": asdict(source.road) if source.road else None,
        "augmentation": asdict(source.augmentation) if views else None,
        "seed": seed if views else None,
        "device": source.placement.device,
        "precision": source.placement.precision,
    }
    return json.dumps(facts, sort_keys=True)


def fill_bank(order: BankOrder, folder: Path, *, shard_images: int | None = None) -> BankManifest:
    """Compute what is missing of a bank and list all of it.

    Parameters
    ----------
    order
        What the bank is made of.
    folder
        Of all banks of a study; this one's is named after its key.
    shard_images
        Images in a shard; None: as many as `SHARD_BYTES` hold.

    Raises
    ------
    TrainingError
        If the disk cannot hold it, or activations exceed the range of float16.
    """
    key = order.key()
    place = order.place(folder)
    place.mkdir(parents=True, exist_ok=True)
    images = len(order.source.pixels)
    network_on_device(order.network, order.source.placement.device)
    with _evaluating(order.network):
        shape, widths, forecast = _measure(order)
        per_image = (forecast.views + 1) * forecast.map_bytes + forecast.feature_bytes
        step = shard_images or max(1, min(MOST_IMAGES_IN_SHARD, SHARD_BYTES // per_image))
        starts = range(0, images, step)
        found = {first: find_shard(place, key, first, min(step, images - first)) for first in starts}
        present = sum(shard.maps_bytes + shard.features_bytes for shard in found.values() if shard)
        say(f"bank: {forecast.in_words()}; {sum(map(bool, found.values()))} of {len(found)} shards are there")
        require_room(place, forecast, present)
        shards: list[Shard] = []
        for first in starts:
            rows = np.arange(first, min(first + step, images))
            shard = found[first]
            if shard is None:
                maps, features = _compute(order, rows, shape)
                shard = write_shard(place, key, first, maps, features)
                say(f"bank: {rows[-1] + 1} of {images} images")
            shards.append(shard)
    return BankManifest(
        key=key,
        folder=str(place),
        backbone=order.backbone,
        weights_source=order.weights.source,
        weights_sha256=order.weights.identity,
        pixels_sha256=order.pixels_sha256,
        software=numerical(versions()),
        code=order.code,
        setting=setting_of(order.source, order.seed, order.stored_views),
        boundary=order.boundary or "",
        views=order.stored_views,
        map_shape=shape,
        blocks=feature_blocks(order.backbone),
        widths=widths,
        images=images,
        looks=order.source.looks,
        bytes=sum(shard.maps_bytes + shard.features_bytes for shard in shards),
        shards=tuple(shards),
    )


def features_of_blocks(manifest: BankManifest) -> dict[str, np.ndarray]:
    """Read the pooled features of all plain images: for each block float32 of shape (images, features)."""
    ends = np.cumsum(manifest.widths)[:-1]
    parts = np.split(read_features(manifest), ends, axis=1)
    return dict(zip(manifest.blocks, parts, strict=True))


def choose_views(rows: np.ndarray, views: int, seed: int) -> np.ndarray:
    """Choose a version for each row, shape (rows,): 1 to `views`, or 0, the plain one, if there are no views."""
    if not views:
        return np.zeros(len(rows), dtype=np.int64)
    return np.random.default_rng(seed).integers(1, views + 1, size=len(rows))


def view_of(source: PixelSource, row: int, view: int, seed: int) -> "Tensor":
    """Give version `view` of one image or volume as a batch of one; 0 is the plain one.

    It depends on the image's row and the view alone, so that a bank and a run without one see the same picture.
    """
    one = np.array([row])
    return source.train(one, derive_seed(seed, "view", view, row)) if view else source.plain(one)


class BankInputs:
    """Maps read from a bank: the `Inputs` of the upper part of a network.

    Maps are stored in float16 (11 significant bits): logits of the upper part differ from those without a bank by
    less than `TOLERANCE` of their spread.

    Parameters
    ----------
    manifest
        Of a bank with maps.
    placement
        Device and precision of the training.

    Raises
    ------
    ArtefactError
        If a shard is missing, truncated or damaged.
    """

    TOLERANCE = 5e-3

    def __init__(self, manifest: BankManifest, placement: Placement) -> None:
        if not manifest.map_shape:
            what = "the bank holds pooled features and no maps"
            raise TrainingError(what, remedy="run the rule bank for a strategy that trains blocks")
        self.placement = placement
        self.looks = manifest.looks
        self.views = manifest.views
        self._shards = open_maps(manifest)
        self._starts = np.array([shard.first for shard in manifest.shards])

    def train(self, rows: np.ndarray, seed: int) -> "Tensor":
        """Read one of the stored views of each row, chosen by the seed: (batch, *map shape), float32."""
        return self.arrive(on_device(self.fetch(rows, seed, slice(None)), self.placement.device))

    def plain(self, rows: np.ndarray) -> "Tensor":
        """Read the plain version of each row: (batch, *map shape), float32."""
        return self.arrive(on_device(self.fetch(rows, None, slice(None)), self.placement.device))

    def fetch(self, rows: np.ndarray, seed: int | None, place: slice) -> "Tensor":
        """Read a part of a batch as it is stored: (part, *map shape), float16."""
        import torch

        versions = np.zeros(len(rows), dtype=np.int64) if seed is None else choose_views(rows, self.views, seed)
        rows, versions = rows[place], versions[place]
        shards = np.searchsorted(self._starts, rows, side="right") - 1
        stored = np.stack(
            [
                self._shards[shard][row - self._starts[shard], version]
                for shard, row, version in zip(shards, rows, versions, strict=True)
            ]
        )
        return torch.from_numpy(stored)

    def arrive(self, values: "Tensor") -> "Tensor":
        """Widen what was read: (part, *map shape), float32."""
        return in_order(values.float())


class LowerInputs:
    """The same maps computed afresh at every call: what a bank is held against in tests.

    Strategies do not use it. Without a bank they train the whole network, on images changed anew in every epoch.

    Parameters
    ----------
    network
        Whole, on the source's device.
    source
        The stored images.
    boundary, views, seed
        As of the bank.
    """

    def __init__(
        self, network: "nn.Module", backbone: str, source: PixelSource, *, boundary: str, views: int, seed: int
    ) -> None:
        self.placement = source.placement
        self.looks = source.looks
        self.views = views
        self._lower = lower(network, backbone, boundary)
        self._source = source
        self._seed = seed

    def train(self, rows: np.ndarray, seed: int) -> "Tensor":
        """Compute the maps of one of the views of each row, chosen by the seed."""
        return self._compute(rows, choose_views(rows, self.views, seed))

    def plain(self, rows: np.ndarray) -> "Tensor":
        """Compute the maps of the plain version of each row."""
        return self._compute(rows, np.zeros(len(rows), dtype=np.int64))

    def _compute(self, rows: np.ndarray, versions: np.ndarray) -> "Tensor":
        import torch

        pictures = [
            view_of(self._source, row, view, self._seed)
            for row, view in zip(rows.tolist(), versions.tolist(), strict=True)
        ]
        with torch.no_grad(), _evaluating(self._lower), self.placement.autocast():
            maps: Tensor = self._lower(torch.cat(pictures))
        return in_order(maps.float())


def in_order(maps: "Tensor") -> "Tensor":
    """Put maps of images into channels-last order; parts of networks for volumes see to their own."""
    import torch

    return maps.contiguous(memory_format=torch.channels_last) if maps.ndim == 4 else maps


@contextmanager
def _evaluating(network: "nn.Module") -> Iterator[None]:
    """Hold a network in evaluation mode and give each module its own mode back."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _measure(order: BankOrder) -> tuple[tuple[int, ...], tuple[int, ...], Forecast]:
    """Run one image: the shape of its maps, the widths of its features, and with them the forecast."""
    import torch

    images = order.source.plain(np.zeros(1, dtype=np.int64))
    shape: tuple[int, ...] = ()
    with torch.inference_mode(), order.source.placement.autocast():
        found, maps = features_after_blocks(order.network, order.backbone, images, keep=order.boundary)
        if maps is not None:
            shape = tuple(maps.shape[1:])
    widths = tuple(one.shape[1] for one in found)
    forecast = Forecast(
        images=len(order.source.pixels),
        views=order.stored_views,
        boundary=order.boundary or "",
        map_bytes=2 * int(np.prod(shape)) if shape else 0,
        feature_bytes=4 * sum(widths),
    )
    return shape, widths, forecast


def _compute(order: BankOrder, rows: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray | None, np.ndarray]:
    """Compute the maps of all versions, float16, and the features of the plain one, float32, of some images."""
    import torch

    stored = np.empty((len(rows), order.stored_views + 1, *shape), dtype=np.float16) if shape else None
    features: list[np.ndarray] = []
    source = order.source
    cut = lower(order.network, order.backbone, order.boundary) if order.boundary else None

    def compute(batch: np.ndarray, piece: slice) -> None:
        part = batch[piece]
        found, maps = features_after_blocks(order.network, order.backbone, source.plain(part), keep=order.boundary)
        place = part - rows[0]
        if stored is not None and cut is not None and maps is not None:
            stored[place, 0] = _as_float16(maps)
            for view in range(1, order.stored_views + 1):
                pictures = [view_of(source, row, view, order.seed) for row in part.tolist()]
                stored[place, view] = _as_float16(cut(torch.cat(pictures)))
        features.append(torch.cat(found, dim=1).float().cpu().numpy())

    with torch.inference_mode(), source.placement.autocast():
        for batch in plain_batches(rows, max(1, BATCH // source.looks)):
            pieces_of(order.network).over(len(batch), functools.partial(compute, batch))
    return stored, np.concatenate(features)


def _as_float16(maps: "Tensor") -> np.ndarray:
    wide = maps.float()
    largest = float(wide.abs().max())
    if not largest < LARGEST_FLOAT16:  # not a number is not less
        what = f"activations at the freeze boundary reach {largest:g}, beyond the range of float16"
        raise TrainingError(what, where="bank", remedy="use other weights, or train all layers (strategy full)")
    narrow: np.ndarray = wide.half().cpu().numpy()
    return narrow
