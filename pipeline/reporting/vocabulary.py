"""Words for what the records name by keys: stages, metrics, strategies, weights, reason codes."""

from typing import NamedTuple

from pipeline.core.errors import ReportError
from pipeline.core.records import Estimate, Unit
from pipeline.core.results import Evaluation, OperatingPoint, StrategyResult
from pipeline.reporting.formatting import (
    MISSING,
    capitalised,
    decimal,
    interval,
    percent,
    percent_interval,
    signed,
    signed_interval,
)


class StageWords(NamedTuple):
    """What a stage does, and what has come out of it."""

    action: str
    outcome: str


STAGES: dict[str, StageWords] = {
    "ingest": StageWords("Read the files", "Accepted"),
    "deidentify": StageWords("Remove identifiers", "De-identified"),
    "check_quality": StageWords("Check quality", "Of sufficient quality"),
    "preprocess": StageWords("Prepare images", "Prepared"),
    "label": StageWords("Match labels", "Labelled"),
    "split": StageWords("Assign folds", "Analysed"),
}


# Of areas, the value over all folds is the mean of the folds' values.
OVER_FOLDS = frozenset({"auroc", "auprc"})


class MetricWords(NamedTuple):
    """How a metric is called, explained and written."""

    title: str
    meaning: str
    is_percentage: bool = False


METRICS: dict[str, MetricWords] = {
    "auroc": MetricWords(
        "AUROC", "chance that a case with the finding scores higher than one without; 0.5 is guessing, 1 is perfect"
    ),
    "auroc_pooled": MetricWords("AUROC, pooled", "patients of all folds ranked together by calibrated probability"),
    "auroc_across_folds": MetricWords(
        "AUROC, over trainings", "the same mean; its interval also holds the variation from training to training"
    ),
    "auprc": MetricWords(
        "Average precision", "area under the precision-recall curve; guessing gives the prevalence, 1 is perfect"
    ),
    "sensitivity": MetricWords("Sensitivity", "share of cases with the finding that are called so", True),
    "specificity": MetricWords("Specificity", "share of cases without the finding that are called so", True),
    "ppv": MetricWords("Positive predictive value", "share of positive calls that are right, as in this cohort", True),
    "npv": MetricWords("Negative predictive value", "share of negative calls that are right, as in this cohort", True),
    "accuracy": MetricWords("Accuracy", "share of all calls that are right", True),
    "balanced_accuracy": MetricWords("Balanced accuracy", "mean over the classes of the share called right", True),
    "brier": MetricWords("Brier score", "mean squared error of the probabilities; 0 is perfect"),
    "log_loss": MetricWords("Log loss", "mean surprise of the probabilities in nats; 0 is perfect"),
}
STRATEGIES: dict[str, str] = {
    "full": "Fine-tuned, all layers",
    "probe": "Linear probe, network frozen",
    "last_block": "Last block fine-tuned, network below frozen",
    "gradual": "Fine-tuned gradually, from the head down",
    "scratch": "From scratch, random start",
}
RANDOM_STRATEGIES: dict[str, str] = {
    "full": "All layers trained, random start",
    "probe": "Linear probe, random network",
    "last_block": "Last block trained, random start",
    "gradual": "Trained gradually, random start",
    "scratch": "From scratch, random start",
}
WEIGHTS: dict[str, str] = {
    "imagenet": "ImageNet (photographs of everyday objects)",
    "imagenet_v2": "ImageNet (photographs of everyday objects), by torchvision's later recipe",
    "coco": "COCO (objects found in photographs)",
    "coco_masks": "COCO (objects outlined in photographs)",
    "radimagenet": "RadImageNet (CT, MR and ultrasound images)",
    "medicalnet": "MedicalNet (CT and MR volumes)",
    "phantom": "rendered pictures of made-up bodies (the source that comes with this software)",
    "run": "another study of this pipeline",
    "random": "random numbers",
    "file": "a given file",
}
_UPPER_WORDS = {"dicom": "DICOM"}


def stage(name: str) -> StageWords:
    """Words of a stage; an unknown one is called by its name."""
    plain = capitalised(name.replace("_", " "))
    return STAGES.get(name, StageWords(plain, plain))


def metric(name: str) -> MetricWords:
    """Words of a metric; ``metric:CLASS`` is the metric of one class against the others."""
    base, separator, class_name = name.partition(":")
    words = METRICS.get(base, MetricWords(capitalised(base.replace("_", " ")), ""))
    return words._replace(title=f"{words.title}, {class_name}") if separator else words


def overall_title(name: str) -> str:
    """Title of a metric over all folds, which says how folds were joined."""
    title = metric(name).title
    return f"{title}, mean of folds" if name.partition(":")[0] in OVER_FOLDS else title


def strategy(evaluation: Evaluation, name: str) -> str:
    """Words of a strategy; one that started from random weights is never called fine-tuned."""
    result = next((item for item in evaluation.strategies if item.strategy == name), None)
    words = RANDOM_STRATEGIES if result is not None and is_random(result) else STRATEGIES
    return words.get(name, capitalised(name.replace("_", " ")))


def short_strategy(evaluation: Evaluation, name: str) -> str:
    """Words of a strategy without the details after the comma."""
    return strategy(evaluation, name).partition(",")[0]


def weights(source: str) -> str:
    """Words of a source of weights."""
    return WEIGHTS.get(source, source)


def reason(code: str) -> str:
    """Words of a reason code: ``NOT_DICOM`` becomes ``Not DICOM``."""
    return capitalised(" ".join(_UPPER_WORDS.get(word, word) for word in code.lower().split("_")))


def unit(name: Unit, number: int = 2) -> str:
    """Name a unit of counting in the right number."""
    return name if number == 1 or name == "series" else f"{name}s"


def value_of(estimate: Estimate | None) -> str:
    """Write an estimate's value as its metric is written."""
    if estimate is None:
        return MISSING
    return percent(estimate.value) if metric(estimate.metric).is_percentage else decimal(estimate.value)


def interval_of(estimate: Estimate | None) -> str:
    """Write an estimate's interval as its metric is written."""
    if estimate is None:
        return MISSING
    write = percent_interval if metric(estimate.metric).is_percentage else interval
    return write(estimate.low, estimate.high)


def both_of(estimate: Estimate | None) -> str:
    """Write an estimate's value with its interval in brackets, where it has one."""
    has_interval = estimate is not None and estimate.low is not None and estimate.high is not None
    return f"{value_of(estimate)} ({interval_of(estimate)})" if has_interval else value_of(estimate)


def stacked(estimate: Estimate | None) -> str:
    """Write an estimate's value with its interval on a second line, for tables of many columns."""
    return both_of(estimate).replace(" (", "\n(")


def difference_of(name: str, value: float | None, low: float | None, high: float | None) -> tuple[str, str]:
    """Write a paired difference and its interval; differences of percentages are percentage points."""
    factor, places, tail = (100, 1, " points") if metric(name).is_percentage else (1, 3, "")
    scaled = [None if number is None else factor * number for number in (value, low, high)]
    shown, around = signed(scaled[0], places), signed_interval(scaled[1], scaled[2], places)
    return (shown if shown == MISSING else shown + tail), (around if around == MISSING else around + tail)


def is_random(result: StrategyResult) -> bool:
    """Tell whether a strategy started from random weights in every fold."""
    return bool(result.training) and all(summary.weights_source == "random" for summary in result.training)


def own(evaluation: Evaluation) -> StrategyResult:
    """Give the study's own strategy; the others are comparisons."""
    return evaluation.strategies[0]


def point_of(result: StrategyResult) -> OperatingPoint:
    """Give the operating point of a strategy that has one; each of several findings has its own.

    Raises
    ------
    ReportError
        If the numbers are of findings, or of classes without one.
    """
    if result.operating_point is None:
        raise ReportError("a strategy has no operating point", remedy="run `evaluate` again")
    return result.operating_point


def rule_of(evaluation: Evaluation) -> str:
    """Name the rule by which decisions are made."""
    main = own(evaluation)
    point = main.findings[0].operating_point if main.findings else point_of(main)
    return f"{point.rule}, for each finding by itself" if main.findings else point.rule


def patients_by_class(evaluation: Evaluation) -> tuple[int, ...]:
    """Count the patients of each class as decided about at the operating point."""
    return tuple(sum(row) for row in point_of(own(evaluation)).confusion)
