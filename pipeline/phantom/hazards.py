"""Hazards: what real archives hold besides clean images, planted once each and listed.

No hazard costs a labelled study its image: damaged or suspicious objects are series of their own beside good ones,
so that every row of the label table but one finds its image.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset

from pipeline.phantom.canaries import STEM, Aviary
from pipeline.phantom.files import Archive, LeftOut
from pipeline.phantom.headers import Occasion, add_report, general
from pipeline.phantom.lettering import letters
from pipeline.phantom.manifest import CohortFile, Hazard, HazardKind
from pipeline.phantom.plan import PlannedPatient

_OLD = 89  # years
_COSTS_IMAGES = frozenset({"NO_LABEL", "SAME_IMAGE_TWO_PATIENTS"})  # reasons by which images of a study are left out
_KEPT_OF_TRUNCATED = 0.6  # of the bytes
_LAST_FOLDER = "zz"  # sorts behind every series folder, so that a copy comes after its original


@dataclass(frozen=True)
class Donor:
    """A labelled study beside whose good images a hazard is planted.

    `draw` makes a new object of the study with the names of its series and of itself.
    """

    occasion: Occasion
    path: str  # of one of its good files
    draw: Callable[[str, str], Dataset]


def plant_files(archive: Archive, aviary: Aviary, donors: Sequence[Donor]) -> list[Hazard]:
    """Write the hazardous files, each beside another of the donors (in order, starting again at the end)."""
    planters = (
        _byte_copy,
        _truncated,
        _conflicting,
        _missing_patient_id,
        _structured_report,
        _burned_in,
        _text_file,
        _empty_file,
        _symbolic_link,
    )
    return [plant(archive, aviary, donors[place % len(donors)]) for place, plant in enumerate(planters)]


def describe_patients(people: Sequence[PlannedPatient], seed: int, aviary: Aviary) -> list[Hazard]:
    """List the hazards that lie in the plan itself: encodings, shared pictures, labels, ages."""
    hazards: list[Hazard] = []
    everything = [Occasion(seed, person, study) for person in people for study in person.studies]
    by_number = {occasion.study.number: occasion for occasion in everything}

    def add(kind: HazardKind, stage: str, reason: str, found: Sequence[Occasion], unit: str = "image") -> None:
        if found:
            hazards.append(_of_studies(kind, stage, reason, found, unit, aviary))

    add("rle", "", "", [o for o in everything if o.study.encoding == "rle"])
    add("jpeg2000", "", "", [o for o in everything if o.study.encoding == "jpeg2000"])
    add("monochrome1", "", "", [o for o in everything if o.study.is_inverted])
    for occasion in everything:
        if occasion.study.shows is not None:
            pair = (by_number[occasion.study.shows], occasion)
            if occasion.study.is_exact_copy:
                add("same_image_two_patients", "split", "SAME_IMAGE_TWO_PATIENTS", pair)
            else:
                add("similar_image_two_patients", "split", "SIMILAR_IMAGE_TWO_PATIENTS", pair)
    for person in people:
        own = [occasion for occasion in everything if occasion.patient.number == person.number]
        if len({study.has_lesion for study in person.studies}) == 2:
            add("patient_with_both_labels", "label", "PATIENT_HAS_SEVERAL_CLASSES", own, "patient")
        if not person.studies[0].is_in_table:
            add("patient_without_label", "label", "NO_LABEL", own)
        if person.age_years(person.studies[0].day) > _OLD:
            add("age_above_89", "", "", own, "patient")
    return hazards


def burn_in(pixels: np.ndarray[tuple[int, int], np.dtype[np.uint16]], number: int, white: int) -> None:
    """Write a patient's token into pixels, in place."""
    scale = max(pixels.shape[1] // 128, 1)
    text = np.kron(letters(f"{STEM} {number}"), np.ones((scale, scale), bool))
    top, left = pixels.shape[0] - 2 * text.shape[0], scale * 4
    text = text[:, : pixels.shape[1] - left]  # a long number may run out of a small image
    pixels[top : top + text.shape[0], left : left + text.shape[1]][text] = white


def _of_studies(
    kind: HazardKind, stage: str, reason: str, found: Sequence[Occasion], unit: str, aviary: Aviary
) -> Hazard:
    return Hazard.model_validate(
        {
            "kind": kind,
            "stage": stage,
            "reason": reason,
            "unit": unit,
            "excluded": reason in _COSTS_IMAGES,
            "patient_ids": [aviary.token("PID", o.patient.number, "PatientID") for o in found],
            "study_uids": [o.study_uid for o in found],
            "series_uids": [o.series_uid("main") for o in found],
        }
    )


def _of_files(kind: HazardKind, files: Sequence[CohortFile], *, excluded: Sequence[CohortFile] | None = None) -> Hazard:
    """Make the hazard of some files; those left out tell stage and reason."""
    left_out = list(excluded if excluded is not None else files)
    named = [file for file in files if file.sop_uid]
    return Hazard(
        kind=kind,
        stage=left_out[0].stage,
        reason=left_out[0].reason,
        unit="instance" if left_out[0].stage == "deidentify" else "file",
        excluded=True,
        paths=tuple(file.path for file in left_out),
        patient_ids=tuple(file.patient_id for file in named),
        study_uids=tuple(file.study_uid for file in named),
        series_uids=tuple(file.series_uid for file in named),
        sop_uids=tuple(file.sop_uid for file in named),
    )


def _byte_copy(archive: Archive, aviary: Aviary, donor: Donor) -> Hazard:
    original = next(file for file in archive.files if file.path == donor.path)
    path = archive.place(donor.occasion.numbers, "copy", folder=_LAST_FOLDER)
    truth = original.model_copy(update={"path": path, "stage": "ingest", "reason": "DUPLICATE_FILE"})
    copy = archive.add_bytes(archive.read(original.path), truth)
    return _of_files("byte_copy", [copy])


def _truncated(archive: Archive, aviary: Aviary, donor: Donor) -> Hazard:
    numbers = donor.occasion.numbers
    whole = archive.add_dataset(
        archive.place(numbers, "cut", folder="cut"),
        donor.draw("cut", "cut"),
        preamble=aviary.preamble(numbers),
        left_out=LeftOut("ingest", "TRUNCATED_FILE"),
    )
    archive.files.pop()
    content = archive.read(whole.path)
    damaged = whole.model_copy(update={"pixel_sha256": ""})
    return _of_files("truncated", [archive.add_bytes(content[: int(len(content) * _KEPT_OF_TRUNCATED)], damaged)])


def _conflicting(archive: Archive, aviary: Aviary, donor: Donor) -> Hazard:
    """Two files say that they are the same object, but one pixel differs."""
    numbers = donor.occasion.numbers
    files = []
    for place in range(2):
        data = donor.draw("conflict", "conflict")
        pixels = bytearray(data.PixelData)
        pixels[0] ^= place
        data.PixelData = bytes(pixels)
        path = archive.place(numbers, f"conflict{place}", folder="conflict")
        left_out = LeftOut("ingest", "CONFLICTING_INSTANCES")
        files.append(archive.add_dataset(path, data, preamble=aviary.preamble(numbers), left_out=left_out))
    return _of_files("conflicting_instances", files)


def _missing_patient_id(archive: Archive, aviary: Aviary, donor: Donor) -> Hazard:
    numbers = donor.occasion.numbers
    data = donor.draw("nameless", "nameless")
    data.PatientID = ""
    path = archive.place(numbers, "nameless", folder="nameless")
    left_out = LeftOut("ingest", "MISSING_IDENTITY")
    file = archive.add_dataset(path, data, preamble=aviary.preamble(numbers), left_out=left_out)
    return _of_files("missing_patient_id", [file])


def _structured_report(archive: Archive, aviary: Aviary, donor: Donor) -> Hazard:
    numbers = donor.occasion.numbers
    data = general(donor.occasion, aviary, series="report", instance="report")
    add_report(data, aviary, numbers)
    path = archive.place(numbers, "report", folder="report")
    left_out = LeftOut("ingest", "NOT_AN_IMAGE")
    file = archive.add_dataset(path, data, preamble=aviary.preamble(numbers), left_out=left_out)
    return _of_files("structured_report", [file])


def _burned_in(archive: Archive, aviary: Aviary, donor: Donor) -> Hazard:
    numbers = donor.occasion.numbers
    data = donor.draw("burned", "burned")
    pixels = np.frombuffer(data.PixelData, "<u2").reshape(data.Rows, data.Columns).copy()
    burn_in(pixels, numbers.patient, 2**data.BitsStored - 1)
    data.PixelData = pixels.tobytes()
    data.BurnedInAnnotation = "YES"
    path = archive.place(numbers, "burned", folder="burned")
    left_out = LeftOut("deidentify", "BURNED_IN_ANNOTATION")
    file = archive.add_dataset(path, data, preamble=aviary.preamble(numbers), left_out=left_out)
    return _of_files("burned_in", [file])


def _text_file(archive: Archive, aviary: Aviary, donor: Donor) -> Hazard:
    numbers = donor.occasion.numbers
    name = aviary.token("NAME", numbers.patient, "text file")
    truth = CohortFile(
        path=f"{archive.place(numbers, 'notes', folder='notes')}.txt", sha256="", stage="ingest", reason="NOT_DICOM"
    )
    return _of_files("text_file", [archive.add_bytes(f"{name} called, wants the films on CD.\n".encode(), truth)])


def _empty_file(archive: Archive, aviary: Aviary, donor: Donor) -> Hazard:
    path = archive.place(donor.occasion.numbers, "empty", folder="empty")
    return _of_files(
        "empty_file",
        [archive.add_bytes(b"", CohortFile(path=path, sha256="", stage="ingest", reason="EMPTY_FILE"))],
    )


def _symbolic_link(archive: Archive, aviary: Aviary, donor: Donor) -> Hazard:
    path = archive.place(donor.occasion.numbers, "link", folder="link")
    truth = CohortFile(path=path, sha256="", stage="ingest", reason="NOT_A_REGULAR_FILE")
    return _of_files("symbolic_link", [archive.add_link(truth, donor.path)])
