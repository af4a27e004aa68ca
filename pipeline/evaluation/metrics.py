"""Metrics: a registry of pure functions with their range, direction and source.

To add one: write a function of (labels, probabilities) or (labels, decisions) and give it a line in `METRICS`;
every study then has it, with an interval by the jackknife of patient clusters unless the line names a better one.
Labels and decisions are class indices; of two classes the second, index 1, is the positive one. A metric that
the data do not define (no positive unit, say) is NaN.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.ranking import equal_weights, rank
from pipeline.evaluation.scores import BoolArray, FloatArray, IntArray


@dataclass(frozen=True)
class Metric:
    """A metric and what a reader must know to read it.

    Attributes
    ----------
    needs
        ``"scores"``: `function` takes labels and probabilities of shape (units, classes);
        ``"decisions"``: labels and decided classes.
    classes
        ``"two"`` if it is defined for two classes only.
    low, high
        Range of values.
    reference
        DOI.
    counted
        For a proportion of right decisions: which units it is a proportion of; it gets a Wilson interval.
    losses
        For a mean over units: the value of each unit; the interval is made from the variance between clusters.
    """

    title: str
    needs: Literal["scores", "decisions"]
    classes: Literal["two", "any"]
    low: float
    high: float
    greater_is_better: bool
    reference: str
    function: Callable[[IntArray, NDArray[Any]], float]
    counted: Callable[[IntArray, IntArray], BoolArray] | None = None
    losses: Callable[[IntArray, FloatArray], FloatArray] | None = None


def auroc(labels: IntArray, probabilities: FloatArray) -> float:
    """Area under the ROC curve; more than two classes: mean over the classes present, each against the rest."""
    return _over_classes(labels, probabilities, 0)


def average_precision(labels: IntArray, probabilities: FloatArray) -> float:
    """Area under the precision-recall curve without interpolation; several classes: mean as for `auroc`."""
    return _over_classes(labels, probabilities, 1)


def class_areas(is_positive: BoolArray, scores: FloatArray) -> tuple[float, float]:
    """AUROC and average precision of one class against the rest; NaN if a side is empty."""
    ranking = rank(is_positive, scores)
    if not ranking.is_defined:
        return np.nan, np.nan
    area, precision = ranking.areas(equal_weights(scores.size))
    return float(area[0]), float(precision[0])


def brier(labels: IntArray, probabilities: FloatArray) -> float:
    """Mean squared error of the positive probability; more than two classes: summed over the classes."""
    return _mean(brier_losses(labels, probabilities))


def brier_losses(labels: IntArray, probabilities: FloatArray) -> FloatArray:
    """Squared error of each unit, shape (units,)."""
    outcomes = np.eye(probabilities.shape[1])[labels]
    losses: FloatArray = ((probabilities - outcomes) ** 2).sum(axis=1)
    return losses / 2 if probabilities.shape[1] == 2 else losses


def log_loss(labels: IntArray, probabilities: FloatArray) -> float:
    """Mean negative logarithm of the probability given to the true class (nats)."""
    return _mean(log_losses(labels, probabilities))


def log_losses(labels: IntArray, probabilities: FloatArray) -> FloatArray:
    """Negative log probability of the true class of each unit, shape (units,); probabilities below 2e-16 count so."""
    given = probabilities[np.arange(labels.size), labels] / probabilities.sum(axis=1)
    losses: FloatArray = -np.log(np.maximum(given, np.finfo(np.float64).eps))
    return losses


def sensitivity(labels: IntArray, decisions: IntArray) -> float:
    """Fraction of the positive units that are decided positive."""
    return _mean(decisions[labels == 1] == 1)


def specificity(labels: IntArray, decisions: IntArray) -> float:
    """Fraction of the negative units that are decided negative."""
    return _mean(decisions[labels == 0] == 0)


def ppv(labels: IntArray, decisions: IntArray) -> float:
    """Fraction of the units decided positive that are positive, at the prevalence of the data."""
    return _mean(labels[decisions == 1] == 1)


def npv(labels: IntArray, decisions: IntArray) -> float:
    """Fraction of the units decided negative that are negative, at the prevalence of the data."""
    return _mean(labels[decisions == 0] == 0)


def accuracy(labels: IntArray, decisions: IntArray) -> float:
    """Fraction of the units decided rightly."""
    return _mean(decisions == labels)


def balanced_accuracy(labels: IntArray, decisions: IntArray) -> float:
    """Mean over the classes present of the fraction decided rightly."""
    recalls = [_mean(decisions[labels == label] == label) for label in np.unique(labels)]
    return _mean(np.array(recalls))


def confusion(labels: IntArray, decisions: IntArray, classes: int) -> IntArray:
    """Count units of class i decided as class j, shape (classes, classes)."""
    counts: IntArray = np.bincount(labels * classes + decisions, minlength=classes**2).reshape(classes, classes)
    return counts


def predictive_values(sensitivity: float, specificity: float, prevalence: float) -> tuple[float | None, float | None]:
    """Positive and negative predictive value at another prevalence, by Bayes' rule; None if nothing is decided so."""
    true_positive, false_positive = sensitivity * prevalence, (1 - specificity) * (1 - prevalence)
    true_negative, false_negative = specificity * (1 - prevalence), (1 - sensitivity) * prevalence
    positive, negative = true_positive + false_positive, true_negative + false_negative
    return (true_positive / positive if positive > 0 else None, true_negative / negative if negative > 0 else None)


def _everyone(labels: IntArray, _: IntArray) -> BoolArray:
    return np.ones(labels.size, dtype=np.bool_)


METRICS: Mapping[str, Metric] = {
    "auroc": Metric(
        "Area under the ROC curve", "scores", "any", 0, 1, True, "10.1148/radiology.143.1.7063747", auroc
    ),
    "auprc": Metric("Average precision", "scores", "any", 0, 1, True, "10.1145/1143844.1143874", average_precision),
    "sensitivity": Metric(
        "Sensitivity", "decisions", "two", 0, 1, True, "10.1136/bmj.308.6943.1552", sensitivity,
        counted=lambda labels, _: labels == 1,
    ),
    "specificity": Metric(
        "Specificity", "decisions", "two", 0, 1, True, "10.1136/bmj.308.6943.1552", specificity,
        counted=lambda labels, _: labels == 0,
    ),
    "ppv": Metric(
        "Positive predictive value", "decisions", "two", 0, 1, True, "10.1136/bmj.309.6947.102", ppv,
        counted=lambda _, decisions: decisions == 1,
    ),
    "npv": Metric(
        "Negative predictive value", "decisions", "two", 0, 1, True, "10.1136/bmj.309.6947.102", npv,
        counted=lambda _, decisions: decisions == 0,
    ),
    "accuracy": Metric(
        "Accuracy", "decisions", "any", 0, 1, True, "10.1016/j.ipm.2009.03.002", accuracy, counted=_everyone
    ),
    "balanced_accuracy": Metric(
        "Balanced accuracy", "decisions", "any", 0, 1, True, "10.1109/ICPR.2010.764", balanced_accuracy
    ),
    "brier": Metric(
        "Brier score", "scores", "any", 0, 2, False, "10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2", brier,
        losses=brier_losses,
    ),
    "log_loss": Metric(
        "Logarithmic loss", "scores", "any", 0, np.inf, False, "10.1198/016214506000001437", log_loss,
        losses=log_losses,
    ),
}  # fmt: skip


def _over_classes(labels: IntArray, probabilities: FloatArray, which: Literal[0, 1]) -> float:
    classes = probabilities.shape[1]
    chosen = (1,) if classes == 2 else tuple(range(classes))
    values = np.array([class_areas(labels == label, probabilities[:, label])[which] for label in chosen])
    defined = values[np.isfinite(values)]
    return _mean(defined)


def _mean(values: NDArray[Any]) -> float:
    return float(values.mean()) if values.size else np.nan
