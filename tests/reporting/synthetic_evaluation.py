"""Evaluations for the tests of reports: plausible numbers that add up, made from drawn scores."""

import numpy as np

from pipeline.core.reasons import REASONS
from pipeline.core.records import EpochLog, Estimate, FlowStep, TrainingSummary
from pipeline.core.results import (
    Calibration,
    CalibrationBin,
    CohortRow,
    Comparison,
    Evaluation,
    FindingCount,
    OperatingPoint,
    PrecisionRecallCurve,
    PredictiveValue,
    RocCurve,
    StrategyResult,
)

BOOTSTRAP = "patient-cluster bootstrap within folds and classes, 2000 replicates, logit scale"
GRID = np.linspace(0, 1, 101)
SIGNAL = {"full": 1.35, "probe": 1.05, "scratch": 0.75}
SOFTWARE = (("python", "3.11.7"), ("platform", "Linux x86_64"), ("torch", "2.13.0"), ("monai", "1.6.1"))


def make_evaluation(
    *,
    classes=("normal", "pneumonia"),
    strategies=("full", "probe", "scratch"),
    weights="imagenet",
    has_intervals=True,
    folds=5,
    patients=137,
    seed=7,
    **changes,
):
    """Make an evaluation; keyword arguments beyond the known ones replace fields of the result."""
    draw = np.random.default_rng(seed)
    labels = np.sort(draw.integers(0, len(classes), patients)) if len(classes) > 2 else None
    if labels is None:
        labels = (np.arange(patients) >= round(0.65 * patients)).astype(int)
    fold_of = np.arange(patients) % folds
    images = 1 + (np.arange(patients) % 4 == 0)
    results = [_result(name, classes, labels, fold_of, images, weights, has_intervals, draw) for name in strategies]
    total = int(images.sum())
    values = {
        "study": "demo",
        "created": "2026-11-21T03:20:00Z",
        "classes": classes,
        "positive_class": classes[1] if len(classes) == 2 else None,
        "folds": folds,
        "seed": 20261121,
        "bootstrap_replicates": 2000,
        "aggregation": "mean of the calibrated probabilities of the patient's images",
        "flow": _flow(total),
        "findings": _findings(),
        "cohort": _cohort(classes, labels, fold_of, images, folds),
        "strategies": results,
        "comparisons": _comparisons(results, has_intervals),
        "warnings": (
            "Only 48 patients have the finding: the intervals are wide, and subgroups cannot be judged",
            "Site and class go together (Cramér's V 0.41): the network may tell sites apart instead of findings",
        ),
        "software": SOFTWARE,
        "code": "a1b2c3d4e5f6",
    }
    return Evaluation.model_validate({**values, **changes})


def _result(name, classes, labels, fold_of, images, weights, has_intervals, draw):
    size = len(classes)
    strength = SIGNAL[name] * (1 if size == 2 else 1.5)
    logits = draw.normal(0, 1, (labels.size, size)) + strength * np.eye(size)[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    shown = (1,) if size == 2 else tuple(range(size))
    decided = (probabilities[:, 1] > 0.42).astype(int) if size == 2 else probabilities.argmax(axis=1)
    source = "random" if name == "scratch" else weights
    training = tuple(
        _training(name, classes, source, fold, labels.size, int(images.sum())) for fold in np.unique(fold_of)
    )
    is_trained = name != "probe"
    return StrategyResult(
        strategy=name,
        estimates=_estimates(name, classes, labels, fold_of, images, probabilities, decided, has_intervals),
        roc=[_roc(classes[k], labels == k, probabilities[:, k], has_intervals) for k in shown],
        precision_recall=[_precision_recall(classes[k], labels == k, probabilities[:, k]) for k in shown],
        calibration=[_calibration(classes[k], labels == k, probabilities[:, k], has_intervals) for k in shown],
        operating_point=_point(classes, labels, decided),
        history=_history(name, np.unique(fold_of), draw) if is_trained else (),
        training=training,
    )


def area(positive, scores):
    """Area under the ROC curve by counting pairs."""
    above, below = scores[positive], scores[~positive]
    return float(np.mean(above[:, None] > below[None, :])) if above.size and below.size else None


def _estimates(name, classes, labels, fold_of, images, probabilities, decided, has_intervals):
    found = []

    def add(metric, value, level="patient", fold=None, half=0.05, method=BOOTSTRAP):
        chosen = np.ones(labels.size, bool) if fold is None else fold_of == fold
        low, high = (
            (max(0.0, value - half), min(1.0, value + half)) if has_intervals and value is not None else (None, None)
        )
        found.append(
            Estimate(
                strategy=name, level=level, fold=fold, metric=metric, value=value, low=low, high=high,
                method=method if low is not None else "", patients=int(chosen.sum()), images=int(images[chosen].sum()),
                note="" if low is not None else "all resamples give one value: no interval can be made",
            )
        )  # fmt: skip

    right = decided == labels
    shown = (1,) if len(classes) == 2 else tuple(range(len(classes)))
    for level, shift in (("patient", 0.0), ("image", -0.012)):
        value = float(np.mean([area(labels == k, probabilities[:, k]) for k in shown]))
        add("auroc", value + shift, level)
        add("auprc", 0.9 * value + shift, level, half=0.08)
        if level == "patient":
            add("auroc_pooled", value - 0.004, method="DeLong, logit scale")
            add("auroc_across_folds", value, half=0.09, method="corrected t over the folds (Nadeau and Bengio)")
        if len(classes) == 2:
            for metric, side in (("sensitivity", labels == 1), ("specificity", labels == 0)):
                add(metric, float(right[side].mean()), level, half=0.07, method="Wilson")
            for metric, side in (("ppv", decided == 1), ("npv", decided == 0)):
                add(metric, float(right[side].mean()), level, half=0.08, method="Wilson")
        else:
            for k in shown:
                add(f"auroc:{classes[k]}", area(labels == k, probabilities[:, k]), level)
                add(f"sensitivity:{classes[k]}", float(right[labels == k].mean()), level, half=0.1, method="Wilson")
        add("accuracy", float(right.mean()), level, half=0.06, method="Wilson")
        recalls = [float(right[labels == k].mean()) for k in range(len(classes))]
        add("balanced_accuracy", float(np.mean(recalls)), level, half=0.06, method="Wilson intervals combined (MOVER)")
        add("brier", float(np.mean((probabilities[:, -1] - (labels == len(classes) - 1)) ** 2)), level, half=0.03)
    for fold in np.unique(fold_of).tolist():
        part = fold_of == fold
        values = [area((labels == k)[part], probabilities[part, k]) for k in shown]
        add("auroc", float(np.mean(values)), fold=fold, half=0.09)
        add("auprc", float(0.9 * np.mean(values)), fold=fold, half=0.13)
        if len(classes) == 2:
            add("sensitivity", float(right[part & (labels == 1)].mean()), fold=fold, half=0.15, method="Wilson")
            add("specificity", float(right[part & (labels == 0)].mean()), fold=fold, half=0.13, method="Wilson")
        else:
            add("accuracy", float(right[part].mean()), fold=fold, half=0.12, method="Wilson")
    return found


def _roc(name, positive, scores, has_intervals):
    cuts = np.quantile(scores[~positive], 1 - GRID)
    rates = np.array([(scores[positive] >= cut).mean() for cut in cuts])
    rates[-1] = 1.0
    band = 0.09 * np.sqrt(np.clip(rates * (1 - rates) * 4, 0.02, 1))
    return RocCurve(
        class_name=name,
        false_positive_rate=GRID.tolist(),
        true_positive_rate=rates.tolist(),
        low=np.clip(rates - band, 0, 1).tolist() if has_intervals else (),
        high=np.clip(rates + band, 0, 1).tolist() if has_intervals else (),
    )


def _precision_recall(name, positive, scores):
    order = np.argsort(-scores)
    hits = np.cumsum(positive[order])
    precision = hits / np.arange(1, hits.size + 1)
    recall = hits / hits[-1]
    at = [float(precision[recall >= level].max()) for level in GRID]
    return PrecisionRecallCurve(class_name=name, recall=GRID.tolist(), precision=at, prevalence=float(positive.mean()))


def _calibration(name, positive, scores, is_fitted):
    order = np.array_split(np.argsort(scores), 6)
    bins = [
        CalibrationBin(
            predicted_mean=float(scores[part].mean()),
            observed_fraction=float(positive[part].mean()),
            low=max(0.0, float(positive[part].mean()) - 0.14),
            high=min(1.0, float(positive[part].mean()) + 0.15),
            patients=int(part.size),
        )
        for part in order
    ]
    return Calibration(
        class_name=name,
        bins=bins,
        slope=0.93 if is_fitted else None,
        intercept=-0.08 if is_fitted else None,
        brier=float(np.mean((scores - positive) ** 2)),
        expected_error=0.041,
        fold_temperatures=(1.12, 0.97, 1.31, 1.05, 1.2),
        fold_offsets=(-0.2, 0.11, -0.05, -0.31, 0.02),
        note="" if is_fitted else "slope and intercept have no finite value",
    )


def _point(classes, labels, decided):
    size = len(classes)
    counts = np.bincount(labels * size + decided, minlength=size**2).reshape(size, size)
    values = ()
    if size == 2:
        sens, spec = counts[1, 1] / counts[1].sum(), counts[0, 0] / counts[0].sum()
        values = [
            PredictiveValue(
                prevalence=p,
                positive=sens * p / (sens * p + (1 - spec) * (1 - p)),
                negative=spec * (1 - p) / (spec * (1 - p) + (1 - sens) * p),
            )
            for p in (0.01, 0.05, 0.2, 0.5)
        ]
    return OperatingPoint(
        rule="sensitivity at least 0.9, among the validation patients of each fold"
        if size == 2
        else "the class with the highest probability",
        thresholds=(0.41, 0.38, 0.455, 0.402, 0.43) if size == 2 else (),
        confusion=counts.tolist(),
        predictive_values=values,
    )


def _history(name, folds, draw):
    rows = []
    for fold in folds.tolist():
        last = int(draw.integers(11, 17))
        for epoch in range(1, last + 1):
            decay = np.exp(-epoch / 4)
            rows.append(
                EpochLog(
                    strategy=name,
                    fold=fold,
                    epoch=epoch,
                    train_loss=0.25 + 0.5 * decay + float(draw.normal(0, 0.012)),
                    validation_loss=0.42 + 0.3 * decay + 0.004 * epoch + float(draw.normal(0, 0.02)),
                    validation_auroc=0.9 - 0.35 * decay + float(draw.normal(0, 0.012)),
                    learning_rate=3e-4,
                    seconds=1.9,
                )
            )
    return rows


def _training(name, classes, source, fold, patients, images):
    is_random = source == "random"
    return TrainingSummary(
        strategy=name,
        fold=int(fold),
        backbone="resnet18",
        classes=classes,
        weights_source=source,
        weights_file="" if is_random else "resnet18-f37072fd.pth",
        weights_sha256="" if is_random else "f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec",
        weights_licence="" if is_random else "BSD-3-Clause (torchvision); the images are under ImageNet's terms",
        trained_parameters=1026 if name == "probe" else 11_177_538,
        frozen_parameters=11_176_512 if name == "probe" else 0,
        head_blocks=("layer3", "layer4") if name == "probe" else ("layer4",),
        image_size=224,
        epochs=0 if name == "probe" else 14,
        best_epoch=0 if name == "probe" else 9,
        train_images=110,
        validation_images=27,
        test_images=34,
        device="cpu",
        precision="float32",
        threads=2,
        seed=5520138854771182003,
        seconds=3.4 if name == "probe" else 31.7,
        software=SOFTWARE,
    )


def _comparisons(results, has_intervals):
    first, *others = results
    value = {result.strategy: next(e.value for e in result.estimates if e.metric == "auroc") for result in results}
    made = []
    for other in others:
        difference = value[first.strategy] - value[other.strategy]
        for metric, half, method in (
            ("auroc", 0.038, f"paired {BOOTSTRAP}"),
            ("auprc", 0.06, f"paired {BOOTSTRAP}"),
            ("auroc_across_folds", 0.05, "paired corrected t over the folds (Nadeau and Bengio)"),
        ):
            made.append(
                Comparison(
                    strategy=first.strategy,
                    reference=other.strategy,
                    level="patient",
                    metric=metric,
                    difference=difference if has_intervals else None,
                    low=difference - half if has_intervals else None,
                    high=difference + half if has_intervals else None,
                    confidence=0.95,
                    method=method,
                )
            )
    return made


def _flow(total):
    return (
        FlowStep(stage="ingest", unit="file", entered=total + 27, excluded=12, left=total + 15,
                 produced_unit="instance", produced=total + 15),
        FlowStep(stage="deidentify", unit="instance", entered=total + 15, excluded=2, left=total + 13,
                 produced_unit="series", produced=total + 12),
        FlowStep(stage="check_quality", unit="series", entered=total + 12, excluded=4, left=total + 8,
                 produced_unit="series", produced=total + 8),
        FlowStep(stage="preprocess", unit="series", entered=total + 8, excluded=0, left=total + 8,
                 produced_unit="image", produced=total + 9),
        FlowStep(stage="label", unit="image", entered=total + 9, excluded=7, left=total + 2,
                 produced_unit="image", produced=total + 2),
        FlowStep(stage="split", unit="image", entered=total + 2, excluded=2, left=total,
                 produced_unit="image", produced=total),
    )  # fmt: skip


def _findings():
    listed = (
        ("ingest", "file", "DUPLICATE_FILE", "excluded", 6),
        ("ingest", "file", "NOT_DICOM", "excluded", 2),
        ("ingest", "file", "NOT_AN_IMAGE", "excluded", 2),
        ("ingest", "file", "TRUNCATED_FILE", "excluded", 1),
        ("ingest", "file", "UNSUPPORTED_TRANSFER_SYNTAX", "excluded", 1),
        ("deidentify", "instance", "BURNED_IN_ANNOTATION", "excluded", 2),
        ("check_quality", "series", "LOW_CONTRAST", "excluded", 3),
        ("check_quality", "series", "SMALL_MATRIX", "excluded", 1),
        ("label", "image", "NO_LABEL", "excluded", 7),
        ("split", "image", "SAME_IMAGE_TWICE", "excluded", 2),
        ("check_quality", "series", "SATURATED", "noted", 5),
        ("label", "patient", "PATIENT_HAS_SEVERAL_CLASSES", "noted", 1),
    )
    return [
        FindingCount(
            stage=stage, unit=unit, code=code, severity=severity, count=count,
            meaning=REASONS[code].meaning, remedy=REASONS[code].remedy,
        )
        for stage, unit, code, severity, count in listed
    ]  # fmt: skip


def _cohort(classes, labels, fold_of, images, folds):
    rows = []
    for fold in (None, *range(folds)):
        for label in (None, *range(len(classes))):
            chosen = np.ones(labels.size, bool)
            if fold is not None:
                chosen &= fold_of == fold
            if label is not None:
                chosen &= labels == label
            total = int(images[chosen].sum())
            female = total * 4 // 9
            first = total * 2 // 3
            rows.append(
                CohortRow(
                    fold=fold,
                    label=None if label is None else classes[label],
                    patients=int(chosen.sum()),
                    studies=int(chosen.sum()) + total // 20,
                    images=total,
                    age_mean_years=57.3 + (label or 0),
                    age_sd_years=14.2,
                    age_missing=total // 30,
                    female=female,
                    male=total - female - total // 40,
                    sex_other_or_missing=total // 40,
                    sites=(("site-3fa91c", first), ("site-b07e22", total - first)),
                    scanners=(("Phantom Works PX-100", first), ("Example Imaging RAD 7", total - first)),
                    views=(("not stated", total),),
                )
            )
    return rows
