"""Out-of-fold predictions: each fold calibrated and thresholded on its validation part, applied to its test part."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.core.records import CalibratedPrediction, Prediction
from pipeline.evaluation.aggregation import Aggregation, aggregate, group_patients
from pipeline.evaluation.calibration import Calibrator, fit_calibrator
from pipeline.evaluation.scores import FloatArray, IntArray
from pipeline.evaluation.thresholds import Rule, Threshold, choose_threshold


@dataclass(frozen=True)
class FoldFit:
    """What was fitted on the validation part of one fold for one strategy.

    Attributes
    ----------
    threshold
        None for more than two classes: the class with the highest probability is decided.
    validation_patients
        Validation patients of each class, in the order of the classes.
    """

    strategy: str
    fold: int
    calibrator: Calibrator
    threshold: Threshold | None
    validation_patients: tuple[int, ...]


def calibrate_fold(
    validation: Sequence[Prediction],
    test: Sequence[Prediction],
    *,
    classes: tuple[str, ...],
    rule: Rule,
    aggregation: Aggregation,
) -> tuple[FoldFit, list[CalibratedPrediction]]:
    """Fit on the validation part of one strategy's fold and apply to its test part.

    Labels of the test part are copied into the result and used for nothing else but to group the images of a
    patient with several of more than two classes.

    Parameters
    ----------
    validation, test
        Predictions of one strategy and fold, `test` not empty.

    Returns
    -------
    tuple
        The fit, and the test predictions: images first, then patients, each in the order of `test`.
    """
    rank = {name: position for position, name in enumerate(classes)}
    logits, labels = _arrays(validation, rank)
    patients = [row.patient for row in validation]
    calibrator = fit_calibrator(logits, labels, patients)
    units = group_patients(patients, labels.tolist(), classes)
    unit_labels = np.array([unit.label for unit in units], dtype=np.int64)
    threshold = None
    if len(classes) == 2:
        inner = aggregate(calibrator.probabilities(logits), units, aggregation)
        threshold = choose_threshold(unit_labels == 1, inner[:, 1], rule)
    fit = FoldFit(
        strategy=test[0].strategy,
        fold=test[0].fold,
        calibrator=calibrator,
        threshold=threshold,
        validation_patients=tuple(int((unit_labels == label).sum()) for label in range(len(classes))),
    )
    return fit, _apply(test, fit, classes=classes, aggregation=aggregation)


def calibrate(
    predictions: Sequence[Prediction],
    *,
    strategies: Sequence[str],
    classes: tuple[str, ...],
    rule: Rule,
    aggregation: Aggregation,
) -> tuple[list[FoldFit], list[CalibratedPrediction]]:
    """Calibrate every fold of every strategy; strategies in the order given, folds rising.

    The order of `predictions` within a fold decides the order of the rows and no value.
    """
    parts: dict[tuple[str, int, str], list[Prediction]] = {}
    for row in predictions:
        parts.setdefault((row.strategy, row.fold, row.role), []).append(row)
    fits: list[FoldFit] = []
    rows: list[CalibratedPrediction] = []
    for strategy in strategies:
        for fold in sorted({row.fold for row in predictions if row.strategy == strategy}):
            validation, test = parts.get((strategy, fold, "validation"), []), parts[strategy, fold, "test"]
            fit, applied = calibrate_fold(validation, test, classes=classes, rule=rule, aggregation=aggregation)
            fits.append(fit)
            rows.extend(applied)
    return fits, rows


def decide(probabilities: FloatArray, threshold: Threshold | None) -> IntArray:
    """Decide classes, shape (units,): by the threshold, or the most probable class (the first of equal ones)."""
    if threshold is not None:
        return (probabilities[:, 1] >= threshold.value).astype(np.int64)
    return np.asarray(probabilities.argmax(axis=1), dtype=np.int64)


def _apply(
    test: Sequence[Prediction], fit: FoldFit, *, classes: tuple[str, ...], aggregation: Aggregation
) -> list[CalibratedPrediction]:
    rank = {name: position for position, name in enumerate(classes)}
    logits, labels = _arrays(test, rank)
    of_images = fit.calibrator.probabilities(logits)
    units = group_patients([row.patient for row in test], labels.tolist(), classes)
    of_patients = aggregate(of_images, units, aggregation)
    image_decisions, patient_decisions = decide(of_images, fit.threshold), decide(of_patients, fit.threshold)
    rows = [
        CalibratedPrediction(
            strategy=row.strategy,
            fold=row.fold,
            level="image",
            unit_id=row.image_id,
            patient=row.patient,
            group=row.group,
            label=row.label,
            probabilities=tuple(values.tolist()),
            decision=classes[decision],
        )
        for row, values, decision in zip(test, of_images, image_decisions, strict=True)
    ]
    rows += [
        CalibratedPrediction(
            strategy=fit.strategy,
            fold=fit.fold,
            level="patient",
            unit_id=unit.unit_id,
            patient=unit.patient,
            group=test[unit.images[0]].group,
            label=classes[unit.label],
            probabilities=tuple(values.tolist()),
            decision=classes[decision],
        )
        for unit, values, decision in zip(units, of_patients, patient_decisions, strict=True)
    ]
    return rows


def _arrays(rows: Sequence[Prediction], rank: dict[str, int]) -> tuple[FloatArray, IntArray]:
    logits = np.array([row.logits for row in rows], dtype=np.float64).reshape(-1, len(rank))
    return logits, np.array([rank[row.label] for row in rows], dtype=np.int64)
