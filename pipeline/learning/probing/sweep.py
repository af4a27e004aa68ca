"""The probe over all boundaries: which block's features, and how strong a penalty, by inner validation.

The last block is not always the best: its features are the most specialised for the source's classes, and those
before it are often more useful for another task (Yosinski et al., 2014, arXiv:1411.1792). A linear head on the features
of several blocks at once often beats both (Evci et al., 2022, "Head2Toe", arXiv:2201.03529).
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pipeline.learning.networks.blocks import early_network
from pipeline.learning.probing.probe import LinearHead, fit_head

if TYPE_CHECKING:
    from torch import nn


class ProbeData(NamedTuple):
    """One fold: rows of the features and class indices, shape (images,); no patient stands in both parts."""

    train_rows: np.ndarray
    train_classes: np.ndarray
    validation_rows: np.ndarray
    validation_classes: np.ndarray
    class_weights: np.ndarray


class BlockProbe(NamedTuple):
    """A linear head on the joined features of some blocks."""

    blocks: tuple[str, ...]
    head: LinearHead


def candidates(blocks: Sequence[str]) -> list[tuple[str, ...]]:
    """List what a probe may look at: each block alone, from the last to the first, and the last two, three, ... joined.

    Examples
    --------
    >>> candidates(["stem", "layer1", "layer2"])
    [('layer2',), ('layer1',), ('stem',), ('layer1', 'layer2'), ('stem', 'layer1', 'layer2')]
    """
    alone: list[tuple[str, ...]] = [(block,) for block in reversed(blocks)]
    return [*alone, *(tuple(blocks[-count:]) for count in range(2, len(blocks) + 1))]


def probe_at(features: Mapping[str, np.ndarray], blocks: tuple[str, ...], data: ProbeData) -> BlockProbe:
    """Fit the head on the features of some blocks; its penalty is chosen on the validation part.

    Parameters
    ----------
    features
        For each block the pooled features of all images, shape (images, features).

    Raises
    ------
    TrainingError
        If a class is absent from the training part.
    """
    train, validation = joined(features, blocks, data.train_rows), joined(features, blocks, data.validation_rows)
    head = fit_head(train, data.train_classes, validation, data.validation_classes, data.class_weights)
    return BlockProbe(blocks, head)


def choose_probe(features: Mapping[str, np.ndarray], data: ProbeData) -> BlockProbe:
    """Choose blocks and penalty together by the loss on the validation part; the test part is not looked at.

    Parameters
    ----------
    features
        For each block, in their order, the pooled features of all images, shape (images, features).

    Returns
    -------
    BlockProbe
        Of `candidates`, the one with the lowest loss; of equal ones the one nearest to the output.

    Raises
    ------
    TrainingError
        If a class is absent from the training part.
    """
    fitted = [probe_at(features, blocks, data) for blocks in candidates(list(features))]
    return best_of(fitted)


def best_of(fitted: Sequence[BlockProbe]) -> BlockProbe:
    """Give the probe with the lowest validation loss, of equal ones the first."""
    return min(fitted, key=lambda probe: probe.head.validation_loss)


def joined(features: Mapping[str, np.ndarray], blocks: tuple[str, ...], rows: np.ndarray) -> np.ndarray:
    """Join the features of some blocks for some rows, float64 of shape (rows, features)."""
    return np.concatenate([features[block][rows] for block in blocks], axis=1).astype(np.float64)


def probe_logits(features: Mapping[str, np.ndarray], probe: BlockProbe, rows: np.ndarray) -> np.ndarray:
    """Compute the logits of a fitted probe, shape (rows, classes)."""
    logits: np.ndarray = joined(features, probe.blocks, rows) @ probe.head.weight.T + probe.head.bias
    return logits


def probe_network(network: "nn.Module", backbone: str, probe: BlockProbe) -> "nn.Module":
    """Give the network that a probe stands for: it ends behind the probe's last block; modules are shared."""
    import torch

    head = torch.nn.Linear(probe.head.weight.shape[1], probe.head.weight.shape[0])
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(probe.head.weight))
        head.bias.copy_(torch.from_numpy(probe.head.bias))
    device = next(network.parameters()).device
    return early_network(network, backbone, probe.blocks, head.to(device))
