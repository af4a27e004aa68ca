"""Scores: the out-of-fold predictions of one strategy at one level as arrays, and the clusters they come in."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.core.records import CalibratedPrediction, Level

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class Clusters:
    """What is drawn whole by the bootstrap: patients, or groups of patients that share an image.

    Clusters stand in an order made from their predictions, not from their names: names are pseudonyms, and
    no number may depend on the secret key behind them.

    Attributes
    ----------
    index
        Position of each cluster by name.
    folds
        Fold whose test part holds the cluster, shape (clusters,).
    classes
        Highest class index among the cluster's images, shape (clusters,); for two classes: is it positive.
    """

    index: Mapping[str, int]
    folds: IntArray
    classes: IntArray


@dataclass(frozen=True)
class Scores:
    """Out-of-fold predictions of one strategy, one row for each image or patient.

    Attributes
    ----------
    probabilities
        Calibrated, shape (units, classes), each in [0, 1].
    labels, decisions
        Class indices, shape (units,).
    folds
        Fold that tested the unit, shape (units,).
    clusters
        Position of the unit's cluster in `Clusters`, shape (units,).
    patients
        A number for each patient, shape (units,).
    """

    strategy: str
    level: Level
    classes: tuple[str, ...]
    probabilities: FloatArray
    labels: IntArray
    decisions: IntArray
    folds: IntArray
    clusters: IntArray
    patients: IntArray

    @property
    def is_binary(self) -> bool:
        """Two classes: the second is the positive one."""
        return len(self.classes) == 2

    @property
    def evaluated_classes(self) -> tuple[int, ...]:
        """Classes held against all others: the positive one of two, else each."""
        return (1,) if self.is_binary else tuple(range(len(self.classes)))

    def fold_numbers(self) -> list[int]:
        """Folds in rising order."""
        return [int(fold) for fold in np.unique(self.folds)]

    def select(self, chosen: BoolArray) -> "Scores":
        """Keep the chosen rows."""
        return Scores(
            self.strategy,
            self.level,
            self.classes,
            self.probabilities[chosen],
            self.labels[chosen],
            self.decisions[chosen],
            self.folds[chosen],
            self.clusters[chosen],
            self.patients[chosen],
        )


def strategies_of(rows: Iterable[CalibratedPrediction]) -> tuple[str, ...]:
    """List the strategies in the order of their first row."""
    return tuple(dict.fromkeys(row.strategy for row in rows))


def find_clusters(rows: Sequence[CalibratedPrediction], classes: Sequence[str]) -> Clusters:
    """Find the clusters of a study and put them into their order: fold, class, predictions.

    The predictions of the first strategy decide, those of the others where the first has ties, so that a
    further strategy does not change the resamples of the first. Clusters with equal predictions are
    interchangeable.
    """
    rank = {name: position for position, name in enumerate(classes)}
    strategies = {name: position for position, name in enumerate(strategies_of(rows))}
    contents: dict[str, list[tuple[int, int, tuple[float, ...]]]] = {}
    folds: dict[str, int] = {}
    highest: dict[str, int] = {}
    for row in rows:
        if row.level != "image":
            continue
        label = rank[row.label]
        contents.setdefault(row.group, []).append((strategies[row.strategy], label, row.probabilities))
        folds[row.group] = row.fold
        highest[row.group] = max(label, highest.get(row.group, 0))
    names = sorted(contents, key=lambda name: (folds[name], highest[name], sorted(contents[name])))
    return Clusters(
        index={name: position for position, name in enumerate(names)},
        folds=np.array([folds[name] for name in names], dtype=np.int64),
        classes=np.array([highest[name] for name in names], dtype=np.int64),
    )


def collect_scores(
    rows: Sequence[CalibratedPrediction], strategy: str, level: Level, classes: tuple[str, ...], clusters: Clusters
) -> Scores:
    """Turn the rows of one strategy and level into arrays."""
    chosen = [row for row in rows if row.strategy == strategy and row.level == level]
    rank = {name: position for position, name in enumerate(classes)}
    patients = {name: number for number, name in enumerate(dict.fromkeys(row.patient for row in chosen))}
    return Scores(
        strategy=strategy,
        level=level,
        classes=classes,
        probabilities=np.array([row.probabilities for row in chosen], dtype=np.float64).reshape(-1, len(classes)),
        labels=np.array([rank[row.label] for row in chosen], dtype=np.int64),
        decisions=np.array([rank[row.decision] for row in chosen], dtype=np.int64),
        folds=np.array([row.fold for row in chosen], dtype=np.int64),
        clusters=np.array([clusters.index[row.group] for row in chosen], dtype=np.int64),
        patients=np.array([patients[row.patient] for row in chosen], dtype=np.int64),
    )
