"""Synthetic studies: tables as the stages before would write them, with predictions of known quality."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from pipeline.core.artefacts import write_table
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
from pipeline.evaluation.estimates import Resampling
from pipeline.evaluation.out_of_fold import calibrate
from pipeline.evaluation.study import Protocol, Tables
from pipeline.evaluation.thresholds import Rule

BINARY = ("no", "yes")
THREE = ("none", "benign", "malignant")


@dataclass(frozen=True)
class Plan:
    """What a synthetic study is like.

    `signals` are the distances, in standard deviations, between the class's own logit and the others, one for
    each strategy; `mixed` patients carry images of two classes.
    """

    classes: tuple[str, ...] = BINARY
    patients: int = 60
    images_each: int = 2
    folds: int = 3
    signals: tuple[float, ...] = (1.5, 0.7)
    mixed: int = 2
    seed: int = 1


NAMES = ("full", "scratch", "probe")
SOFTWARE = (("torch", "2.13.0"),)


@cache
def make_tables(plan: Plan = Plan()) -> Tables:
    """Make all tables of a study; every number in them agrees. They are shared: never change one."""
    rng = np.random.default_rng(plan.seed)
    images, labels, series, homes = [], [], [], []
    for patient in range(plan.patients):
        own = patient % len(plan.classes)
        for number in range(plan.images_each):
            label = (own + 1) % len(plan.classes) if patient < plan.mixed and number else own
            row = len(images)
            uid = f"2.25.{row}"
            images.append(_image(row, uid, patient))
            labels.append(Label(image_id=uid, patient=f"P{patient:04d}", label=plan.classes[label]))
            series.append(_series(uid, patient))
            homes.append(patient // len(plan.classes) % plan.folds)
    # A group of two patients: they stand in one fold.
    twins = {plan.patients - 2 * plan.folds * len(plan.classes): plan.patients - plan.folds * len(plan.classes)}
    groups = {f"P{second:04d}": f"P{first:04d}" for first, second in twins.items() if first > plan.mixed}
    folds = _folds(plan, images, labels, homes, groups)
    predictions = _predictions(plan, folds, rng)
    training = [
        _training(plan, strategy, fold) for fold in range(plan.folds) for strategy in NAMES[: len(plan.signals)]
    ]
    history = [
        EpochLog(
            strategy=row.strategy, fold=row.fold, epoch=epoch, train_loss=1 / epoch, validation_loss=0.9 / epoch,
            validation_auroc=0.7, learning_rate=1e-3, seconds=1.5,
        )
        for row in training
        for epoch in (1, 2, 3)
    ]  # fmt: skip
    flow, findings = make_flow(len(images))
    return Tables(series, images, labels, folds, flow, findings, predictions, history, training)


def make_flow(images: int) -> tuple[list[FlowStep], list[Finding]]:
    """Flow of a study that loses something at three stages."""
    steps = [
        ("ingest", "file", images + 5, 2, "instance", images + 3),
        ("deidentify", "instance", images + 3, 0, "series", images),
        ("check_quality", "series", images, 0, "series", images),
        ("preprocess", "series", images, 0, "image", images),
        ("label", "image", images, 0, "image", images),
        ("split", "image", images, 0, "image", images),
    ]
    findings = [
        Finding(stage="ingest", unit="file", unit_id="file-1", code="NOT_DICOM", severity="excluded"),
        Finding(stage="ingest", unit="file", unit_id="file-2", code="TRUNCATED_FILE", severity="excluded"),
        Finding(stage="split", unit="patient", unit_id="P0001", code="SAME_IMAGE_TWO_PATIENTS", severity="noted"),
    ]
    flow = [
        FlowStep(
            stage=stage, unit=unit, entered=entered, excluded=excluded, left=entered - excluded,
            produced_unit=produced_unit, produced=produced,
        )
        for stage, unit, entered, excluded, produced_unit, produced in steps
    ]  # fmt: skip
    return flow, findings


def make_protocol(classes: tuple[str, ...] = BINARY, *, replicates: int = 200, rule: Rule | None = None) -> Protocol:
    """A protocol with few replicates."""
    return Protocol(
        classes=classes,
        resampling=Resampling(seed=7, replicates=replicates, confidence=0.95),
        rule=rule or Rule("sensitivity", 0.8),
        aggregation="mean",
        prevalences=(0.01, 0.5),
    )


@cache
def make_rows(plan: Plan = Plan(), rule: Rule | None = None) -> list[CalibratedPrediction]:
    """Calibrated predictions of a synthetic study."""
    tables = make_tables(plan)
    _, rows = calibrate(
        tables.predictions,
        strategies=NAMES[: len(plan.signals)],
        classes=plan.classes,
        rule=rule or Rule("sensitivity", 0.8),
        aggregation="mean",
    )
    return rows


def simple_rows(
    scores: np.ndarray, labels: np.ndarray, folds: np.ndarray, clusters: np.ndarray, strategy: str = "full"
) -> list[CalibratedPrediction]:
    """Rows at both levels, one unit an image; the patient of the image is its cluster."""
    rows = []
    for level in ("image", "patient"):
        for number, (score, label, fold, cluster) in enumerate(zip(scores, labels, folds, clusters, strict=True)):
            name = f"P{cluster}"
            rows.append(
                CalibratedPrediction(
                    strategy=strategy, fold=int(fold), level=level, unit_id=f"{level}{number}", patient=name,
                    group=name, label=BINARY[int(label)], probabilities=(1 - float(score), float(score)),
                    decision=BINARY[int(score >= 0.5)],
                )
            )  # fmt: skip
    return rows


def write_tables(tables: Tables, folder: Path) -> dict[str, Path | tuple[Path, ...]]:
    """Write the tables where the evaluate stage reads them, and give its path arguments."""
    kinds = {"series": Series, "images": Image, "labels": Label, "folds": FoldRole}
    paths: dict[str, Path | tuple[Path, ...]] = {}
    for name, kind in kinds.items():
        paths[name] = folder / f"{name}.tsv"
        write_table(paths[name], kind, getattr(tables, name))
    numbers = sorted({row.fold for row in tables.training})
    split = {
        "flow": (FlowStep, [[step] for step in tables.flow]),
        "findings": (Finding, [tables.findings[:1], tables.findings[1:]]),
        "predictions": (Prediction, [[row for row in tables.predictions if row.fold == fold] for fold in numbers]),
        "history": (EpochLog, [[row for row in tables.history if row.fold == fold] for fold in numbers]),
        "training": (TrainingSummary, [[row for row in tables.training if row.fold == fold] for fold in numbers]),
    }
    for name, (kind, parts) in split.items():
        paths[name] = tuple(folder / name / f"{number}.tsv" for number in range(len(parts)))
        for path, rows in zip(paths[name], parts, strict=True):
            write_table(path, kind, rows)
    outputs = {"calibrated": "predictions.tsv", "estimates": "estimates.tsv", "evaluation": "evaluation.json"}
    return paths | {name: folder / file for name, file in outputs.items()}


def _image(row: int, uid: str, patient: int) -> Image:
    return Image(
        image_id=uid, row=row, patient=f"P{patient:04d}", study_uid=f"2.25.9{patient}", series_uid=uid, sop_uid=uid,
        modality="DX", site=f"site-{patient // 7 % 2}", scanner="", view_position="PA", study_date="2001-01-01",
        patient_age_years=None if patient % 9 == 0 else float(20 + patient % 60), patient_sex="FMO"[patient % 3],
        source_rows=64, source_columns=64, intensity_low=0, intensity_high=1, pixel_sha256=f"{row:064x}",
    )  # fmt: skip


def _series(uid: str, patient: int) -> Series:
    return Series(
        patient=f"P{patient:04d}", study_uid=f"2.25.9{patient}", series_uid=uid, modality="DX", kind="image",
        instances=1, rows=64, columns=64, photometric_interpretation="MONOCHROME2",
    )  # fmt: skip


def _folds(
    plan: Plan, images: list[Image], labels: list[Label], homes: list[int], groups: dict[str, str]
) -> list[FoldRole]:
    rows = []
    for fold in range(plan.folds):
        for image, label, home in zip(images, labels, homes, strict=True):
            patient = int(image.patient[1:])
            # Of the patients not tested, every third set (one of each class) is for validation.
            is_inner = (patient // len(plan.classes) // plan.folds) % 3 == 0
            role = "test" if home == fold else "validation" if is_inner else "train"
            group = groups.get(image.patient, image.patient)
            rows.append(
                FoldRole(
                    fold=fold, image_id=image.image_id, row=image.row, patient=image.patient, group=group,
                    label=label.label, role=role,
                )
            )  # fmt: skip
    twins = {group for patient, group in groups.items()}
    leads = {(row.fold, row.patient): row.role for row in rows if row.patient in twins}
    return [row.model_copy(update={"role": leads.get((row.fold, row.group), row.role)}) for row in rows]


def _predictions(plan: Plan, folds: list[FoldRole], rng: np.random.Generator) -> list[Prediction]:
    rows = []
    for position, signal in enumerate(plan.signals):
        habit = {row.patient: rng.normal(size=len(plan.classes)) for row in folds if row.fold == 0}
        for row in folds:
            if row.role == "train":
                continue
            logits = 0.7 * habit[row.patient] + 0.7 * rng.normal(size=len(plan.classes))
            logits[plan.classes.index(row.label)] += signal
            rows.append(
                Prediction(
                    strategy=NAMES[position], fold=row.fold, role=row.role, image_id=row.image_id, patient=row.patient,
                    group=row.group, label=row.label, logits=tuple((2 * logits).tolist()),
                )
            )  # fmt: skip
    return rows


def _training(plan: Plan, strategy: str, fold: int) -> TrainingSummary:
    return TrainingSummary(
        strategy=strategy, fold=fold, backbone="resnet18", classes=plan.classes,
        weights_source="random" if strategy == "scratch" else "imagenet", weights_licence="CC BY-NC 4.0",
        trained_parameters=1, frozen_parameters=0, image_size=64, epochs=3, best_epoch=2, train_images=1,
        validation_images=1, test_images=1, device="cpu", precision="float32", threads=1, seed=1, seconds=1.0,
        software=SOFTWARE,
    )  # fmt: skip
