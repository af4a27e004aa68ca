"""Study: from the tables of a run to its evaluation, checked before anything is computed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pipeline.core.provenance import fingerprint, versions
from pipeline.core.records import (
    CalibratedPrediction,
    EpochLog,
    Finding,
    FlowStep,
    FoldRole,
    Image,
    Label,
    Prediction,
    Series,
    TrainingSummary,
)
from pipeline.core.results import Comparison, Evaluation, FindingCount, StrategyResult
from pipeline.core.states import LabelKind
from pipeline.evaluation.aggregation import Aggregation, in_words
from pipeline.evaluation.caveats import Material, list_caveats
from pipeline.evaluation.cohort_table import describe_cohort
from pipeline.evaluation.consistency import arrange_predictions, check_folds, check_history, order_strategies
from pipeline.evaluation.estimates import Resampling, compare, judge
from pipeline.evaluation.finding_caveats import list_finding_caveats
from pipeline.evaluation.findings import collect_findings, judge_findings, list_rows
from pipeline.evaluation.flow import check_flow, count_findings
from pipeline.evaluation.out_of_fold import calibrate
from pipeline.evaluation.results import collect_result, round_numbers
from pipeline.evaluation.thresholds import Rule


@dataclass(frozen=True)
class Tables:
    """What the stages before wrote, all folds together."""

    series: Sequence[Series]
    images: Sequence[Image]
    labels: Sequence[Label]
    folds: Sequence[FoldRole]
    flow: Sequence[FlowStep]
    findings: Sequence[Finding]
    predictions: Sequence[Prediction]
    history: Sequence[EpochLog]
    training: Sequence[TrainingSummary]


@dataclass(frozen=True)
class Protocol:
    """How a study is judged; fixed before its predictions are seen.

    Attributes
    ----------
    classes
        In the order of the logits; of two, the second is the positive one. Or findings, as `kind` says.
    prevalences
        For which predictive values are computed, each in (0, 1).
    """

    classes: tuple[str, ...]
    resampling: Resampling
    rule: Rule
    aggregation: Aggregation
    prevalences: tuple[float, ...]
    kind: LabelKind = "classes"


def evaluate_study(
    study: str, tables: Tables, protocol: Protocol, *, created: str, module: str
) -> tuple[Evaluation, Sequence[CalibratedPrediction]]:
    """Check the tables of a study and compute every number of its report.

    Parameters
    ----------
    study
        Name of the study.
    created
        Time of the evaluation, ISO 8601.
    module
        Dotted name of the module whose code, imports included, is to be named as the source.

    Returns
    -------
    tuple
        The evaluation, its numbers rounded, and the predictions that it was made from.

    Raises
    ------
    LeakageError
        If a patient stands on two sides of a split or an image is tested twice.
    ReportError
        If tables do not agree with each other, or something got lost between them.
    """
    classes, resampling, kind = protocol.classes, protocol.resampling, protocol.kind
    flow = check_flow(tables.flow, tables.findings, _count_units(tables))
    check_folds(tables.folds, tables.images, tables.labels, kind)
    folds = sorted({row.fold for row in tables.folds})
    strategies = order_strategies(tables.training, classes, folds, kind)
    check_history(tables.history, strategies, folds)
    predictions = arrange_predictions(tables.predictions, tables.folds, strategies, classes)
    counts = count_findings(tables.findings)
    found = (_of_classes if kind == "classes" else _of_findings)(
        tables, protocol, predictions, strategies, flow, counts
    )
    evaluation = Evaluation(
        study=study,
        created=created,
        kind=kind,
        classes=classes,
        positive_class=classes[1] if kind == "classes" and len(classes) == 2 else None,
        folds=len(folds),
        seed=resampling.seed,
        bootstrap_replicates=resampling.replicates,
        aggregation=in_words(protocol.aggregation, classes, kind),
        flow=flow,
        findings=counts,
        cohort=describe_cohort(tables.images, tables.folds, classes, kind),
        strategies=tuple(found.results),
        comparisons=tuple(found.comparisons),
        warnings=found.caveats,
        software=versions(),
        code=fingerprint(module),
    )
    return round_numbers(evaluation), found.rows


class _Found(NamedTuple):
    results: Sequence[StrategyResult]
    comparisons: Sequence[Comparison]
    caveats: tuple[str, ...]
    rows: Sequence[CalibratedPrediction]


def _of_classes(
    tables: Tables,
    protocol: Protocol,
    predictions: Sequence[Prediction],
    strategies: Sequence[str],
    flow: Sequence[FlowStep],
    counts: Sequence[FindingCount],
) -> _Found:
    classes, resampling = protocol.classes, protocol.resampling
    fits, rows = calibrate(
        predictions, strategies=strategies, classes=classes, rule=protocol.rule, aggregation=protocol.aggregation
    )
    judged = judge(rows, classes, resampling)
    results = tuple(
        collect_result(
            judged,
            [fit for fit in fits if fit.strategy == strategy],
            resampling=resampling,
            rule=protocol.rule,
            prevalences=protocol.prevalences,
            history=[row for row in tables.history if row.strategy == strategy],
            training=[row for row in tables.training if row.strategy == strategy],
        )
        for strategy in strategies
    )
    own = [fit for fit in fits if fit.strategy == strategies[0]]
    material = Material(classes, results[0], own, protocol.rule, flow, counts, tables.images, tables.folds)
    return _Found(results, compare(judged, resampling), list_caveats(material), rows)


def _of_findings(
    tables: Tables,
    protocol: Protocol,
    predictions: Sequence[Prediction],
    strategies: Sequence[str],
    flow: Sequence[FlowStep],
    counts: Sequence[FindingCount],
) -> _Found:
    judged = judge_findings(
        predictions,
        strategies=strategies,
        findings=protocol.classes,
        rule=protocol.rule,
        aggregation=protocol.aggregation,
        resampling=protocol.resampling,
    )
    tested = [row for row in tables.folds if row.role == "test"]
    results, comparisons = collect_findings(
        judged,
        resampling=protocol.resampling,
        rule=protocol.rule,
        prevalences=protocol.prevalences,
        history=tables.history,
        training=tables.training,
        units=(len({row.patient for row in tested}), len(tested)),
    )
    fits = {one.name: one.of(strategies[0]) for one in judged}
    material = Material(protocol.classes, results[0], (), protocol.rule, flow, counts, tables.images, tables.folds)
    return _Found(results, comparisons, list_finding_caveats(material, fits), list_rows(judged))


def _count_units(tables: Tables) -> dict[str, int]:
    """Count what the product of each stage that writes one holds."""
    return {
        "deidentify": len(tables.series),
        "preprocess": len(tables.images),
        "label": len(tables.labels),
        "split": len({row.image_id for row in tables.folds}),
    }
