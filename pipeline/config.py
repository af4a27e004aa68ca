"""The configuration: one frozen section for each stage; the schema and the reference page come from here.

This module stays light (no torch, monai, scikit-learn, matplotlib): the Snakefile imports it for every job.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, ValidationError, model_validator

from pipeline.core.errors import ConfigError
from pipeline.core.marked_yaml import KeyPath, read_yaml
from pipeline.core.mistakes import describe_error
from pipeline.core.section import Section
from pipeline.dicom.deidentification.options import DEFAULT_OPTIONS, OptionWord
from pipeline.dicom.deidentification.options import contradiction as options_contradict
from pipeline.dicom.deidentification.pixel_rules import PixelRule, contradiction
from pipeline.label_settings import LabelSettings
from pipeline.learning.strategies import banked
from pipeline.learning.weights.sources import SOURCES
from pipeline.train_settings import NEEDED, TrainSettings

DEFAULT_FILE = Path("config/config.yaml")
Fraction = Annotated[float, Field(gt=0, lt=1)]


class PhantomSettings(Section):
    """The built-in study: a synthetic DICOM cohort with planted hazards. Leave the section out for real data."""

    kind: Literal["radiograph", "volume"] = "radiograph"
    """`radiograph`: projection images like chest radiographs; `volume`: CT-like series of slices."""
    patients: int = Field(default=140, ge=20, le=100_000)
    """Number of patients with a label."""
    prevalence: Fraction = 0.35
    """Fraction of patients with a lesion."""
    size: int = Field(default=256, ge=64, le=2048)
    """Rows and columns of each image in pixels."""
    seed: int = Field(default=1, ge=0)
    """Seed of the cohort: the same seed gives the same files, byte for byte."""


class SelectSettings(Section):
    """Which series are wanted, by their headers; a rule that is left out lets everything pass."""

    descriptions: tuple[str, ...] = ()
    """Patterns of the Series Description, with `*` and `?`; capitals do not count. A series must fit one of them."""
    not_descriptions: tuple[str, ...] = ()
    """Patterns that a series must not fit."""
    orientations: tuple[Literal["axial", "coronal", "sagittal", "oblique"], ...] = ()
    """Orientations of slices; oblique is more than 25 degrees away from each of the others."""
    slice_thickness_mm: tuple[PositiveFloat, PositiveFloat] | None = None
    """Smallest and largest slice thickness in mm."""
    slices: tuple[PositiveInt, PositiveInt] | None = None
    """Fewest and most slices of a volume."""
    contrast_agent: bool | None = None
    """Whether a contrast agent was given, as the header says."""

    @model_validator(mode="after")
    def _ranges_rise(self) -> "SelectSettings":
        for pair in (self.slice_thickness_mm, self.slices):
            if pair is not None and pair[0] > pair[1]:
                message = "a range goes from the smaller to the larger value"
                raise ValueError(message)
        return self


class IngestSettings(Section):
    """Which files are looked at, and what is taken."""

    source: Path
    """Folder with the DICOM files, the DICOMDIR in it, or a zip or tar archive; it is only read. Relative paths start
    where Snakemake is run."""
    modalities: tuple[str, ...] = ("CR", "DX")
    """DICOM modalities to take; others are counted and left out."""
    on_shared_patient_id: Literal["exclude", "note"] = "exclude"
    """A Patient ID with several issuers, birth dates or sexes: leave all under it out, or keep it and say so."""
    select: SelectSettings = SelectSettings()
    """Which series are taken."""
    max_instance_mb: int = Field(default=512, ge=1)
    """Largest size in MB of one instance's pixels after decoding; beyond it the file is rejected."""


class DeidentifySettings(Section):
    """How identifiers are replaced, and which pixels are blanked."""

    key_file: Path | None = None
    """File with the secret key; made on first use (mode 0600) in the study's restricted folder if not given."""
    max_date_shift_days: int = Field(default=3650, ge=30, le=36_500)
    """Dates of a patient move back by a secret number of days, from 1 to this."""
    options: tuple[OptionWord, ...] = DEFAULT_OPTIONS
    """What files may keep beyond the Basic Application Level Confidentiality Profile: docs/deidentification.md."""
    pixel_rules: tuple[PixelRule, ...] = ()
    """Images whose pixels may show a name, and the rectangles to blank in them; without a rule they are kept out."""
    suspected_text: Literal["note", "quarantine"] = "quarantine"
    """Images without a rule in which the text detector sees many characters: keep them out, or keep them and say so."""
    tolerated_characters: int = Field(default=8, ge=0)
    """How many characters are not many: markers such as PORTABLE or AP SUPINE are noted, never kept out."""

    @model_validator(mode="after")
    def _rules_agree(self) -> "DeidentifySettings":
        if message := contradiction(self.pixel_rules):
            raise ValueError(message)
        if message := options_contradict(self.options, has_pixel_rules=bool(self.pixel_rules)):
            raise ValueError(message)
        return self


class CheckQualitySettings(Section):
    """Limits of the quality checks."""

    min_size: int = Field(default=64, ge=8)
    """Fewest rows and columns in pixels; smaller images are left out."""
    min_slices: int = Field(default=8, ge=2)
    """Fewest slices of a volume; smaller series are left out."""
    min_contrast: float = Field(default=0.02, ge=0, lt=1)
    """Smallest spread (5th to 95th percentile as a fraction of the stored range used); flatter images are left out."""
    max_saturated_fraction: Fraction = 0.5
    """Largest fraction of pixels at the lowest or highest value; beyond it the image is noted."""


class PercentileScaling(Section):
    """Map percentiles of each image's values to the ends of the stored range."""

    kind: Literal["percentile"] = "percentile"
    low: float = Field(default=0.5, ge=0, lt=50)
    """Percentile mapped to the lowest stored value."""
    high: float = Field(default=99.5, gt=50, le=100)
    """Percentile mapped to the highest stored value."""


class WindowScaling(Section):
    """Map a fixed window of modality values (HU for CT) to the stored range."""

    kind: Literal["window"]
    centre: float
    """Middle of the window in modality units."""
    width: float = Field(gt=0)
    """Width of the window in modality units."""


class VolumeGridSettings(Section):
    """The grid of points on which volumes are looked up for training; it stands in the patient, whatever the source."""

    plane: Literal["axial", "coronal", "sagittal"] = "axial"
    """Plane of the slices; best the one in which most were acquired."""
    slices: int = Field(default=32, ge=2, le=512)
    """Number of slices; each has `preprocess.size` rows and columns."""
    slice_spacing_mm: PositiveFloat | None = None
    """Distance between slices in mm, the same for all volumes; what lies beyond the grid is cut off. Not given: the
    whole volume fits, whatever its length."""
    pixel_spacing_mm: PositiveFloat | None = None
    """Distance between rows and between columns in mm, likewise. Not given: the whole slice fits."""


class PreprocessSettings(Section):
    """How pixels become arrays of one size and range."""

    size: int = Field(default=224, ge=32, le=1024)
    """Rows and columns of the stored images in pixels; the aspect ratio is kept, the rest is padded."""
    intensity: Annotated[PercentileScaling | WindowScaling, Field(discriminator="kind")] = PercentileScaling()
    """How values are scaled: percentiles of the image or a fixed window."""
    dtype: Literal["uint8", "float16"] = "uint8"
    """Type of the stored values: 0 to 255, or 0.0 to 1.0."""
    volume: VolumeGridSettings = VolumeGridSettings()
    """How volumes become arrays."""


class SplitSettings(Section):
    """How patients are divided."""

    folds: int = Field(default=5, ge=2, le=20)
    """Number of folds; each image is tested once."""
    validation_fraction: Annotated[float, Field(ge=0.1, le=0.5)] = 0.2
    """Fraction of each fold's training patients kept for early stopping, calibration and thresholds."""
    unit: Literal["patient", "site"] = "patient"
    """What stays on one side: patients, or whole sites (one site is then tested at a time)."""
    max_hash_distance: int = Field(default=32, ge=0, le=64)
    """Images of two patients whose 512-bit perceptual hashes differ in at most this many bits are compared closely."""


class BankSettings(Section):
    """What frozen blocks make of the images, computed once for all folds: for `probe` and `last_block`."""

    views: int = Field(default=8, ge=0, le=64)
    """Randomly changed versions of each image stored for `last_block`, which takes one of them at each epoch; 0: the
    plain image only. Each takes as much disk as the maps of one image."""


class SensitivityRule(Section):
    """Highest specificity with at least this sensitivity."""

    kind: Literal["sensitivity"] = "sensitivity"
    at_least: Fraction = 0.9
    """Sensitivity asked for on the inner validation part."""


class SpecificityRule(Section):
    """Highest sensitivity with at least this specificity."""

    kind: Literal["specificity"]
    at_least: Fraction = 0.9
    """Specificity asked for on the inner validation part."""


class YoudenRule(Section):
    """Largest sum of sensitivity and specificity."""

    kind: Literal["youden"]


class EvaluateSettings(Section):
    """How the predictions are judged."""

    bootstrap_replicates: int = Field(default=2000, ge=100, le=100_000)
    """Replicates of the patient-cluster bootstrap."""
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.95
    """Level of the intervals."""
    aggregation: Literal["mean", "max"] = "mean"
    """How probabilities of a patient's images become the patient's."""
    operating_point: Annotated[SensitivityRule | SpecificityRule | YoudenRule, Field(discriminator="kind")] = (
        SensitivityRule()
    )
    """How the threshold is chosen (two classes only), always on inner validation data."""
    prevalences: tuple[Fraction, ...] = (0.01, 0.05, 0.2, 0.5)
    """Prevalences for which predictive values are printed."""


class ReportSettings(Section):
    """Words for the report."""

    title: str = "Transfer learning study"
    """Title of the report."""
    question: str = ""
    """The clinical question in one sentence."""
    data_source: str = ""
    """Where the images come from, for the reader."""
    limitations: tuple[str, ...] = ()
    """What the data cannot show; printed on the first page."""


class Config(Section):
    """A study: its name, its seed, and one section for each stage."""

    study: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")
    """Name of the study: results stand in `results/STUDY`, the report in `reports/STUDY`."""
    seed: int = Field(default=20261121, ge=0)
    """Seed of everything random but the phantom cohort."""
    phantom: PhantomSettings | None = None
    """The built-in study's generator; leave it out for real data."""
    ingest: IngestSettings
    deidentify: DeidentifySettings = DeidentifySettings()
    check_quality: CheckQualitySettings = CheckQualitySettings()
    preprocess: PreprocessSettings = PreprocessSettings()
    label: LabelSettings
    split: SplitSettings = SplitSettings()
    bank: BankSettings = BankSettings()
    train: TrainSettings = TrainSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    report: ReportSettings = ReportSettings()

    @model_validator(mode="after")
    def _slices_are_there(self) -> "Config":
        wanted, stored = self.train.volumes.slices, self.preprocess.volume.slices
        if wanted is not None and wanted > stored:
            message = f"train.volumes.slices is {wanted}, and preprocess.volume.slices is {stored}: raise the latter"
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _mirrored_columns_are_left_and_right(self) -> "Config":
        if self.train.augmentation.flip and self.preprocess.volume.plane == "sagittal":
            message = (
                "train.augmentation.flip mirrors the columns of a slice, and in the sagittal plane "
                "(preprocess.volume.plane) these are front and back: set flip to false, or take another plane"
            )
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _uids_are_keyed(self) -> "Config":
        if "retain_uids" in self.deidentify.options:
            message = (
                "deidentify.options: a study links its tables by keyed UIDs; retain_uids is for "
                "`python -m pipeline deidentify --input DIR --output DIR`"
            )
            raise ValueError(message)
        return self

    @property
    def banked(self) -> tuple[str, ...]:
        """Strategies of the study that read the bank."""
        names = (self.train.strategy, *self.train.compare)
        return banked(names, is_random=self.train.weights.source == "random")

    def section(self, stage: str, *keys: str) -> str:
        """Give the settings of a stage, or some of them, as JSON for the command line; equal settings, equal text."""
        settings: Section = getattr(self, stage)
        plain = settings.model_dump(mode="json", include=set(keys) or None)
        return json.dumps(plain, sort_keys=True, separators=(",", ":"))


def load(path: Path, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read and check a configuration.

    Parameters
    ----------
    path
        A YAML file.
    overrides
        Top-level keys that replace those of the file (Snakemake's ``--config``).

    Raises
    ------
    ConfigError
        Naming every error at once with its line and, for an unknown key, the nearest known one.
    """
    values, lines = read_yaml(path)
    if not isinstance(values, dict):
        raise ConfigError("the configuration holds no keys", where=str(path), remedy="start from config/config.yaml")
    return check({**values, **(overrides or {})}, lines, str(path))


def check(values: Mapping[str, Any], lines: Mapping[KeyPath, int], name: str) -> Config:
    """Check plain values; `lines` and `name` say where they stand."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        found = [describe_error(item, lines, name, Config) for item in error.errors()]
    what = f"{len(found)} error{'s' if len(found) > 1 else ''} in the configuration\n  " + "\n  ".join(found)
    raise ConfigError(what, where=name, remedy="mend the lines named; docs/configuration.md lists every key")


def schema() -> dict[str, Any]:
    """JSON Schema of the configuration, for editors (``config/config.schema.json``)."""
    found = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Config.model_json_schema()}
    weights = found["$defs"]["WeightsSettings"]
    words = [name for name in SOURCES if name not in NEEDED]  # these may stand alone
    found["$defs"]["WeightsSettings"] = {"anyOf": [{"enum": [*words, "random"]}, weights]}
    return found
