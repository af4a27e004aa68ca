"""Manifest: the truth about a synthetic cohort, for tests and for checking what the pipeline made of it.

All persons are invented. The manifest repeats the planted identifiers, so it stands beside the raw files and
is never copied into results.
"""

from typing import Literal

from pydantic import Field

from pipeline.core.records import Cosines, Pair, Record, Triple

Kind = Literal["radiograph", "volume"]
LeavingStage = Literal["", "ingest", "deidentify", "check_quality"]
HazardKind = Literal[
    "rle",
    "jpeg2000",
    "monochrome1",
    "byte_copy",
    "conflicting_instances",
    "same_image_two_patients",
    "similar_image_two_patients",
    "truncated",
    "text_file",
    "empty_file",
    "symbolic_link",
    "structured_report",
    "missing_patient_id",
    "burned_in",
    "missing_slice",
    "patient_without_label",
    "label_without_image",
    "patient_with_both_labels",
    "age_above_89",
    "overlay",
]


class CohortFile(Record):
    """One entry of the folder ``dicom``; the identifiers are those in the file (empty if it has none)."""

    path: str  # below the folder `dicom`, with forward slashes
    sha256: str  # of the bytes; of nothing for a link
    patient_id: str = ""
    study_uid: str = ""
    series_uid: str = ""
    sop_uid: str = ""
    transfer_syntax_uid: str = ""
    photometric_interpretation: str = ""
    pixel_sha256: str = ""  # of the stored values after decoding, as little-endian 16-bit rows
    stage: LeavingStage = ""  # that must leave it out; empty: it stays
    reason: str = ""  # the code with which it must be left out; empty: it stays


class CohortLesion(Record):
    """Where a lesion is and how visible: fractions of the image, HU or units of attenuation."""

    row: float  # of its centre, as a fraction of the rows (0 top, 1 bottom)
    column: float
    slice: float | None = None  # as a fraction of the slices; None for radiographs
    diameter: float = Field(gt=0)  # radiographs: fraction of the image's width; volumes: mm
    contrast: float = Field(gt=0)  # radiographs: attenuation; volumes: HU above the lung


class CohortStudy(Record):
    """One study as it should come out: its label, and where the truth behind the label lies."""

    patient_id: str
    study_uid: str
    site: int
    study_date: str  # YYYYMMDD
    label: Literal["normal", "lesion"]
    finding: Literal["none", "small", "large"]
    is_in_table: bool
    has_images: bool
    lesion: CohortLesion | None = None


class CohortPatient(Record):
    """One invented patient."""

    patient_id: str
    site: int
    sex: Literal["F", "M"]
    birth_date: str  # YYYYMMDD
    age_years: int  # at the first study


class CohortVolume(Record):
    """Geometry of one series of slices.

    `affine` maps (column, row, slice) indices to mm in RAS+ (NIfTI's frame); slices are ordered by their position
    along the cross product of the row and column directions. Its rows stand one after the other.
    """

    series_uid: str
    study_uid: str
    shape: tuple[int, int, int]  # columns, rows, slices
    affine: tuple[tuple[float, float, float, float], ...]
    pixel_spacing_mm: Pair  # between rows, between columns
    slice_distance_mm: float
    orientation: Cosines  # direction of growing column index, of growing row index (LPS)
    first_position_mm: Triple  # centre of the first voxel of the first slice (LPS)
    is_signed: bool


class Hazard(Record):
    """One planted difficulty and what the pipeline must make of it."""

    kind: HazardKind
    stage: str  # that must notice it; empty: nothing is to be noticed
    reason: str  # code in pipeline.core.reasons; empty: it must simply work
    unit: Literal["file", "instance", "series", "image", "patient", "label"]
    excluded: bool  # whether something is left out because of it
    paths: tuple[str, ...] = ()
    patient_ids: tuple[str, ...] = ()
    study_uids: tuple[str, ...] = ()
    series_uids: tuple[str, ...] = ()
    sop_uids: tuple[str, ...] = ()


class Canary(Record):
    """A token that must appear in no output, and where it was put."""

    token: str
    places: tuple[str, ...]  # keywords, tags, "preamble", "file name", "folder name", "pixels"


class Manifest(Record):
    """Everything planted in one cohort."""

    kind: Kind
    seed: int
    size: int
    stem: str  # part of every canary: a search for it finds them all
    files: tuple[CohortFile, ...]
    patients: tuple[CohortPatient, ...]
    studies: tuple[CohortStudy, ...]
    volumes: tuple[CohortVolume, ...]
    hazards: tuple[Hazard, ...]
    canaries: tuple[Canary, ...]
    other_uids: tuple[str, ...]  # original UIDs of devices and frames of reference

    def of_kind(self, kind: HazardKind) -> tuple[Hazard, ...]:
        """Give the hazards of one kind."""
        return tuple(hazard for hazard in self.hazards if hazard.kind == kind)

    def accepted(self) -> tuple[CohortFile, ...]:
        """Give the files that no stage may leave out because of the file itself."""
        return tuple(file for file in self.files if not file.reason)

    def left_out(self, stage: str) -> tuple[CohortFile, ...]:
        """Give the files that one stage must leave out."""
        return tuple(file for file in self.files if file.stage == stage)

    def identifiers(self) -> frozenset[str]:
        """Give every text that must not leave the raw files: canaries and original UIDs."""
        uids = {uid for file in self.files for uid in (file.study_uid, file.series_uid, file.sop_uid) if uid}
        studies = {study.study_uid for study in self.studies}
        return frozenset({canary.token for canary in self.canaries} | uids | studies | set(self.other_uids))
