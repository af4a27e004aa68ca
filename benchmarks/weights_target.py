"""The built-in target task in memory: cohorts as the pipeline would store them, and trainings on them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.config import Config, load
from pipeline.core.records import FoldRole
from pipeline.core.seeding import derive_seed
from pipeline.evaluation.delong import delong
from pipeline.evaluation.intervals import corrected_t, t_quantile
from pipeline.imaging.steps import PlanarImage, ScalePercentiles, apply, standard_steps
from pipeline.learning.inputs.augmentation import Augmentation
from pipeline.learning.inputs.batches import shuffled_batches
from pipeline.learning.inputs.devices import Placement
from pipeline.learning.recipes import Recipe
from pipeline.learning.study import Study
from pipeline.learning.training import Outcome, train_strategy
from pipeline.learning.weights.loading import VerifiedWeights
from pipeline.phantom.headers import Occasion
from pipeline.phantom.plan import plan_cohort
from pipeline.phantom.scanners import SCANNERS
from pipeline.phantom.studies import drawn_radiograph

ROOT = Path(__file__).resolve().parents[1]
CLASSES = ("normal", "lesion")
COHORTS = (1, 2, 3, 4, 5)  # seeds
SIZES = (20, 40, 80)  # patients
LONGER = 3  # times the epochs, beside: is the random start done?
ENDS = ("", " longer")
RUNS = {f"{strategy}{end}": (strategy, LONGER if end else 1) for strategy in ("full", "scratch") for end in ENDS}


@dataclass(frozen=True)
class Cohort:
    """Images of a synthetic cohort with a label: pixels (images, size, size), and for each image patient and label."""

    pixels: NDArray[np.uint8]
    patients: tuple[int, ...]
    labels: tuple[bool, ...]


@cache
def built_in() -> Config:
    """Read the configuration of the built-in study."""
    return load(ROOT / "config" / "config.yaml")


def cohort(seed: int, patients: int) -> Cohort:
    """Draw every labelled image of a cohort that is no copy of another patient's, as the pipeline stores it."""
    config = built_in()
    if config.phantom is None or config.preprocess.intensity.kind != "percentile":
        raise SystemExit("config/config.yaml no longer describes the built-in study")
    people = plan_cohort(patients=patients, prevalence=config.phantom.prevalence, seed=seed, has_second_studies=True)
    size = config.preprocess.size
    steps = standard_steps(scaling=_scaling(config), size=size, dtype="uint8")
    pictures, owners, labels = [], [], []
    for person in people:
        for study in person.studies:
            if not study.is_in_table or study.shows is not None:
                continue
            drawing = drawn_radiograph(Occasion(seed, person, study), config.phantom.size, "main")
            largest = 2.0 ** SCANNERS[person.site].bits_stored - 1
            image = PlanarImage(drawing.pixels.astype(np.float32), is_monochrome1=False, value_range=(0.0, largest))
            pictures.append(apply(steps, image).values)
            owners.append(person.number)
            labels.append(study.has_lesion)
    return Cohort(np.stack(pictures), tuple(owners), tuple(labels))


def _scaling(config: Config) -> ScalePercentiles:
    intensity = config.preprocess.intensity
    return ScalePercentiles(low=intensity.low, high=intensity.high)


def roles_for(training: Cohort, testing: Cohort, seed: int, validation: float = 0.25) -> tuple[FoldRole, ...]:
    """Divide one cohort's patients into training and validation by class; all of the other one is tested."""
    rng = np.random.default_rng(derive_seed(seed, "benchmark", "validation"))
    positive = {owner for owner, label in zip(training.patients, training.labels, strict=True) if label}
    held = set()
    for group in (sorted(positive), sorted(set(training.patients) - positive)):
        held |= set(rng.permutation(group)[: max(2, round(validation * len(group)))].tolist())
    rows = []
    for name, part in (("a", training), ("b", testing)):
        for place, (owner, label) in enumerate(zip(part.patients, part.labels, strict=True)):
            role = "test" if name == "b" else "validation" if owner in held else "train"
            row = place + (len(training.pixels) if name == "b" else 0)
            patient = f"{name}{owner}"
            rows.append(
                FoldRole(
                    fold=0,
                    image_id=f"{name}{place}",
                    row=row,
                    patient=patient,
                    group=patient,
                    label=CLASSES[label],
                    role=role,
                )
            )
    return tuple(rows)


def fold_roles(data: Cohort, fold: int, folds: int, validation: float, seed: int) -> tuple[FoldRole, ...]:
    """Divide a cohort's patients, stratified by whether any image shows a lesion, as the study does."""
    rng = np.random.default_rng(derive_seed(seed, "benchmark", "folds"))
    positive = {owner for owner, label in zip(data.patients, data.labels, strict=True) if label}
    role_of: dict[int, str] = {}
    for group in (sorted(positive), sorted(set(data.patients) - positive)):
        order = rng.permutation(group)
        tested = set(order[fold::folds].tolist())
        rest = [owner for owner in order.tolist() if owner not in tested]
        held = set(rest[: max(1, round(validation * len(rest)))])
        role_of |= {owner: "test" if owner in tested else "validation" if owner in held else "train" for owner in group}
    return tuple(
        FoldRole(
            fold=fold,
            image_id=str(row),
            row=row,
            patient=str(owner),
            group=str(owner),
            label=CLASSES[label],
            role=role_of[owner],
        )
        for row, (owner, label) in enumerate(zip(data.patients, data.labels, strict=True))
    )


def steps_of(roles: Sequence[FoldRole]) -> int:
    """Count the steps of an epoch, as the built-in study's configuration divides the images into batches."""
    trained = np.array([role.row for role in roles if role.role == "train"])
    return len(shuffled_batches(trained, built_in().train.batch_size, 0))


def train_on(
    strategy: str,
    pixels: NDArray[np.uint8],
    roles: tuple[FoldRole, ...],
    weights: VerifiedWeights,
    states: Path,
    *,
    seed: int,
    placement: Placement,
    fold: int = 0,
    changes: dict[str, object] | None = None,
    head: str | None = None,
) -> Outcome:
    """Train one strategy as the built-in study's configuration says, and predict the tested images."""
    settings = built_in().train
    plain = Recipe(
        **{name: getattr(settings, name) for name in Recipe.__dataclass_fields__}  # the same names on purpose
    )
    study = Study(
        classes=CLASSES,
        roles=roles,
        fold=fold,
        seed=seed,
        pixels=pixels,
        pixels_sha256="benchmark",
        backbone=settings.backbone,
        recipe=replace(plain, **(changes or {})),
        augmentation=Augmentation(**settings.augmentation.model_dump()),
        placement=placement,
        code="benchmark",
        head=head or settings.head,
    )
    return train_strategy(strategy, study, weights, states)


def by_patient(outcome: Outcome) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Give truth and mean score of each tested patient, in the order of their names."""
    scores: dict[str, list[float]] = {}
    truth: dict[str, bool] = {}
    for row in outcome.predictions:
        if row.role == "test":
            scores.setdefault(row.patient, []).append(row.logits[1] - row.logits[0])
            truth[row.patient] = truth.get(row.patient, False) or row.label == CLASSES[1]
    names = sorted(scores)
    return np.array([truth[name] for name in names]), np.array([np.mean(scores[name]) for name in names])


def area(truth: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    """Area under the ROC curve."""
    return float(delong(truth, scores[None])[0][0])


def paired(
    truth: NDArray[np.bool_],
    first: Sequence[float] | NDArray[np.float64],
    second: Sequence[float] | NDArray[np.float64],
) -> tuple[float, float, float]:
    """Difference of two areas on the same patients, with its 95 % interval (DeLong)."""
    areas, covariance = delong(truth, np.array([first, second]))
    error = float(np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]))
    difference = float(areas[0] - areas[1])
    return difference, difference - 1.96 * error, difference + 1.96 * error


def mean_paired(
    truths: Sequence[NDArray[np.bool_]], first: Sequence[NDArray[np.float64]], second: Sequence[NDArray[np.float64]]
) -> tuple[float, float, float]:
    """Difference of two areas, mean of the folds, with its 95 % interval: the folds' patients are others."""
    parts = [paired(truth, one, other) for truth, one, other in zip(truths, first, second, strict=True)]
    difference = float(np.mean([part[0] for part in parts]))
    error = float(np.sqrt(sum(((part[2] - part[1]) / (2 * 1.96)) ** 2 for part in parts))) / len(parts)
    return difference, difference - 1.96 * error, difference + 1.96 * error


def across_folds(first: Sequence[float], second: Sequence[float]) -> tuple[float, float, float]:
    """Difference of two areas, mean of the folds, with the wider interval that also holds other trainings."""
    differences = [one - other for one, other in zip(first, second, strict=True)]
    found = corrected_t(differences, 0.95)
    return float(np.mean(differences)), float(found.low), float(found.high)


def across_cohorts(differences: Sequence[float]) -> tuple[float, float, float]:
    """Mean of the differences of independent cohorts, with its 95 % interval (t): other patients and trainings."""
    values = np.array(differences)
    half = t_quantile(0.95, len(values) - 1) * float(np.std(values, ddof=1)) / np.sqrt(len(values))
    mean = float(np.mean(values))
    return mean, mean - half, mean + half
