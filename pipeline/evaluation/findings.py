"""Findings: each judged as a study of two classes over the images of which it is known, then all of them together.

Nothing here computes a number of its own: a finding's predictions become those of a binary study (not there, there),
whose calibration, thresholds, areas, intervals and decisions are those of `pipeline.evaluation.estimates` and its
neighbours. A study with a single finding therefore has the numbers of the binary study, exactly.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pipeline.core.errors import ReportError
from pipeline.core.records import (
    EpochLog,
    Estimate,
    FindingPrediction,
    Level,
    Prediction,
    TrainingSummary,
)
from pipeline.core.results import Comparison, FindingResult, OperatingPoint, StrategyResult
from pipeline.core.states import ABSENT, PRESENT, UNKNOWN, read_states
from pipeline.evaluation.aggregation import Aggregation
from pipeline.evaluation.estimates import Judged, Name, Resampling, compare, judge, recompute
from pipeline.evaluation.macro import compare_means, estimate_means, judge_means, recompute_means
from pipeline.evaluation.out_of_fold import FoldFit, calibrate
from pipeline.evaluation.results import collect_result
from pipeline.evaluation.thresholds import Rule

T = TypeVar("T", Estimate, Comparison)


@dataclass(frozen=True)
class JudgedFinding:
    """One finding as a binary study.

    Attributes
    ----------
    rows
        Its calibrated predictions, images and patients of which it is known.
    fits
        Of all strategies and folds.
    """

    name: str
    rows: Sequence[FindingPrediction]
    fits: Sequence[FoldFit]
    judged: Mapping[tuple[str, Level], Judged]

    def of(self, strategy: str) -> list[FoldFit]:
        """Fits of one strategy."""
        return [fit for fit in self.fits if fit.strategy == strategy]


def classes_of(finding: str) -> tuple[str, str]:
    """Name the two classes of a finding; the second is the positive one.

    Examples
    --------
    >>> classes_of("Mass")
    ('no Mass', 'Mass')
    """
    return f"no {finding}", finding


def as_binary(predictions: Sequence[Prediction], findings: Sequence[str]) -> Iterator[tuple[str, list[Prediction]]]:
    """Give each finding with the predictions of the images of which it is known, as those of two classes.

    The logit is divided evenly over the two: their difference is what the network said. One finding after the other,
    because a large archive has millions of rows.
    """
    states = {text: read_states(text, findings) for text in dict.fromkeys(row.label for row in predictions)}
    for place, name in enumerate(findings):
        label_of = dict(zip((ABSENT, PRESENT), classes_of(name), strict=True))
        yield (
            name,
            [
                row.model_copy(
                    update={
                        "label": label_of[states[row.label][place]],
                        "logits": (-row.logits[place] / 2, row.logits[place] / 2),
                    }
                )
                for row in predictions
                if states[row.label][place] != UNKNOWN
            ],
        )


def judge_findings(
    predictions: Sequence[Prediction],
    *,
    strategies: Sequence[str],
    findings: Sequence[str],
    rule: Rule,
    aggregation: Aggregation,
    resampling: Resampling,
) -> list[JudgedFinding]:
    """Calibrate and judge each finding by itself.

    Raises
    ------
    ReportError
        If a finding is unknown in the whole test part of a fold.
    """
    folds = {row.fold for row in predictions}
    judged = []
    for name, rows in as_binary(predictions, findings):
        lacking = folds - {row.fold for row in rows if row.role == "test"}
        if lacking:
            what = f"the finding `{name}` is unknown in the whole test part of fold {min(lacking) + 1}"
            raise ReportError(what, remedy="divide by patients, use fewer folds, or take the finding out")
        classes = classes_of(name)
        fits, calibrated = calibrate(rows, strategies=strategies, classes=classes, rule=rule, aggregation=aggregation)
        own = [FindingPrediction.model_construct(finding=name, **dict(row)) for row in calibrated]
        judged.append(JudgedFinding(name, own, fits, judge(own, classes, resampling)))
    return judged


def collect_findings(
    judged: Sequence[JudgedFinding],
    *,
    resampling: Resampling,
    rule: Rule,
    prevalences: Sequence[float],
    history: Sequence[EpochLog],
    training: Sequence[TrainingSummary],
    units: tuple[int, int],
) -> tuple[list[StrategyResult], list[Comparison]]:
    """Put together the results of every strategy, means over the findings first, and the comparisons.

    Parameters
    ----------
    units
        All patients and images tested, known or not.
    """
    together = judge_means({one.name: one.rows for one in judged}, resampling)
    strategies = list(dict.fromkeys(strategy for strategy, _ in judged[0].judged))
    results = []
    for strategy in strategies:
        parts = [
            collect_result(
                one.judged,
                one.of(strategy),
                resampling=resampling,
                rule=rule,
                prevalences=prevalences,
                history=[row for row in history if row.strategy == strategy],
                training=[row for row in training if row.strategy == strategy],
            )
            for one in judged
        ]
        names = [one.name for one in judged]
        results.append(_joined(names, parts, estimate_means(together, strategy, resampling), units))
    comparisons = compare_means(together, resampling)
    for one in judged:
        comparisons += [_renamed(item, one.name) for item in compare(one.judged, resampling)]
    return results, comparisons


def list_rows(judged: Sequence[JudgedFinding]) -> list[FindingPrediction]:
    """List the calibrated predictions of all findings, one after the other."""
    return [row for one in judged for row in one.rows]


def recompute_findings(rows: Sequence[FindingPrediction], findings: Sequence[str]) -> dict[Name, float | None]:
    """Recompute the value of every estimate from the stored predictions, like `estimates.recompute`."""
    rows_of = {name: [row for row in rows if row.finding == name] for name in findings}
    found = recompute_means(rows_of)
    for name, own in rows_of.items():
        values = recompute(own, classes_of(name))
        found.update({(one, level, f"{metric}:{name}", fold): v for (one, level, metric, fold), v in values.items()})
    return found


def _joined(
    names: Sequence[str], parts: Sequence[StrategyResult], means: Sequence[Estimate], units: tuple[int, int]
) -> StrategyResult:
    """Make one result of those of the findings, whose metrics then bear the finding's name."""
    first = parts[0]
    own = [_renamed(item, name) for name, part in zip(names, parts, strict=True) for item in part.estimates]
    return StrategyResult(
        strategy=first.strategy,
        estimates=(*means, *own),
        roc=tuple(curve for part in parts for curve in part.roc),
        precision_recall=tuple(curve for part in parts for curve in part.precision_recall),
        calibration=tuple(item for part in parts for item in part.calibration),
        operating_point=None,
        findings=tuple(_finding(name, part, units) for name, part in zip(names, parts, strict=True)),
        history=first.history,
        training=first.training,
    )


def _finding(name: str, part: StrategyResult, units: tuple[int, int]) -> FindingResult:
    point = part.operating_point
    whole = next(item for item in part.estimates if (item.level, item.fold) == ("image", None))
    if not isinstance(point, OperatingPoint):
        raise TypeError
    absent, present = (sum(row) for row in point.confusion)
    return FindingResult(
        name=name,
        patients_present=present,
        patients_absent=absent,
        patients_unknown=units[0] - present - absent,
        images_known=whole.images,
        images_unknown=units[1] - whole.images,
        operating_point=point,
    )


def _renamed(item: T, finding: str) -> T:
    return item.model_copy(update={"metric": f"{item.metric}:{finding}"})
