"""Inference: logits and pooled features of stored images, from the pooling onwards in 32-bit floating point.

Matrix products with bfloat16 are fine inside the backbone. Pooled features and logits rounded to its 8 bits
are not: images would share a logit (ties move the AUROC) and heads would be fitted to rounded features.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.core.seeding import derive_seed
from pipeline.core.states import LabelKind
from pipeline.learning.findings import joined_probabilities
from pipeline.learning.inputs.batches import Inputs, plain_batches
from pipeline.learning.inputs.devices import Placement
from pipeline.learning.inputs.feeding import feed
from pipeline.learning.inputs.pieces import pieces_of
from pipeline.learning.loop.interruption import end_if_asked
from pipeline.learning.loop.team import Team
from pipeline.learning.networks.backbones import head_of, pooling_of

if TYPE_CHECKING:
    from torch import Tensor, nn

INFERENCE_BATCH = 64  # images or slices; fixed, so that results do not depend on the training batch


def predict_logits(
    network: "nn.Module", inputs: Inputs, rows: np.ndarray, *, views: int = 0, seed: int = 0
) -> np.ndarray:
    """Compute logits in evaluation mode, over the plain inputs or over them and random variants (views).

    Parameters
    ----------
    network
        Whole, or the upper part of one that maps `inputs` to logits; on the device of the inputs.
    inputs
        What the network takes.
    rows
        Rows of the inputs, shape (images,).
    views
        How many random variants of each row are looked at beside the plain one; the logits of all are averaged.
    seed
        Seed of the views.

    Returns
    -------
    ndarray
        float64 of shape (images, classes), in the order of `rows`.

    Raises
    ------
    TrainingInterruptedError
        If the process was asked to end.
    TrainingError
        If not even one image fits into memory; batches that do not are divided.
    """
    import torch

    seeds = [None, *(derive_seed(seed, "view", view) for view in range(views))]
    with torch.inference_mode():
        looks = [
            _joined(head_of(network)(features) for features in _pooled(network, inputs, rows, one)) for one in seeds
        ]
    return looks[0] if not views else np.mean(looks, axis=0)


def predict_together(network: "nn.Module", inputs: Inputs, rows: np.ndarray, team: Team) -> np.ndarray:
    """Compute plain logits as `predict_logits` does, bit for bit, each process of a team those of some batches."""
    size = _batch_size(inputs)
    batches = team.part.within(-(-len(rows) // size))
    own = rows[batches.start * size : batches.stop * size]
    found = team.gather(predict_logits(network, inputs, own))
    return np.concatenate([logits for logits in found if len(logits)])


def mean_probability_logits(looks: Sequence[np.ndarray], kind: LabelKind = "classes") -> np.ndarray:
    """Join the logits of several networks, each of shape (images, classes): their softmax is the mean probability.

    Of findings, each logit is joined by itself: its sigmoid is the mean probability. The logits of one network stay as
    they are.
    """
    from scipy.special import log_softmax, logsumexp

    if len(looks) == 1:
        return looks[0]
    if kind == "findings":
        return joined_probabilities(looks)
    joined: np.ndarray = logsumexp([log_softmax(one, axis=1) for one in looks], axis=0) - np.log(len(looks))
    return joined


def pooled_features(network: "nn.Module", inputs: Inputs, rows: np.ndarray) -> np.ndarray:
    """Compute the vectors that enter the head, float64 of shape (images, features)."""
    import torch

    with torch.inference_mode():
        return _joined(_pooled(network, inputs, rows))


def _batch_size(inputs: Inputs) -> int:
    return max(1, INFERENCE_BATCH // inputs.looks)


def _pooled(network: "nn.Module", inputs: Inputs, rows: np.ndarray, seed: int | None = None) -> "Iterator[Tensor]":
    network.eval()
    batches = plain_batches(rows, _batch_size(inputs))
    seeds = None if seed is None else [derive_seed(seed, index) for index in range(len(batches))]
    for taken in feed(inputs, batches, seeds):
        end_if_asked()
        yield from _pool_pieces(network, taken, inputs.placement)


def _pool_pieces(network: "nn.Module", images: "Tensor", placement: Placement) -> "list[Tensor]":
    """Run the network on a batch, in pieces where it does not fit into memory."""
    return pieces_of(network).over(len(images), lambda part: _pool(network, images[part], placement))


def _pool(network: "nn.Module", images: "Tensor", placement: Placement) -> "Tensor":
    """Run the network and catch what enters its head; maps are widened before they are averaged."""
    caught: list[Tensor] = []

    def widen(_module: "nn.Module", arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        return arguments[0].float(), *arguments[1:]

    def catch(_module: "nn.Module", arguments: tuple[Any, ...]) -> None:
        caught.append(arguments[0].float())

    hooks = [pooling_of(network).register_forward_pre_hook(widen), head_of(network).register_forward_pre_hook(catch)]
    try:
        with placement.autocast():
            network(images)
    finally:
        for hook in hooks:
            hook.remove()
    return caught[0]


def _joined(parts: "Iterable[Tensor]") -> np.ndarray:
    found = [part.double().cpu().numpy() for part in parts]
    return np.concatenate(found) if found else np.empty((0, 0))
