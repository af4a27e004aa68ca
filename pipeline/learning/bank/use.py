"""How a strategy uses a bank: the part of the network above it, what feeds that part, and the whole it belongs to."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pipeline.core.errors import TrainingError
from pipeline.core.progress import say
from pipeline.core.provenance import numerical, versions
from pipeline.learning.bank.files import BankManifest
from pipeline.learning.bank.filling import BankInputs, features_of_blocks
from pipeline.learning.inputs.batches import Inputs, PixelSource
from pipeline.learning.networks.backbones import BACKBONES, head_of
from pipeline.learning.networks.blocks import boundary_of, early_network, feature_blocks, features_after_blocks, upper
from pipeline.learning.probing.sweep import ProbeData, choose_probe, joined

if TYPE_CHECKING:
    from torch import Tensor, nn


class Cut(NamedTuple):
    """A part of a network to be trained or fitted, and the whole network that images go into; they share modules."""

    part: "nn.Module"
    inputs: Inputs
    whole: "nn.Module"
    blocks: tuple[str, ...] = ()  # after which a probe takes its features


def require_same(bank: BankManifest, weights_sha256: str, pixels_sha256: str, setting: str, code: str) -> None:
    """Make sure that a bank was made from what a study uses.

    Raises
    ------
    TrainingError
        Naming what differs.
    """
    made, used = json.loads(bank.setting), json.loads(setting)
    differing = [name for name in sorted({*made, *used}) if made.get(name) != used.get(name)]
    differing += ["weights"] if bank.weights_sha256 != weights_sha256 else []
    differing += ["software"] if bank.software != numerical(versions()) else []
    differing += ["code"] if bank.code != code else []
    differing += ["images"] if bank.pixels_sha256 != pixels_sha256 else []
    if differing:
        what = f"the bank was made with other settings ({', '.join(differing)})"
        raise TrainingError(what, where=bank.folder, remedy="run the rule bank again: snakemake --forcerun bank")


class FeatureInputs:
    """Pooled features of chosen blocks as maps of one pixel: what the head of a probe is fed with.

    Parameters
    ----------
    features
        Of the plain images after every block, each of shape (images, features).
    used
        The blocks whose features are joined.
    network
        Computes the features of changed images, which the bank does not hold.
    """

    def __init__(
        self,
        features: Mapping[str, np.ndarray],
        used: tuple[str, ...],
        network: "nn.Module",
        backbone: str,
        source: PixelSource,
    ) -> None:
        self.placement = source.placement
        self.looks = source.looks
        self._features = features
        self._used = used
        self._network = network
        self._backbone = backbone
        self._source = source

    def train(self, rows: np.ndarray, seed: int) -> "Tensor":
        """Compute the features of a random variant of each row: (batch, features, 1, 1)."""
        import torch

        images = self._source.train(rows, seed)
        self._network.to(images.device).eval()
        with torch.no_grad(), self.placement.autocast():
            found, _ = features_after_blocks(self._network, self._backbone, images, until=self._used[-1])
        names = feature_blocks(self._backbone)
        return torch.cat([found[names.index(name)] for name in self._used], dim=1)[:, :, None, None]

    def plain(self, rows: np.ndarray) -> "Tensor":
        """Read the features of each row: (batch, features, 1, 1)."""
        import torch

        values = joined(self._features, self._used, rows)
        return torch.from_numpy(values).float().to(self.placement.device)[:, :, None, None]


def cut_for_blocks(
    network: "nn.Module", backbone: str, bank: BankManifest, source: PixelSource, trained: frozenset[str]
) -> Cut | None:
    """Cut a network below its trained blocks; None if the bank's maps are not those at that boundary.

    Raises
    ------
    ArtefactError
        If a shard is missing, truncated or damaged.
    """
    boundary = boundary_of(trained, backbone)
    if bank.boundary != boundary:
        return None
    return Cut(upper(network, backbone, boundary), BankInputs(bank, source.placement), network)


def cut_for_probe(network: "nn.Module", backbone: str, bank: BankManifest, source: PixelSource, data: ProbeData) -> Cut:
    """Choose the blocks whose features the head takes, and cut the network above them.

    Raises
    ------
    TrainingError
        If a class is absent from the training part.
    ArtefactError
        If a shard is missing, truncated or damaged.
    """
    import torch
    from torch import nn

    features = features_of_blocks(bank)
    probe = choose_probe(features, data)
    say(f"probe: features after {' and '.join(probe.blocks)}, inverse penalty {probe.head.penalty:g}")
    classes, width = probe.head.weight.shape
    head = nn.Linear(width, classes)
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(probe.head.weight))
        head.bias.copy_(torch.from_numpy(probe.head.bias))
    part = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    inputs = FeatureInputs(features, probe.blocks, network, backbone, source)
    if probe.blocks == BACKBONES[backbone].blocks[-2:-1]:
        old = head_of(network)
        network.set_submodule(next(name for name, module in network.named_modules() if module is old), head)
        return Cut(part, inputs, network, probe.blocks)
    return Cut(part, inputs, early_network(network, backbone, probe.blocks, head), probe.blocks)
