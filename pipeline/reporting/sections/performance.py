"""Sections on how well the study's own strategy does: discrimination and decisions."""

from functools import partial
from itertools import chain

from pipeline.core.records import Estimate
from pipeline.core.results import Evaluation, OperatingPoint
from pipeline.reporting import vocabulary
from pipeline.reporting.blocks import (
    Block,
    Column,
    Figure,
    Figures,
    Footnotes,
    Heading,
    Paragraph,
    Section,
    Table,
    not_evaluated,
)
from pipeline.reporting.document import Report
from pipeline.reporting.figures.intervals import Row, draw_intervals
from pipeline.reporting.figures.performance import (
    MOST_BANDS,
    draw_confusion,
    draw_precision_recall,
    draw_roc,
)
from pipeline.reporting.formatting import (
    confidence,
    count,
    counted,
    decimal,
    interval,
    joined,
    percent,
)
from pipeline.reporting.sections.findings import decision_blocks, discrimination_blocks

_NUMBER = "right"
_MOST_NAMED_COLUMNS = 5
_MOST_CURVES = 7  # that can be told apart in one figure
_RANKING = ("auroc", "auprc")
_DECISIONS = ("sensitivity", "specificity", "ppv", "npv", "accuracy", "balanced_accuracy")


def discrimination(report: Report) -> Section:
    """Show how well the scores separate the classes."""
    evaluation = report.evaluation
    result = vocabulary.own(evaluation)
    lead = (
        "How well the network's scores separate the classes, whatever threshold is chosen. The patient is the unit "
        "unless the table says otherwise: intervals resample whole patients."
    )
    blocks: list[Block] = []
    if evaluation.kind == "findings":
        blocks += discrimination_blocks(evaluation)
    elif result.roc:
        pair = [_roc_figure(evaluation)]
        if result.precision_recall:
            pair.append(_precision_recall_figure(evaluation))
        blocks.append(Figures(figures=tuple(pair)))
    else:
        blocks.append(not_evaluated("no curve was computed."))
    caption = "Discrimination over all folds."
    chosen = [item for item in result.estimates if item.fold is None and _base(item) not in _DECISIONS]
    if evaluation.kind == "findings":
        caption = "Means over the findings, all folds."
        chosen = [item for item in chosen if ":" not in item.metric]  # those of each finding stand above
    blocks.append(_estimates(chosen, "discrimination", caption) if chosen else _no_estimates())
    blocks += _by_fold(evaluation)
    return Section(name="discrimination", title="Discrimination", lead=lead, blocks=tuple(blocks))


def operating_point(report: Report) -> Section:
    """Show the decisions at the thresholds chosen on inner data."""
    evaluation = report.evaluation
    result = vocabulary.own(evaluation)
    lead = (
        f"What happens when scores become decisions. Rule: {vocabulary.rule_of(evaluation)}. Nothing was chosen on the "
        "patients who are counted here."
    )
    if evaluation.kind == "findings":
        blocks = decision_blocks(evaluation)
        return Section(name="operating-point", title="Operating points", lead=lead, blocks=tuple(blocks))
    point = vocabulary.point_of(result)
    figure = Figure(
        name="confusion-matrix",
        caption="Decisions about patients. Each row sums to all patients of a class; percentages are of the row.",
        alt=_confusion_in_words(evaluation.classes, point),
        draw=partial(draw_confusion, point, evaluation.classes),
    )
    chosen = [item for item in result.estimates if item.fold is None and _base(item) in _DECISIONS]
    blocks = [Figures(figures=(figure,)), _confusion_table(evaluation.classes, point)]
    blocks.append(_estimates(chosen, "decisions", "Decisions at the operating point.") if chosen else _no_estimates())
    blocks.append(Heading(text="If the finding were rarer or more frequent"))
    blocks.append(_predictive_values(evaluation, point))
    if point.thresholds:
        listed = joined([f"{decimal(value)} in fold {fold + 1}" for fold, value in enumerate(point.thresholds)])
        blocks.append(Paragraph(lead="Thresholds", text=f"On the calibrated probability: {listed}."))
    return Section(name="operating-point", title="Operating point", lead=lead, blocks=tuple(blocks))


def _base(estimate: Estimate) -> str:
    return estimate.metric.partition(":")[0]


def _no_estimates() -> Block:
    return not_evaluated("no estimate was computed.")


def _operating_rates(evaluation: Evaluation) -> tuple[float, float] | None:
    """Give false and true positive rate at the operating point of a study with two classes."""
    name = vocabulary.own(evaluation).strategy
    found = [evaluation.estimate(name, "patient", metric) for metric in ("specificity", "sensitivity")]
    values = [item.value for item in found if item is not None and item.value is not None]
    return (1 - values[0], values[1]) if len(values) == 2 and evaluation.positive_class else None


def _roc_figure(evaluation: Evaluation) -> Figure:
    result = vocabulary.own(evaluation)
    chosen = result.roc[:_MOST_CURVES]
    names = [curve.class_name for curve in chosen]
    auroc = evaluation.estimate(result.strategy, "patient", "auroc")
    operating = _operating_rates(evaluation)
    point = ""
    if operating is not None:
        point = (
            f" At the operating point sensitivity is {percent(operating[1])}, specificity {percent(1 - operating[0])}."
        )
    has_band = len(names) <= MOST_BANDS and any(curve.low for curve in result.roc)
    level = percent(auroc.confidence if auroc else 0.95, 0)
    band = f" The band holds {level} of the bootstrap replicates at each point." if has_band else ""
    return Figure(
        name="roc",
        caption=f"Receiver operating characteristic, mean of the folds, by patient.{band}{_left_out(len(result.roc))}",
        alt=f"ROC curve for {joined(names)}. AUROC {vocabulary.both_of(auroc)}.{point}",
        draw=partial(draw_roc, chosen, names, operating),
    )


def _left_out(curves: int) -> str:
    more = curves - _MOST_CURVES
    return f" {counted(more, 'more curve')} in report.json." if more > 0 else ""


def _precision_recall_figure(evaluation: Evaluation) -> Figure:
    result = vocabulary.own(evaluation)
    chosen = result.precision_recall[:_MOST_CURVES]
    names = [curve.class_name for curve in chosen]
    guess = joined([percent(curve.prevalence) for curve in chosen])
    area = evaluation.estimate(result.strategy, "patient", "auprc")
    return Figure(
        name="precision-recall",
        caption="Precision over recall, mean of the folds, by patient. The dotted line is guessing (the prevalence)."
        f"{_left_out(len(result.precision_recall))}",
        alt=f"Precision-recall curve for {joined(names)}. Average precision {vocabulary.both_of(area)}; "
        f"guessing gives {guess}.",
        draw=partial(draw_precision_recall, chosen, names),
    )


def _estimates(chosen: list[Estimate], name: str, caption: str) -> Table:
    level = confidence(chosen[0].confidence)
    columns = (
        Column(title="Measure", is_wide=True),
        Column(title="Unit"),
        Column(title="Value", align=_NUMBER),
        Column(title=level, align=_NUMBER),
        Column(title="n", align=_NUMBER),
        Column(title="Note"),
    )
    chosen = sorted(chosen, key=lambda item: item.level != "patient")
    marks = Footnotes()
    rows = tuple(
        (
            vocabulary.overall_title(item.metric),
            item.level,
            vocabulary.value_of(item),
            vocabulary.interval_of(item),
            count(item.patients if item.level == "patient" else item.images),
            marks.mark(item.method, item.note),
        )
        for item in chosen
    )
    meanings = {_base(item): vocabulary.metric(_base(item)) for item in chosen}
    told = " ".join(f"{words.title}: {words.meaning}." for words in meanings.values() if words.meaning)
    notes = [text for text in (told, marks.text()) if text]
    return Table(name=name, caption=caption, columns=columns, rows=rows, notes=tuple(notes))


def _by_fold(evaluation: Evaluation) -> list[Block]:
    result = vocabulary.own(evaluation)
    blocks: list[Block] = [Heading(text="Fold by fold")]
    found = [item for item in result.estimates if item.fold is not None and item.level == "patient"]
    aurocs = sorted((item for item in found if item.metric == "auroc"), key=lambda item: item.fold or 0)
    if not aurocs:
        return [*blocks, not_evaluated("no estimate for single folds was computed.")]
    whole = evaluation.estimate(result.strategy, "patient", "auroc")
    summary = [Row("All folds", whole.value, whole.low, whole.high, is_summary=True)] if whole else []
    rows = [*summary, *(Row(f"Fold {(item.fold or 0) + 1}", item.value, item.low, item.high) for item in aurocs)]
    mean = ", mean of the findings" if evaluation.kind == "findings" else ""
    told = joined([f"{row.name} {decimal(row.value)} ({interval(row.low, row.high)})" for row in rows])
    figure = Figure(
        name="auroc-by-fold",
        caption=f"AUROC by patient{mean}: over all folds (diamond) and in each fold (dots), with intervals.",
        alt=f"AUROC by patient{mean} with its interval. {told}.",
        draw=partial(draw_intervals, rows, "AUROC", reference=0.5),
    )
    return [*blocks, Figures(figures=(figure,)), _fold_table(evaluation, found)]


def _fold_table(evaluation: Evaluation, found: list[Estimate]) -> Table:
    metrics = [name for name in (*_RANKING, *_DECISIONS) if any(item.metric == name for item in found)]
    by_key = {(item.fold, item.metric): item for item in found}
    columns = (
        Column(title="Fold"),
        Column(title="Patients", align=_NUMBER),
        Column(title="Images", align=_NUMBER),
        *(Column(title=vocabulary.metric(name).title, align=_NUMBER) for name in metrics),
    )
    rows = []
    for fold in range(evaluation.folds):
        first = next((item for item in found if item.fold == fold), None)
        if first is None:
            continue
        values = [vocabulary.stacked(by_key.get((fold, name))) for name in metrics]
        rows.append((str(fold + 1), count(first.patients), count(first.images), *values))
    return Table(
        name="folds", caption="Each fold's test part by itself, by patient.", columns=columns, rows=tuple(rows),
        notes=("Single folds hold few patients: their intervals are wide, and their spread is expected.",),
    )  # fmt: skip


def _confusion_in_words(classes: tuple[str, ...], point: OperatingPoint) -> str:
    told = [
        f"of {counted(sum(row), 'patient')} with {name}, "
        + joined([f"{count(number)} were called {called}" for called, number in zip(classes, row, strict=True)])
        for name, row in zip(classes, point.confusion, strict=True)
    ]
    return f"Confusion matrix: {'; '.join(told)}."


def _confusion_table(classes: tuple[str, ...], point: OperatingPoint) -> Table:
    called, names = [f"called {name}" for name in classes], list(classes)
    notes: tuple[str, ...] = ()
    if len(classes) > _MOST_NAMED_COLUMNS:
        called = [str(number) for number in range(1, len(classes) + 1)]
        names = [f"{number} {name}" for number, name in zip(called, classes, strict=True)]
        notes = ("The columns are the classes that the network called, numbered as the rows.",)
    columns = (
        Column(title="Truth", is_wide=True),
        *(Column(title=title, align=_NUMBER) for title in called),
        Column(title="Patients", align=_NUMBER),
    )
    rows = [(name, *map(count, row), count(sum(row))) for name, row in zip(names, point.confusion, strict=True)]
    sums = [sum(column) for column in zip(*point.confusion, strict=True)]
    rows.append(("all", *map(count, sums), count(sum(chain(*point.confusion)))))
    return Table(
        name="confusion-matrix", caption="The same decisions as a table.", columns=columns, rows=tuple(rows),
        strong_rows=(len(classes),), notes=notes,
    )  # fmt: skip


def _predictive_values(evaluation: Evaluation, point: OperatingPoint) -> Block:
    if evaluation.positive_class is None:
        return not_evaluated("predictive values at other prevalences are defined for two classes only.")
    if not point.predictive_values:
        return not_evaluated("no prevalences were asked for.")
    columns = (
        Column(title="Prevalence", align="left"),
        Column(title="Positive predictive value", align=_NUMBER),
        Column(title="Negative predictive value", align=_NUMBER),
        Column(title="In words", is_wide=True),
    )
    rows = tuple(
        (
            percent(item.prevalence),
            percent(item.positive),
            percent(item.negative),
            _in_words(item.positive, item.negative),
        )
        for item in point.predictive_values
    )
    return Table(
        name="predictive-values", columns=columns, rows=rows,
        caption="Predictive values that this sensitivity and specificity would give at other prevalences.",
        notes=("By Bayes' rule; it assumes that sensitivity and specificity stay the same, which they may not.",),
    )  # fmt: skip


def _in_words(positive: float | None, negative: float | None) -> str:
    if positive is None or negative is None:
        return "cannot be computed"
    return (
        f"Of 1000 positive calls {count(round(1000 * positive))} are right; "
        f"of 1000 negative calls {count(round(1000 * (1 - negative)))} miss a finding."
    )
