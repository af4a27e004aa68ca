"""A cohort of files with an answer key: what de-identification must do to each element, written down as it is planted.

The actions are the ten of the MIDI-B validation (CBIIT/MIDI_validation_script). The key is made by hand from the
standard, not from the program's own tables.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    BasicTextSRStorage,
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DigitalMammographyXRayImageStorageForPresentation,
    DigitalXRayImageStorageForPresentation,
    GrayscaleSoftcopyPresentationStateStorage,
    JPEGBaseline8Bit,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    SecondaryCaptureImageStorage,
    UltrasoundImageStorage,
)

from tests.dicom.samples import GEOMETRY, SYNTAXES, with_pixels, write

ACTIONS = (
    "tag_retained", "text_notnull", "text_retained", "text_removed", "date_shifted", "uid_changed", "uid_consistent",
    "patid_consistent", "pixels_hidden", "pixels_retained",
)  # fmt: skip
IMAGES = {
    "CR": ComputedRadiographyImageStorage,
    "DX": DigitalXRayImageStorageForPresentation,
    "MG": DigitalMammographyXRayImageStorageForPresentation,
    "CT": CTImageStorage,
    "MR": MRImageStorage,
    "PT": PositronEmissionTomographyImageStorage,
}
KEPT_OUT = {"US": UltrasoundImageStorage, "OT": SecondaryCaptureImageStorage}
# Character set, and a patient's name in it. What stands in a file twice must be found twice.
PEOPLE = (
    ("ISO_IR 100", "Zyvänkö^Ottilië", ("Zyvänkö", "Ottilië")),
    ("ISO_IR 192", "Wójtkiewiczyna^Żaneta=王^小東", ("Wójtkiewiczyna", "Żaneta", "小東")),
    ("ISO_IR 144", "Люксембург^Анастасия", ("Люксембург", "Анастасия")),
    (["", "ISO 2022 IR 87"], "Yamadakka^Tarokko=山田^太郎", ("Yamadakka", "Tarokko", "山田", "太郎")),
    ("GB18030", "Wangxqing^XiaoDong=王清^小东", ("Wangxqing", "XiaoDong", "王清")),
    ("ISO_IR 6", "Obryanski^Qiu", ("Obryanski",)),
)
BIRTH_DATE = "19280101"
OUTSIDERS = ("Qorbatovna", "Hlebnikova")  # people who stand in no header, only in texts
KEPT_TEXTS = {
    "Manufacturer": "SIEMENS",
    "ManufacturerModelName": "SOMATOM Force",
    "BodyPartExamined": "CHEST",
    "PatientSex": "F",
    "ConvolutionKernel": "Br40d",
    "ContrastBolusRoute": "IV",
    "SmokingStatus": "NO",
    "ScanOptions": "HELICAL MODE",
    "PatientPosition": "HFS",
}
KEPT_NUMBERS = {
    "KVP": "120",
    "SliceThickness": "2.50",
    "PatientWeight": "71.5",
    "PatientSize": "1.72",
    "SeriesNumber": "3",
    "AcquisitionNumber": "2",
    "RescaleSlope": "1",
    "RescaleIntercept": "-1024",
    "WindowCenter": ["40", "300"],
    "WindowWidth": ["400", "1500"],
    "ExposureTime": "500",
    "SpiralPitchFactor": 0.9,  # FD
    "TableFeedPerRotation": 12.0,
    "RecommendedDisplayFrameRateInFloat": 25.0,  # FL
    "TagAngleFirstAxis": 1.5,
    "ReferencePixelX0": -3,  # SL
    "TagSpacingFirstDimension": 2.0,
    "RegionFlags": 3,  # UL
    "PhysicalUnitsXDirection": 3,  # US
    "FrameIncrementPointer": 0x00181063,  # AT
    "ExtendedOffsetTable": bytes(8),  # OV
    "RedPaletteColorLookupTableData": bytes(range(16)),  # OW
    "VectorGridData": bytes(12),  # OF
    "DoubleFloatRealWorldValue": None,
}
NAMES_IN = {
    "PatientName": "{name}",
    "OtherPatientNames": "{name}",
    "PatientMotherBirthName": "{name}",
    "ReferringPhysicianName": "{outsider}^Olga^^Dr",
    "PerformingPhysicianName": "{outsider}^Olga",
    "OperatorsName": "{outsider}^Op",
    "InstitutionName": "{outsider} Hospital",
    "InstitutionAddress": "12 {outsider} Street",
    "PatientAddress": "12 {outsider} Street",
    "PatientComments": "sister of {second} {first} called",
    "AdditionalPatientHistory": "seen by Dr {outsider} with {upper}",
    "ImageComments": "compare {lower}",
    "PatientTelephoneNumbers": "+49 30 {digits}",
    "AccessionNumber": "AC{digits}",
    "OtherPatientIDs": "OP{digits}",
    "DeviceSerialNumber": "SN{digits}",
    "StationName": "ST{digits}",
    "EthnicGroup": "{outsider}",
    "MilitaryRank": "{outsider}",
    "PatientInsurancePlanCodeSequence": None,
}
DESCRIPTIONS = {  # text, and what of it must stay
    "StudyDescription": ("CT chest of {first} {second} with contrast", "CT chest", "with contrast"),
    "SeriesDescription": ("axial lung {upper} 5 mm 12/03/24 tel 030 555 123", "axial lung", "5 mm"),
    "ProtocolName": ("thorax routine {lower} adult", "thorax routine", "adult"),
    "RequestedProcedureDescription": ("knee of {outsider} left", "knee", "left"),
}
DATES = ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate", "InstanceCreationDate", "DateOfLastCalibration")
MOMENTS = ("AcquisitionDateTime", "FrameReferenceDateTime", "DateTimeOfLastCalibration")
UIDS = (
    "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID", "DeviceUID",
    "IrradiationEventUID",
)  # fmt: skip


@dataclass(frozen=True)
class Required:
    """One thing that must be done in one file."""

    action: str
    file: str  # of the original
    path: tuple[str | int, ...] = ()
    value: Any = None


@dataclass
class Cohort:
    """What was planted."""

    root: Path
    key: list[Required] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    originals: dict[str, Dataset] = field(default_factory=dict)  # by file
    patients: dict[str, str] = field(default_factory=dict)  # patient ID by file
    refused: set[str] = field(default_factory=set)

    def require(self, action: str, file: str, *path: str | int, value: Any = None) -> None:
        self.key.append(Required(action, file, path, value))


def make_cohort(root: Path) -> Cohort:
    """Write the files: every modality for every patient, with a report and a presentation state."""
    cohort = Cohort(root)
    for number, (charset, name, words) in enumerate(PEOPLE):
        patient = _Patient(number, charset, name, words)
        cohort.tokens |= {*words, *OUTSIDERS, *patient.numbers}
        for index, (modality, sop_class) in enumerate(IMAGES.items()):
            for instance in range(2):
                _write_image(cohort, patient, modality, sop_class, index, instance)
        for modality, sop_class in KEPT_OUT.items():
            _write_refused(cohort, patient, modality, sop_class)
        _write_compressed(cohort, patient)
        _write_report(cohort, patient)
        _write_state(cohort, patient)
    return cohort


class _Patient:
    def __init__(self, number: int, charset: str | list[str], name: str, words: tuple[str, ...]) -> None:
        self.number = number
        self.charset = charset
        self.name = name
        self.words = words
        self.patient_id = f"PID{48_213_390 + number}"
        self.digits = f"{70_031_170 + number}"
        self.numbers = (self.patient_id, self.digits)

    def text(self, form: str) -> str:
        first, second = self.words[0], self.words[min(1, len(self.words) - 1)]
        return form.format(
            name=self.name, first=first, second=second, upper=first.upper(), lower=second.lower(), digits=self.digits,
            outsider=OUTSIDERS[self.number % 2],
        )  # fmt: skip


def _common(cohort: Cohort, patient: _Patient, file: str, modality: str, sop_class: str, series: int) -> Dataset:
    base = f"1.3.6.1.4.1.77777.{patient.number}"
    dataset = Dataset()
    dataset.SpecificCharacterSet = patient.charset
    dataset.SOPClassUID = sop_class
    dataset.Modality = modality
    dataset.PatientID = patient.patient_id
    last = (".1", f".1.{series}", f".1.{series}.{len(cohort.originals) + 1}", ".9", ".8", ".7")
    for keyword, uid in zip(UIDS, (base + part for part in last), strict=True):
        setattr(dataset, keyword, uid)
        if keyword not in {"DeviceUID", "IrradiationEventUID"}:
            cohort.require("tag_retained", file, keyword)
        cohort.require("uid_changed", file, keyword, value=uid)
        cohort.require("uid_consistent", file, keyword, value=uid)
    cohort.require("patid_consistent", file, "PatientID", value=patient.patient_id)
    cohort.require("text_notnull", file, "PatientID")
    cohort.require("text_notnull", file, "PatientName")
    _plant_dates(cohort, patient, dataset, file)
    _plant_names(cohort, patient, dataset, file)
    cohort.originals[file] = dataset
    cohort.patients[file] = patient.patient_id
    return dataset


def _plant_dates(cohort: Cohort, patient: _Patient, dataset: Dataset, file: str) -> None:
    for offset, keyword in enumerate(DATES):
        day = f"{date(2019, 12, 28) + timedelta(days=offset + 40 * patient.number):%Y%m%d}"
        setattr(dataset, keyword, day)
        cohort.require("date_shifted", file, keyword, value=day)
    for offset, keyword in enumerate(MOMENTS):
        moment = f"{date(2020, 2, 27) + timedelta(days=offset):%Y%m%d}23595{offset}.25{'+0200' if offset else ''}"
        setattr(dataset, keyword, moment)
        cohort.require("date_shifted", file, keyword, value=moment)
    for keyword in ("StudyTime", "SeriesTime", "AcquisitionTime", "ContentTime"):
        setattr(dataset, keyword, "235959.5")
        cohort.require("text_retained", file, keyword, value="235959.5")
    dataset.PatientBirthDate = BIRTH_DATE
    cohort.require("text_removed", file, "PatientBirthDate", value=BIRTH_DATE)
    dataset.PatientAge = "091Y"
    cohort.require("text_removed", file, "PatientAge", value="091Y")


def _plant_names(cohort: Cohort, patient: _Patient, dataset: Dataset, file: str) -> None:
    for keyword, form in NAMES_IN.items():
        if form is None:
            continue
        text = patient.text(form)
        setattr(dataset, keyword, text)
        cohort.require("text_removed", file, keyword, value=text)
    nested = Dataset()
    nested.PatientID = f"{patient.patient_id}N"
    nested.IssuerOfPatientID = OUTSIDERS[0]
    dataset.OtherPatientIDsSequence = [nested]
    cohort.require("text_removed", file, "OtherPatientIDsSequence", value=nested.PatientID)
    for keyword, (form, *kept) in DESCRIPTIONS.items():
        text = patient.text(form)
        setattr(dataset, keyword, text)
        cohort.require("text_removed", file, keyword, value=patient.words[0])
        for digits in ("12/03", "030", "555"):
            cohort.require("text_removed", file, keyword, value=digits)
        for words in kept:
            cohort.require("text_retained", file, keyword, value=words)


def _plant_values(cohort: Cohort, dataset: Dataset, file: str) -> None:
    for keyword, value in (*KEPT_TEXTS.items(), *KEPT_NUMBERS.items()):
        tag = tag_for_keyword(keyword)
        if tag is None or value is None:
            continue
        dataset.add_new(tag, dictionary_VR(tag).split(" or ")[-1 if "OW" in dictionary_VR(tag) else 0], value)
        cohort.require("text_retained", file, keyword, value=dataset[keyword].value)


def _plant_depths(cohort: Cohort, patient: _Patient, dataset: Dataset, file: str) -> None:
    """Nest what must stay and what must go; add private blocks, overlays and curves."""
    other = f"1.3.6.1.4.1.77777.{patient.number}.1.0.1"
    reference = Dataset()
    reference.ReferencedSOPClassUID = CTImageStorage
    reference.ReferencedSOPInstanceUID = other
    dataset.ReferencedImageSequence = [reference]
    cohort.require("uid_consistent", file, "ReferencedImageSequence", 0, "ReferencedSOPInstanceUID", value=other)
    cohort.require("text_retained", file, "ReferencedImageSequence", 0, "ReferencedSOPClassUID", value=CTImageStorage)
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "51185008", "SCT", "Chest"
    dataset.AnatomicRegionSequence = [code]
    for keyword, value in (("CodeValue", "51185008"), ("CodingSchemeDesignator", "SCT"), ("CodeMeaning", "Chest")):
        cohort.require("text_retained", file, "AnatomicRegionSequence", 0, keyword, value=value)
    private_code = Dataset()
    private_code.CodeValue, private_code.CodingSchemeDesignator = "1", "99LOCAL"
    private_code.CodeMeaning = patient.text("protocol of {outsider}")
    step = Dataset()
    step.ScheduledProtocolCodeSequence = [private_code]
    step.ScheduledProcedureStepDescription = patient.text("knee {outsider}")
    dataset.RequestAttributesSequence = [step]
    path = ("RequestAttributesSequence", 0, "ScheduledProtocolCodeSequence", 0, "CodeMeaning")
    cohort.require("text_removed", file, *path, value=OUTSIDERS[patient.number % 2])
    block = dataset.private_block(0x0019, "SIEMENS MR HEADER", create=True)
    block.add_new(0x0C, "IS", "800")
    block.add_new(0x0D, "CS", "DIRECTIONAL")
    block.add_new(0x50, "LO", patient.text("{outsider}"))
    cohort.require("tag_retained", file, "0019100C")
    cohort.require("text_retained", file, "0019100C", value=800)
    cohort.require("text_removed", file, "00191050", value=OUTSIDERS[patient.number % 2])
    hidden = dataset.private_block(0x0029, patient.text("{outsider}"), create=True)
    inner = Dataset()
    inner.PatientName = patient.name
    inner.SpecificCharacterSet = patient.charset
    hidden.add_new(0x01, "SQ", [inner])
    hidden.add_new(0x02, "OB", patient.digits.encode())
    hidden.add_new(0x03, "UN", patient.digits.encode("utf-16-le"))
    for tag in ("00290010", "00291001", "00291002", "00291003"):
        cohort.require("text_removed", file, tag, value=OUTSIDERS[patient.number % 2])
    dataset.add_new(0x60000010, "US", 8)
    dataset.add_new(0x60000011, "US", 8)
    dataset.add_new(0x60000040, "CS", "G")
    dataset.add_new(0x60000050, "SS", [1, 1])
    dataset.add_new(0x60000100, "US", 1)
    dataset.add_new(0x60000102, "US", 0)
    dataset.add_new(0x60003000, "OW", patient.digits.encode())
    dataset.add_new(0x60004000, "LT", patient.text("{outsider}"))
    dataset.add_new(0x50000022, "LO", patient.text("{outsider}"))
    dataset.add_new(0x50003000, "OW", patient.digits.encode())
    for tag in ("60003000", "60004000", "50000022", "50003000"):
        cohort.require("text_removed", file, tag, value=patient.digits)


def _write_image(cohort: Cohort, patient: _Patient, modality: str, sop_class: str, series: int, instance: int) -> None:
    file = f"{patient.patient_id}-{patient.words[0]}/{modality}{instance}.dcm"
    dataset = _common(cohort, patient, file, modality, sop_class, series)
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    cohort.require("text_retained", file, "ImageType", value=["ORIGINAL", "PRIMARY", "AXIAL"])
    dataset.InstanceNumber = str(instance + 1)
    if modality in {"CT", "MR", "PT"}:
        for keyword, value in GEOMETRY.items():
            setattr(dataset, keyword, value)
            cohort.require("text_retained", file, keyword, value=list(dataset[keyword].value))
    _plant_values(cohort, dataset, file)
    _plant_depths(cohort, patient, dataset, file)
    dataset.ICCProfile = patient.text("desc {digits} {outsider}").encode("utf-8").ljust(128, b"\0")
    cohort.require("text_removed", file, "ICCProfile", value=patient.digits)
    rng = np.random.default_rng([patient.number, series, instance])
    with_pixels(dataset, rng.integers(0, 4096, (33, 36)).astype(np.uint16))
    cohort.require("pixels_retained", file)
    syntax = list(SYNTAXES)[(series + instance) % 4]  # native ones: what is compressed, is compared elsewhere
    write(cohort.root / file, dataset, syntax=syntax, preamble=patient.digits.encode().ljust(128, b"\0"))


def _write_compressed(cohort: Cohort, patient: _Patient) -> None:
    """Write a radiograph whose codestream has a comment and EXIF data: the picture stays, they go."""
    file = f"{patient.patient_id}/compressed.dcm"
    dataset = _common(cohort, patient, file, "CR", ComputedRadiographyImageStorage, 21)
    dataset.ImageType, dataset.InstanceNumber = ["ORIGINAL", "PRIMARY"], "1"
    picture = np.random.default_rng(patient.number).integers(0, 256, (33, 36)).astype(np.uint8)
    exif = Image.Exif()
    exif[0x010E] = f"{OUTSIDERS[0]} {patient.digits}"  # image description
    buffer = BytesIO()
    comment = patient.text("{first} {outsider} {digits}").encode()
    Image.fromarray(picture).save(buffer, "JPEG", comment=comment, exif=exif)
    with_pixels(dataset, picture, bits=8)
    dataset.PixelData = encapsulate([buffer.getvalue()])
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    cohort.require("pixels_retained", file)
    dataset.save_as(cohort.root / file, enforce_file_format=True)


def _write_refused(cohort: Cohort, patient: _Patient, modality: str, sop_class: str) -> None:
    file = f"{patient.patient_id}/refused-{modality}.dcm"
    start = len(cohort.key)
    dataset = _common(cohort, patient, file, modality, sop_class, 20)
    del cohort.key[start:], cohort.originals[file]
    with_pixels(dataset)
    cohort.require("pixels_hidden", file)
    cohort.refused.add(file)
    write(cohort.root / file, dataset)


def _item(kind: str, code: str, meaning: str, **values: Any) -> Dataset:
    item, name = Dataset(), Dataset()
    item.RelationshipType, item.ValueType = "CONTAINS", kind
    name.CodeValue, name.CodingSchemeDesignator, name.CodeMeaning = code, "DCM", meaning
    item.ConceptNameCodeSequence = [name]
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item


def _years(number: int) -> Dataset:
    measured, unit = Dataset(), Dataset()
    unit.CodeValue, unit.CodingSchemeDesignator, unit.CodeMeaning = "a", "UCUM", "year"
    measured.NumericValue, measured.MeasurementUnitsCodeSequence = str(number), [unit]
    return measured


def _write_report(cohort: Cohort, patient: _Patient) -> None:
    file = f"{patient.patient_id}/report.dcm"
    dataset = _common(cohort, patient, file, "SR", BasicTextSRStorage, 30)
    dataset.ValueType = "CONTAINER"
    dataset.ContinuityOfContent = "SEPARATE"
    dataset.CompletionFlag = "COMPLETE"
    dataset.VerificationFlag = "UNVERIFIED"
    dataset.InstanceNumber = "1"
    title = Dataset()
    title.CodeValue, title.CodingSchemeDesignator, title.CodeMeaning = "18748-4", "LN", "Diagnostic Imaging Report"
    dataset.ConceptNameCodeSequence = [title]
    finding = patient.text("chest normal, no effusion. {first} {second} and {outsider} informed")
    uid = f"1.3.6.1.4.1.77777.{patient.number}.1.0.1"
    dataset.ContentSequence = [
        _item("TEXT", "121071", "Finding", TextValue=finding),
        _item("PNAME", "121008", "Person Observer Name", PersonName=patient.text("{outsider}^Olga")),
        _item("UIDREF", "121231", "Ending Position of Source of Measurement", UID=uid),
        _item("DATE", "121031", "Subject Birth Date", Date=BIRTH_DATE),
        _item("NUM", "121033", "Subject Age", MeasuredValueSequence=[_years(97)]),
        _item("NUM", "121206", "Distance", MeasuredValueSequence=[_years(93)]),
    ]
    cohort.require("text_removed", file, "ContentSequence", value=BIRTH_DATE)
    names = [element.TextValue for element in dataset.ContentSequence[:1]]
    assert patient.words[0] in names[0]
    cohort.require("tag_retained", file, "ContentSequence")
    cohort.require("text_retained", file, "ContentSequence", 0, "TextValue", value="chest normal")
    cohort.require("text_retained", file, "ContentSequence", 0, "TextValue", value="no effusion")
    cohort.require("text_removed", file, "ContentSequence", 0, "TextValue", value=patient.words[0])
    cohort.require("text_removed", file, "ContentSequence", value=OUTSIDERS[patient.number % 2])
    cohort.require("text_retained", file, "ConceptNameCodeSequence", 0, "CodeValue", value="18748-4")
    write(cohort.root / file, dataset)


def _write_state(cohort: Cohort, patient: _Patient) -> None:
    file = f"{patient.patient_id}/state.dcm"
    dataset = _common(cohort, patient, file, "PR", GrayscaleSoftcopyPresentationStateStorage, 31)
    dataset.ContentLabel = "NOTE"
    dataset.ContentCreatorName = patient.text("{outsider}^Olga")
    cohort.require("text_removed", file, "ContentCreatorName", value=OUTSIDERS[patient.number % 2])
    text, graphic, note = Dataset(), Dataset(), Dataset()
    text.UnformattedTextValue = patient.text("left lung of {first}")
    text.AnchorPoint, text.AnchorPointVisibility, text.AnchorPointAnnotationUnits = [1.0, 2.0], "N", "PIXEL"
    graphic.GraphicAnnotationUnits, graphic.GraphicDimensions, graphic.NumberOfGraphicPoints = "PIXEL", 2, 1
    graphic.GraphicData, graphic.GraphicType = [3.0, 4.0], "POINT"
    note.GraphicLayer, note.TextObjectSequence, note.GraphicObjectSequence = "LAYER1", [text], [graphic]
    dataset.GraphicAnnotationSequence = [note]
    path = ("GraphicAnnotationSequence", 0)
    cohort.require("text_retained", file, *path, "GraphicObjectSequence", 0, "GraphicData", value=[3.0, 4.0])
    cohort.require("text_retained", file, *path, "TextObjectSequence", 0, "UnformattedTextValue", value="left lung")
    cohort.require("text_removed", file, *path, "TextObjectSequence", 0, "UnformattedTextValue", value=patient.words[0])
    write(cohort.root / file, dataset)


def found_at(dataset: Dataset, path: tuple[str | int, ...]) -> Any:
    """Give the value at a path of keywords, tags and item numbers; None if there is nothing."""
    here: Any = dataset
    for step in path:
        if isinstance(step, int):
            if step >= len(here):
                return None
            here = here[step]
        else:
            tag = tag_for_keyword(step) or int(step, 16)
            if tag not in here:
                return None
            here = here[tag].value
    return here


def texts_below(value: Any) -> Iterator[str]:
    """Give all values below a value as text."""
    if isinstance(value, Dataset):
        for element in value:
            yield from texts_below(element.value)
    elif isinstance(value, (list, tuple)) or (hasattr(value, "__iter__") and not isinstance(value, (str, bytes))):
        for one in value:
            yield from texts_below(one)
    else:
        yield str(value)
