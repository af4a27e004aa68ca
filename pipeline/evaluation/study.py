"""Study: from the tables of a run to its evaluation, checked before anything is computed."""

from collections.abc import Sequence
from dataclasses import dataclass

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
from pipeline.core.results import Evaluation
from pipeline.evaluation.aggregation import Aggregation, in_words
from pipeline.evaluation.caveats import Material, list_caveats
from pipeline.evaluation.cohort_table import describe_cohort
from pipeline.evaluation.consistency import arrange_predictions, check_folds, check_history, order_strategies
from pipeline.evaluation.estimates import Resampling, compare, judge
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
        In the order of the logits; of two, the second is the positive one.
    prevalences
        For which predictive values are computed, each in (0, 1).
    """

    classes: tuple[str, ...]
    resampling: Resampling
    rule: Rule
    aggregation: Aggregation
    prevalences: tuple[float, ...]


def evaluate_study(
    study: str, tables: Tables, protocol: Protocol, *, created: str, module: str
) -> tuple[Evaluation, list[CalibratedPrediction]]:
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
    classes, resampling = protocol.classes, protocol.resampling
    flow = check_flow(tables.flow, tables.findings, _count_units(tables))
    check_folds(tables.folds, tables.images, tables.labels)
    folds = sorted({row.fold for row in tables.folds})
    strategies = order_strategies(tables.training, classes, folds)
    check_history(tables.history, strategies, folds)
    predictions = arrange_predictions(tables.predictions, tables.folds, strategies, classes)

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
    counts = count_findings(tables.findings)
    own = [fit for fit in fits if fit.strategy == strategies[0]]
    material = Material(classes, results[0], own, protocol.rule, flow, counts, tables.images, tables.folds)
    evaluation = Evaluation(
        study=study,
        created=created,
        classes=classes,
        positive_class=classes[1] if len(classes) == 2 else None,
        folds=len(folds),
        seed=resampling.seed,
        bootstrap_replicates=resampling.replicates,
        aggregation=in_words(protocol.aggregation, classes),
        flow=flow,
        findings=counts,
        cohort=describe_cohort(tables.images, tables.folds, classes),
        strategies=results,
        comparisons=tuple(compare(judged, resampling)),
        warnings=list_caveats(material),
        software=versions(),
        code=fingerprint(module),
    )
    return round_numbers(evaluation), rows


def _count_units(tables: Tables) -> dict[str, int]:
    """Count what the product of each stage that writes one holds."""
    return {
        "deidentify": len(tables.series),
        "preprocess": len(tables.images),
        "label": len(tables.labels),
        "split": len({row.image_id for row in tables.folds}),
    }
