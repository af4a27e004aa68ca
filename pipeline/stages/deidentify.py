"""Replace or remove everything that identifies a patient; pixels stay as they are."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from pipeline.config import DeidentifySettings
from pipeline.core.artefacts import read_parquet, write_table
from pipeline.core.errors import DicomError
from pipeline.core.parallel import map_in_order
from pipeline.core.progress import Progress, say
from pipeline.core.records import Finding, FlowStep, Instance, PseudonymLink
from pipeline.core.records import Series as SeriesRecord
from pipeline.dicom.pseudonyms import Pseudonyms, close_to_others, read_or_create_key
from pipeline.dicom.rewriting import FAILED, WORTH_PROCESSES, Rewriter, Rewritten
from pipeline.dicom.series import series_records


def deidentify(
    *,
    settings: DeidentifySettings,
    source: Path,
    key: Path,
    instances: Path,
    dicom: Path,
    series: Path,
    pseudonyms: Path,
    quarantine: Path,
    flow: Path,
    threads: int = 1,
) -> None:
    """Write a de-identified copy of every instance, or count it with the reason why it is kept out.

    Parameters
    ----------
    settings
        The size of the date shift.
    source
        The folder that was scanned; it is only read.
    key
        The study's secret key.
    instances
        Table of `Instance` (restricted).
    dicom
        Folder for the de-identified files, ``<series>/<sop_uid>.dcm`` (see `Series.name`).
    series
        Table of `Series`.
    pseudonyms
        Table of `PseudonymLink` (restricted): the way back to the patients.
    quarantine
        Table of `Finding`, one for each instance kept out.
    flow
        Table with one `FlowStep`.
    threads
        Processes to use.

    Raises
    ------
    DicomError
        If no instance is left.
    """
    close_to_others(pseudonyms.parent)
    names = Pseudonyms(read_or_create_key(key))
    # By content, not by pseudonym: the order of what follows must not depend on the key.
    found = sorted(read_parquet(instances, Instance), key=lambda one: (one.head_sha256, one.sop_uid))
    dicom.mkdir(parents=True, exist_ok=True)
    rewriter = Rewriter(source, dicom, names, settings.max_date_shift_days)
    progress = Progress("deidentify: instances", len(found))
    written: list[Rewritten] = []
    findings: list[Finding] = []
    results = map_in_order(
        rewriter, found, threads=threads if len(found) >= WORTH_PROCESSES else 1, on_crash=lambda _: FAILED
    )
    for instance, result in zip(found, results, strict=True):
        if isinstance(result, str):
            findings.append(_finding(names.uid(instance.sop_uid), result))
        else:
            written.append(result)
        progress.advance()
    records = series_records(written)
    write_table(series, SeriesRecord, records)
    write_table(pseudonyms, PseudonymLink, _links({one.patient_id for one in found}, names, settings))
    write_table(quarantine, Finding, findings)
    step = FlowStep(
        stage="deidentify",
        unit="instance",
        entered=len(found),
        excluded=len(findings),
        left=len(written),
        produced_unit="series",
        produced=len(records),
    )
    write_table(flow, FlowStep, [step])
    reasons = ", ".join(f"{code} {n}" for code, n in sorted(Counter(one.code for one in findings).items()))
    say(f"deidentify: {step.left} of {step.entered} instances written, in {step.produced} series")
    say(f"deidentify: kept out: {reasons or 'none'}")
    if not written:
        what = f"no instance could be de-identified ({reasons or 'none came in'})"
        raise DicomError(what, where=str(quarantine), remedy="see the reasons; check that the source is unchanged")


def _finding(sop_uid: str, code: str) -> Finding:
    return Finding(stage="deidentify", unit="instance", unit_id=sop_uid, code=code, severity="excluded")


def _links(patients: Iterable[str], names: Pseudonyms, settings: DeidentifySettings) -> Iterable[PseudonymLink]:
    for patient_id in sorted(patients):
        shift = names.date_shift_days(patient_id, settings.max_date_shift_days)
        yield PseudonymLink(patient_id=patient_id, patient=names.patient(patient_id), date_shift_days=shift)
