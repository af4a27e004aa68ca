"""Aggregation: how the images of a patient become the patient's label and probabilities.

Two classes: a patient is positive if any image is, and all images of the patient are aggregated. More than
two classes: no class outranks another, so a patient whose images carry several classes is evaluated once for
each of them, on the images of that class; these units share their patient and therefore their bootstrap
cluster, and count as one patient.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.core.states import LabelKind
from pipeline.evaluation.scores import FloatArray

Aggregation = Literal["mean", "max"]


@dataclass(frozen=True)
class PatientUnit:
    """A patient, or one class of a patient with several, and the images that belong to it.

    Attributes
    ----------
    unit_id
        The patient; for one of several classes the patient, a colon and the class.
    images
        Positions of the images among those given.
    """

    unit_id: str
    patient: str
    label: int
    images: tuple[int, ...]


def group_patients(patients: Sequence[str], labels: Sequence[int], classes: Sequence[str]) -> list[PatientUnit]:
    """Group images by patient, in the order of each patient's first image.

    Examples
    --------
    >>> [unit.label for unit in group_patients(["a", "a", "b"], [0, 1, 0], ["no", "yes"])]
    [1, 0]
    >>> [unit.unit_id for unit in group_patients(["a", "a", "b"], [0, 2, 1], ["x", "y", "z"])]
    ['a:x', 'a:z', 'b']
    """
    positions: dict[str, list[int]] = {}
    for position, patient in enumerate(patients):
        positions.setdefault(patient, []).append(position)
    units: list[PatientUnit] = []
    for patient, found in positions.items():
        present = sorted({labels[position] for position in found})
        if len(present) == 1 or len(classes) == 2:
            units.append(PatientUnit(patient, patient, present[-1], tuple(found)))
            continue
        for label in present:
            members = tuple(position for position in found if labels[position] == label)
            units.append(PatientUnit(f"{patient}:{classes[label]}", patient, label, members))
    return units


def aggregate(probabilities: FloatArray, units: Sequence[PatientUnit], how: Aggregation) -> FloatArray:
    """Give each unit's probabilities, shape (units, classes); rows sum to 1.

    ``"mean"`` averages over the unit's images. ``"max"`` takes the largest positive probability; for more
    than two classes the largest probability of each class, scaled to sum to 1.

    Parameters
    ----------
    probabilities
        Of the images, shape (images, classes).
    """
    rows = np.empty((len(units), probabilities.shape[1]))
    for row, unit in zip(rows, units, strict=True):
        # Sorted, so that the order of a patient's images cannot change the last bit of the sum.
        images = np.sort(probabilities[list(unit.images)], axis=0)
        row[:] = images.mean(axis=0) if how == "mean" else images[-1]
        if how == "max" and row.size == 2:
            row[0] = 1 - row[1]
    totals: FloatArray = rows.sum(axis=1, keepdims=True)
    return rows / totals


def in_words(how: Aggregation, classes: Sequence[str], kind: LabelKind = "classes") -> str:
    """Describe the aggregation for a reader."""
    values = "mean" if how == "mean" else "largest"
    if kind == "findings":
        return (
            f"{values} of the calibrated probabilities of those of the patient's images of which the finding is known; "
            "a finding is present in a patient if it is in any image"
        )
    if len(classes) == 2:
        return (
            f"{values} of the calibrated probabilities of the patient's images; "
            f"a patient is {classes[1]} if any image is"
        )
    return (
        f"{values} of the calibrated probabilities of the patient's images; "
        "a patient whose images carry several classes is evaluated once for each of them"
    )
