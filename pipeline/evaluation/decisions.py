"""Decisions: proportions of right and wrong decisions, losses of probabilities, their values and intervals."""

from collections.abc import Sequence

import numpy as np

from pipeline.core.results import OperatingPoint, PredictiveValue
from pipeline.evaluation.intervals import Interval, mean_of_losses, mean_of_proportions, proportion
from pipeline.evaluation.metrics import METRICS, brier_losses, confusion, log_losses, predictive_values, specificity
from pipeline.evaluation.out_of_fold import FoldFit
from pipeline.evaluation.scores import BoolArray, Scores
from pipeline.evaluation.thresholds import Rule

LOSSES = ("brier", "log_loss")
OF_TWO_CLASSES = ("sensitivity", "specificity", "ppv", "npv", "accuracy", "balanced_accuracy")
OF_SEVERAL_CLASSES = ("accuracy", "balanced_accuracy")
# What is said of single folds, whose few patients do not carry more.
OF_ONE_FOLD_TWO_CLASSES = ("sensitivity", "specificity")


def decision_metrics(scores: Scores, *, one_fold: bool) -> tuple[str, ...]:
    """Names of the metrics of decisions; ``sensitivity:CLASS`` is the fraction of a class decided rightly."""
    if scores.is_binary:
        return OF_ONE_FOLD_TWO_CLASSES if one_fold else OF_TWO_CLASSES
    of_classes = () if one_fold else tuple(f"sensitivity:{name}" for name in scores.classes)
    return (*OF_SEVERAL_CLASSES, *of_classes)


def decision_value(scores: Scores, metric: str) -> float:
    """Value of a metric of decisions or of a loss; NaN where the data do not define it."""
    base, separator, name = metric.partition(":")
    if separator:
        is_class = scores.labels == scores.classes.index(name)
        return float((scores.decisions == scores.labels)[is_class].mean()) if is_class.any() else np.nan
    entry = METRICS[base]
    return entry.function(scores.labels, scores.probabilities if entry.needs == "scores" else scores.decisions)


def decision_interval(scores: Scores, metric: str, confidence: float) -> Interval:
    """Interval of a defined metric of decisions or of a loss."""
    if metric == "brier":
        return mean_of_losses(brier_losses(scores.labels, scores.probabilities), scores.clusters, confidence)
    if metric == "log_loss":
        return mean_of_losses(log_losses(scores.labels, scores.probabilities), scores.clusters, confidence)
    right = scores.decisions == scores.labels
    if metric == "balanced_accuracy":
        sides = [scores.labels == label for label in np.unique(scores.labels)]
        parts = [proportion(right[side], scores.clusters[side], confidence) for side in sides]
        return mean_of_proportions([float(right[side].mean()) for side in sides], parts)
    chosen = _counted(scores, metric)
    return proportion(right[chosen], scores.clusters[chosen], confidence)


def operating_point(
    scores: Scores, fits: Sequence[FoldFit], rule: Rule, prevalences: Sequence[float]
) -> OperatingPoint:
    """Sum up the decisions about patients.

    Parameters
    ----------
    scores
        At patient level.
    fits
        Of the same strategy, folds rising.
    prevalences
        For which predictive values are computed (two classes only).
    """
    counts = confusion(scores.labels, scores.decisions, len(scores.classes))
    values: list[PredictiveValue] = []
    if scores.is_binary:
        rates = (
            METRICS["sensitivity"].function(scores.labels, scores.decisions),
            specificity(scores.labels, scores.decisions),
        )
        for prevalence in prevalences if np.isfinite(rates).all() else ():
            positive, negative = predictive_values(*rates, prevalence)
            values.append(PredictiveValue(prevalence=prevalence, positive=positive, negative=negative))
    return OperatingPoint(
        rule=f"{rule.in_words()}, among the validation patients of each fold"
        if scores.is_binary
        else "the class with the highest probability",
        thresholds=tuple(fit.threshold.value for fit in fits if fit.threshold is not None),
        confusion=tuple(tuple(row) for row in counts.tolist()),
        predictive_values=tuple(values),
    )


def _counted(scores: Scores, metric: str) -> BoolArray:
    """Choose the units that a proportion is a proportion of."""
    base, separator, name = metric.partition(":")
    if separator:
        return np.asarray(scores.labels == scores.classes.index(name))
    everyone = np.ones(scores.labels.size, dtype=np.bool_)
    chosen: dict[str, BoolArray] = {
        "sensitivity": scores.labels == 1,
        "specificity": scores.labels == 0,
        "ppv": scores.decisions == 1,
        "npv": scores.decisions == 0,
    }
    return chosen.get(base, everyone)
