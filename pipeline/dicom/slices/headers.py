"""Headers: one file becomes an `Instance`, or the reason code why it does not; pixels are not decoded."""

import math
from collections.abc import Collection
from datetime import date
from functools import lru_cache
from pathlib import Path

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.uid import UID

from pipeline.core.records import Instance
from pipeline.dicom.decoding.codecs import is_decodable
from pipeline.dicom.decoding.pixel_format import (
    PIXEL_FORMAT_KEYWORDS,
    PixelFormat,
    check_pixel_data,
    pixel_element,
    pixel_format,
)
from pipeline.dicom.reading import elements
from pipeline.dicom.reading.files import (
    INFLATION_ROOM_BYTES,
    FileFault,
    Refusal,
    Slot,
    Source,
    head_sha256,
    opened,
    read_elements,
)
from pipeline.dicom.reading.quiet import quiet
from pipeline.dicom.slices.frames import CLASSIC, plane_facts, with_planes
from pipeline.dicom.slices.geometry import is_orientation

# Modalities whose instances are slices of a volume; every other one holds images that stand alone.
SLICE_MODALITIES = frozenset({"CT", "MR", "PT"})
_IDENTITY_KEYWORDS = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
_KEYWORDS = (
    "SpecificCharacterSet", "SOPClassUID", "Modality", *_IDENTITY_KEYWORDS, *PIXEL_FORMAT_KEYWORDS,
    "BurnedInAnnotation", "InstanceNumber", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing",
    "ImagerPixelSpacing", "NominalScannedPixelSpacing", "StudyDate", "PatientAge", "PatientBirthDate", "PatientSex",
    "IssuerOfPatientID", "FrameOfReferenceUID", "ImageType", "SeriesDescription", "AcquisitionNumber",
    "TemporalPositionIdentifier", "EchoTime", "TriggerTime", "DiffusionBValue", "AcquisitionTime", "SliceThickness",
    "ContrastBolusAgent", "InstitutionName", "Manufacturer", "ManufacturerModelName", "BodyPartExamined",
    "ViewPosition", "DiffusionGradientOrientation", "ConcatenationUID", "InConcatenationNumber",
    "InConcatenationTotalNumber",
)  # fmt: skip
_TAGS = tuple(tag for keyword in _KEYWORDS if (tag := tag_for_keyword(keyword)) is not None)
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"  # and its multi-frame kinds (PS3.4, B.5)
_OTHER_KINDS = frozenset({"UNSUPPORTED_IMAGE", "MISSING_IDENTITY", "UNWANTED_MODALITY"})
_is_orientation = lru_cache(maxsize=64)(is_orientation)  # the slices of a series share theirs
_YEARS_OF = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}
_OLDEST_YEARS = 150
_AGE_CHARACTERS = 4  # nnnD, nnnW, nnnM or nnnY (PS3.5, table 6.2-1)
_DATE_CHARACTERS = 8


def read_header(
    path: Path | str, relative_path: str, *, modalities: Collection[str], largest_bytes: int
) -> Instance | str:
    """Read what one file says about itself, and prove what can be proved without decoding its pixels.

    Parameters
    ----------
    path
        The file; a link is not followed, a pipe is not waited for.
    relative_path
        How the record names the file.
    modalities
        The modalities wanted.
    largest_bytes
        Largest length of the decoded pixels.

    Returns
    -------
    Instance | str
        The record, or a key of `pipeline.core.reasons.REASONS` (a `Refusal` where the file would have been a slice
        of a known series). Whatever a file holds, nothing is raised.
    """
    try:
        with quiet(), opened(path, largest_bytes + INFLATION_ROOM_BYTES, _TAGS) as source:
            found = _instance(source, relative_path, modalities, largest_bytes)
        with quiet():
            return _with_planes(path, found, largest_bytes + INFLATION_ROOM_BYTES)
    except FileFault as fault:
        return Refusal(fault.code, fault.slot) if fault.slot else fault.code
    except OSError:
        return "UNREADABLE_FILE"
    except Exception:  # noqa: BLE001  one damaged file must not stop a scan, whatever it does to the libraries
        return "UNREADABLE_HEADER"


def age_years(patient_age: str, birth_date: str, study_date: str) -> float | None:
    """Compute the age at the study from Patient's Age, or else from the two dates.

    Parameters
    ----------
    patient_age
        For example ``"045Y"`` or ``"003M"``.
    birth_date, study_date
        ``YYYYMMDD``.

    Returns
    -------
    float | None
        Years; from dates whole years (whole months below two years). None if it is unknown or absurd.

    Examples
    --------
    >>> age_years("045Y", "", ""), age_years("006M", "", ""), age_years("", "19600301", "20240229")
    (45.0, 0.5, 63.0)
    """
    age: float | None = None
    if len(patient_age) == _AGE_CHARACTERS and patient_age[:3].isdecimal() and patient_age[3] in _YEARS_OF:
        age = int(patient_age[:3]) * _YEARS_OF[patient_age[3]]
    else:
        born, seen = parsed_date(birth_date), parsed_date(study_date)
        if born is not None and seen is not None:
            months = 12 * (seen.year - born.year) + seen.month - born.month - (seen.day < born.day)
            age = float(months // 12) if months >= 24 else months / 12
    return age if age is not None and 0 <= age <= _OLDEST_YEARS else None


def parsed_date(value: str) -> date | None:
    """Read a DICOM date ``YYYYMMDD`` (PS3.5, table 6.2-1); None if it is none."""
    if len(value) != _DATE_CHARACTERS or not value.isdecimal() or not value.isascii():
        return None
    try:
        return date(int(value[:4]), int(value[4:6]), int(value[6:]))
    except ValueError:
        return None


def _instance(source: Source, relative_path: str, modalities: Collection[str], largest_bytes: int) -> Instance:
    dataset = source.header or read_elements(source, _TAGS)
    try:
        return _checked(dataset, source, relative_path, modalities, largest_bytes)
    except FileFault as fault:
        is_slice = elements.text(dataset, "Modality") in SLICE_MODALITIES
        if fault.code in _OTHER_KINDS:  # may be something else that is filed in the series, unless it has a place there
            has_place = all(keyword in dataset for keyword in ("ImagePositionPatient", "ImageOrientationPatient"))
            is_slice = has_place or elements.text(dataset, "SOPClassUID") in CLASSIC
        if not is_slice:
            raise
        slot = Slot(elements.text(dataset, "SeriesInstanceUID"), elements.text(dataset, "SOPInstanceUID"))
        raise FileFault(fault.code, slot) from None


def _with_planes(path: Path | str, found: Instance, room_bytes: int) -> Instance:
    try:
        return with_planes(path, found, room_bytes)
    except FileFault as fault:
        raise FileFault(fault.code, Slot(found.series_uid, found.sop_uid)) from None


def _checked(
    dataset: Dataset, source: Source, relative_path: str, modalities: Collection[str], largest_bytes: int
) -> Instance:
    sop_class = elements.text(dataset, "SOPClassUID") or elements.text(source.meta, "MediaStorageSOPClassUID")
    modality = elements.text(dataset, "Modality")
    _check_kind(source, sop_class, modality, modalities)
    pixels = pixel_element(source)
    identity = [elements.text(dataset, keyword) for keyword in _IDENTITY_KEYWORDS]
    if not modality or not all(identity) or any(map(elements.is_garbled, identity)):
        raise FileFault("MISSING_IDENTITY")
    if not _is_image_class(sop_class):
        raise FileFault("UNSUPPORTED_IMAGE")
    form = pixel_format(dataset, largest_bytes)
    is_enhanced = sop_class in CLASSIC and modality in SLICE_MODALITIES
    is_swapped = form.frame_bytes % 2 and not source.is_little_endian  # in pairs across frames (PS3.5, annex D)
    if (form.frames != 1 and not is_enhanced) or (is_enhanced and (form.is_colour or is_swapped)):
        raise FileFault("UNSUPPORTED_IMAGE")
    if not is_decodable(source.transfer_syntax_uid):
        raise FileFault("UNSUPPORTED_TRANSFER_SYNTAX")
    check_pixel_data(source, pixels, form)
    if not is_enhanced:
        _check_geometry(dataset, modality)
    return _record(dataset, source, relative_path, sop_class, form)


def _check_kind(source: Source, sop_class: str, modality: str, modalities: Collection[str]) -> None:
    """Turn away what is no image, or of a modality nobody asked for, before its pixels are looked at."""
    if _is_known(sop_class) and not _is_image_class(sop_class):
        raise FileFault("NOT_AN_IMAGE")
    if source.body.tell() >= source.end:  # no pixel data; and the last value read may have been cut short
        raise FileFault("TRUNCATED_FILE")
    if modality and modality not in modalities:
        raise FileFault("UNWANTED_MODALITY")
    if modality in SLICE_MODALITIES and sop_class.startswith(_SECONDARY_CAPTURE):
        raise FileFault("SECONDARY_CAPTURE")


@lru_cache(maxsize=256)
def _is_known(sop_class: str) -> bool:
    return bool(UID(sop_class).type)


@lru_cache(maxsize=256)
def _is_image_class(sop_class: str) -> bool:
    """Tell by its name in the standard whether a storage class holds images (PS3.4, annex B; PS3.6, annex A)."""
    return "Image Storage" in UID(sop_class).name


def _check_geometry(dataset: Dataset, modality: str) -> None:
    """Refuse a slice without its place: it cannot become part of a volume (PS3.3, C.7.6.2)."""
    if modality not in SLICE_MODALITIES:
        return
    orientation = elements.cosines(dataset, "ImageOrientationPatient")
    known = elements.triple(dataset, "ImagePositionPatient") and elements.positive_pair(dataset, "PixelSpacing")
    if not known or orientation is None or not _is_orientation(orientation):
        raise FileFault("BAD_GEOMETRY")


def _record(dataset: Dataset, source: Source, relative_path: str, sop_class: str, form: PixelFormat) -> Instance:
    modality = elements.text(dataset, "Modality")
    study_date = elements.text(dataset, "StudyDate")
    burned_in = {"YES": True, "NO": False}.get(elements.text(dataset, "BurnedInAnnotation").upper())
    number = elements.number(dataset, "InstanceNumber")
    birth_date = elements.text(dataset, "PatientBirthDate")
    return Instance(
        path=relative_path,
        size_bytes=source.size_bytes,
        modified_ns=source.modified_ns,
        head_sha256=head_sha256(source),
        patient_id=elements.text(dataset, "PatientID"),
        patient_id_issuer=elements.text(dataset, "IssuerOfPatientID"),
        patient_birth_date=birth_date if parsed_date(birth_date) else "",
        study_uid=elements.text(dataset, "StudyInstanceUID"),
        series_uid=elements.text(dataset, "SeriesInstanceUID"),
        sop_uid=elements.text(dataset, "SOPInstanceUID"),
        sop_class_uid=sop_class,
        transfer_syntax_uid=source.transfer_syntax_uid,
        modality=modality,
        kind="slice" if modality in SLICE_MODALITIES else "image",
        rows=form.rows,
        columns=form.columns,
        frames=form.frames,
        samples_per_pixel=form.samples,
        bits_allocated=form.bits_allocated,
        bits_stored=form.bits_stored,
        is_signed=form.is_signed,
        photometric_interpretation=form.photometric_interpretation,
        burned_in_annotation=burned_in,
        instance_number=int(number) if number is not None and abs(number) < math.ldexp(1, 31) else None,
        frame_of_reference_uid=elements.text(dataset, "FrameOfReferenceUID"),
        series_description=elements.text(dataset, "SeriesDescription"),
        has_contrast_agent=bool(elements.text(dataset, "ContrastBolusAgent")),
        study_date=study_date,
        patient_age_years=age_years(elements.text(dataset, "PatientAge"), birth_date, study_date),
        patient_sex=elements.text(dataset, "PatientSex"),
        institution=elements.text(dataset, "InstitutionName"),
        manufacturer=elements.text(dataset, "Manufacturer"),
        manufacturer_model=elements.text(dataset, "ManufacturerModelName"),
        body_part=elements.text(dataset, "BodyPartExamined"),
        view_position=elements.text(dataset, "ViewPosition"),
        concatenation_uid=elements.text(dataset, "ConcatenationUID"),
        concatenation_number=elements.integer(dataset, "InConcatenationNumber"),
        concatenation_total=elements.integer(dataset, "InConcatenationTotalNumber"),
        **plane_facts(dataset),
    )
