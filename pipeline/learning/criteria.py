"""Criteria: the numbers by which heads and epochs are compared on the validation part."""

import math

import numpy as np


def calibrated_loss(logits: np.ndarray, classes: np.ndarray, weights: np.ndarray) -> float:
    """Mean negative log likelihood in nats, weighted by class, at the best temperature and class offsets.

    Epochs are compared by it. A network that ranks better, but is too sure of itself or leans to one class, is
    the better one: its probabilities are calibrated later in any case (`pipeline.evaluation.calibration`).

    Parameters
    ----------
    logits
        Shape (images, classes).
    classes
        Class indices, shape (images,).
    weights
        Weight of each class.
    """
    from scipy.optimize import minimize

    if not np.isfinite(logits).all():
        return math.nan
    count = logits.shape[1]
    centred = logits - logits.mean(axis=0)
    scaled = centred / max(float(centred.std()), 1e-12)

    def at(parameters: np.ndarray) -> float:
        offsets = np.concatenate([[0.0], parameters[1:]])
        return weighted_loss(scaled * math.exp(parameters[0]) + offsets, classes, weights)

    bounds = [(-5.0, 5.0)] + [(-10.0, 10.0)] * (count - 1)
    return float(minimize(at, np.zeros(count), method="L-BFGS-B", bounds=bounds).fun)


def weighted_loss(logits: np.ndarray, classes: np.ndarray, weights: np.ndarray) -> float:
    """Mean negative log likelihood in nats, weighted by class."""
    from scipy.special import logsumexp

    losses = logsumexp(logits, axis=1) - logits[np.arange(len(classes)), classes]
    return float(np.average(losses, weights=weights[classes]))


def validation_auroc(logits: np.ndarray, classes: np.ndarray) -> float | None:
    """AUROC for the progress line (macro one-vs-rest for more than two classes); None if a class is absent."""
    from scipy.special import softmax
    from sklearn.metrics import roc_auc_score

    count = logits.shape[1]
    if len(np.unique(classes)) < count:
        return None
    if count == 2:
        return float(roc_auc_score(classes, logits[:, 1] - logits[:, 0]))
    return float(roc_auc_score(classes, softmax(logits, axis=1), multi_class="ovr"))
