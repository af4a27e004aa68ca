"""Curves: ROC and precision-recall averaged over the folds, and reliability, for each evaluated class."""

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.core.results import Calibration, PrecisionRecallCurve, RocCurve
from pipeline.evaluation.areas import RankedFolds
from pipeline.evaluation.calibration import expected_error, fit_line, reliability
from pipeline.evaluation.intervals import around, normal_quantile
from pipeline.evaluation.out_of_fold import FoldFit
from pipeline.evaluation.ranking import equal_weights
from pipeline.evaluation.scores import FloatArray, Scores

# False positive rates of ROC curves, recalls of precision-recall curves.
CURVE_GRID: FloatArray = np.linspace(0, 1, 101)


def roc_rates(ranked: RankedFolds, labels: Sequence[int], weights: FloatArray) -> dict[int, FloatArray]:
    """Evaluate true positive rates on `CURVE_GRID` for each class, shape (grid, replicates).

    The mean of the folds' curves at each false positive rate (vertical averaging: Fawcett, 2006,
    doi:10.1016/j.patrec.2005.10.010), so that the curve belongs to the mean of the folds' areas.
    """
    curves: dict[int, FloatArray] = {}
    for label in labels:
        rates = [ranking.true_positive_rates(CURVE_GRID, weights) for ranking in ranked.of_class(label)]
        if rates:
            curves[label] = np.mean(np.stack(rates), axis=0)
    return curves


def draw_roc(
    scores: Scores, ranked: RankedFolds, replicates: Mapping[int, FloatArray], confidence: float
) -> tuple[RocCurve, ...]:
    """ROC curves with pointwise percentile bands of the replicates.

    Parameters
    ----------
    replicates
        As given by `roc_rates` under resampling.
    """
    whole = roc_rates(ranked, scores.evaluated_classes, equal_weights(int(scores.clusters.max()) + 1))
    tail = (1 - confidence) / 2
    curves = []
    for label, rates in whole.items():
        low, high = np.nanquantile(replicates[label], [tail, 1 - tail], axis=1)
        curves.append(
            RocCurve(
                class_name=scores.classes[label],
                false_positive_rate=tuple(CURVE_GRID.tolist()),
                true_positive_rate=tuple(rates[:, 0].tolist()),
                low=tuple(low.tolist()),
                high=tuple(high.tolist()),
            )
        )
    return tuple(curves)


def draw_precision_recall(scores: Scores, ranked: RankedFolds) -> tuple[PrecisionRecallCurve, ...]:
    """Precision at each recall, mean of the folds; the area below is the mean of the folds' average precisions."""
    curves = []
    for label in scores.evaluated_classes:
        rankings = ranked.of_class(label)
        if not rankings:
            continue
        precision = np.mean([ranking.precisions(CURVE_GRID) for ranking in rankings], axis=0)
        sizes = [(ranking.positive_clusters.size, ranking.negative_clusters.size) for ranking in rankings]
        curves.append(
            PrecisionRecallCurve(
                class_name=scores.classes[label],
                recall=tuple(CURVE_GRID.tolist()),
                precision=tuple(precision.tolist()),
                prevalence=float(np.mean([positive / (positive + negative) for positive, negative in sizes])),
            )
        )
    return tuple(curves)


def check_calibration(scores: Scores, fits: Sequence[FoldFit], confidence: float) -> tuple[Calibration, ...]:
    """Compare predicted probabilities with observed frequencies, for each evaluated class.

    Parameters
    ----------
    scores
        At patient level.
    fits
        Of the same strategy, folds rising.
    """
    found = []
    half = normal_quantile(confidence)
    for label in scores.evaluated_classes:
        is_positive, probabilities = scores.labels == label, scores.probabilities[:, label]
        bins = reliability(is_positive, probabilities, confidence)
        line = fit_line(is_positive, probabilities, scores.clusters)
        notes = [f"fold {fit.fold + 1}: {fit.calibrator.note}" for fit in fits if fit.calibrator.note]
        if line is None:
            notes.append("slope and intercept have no finite value: the classes are separated, or one is missing")
        found.append(
            Calibration(
                class_name=scores.classes[label],
                bins=bins,
                slope=line.slope if line else None,
                slope_interval=around(line.slope, half * line.slope_error, "identity") if line else None,
                intercept=line.intercept if line else None,
                intercept_interval=around(line.intercept, half * line.intercept_error, "identity") if line else None,
                brier=float(np.mean((probabilities - is_positive) ** 2)),
                expected_error=expected_error(bins),
                fold_temperatures=tuple(fit.calibrator.temperature for fit in fits),
                fold_offsets=tuple(_offset(fit, label) for fit in fits),
                note="; ".join(notes),
            )
        )
    return tuple(found)


def _offset(fit: FoldFit, label: int) -> float:
    """Give what calibration adds to a class's logit; of two classes, to the positive minus the negative logit."""
    offsets = fit.calibrator.offsets
    return offsets[1] - offsets[0] if len(offsets) == 2 else offsets[label]
