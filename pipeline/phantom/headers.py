"""Headers: DICOM data sets of the synthetic patients, filled as an ordinary archive's are.

Modules follow PS3.3: Patient (C.7.1), General Study (C.7.2), General Series (C.7.3), General Equipment (C.7.5),
Image Pixel (C.7.6.3), CR Image (C.8.1), CT Image (C.8.2), DX Image (C.8.11) and SR Document (C.17).
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.uid import (
    PYDICOM_ROOT_UID,
    BasicTextSRStorage,
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
)

from pipeline.phantom.canaries import Aviary, Numbers
from pipeline.phantom.lettering import letters
from pipeline.phantom.plan import PlannedPatient, PlannedStudy
from pipeline.phantom.scanners import Scanner

FIELD_OF_VIEW_MM = 400.0
_MAGNIFICATION = 1.1  # from the patient to the detector
_CHARACTER_SETS = ("ISO_IR 100", "ISO_IR 192")  # of the two sites
_UID_LENGTH = 64


@dataclass(frozen=True)
class Occasion:
    """One patient's one study, with the seed that names its UIDs."""

    seed: int
    patient: PlannedPatient
    study: PlannedStudy

    @property
    def numbers(self) -> Numbers:
        """Numbers that the canaries of this study bear."""
        return Numbers(self.patient.number, self.study.number, self.patient.site)

    @property
    def study_uid(self) -> str:
        """Study Instance UID."""
        return make_uid(self.seed, "study", self.study.number)

    def series_uid(self, name: str) -> str:
        """Series Instance UID of one of the study's series."""
        return make_uid(self.seed, "series", self.study.number, name)

    def sop_uid(self, name: str) -> str:
        """SOP Instance UID of one of the study's objects."""
        return make_uid(self.seed, "instance", self.study.number, name)


def make_uid(seed: int, *names: str | int) -> str:
    """Make a UID from names; the same names, the same UID (PS3.5 section 9)."""
    text = "/".join(["phantom", str(seed), *map(str, names)])
    return f"{PYDICOM_ROOT_UID}{int(hashlib.sha256(text.encode()).hexdigest(), 16)}"[:_UID_LENGTH]


def general(occasion: Occasion, aviary: Aviary, *, series: str, instance: str, number: int = 1) -> Dataset:
    """Fill the modules that every object of a study has; `series` and `instance` name them within the study."""
    patient, study = occasion.patient, occasion.study
    day, clock = f"{study.day:%Y%m%d}", study.clock
    data = Dataset()
    data.SpecificCharacterSet = _CHARACTER_SETS[patient.site]
    aviary.plant(data, occasion.numbers)
    data.PatientBirthDate = f"{patient.birth:%Y%m%d}"
    data.PatientSex = patient.sex
    data.PatientAge = f"{patient.age_years(study.day):03d}Y"
    data.PatientSize = f"{1.64 + 0.12 * (patient.sex == 'M'):.2f}"
    data.StudyInstanceUID = occasion.study_uid
    data.SeriesInstanceUID = occasion.series_uid(series)
    data.SOPInstanceUID = occasion.sop_uid(instance)
    data.SeriesNumber = 1 if series == "main" else 2
    data.InstanceNumber = number
    for keyword in ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate", "InstanceCreationDate"):
        setattr(data, keyword, day)
    for keyword in ("StudyTime", "SeriesTime", "AcquisitionTime", "ContentTime", "InstanceCreationTime"):
        setattr(data, keyword, clock)
    data.AcquisitionDateTime = f"{day}{clock}"
    data.PerformedProcedureStepStartDate = day
    data.PerformedProcedureStepStartTime = clock
    data.DateOfLastCalibration = f"{patient.studies[0].day.replace(day=1):%Y%m%d}"
    data.DeviceUID = make_uid(occasion.seed, "device", patient.site)
    aviary.uids.add(data.DeviceUID)
    if study.visit:
        earlier = Dataset()
        earlier.ReferencedSOPClassUID = "1.2.840.10008.3.1.2.3.1"  # Detached Study Management, retired, still used
        earlier.ReferencedSOPInstanceUID = make_uid(occasion.seed, "study", patient.studies[0].number)
        data.ReferencedStudySequence = [earlier]
    return data


def add_radiograph(data: Dataset, scanner: Scanner, pixels: npt.NDArray[np.uint16], *, is_inverted: bool) -> None:
    """Make a data set a CR or DX image of the chest.

    Parameters
    ----------
    data
        From `general`; changed in place.
    scanner
        The machine that took the image.
    pixels
        Shape (rows, columns), bright bones; stored the other way round if `is_inverted` (MONOCHROME1).
    """
    is_dx = scanner.modality == "DX"
    data.SOPClassUID = DigitalXRayImageStorageForPresentation if is_dx else ComputedRadiographyImageStorage
    data.Modality = scanner.modality
    _add_equipment(data, scanner.manufacturer, scanner.model, scanner.software)
    data.BodyPartExamined = "CHEST"
    data.ViewPosition = "PA"
    data.PatientOrientation = ["L", "F"]
    data.ImageType = ["ORIGINAL", "PRIMARY"]
    data.KVP = scanner.kilovolt
    data.ExposureInuAs = 2500
    data.DistanceSourceToDetector = 1800
    data.LossyImageCompression = "00"
    spacing = FIELD_OF_VIEW_MM / pixels.shape[1]
    data.ImagerPixelSpacing = [f"{spacing * _MAGNIFICATION:.6g}"] * 2
    data.PixelSpacing = [f"{spacing:.6g}"] * 2
    data.PixelSpacingCalibrationType = "GEOMETRY"
    data.PixelSpacingCalibrationDescription = "to the patient"
    if is_dx:
        data.PresentationIntentType = "FOR PRESENTATION"
        data.PixelIntensityRelationship = "LOG"
        data.PixelIntensityRelationshipSign = 1 if is_inverted else -1
        data.DetectorType = "DIRECT"
        data.ImageLaterality = "U"
        data.PresentationLUTShape = "INVERSE" if is_inverted else "IDENTITY"
        data.AnatomicRegionSequence = [_code("43799004", "SCT", "Chest")]
        data.ViewCodeSequence = [_code("399348003", "SCT", "postero-anterior")]
        data.AcquisitionContextSequence = []
    else:
        data.PlateType = "PHOSPHOR"
    largest = 2**scanner.bits_stored - 1
    _add_pixels(data, largest - pixels if is_inverted else pixels, bits=scanner.bits_stored, is_signed=False)
    data.PhotometricInterpretation = "MONOCHROME1" if is_inverted else "MONOCHROME2"
    data.RescaleIntercept, data.RescaleSlope, data.RescaleType = 0, scanner.rescale_slope, "US"
    width = (largest + 1) * scanner.rescale_slope
    data.WindowCenter, data.WindowWidth = width // 2, width
    data.BurnedInAnnotation = "NO"


def add_slice(
    data: Dataset,
    pixels: npt.NDArray[np.int32],
    *,
    equipment: tuple[str, str, str],
    bits: int,
    is_signed: bool,
    position: npt.NDArray[np.float64],
    orientation: npt.NDArray[np.float64],
    spacing: tuple[float, float, float],
    frame_uid: str,
) -> None:
    """Make a data set a CT slice.

    Parameters
    ----------
    data
        From `general`; changed in place.
    pixels
        Hounsfield units plus 1024, shape (rows, columns).
    equipment
        Manufacturer, model and software version.
    bits, is_signed
        How values are stored; they must fit.
    position, orientation
        Centre of the first pixel in mm, shape (3,), and the two direction cosines, shape (6,), LPS.
    spacing
        Between rows, between columns, between slices, in mm.
    frame_uid
        Frame of Reference UID.
    """
    data.SOPClassUID = CTImageStorage
    data.Modality = "CT"
    _add_equipment(data, *equipment)
    data.BodyPartExamined = "CHEST"
    data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    data.KVP = 120
    data.SliceThickness = f"{spacing[2]:.6g}"
    data.PixelSpacing = [f"{spacing[0]:.8g}", f"{spacing[1]:.8g}"]
    data.ImagePositionPatient = [f"{value:.8f}" for value in position]
    data.ImageOrientationPatient = [f"{value:.10f}" for value in orientation]
    data.PositionReferenceIndicator = ""
    data.FrameOfReferenceUID = frame_uid
    _add_pixels(data, pixels.astype(np.int16 if is_signed else np.uint16), bits=bits, is_signed=is_signed)
    data.PhotometricInterpretation = "MONOCHROME2"
    data.RescaleIntercept, data.RescaleSlope, data.RescaleType = -1024, 1, "HU"
    data.WindowCenter, data.WindowWidth = -500, 1500
    data.BurnedInAnnotation = "NO"


def add_report(data: Dataset, aviary: Aviary, numbers: Numbers) -> None:
    """Make a data set a structured report: a DICOM object without pixels, its text naming the patient."""
    data.SOPClassUID = BasicTextSRStorage
    data.Modality = "SR"
    data.CompletionFlag, data.VerificationFlag = "COMPLETE", "UNVERIFIED"
    data.PerformedProcedureCodeSequence = []
    data.ValueType, data.ContinuityOfContent = "CONTAINER", "SEPARATE"
    data.ConceptNameCodeSequence = [_code("18748-4", "LN", "Diagnostic Imaging Report")]
    text = Dataset()
    text.RelationshipType, text.ValueType = "CONTAINS", "TEXT"
    text.ConceptNameCodeSequence = [_code("121071", "DCM", "Finding")]
    text.TextValue = f"Report on {aviary.token('NAME', numbers.patient, 'ContentSequence/TextValue')}"
    data.ContentSequence = [text]


def add_overlay(data: Dataset, aviary: Aviary, numbers: Numbers) -> None:
    """Add an overlay plane (PS3.3 C.9.2) whose dots and description name the patient."""
    rows, columns = data.Rows, data.Columns
    token = aviary.token("OVERLAY", numbers.patient, "OverlayDescription")
    dots = np.zeros((rows, columns), bool)
    text = letters(f"CANARY {numbers.patient}"[: columns // 6])
    dots[8 : 8 + text.shape[0], 4 : 4 + text.shape[1]] = text
    packed = np.packbits(dots.ravel(), bitorder="little").tobytes()
    group = 0x6000
    data.add_new((group, 0x0010), "US", rows)
    data.add_new((group, 0x0011), "US", columns)
    data.add_new((group, 0x0022), "LO", token)
    data.add_new((group, 0x0040), "CS", "G")
    data.add_new((group, 0x0050), "SS", [1, 1])
    data.add_new((group, 0x0100), "US", 1)
    data.add_new((group, 0x0102), "US", 0)
    data.add_new((group, 0x3000), "OW", packed + b"\0" * (len(packed) % 2))


def _add_equipment(data: Dataset, manufacturer: str, model: str, software: str) -> None:
    data.Manufacturer, data.ManufacturerModelName, data.SoftwareVersions = manufacturer, model, software


def _add_pixels(data: Dataset, stored: npt.NDArray[np.integer], *, bits: int, is_signed: bool) -> None:
    data.SamplesPerPixel = 1
    data.Rows, data.Columns = stored.shape
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, bits, bits - 1
    data.PixelRepresentation = int(is_signed)
    data.add_new("PixelData", "OW", stored.astype("<i2" if is_signed else "<u2").tobytes())


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item
