"""Divide the patients into folds, after pictures that stand twice have been found."""

from pathlib import Path

from pipeline.cohort.duplicates import resolve_duplicates
from pipeline.cohort.splits import Member, assert_no_leakage, make_folds
from pipeline.config import SplitSettings
from pipeline.core.artefacts import read_table, write_table
from pipeline.core.progress import say
from pipeline.core.records import Finding, FlowStep, FoldRole, Image, Label
from pipeline.imaging.hashing import fine_structure, structural_correlation
from pipeline.imaging.pixel_store import open_pixels


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
) -> None:
    """Resolve duplicates, then give every image a role in every fold."""
    index = read_table(images, Image)
    label_of = {row.image_id: row.label for row in read_table(labels, Label)}
    labelled = sorted((image for image in index if image.image_id in label_of), key=lambda image: image.row)
    stored = open_pixels(pixels, sum(not image.volume_file for image in index))
    kept = resolve_duplicates(
        labelled,
        label_of,
        max_distance=settings.max_hash_distance,
        correlation=lambda one, other: structural_correlation(
            fine_structure(stored[one]), fine_structure(stored[other])
        ),
    )
    members = [
        Member(
            image.image_id, image.row, image.patient, kept.groups[image.patient], image.site, label_of[image.image_id]
        )
        for image in kept.images
    ]
    roles = make_folds(
        members, folds=settings.folds, validation_fraction=settings.validation_fraction, unit=settings.unit, seed=seed
    )
    assert_no_leakage(roles, {image.image_id: image.pixel_sha256 for image in kept.images})
    step = FlowStep(
        stage="split",
        unit="image",
        entered=len(labelled),
        excluded=len(labelled) - len(members),
        left=len(members),
        produced_unit="image",
        produced=len(members),
    )
    write_table(folds, FoldRole, roles)
    write_table(duplicates, Finding, kept.findings)
    write_table(flow, FlowStep, [step])
    say(f"split: {len(members)} images of {len({m.patient for m in members})} patients in {settings.folds} folds")
