"""Estimates: every number of every strategy with its interval, made from the calibrated predictions alone.

What `estimate` needs is in ``predictions.tsv`` and three settings, so that whoever holds that table can repeat
every number; `recompute` gives the values without their intervals.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.core.records import CalibratedPrediction, Estimate, Level
from pipeline.core.results import Comparison
from pipeline.evaluation.areas import (
    ACROSS_FOLDS,
    AREAS,
    Key,
    RankedFolds,
    area_interval,
    degrees_of_freedom,
    fold_notes,
    rank_folds,
)
from pipeline.evaluation.bootstrap import bootstrap_interval, replicate
from pipeline.evaluation.curves import roc_rates
from pipeline.evaluation.decisions import list_metrics, metric_interval, metric_value
from pipeline.evaluation.intervals import Interval, corrected_t
from pipeline.evaluation.ranking import equal_weights
from pipeline.evaluation.scores import Clusters, FloatArray, Scores, collect_scores, find_clusters, strategies_of

LEVELS: tuple[Level, ...] = ("patient", "image")
# Strategy, level, metric, fold.
Name = tuple[str, Level, str, int | None]


@dataclass(frozen=True)
class Resampling:
    """How intervals are made.

    Attributes
    ----------
    seed
        Seed of the study.
    replicates
        Number of bootstrap replicates.
    confidence
        Level of the intervals, in (0, 1).
    """

    seed: int
    replicates: int
    confidence: float


@dataclass(frozen=True)
class Judged:
    """One strategy at one level: its predictions, the values of its areas, and their replicates.

    Attributes
    ----------
    values, replicates
        Areas of the study as it is, and under the study's resamples.
    roc_replicates
        For each evaluated class, ROC curves on `CURVE_GRID`, shape (grid, replicates); patient level only.
    """

    scores: Scores
    ranked: RankedFolds
    values: Mapping[Key, float]
    replicates: Mapping[Key, FloatArray]
    roc_replicates: Mapping[int, FloatArray]


def judge(
    rows: Sequence[CalibratedPrediction], classes: tuple[str, ...], resampling: Resampling
) -> dict[tuple[str, Level], Judged]:
    """Evaluate the areas of all strategies and levels under the same resamples.

    Parameters
    ----------
    rows
        Patients and images of all strategies; their order decides nothing but that of the strategies.
    """
    clusters = find_clusters(rows, classes)
    scores = _collect(rows, classes, clusters)
    ranked = {name: rank_folds(found) for name, found in scores.items()}

    def statistics(weights: FloatArray) -> dict[tuple[tuple[str, Level], Key | int], FloatArray]:
        result: dict[tuple[tuple[str, Level], Key | int], FloatArray] = {}
        for name, rankings in ranked.items():
            result.update({(name, key): values for key, values in rankings.values(weights).items()})
            if name[1] == "patient":
                curves = roc_rates(rankings, scores[name].evaluated_classes, weights)
                result.update({(name, label): values for label, values in curves.items()})
        return result

    drawn = replicate(clusters, statistics, seed=resampling.seed, replicates=resampling.replicates)
    judged = {}
    for name, rankings in ranked.items():
        own = {key: values for (other, key), values in drawn.items() if other == name}
        judged[name] = Judged(
            scores=scores[name],
            ranked=rankings,
            values=_area_values(rankings, clusters),
            replicates={key: values for key, values in own.items() if isinstance(key, tuple)},
            roc_replicates={key: values for key, values in own.items() if isinstance(key, int)},
        )
    return judged


def estimate(judged: Mapping[tuple[str, Level], Judged], strategy: str, resampling: Resampling) -> list[Estimate]:
    """All estimates of one strategy: all folds together first, then fold by fold; patients before images."""
    images = judged[strategy, "image"].scores
    return [
        _estimate(one, images, metric, fold, value, resampling)
        for one in (judged[strategy, level] for level in LEVELS)
        for (metric, fold), value in sorted(_values(one.scores, one.values).items(), key=_place)
    ]


def compare(judged: Mapping[tuple[str, Level], Judged], resampling: Resampling) -> list[Comparison]:
    """Differences between the first strategy and every other one on the same patients, folds and resamples."""
    first, *others = list(dict.fromkeys(name for name, _ in judged))
    comparisons = []
    for reference in others:
        for level in LEVELS:
            one, other = judged[first, level], judged[reference, level]
            for metric in AREAS:
                comparisons.append(_difference(one, other, metric, resampling))
        comparisons.append(_difference_across_folds(judged[first, "patient"], judged[reference, "patient"], resampling))
    return comparisons


def recompute(rows: Sequence[CalibratedPrediction], classes: tuple[str, ...]) -> dict[Name, float | None]:
    """Recompute the value of every estimate from the stored predictions.

    Parameters
    ----------
    rows
        The table ``predictions.tsv`` of a study.
    classes
        The study's classes in their order.

    Returns
    -------
    dict
        Value by strategy, level, metric and fold (None: all folds); None where it is not defined.
    """
    clusters = find_clusters(rows, classes)
    found: dict[Name, float | None] = {}
    for (strategy, level), scores in _collect(rows, classes, clusters).items():
        values = _values(scores, _area_values(rank_folds(scores), clusters))
        found.update({(strategy, level, metric, fold): _known(value) for (metric, fold), value in values.items()})
    return found


def _collect(
    rows: Sequence[CalibratedPrediction], classes: tuple[str, ...], clusters: Clusters
) -> dict[tuple[str, Level], Scores]:
    return {
        (strategy, level): collect_scores(rows, strategy, level, classes, clusters)
        for strategy in strategies_of(rows)
        for level in LEVELS
    }


def _area_values(ranked: RankedFolds, clusters: Clusters) -> dict[Key, float]:
    return {key: float(values[0]) for key, values in ranked.values(equal_weights(clusters.folds.size)).items()}


def _values(scores: Scores, areas: Mapping[Key, float]) -> dict[Key, float]:
    """Value of every metric that is reported at this level; NaN where it is not defined."""
    is_patient = scores.level == "patient"
    values: dict[Key, float] = {(metric, None): np.nan for metric in AREAS}
    values.update({key: value for key, value in areas.items() if is_patient or key[1] is None})
    if is_patient:
        values[ACROSS_FOLDS, None] = values["auroc", None]
    for metric in list_metrics(scores, one_fold=False):
        values[metric, None] = metric_value(scores, metric)
    for fold in scores.fold_numbers() if is_patient else ():
        part = scores.select(scores.folds == fold)
        for metric in AREAS:
            values.setdefault((metric, fold), np.nan)
        for metric in list_metrics(scores, one_fold=True):
            values[metric, fold] = metric_value(part, metric)
    return values


def _estimate(
    one: Judged, images: Scores, metric: str, fold: int | None, value: float, resampling: Resampling
) -> Estimate:
    scores = one.scores if fold is None else one.scores.select(one.scores.folds == fold)
    known = _known(value)
    interval = Interval(None, None, "", "not defined: a class, or a decision, does not occur")
    notes: list[str] = []
    if known is not None and metric.startswith(AREAS):
        interval = area_interval(one.scores, (metric, fold), one.values, one.replicates, resampling.confidence)
        notes.append(fold_notes(one.scores, one.ranked) if fold is None else "")
    elif known is not None:
        interval = metric_interval(scores, metric, resampling.confidence)
    return Estimate(
        strategy=scores.strategy,
        level=scores.level,
        fold=fold,
        metric=metric,
        value=known,
        low=interval.low,
        high=interval.high,
        confidence=resampling.confidence,
        method=interval.method,
        patients=np.unique(scores.patients).size,
        images=images.labels.size if fold is None else int((images.folds == fold).sum()),
        note="; ".join(note for note in [interval.note, *notes] if note),
    )


def _difference(one: Judged, other: Judged, metric: str, resampling: Resampling) -> Comparison:
    key = (metric, None)
    interval = Interval(None, None, "")
    difference = None
    if key in one.values and key in other.values:
        difference = one.values[key] - other.values[key]
        replicates = one.replicates[key] - other.replicates[key]
        freedom = degrees_of_freedom(one.scores, metric)
        interval = bootstrap_interval(difference, replicates, resampling.confidence, "identity", freedom)
    method = f"paired {interval.method}" if interval.method else "not defined"
    return _comparison(one, other, metric, difference, Interval(interval.low, interval.high, method), resampling)


def _difference_across_folds(one: Judged, other: Judged, resampling: Resampling) -> Comparison:
    folds = [fold for metric, fold in one.values if metric == "auroc" and fold is not None]
    shared = [("auroc", fold) for fold in folds if ("auroc", fold) in other.values]
    differences = [one.values[key] - other.values[key] for key in shared]
    interval = corrected_t(differences, resampling.confidence)
    mean = sum(differences) / len(differences) if differences else None
    paired = Interval(interval.low, interval.high, f"paired {interval.method}")
    return _comparison(one, other, ACROSS_FOLDS, mean, paired, resampling)


def _comparison(
    one: Judged, other: Judged, metric: str, difference: float | None, interval: Interval, resampling: Resampling
) -> Comparison:
    return Comparison(
        strategy=one.scores.strategy,
        reference=other.scores.strategy,
        level=one.scores.level,
        metric=metric,
        difference=difference,
        low=None if interval.low is None else max(-1.0, interval.low),
        high=None if interval.high is None else min(1.0, interval.high),
        confidence=resampling.confidence,
        method=interval.method,
    )


def _place(item: tuple[Key, float]) -> int:
    """All folds first, then the folds in their order; within them as the metrics were made."""
    (_, fold), _ = item
    return -1 if fold is None else fold


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
