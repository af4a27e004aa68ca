"""Inference: logits and pooled features of stored images, from the pooling onwards in 32-bit floating point.

Matrix products with bfloat16 are fine inside the backbone. Pooled features and logits rounded to its 8 bits
are not: images would share a logit (ties move the AUROC) and heads would be fitted to rounded features.
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.learning.backbones import head_of, pooling_of
from pipeline.learning.batches import Inputs, plain_batches
from pipeline.learning.devices import Placement

if TYPE_CHECKING:
    from torch import Tensor, nn

INFERENCE_BATCH = 64  # fixed, so that results do not depend on the training batch


def predict_logits(network: "nn.Module", inputs: Inputs, rows: np.ndarray) -> np.ndarray:
    """Compute logits in evaluation mode.

    Parameters
    ----------
    network
        Whole, or the upper part of one that maps `inputs` to logits; on the device of the inputs.
    inputs
        What the network takes.
    rows
        Rows of the inputs, shape (images,).

    Returns
    -------
    ndarray
        float64 of shape (images, classes), in the order of `rows`.
    """
    import torch

    with torch.inference_mode():
        return _joined(head_of(network)(features) for features in _pooled(network, inputs, rows))


def pooled_features(network: "nn.Module", inputs: Inputs, rows: np.ndarray) -> np.ndarray:
    """Compute the vectors that enter the head, float64 of shape (images, features)."""
    import torch

    with torch.inference_mode():
        return _joined(_pooled(network, inputs, rows))


def _pooled(network: "nn.Module", inputs: Inputs, rows: np.ndarray) -> "Iterator[Tensor]":
    network.eval()
    for batch in plain_batches(rows, INFERENCE_BATCH):
        yield _pool(network, inputs.plain(batch), inputs.placement)


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
