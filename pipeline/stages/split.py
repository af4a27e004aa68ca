"""Divide the patients into folds; one picture under two names is found first and never stands on two sides."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.cohort.duplicates import drop_copies, find_similar, name_groups
from pipeline.cohort.kinds import require_one_kind
from pipeline.cohort.splits import Division, assert_all_tested, assert_no_leakage, divide
from pipeline.config import SplitSettings
from pipeline.core.artefacts import read_table, write_table
from pipeline.core.errors import ArtefactError
from pipeline.core.progress import say
from pipeline.core.records import Finding, FlowStep, FoldRole, Image, Label
from pipeline.core.states import PRESENT, LabelKind, named, read_states
from pipeline.imaging.hashing import fine_structure, structural_correlation
from pipeline.imaging.pixel_store import open_pixels

_STRUCTURES_KEPT = 20_000  # of 16 kB each


def split(
    *,
    settings: SplitSettings,
    seed: int,
    images: Path,
    pixels: Path,
    labels: Path,
    folds: Path,
    duplicates: Path,
    flow: Path,
    kind: LabelKind = "classes",
) -> None:
    """Write the role of every labelled image in every fold.

    Parameters
    ----------
    settings
        Number of folds, size of the validation parts, what stays together, how near duplicates may lie.
    seed
        Of the study.
    images
        Table of `Image`.
    pixels
        The stored pixels, a ``.npy`` array, in which similar images are compared closely.
    labels
        Table of `Label`.
    folds
        Table of `FoldRole` written for every fold and every image kept.
    duplicates
        Table of `Finding`: images left out because they stand twice, and remarks on similar ones.
    flow
        Table with one `FlowStep`.
    kind
        What the labels are.

    Raises
    ------
    CohortError
        If there are too few patients or sites for the folds, or images beside volumes.
    """
    index = read_table(images, Image)
    require_one_kind(index)
    classes = {row.image_id: row.label for row in read_table(labels, Label)}
    labelled = [image for image in index if image.image_id in classes]
    if len(labelled) != len(classes):
        raise ArtefactError("labels belong to images that are not at hand", where=str(labels), remedy="run `label`")
    copies = drop_copies(labelled, classes, kind)
    correlate = _correlation(pixels, sum(not image.volume_file for image in index))
    similar = find_similar(copies.kept, max_distance=settings.max_hash_distance, correlate=correlate)
    groups = name_groups([image.patient for image in copies.kept], copies.links | similar.links)
    division = Division(settings.folds, settings.validation_fraction, settings.unit, seed)
    roles = divide(copies.kept, copies.labels, groups, division, kind)
    assert_no_leakage(roles, {image.image_id: image.pixel_sha256 for image in copies.kept})
    assert_all_tested(roles)
    write_table(folds, FoldRole, roles)
    write_table(duplicates, Finding, [*copies.findings, *similar.findings])
    left = len(copies.kept)
    step = FlowStep(
        stage="split",
        unit="image",
        entered=len(labelled),
        excluded=len(copies.findings),
        left=left,
        produced_unit="image",
        produced=left,
    )
    write_table(flow, FlowStep, [step])
    _report(roles, step, groups, kind)


def _correlation(pixels: Path, rows: int) -> Callable[[Image, Image], float]:
    """Give the close comparison of two images; the store is opened at the first question."""

    @lru_cache(maxsize=1)
    def store() -> NDArray[Any]:
        return open_pixels(pixels, rows)

    @lru_cache(maxsize=_STRUCTURES_KEPT)
    def structure(row: int) -> NDArray[np.float32]:
        return fine_structure(store()[row])

    return lambda first, second: structural_correlation(structure(first.row), structure(second.row))


def _report(roles: Sequence[FoldRole], step: FlowStep, groups: Mapping[str, str], kind: LabelKind) -> None:
    joined = sum(count for count in Counter(groups.values()).values() if count > 1)
    linked = f", {joined} of them linked by a shared picture" if joined else ""
    say(f"split: {step.left} of {step.entered} images of {len(groups)} patients{linked}")
    found = [(row.fold, row.role, label) for row in roles for label in _held(row.label, kind)]
    counts, labels = Counter(found), list(dict.fromkeys(sorted(label for _, _, label in found)))
    for fold in sorted({row.fold for row in roles}):
        parts = (
            f"{role} " + " + ".join(str(counts[fold, role, label]) for label in labels)
            for role in ("train", "validation", "test")
        )
        say(f"split: fold {fold}: {', '.join(parts)} images ({', '.join(labels)})")


def _held(label: str, kind: LabelKind) -> list[str]:
    """Name the class, or the findings that are present."""
    if kind == "classes":
        return [label]
    return [
        name for name, state in zip(named(label), read_states(label, named(label)), strict=True) if state == PRESENT
    ]
