"""Judge the predictions: estimates with intervals, curves, calibration, decisions, comparisons, caveats."""

import os
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from pipeline.cohort.splits import assert_no_leakage
from pipeline.config import EvaluateSettings, YoudenRule
from pipeline.core.artefacts import R, read_table, write_document, write_table
from pipeline.core.progress import say
from pipeline.core.records import (
    CalibratedPrediction,
    EpochLog,
    Estimate,
    Finding,
    FindingPrediction,
    FlowStep,
    FoldRole,
    Image,
    Label,
    Prediction,
    Series,
    TrainingSummary,
)
from pipeline.core.results import Evaluation
from pipeline.core.states import LabelKind
from pipeline.evaluation.estimates import Resampling
from pipeline.evaluation.study import Protocol, Tables, evaluate_study
from pipeline.evaluation.thresholds import Rule


def evaluate(
    *,
    settings: EvaluateSettings,
    study: str,
    seed: int,
    classes: tuple[str, ...],
    series: Path,
    images: Path,
    labels: Path,
    folds: Path,
    flow: tuple[Path, ...],
    findings: tuple[Path, ...],
    predictions: tuple[Path, ...],
    history: tuple[Path, ...],
    training: tuple[Path, ...],
    calibrated: Path,
    estimates: Path,
    evaluation: Path,
    kind: LabelKind = "classes",
) -> None:
    """Evaluate a study; the first strategy of the training tables is its own, the others are comparisons.

    Parameters
    ----------
    settings
        The section `evaluate`.
    study
        Its name.
    seed
        Of the study.
    classes
        Names of the classes, or of the findings, as in the section `label`.
    series
        Table of `Series`.
    images
        Table of `Image`.
    labels
        Table of `Label`.
    folds
        Table of `FoldRole`.
    flow
        Tables of `FlowStep`, in the order of the stages.
    findings
        Tables of `Finding` of these stages.
    predictions
        Tables of `Prediction`, one for each fold.
    history
        Tables of `EpochLog`, one for each fold.
    training
        Tables of `TrainingSummary`, one for each fold.
    calibrated
        Table of the calibrated predictions, written.
    estimates
        Table of `Estimate`, written.
    evaluation
        The results, an `Evaluation`, written.
    kind
        What the labels are.
    """
    tables = Tables(
        series=read_table(series, Series),
        images=read_table(images, Image),
        labels=read_table(labels, Label),
        folds=read_table(folds, FoldRole),
        flow=_read_all(flow, FlowStep),
        findings=_read_all(findings, Finding),
        predictions=_read_all(predictions, Prediction),
        history=_read_all(history, EpochLog),
        training=_read_all(training, TrainingSummary),
    )
    assert_no_leakage(tables.folds, {image.image_id: image.pixel_sha256 for image in tables.images})
    protocol = Protocol(
        classes=classes,
        resampling=Resampling(seed, settings.bootstrap_replicates, settings.confidence),
        rule=_rule(settings),
        aggregation=settings.aggregation,
        prevalences=settings.prevalences,
        kind=kind,
    )
    document, rows = evaluate_study(study, tables, protocol, created=_now(), module=__name__)
    if kind == "findings":
        write_table(calibrated, FindingPrediction, [row for row in rows if isinstance(row, FindingPrediction)])
    else:
        write_table(calibrated, CalibratedPrediction, rows)
    write_table(estimates, Estimate, [row for result in document.strategies for row in result.estimates])
    write_document(evaluation, document)
    _announce(document)


def _read_all(paths: Iterable[Path], kind: type[R]) -> list[R]:
    return [row for path in paths for row in read_table(path, kind)]


def _rule(settings: EvaluateSettings) -> Rule:
    chosen = settings.operating_point
    return Rule(chosen.kind) if isinstance(chosen, YoudenRule) else Rule(chosen.kind, chosen.at_least)


def _now() -> str:
    """Give the time of the evaluation, or the one that the environment asks for (reproducible-builds.org)."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    moment = datetime.fromtimestamp(int(given), UTC) if given else datetime.now(UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _announce(document: Evaluation) -> None:
    for result in document.strategies:
        found = document.estimate(result.strategy, "patient", "auroc")
        if found is not None and found.value is not None:
            ends = "" if found.low is None or found.high is None else f" ({found.low:.3f} to {found.high:.3f})"
            say(f"evaluate: {result.strategy}: AUROC by patient {found.value:.3f}{ends}")
