"""Ranking: one class held against the others, sorted once, evaluated under thousands of weightings at once."""

from dataclasses import dataclass

import numpy as np

from pipeline.evaluation.scores import BoolArray, FloatArray, IntArray

# Added to a grid of false positive rates so that rounding cannot choose the wrong end of a vertical step.
_STEP_SLACK = 1e-9


@dataclass(frozen=True)
class Ranking:
    """Positive and negative units in falling order of their scores.

    Every statistic takes `weights` of shape (clusters, replicates), one column for each resample, and gives
    one value a column. Only the weighted sums differ between columns; the sorting is done once.

    Attributes
    ----------
    positive_clusters, negative_clusters
        Cluster of each unit, in falling order of the scores.
    negatives_above, negatives_reached
        For each positive unit: how many negative units score higher; how many score at least as high.
    positives_reached
        For each positive unit: how many positive units score at least as high.
    """

    positive_clusters: IntArray
    negative_clusters: IntArray
    negatives_above: IntArray
    negatives_reached: IntArray
    positives_reached: IntArray

    @property
    def is_defined(self) -> bool:
        """Both sides have units."""
        return bool(self.positive_clusters.size and self.negative_clusters.size)

    def areas(self, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Area under the ROC curve and average precision, each of shape (replicates,).

        The first is the Mann-Whitney statistic: the weighted fraction of pairs in which the positive unit
        scores higher, ties counting half (Hanley and McNeil, 1982, doi:10.1148/radiology.143.1.7063747). The
        second is the precision at each positive unit's score, averaged over the positive units, without
        interpolation. Columns in which a side has no weight give NaN.
        """
        positive = weights[self.positive_clusters]
        positive_sums = _running_sum(positive)
        negative_sums = _running_sum(weights[self.negative_clusters])
        above = negative_sums[self.negatives_above]
        reached = negative_sums[self.negatives_reached]
        positive_total, negative_total = positive_sums[-1], negative_sums[-1]
        both = (positive_total > 0) & (negative_total > 0)
        pairs = np.where(both, positive_total * negative_total, np.nan)
        auroc = 1 - np.einsum("ij,ij->j", positive, above + reached) / 2 / pairs
        true = positive_sums[self.positives_reached]
        decided = true + reached
        precision = np.divide(true, decided, out=np.zeros_like(true), where=decided > 0)
        average_precision = np.einsum("ij,ij->j", positive, precision) / np.where(both, positive_total, np.nan)
        return auroc, average_precision

    def true_positive_rates(self, grid: FloatArray, weights: FloatArray) -> FloatArray:
        """ROC curve at the false positive rates `grid`, shape (grid, replicates).

        Tied scores give slanted pieces; at a vertical step the upper end is taken, so that the first value
        is the sensitivity without any false positive.
        """
        vertices_positive, vertices_negative = self._vertices()
        true = _running_sum(weights[self.positive_clusters])[vertices_positive]
        false = _running_sum(weights[self.negative_clusters])[vertices_negative]
        with np.errstate(invalid="ignore"):
            true, false = true / true[-1], false / false[-1]
        wanted = np.minimum(grid + _STEP_SLACK, 1.0)
        return np.stack([np.interp(wanted, false[:, i], true[:, i]) for i in range(weights.shape[1])], axis=1)

    def precisions(self, grid: FloatArray) -> FloatArray:
        """Precision at the first score that reaches each recall of `grid`, shape (grid,); every unit weighs one.

        Its integral over the recall is the average precision.
        """
        true = self.positives_reached.astype(np.float64)
        precision = true / (true + self.negatives_reached)
        recall = true / true.size
        wanted = np.maximum(grid - _STEP_SLACK, recall[0] * _STEP_SLACK)
        chosen: FloatArray = precision[np.searchsorted(recall, wanted, side="left")]
        return chosen

    def _vertices(self) -> tuple[IntArray, IntArray]:
        """Count the positive and negative units at or above each distinct score, starting from none."""
        ends = np.array([[0, 0], [self.positive_clusters.size, self.negative_clusters.size]])
        ups = np.stack([self._positives_above(), self.negatives_above], axis=1)
        tops = np.stack([self.positives_reached, self.negatives_reached], axis=1)
        # Between two neighbouring positive scores the curve is a horizontal line, so these corners are enough.
        corners: IntArray = np.unique(np.concatenate([ends, ups, tops]), axis=0)
        return corners[:, 0], corners[:, 1]

    def _positives_above(self) -> IntArray:
        """For each positive unit: how many positive units score higher."""
        above: IntArray = np.searchsorted(self.positives_reached, self.positives_reached, side="left")
        return above


def rank(is_positive: BoolArray, scores: FloatArray, clusters: IntArray | None = None) -> Ranking:
    """Sort units by score.

    Parameters
    ----------
    is_positive, scores
        Shape (units,).
    clusters
        Row of the weights that holds for each unit; each unit its own row if not given.
    """
    rows = np.arange(scores.size, dtype=np.int64) if clusters is None else clusters
    order = np.argsort(-scores, kind="stable")
    positive, negative = order[is_positive[order]], order[~is_positive[order]]
    positive_scores, negative_scores = -scores[positive], -scores[negative]
    return Ranking(
        positive_clusters=rows[positive],
        negative_clusters=rows[negative],
        negatives_above=np.searchsorted(negative_scores, positive_scores, side="left"),
        negatives_reached=np.searchsorted(negative_scores, positive_scores, side="right"),
        positives_reached=np.searchsorted(positive_scores, positive_scores, side="right"),
    )


def equal_weights(units: int) -> FloatArray:
    """One column of ones: the study as it is."""
    return np.ones((units, 1))


def _running_sum(values: FloatArray) -> FloatArray:
    """Cumulative sums along the first axis, starting from a row of zeros."""
    sums = np.zeros((values.shape[0] + 1, values.shape[1]))
    np.cumsum(values, axis=0, out=sums[1:])
    return sums
