"""Criteria: the numbers by which heads and epochs are compared on the validation part."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.learning.findings import FindingCriterion, is_findings, mean_over_findings

if TYPE_CHECKING:
    from torch import Tensor


def calibrated_loss(logits: np.ndarray, classes: np.ndarray, weights: np.ndarray) -> float:
    """Mean negative log likelihood in nats, weighted by class, at the best temperature and class offsets.

    Of several findings, the mean over the findings of that of absent and present.

    Epochs are compared by it. A network that ranks better, but is too sure of itself or leans to one class, is
    the better one: its probabilities are calibrated later in any case (`pipeline.evaluation.calibration`).

    Parameters
    ----------
    logits
        Shape (images, classes).
    classes
        Class indices, shape (images,); or states of findings, shape (images, findings).
    weights
        Weight of each class; of findings, of absent and present, shape (findings, 2).
    """
    from scipy.optimize import minimize

    if not np.isfinite(logits).all():
        return math.nan
    if is_findings(classes):
        found = mean_over_findings(logits, classes, lambda pair, truth, at: calibrated_loss(pair, truth, weights[at]))
        return math.nan if found is None else found
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
    """AUROC for the progress line (macro one-vs-rest for more than two classes); None if a class is absent.

    Of several findings, the mean over those that are present in some images and absent in others.
    """
    from scipy.special import softmax
    from sklearn.metrics import roc_auc_score

    if is_findings(classes):
        return mean_over_findings(
            logits, classes, lambda pair, truth, _: float(roc_auc_score(truth, pair[:, 1] - pair[:, 0]))
        )
    count = logits.shape[1]
    if len(np.unique(classes)) < count:
        return None
    if count == 2:
        return float(roc_auc_score(classes, logits[:, 1] - logits[:, 0]))
    return float(roc_auc_score(classes, softmax(logits, axis=1), multi_class="ovr"))


@dataclass(frozen=True)
class Criterion:
    """The loss that is minimised, weighted by class: cross-entropy, or focal loss.

    With targets q (smoothed labels) and probabilities p an image's loss is the sum over the classes of
    -w q (1 - p)^gamma log(p), and a batch's the sum over its images divided by the sum of their own classes'
    weights. With gamma 0 it is the cross-entropy. Focal loss turns down what is already right; its
    probabilities are too unsure of themselves, and are calibrated later like all others.

    Attributes
    ----------
    weights
        Weight of each class, shape (classes,), on the device.
    label_smoothing
        Share of each label that is spread over all classes.
    focal_gamma
        Exponent of the focal loss; None: cross-entropy.

    References
    ----------
    Lin et al. (2017), arXiv:1708.02002.
    """

    weights: "Tensor"
    label_smoothing: float
    focal_gamma: float | None = None

    def mean(self, logits: "Tensor", truth: "Tensor") -> "Tensor":
        """Loss of a whole batch: logits of shape (batch, classes), class indices of shape (batch,)."""
        import torch

        if self.focal_gamma is not None:
            return self.sum(logits, truth) / self.weight_of(truth)
        return torch.nn.functional.cross_entropy(
            logits, truth, weight=self.weights, label_smoothing=self.label_smoothing
        )

    def sum(self, logits: "Tensor", truth: "Tensor") -> "Tensor":
        """Sum of the images' losses, not yet divided by the weight of the batch."""
        import torch

        if self.focal_gamma is None:
            return torch.nn.functional.cross_entropy(
                logits, truth, weight=self.weights, label_smoothing=self.label_smoothing, reduction="sum"
            )
        classes = logits.shape[1]
        logs = torch.log_softmax(logits, dim=1)
        is_true = truth.unsqueeze(1) == torch.arange(classes, device=truth.device)
        targets = is_true * (1 - self.label_smoothing) + self.label_smoothing / classes
        # Of a probability that rounds to 1, the power of 0 has no finite gradient for exponents below 1.
        doubt = (1 - logs.exp()).clamp_min(1e-6) ** self.focal_gamma
        return -(self.weights * targets * doubt * logs).sum()

    def weight_of(self, truth: "Tensor") -> "Tensor":
        """Sum of the weights of a batch's classes."""
        return self.weights[truth].sum()


AnyCriterion = Criterion | FindingCriterion


def criterion_for(weights: "Tensor", label_smoothing: float, focal_gamma: float | None) -> AnyCriterion:
    """Give the loss that fits the weights: of classes, shape (classes,), or of findings, shape (findings, 2)."""
    kind = Criterion if weights.ndim == 1 else FindingCriterion
    return kind(weights, label_smoothing, focal_gamma)
