"""Caveats of a study of several findings: one sentence for each matter, naming the findings that it concerns."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from pipeline.core.records import Estimate
from pipeline.core.results import FindingResult
from pipeline.core.states import UNKNOWN, read_states
from pipeline.evaluation import caveats
from pipeline.evaluation.association import cramers_v
from pipeline.evaluation.caveats import Material
from pipeline.evaluation.out_of_fold import FoldFit

_Fits = Mapping[str, Sequence[FoldFit]]
MOSTLY_UNKNOWN = 0.5
# These ask nothing of the label.
_GENERAL = (
    caveats.shared_images,
    caveats.uncertain_identity,
    caveats.much_excluded,
    caveats.one_site,
    caveats.licence,
    caveats.unlike_machines,
    caveats.short_training,
)


def list_finding_caveats(material: Material, fits: _Fits) -> tuple[str, ...]:
    """List all sentences that apply, each once, the gravest first.

    Parameters
    ----------
    material
        Of the study's own strategy; its classes are the findings.
    fits
        Of each finding, of the same strategy.
    """
    own: tuple[Callable[[Material, _Fits], Iterator[str]], ...] = (
        no_discrimination,
        other_explanations,
        few_events,
        mostly_unknown,
        fit_failures,
        threshold_missed,
        poor_calibration,
        several_states,
    )
    sentences = [*caveats.no_transfer(material), *caveats.known_before(material)]
    sentences += [sentence for caveat in own for sentence in caveat(material, fits)]
    sentences += [sentence for caveat in _GENERAL for sentence in caveat(material)]
    return tuple(dict.fromkeys(sentences))


def no_discrimination(material: Material, _fits: _Fits) -> Iterator[str]:
    """Name findings whose interval holds guessing, is missing, or is wide."""
    found = {name: material.found(f"auroc:{name}") for name in material.classes}
    without = [name for name, item in found.items() if not _has_interval(item)]
    if without:
        yield f"The patient-level AUROC has no interval for {_list(without)}: too few patients with, or without, it."
    known = {name: item for name, item in found.items() if item is not None and _has_interval(item)}
    guessing = [name for name, item in known.items() if _low(item) <= 0.5 <= _high(item)]
    if guessing:
        yield f"The interval of the patient-level AUROC includes 0.5, which is guessing, for {_list(guessing)}."
    wrong = [name for name, item in known.items() if _high(item) < 0.5]
    if wrong:
        yield f"The patient-level AUROC lies below 0.5, patients are ranked the wrong way round, for {_list(wrong)}."
    wide = [
        f"{name} ({_high(item) - _low(item):.2f})"
        for name, item in known.items()
        if _high(item) - _low(item) > caveats.WIDE_INTERVAL
    ]
    if wide:
        yield (
            f"The interval of the patient-level AUROC is wider than {caveats.WIDE_INTERVAL:g}, too wide for a firm "
            f"statement, for {_list(wide)}."
        )


def few_events(material: Material, _fits: _Fits) -> Iterator[str]:
    """Name findings that few patients have, or few have not."""
    for what, number in (("with", _present), ("without", _absent)):
        few = {item.name: number(item) for item in material.own.findings if number(item) < caveats.ENOUGH_EVENTS}
        if few:
            listed = _list([f"{name} ({count})" for name, count in sorted(few.items(), key=lambda pair: pair[1])])
            yield (
                f"Fewer than {caveats.ENOUGH_EVENTS} patients {what} {listed}: that many are advised to judge a model, "
                "and the mean over the findings gives a rare finding the weight of a frequent one."
            )


def mostly_unknown(material: Material, _fits: _Fits) -> Iterator[str]:
    """Name findings of which little is known."""
    shares = {
        item.name: item.images_unknown / max(1, item.images_unknown + item.images_known)
        for item in material.own.findings
    }
    named = [f"{name} ({100 * share:.0f} %)" for name, share in shares.items() if share > MOSTLY_UNKNOWN]
    if named:
        yield (
            f"Unknown in most images: {_list(named)}. Numbers hold for the images of which the finding is known, which "
            "may be a selection."
        )


def other_explanations(material: Material, _fits: _Fits) -> Iterator[str]:
    """Name properties of the acquisition that go with a finding."""
    known = {image.image_id: image for image in material.images}
    tested = [(known[row.image_id], row) for row in material.folds if row.role == "test"]
    states = {row.label: read_states(row.label, material.classes) for _, row in tested}
    for field, name in (("site", "site"), ("scanner", "scanner"), ("view_position", "view")):
        strong = []
        for place, finding in enumerate(material.classes):
            triples = {
                (row.patient, states[row.label][place], str(getattr(image, field)))
                for image, row in tested
                if states[row.label][place] != UNKNOWN
            }
            pairs = sorted(triples)
            strength = cramers_v([value for _, _, value in pairs], [state for _, state, _ in pairs])
            if strength is not None and strength > caveats.STRONG_ASSOCIATION:
                strong.append(f"{finding} ({strength:.2f})")
        if strong:
            yield (
                f"Findings that go with the {name} (Cramér's V): {_list(strong)}. The network may recognise the {name} "
                "instead."
            )


def fit_failures(_material: Material, fits: _Fits) -> Iterator[str]:
    """Name folds in which something could not be fitted."""
    concerned: dict[str, list[str]] = {}
    for name, found in fits.items():
        for fit in found:
            for note in filter(None, (fit.calibrator.note, fit.threshold.note if fit.threshold else "")):
                concerned.setdefault(note, []).append(f"{name} in fold {fit.fold + 1}")
    for note, places in concerned.items():
        yield f"For {_list(places)}: {note}."


def threshold_missed(material: Material, fits: _Fits) -> Iterator[str]:
    """Name findings whose operating point does not hold what was asked, or rests on little."""
    rule = material.rule
    missed = []
    for name in material.classes:
        reached = material.found(f"{rule.kind}:{name}")
        if reached is not None and reached.value is not None and reached.value < rule.at_least:
            missed.append(f"{name} ({reached.value:.2f})")
    if missed:
        yield (
            f"The thresholds were chosen for a {rule.kind} of at least {rule.at_least:g}; on the patients tested it is "
            f"lower for {_list(missed)}."
        )
    fewest = {name: min(min(fit.validation_patients) for fit in found) for name, found in fits.items() if found}
    few = [f"{name} ({number})" for name, number in fewest.items() if number < caveats.FEW_FOR_THRESHOLD]
    if few:
        yield (
            "Thresholds and calibration rest on few validation patients with, or without, the finding in some fold: "
            f"{_list(few)}."
        )


def poor_calibration(material: Material, _fits: _Fits) -> Iterator[str]:
    """Name findings whose probabilities are not frequencies."""
    named = [
        f"{item.class_name} (slope {item.slope:.2f}, intercept {item.intercept:.2f})"
        for item in material.own.calibration
        if item.slope is not None and item.intercept is not None and caveats.is_off(item)
    ]
    if named:
        yield f"The probabilities are not frequencies (perfect is 1 and 0), do not read them as risks: {_list(named)}."


def several_states(material: Material, _fits: _Fits) -> Iterator[str]:
    """Name patients who have a finding in some images and not in others."""
    seen: dict[tuple[str, int], set[int]] = {}
    for row in material.folds:
        for place, state in enumerate(read_states(row.label, material.classes)):
            if state != UNKNOWN:
                seen.setdefault((row.patient, place), set()).add(state)
    patients = {patient for (patient, _), states in seen.items() if len(states) > 1}
    if patients:
        verb = "patient has" if len(patients) == 1 else "patients have"
        yield f"{len(patients)} {verb} a finding in some images and not in others, and count as having it."


def _present(item: FindingResult) -> int:
    return item.patients_present


def _absent(item: FindingResult) -> int:
    return item.patients_absent


def _has_interval(item: Estimate | None) -> bool:
    return item is not None and item.low is not None and item.high is not None


def _low(item: Estimate) -> float:
    return item.low or 0.0


def _high(item: Estimate) -> float:
    return 1.0 if item.high is None else item.high


def _list(names: Sequence[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last
