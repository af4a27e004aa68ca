"""Sums that must hold before a report may be made: no file, image or patient gets lost on the way."""

from collections import Counter
from itertools import pairwise
from typing import NoReturn

from pipeline.core.errors import ReportError
from pipeline.core.records import FlowStep
from pipeline.core.results import CohortRow, Evaluation, StrategyResult
from pipeline.reporting.vocabulary import point_of


def check_sums(evaluation: Evaluation) -> None:
    """Assert that the numbers of an evaluation agree with each other.

    Checked are: every step of the flow adds up; each step takes what the one before handed on; each step's
    exclusions equal its counted reasons; the last step's images are those of the data table, whose folds and
    classes sum to the whole; every strategy decided about the same number of patients, of findings about the same
    number for each.

    Raises
    ------
    ReportError
        Naming the first numbers that do not agree.
    """
    for step in evaluation.flow:
        _check_step(step)
    for before, after in pairwise(evaluation.flow):
        _check_link(before, after)
    _check_exclusions(evaluation)
    _check_cohort(evaluation)
    if evaluation.kind == "findings":
        _check_findings(evaluation)
    else:
        _check_decisions(evaluation)


def _check_step(step: FlowStep) -> None:
    if step.entered != step.excluded + step.left:
        _stop(f"{step.stage}: {step.entered} entered, but {step.excluded} excluded + {step.left} left")
    if step.unit == step.produced_unit and step.produced != step.left:
        _stop(f"{step.stage}: {step.left} left, but {step.produced} handed on")


def _check_link(before: FlowStep, after: FlowStep) -> None:
    if after.unit == before.produced_unit:
        handed_on = before.produced
    elif after.unit == before.unit or (before.unit, after.unit) == ("file", "instance"):
        handed_on = before.left  # a file that was accepted is an instance
    else:
        _stop(f"{before.stage} hands on {before.produced_unit}, but {after.stage} takes {after.unit}")
    if handed_on != after.entered:
        _stop(f"{before.stage} hands on {handed_on} {after.unit}, but {after.entered} entered {after.stage}")


def _check_exclusions(evaluation: Evaluation) -> None:
    counted: Counter[str] = Counter()
    for finding in evaluation.findings:
        if finding.severity == "excluded":
            counted[finding.stage] += finding.count
    for step in evaluation.flow:
        reasons = counted.pop(step.stage, 0)
        if reasons != step.excluded:
            _stop(f"{step.stage}: {step.excluded} excluded, but {reasons} reasons counted")
    if counted:
        _stop(f"exclusions counted for stages without a flow: {', '.join(sorted(counted))}")


def _check_cohort(evaluation: Evaluation) -> None:
    rows = {(row.fold, row.label): row for row in evaluation.cohort}
    whole = rows.get((None, None))
    if whole is None:
        _stop("the data table has no row for the whole study")
    if evaluation.flow and evaluation.flow[-1].produced != whole.images:
        _stop(f"{evaluation.flow[-1].produced} images leave the flow, but the data table has {whole.images}")
    folds = [rows[fold, None] for fold in range(evaluation.folds) if (fold, None) in rows]
    if len(folds) != evaluation.folds:
        _stop(f"the data table has rows for {len(folds)} folds of {evaluation.folds}")
    for kind in ("patients", "images"):
        total = sum(getattr(row, kind) for row in folds)
        if total != getattr(whole, kind):
            _stop(f"the folds have {total} {kind}, the study has {getattr(whole, kind)}")
    for row in (whole, *folds):
        parts = [part for part in evaluation.cohort if part.fold == row.fold and part.label is not None]
        _check_parts(row, parts, is_exclusive=evaluation.kind == "classes")


def _check_parts(row: CohortRow, parts: list[CohortRow], *, is_exclusive: bool) -> None:
    place = "the study" if row.fold is None else f"fold {row.fold + 1}"
    # Patients are not summed over classes: one patient may have images of several.
    if not is_exclusive and any(part.images > row.images for part in parts):
        _stop(f"more images show a finding than {place} has")
    if is_exclusive and parts and sum(part.images for part in parts) != row.images:
        _stop(f"the classes have {sum(part.images for part in parts)} images, {place} has {row.images}")
    if row.female + row.male + row.sex_other_or_missing != row.images:
        _stop(f"{place}: images by sex do not sum to {row.images}")


def _check_decisions(evaluation: Evaluation) -> None:
    totals = {result.strategy: _decided(result) for result in evaluation.strategies}
    if len(totals) != len(evaluation.strategies):
        _stop("a strategy is listed twice")
    if len(set(totals.values())) != 1:
        listed = ", ".join(f"{name} {total}" for name, total in totals.items())
        _stop(f"the strategies decided about different numbers of patients: {listed}")
    patients = next(row.patients for row in evaluation.cohort if (row.fold, row.label) == (None, None))
    decided = next(iter(totals.values()))
    # Of more than two classes, a patient may have several and is then decided about once for each.
    if decided < patients or (len(evaluation.classes) == 2 and decided != patients):
        _stop(f"{decided} patients were decided about, the study has {patients}")
    size = len(evaluation.classes)
    for result in evaluation.strategies:
        confusion = point_of(result).confusion
        if len(confusion) != size or any(len(row) != size for row in confusion):
            _stop(f"{result.strategy}: the confusion matrix is not {size} by {size}")


def _decided(result: StrategyResult) -> int:
    return sum(map(sum, point_of(result).confusion))


def _check_findings(evaluation: Evaluation) -> None:
    whole = next(row for row in evaluation.cohort if (row.fold, row.label) == (None, None))
    known: dict[str, set[tuple[int, int]]] = {}
    for result in evaluation.strategies:
        if tuple(item.name for item in result.findings) != evaluation.classes:
            _stop(f"{result.strategy}: the findings are not those of the study")
        for item in result.findings:
            decided = sum(map(sum, item.operating_point.confusion))
            if decided + item.patients_unknown != whole.patients or min(item.patients_unknown, item.images_unknown) < 0:
                _stop(
                    f"{item.name}: {decided} patients decided about and {item.patients_unknown} unknown, the study "
                    f"has {whole.patients}"
                )
            if item.patients_present + item.patients_absent != decided:
                _stop(f"{item.name}: patients with and without it are not those decided about")
            if item.images_known + item.images_unknown != whole.images:
                _stop(f"{item.name}: images known and unknown do not sum to {whole.images}")
            known.setdefault(item.name, set()).add((item.patients_present, item.patients_absent))
    differing = [name for name, counts in known.items() if len(counts) > 1]
    if differing:
        _stop(f"the strategies decided about different patients for {', '.join(differing)}")


def _stop(what: str) -> NoReturn:
    raise ReportError(
        f"the numbers do not add up: {what}", remedy="run the stages named again; if it stays, report it as a bug"
    )
