"""Means over several findings: areas of all findings under the same resamples of patients.

Findings of one patient are not independent, so the interval of their mean needs all of them drawn together. Patients
are drawn within folds and within the rarest finding that they have: no resample then loses the rarest finding, and for
a single finding this is the bootstrap within folds and classes of `pipeline.evaluation.estimates`.

Of a single patient with (or without) a finding in a fold, nothing tells how the finding's area varies there. A mean
that such a finding enters has no interval by resampling, and says because of which finding.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.core.records import CalibratedPrediction, Estimate, Level
from pipeline.core.results import Comparison
from pipeline.evaluation.areas import (
    ACROSS_FOLDS,
    AREAS,
    Key,
    RankedFolds,
    degrees_of_freedom,
    has_lone_cluster,
    independent_pairs,
    rank_folds,
    separation_interval,
)
from pipeline.evaluation.bootstrap import bootstrap_interval, replicate
from pipeline.evaluation.estimates import LEVELS, Name, Resampling
from pipeline.evaluation.intervals import Interval, corrected_t
from pipeline.evaluation.ranking import equal_weights
from pipeline.evaluation.scores import Clusters, FloatArray, Scores, collect_scores, strategies_of

_Rows = Mapping[str, Sequence[CalibratedPrediction]]
_METHOD = (
    "bootstrap of patient clusters, all findings together, within folds and rarest findings, {} replicates, logit scale"
)
_Content = tuple[int, int, int, tuple[float, ...]]


@dataclass(frozen=True)
class Means:
    """One strategy at one level: means over the findings, and what they are made of.

    Attributes
    ----------
    scores
        Of each finding.
    values, replicates
        Mean areas of the study as it is, and under its resamples.
    units
        Patients and images of all folds (None) and of each.
    lone
        Of each finding, the folds in which a single patient has it, or has it not.
    """

    strategy: str
    level: Level
    scores: Mapping[str, Scores]
    ranked: Mapping[str, RankedFolds]
    values: Mapping[Key, float]
    replicates: Mapping[Key, FloatArray]
    units: Mapping[int | None, tuple[int, int]]
    lone: Mapping[str, tuple[int, ...]]


def joint_clusters(rows_of: _Rows) -> Clusters:
    """Find the clusters of all findings together; their order is made from predictions, never from names.

    `Clusters.classes` is 0 for those without any finding, else a number for the rarest finding that they have. A
    cluster that is alone with its number in a fold is counted with the next rarest finding that it has, or with those
    without any: alone, it would stand in every resample, and its findings would seem to vary less than they do.
    """
    order = sorted(rows_of)  # by name, so that the order of the configuration decides nothing
    everyone = strategies_of([row for rows in rows_of.values() for row in rows])
    strategies = {name: place for place, name in enumerate(everyone)}
    contents: dict[str, list[_Content]] = {}
    folds: dict[str, int] = {}
    present: dict[str, set[int]] = {}
    for number, finding in enumerate(order, start=1):
        for row in rows_of[finding]:
            if row.level != "image":
                continue
            is_present = row.label == finding
            contents.setdefault(row.group, []).append(
                (strategies[row.strategy], number, int(is_present), row.probabilities)
            )
            folds[row.group] = row.fold
            present.setdefault(row.group, set()).update({number} if is_present else set())
    frequency = Counter(number for held in present.values() for number in held)
    ranked = {name: [*sorted(held, key=lambda one: (frequency[one], one)), 0] for name, held in present.items()}
    strata: dict[str, int] = {}
    for fold in set(folds.values()):
        strata.update(_strata({name: held for name, held in ranked.items() if folds[name] == fold}))
    names = sorted(contents, key=lambda name: (folds[name], strata[name], sorted(contents[name])))
    return Clusters(
        index={name: place for place, name in enumerate(names)},
        folds=np.array([folds[name] for name in names], dtype=np.int64),
        classes=np.array([strata[name] for name in names], dtype=np.int64),
    )


def judge_means(rows_of: _Rows, resampling: Resampling | None) -> list[Means]:
    """Evaluate the mean areas of all strategies and levels under the same resamples (none without `resampling`).

    Parameters
    ----------
    rows_of
        Calibrated predictions of each finding, whose name is that of the positive class.
    """
    clusters = joint_clusters(rows_of)
    strategies = strategies_of([row for rows in rows_of.values() for row in rows])
    scores = {
        (strategy, level): {
            finding: collect_scores(rows, strategy, level, (f"no {finding}", finding), clusters)
            for finding, rows in rows_of.items()
        }
        for strategy in strategies
        for level in LEVELS
    }
    ranked = {name: {finding: rank_folds(one) for finding, one in found.items()} for name, found in scores.items()}

    def statistics(weights: FloatArray) -> dict[tuple[tuple[str, Level], Key], FloatArray]:
        return {
            (name, key): values for name, found in ranked.items() for key, values in _mean_areas(found, weights).items()
        }

    units = _units(rows_of)
    whole = statistics(equal_weights(clusters.folds.size))
    drawn = (
        replicate(clusters, statistics, seed=resampling.seed, replicates=resampling.replicates) if resampling else {}
    )
    return [
        Means(
            *name,
            found,
            ranked[name],
            values={key: float(values[0]) for (other, key), values in whole.items() if other == name},
            replicates={key: values for (other, key), values in drawn.items() if other == name},
            units=units,
            lone={finding: _lone_folds(one, ranked[name][finding]) for finding, one in found.items()},
        )
        for name, found in scores.items()
    ]


def estimate_means(means: Sequence[Means], strategy: str, resampling: Resampling) -> list[Estimate]:
    """Estimates of one strategy: all folds first, then fold by fold; patients before images."""
    found = []
    for one in means:
        if one.strategy != strategy:
            continue
        for (metric, fold), value in _reported(one).items():
            found.append(_estimate(one, metric, fold, value, resampling))
    return found


def compare_means(means: Sequence[Means], resampling: Resampling) -> list[Comparison]:
    """Differences of the means between the first strategy and every other one, under the same resamples."""
    by_name = {(one.strategy, one.level): one for one in means}
    first, *others = list(dict.fromkeys(one.strategy for one in means))
    comparisons = []
    for other in others:
        for level in LEVELS:
            pair = by_name[first, level], by_name[other, level]
            comparisons += [_difference(*pair, metric, resampling) for metric in AREAS]
        comparisons.append(_difference(by_name[first, "patient"], by_name[other, "patient"], ACROSS_FOLDS, resampling))
    return comparisons


def recompute_means(rows_of: _Rows) -> dict[Name, float | None]:
    """Recompute the mean areas from the stored predictions."""
    return {
        (one.strategy, one.level, metric, fold): value if np.isfinite(value) else None
        for one in judge_means(rows_of, None)
        for (metric, fold), value in _reported(one).items()
    }


def _strata(held: Mapping[str, list[int]]) -> dict[str, int]:
    """Give each cluster of a fold its stratum, of which none holds a single one if that can be.

    Parameters
    ----------
    held
        Findings of each cluster by number, the rarest first, and 0 at the end.
    """
    strata = {name: numbers[0] for name, numbers in held.items()}
    while True:
        sizes = Counter(strata.values())
        lone = sorted((name for name, number in strata.items() if sizes[number] == 1), key=lambda name: held[name])
        if not lone or len(sizes) == 1:
            return strata
        # The one with most findings has most strata to go to. Of those without any, the largest stratum is nearest.
        name = max(lone, key=lambda name: len(held[name]))
        del sizes[strata[name]]
        others = [number for number in held[name] if number in sizes]
        strata[name] = others[0] if others else max(sizes, key=lambda number: (sizes[number], -number))


def _mean_areas(ranked: Mapping[str, RankedFolds], weights: FloatArray) -> dict[Key, FloatArray]:
    """Average each area over the findings that have it, shape (replicates,)."""
    gathered: dict[Key, list[FloatArray]] = {}
    for rankings in ranked.values():
        for key, values in rankings.values(weights).items():
            if key[0] in AREAS:
                gathered.setdefault(key, []).append(values)
    return {key: np.mean(np.stack(values), axis=0) for key, values in gathered.items()}


def _reported(one: Means) -> dict[Key, float]:
    values: dict[Key, float] = {(metric, None): one.values.get((metric, None), np.nan) for metric in AREAS}
    if one.level == "patient":
        values[ACROSS_FOLDS, None] = values["auroc", None]
        folds = sorted({fold for _, fold in one.values if fold is not None})
        values.update({(metric, fold): one.values[metric, fold] for fold in folds for metric in AREAS})
    return values


def _estimate(one: Means, metric: str, fold: int | None, value: float, resampling: Resampling) -> Estimate:
    interval = Interval(None, None, "", "not defined: no finding is present in some and absent in others")
    if metric == ACROSS_FOLDS:
        interval = _across_folds([one.values[key] for key in _fold_keys(one)], resampling.confidence)
    elif metric == "auroc" and value in {0.0, 1.0}:
        interval = separation_interval(value, _fewest_pairs(one, metric, fold), resampling.confidence)
    elif np.isfinite(value) and (lone := _lone(one, fold)):
        interval = Interval(None, None, "", f"{lone}: no interval can be made")
    elif np.isfinite(value):
        freedom = _freedom(one, metric, fold)
        made = bootstrap_interval(value, one.replicates[metric, fold], resampling.confidence, "logit", freedom)
        interval = replace(made, method=_METHOD.format(resampling.replicates))
    patients, images = one.units[fold]
    return Estimate(
        strategy=one.strategy,
        level=one.level,
        fold=fold,
        metric=metric,
        value=value if np.isfinite(value) else None,
        low=interval.low,
        high=interval.high,
        confidence=resampling.confidence,
        method=interval.method,
        patients=patients,
        images=images,
        note="; ".join(part for part in (interval.note, _lacking(one, fold)) if part),
    )


def _difference(one: Means, other: Means, metric: str, resampling: Resampling) -> Comparison:
    confidence, interval, difference = resampling.confidence, Interval(None, None, "not defined"), None
    keys = _fold_keys(one) if metric == ACROSS_FOLDS else [(metric, None)]
    shared = [key for key in keys if key in one.values and key in other.values]
    differences = [one.values[key] - other.values[key] for key in shared]
    if differences and metric == ACROSS_FOLDS:
        difference, interval = float(np.mean(differences)), corrected_t(differences, confidence)
    elif differences and (lone := _lone(one, None)):
        (difference,), interval = differences, Interval(None, None, f"no interval can be made: {lone}")
    elif differences:
        (difference,), (key,) = differences, shared
        replicates = one.replicates[key] - other.replicates[key]
        made = bootstrap_interval(difference, replicates, confidence, "identity", _freedom(one, metric, None))
        interval = replace(made, method=_METHOD.format(resampling.replicates).replace("logit", "identity"))
    return Comparison(
        strategy=one.strategy,
        reference=other.strategy,
        level=one.level,
        metric=metric,
        difference=difference,
        low=None if interval.low is None else max(-1.0, interval.low),
        high=None if interval.high is None else min(1.0, interval.high),
        confidence=confidence,
        method=interval.method if interval.low is None else f"paired {interval.method}",
    )


def _across_folds(values: Sequence[float], confidence: float) -> Interval:
    interval = corrected_t(values, confidence)
    if interval.low is None or interval.high is None:
        return interval
    return replace(interval, low=max(0.0, interval.low), high=min(1.0, interval.high))


def _fold_keys(one: Means) -> list[Key]:
    return [("auroc", fold) for metric, fold in one.values if metric == "auroc" and fold is not None]


def _lone_folds(scores: Scores, ranked: RankedFolds) -> tuple[int, ...]:
    """List the folds whose area of a finding hangs on a single cluster with it, or without it."""
    entered = [fold for fold, rankings in ranked.folds.items() if rankings]
    return tuple(fold for fold in entered if has_lone_cluster(scores.select(scores.folds == fold)))


def _lone(one: Means, fold: int | None) -> str:
    """Say which findings a single patient has, or has not; empty if there are none."""
    found = {name: [number + 1 for number in folds if fold in {None, number}] for name, folds in one.lone.items()}
    named = [f"{name} (fold {', '.join(map(str, numbers))})" for name, numbers in found.items() if numbers]
    return f"only one patient with, or only one without, {', '.join(named)}" if named else ""


def _fewest_pairs(one: Means, metric: str, fold: int | None) -> int:
    """Count independent pairs of the finding that has the fewest.

    If the mean over the findings is A, one of them has an area of at most A: complete separation of all is no likelier
    than that of this one.
    """
    parts = [scores if fold is None else scores.select(scores.folds == fold) for scores in one.scores.values()]
    return min(independent_pairs(part, metric) for part in parts if np.unique(part.labels).size > 1)


def _freedom(one: Means, metric: str, fold: int | None) -> int | None:
    """Degrees of freedom of the standard error: those of the finding with the fewest."""
    parts = [scores if fold is None else scores.select(scores.folds == fold) for scores in one.scores.values()]
    found = [degrees_of_freedom(part, metric) for part in parts if np.unique(part.labels).size > 1]
    known = [number for number in found if number is not None]
    return min(known) if known else None


def _lacking(one: Means, fold: int | None) -> str:
    """Say which findings do not, or not everywhere, enter a mean."""
    names = [
        name
        for name, ranked in one.ranked.items()
        if not all(rankings for number, rankings in ranked.folds.items() if fold in {None, number})
    ]
    return f"not in every fold both present and absent: {', '.join(names)}" if names else ""


def _units(rows_of: _Rows) -> dict[int | None, tuple[int, int]]:
    """Count patients and images of which something is known, over all folds (None) and in each."""
    images = {(row.fold, row.patient, row.unit_id) for rows in rows_of.values() for row in rows if row.level == "image"}
    folds: list[int | None] = [None, *sorted({fold for fold, _, _ in images})]
    return {
        fold: (
            len({patient for number, patient, _ in images if fold in {None, number}}),
            len({image for number, _, image in images if fold in {None, number}}),
        )
        for fold in folds
    }
