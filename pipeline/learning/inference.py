"""Inference: logits and pooled features of stored images."""

from typing import TYPE_CHECKING

import numpy as np

from pipeline.learning.batches import PixelSource, plain_batches

if TYPE_CHECKING:
    from torch import nn

INFERENCE_BATCH = 64  # fixed, so that results do not depend on the training batch


def predict_logits(network: "nn.Module", source: PixelSource, rows: np.ndarray) -> np.ndarray:
    """Compute logits in evaluation mode.

    Parameters
    ----------
    network
        On the source's device.
    source
        The stored images.
    rows
        Rows of the pixel array, shape (images,).

    Returns
    -------
    ndarray
        float64 of shape (images, classes), in the order of `rows`.
    """
    import torch

    network.eval()
    parts: list[np.ndarray] = []
    with torch.inference_mode(), source.placement.autocast():
        for batch in plain_batches(rows, INFERENCE_BATCH):
            parts.append(network(source.prepare(source.grey(batch))).double().cpu().numpy())
    return np.concatenate(parts) if parts else np.empty((0, 0))


def pooled_features(network: "nn.Module", source: PixelSource, rows: np.ndarray) -> np.ndarray:
    """Compute the vectors that enter the head, float64 of shape (images, features)."""
    import torch

    head = network.fc
    network.fc = torch.nn.Identity()
    try:
        return predict_logits(network, source, rows)
    finally:
        network.fc = head
