"""Results: estimates, curves and decisions put together for each strategy, and numbers rounded for good."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

from pipeline.core.records import EpochLog, Level, Record, TrainingSummary
from pipeline.core.results import StrategyResult
from pipeline.evaluation.curves import check_calibration, draw_precision_recall, draw_roc
from pipeline.evaluation.decisions import operating_point
from pipeline.evaluation.estimates import Judged, Resampling, estimate
from pipeline.evaluation.out_of_fold import FoldFit
from pipeline.evaluation.thresholds import Rule

R = TypeVar("R", bound=Record)
# More digits than any reader needs, fewer than the last bits in which two processors may differ.
SIGNIFICANT_DIGITS = 10


def collect_result(
    judged: Mapping[tuple[str, Level], Judged],
    fits: Sequence[FoldFit],
    *,
    resampling: Resampling,
    rule: Rule,
    prevalences: Sequence[float],
    history: Sequence[EpochLog],
    training: Sequence[TrainingSummary],
) -> StrategyResult:
    """Put together everything about the strategy that `fits`, one for each fold, belong to."""
    strategy = fits[0].strategy
    patients = judged[strategy, "patient"]
    own = sorted(fits, key=lambda fit: fit.fold)
    return StrategyResult(
        strategy=strategy,
        estimates=tuple(estimate(judged, strategy, resampling)),
        roc=draw_roc(patients.scores, patients.ranked, patients.roc_replicates, resampling.confidence),
        precision_recall=draw_precision_recall(patients.scores, patients.ranked),
        calibration=check_calibration(patients.scores, own, resampling.confidence),
        operating_point=operating_point(patients.scores, own, rule, prevalences),
        history=tuple(sorted(history, key=lambda row: (row.fold, row.epoch))),
        training=tuple(sorted(training, key=lambda row: row.fold)),
    )


def round_numbers(record: R) -> R:
    """Round every number of a record to `SIGNIFICANT_DIGITS`, so that it is written with the same bytes."""
    return type(record).model_validate(_rounded(record.model_dump()))


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return float(f"{value:.{SIGNIFICANT_DIGITS}g}")
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_rounded(part) for part in value)
    return value
