"""Look at every file of the source folder and take the images of the study in."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pipeline.config import IngestSettings, SelectSettings
from pipeline.core.artefacts import write_parquet, write_table
from pipeline.core.errors import DicomError
from pipeline.core.progress import say
from pipeline.core.records import Finding, FlowStep, Instance, RejectedFile
from pipeline.dicom.files import MEGABYTE
from pipeline.dicom.pseudonyms import Pseudonyms, close_to_others, read_or_create_key
from pipeline.dicom.scan import Rejection, scan
from pipeline.dicom.selection import Selection, select
from pipeline.dicom.triage import triage


def ingest(
    *,
    settings: IngestSettings,
    key: Path,
    instances: Path,
    rejected: Path,
    rejections: Path,
    flow: Path,
    threads: int = 1,
) -> None:
    """Index the usable instances below a folder; every other entry is counted with its reason.

    Parameters
    ----------
    settings
        The folder, the modalities, the size limit.
    key
        The study's secret key; made on first use.
    instances
        Table of `Instance` (restricted).
    rejected
        Table of `RejectedFile` (restricted): which file is behind a finding.
    rejections
        Table of `Finding`, one for each file left out, and for each patient kept in spite of a shared ID.
    flow
        Table with one `FlowStep`.
    threads
        Processes to use.

    Raises
    ------
    DicomError
        If the folder cannot be read, holds the results, or holds no usable image.
    """
    if rejections.resolve().is_relative_to(settings.source.resolve()):
        what = "the results would be written into the source folder"
        raise DicomError(what, where=str(settings.source), remedy="keep source and results apart")
    for folder in {instances.parent, rejected.parent}:
        close_to_others(folder)
    pseudonyms = Pseudonyms(read_or_create_key(key))
    found = scan(
        settings.source,
        modalities=settings.modalities,
        largest_bytes=settings.max_instance_mb * MEGABYTE,
        keep_shared_ids=settings.on_shared_patient_id == "note",
        threads=threads,
    )
    taken, refused = _sorted(found.instances, settings.select)
    rejected_files = sorted([*found.rejections, *refused], key=lambda one: one.path)
    files = [(rejection, pseudonyms.file(rejection.path)) for rejection in rejected_files]
    write_parquet(instances, Instance, taken)
    write_table(
        rejected, RejectedFile, (RejectedFile(file_id=name, path=one.path, reason=one.code) for one, name in files)
    )
    kept = {one.patient_id for one in taken} & found.shared_ids
    noted = sorted(pseudonyms.patient(patient_id) for patient_id in kept)
    write_table(rejections, Finding, [*(_finding(one, name) for one, name in files), *map(_shared, noted)])
    series = len({(instance.series_uid, instance.part) for instance in taken})
    step = FlowStep(
        stage="ingest",
        unit="file",
        entered=found.entries,
        excluded=len(rejected_files),
        left=len(taken),
        produced_unit="series",
        produced=series,
    )
    write_table(flow, FlowStep, [step])
    reasons = ", ".join(f"{code} {n}" for code, n in sorted(Counter(one.code for one in rejected_files).items()))
    say(f"ingest: {step.left} of {step.entered} files are images of this study, in {series} series")
    say(f"ingest: left out: {reasons or 'none'}")
    if not taken:
        what = f"no usable image among {step.entered} files ({reasons or 'the folder is empty'})"
        raise DicomError(what, where=str(settings.source), remedy="check `ingest.source` and `ingest.modalities`")


def _sorted(instances: Sequence[Instance], wanted: SelectSettings) -> tuple[tuple[Instance, ...], list[Rejection]]:
    """Sort slices into volumes and keep the series that are wanted."""
    volumes = triage(instances)
    chosen = select(volumes.kept, Selection(**wanted.model_dump()))
    return chosen.kept, [Rejection(one.path, code) for one, code in (*volumes.refused, *chosen.refused)]


def _shared(patient: str) -> Finding:
    return Finding(stage="ingest", unit="patient", unit_id=patient, code="SHARED_PATIENT_ID", severity="noted")


def _finding(rejection: Rejection, name: str) -> Finding:
    return Finding(stage="ingest", unit="file", unit_id=name, code=rejection.code, severity="excluded")
