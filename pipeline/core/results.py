"""The results of a study: the one set of numbers that every document is made from.

`evaluate` writes an `Evaluation`; reports, model cards and DICOM results only format it.
"""

from pydantic import Field

from pipeline.core.records import EpochLog, Estimate, FlowStep, Level, Pair, Record, Severity, TrainingSummary, Unit
from pipeline.core.states import LabelKind


class FindingCount(Record):
    """How often a reason code occurred."""

    stage: str
    unit: Unit
    code: str
    severity: Severity
    count: int
    meaning: str
    remedy: str


class CohortRow(Record):
    """One line of the data table: a fold's test part (or all of it) and a class (or all of them)."""

    fold: int | None  # None: the whole study
    label: str | None  # None: all classes; of findings, those in whom it is present
    patients: int
    studies: int
    images: int
    age_mean_years: float | None
    age_sd_years: float | None
    age_missing: int  # images
    female: int  # images
    male: int  # images
    sex_other_or_missing: int  # images
    sites: tuple[tuple[str, int], ...]  # (site, images), most frequent first
    scanners: tuple[tuple[str, int], ...]
    views: tuple[tuple[str, int], ...]


class RocCurve(Record):
    """A receiver operating characteristic over a fixed grid, with a pointwise bootstrap band."""

    class_name: str  # the class held against the others
    false_positive_rate: tuple[float, ...]
    true_positive_rate: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


class PrecisionRecallCurve(Record):
    """Precision over recall; `prevalence` is the precision of guessing."""

    class_name: str
    recall: tuple[float, ...]
    precision: tuple[float, ...]
    prevalence: float


class CalibrationBin(Record):
    """One bin of equal mass of a reliability diagram."""

    predicted_mean: float
    observed_fraction: float
    low: float  # Wilson interval of the fraction
    high: float
    patients: int


class Calibration(Record):
    """Agreement of predicted probabilities and observed frequencies after the folds' own calibration.

    `slope` and `intercept` are those of a logistic regression of the outcome on the logit (Cox, 1958,
    doi:10.1093/biomet/45.3-4.562); perfect is 1 and 0. Each fold's logits were divided by its temperature and
    given its offset before.
    """

    class_name: str
    bins: tuple[CalibrationBin, ...]
    slope: float | None
    slope_interval: Pair | None = None
    intercept: float | None
    intercept_interval: Pair | None = None
    brier: float
    expected_error: float  # ECE over the bins of equal mass
    fold_temperatures: tuple[float, ...]
    fold_offsets: tuple[float, ...] = ()  # added to the class's logit; of two classes, to the difference of logits
    note: str = ""


class PredictiveValue(Record):
    """Predictive values that the operating point would have at a given prevalence (Bayes' rule)."""

    prevalence: float = Field(gt=0, lt=1)
    positive: float | None
    negative: float | None


class OperatingPoint(Record):
    """Decisions at thresholds chosen on each fold's inner validation part, never on its test part.

    `confusion[i][j]` counts patients of class ``i`` decided as class ``j``, in the order of the study's classes.
    """

    rule: str  # in words, for example "sensitivity at least 0.9"
    thresholds: tuple[float, ...]  # one per fold, on the calibrated probability; empty for more than two classes
    confusion: tuple[tuple[int, ...], ...]
    predictive_values: tuple[PredictiveValue, ...]


class FindingResult(Record):
    """One of several findings: of how many it is known, and the decisions about it."""

    name: str
    patients_present: int  # in at least one image
    patients_absent: int  # in all images of which it is known
    patients_unknown: int
    images_known: int
    images_unknown: int
    operating_point: OperatingPoint  # classes "no NAME" and "NAME"


class StrategyResult(Record):
    """Everything about one way of training: the numbers, the curves, how it was trained.

    Of several findings, metrics are means over the findings, and ``metric:FINDING`` those of each.
    """

    strategy: str
    estimates: tuple[Estimate, ...]
    roc: tuple[RocCurve, ...]
    precision_recall: tuple[PrecisionRecallCurve, ...]
    calibration: tuple[Calibration, ...]
    operating_point: OperatingPoint | None  # None for findings, which have one each
    findings: tuple[FindingResult, ...] = ()
    history: tuple[EpochLog, ...]
    training: tuple[TrainingSummary, ...]


class Comparison(Record):
    """A paired difference of two strategies on the same patients and folds."""

    strategy: str
    reference: str
    level: Level
    metric: str
    difference: float | None  # strategy minus reference
    low: float | None
    high: float | None
    confidence: float
    method: str


class Evaluation(Record):
    """All numbers of a study. The first strategy is the study's own, the others are comparisons."""

    study: str
    created: str  # ISO 8601, UTC, to the second
    kind: LabelKind = "classes"  # an image has one of the classes, or any of the findings
    classes: tuple[str, ...]  # or findings; the order of logits and confusion matrices
    positive_class: str | None  # None for more than two classes, and for findings
    folds: int
    seed: int
    bootstrap_replicates: int
    aggregation: str  # how image probabilities become a patient's, in words
    flow: tuple[FlowStep, ...]
    findings: tuple[FindingCount, ...]
    cohort: tuple[CohortRow, ...]
    strategies: tuple[StrategyResult, ...] = Field(min_length=1)
    comparisons: tuple[Comparison, ...]
    warnings: tuple[str, ...]  # what a reader must know before the numbers
    software: tuple[tuple[str, str], ...]
    code: str  # fingerprint of the evaluating code

    def estimate(self, strategy: str, level: Level, metric: str, fold: int | None = None) -> Estimate | None:
        """Find one estimate, or None if it was not made."""
        return next(
            (
                estimate
                for result in self.strategies
                if result.strategy == strategy
                for estimate in result.estimates
                if (estimate.level, estimate.metric, estimate.fold) == (level, metric, fold)
            ),
            None,
        )
