"""Sections on a study of several findings: a row, a panel, a line for each, and the means over all."""

from collections.abc import Sequence
from functools import partial

from pipeline.core.results import Calibration, Evaluation, FindingResult
from pipeline.reporting import vocabulary
from pipeline.reporting.blocks import Block, Column, Figure, Figures, Heading, Paragraph, Table, not_evaluated
from pipeline.reporting.figures.findings import MOST_PANELS, draw_calibration_panels, draw_roc_panels
from pipeline.reporting.figures.intervals import Row, draw_intervals
from pipeline.reporting.formatting import (
    MISSING,
    count,
    counted,
    decimal,
    interval,
    joined,
    percent,
)

_NUMBER = "right"
_MEAN = "Mean of the findings"
_ELSEWHERE = "All other numbers of each finding, by image and by fold, stand in estimates.tsv and report.json."


def discrimination_blocks(evaluation: Evaluation) -> list[Block]:
    """Give the forests of all findings, their ROC panels, and a table."""
    result = vocabulary.own(evaluation)
    blocks: list[Block] = [Figures(figures=(_forest(evaluation, "auroc", 0.5), _forest(evaluation, "auprc", None)))]
    if result.roc:
        blocks.append(Figures(figures=(_roc_panels(evaluation),), is_wide=True))
    else:
        blocks.append(not_evaluated("no curve was computed."))
    return [*blocks, _discrimination_table(evaluation)]


def decision_blocks(evaluation: Evaluation) -> list[Block]:
    """Give sensitivity, specificity and counts of each finding, and predictive values at other prevalences."""
    return [
        _decisions(evaluation),
        _counts(vocabulary.own(evaluation).findings),
        Heading(text="If the findings were rarer or more frequent"),
        _predictive_values(vocabulary.own(evaluation).findings),
        _thresholds(evaluation),
    ]


def calibration_blocks(found: Sequence[Calibration]) -> list[Block]:
    """Give a reliability diagram for each finding, and how each fold's probabilities were corrected."""
    drawn = [item for item in found if item.bins][:MOST_PANELS]
    blocks: list[Block] = []
    if drawn:
        told = "; ".join(
            f"{item.class_name}: "
            + joined([f"{percent(part.observed_fraction)} at {percent(part.predicted_mean)}" for part in item.bins])
            for item in drawn
        )
        figure = Figure(
            name="calibration",
            caption="Observed over predicted frequency of each finding; bins of equal numbers of patients, bars are "
            f"95 % Wilson intervals.{_more(len(found))}",
            alt=f"Reliability diagrams, observed at predicted frequency. {told}.",
            draw=partial(draw_calibration_panels, drawn),
        )
        blocks.append(Figures(figures=(figure,), is_wide=True))
    else:
        blocks.append(not_evaluated("too few patients for a reliability diagram."))
    return blocks


def corrections_table(found: Sequence[Calibration]) -> Table:
    """Tell temperature and offset of each finding in each fold."""
    folds = len(found[0].fold_temperatures)
    columns = (
        Column(title="Finding", is_wide=True),
        *(Column(title=f"Fold {fold + 1}", align=_NUMBER) for fold in range(folds)),
    )
    rows = tuple(
        (
            item.class_name,
            *(
                f"{decimal(temperature, 2)}\n{decimal(offset, 2)}"
                for temperature, offset in zip(item.fold_temperatures, item.fold_offsets, strict=True)
            ),
        )
        for item in found
    )
    return Table(
        name="calibration-by-fold", columns=columns, rows=rows,
        caption="How each fold's probabilities were corrected: temperature above, offset below.",
        notes=(
            "The network's output (logit) for a finding was divided by the temperature and the offset was added; both "
            "were fitted on the fold's inner validation part. No correction: temperature 1, offset 0.",
        ),
    )  # fmt: skip


def extremes(evaluation: Evaluation) -> tuple[str, str] | None:
    """Name the findings with the lowest and the highest AUROC by patient; None if fewer than two have one."""
    name = vocabulary.own(evaluation).strategy
    found = [(evaluation.estimate(name, "patient", f"auroc:{finding}"), finding) for finding in evaluation.classes]
    known = [(item.value, finding) for item, finding in found if item is not None and item.value is not None]
    if len(known) < 2:
        return None
    return min(known)[1], max(known)[1]


def _forest(evaluation: Evaluation, metric: str, reference: float | None) -> Figure:
    name = vocabulary.own(evaluation).strategy
    title = vocabulary.metric(metric).title
    named = [(_MEAN, metric), *((finding, f"{metric}:{finding}") for finding in evaluation.classes)]
    found = [(words, evaluation.estimate(name, "patient", key)) for words, key in named]
    rows = [
        Row(words, item.value if item else None, item.low if item else None, item.high if item else None, place == 0)
        for place, (words, item) in enumerate(found)
    ]
    told = joined([f"{row.name} {decimal(row.value)} ({interval(row.low, row.high)})" for row in rows])
    return Figure(
        name=f"findings-{metric}",
        caption=f"{title} by patient, mean of the folds: of each finding (dots), over all (diamond), with intervals.",
        alt=f"{title} by patient with its interval. {told}.",
        draw=partial(draw_intervals, rows, title, reference=reference),
    )


def _roc_panels(evaluation: Evaluation) -> Figure:
    result = vocabulary.own(evaluation)
    curves = result.roc[:MOST_PANELS]
    points = [_rates(evaluation, curve.class_name) for curve in curves]
    level = percent(result.estimates[0].confidence if result.estimates else 0.95, 0)
    told = [
        f"{curve.class_name}, AUROC "
        f"{vocabulary.both_of(evaluation.estimate(result.strategy, 'patient', f'auroc:{curve.class_name}'))}"
        for curve in curves
    ]
    return Figure(
        name="roc",
        caption="Receiver operating characteristic of each finding, mean of the folds, by patient. The band holds "
        f"{level} of the bootstrap replicates at each point; circles are operating points.{_more(len(result.roc))}",
        alt=f"ROC curves. {joined(told)}.",
        draw=partial(draw_roc_panels, curves, points),
    )


def _rates(evaluation: Evaluation, finding: str) -> tuple[float, float] | None:
    """Give false and true positive rate at a finding's operating point."""
    name = vocabulary.own(evaluation).strategy
    found = [evaluation.estimate(name, "patient", f"{metric}:{finding}") for metric in ("specificity", "sensitivity")]
    values = [item.value for item in found if item is not None and item.value is not None]
    return (1 - values[0], values[1]) if len(values) == 2 else None


def _discrimination_table(evaluation: Evaluation) -> Table:
    name = vocabulary.own(evaluation).strategy
    columns = (
        Column(title="Finding", is_wide=True),
        *(Column(title=title, align=_NUMBER) for title in ("With", "Without", "Unknown")),
        *(Column(title=title, align=_NUMBER) for title in ("AUROC", "Average precision")),
    )
    metrics = ("auroc", "auprc")
    means = [vocabulary.stacked(evaluation.estimate(name, "patient", metric)) for metric in metrics]
    rows = [(_MEAN, MISSING, MISSING, MISSING, *means)]
    rows += [
        (
            item.name,
            *map(count, (item.patients_present, item.patients_absent, item.patients_unknown)),
            *(vocabulary.stacked(evaluation.estimate(name, "patient", f"{one}:{item.name}")) for one in metrics),
        )
        for item in vocabulary.own(evaluation).findings
    ]
    return Table(
        name="findings", caption="Discrimination of each finding, mean of the folds, by patient, with intervals.",
        columns=columns, rows=tuple(rows), strong_rows=(0,),
        notes=(
            "Patients with the finding in at least one image, without it in all images of which it is known, and of "
            "whom it is unknown; the last count neither in training nor here. Guessing gives an average precision of "
            "the prevalence, so it cannot be compared between findings. The mean gives every finding the same weight; "
            "its interval draws patients with all their findings.",
            _ELSEWHERE,
        ),
    )  # fmt: skip


def _decisions(evaluation: Evaluation) -> Table:
    name = vocabulary.own(evaluation).strategy
    metrics = ("sensitivity", "specificity", "ppv", "npv")
    columns = (
        Column(title="Finding", is_wide=True),
        *(Column(title=vocabulary.metric(metric).title, align=_NUMBER) for metric in metrics),
    )
    rows = tuple(
        (
            finding,
            *(vocabulary.stacked(evaluation.estimate(name, "patient", f"{metric}:{finding}")) for metric in metrics),
        )
        for finding in evaluation.classes
    )
    told = " ".join(f"{vocabulary.metric(one).title}: {vocabulary.metric(one).meaning}." for one in metrics)
    return Table(
        name="decisions", caption="Decisions about each finding at its operating point, by patient, with intervals.",
        columns=columns, rows=rows, notes=(told,),
    )  # fmt: skip


def _counts(findings: Sequence[FindingResult]) -> Table:
    titles = ("Present, called", "Present, missed", "Absent, called", "Absent, not called", "Patients")
    columns = (Column(title="Finding", is_wide=True), *(Column(title=title, align=_NUMBER) for title in titles))
    rows = []
    for item in findings:
        (true_negative, false_positive), (false_negative, true_positive) = item.operating_point.confusion
        numbers = (true_positive, false_negative, false_positive, true_negative)
        rows.append((item.name, *map(count, numbers), count(sum(numbers))))
    return Table(
        name="confusion-matrix", caption="The same decisions in numbers of patients.", columns=columns,
        rows=tuple(rows),
    )  # fmt: skip


def _predictive_values(findings: Sequence[FindingResult]) -> Block:
    asked = sorted({value.prevalence for item in findings for value in item.operating_point.predictive_values})
    if not asked:
        return not_evaluated("no prevalences were asked for, or sensitivity and specificity are not defined.")
    columns = (
        Column(title="Finding", is_wide=True),
        *(Column(title=f"At {percent(prevalence)}", align=_NUMBER) for prevalence in asked),
    )
    rows = []
    for item in findings:
        at = {value.prevalence: value for value in item.operating_point.predictive_values}
        cells = [f"{percent(at[one].positive)}\n{percent(at[one].negative)}" if one in at else MISSING for one in asked]
        rows.append((item.name, *cells))
    return Table(
        name="predictive-values", columns=columns, rows=tuple(rows),
        caption="Predictive values at other prevalences: positive above, negative below.",
        notes=("By Bayes' rule; it assumes that sensitivity and specificity stay the same, which they may not.",),
    )  # fmt: skip


def _thresholds(evaluation: Evaluation) -> Paragraph:
    told = [
        f"{item.name} {joined([decimal(value, 2) for value in item.operating_point.thresholds])}"
        for item in vocabulary.own(evaluation).findings
    ]
    return Paragraph(lead="Thresholds", text=f"On the calibrated probability, fold after fold: {'; '.join(told)}.")


def _more(number: int) -> str:
    more = number - MOST_PANELS
    return f" {counted(more, 'more finding')} in report.json." if more > 0 else ""
