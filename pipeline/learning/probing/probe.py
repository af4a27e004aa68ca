"""The probe: a logistic regression on frozen features, folded into the network's linear head."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pipeline.core.errors import TrainingError
from pipeline.core.states import UNKNOWN
from pipeline.learning.criteria import weighted_loss
from pipeline.learning.findings import is_findings
from pipeline.learning.loop.interruption import end_if_asked
from pipeline.learning.networks.backbones import head_of

if TYPE_CHECKING:
    from torch import nn

_MORE = "use fewer folds or more patients"
# Inverse strengths of the L2 penalty on standardised features, from almost constant to almost free.
PENALTIES = tuple(10.0**exponent for exponent in (-5, -4, -3, -2, -1, 0, 1))

# Of the features' root mean square deviation: below, features are scaled as if they varied that much.
LEAST_SHARE = 0.005


class LinearHead(NamedTuple):
    """Weights (classes, features), bias (classes,) and how they were found."""

    weight: np.ndarray
    bias: np.ndarray
    penalty: float  # the inverse strength chosen; of several findings the geometric mean
    validation_loss: float  # mean negative log likelihood in nats, weighted by class like the fit itself
    train_loss: float


def fit_head(
    train: np.ndarray,
    train_classes: np.ndarray,
    validation: np.ndarray,
    validation_classes: np.ndarray,
    class_weights: np.ndarray,
) -> LinearHead:
    """Fit a multinomial logistic regression and choose its penalty on the validation part.

    For several findings, one logistic regression each, on the images of which it is known, with a penalty of its own;
    `pipeline.learning.findings.check_states` tells before whether that can be.

    Features are standardised with the training part's mean and deviation, which are then folded into the
    weights: the head works on raw features.

    Parameters
    ----------
    train, validation
        Features, shape (images, features).
    train_classes, validation_classes
        Class indices, shape (images,); or states of findings, shape (images, findings).
    class_weights
        Weight of each class in the likelihood, shape (classes,), or of absent and present of each finding, shape
        (findings, 2); the same weights choose the penalty, because the logits lean by them.

    Raises
    ------
    TrainingError
        If a class is absent from the training part.
    TrainingInterruptedError
        If the process was asked to end.
    """
    if is_findings(train_classes):
        return _fit_findings(train, train_classes, validation, validation_classes, class_weights)
    check_classes(train_classes, len(class_weights))
    mean = train.mean(axis=0)
    deviation = _scales(train)
    scaled = (train - mean) / deviation
    candidates = []
    for penalty in PENALTIES:
        end_if_asked()
        weight, bias = _regression(scaled, train_classes, class_weights, penalty)
        weight = weight / deviation
        bias = bias - weight @ mean
        losses = [
            weighted_loss(features @ weight.T + bias, classes_of_part, class_weights)
            for features, classes_of_part in ((validation, validation_classes), (train, train_classes))
        ]
        candidates.append(LinearHead(weight, bias, penalty, *losses))
    return min(candidates, key=lambda head: head.validation_loss)  # ties: the stronger penalty


def _scales(train: np.ndarray) -> np.ndarray:
    """Give the deviation of each feature, but no less than a share of what is usual among them.

    A feature that is silent in the training part, or nearly so, would be multiplied by millions, and one augmented or
    unseen image that wakes it would outvote all others.
    """
    deviation: np.ndarray = train.std(axis=0)
    usual = float(np.sqrt(np.mean(deviation**2)))
    return np.maximum(deviation, LEAST_SHARE * usual) if usual > 0 else np.ones_like(deviation)


def check_classes(train_classes: np.ndarray, count: int, validation_classes: np.ndarray | None = None) -> None:
    """Make sure that every class can be learned, and that the validation part, if it is given, can choose.

    Raises
    ------
    TrainingError
        If a class is absent from the training part, or the validation part holds one only.
    """
    present = len(np.unique(train_classes))
    if present < count:
        what = f"the training part holds {present} of {count} classes"
        raise TrainingError(what, remedy=_MORE)
    if validation_classes is not None and len(np.unique(validation_classes)) < 2:
        raise TrainingError("the validation part holds one class, by which no epoch can be chosen", remedy=_MORE)


def install_head(network: "nn.Module", head: LinearHead) -> None:
    """Copy a fitted head into the network's linear layer."""
    import torch

    with torch.no_grad():
        head_of(network).weight.copy_(torch.from_numpy(head.weight))
        head_of(network).bias.copy_(torch.from_numpy(head.bias))


def _fit_findings(
    train: np.ndarray,
    train_states: np.ndarray,
    validation: np.ndarray,
    validation_states: np.ndarray,
    weights: np.ndarray,
) -> LinearHead:
    heads = []
    for place, of_states in enumerate(weights):
        is_known, is_checked = train_states[:, place] != UNKNOWN, validation_states[:, place] != UNKNOWN
        known, checked = train_states[is_known, place], validation_states[is_checked, place]
        heads.append(fit_head(train[is_known], known, validation[is_checked], checked, of_states))
    return LinearHead(
        np.stack([head.weight[1] - head.weight[0] for head in heads]),
        np.array([head.bias[1] - head.bias[0] for head in heads]),
        float(np.exp(np.mean([np.log(head.penalty) for head in heads]))),
        float(np.mean([head.validation_loss for head in heads])),
        float(np.mean([head.train_loss for head in heads])),
    )


def _regression(
    features: np.ndarray, classes: np.ndarray, class_weights: np.ndarray, penalty: float
) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.linear_model import LogisticRegression

    weights = dict(enumerate(class_weights.tolist()))
    model = LogisticRegression(C=penalty, class_weight=weights, max_iter=5000).fit(features, classes)
    if len(class_weights) == 2:  # one row of weights stands for the second class: split it evenly over both
        return np.vstack([-model.coef_, model.coef_]) / 2, np.concatenate([-model.intercept_, model.intercept_]) / 2
    return model.coef_, model.intercept_
