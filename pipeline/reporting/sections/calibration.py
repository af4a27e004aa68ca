"""Section 6: whether the probabilities of the study's own strategy are to be believed."""

from functools import partial

from pipeline.core.results import Calibration
from pipeline.reporting import vocabulary
from pipeline.reporting.blocks import Block, Column, Figure, Figures, Paragraph, Section, Table, not_evaluated
from pipeline.reporting.document import Report
from pipeline.reporting.figures.performance import draw_calibration
from pipeline.reporting.formatting import capitalised, counted, decimal, percent, sentence
from pipeline.reporting.sections.findings import calibration_blocks, corrections_table

_NUMBER = "right"
_MOST_OFFSETS = 5  # columns


def calibration(report: Report) -> Section:
    """Show whether predicted probabilities are observed frequencies."""
    evaluation = report.evaluation
    found = vocabulary.own(evaluation).calibration
    lead = (
        "Whether a predicted probability means what it says: of patients given 30 %, about 30 in 100 should have the "
        "finding. On the dotted line this is so; below it the network claims too much, above it too little."
    )
    if not found:
        reason = "calibration was not computed for this study."
        return Section(name="calibration", title="Calibration", lead=lead, blocks=(not_evaluated(reason),))
    is_findings = evaluation.kind == "findings"
    blocks = calibration_blocks(found) if is_findings else _figures(found)
    blocks.append(_calibration_table(found, "Finding" if is_findings else "Class"))
    if any(item.fold_temperatures for item in found):
        blocks.append(corrections_table(found) if is_findings else _corrections_table(found))
    blocks += [Paragraph(lead=item.class_name, text=sentence(capitalised(item.note))) for item in found if item.note]
    return Section(name="calibration", title="Calibration", lead=lead, blocks=tuple(blocks))


def _figures(found: tuple[Calibration, ...]) -> list[Block]:
    figures = [_calibration_figure(item, index) for index, item in enumerate(found) if item.bins]
    pairs = [figures[start : start + 2] for start in range(0, len(figures), 2)]
    if not figures:
        return [not_evaluated("too few patients for a reliability diagram.")]
    return [Figures(figures=tuple(pair)) for pair in pairs]


def _calibration_figure(item: Calibration, index: int) -> Figure:
    told = "; ".join(
        f"predicted {percent(part.predicted_mean)}, observed {percent(part.observed_fraction)} "
        f"of {counted(part.patients, 'patient')}"
        for part in item.bins
    )
    return Figure(
        name="calibration" if index == 0 else f"calibration-{index + 1}",
        caption=f"Observed over predicted frequency of {item.class_name}; bins of equal numbers of patients, "
        "bars are 95 % Wilson intervals.",
        alt=f"Reliability diagram for {item.class_name}: {told}.",
        draw=partial(draw_calibration, item),
    )


def _calibration_table(found: tuple[Calibration, ...], what: str) -> Table:
    titles = ("Slope", "Intercept", "Brier score", "ECE")
    columns = (
        Column(title=what, is_wide=True),
        *(Column(title=title, align=_NUMBER) for title in titles),
    )
    rows = tuple(
        (
            item.class_name,
            decimal(item.slope, 2),
            decimal(item.intercept, 2),
            decimal(item.brier),
            decimal(item.expected_error),
        )
        for item in found
    )
    return Table(
        name="calibration", caption="Measures of calibration.", columns=columns, rows=rows,
        notes=(
            "Perfect: slope 1, intercept 0. Brier score: mean squared error of the probability; 0 is perfect. ECE: "
            "expected calibration error, the mean distance from the dotted line over the bins.",
        ),
    )  # fmt: skip


def _corrections_table(found: tuple[Calibration, ...]) -> Table:
    complete = [item for item in found if len(item.fold_offsets) == len(found[0].fold_temperatures)]
    with_offsets = complete if len(complete) <= _MOST_OFFSETS else []  # all of them stand in report.json
    columns = (
        Column(title="Fold", is_wide=True),
        Column(title="Temperature", align=_NUMBER),
        *(Column(title=f"Offset, {item.class_name}", align=_NUMBER) for item in with_offsets),
    )
    rows = tuple(
        (str(fold + 1), decimal(temperature, 2), *(decimal(item.fold_offsets[fold], 2) for item in with_offsets))
        for fold, temperature in enumerate(found[0].fold_temperatures)
    )
    return Table(
        name="calibration-by-fold", caption="How each fold's probabilities were corrected.", columns=columns, rows=rows,
        notes=(
            "The network's outputs (logits) were divided by the temperature and the offset was added; both were fitted "
            "on the fold's inner validation part. No correction: temperature 1, offset 0.",
        ),
    )  # fmt: skip
