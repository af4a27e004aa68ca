"""Make the built-in study: a synthetic DICOM cohort with planted hazards."""

from pathlib import Path

from pipeline.config import PhantomSettings
from pipeline.core.progress import say
from pipeline.phantom.cohort import Order, write_cohort


def phantom(*, settings: PhantomSettings, output: Path) -> None:
    """Write ``dicom/``, ``labels.csv`` and ``manifest.json`` below `output`.

    Parameters
    ----------
    settings
        The section ``phantom`` of the configuration.
    output
        Folder for the raw data; an earlier synthetic cohort in it is replaced, anything else is left alone.

    Raises
    ------
    ArtefactError
        If the folder holds files that are not a synthetic cohort, or cannot be written.
    """
    order = Order(
        kind=settings.kind,
        patients=settings.patients,
        prevalence=settings.prevalence,
        size=settings.size,
        seed=settings.seed,
    )
    manifest = write_cohort(order, output)
    labelled = sum(study.is_in_table for study in manifest.studies)
    say(f"phantom: {len(manifest.files)} files, {len(manifest.patients)} patients, {labelled} labels")
