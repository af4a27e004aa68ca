"""Cohort table: who and what stands in each fold's test part and in each class."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from pipeline.core.records import FoldRole, Image
from pipeline.core.results import CohortRow
from pipeline.core.states import PRESENT, LabelKind, read_states

NOT_STATED = "not stated"


def describe_cohort(
    images: Sequence[Image], folds: Sequence[FoldRole], classes: Sequence[str], kind: LabelKind = "classes"
) -> tuple[CohortRow, ...]:
    """Describe the whole study, each class, each fold's test part, and each class within a fold.

    Parameters
    ----------
    images
        All images; those without a place in the folds are left out.
    folds
        Roles; only the test parts are looked at.
    classes
        Or findings: an image stands in the row of each that is present.
    """
    known = {image.image_id: image for image in images}
    held = {text: _held(text, classes, kind) for text in {row.label for row in folds}}
    tested = [(row.fold, held[row.label], known[row.image_id]) for row in folds if row.role == "test"]
    rows: list[CohortRow] = []
    for fold in [None, *sorted({number for number, _, _ in tested})]:
        for label in [None, *classes]:
            chosen = [image for number, names, image in tested if fold in {None, number} and label in names]
            rows.append(_describe(chosen, fold, label))
    return tuple(rows)


def _held(label: str, classes: Sequence[str], kind: LabelKind) -> frozenset[str | None]:
    """Name the rows that an image stands in besides that of all (None)."""
    if kind == "classes":
        return frozenset({None, label})
    states = zip(classes, read_states(label, classes), strict=True)
    return frozenset({None, *(name for name, state in states if state == PRESENT)})


def _describe(images: Sequence[Image], fold: int | None, label: str | None) -> CohortRow:
    ages = [image.patient_age_years for image in images if image.patient_age_years is not None]
    sexes = Counter(image.patient_sex for image in images)
    mean = math.fsum(ages) / len(ages) if ages else None
    deviation = None
    if mean is not None and len(ages) > 1:
        deviation = math.sqrt(math.fsum((age - mean) ** 2 for age in ages) / (len(ages) - 1))
    return CohortRow(
        fold=fold,
        label=label,
        patients=len({image.patient for image in images}),
        studies=len({image.study_uid for image in images}),
        images=len(images),
        age_mean_years=mean,
        age_sd_years=deviation,
        age_missing=len(images) - len(ages),
        female=sexes["F"],
        male=sexes["M"],
        sex_other_or_missing=len(images) - sexes["F"] - sexes["M"],
        sites=_count(image.site for image in images),
        scanners=_count(image.scanner for image in images),
        views=_count(image.view_position for image in images),
    )


def _count(names: Iterable[str]) -> tuple[tuple[str, int], ...]:
    counts = Counter(name or NOT_STATED for name in names)
    return tuple(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
