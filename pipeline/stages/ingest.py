"""Look at every file of the source and take the images of the study in."""

from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from pipeline.config import IngestSettings, SelectSettings
from pipeline.core.artefacts import write_parquet, write_table
from pipeline.core.errors import DicomError
from pipeline.core.progress import say
from pipeline.core.records import Finding, FlowStep, Instance, RejectedFile
from pipeline.dicom.deidentification.pseudonyms import Pseudonyms, close_to_others, read_or_create_key
from pipeline.dicom.indexing.archives import folder_of, unpack
from pipeline.dicom.indexing.consistency import refuse_inconsistent
from pipeline.dicom.indexing.index import Index, Rejection, open_index
from pipeline.dicom.indexing.scan import answers_digest, update
from pipeline.dicom.reading.files import INFLATION_ROOM_BYTES, MEGABYTE
from pipeline.dicom.slices.selection import Selection, select
from pipeline.dicom.slices.triage import triage

_ROWS_IN_MEMORY = 10_000


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
    """Index the usable instances of the source; every other entry is counted with its reason.

    What headers said is kept in ``index.sqlite`` beside the instances, so that a second run, or one after a run
    that was killed, reads new and changed files only. An archive is unpacked beside it.

    Parameters
    ----------
    settings
        The source, the modalities, the size limit.
    key
        The study's secret key; made on first use.
    instances
        Table of `Instance` (restricted), series after series.
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
        If the source cannot be read, holds the results, or holds no usable image.
    ArtefactError
        If the index or a table cannot be written.
    """
    if rejections.resolve().is_relative_to(folder_of(settings.source).resolve()):
        what = "the results would be written into the source folder"
        raise DicomError(what, where=str(settings.source), remedy="keep source and results apart")
    for folder in {instances.parent, rejected.parent}:
        close_to_others(folder)
    pseudonyms = Pseudonyms(read_or_create_key(key))
    largest_bytes = settings.max_instance_mb * MEGABYTE
    tree = unpack(settings.source, instances.parent, largest_bytes=largest_bytes + INFLATION_ROOM_BYTES)
    answers = answers_digest(tree, modalities=settings.modalities, largest_bytes=largest_bytes)
    with open_index(instances.parent / "index.sqlite", answers) as index:
        update(index, tree, modalities=settings.modalities, largest_bytes=largest_bytes, threads=threads)
        refuse_inconsistent(index, tree.root, keep_shared_ids=settings.on_shared_patient_id == "note")
        write_parquet(instances, Instance, _taken(index, settings.select), batch=_ROWS_IN_MEMORY)
        counts = index.counts()
        noted = sorted(map(pseudonyms.patient, counts.shared_ids_kept))
        write_table(rejected, RejectedFile, (_file(one, pseudonyms) for one in index.rejections()))
        findings = (_finding(one, pseudonyms) for one in index.rejections())
        write_table(rejections, Finding, chain(findings, map(_shared, noted)))
        codes = Counter(one.code for one in index.rejections())
    step = FlowStep(
        stage="ingest",
        unit="file",
        entered=counts.entries,
        excluded=codes.total(),
        left=counts.files_kept,
        produced_unit="instance",
        produced=counts.instances_kept,
    )
    write_table(flow, FlowStep, [step])
    reasons = ", ".join(f"{code} {n}" for code, n in sorted(codes.items()))
    say(f"ingest: {step.left} of {step.entered} files are images of this study, in {counts.series_kept} series")
    say(f"ingest: left out: {reasons or 'none'}")
    if not step.left:
        what = f"no usable image among {step.entered} files ({reasons or 'the folder is empty'})"
        raise DicomError(what, where=str(settings.source), remedy="check `ingest.source` and `ingest.modalities`")


def _taken(index: Index, wanted: SelectSettings) -> Iterator[Instance]:
    """Sort slices into volumes and keep the series that are wanted, series after series."""
    selection = Selection(**wanted.model_dump())
    for instances in index.series():
        volumes = triage(instances)
        chosen = select(volumes.kept, selection)
        index.settle(chosen.kept, (*volumes.refused, *chosen.refused))
        yield from chosen.kept


def _file(rejection: Rejection, pseudonyms: Pseudonyms) -> RejectedFile:
    return RejectedFile(file_id=pseudonyms.file(rejection.path), path=rejection.path, reason=rejection.code)


def _finding(rejection: Rejection, pseudonyms: Pseudonyms) -> Finding:
    name = pseudonyms.file(rejection.path)
    return Finding(stage="ingest", unit="file", unit_id=name, code=rejection.code, severity="excluded")


def _shared(patient: str) -> Finding:
    return Finding(stage="ingest", unit="patient", unit_id=patient, code="SHARED_PATIENT_ID", severity="noted")
