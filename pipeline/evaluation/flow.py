"""Flow: what entered each stage, what left it, why; the numbers must add up or there is no report."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise

from pipeline.core.errors import ReportError
from pipeline.core.reasons import REASONS
from pipeline.core.records import Finding, FlowStep
from pipeline.core.results import FindingCount

ORDER = ("ingest", "deidentify", "check_quality", "preprocess", "label", "split")
_REMEDY = "run the study again from `ingest`; if it happens again, please report it"


def check_flow(
    steps: Sequence[FlowStep], findings: Sequence[Finding], tables: Mapping[str, int]
) -> tuple[FlowStep, ...]:
    """Put the steps into their order and check that nothing was lost between files and folds.

    Parameters
    ----------
    findings
        Of all stages.
    tables
        For stages whose product is a table: number of distinct units in it.

    Raises
    ------
    ReportError
        If a stage is missing or there twice, hands on something else than the next receives or than its table
        holds, or excludes another number of units than it gives reasons for.
    """
    if sorted(step.stage for step in steps) != sorted(ORDER):
        what = f"expected one flow step for each of {', '.join(ORDER)}"
        raise ReportError(what, remedy=_REMEDY)
    ordered = tuple(sorted(steps, key=lambda step: ORDER.index(step.stage)))
    for before, after in pairwise(ordered):
        if _handed_on(before, after) != after.entered:
            what = (
                f"{before.stage} leaves {before.left} ({before.unit}) and hands on {before.produced} "
                f"({before.produced_unit}), but {after.stage} receives {after.entered} ({after.unit})"
            )
            raise ReportError(what, remedy=_REMEDY)
    for step in ordered:
        reasons = [row for row in findings if row.stage == step.stage and row.severity == "excluded"]
        units = {row.unit_id for row in reasons if row.unit == step.unit}
        if not len(units) == len(reasons) == step.excluded:
            what = (
                f"{step.stage} excludes {step.excluded} ({step.unit}), but gives {len(reasons)} reasons "
                f"for {len(units)}"
            )
            raise ReportError(what, remedy=_REMEDY)
        if tables.get(step.stage, step.produced) != step.produced:
            what = f"{step.stage} counts {step.produced} ({step.produced_unit}), its table {tables[step.stage]}"
            raise ReportError(what, remedy=_REMEDY)
    return ordered


def count_findings(findings: Sequence[Finding]) -> tuple[FindingCount, ...]:
    """Count findings by stage, severity and code, in the order of the stages, the most frequent first.

    Raises
    ------
    ReportError
        If a code is not in the list of reasons.
    """
    counts = Counter((finding.stage, finding.unit, finding.code, finding.severity) for finding in findings)
    unknown = sorted({code for _, _, code, _ in counts if code not in REASONS})
    if unknown:
        raise ReportError(f"reason codes without a meaning: {', '.join(unknown)}", remedy=_REMEDY)
    rows = [
        FindingCount(
            stage=stage,
            unit=unit,
            code=code,
            severity=severity,
            count=count,
            meaning=REASONS[code].meaning,
            remedy=REASONS[code].remedy,
        )
        for (stage, unit, code, severity), count in counts.items()
    ]
    place = {stage: number for number, stage in enumerate(ORDER)}
    return tuple(
        sorted(rows, key=lambda row: (place.get(row.stage, len(ORDER)), row.severity, -row.count, row.code, row.unit))
    )


def _handed_on(before: FlowStep, after: FlowStep) -> int | None:
    """Count what the earlier step gives in the unit of the later one; None if it gives nothing in that unit."""
    if after.unit == before.produced_unit:
        return before.produced
    # A file that was accepted is an instance.
    return before.left if (before.unit, after.unit) in {("file", "instance"), (after.unit, after.unit)} else None
