"""Sections on the cohort: its flow, its composition, and what was left out."""

from functools import partial

from pipeline.core.results import CohortRow, Evaluation, FindingCount
from pipeline.reporting import vocabulary
from pipeline.reporting.blocks import Block, Column, Figure, Figures, Heading, Paragraph, Section, Table, not_evaluated
from pipeline.reporting.document import Report
from pipeline.reporting.figures.flow import draw_flow, exclusions, main_boxes
from pipeline.reporting.formatting import count, counted, decimal, joined, share

_NUMBER = "right"
_UNKNOWN = frozenset({"", "not stated"})
_MOST_CLASSES, _MOST_FOLDS = 4, 8  # columns of a table beside the whole
_MOST_VALUES = 12  # of one property (sites, scanners, views) in a table


def flow(report: Report) -> Section:
    """Follow files, series and images from the folder to the analysis."""
    evaluation = report.evaluation
    lead = (
        "How many files were found, what was left out at each step and why, and what was analysed. Every row adds up: "
        "entered is left out plus left, and each step takes what the one before handed on."
    )
    if not evaluation.flow:
        return Section(name="flow", title="Cohort flow", blocks=(not_evaluated("no step of the flow was recorded."),))
    figure = Figure(
        name="cohort-flow",
        caption="From the files found to the images analysed.",
        alt=_flow_in_words(evaluation),
        draw=partial(draw_flow, evaluation),
    )
    columns = (
        Column(title="Step", is_wide=True),
        Column(title="Counted in"),
        *(Column(title=title, align=_NUMBER) for title in ("Entered", "Left out", "Left")),
        Column(title="Handed on", align=_NUMBER),
    )
    rows = tuple(
        (
            vocabulary.stage(step.stage).action,
            vocabulary.unit(step.unit),
            count(step.entered),
            count(step.excluded),
            count(step.left),
            f"{count(step.produced)} {vocabulary.unit(step.produced_unit, step.produced)}",
        )
        for step in evaluation.flow
    )
    table = Table(name="cohort-flow", caption="The same numbers as a table.", columns=columns, rows=rows)
    return Section(name="flow", title="Cohort flow", lead=lead, blocks=(Figures(figures=(figure,)), table))


def data(report: Report) -> Section:
    """Describe the images and patients by fold and class."""
    evaluation = report.evaluation
    lead = (
        "Who was analysed. Each fold's patients were tested by a network that was trained on the other folds. "
        "Large differences between folds or classes other than the finding itself (site, scanner, age) can "
        "mislead a network."
    )
    blocks: list[Block] = [_composition(evaluation)]
    for heading, name in (("Sites", "sites"), ("Scanners", "scanners"), ("Views", "views")):
        blocks += _spread(evaluation, heading, name)
    return Section(name="data", title="Data by fold and class", lead=lead, blocks=tuple(blocks))


def rejected(report: Report) -> Section:
    """List every reason for which something was left out or remarked upon."""
    evaluation = report.evaluation
    lead = "Nothing is dropped silently: every file, series or image that was left out or remarked upon has a reason."
    blocks: list[Block] = []
    for severity, heading in (("excluded", "Left out"), ("noted", "Kept, with a remark")):
        chosen = [item for item in evaluation.findings if item.severity == severity]
        blocks.append(Heading(text=heading))
        blocks.append(_findings(evaluation, chosen, f"findings-{severity}") if chosen else _nothing(severity))
    return Section(name="rejected", title="Files left out, and why", lead=lead, blocks=tuple(blocks))


def _nothing(severity: str) -> Block:
    return Paragraph(text="Nothing was left out." if severity == "excluded" else "There were no remarks.")


def _flow_in_words(evaluation: Evaluation) -> str:
    parts = [f"{title}: {text}" for title, text in main_boxes(evaluation)]
    sides = exclusions(evaluation)
    told = [parts[0]]
    for part, side in zip(parts[1:], sides, strict=True):
        if side is not None:
            told.append(f"{side.title} ({joined(side.reasons)})")
        told.append(part)
    return f"Flow diagram. {'. '.join(told)}."


def _composition(evaluation: Evaluation) -> Table:
    titles = ("Patients", "Studies", "Images", "Age in years", "Female", "Male", "Age / sex missing")
    columns = (
        Column(title="Fold"),
        Column(title="Finding" if evaluation.kind == "findings" else "Class", is_wide=True),
        *(Column(title=title, align=_NUMBER) for title in titles),
    )
    ordered = sorted(evaluation.cohort, key=lambda row: _place(evaluation, row))
    rows = tuple(_composition_row(row) for row in ordered)
    strong = tuple(index for index, row in enumerate(ordered) if row.label is None)
    note = (
        "Age: mean ± standard deviation. Age, sex and missing values are counted by image. A patient with images of "
        "several classes is counted in each of them."
    )
    if evaluation.kind == "findings":
        note = (
            "A finding's row holds the patients and images in which it is present; one with several findings stands in "
            "each of their rows, one with none only in that of all. Age: mean ± standard deviation. Age, sex and "
            "missing values are counted by image."
        )
    by = "finding" if evaluation.kind == "findings" else "class"
    return Table(
        name="cohort", caption=f"Patients and images by fold and {by}.", columns=columns, rows=rows,
        strong_rows=strong, notes=(note,),
    )  # fmt: skip


def _place(evaluation: Evaluation, row: CohortRow) -> tuple[int, int]:
    label = -1 if row.label is None else evaluation.classes.index(row.label)
    return (-1 if row.fold is None else row.fold, label)


def _composition_row(row: CohortRow) -> tuple[str, ...]:
    has_age = row.age_mean_years is not None and row.age_sd_years is not None
    age = (
        f"{decimal(row.age_mean_years, 1)} ± {decimal(row.age_sd_years, 1)}"
        if has_age
        else decimal(row.age_mean_years, 1)
    )
    return (
        "All" if row.fold is None else str(row.fold + 1),
        "all" if row.label is None else row.label,
        count(row.patients),
        count(row.studies),
        count(row.images),
        age,
        share(row.female, row.images),
        share(row.male, row.images),
        f"{count(row.age_missing)} / {count(row.sex_other_or_missing)}",
    )


def _spread(evaluation: Evaluation, heading: str, name: str) -> list[Block]:
    """Tabulate how often each site (scanner, view) occurs in each class and fold."""
    rows = {(row.fold, row.label): row for row in evaluation.cohort}
    whole: tuple[tuple[str, int], ...] = getattr(rows[None, None], name)
    if all(value in _UNKNOWN for value, _ in whole):
        return [not_evaluated(f"{heading.lower()} are not stated in the files.")]
    everyone = [("All", rows[None, None])]
    classes = [(label, rows[None, label]) for label in evaluation.classes if (None, label) in rows]
    folds = [(f"Fold {fold + 1}", rows[fold, None]) for fold in range(evaluation.folds) if (fold, None) in rows]
    both = "finding and fold" if evaluation.kind == "findings" else "class and fold"
    if len(classes) + len(folds) < _MOST_FOLDS:
        return [_spread_table(heading, name, [*everyone, *classes, *folds], both)]
    tables: list[Block] = []
    for by, groups, most in (("class", classes, _MOST_CLASSES), ("fold", folds, _MOST_FOLDS)):
        for start in range(0, len(groups), most):
            part = [*everyone, *groups[start : start + most]]
            shown = "finding" if by == "class" and evaluation.kind == "findings" else by
            tables.append(_spread_table(heading, f"{name}-by-{by}-{start // most + 1}", part, shown))
    return tables


def _spread_table(heading: str, name: str, groups: list[tuple[str, CohortRow]], by: str) -> Table:
    field = name.partition("-")[0]
    counts = [dict[str, int](getattr(row, field)) for _, row in groups]
    totals = [row.images for _, row in groups]
    values = list(counts[0])
    cells = []
    for value in values[:_MOST_VALUES]:
        shares = [_stacked(found.get(value, 0), total) for found, total in zip(counts, totals, strict=True)]
        cells.append((value or "not stated", *shares))
    rest = values[_MOST_VALUES:]
    if rest:
        sums = [sum(found.get(value, 0) for value in rest) for found in counts]
        others = [_stacked(part, total) for part, total in zip(sums, totals, strict=True)]
        cells.append((counted(len(rest), "other"), *others))
    columns = (Column(title=heading, is_wide=True), *(Column(title=title, align=_NUMBER) for title, _ in groups))
    return Table(name=name, caption=f"{heading} by {by}, in images.", columns=columns, rows=tuple(cells))


def _stacked(part: int, whole: int) -> str:
    return share(part, whole).replace(" (", "\n(")


def _findings(evaluation: Evaluation, chosen: list[FindingCount], name: str) -> Table:
    order = {step.stage: index for index, step in enumerate(evaluation.flow)}
    chosen = sorted(chosen, key=lambda item: (order.get(item.stage, len(order)), -item.count, item.code))
    columns = (
        Column(title="Code", is_code=True),
        Column(title="Step"),
        Column(title="Number", align=_NUMBER),
        Column(title="What it means", is_wide=True),
        Column(title="What can be done", is_wide=True),
    )
    rows = tuple(
        (
            item.code,
            vocabulary.stage(item.stage).action,
            f"{count(item.count)} {vocabulary.unit(item.unit, item.count)}",
            item.meaning,
            item.remedy,
        )
        for item in chosen
    )
    caption = "What was left out, by reason." if name == "findings-excluded" else "Remarks on what was kept."
    return Table(name=name, caption=caption, columns=columns, rows=rows)
