"""Cohort: the whole built-in study, planned, drawn and written with its label table and its manifest."""

import csv
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.artefacts import read_document, replacing, write_document
from pipeline.core.errors import ArtefactError
from pipeline.core.progress import Progress
from pipeline.phantom.canaries import STEM, Aviary
from pipeline.phantom.files import Archive
from pipeline.phantom.hazards import Donor, describe_patients, plant_files
from pipeline.phantom.headers import Occasion, make_uid
from pipeline.phantom.manifest import CohortPatient, CohortStudy, Hazard, Kind, Manifest
from pipeline.phantom.plan import PlannedPatient, plan_cohort
from pipeline.phantom.studies import Radiographs, Studies, Volumes

FILES, LABELS, MANIFEST = "dicom", "labels.csv", "manifest.json"
_COLUMNS = ("PatientID", "StudyInstanceUID", "label", "finding")


@dataclass(frozen=True)
class Order:
    """What cohort is wanted; the fields are those of the configuration."""

    kind: Kind
    patients: int
    prevalence: float
    size: int
    seed: int


def write_cohort(order: Order, folder: Path) -> Manifest:
    """Write a synthetic cohort: ``dicom/``, ``labels.csv`` and ``manifest.json``.

    The same order gives the same files, byte for byte, with the same versions of numpy, scipy and the encoders.

    Parameters
    ----------
    order
        What to make.
    folder
        Made if need be. A cohort written here before is replaced.

    Raises
    ------
    ArtefactError
        If `folder` holds DICOM files that no manifest claims: they may be somebody's data.
    """
    partial = _cleared(folder)
    people = plan_cohort(
        patients=order.patients,
        prevalence=order.prevalence,
        seed=order.seed,
        has_second_studies=order.kind == "radiograph",
    )
    occasions = [Occasion(order.seed, person, study) for person in people for study in person.studies]
    aviary = Aviary()
    archive = Archive(partial, aviary)
    studies: Studies = (
        Radiographs(archive, aviary, order.size, {occasion.study.number: occasion for occasion in occasions})
        if order.kind == "radiograph"
        else Volumes(archive, aviary, order.size)
    )
    progress = Progress("phantom: studies", len(occasions))
    truths, donors = [], []
    for occasion in occasions:
        truth, path = studies.write(occasion)
        truths.append(truth)
        if occasion.study.is_in_table and occasion.study.encoding == "native" and not occasion.study.is_inverted:
            donors.append(Donor(occasion, path, studies.another(occasion)))
        progress.advance()
    hazards = [*describe_patients(people, order.seed, aviary), *studies.hazards, *plant_files(archive, aviary, donors)]
    absent = _absent(order.seed, people, len(occasions), aviary)
    truths.append(absent)
    hazards.append(_absence(absent))
    partial.rename(folder / FILES)
    write_labels(folder / LABELS, truths)
    manifest = Manifest(
        kind=order.kind,
        seed=order.seed,
        size=order.size,
        stem=STEM,
        files=tuple(sorted(archive.files, key=lambda file: file.path)),
        patients=tuple(_described(person, aviary) for person in people),
        studies=tuple(truths),
        volumes=tuple(studies.volumes),
        hazards=tuple(hazards),
        canaries=tuple(aviary.canaries()),
        other_uids=tuple(sorted(aviary.uids)),
    )
    write_document(folder / MANIFEST, manifest)
    return manifest


def write_labels(path: Path, studies: Sequence[CohortStudy]) -> None:
    """Write the label table, keyed by the original Study Instance UIDs."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for study in studies:
            if study.is_in_table:
                writer.writerow([study.patient_id, study.study_uid, study.label, study.finding])


def _cleared(folder: Path) -> Path:
    """Remove an earlier cohort and give the empty folder to work in."""
    if (folder / FILES).exists():
        try:
            read_document(folder / MANIFEST, Manifest)
        except ArtefactError as error:
            what = "the folder holds files that are not known to be a synthetic cohort; nothing was changed"
            raise ArtefactError(what, where=str(folder / FILES), remedy="name another folder, or remove it") from error
        (folder / MANIFEST).unlink()
        (folder / LABELS).unlink(missing_ok=True)
        shutil.rmtree(folder / FILES)
    partial = folder / f".{FILES}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return partial


def _described(person: PlannedPatient, aviary: Aviary) -> CohortPatient:
    return CohortPatient(
        patient_id=aviary.token("PID", person.number, "PatientID"),
        site=person.site,
        sex=person.sex,
        birth_date=f"{person.birth:%Y%m%d}",
        age_years=person.age_years(person.studies[0].day),
    )


def _absent(seed: int, people: Sequence[PlannedPatient], number: int, aviary: Aviary) -> CohortStudy:
    """Make up somebody with a label of whom no image exists."""
    return CohortStudy(
        patient_id=aviary.token("PID", len(people), "labels.csv"),
        study_uid=make_uid(seed, "study", number),
        site=0,
        study_date=f"{people[0].studies[0].day:%Y%m%d}",
        label="normal",
        finding="none",
        is_in_table=True,
        has_images=False,
    )


def _absence(absent: CohortStudy) -> Hazard:
    return Hazard(
        kind="label_without_image",
        stage="label",
        reason="LABEL_WITHOUT_IMAGE",
        unit="label",
        excluded=False,
        patient_ids=(absent.patient_id,),
        study_uids=(absent.study_uid,),
    )
