"""Decisions and losses: every metric but the areas, with its interval, and the operating point."""

from collections.abc import Sequence

import numpy as np

from pipeline.core.results import OperatingPoint, PredictiveValue
from pipeline.evaluation.areas import AREAS
from pipeline.evaluation.intervals import Interval, Scale, jackknife, mean_of_losses, mean_of_proportions, proportion
from pipeline.evaluation.metrics import METRICS, confusion, predictive_values, specificity
from pipeline.evaluation.out_of_fold import FoldFit
from pipeline.evaluation.scores import Scores
from pipeline.evaluation.thresholds import Rule

# What is said of single folds, whose few patients do not carry more.
OF_ONE_FOLD = {True: ("sensitivity", "specificity"), False: ("accuracy", "balanced_accuracy")}


def list_metrics(scores: Scores, *, one_fold: bool) -> tuple[str, ...]:
    """List the metrics besides the areas; ``sensitivity:CLASS`` is the fraction of a class decided rightly."""
    if one_fold:
        return OF_ONE_FOLD[scores.is_binary]
    named = [name for name, entry in METRICS.items() if scores.is_binary or entry.classes == "any"]
    of_classes = () if scores.is_binary else tuple(f"sensitivity:{name}" for name in scores.classes)
    return (*(name for name in named if name not in AREAS), *of_classes)


def metric_value(scores: Scores, metric: str) -> float:
    """Value of a metric; NaN where the data do not define it."""
    base, separator, name = metric.partition(":")
    if separator:
        is_class = scores.labels == scores.classes.index(name)
        return float((scores.decisions == scores.labels)[is_class].mean()) if is_class.any() else np.nan
    entry = METRICS[base]
    return entry.function(scores.labels, scores.probabilities if entry.needs == "scores" else scores.decisions)


def metric_interval(scores: Scores, metric: str, confidence: float) -> Interval:
    """Interval of a defined metric, the kind that its entry in `METRICS` allows."""
    right = scores.decisions == scores.labels
    base, separator, name = metric.partition(":")
    if separator:
        chosen = scores.labels == scores.classes.index(name)
        return proportion(right[chosen], scores.clusters[chosen], confidence)
    if metric == "balanced_accuracy":
        sides = [scores.labels == label for label in np.unique(scores.labels)]
        parts = [proportion(right[side], scores.clusters[side], confidence) for side in sides]
        return mean_of_proportions([float(right[side].mean()) for side in sides], parts)
    entry = METRICS[base]
    if entry.counted is not None:
        chosen = entry.counted(scores.labels, scores.decisions)
        return proportion(right[chosen], scores.clusters[chosen], confidence)
    if entry.losses is not None:
        return mean_of_losses(entry.losses(scores.labels, scores.probabilities), scores.clusters, confidence)
    scale: Scale = "logit" if (entry.low, entry.high) == (0, 1) else "identity"
    return jackknife(
        lambda kept: metric_value(scores.select(kept), metric),
        scores.clusters,
        confidence,
        scale=scale,
        limits=(entry.low, entry.high),
    )


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
