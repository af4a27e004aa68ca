"""Roads: how volumes are brought to networks that were trained on images.

- `slices_as_channels` (2.5D): three neighbouring slices take the places of the three colours; the features of such
  groups along the volume are averaged.
- `attention`: each slice is an image; their features are averaged with weights that are learned, so that few slices
  can decide (multiple-instance learning).
- `inflation`: the kernels of the network get a depth, and the volume is looked at as a whole.

References
----------
Ilse, Tomczak and Welling, 2018, "Attention-based deep multiple instance learning", arXiv:1802.04712.
Carreira and Zisserman, 2017, "Quo vadis, action recognition?", arXiv:1705.07750 (inflation).
"""

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from pipeline.core.errors import TrainingError, WeightsError
from pipeline.learning.networks.backbones import BACKBONES, SLICES, head_of, replace_head
from pipeline.learning.networks.blocks import part
from pipeline.learning.networks.forms import Inflation, VolumeForm
from pipeline.learning.volumes.grey import to_one_channel
from pipeline.learning.volumes.networks import (
    COLOURS,
    build_form,
    build_medicalnet,
    inflate,
    load_form,
    medicalnet_form,
)
from pipeline.learning.weights.loading import VerifiedWeights, build_network
from pipeline.learning.weights.sources import Normalisation

if TYPE_CHECKING:
    from torch import Tensor, nn

RoadName = Literal["slices_as_channels", "attention", "inflation"]
ATTENTION_WIDTH = 128  # hidden units of the attention, as in the paper
# Slices of a grid lie further apart than its pixels, so the first kernel is less deep than it is wide (7). The depth
# is halved by the pooling and by three of the four layers; volumes with more slices are halved by the stem, too.
_STEM_DEPTH = 3
_MOST_SLICES_WITHOUT_STRIDE = 40


@dataclass(frozen=True, kw_only=True)
class Road:
    """A road, and what it looks at.

    Attributes
    ----------
    name
        Which of the three.
    depth
        Slices of the stored volumes.
    slices
        How many slices (groups of three on the road `slices_as_channels`) are looked at, evenly spread.
    inflation
        How kernels get their depth.
    """

    name: RoadName
    depth: int
    slices: int
    inflation: Inflation = "mean"

    def groups(self) -> np.ndarray:
        """Tell which slices are looked at together: indices of shape (slices, 3), or (slices, 1) on other roads.

        Examples
        --------
        >>> Road(name="slices_as_channels", depth=9, slices=3).groups().tolist()
        [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
        >>> Road(name="attention", depth=9, slices=3).groups().ravel().tolist()
        [1, 4, 7]
        """
        middles = np.floor((np.arange(self.slices) + 0.5) * self.depth / self.slices).astype(np.int64)
        if self.name != "slices_as_channels":
            return middles[:, None]
        groups: np.ndarray = np.clip(middles[:, None] + np.arange(-1, 2), 0, self.depth - 1)
        return groups

    def read(self, device: str) -> "tuple[Tensor, Tensor]":
        """Give the slices to be read, each once and in order, and the groups as places among these."""
        return _indices(self, device)


@functools.cache
def _indices(road: Road, device: str) -> "tuple[Tensor, Tensor]":
    """Make the indices of a road once for each device, as making them waits for a GPU."""
    import torch

    groups = road.groups()
    slices, places = np.unique(groups, return_inverse=True)
    with torch.inference_mode(mode=False):
        return torch.from_numpy(slices).to(device), torch.from_numpy(places.reshape(groups.shape)).to(device)


def choose_road(pixels: np.ndarray, *, road: RoadName, slices: int | None, inflation: Inflation) -> Road | None:
    """Complete what is configured by what is stored.

    Parameters
    ----------
    pixels
        Stored images, shape (images, height, width), or volumes, (volumes, slices, height, width).
    road, inflation
        As of `Road`.
    slices
        How many are looked at; None: all.

    Returns
    -------
    Road or None
        None for images, which need none.

    Raises
    ------
    TrainingError
        If more slices are asked for than there are.
    """
    if pixels.ndim == 3:
        return None
    depth = pixels.shape[1]
    if slices is not None and slices > depth:
        what = f"{slices} slices are to be looked at, and the volumes have {depth}"
        raise TrainingError(what, where="train.volumes.slices", remedy="raise preprocess.volume.slices or lower this")
    every = -(-depth // COLOURS) if road == "slices_as_channels" else depth
    return Road(name=road, depth=depth, slices=slices or every, inflation=inflation)


def network_for(
    road: Road | None, backbone: str, weights: VerifiedWeights, classes: int, *, seed: int, head_seed: int
) -> "nn.Module":
    """Build a network with a fresh head for images (no road) or for volumes.

    Parameters
    ----------
    road
        How volumes are looked at.
    backbone
        A key of `pipeline.learning.networks.backbones.BACKBONES`.
    weights
        Verified weights, or random ones drawn from `seed`.
    classes
        Number of logits.
    seed, head_seed
        Of random weights, and of the head.

    Raises
    ------
    WeightsError
        If the file does not fit, or the road does not lead from it.
    """
    _require_road(weights, road)
    form = form_for(road, backbone, weights)
    if form is not None:
        return _network_with_depth(form, backbone, weights, classes, seed=seed, head_seed=head_seed)
    network = build_network(backbone, weights, seed=seed)
    replace_head(network, classes, head_seed)
    return network if road is None else over_slices(network, backbone, road, seed=head_seed)


def over_slices(network: "nn.Module", backbone: str, road: Road, *, seed: int) -> "nn.Module":
    """Let a network for images take bags of them, (batch, slices, channels, height, width), and give one answer each.

    The features of a bag's slices are pooled before the linear layer. All parameters keep their names; those of the
    pooling begin with `pipeline.learning.networks.backbones.SLICES` and belong to the head.
    """
    width = head_of(network).in_features
    network.add_module(SLICES, _attention(width, seed) if road.name == "attention" else _mean_class()())
    return part(network, backbone, BACKBONES[backbone].blocks)


def normalisation_for(road: Road | None, source: Normalisation) -> Normalisation:
    """Give the normalisation of what the network takes: of one channel for inflated networks."""
    return source if road is None or road.name != "inflation" else _grey(source)


def form_for(road: Road | None, backbone: str, weights: VerifiedWeights) -> VolumeForm | None:
    """Tell the form of the network that takes whole volumes; None where images or slices are looked at."""
    if road is None or road.name != "inflation":
        return None
    if weights.dimensions == 3:
        return weights.form or medicalnet_form(backbone)
    stride = 1 if road.slices <= _MOST_SLICES_WITHOUT_STRIDE else 2
    return VolumeForm(inflation=road.inflation, stem_depth=_STEM_DEPTH, stem_stride=stride, shortcut="projection")


def _network_with_depth(
    form: VolumeForm, backbone: str, weights: VerifiedWeights, classes: int, *, seed: int, head_seed: int
) -> "nn.Module":
    """Build the network for whole volumes; with random weights, the very network that the source would be put into."""
    rest = _rest_of_colours(weights.normalisation)
    if weights.path is None:
        network = build_form(form, backbone, classes, rest, seed=seed)
        replace_head(network, classes, head_seed)
        return network
    if weights.form is not None:
        return load_form(form, backbone, weights, classes, seed=head_seed)
    if form.inflation is None:
        return build_medicalnet(backbone, weights, classes, seed=head_seed)
    flat = build_network(backbone, weights, seed=seed)
    replace_head(flat, classes, head_seed)
    network = inflate(flat, backbone, form.inflation, stem_depth=form.stem_depth, stem_stride=form.stem_stride)
    to_one_channel(network, rest)
    return network


def _grey(source: Normalisation) -> Normalisation:
    """Give the normalisation of one channel: the mean over the colours."""
    if len(source.mean) == 1:
        return source
    return Normalisation((float(np.mean(source.mean)),), (float(np.mean(source.deviation)),))


def _rest_of_colours(own: Normalisation) -> Normalisation:
    """Tell what is left of each colour's own normalisation when the grey channel has that of their mean.

    It goes into the kernels, so that the logits are those of three channels.
    """
    used = _grey(own)
    return Normalisation(
        tuple((mean - used.mean[0]) / used.deviation[0] for mean in own.mean),
        tuple(deviation / used.deviation[0] for deviation in own.deviation),
    )


def _require_road(weights: VerifiedWeights, road: Road | None) -> None:
    """Make sure that weights for volumes are used for volumes only, as a whole."""
    if weights.dimensions == 3 and (road is None or road.name != "inflation"):
        study = "images" if road is None else "slices of volumes"
        what = f"{weights.source} holds networks for whole volumes, and this one is to take {study}"
        raise WeightsError(what, where="train.weights.source", remedy="take a source for images")


def _attention(width: int, seed: int) -> "nn.Module":
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _attention_class()(width)


@functools.cache
def _mean_class() -> "type[nn.Module]":
    from torch import nn

    class MeanOverSlices(nn.Module):
        """The mean of the slices' features, in 32 bits."""

        def forward(self, features: "Tensor") -> "Tensor":
            return features.float().mean(dim=1)

    return MeanOverSlices


@functools.cache
def _attention_class() -> "type[nn.Module]":
    import torch
    from torch import nn

    class AttentionOverSlices(nn.Module):
        """Gated attention: sum_k a_k h_k with a = softmax_k(w' (tanh(V h_k) * sigmoid(U h_k))), equations 8 and 9.

        Features are brought to mean 0 and deviation 1 first, because those of different backbones differ in size.
        `w` is 0 at the start, so that all slices weigh the same and the pooled features are their mean: that is what
        the head is fitted to before fine-tuning.
        """

        def __init__(self, width: int) -> None:
            super().__init__()
            self.scale = nn.LayerNorm(width, elementwise_affine=False)
            self.content = nn.Linear(width, ATTENTION_WIDTH)
            self.gate = nn.Linear(width, ATTENTION_WIDTH)
            self.weigh = nn.Linear(ATTENTION_WIDTH, 1, bias=False)
            nn.init.zeros_(self.weigh.weight)

        def weights(self, features: "Tensor") -> "Tensor":
            """Give the weights of slices with features (batch, slices, width): (batch, slices), each row adds to 1."""
            scaled = self.scale(features)
            scores = self.weigh(torch.tanh(self.content(scaled)) * torch.sigmoid(self.gate(scaled)))
            return torch.softmax(scores.squeeze(2), dim=1)

        def forward(self, features: "Tensor") -> "Tensor":
            with torch.autocast(device_type=features.device.type, enabled=False):
                wide = features.float()
                return torch.einsum("bs,bsf->bf", self.weights(wide), wide)

    return AttentionOverSlices
