"""Records: one frozen type for each kind of row that stages exchange; units stand in the names.

Every stage but the first two sees pseudonyms only. Types that may hold an identifier derive from
`Identified` and are refused by `pipeline.core.artefacts` outside a folder named ``restricted``.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.core.states import LabelKind

Severity = Literal["excluded", "noted"]
Unit = Literal["file", "instance", "series", "image", "patient", "label"]
Role = Literal["train", "validation", "test"]
Level = Literal["patient", "image"]
Triple = tuple[float, float, float]
Cosines = tuple[float, float, float, float, float, float]
Pair = tuple[float, float]
_MOST_FRAMES = 100_000  # of one file


class Record(BaseModel):
    """A frozen row; unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class Identified(Record):
    """A row that may hold identifiers: it can only be written below a folder named ``restricted``."""


class Instance(Identified):
    """One accepted DICOM file as found: header facts, no pixels. Lengths are in mm."""

    path: str  # below the source folder, with forward slashes
    size_bytes: int
    modified_ns: int  # time of the last change, since 1970
    head_sha256: str  # of the length and the first 16 KiB
    patient_id: str
    patient_id_issuer: str = ""
    patient_birth_date: str = ""  # YYYYMMDD; empty if there is none or it is no date
    study_uid: str
    series_uid: str
    sop_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    modality: str
    kind: Literal["image", "slice"]  # a projection image of its own, or one slice of a volume
    rows: int
    columns: int
    frames: int
    samples_per_pixel: int
    bits_allocated: int
    bits_stored: int
    is_signed: bool
    photometric_interpretation: str
    burned_in_annotation: bool | None = None  # None: the file does not say
    instance_number: int | None = None
    image_position_mm: Triple | None = None
    image_orientation: Cosines | None = None
    pixel_spacing_mm: Pair | None = None  # between rows, between columns
    frame_of_reference_uid: str = ""
    image_type: tuple[str, ...] = ()
    series_description: str = ""
    acquisition_number: int | None = None
    temporal_position: int | None = None
    echo_time_ms: float | None = None
    trigger_time_ms: float | None = None
    b_value_s_mm2: float | None = None
    acquisition_time: str = ""  # HHMMSS.FFFFFF as found
    slice_thickness_mm: float | None = None
    has_contrast_agent: bool = False
    diffusion_direction: Triple | None = None
    stack_id: str = ""  # of a frame, where an object holds several stacks
    concatenation_uid: str = ""  # of an object that is one of several files
    concatenation_number: int | None = None  # which of them, from 1
    concatenation_total: int | None = None
    frame: int = 0  # which frame of the file this is, from 1; 0 stands for the whole file
    part: int = 0  # which volume of a series that holds several, from 1; 0 if it holds one
    part_axis: str = ""  # what tells the parts apart
    study_date: str = ""  # YYYYMMDD as found
    patient_age_years: float | None = None
    patient_sex: str = ""
    institution: str = ""
    manufacturer: str = ""
    manufacturer_model: str = ""
    body_part: str = ""
    view_position: str = ""

    @property
    def unit_uid(self) -> str:
        """Names the instance, or its one frame: what pseudonyms are made of."""
        return f"{self.sop_uid}#{self.frame}" if self.frame else self.sop_uid


class Plane(Identified):
    """What one frame of an object with several says of itself, where it differs from the others; lengths in mm."""

    image_position_mm: Triple
    image_orientation: Cosines
    pixel_spacing_mm: Pair
    slice_thickness_mm: float | None = None
    image_type: tuple[str, ...] = ()
    acquisition_number: int | None = None
    temporal_position: int | None = None
    echo_time_ms: float | None = None
    trigger_time_ms: float | None = None
    b_value_s_mm2: float | None = None
    diffusion_direction: Triple | None = None
    acquisition_time: str = ""
    stack_id: str = ""


class MultiFrameInstance(Instance):
    """One accepted DICOM file that holds several slices (enhanced multi-frame, mosaic): its frames, in their order."""

    planes: tuple[Plane, ...]

    def expanded(self) -> tuple[Instance, ...]:
        """Give one instance for each frame; `frame` says which.

        Instance numbers follow the files, and the frames within a file.
        """
        whole = {name: value for name, value in self if name in Instance.model_fields}
        before = (self.instance_number or 0) * _MOST_FRAMES
        return tuple(
            Instance.model_construct(**{**whole, **dict(plane), "frame": number, "instance_number": before + number})
            for number, plane in enumerate(self.planes, start=1)
        )


class RejectedFile(Identified):
    """Where a rejected file lies, for the person who may know; `Finding` has the public half."""

    file_id: str
    path: str
    reason: str


class PseudonymLink(Identified):
    """The way back from a pseudonym to a patient."""

    patient_id: str
    patient: str
    date_shift_days: int


class OriginalName(Identified):
    """What a pseudonym or a new UID stands for."""

    kind: str  # PatientID, the keyword of a UID, or "file" for the path of one that was kept out
    pseudonym: str
    original: str


class Finding(Record):
    """Something counted: an exclusion, or a remark on something that stays.

    `unit_id` is a pseudonym, a pseudonymous UID or a keyed digest; `code` is a key of
    `pipeline.core.reasons.REASONS`.
    """

    stage: str
    unit: Unit
    unit_id: str
    code: str
    severity: Severity
    value: float | None = None  # the measured quantity where the code has one


class BlankedRectangle(Record):
    """Pixels of one image that were overwritten at de-identification; rows and columns count from 0."""

    sop_uid: str  # pseudonymous
    rule: str  # of the configuration
    top: int = Field(ge=0)
    left: int = Field(ge=0)
    rows: int = Field(ge=1)
    columns: int = Field(ge=1)


class ReceiptLine(Record):
    """What de-identification did to one attribute, over all files written; no value stands here."""

    tag: str  # (gggg,eeee); (gggg,eeee) with x for repeating groups, and PRIVATE for all private attributes
    keyword: str  # of the standard; empty if it has none
    action: str
    elements: int = Field(ge=1)


class FlowStep(Record):
    """What went into a stage and what came out; the numbers must add up.

    For stages that regroup (files into series, series into images) `produced` counts what is handed on in
    `produced_unit`; otherwise it equals `left`.
    """

    stage: str
    unit: Unit
    entered: int = Field(ge=0)
    excluded: int = Field(ge=0)
    left: int = Field(ge=0)
    produced_unit: Unit
    produced: int = Field(ge=0)

    @model_validator(mode="after")
    def _adds_up(self) -> "FlowStep":
        if self.entered != self.excluded + self.left:
            message = f"{self.stage}: {self.entered} entered, but {self.excluded} excluded + {self.left} left"
            raise ValueError(message)
        if self.unit == self.produced_unit and self.produced != self.left:
            message = f"{self.stage}: {self.left} {self.unit} left, but {self.produced} handed on"
            raise ValueError(message)
        return self


class Series(Record):
    """One de-identified series, or one volume of a series that holds several; identifiers are pseudonyms."""

    patient: str
    study_uid: str
    series_uid: str
    part: int = 0  # which volume of the series, from 1; 0 if the series holds one, or images
    part_axis: str = ""  # what tells the parts apart
    modality: str
    kind: Literal["image", "volume"]
    instances: int = Field(ge=1)
    rows: int
    columns: int
    photometric_interpretation: str
    site: str = ""  # keyed digest of the institution
    scanner: str = ""  # manufacturer and model
    body_part: str = ""
    view_position: str = ""
    is_compressed: bool = False  # whether reading its pixels takes a decoder
    study_date: str = ""  # YYYY-MM-DD, shifted by the patient's own number of days
    patient_age_years: float | None = Field(default=None, ge=0, le=90)  # 90 stands for "above 89"
    patient_sex: str = ""

    @property
    def name(self) -> str:
        """Names the series, or its part, in findings, folders and files."""
        return f"{self.series_uid}-{self.part}" if self.part else self.series_uid


class Image(Record):
    """One image (or volume) ready for a network, and how its values came to be."""

    image_id: str  # the pseudonymous SOP Instance UID of an image, Series Instance UID of a volume
    row: int = Field(ge=0)  # position in the pixel array; of volumes beside images, which are not in it, the rank
    patient: str
    study_uid: str
    series_uid: str
    sop_uid: str = ""  # empty for volumes
    volume_file: str = ""  # below the volumes folder; empty for images
    modality: str
    site: str = ""
    scanner: str = ""
    view_position: str = ""
    study_date: str = ""
    patient_age_years: float | None = None
    patient_sex: str = ""
    source_rows: int
    source_columns: int
    source_slices: int = 1
    pixel_spacing_mm: Pair | None = None  # of the source, between rows and between columns
    pixel_spacing_source: str = ""  # the attribute that it comes from; "/magnification" if divided by that factor
    grid_spacing_mm: Triple | None = None  # of a volume's stored array: between slices, rows, columns
    was_inverted: bool = False  # MONOCHROME1 turned into MONOCHROME2; never for volumes, which keep their unit
    intensity_low: float  # modality value mapped to the lowest stored value
    intensity_high: float  # modality value mapped to the highest stored value; the smaller one if inverted
    pixel_sha256: str  # of the decoded modality values at full size
    perceptual_hash: str = ""  # 128 hexadecimal digits (512-bit difference hash); empty for volumes


class Label(Record):
    """The class of one image, or the states of its findings (`pipeline.core.states`)."""

    image_id: str
    patient: str
    label: str


class FoldRole(Record):
    """What one image does in one fold; the test parts of all folds cover every image once."""

    fold: int = Field(ge=0)
    image_id: str
    row: int = Field(ge=0)
    patient: str
    group: str  # patients that share an image stand in one group
    label: str
    role: Role


class EpochLog(Record):
    """One epoch of one strategy in one fold."""

    strategy: str
    fold: int
    epoch: int  # from 1
    train_loss: float
    validation_loss: float
    validation_auroc: float | None  # None if the validation part holds one class only
    learning_rate: float
    seconds: float


class Prediction(Record):
    """The network's raw output for one image of a fold's validation or test part."""

    strategy: str
    fold: int
    role: Role
    image_id: str
    patient: str
    group: str
    label: str
    logits: tuple[float, ...]  # one per class or finding, in the order of the study


class CalibratedPrediction(Record):
    """An out-of-fold prediction as evaluated: calibrated and thresholded on inner data only."""

    strategy: str
    fold: int
    level: Level
    unit_id: str  # image or patient
    patient: str
    group: str
    label: str
    probabilities: tuple[Annotated[float, Field(ge=0, le=1)], ...]
    decision: str  # the class decided at the fold's operating point


class FindingPrediction(CalibratedPrediction):
    """A calibrated prediction about one of several findings; its classes are "no NAME" and "NAME".

    Images, and patients of whose images, the finding is unknown have no row.
    """

    finding: str


class TrainingSummary(Record):
    """How one strategy was trained in one fold: what the report says about weights, device and effort."""

    strategy: str
    fold: int
    backbone: str
    classes: tuple[str, ...]  # or findings, in the order of the logits
    kind: LabelKind = "classes"
    weights_source: str  # registry entry or "file"
    weights_file: str = ""  # file name without its folder
    weights_sha256: str = ""
    weights_licence: str = ""
    inputs_normalised_by: str = ""  # in words
    trained_parameters: int
    frozen_parameters: int
    head_blocks: tuple[str, ...] = ()  # after which the head takes its pooled features, in their order
    image_size: int
    road: str = ""  # how volumes were looked at; empty for images
    slices: int = 1  # of a volume that were looked at, or groups of them
    networks: int = 1  # trained with different seeds, their probabilities averaged; curve and epochs are the first's
    epochs: int  # epochs run
    best_epoch: int  # the epoch whose weights are used; 0 for a closed-form head
    train_images: int
    validation_images: int
    test_images: int
    tested_before: int = 0  # test images on which the run was trained or chosen that the weights come from
    device: str
    precision: str
    threads: int
    seed: int
    seconds: float
    processor_seconds: float = 0.0  # of all threads of the first device's process, resumed ones included
    software: tuple[tuple[str, str], ...]


class Estimate(Record):
    """A metric with its interval."""

    strategy: str
    level: Level
    fold: int | None  # None: all folds
    metric: str
    value: float | None  # None: cannot be computed (see `note`)
    low: float | None = None
    high: float | None = None
    confidence: float = 0.95
    method: str = ""  # of the interval
    patients: int
    images: int
    note: str = ""
