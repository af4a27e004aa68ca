"""Caveats: what a reader must know before the numbers, in plain words, the gravest first.

To add one: write a function of the `Material` that gives sentences, and put it into `CAVEATS`. Only the first
few stand on the report's first page.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pipeline.core.provenance import numerical
from pipeline.core.records import Estimate, FlowStep, FoldRole, Image, Pair
from pipeline.core.results import Calibration, FindingCount, StrategyResult
from pipeline.evaluation.association import cramers_v
from pipeline.evaluation.out_of_fold import FoldFit
from pipeline.evaluation.thresholds import Rule

# Validation needs about 100 events or more (Collins et al., 2016, doi:10.1002/sim.6787).
ENOUGH_EVENTS = 100
WIDE_INTERVAL = 0.2
STRONG_ASSOCIATION = 0.3
MUCH_EXCLUDED = 0.1
FEW_FOR_THRESHOLD = 10
SLOPES = (0.7, 1.4)
LARGE_INTERCEPT = 0.5
_UNCERTAIN = frozenset({"SHARED_PATIENT_ID", "INCONSISTENT_IDENTITY", "CONFLICTING_INSTANCES"})
_SHARED_IMAGES = ("SAME_IMAGE_TWO_PATIENTS", "SIMILAR_IMAGE_TWO_PATIENTS")


@dataclass(frozen=True)
class Material:
    """What caveats are made from; `own` is the study's own strategy, `fits` are of it."""

    classes: tuple[str, ...]
    own: StrategyResult
    fits: Sequence[FoldFit]
    rule: Rule
    flow: Sequence[FlowStep]
    findings: Sequence[FindingCount]
    images: Sequence[Image]
    folds: Sequence[FoldRole]

    def found(self, metric: str) -> Estimate | None:
        """Find the patient-level estimate of the study's own strategy over all folds."""
        wanted = ("patient", metric, None)
        return next((item for item in self.own.estimates if (item.level, item.metric, item.fold) == wanted), None)


def list_caveats(material: Material) -> tuple[str, ...]:
    """List all sentences that apply, each once."""
    return tuple(dict.fromkeys(sentence for caveat in CAVEATS for sentence in caveat(material)))


def no_transfer(material: Material) -> Iterator[str]:
    """Name training from random weights."""
    if any(summary.weights_source == "random" for summary in material.own.training):
        yield "No transfer is measured: the network started from random weights."


def known_before(material: Material) -> Iterator[str]:
    """Name a start from a network that may have learnt from these patients."""
    runs = [summary for summary in material.own.training if summary.weights_source == "run"]
    known, tested = sum(run.tested_before for run in runs), sum(run.test_images for run in runs)
    if known:
        yield (
            f"The network began from one of another study that had learnt from {known} of the {tested} test images: "
            "the numbers here are too good."
        )
    elif runs:
        yield (
            "The network began from one of another study. None of the test images was among those it had learnt from; "
            "if other images of these patients were, the numbers here are too good."
        )


def no_discrimination(material: Material) -> Iterator[str]:
    """Name an interval that holds guessing, is missing, or is wide."""
    area = material.found("auroc")
    if area is None or area.low is None or area.high is None:
        yield "The patient-level AUROC has no interval: too few patients, or a class is missing from the folds."
        return
    if area.low <= 0.5 <= area.high:
        yield "The interval of the patient-level AUROC includes 0.5: the network may do no better than guessing."
    elif area.high < 0.5:
        yield "The patient-level AUROC lies below 0.5: the network ranks patients the wrong way round."
    if area.high - area.low > WIDE_INTERVAL:
        width = f"{area.high - area.low:.2f}"
        yield f"The interval of the patient-level AUROC is {width} wide: too few patients for a firm statement."


def few_events(material: Material) -> Iterator[str]:
    """Name classes with few patients."""
    point = material.own.operating_point
    totals = {name: sum(row) for name, row in zip(material.classes, point.confusion if point else (), strict=True)}
    for name, total in totals.items():
        if total < ENOUGH_EVENTS:
            yield (
                f"Only {_count(total, 'patient')} of class “{name}”: at least {ENOUGH_EVENTS} are advised to judge "
                "a model."
            )


def other_explanations(material: Material) -> Iterator[str]:
    """Name properties of the acquisition that go with the class."""
    known = {image.image_id: image for image in material.images}
    tested = [(known[row.image_id], row) for row in material.folds if row.role == "test"]
    for field, name in (("site", "site"), ("scanner", "scanner"), ("view_position", "view")):
        pairs = sorted({(row.patient, row.label, str(getattr(image, field))) for image, row in tested})
        strength = cramers_v([value for _, _, value in pairs], [label for _, label, _ in pairs])
        if strength is not None and strength > STRONG_ASSOCIATION:
            yield (
                f"Class and {name} go together (Cramér's V {strength:.2f}): the network may recognise the {name} "
                "instead of the finding."
            )


def shared_images(material: Material) -> Iterator[str]:
    """Name patients kept together because of equal images."""
    pairs = sum(item.count for item in material.findings if item.code in _SHARED_IMAGES)
    if pairs:
        yield (
            f"{_count(pairs, 'remark')} about images that stand under two patients: these patients are kept on one "
            "side of every split and count as one in the intervals; find out whether they are one person."
        )


def several_classes(material: Material) -> Iterator[str]:
    """Name patients with images of several classes."""
    labels: dict[str, set[str]] = {}
    for row in material.folds:
        labels.setdefault(row.patient, set()).add(row.label)
    number = sum(len(found) > 1 for found in labels.values())
    if number and len(material.classes) == 2:
        verbs = "has images of both classes and counts" if number == 1 else "have images of both classes and count"
        yield f"{_count(number, 'patient')} {verbs} as “{material.classes[1]}”."
    elif number:
        yield f"{_count(number, 'patient')} with images of several classes: evaluated once for each of them."


def threshold_missed(material: Material) -> Iterator[str]:
    """Name an operating point that does not hold what was asked, or rests on little."""
    if len(material.classes) > 2:
        return
    reached = material.found(material.rule.kind)
    if reached is not None and reached.value is not None and reached.value < material.rule.at_least:
        yield (
            f"The thresholds were chosen for a {material.rule.kind} of at least {material.rule.at_least:g}; on the "
            f"patients tested it is {reached.value:.2f}."
        )
    fewest = min(min(fit.validation_patients) for fit in material.fits)
    if fewest < FEW_FOR_THRESHOLD:
        yield (f"Thresholds and calibration rest on few validation patients: in one fold only {fewest} of a class.")


def fit_failures(material: Material) -> Iterator[str]:
    """Name folds in which something could not be fitted."""
    for fit in material.fits:
        notes = [fit.calibrator.note, fit.threshold.note if fit.threshold else ""]
        for note in filter(None, notes):
            yield f"Fold {fit.fold + 1}: {note}."


def poor_calibration(material: Material) -> Iterator[str]:
    """Name probabilities that are not frequencies."""
    for item in material.own.calibration:
        if item.slope is None or item.intercept is None:
            continue
        if is_off(item):
            yield (
                f"The probabilities of “{item.class_name}” are not frequencies (calibration slope {item.slope:.2f}, "
                f"intercept {item.intercept:.2f}; perfect is 1 and 0): do not read them as risks."
            )


def is_off(item: Calibration) -> bool:
    """Tell whether slope or intercept lie surely beyond what can be overlooked."""
    if item.slope is None or item.intercept is None:
        return False
    is_bent = not SLOPES[0] <= item.slope <= SLOPES[1] and _excludes(item.slope_interval, 1)
    is_shifted = abs(item.intercept) > LARGE_INTERCEPT and _excludes(item.intercept_interval, 0)
    return is_bent or is_shifted


def much_excluded(material: Material) -> Iterator[str]:
    """Name stages that left much out."""
    for step in material.flow:
        # Files that are no images are no loss to the study.
        if step.stage != "ingest" and step.entered and step.excluded / step.entered > MUCH_EXCLUDED:
            share = f"{100 * step.excluded / step.entered:.0f} %"
            yield f"The step {step.stage} left out {share} of what it was given: see the reasons."


def one_site(material: Material) -> Iterator[str]:
    """Name data from a single, or no stated, site."""
    sites = {image.site for image in material.images}
    if sites == {""}:
        yield "The images do not say where they were made: how well the network does elsewhere cannot be judged."
    elif len(sites) == 1:
        yield "All images come from one site: how well the network does elsewhere cannot be judged."


def licence(material: Material) -> Iterator[str]:
    """Name restrictions of the starting weights."""
    names = sorted({summary.weights_licence for summary in material.own.training if summary.weights_source != "random"})
    for name in names:
        plain = name.lower().replace("-", " ").replace("_", " ")
        if "noncommercial" in plain.replace(" ", "") or "nc" in plain.split():
            yield f"The starting weights may not be used commercially (licence: {name}); that may hold for the result."
        elif plain in {"", "not stated", "unknown"}:
            yield "The licence of the starting weights is not stated: find out before the network is passed on."


def uncertain_identity(material: Material) -> Iterator[str]:
    """Name images lost or kept although it is not certain whose they are."""
    lost = sum(item.count for item in material.findings if item.code in _UNCERTAIN and item.severity == "excluded")
    kept = sum(item.count for item in material.findings if item.code in _UNCERTAIN and item.severity == "noted")
    if lost:
        yield (
            f"{_count(lost, 'file')} with images left out because it is not certain whose they are: patients seen more "
            "than once are hit most, so those who stay may differ from those who were lost."
        )
    if kept:
        yield (
            f"{_count(kept, 'patient')} kept although one ID seems to stand for several people: their labels and "
            "predictions may be mixed."
        )


def unlike_machines(material: Material) -> Iterator[str]:
    """Name what differs between the machines that trained the folds."""
    training = material.own.training
    differing = [
        name
        for name, values in (
            ("device", {summary.device for summary in training}),
            ("numerical precision", {summary.precision for summary in training}),
            ("number of threads", {summary.threads for summary in training}),
            ("software versions", {numerical(summary.software) for summary in training}),
        )
        if len(values) > 1
    ]
    if differing:
        *others, last = differing
        what = f"{', '.join(others)} and {last}" if others else last
        yield (
            f"The folds were not all trained with the same {what}: a repetition need not give these numbers; train "
            "all folds anew under equal conditions to compare them."
        )


def short_training(material: Material) -> Iterator[str]:
    """Name training that ended while the validation loss still fell."""
    trained = [summary for summary in material.own.training if summary.best_epoch > 0]
    late = sum(summary.best_epoch == summary.epochs for summary in trained)
    if trained and 2 * late > len(trained):
        yield f"In {late} of {len(trained)} folds the last epoch was the best: longer training may do better."


CAVEATS: tuple[Callable[[Material], Iterator[str]], ...] = (
    no_transfer,
    known_before,
    no_discrimination,
    other_explanations,
    few_events,
    fit_failures,
    shared_images,
    threshold_missed,
    poor_calibration,
    several_classes,
    uncertain_identity,
    much_excluded,
    one_site,
    licence,
    unlike_machines,
    short_training,
)


def _excludes(interval: Pair | None, value: float) -> bool:
    return interval is not None and not interval[0] <= value <= interval[1]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
