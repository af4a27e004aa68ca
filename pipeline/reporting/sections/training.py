"""Sections on how the networks were trained, and what starting from trained weights gained."""

from functools import partial

from pipeline.core.records import TrainingSummary
from pipeline.core.results import Comparison, Evaluation, StrategyResult
from pipeline.reporting import vocabulary
from pipeline.reporting.blocks import (
    Block,
    Callout,
    Column,
    Facts,
    Figure,
    Figures,
    Footnotes,
    Heading,
    Section,
    Table,
    not_evaluated,
)
from pipeline.reporting.document import Report
from pipeline.reporting.figures.intervals import Row, draw_intervals
from pipeline.reporting.figures.performance import draw_roc
from pipeline.reporting.figures.training import draw_losses, draw_validation_auroc
from pipeline.reporting.formatting import (
    MISSING,
    confidence,
    count,
    decimal,
    duration,
    joined,
)
from pipeline.reporting.sections.pace import other_source, pace
from pipeline.reporting.sections.summary import transfer_verdict

_NUMBER = "right"


def training(report: Report) -> Section:
    """Show the course of training in every fold for every strategy."""
    lead = (
        "How training went. Validation is the inner part of each fold's training patients; the mark on each line is "
        "the epoch whose weights were used. Curves that differ much between folds ask for caution."
    )
    blocks: list[Block] = []
    for result in report.evaluation.strategies:
        name = vocabulary.strategy(report.evaluation, result.strategy)
        blocks.append(Heading(text=name))
        blocks += _course(result, name)
    return Section(name="training", title="Training", lead=lead, blocks=tuple(blocks))


def transfer(report: Report) -> Section:
    """Hold the strategies against each other on the same patients."""
    evaluation = report.evaluation
    lead = (
        "Every strategy was trained and tested on the same folds, so each difference is taken patient by patient; its "
        "interval can be narrow even where the intervals of the two strategies overlap."
    )
    blocks: list[Block] = []
    verdict = transfer_verdict(evaluation)
    blocks.append(verdict)
    if len(evaluation.strategies) < 2:
        blocks.append(not_evaluated("only one strategy was trained, so there is nothing to compare it with."))
    else:
        blocks += [Figures(figures=_comparison_figures(evaluation)), _side_by_side(evaluation)]
        blocks.append(_differences(evaluation) if evaluation.comparisons else _no_differences())
    blocks += pace(evaluation)
    blocks.append(Heading(text="Where the weights came from"))
    blocks += _weights(evaluation)
    blocks += other_source(evaluation)
    return Section(name="transfer", title="Transfer", lead=lead, blocks=tuple(blocks))


def _no_differences() -> Callout:
    return not_evaluated("paired differences were not computed.")


def _course(result: StrategyResult, name: str) -> list[Block]:
    blocks: list[Block] = []
    best = {item.fold: item.best_epoch for item in result.training}
    if result.history:
        loss = Figure(
            name=f"loss-{_slug(result.strategy)}",
            caption="Loss over the epochs: training (thin, dotted) and validation (solid).",
            alt=f"Loss curves, {name}. {_losses_in_words(result)}",
            draw=partial(draw_losses, result.history, best),
        )
        auroc = Figure(
            name=f"validation-auroc-{_slug(result.strategy)}",
            caption="AUROC by image on the inner validation part over the epochs.",
            alt=f"Validation AUROC curves, {name}. {_aurocs_in_words(result)}",
            draw=partial(draw_validation_auroc, result.history, best),
        )
        blocks.append(Figures(figures=(loss, auroc)))
    else:
        blocks.append(not_evaluated("this strategy has no epochs; its head is fitted in one step."))
    if result.training:
        blocks.append(_training_table(result))
    else:
        blocks.append(not_evaluated("no record of training was found."))
    return blocks


def _at_best(result: StrategyResult) -> list[tuple[int, int, float, float | None]]:
    """Give fold, best epoch, validation loss and validation AUROC there."""
    best = {item.fold: item.best_epoch for item in result.training}
    return [
        (item.fold, item.epoch, item.validation_loss, item.validation_auroc)
        for item in sorted(result.history, key=lambda item: item.fold)
        if best.get(item.fold) == item.epoch
    ]


def _losses_in_words(result: StrategyResult) -> str:
    told = [f"fold {fold + 1} {decimal(loss)} (epoch {epoch})" for fold, epoch, loss, _ in _at_best(result)]
    return f"Validation loss at the epoch used: {joined(told)}." if told else "No epoch is marked as used."


def _aurocs_in_words(result: StrategyResult) -> str:
    told = [f"fold {fold + 1} {decimal(auroc)} (epoch {epoch})" for fold, epoch, _, auroc in _at_best(result)]
    return f"Validation AUROC at the epoch used: {joined(told)}." if told else "No epoch is marked as used."


def _training_table(result: StrategyResult) -> Table:
    return _epochs_table(result) if result.history else _fitted_table(result)


def _fitted_table(result: StrategyResult) -> Table:
    """List folds whose head was fitted in one step: what matters is which blocks' features it takes."""
    titles = ("Training", "Validation", "Test", "Time")
    columns = (
        Column(title="Fold", is_wide=True),
        Column(title="Features after", is_wide=True),
        *(Column(title=title, align=_NUMBER) for title in titles),
    )
    rows = tuple(
        (
            str(item.fold + 1), " + ".join(item.head_blocks) or MISSING, count(item.train_images),
            count(item.validation_images), count(item.test_images), duration(item.seconds),
        )
        for item in sorted(result.training, key=lambda item: item.fold)
    )  # fmt: skip
    return Table(
        name=f"training-{_slug(result.strategy)}",
        caption="Training by fold; the parts are counted in images. The head's penalty was chosen on "
        "each fold's validation part, and so were the blocks of layers whose pooled features it takes, unless the "
        "network is random.",
        columns=columns,
        rows=rows,
    )


def _epochs_table(result: StrategyResult) -> Table:
    at_best = {fold: (loss, auroc) for fold, _, loss, auroc in _at_best(result)}
    titles = ("Training", "Validation", "Test", "Epochs", "Epoch used", "Val. loss", "Val. AUROC", "Time")
    columns = (Column(title="Fold", is_wide=True), *(Column(title=title, align=_NUMBER) for title in titles))
    rows = []
    for item in sorted(result.training, key=lambda item: item.fold):
        loss, auroc = at_best.get(item.fold, (None, None))
        images = (count(item.train_images), count(item.validation_images), count(item.test_images))
        used = str(item.best_epoch) if item.best_epoch else MISSING
        rows.append(
            (
                str(item.fold + 1), *images, str(item.epochs), used, decimal(loss), decimal(auroc),
                duration(item.seconds),
            )
        )  # fmt: skip
    return Table(
        name=f"training-{_slug(result.strategy)}",
        caption="Training by fold; the parts are counted in images.",
        columns=columns,
        rows=tuple(rows),
    )


def _comparison_figures(evaluation: Evaluation) -> tuple[Figure, ...]:
    names = [vocabulary.strategy(evaluation, result.strategy) for result in evaluation.strategies]
    found = [evaluation.estimate(result.strategy, "patient", "auroc") for result in evaluation.strategies]
    rows = [
        Row(
            vocabulary.short_strategy(evaluation, result.strategy),
            item.value if item else None,
            item.low if item else None,
            item.high if item else None,
        )
        for result, item in zip(evaluation.strategies, found, strict=True)
    ]
    told = joined([f"{name}: {vocabulary.both_of(item)}" for name, item in zip(names, found, strict=True)])
    forest = Figure(
        name="strategies-auroc",
        caption="AUROC by patient of each strategy, mean of the folds, with intervals.",
        alt=f"AUROC by patient. {told}.",
        draw=partial(draw_intervals, rows, "AUROC", reference=0.5, colour_each=True),
    )
    with_curves = [result for result in evaluation.strategies if len(result.roc) == 1]
    if len(with_curves) != len(evaluation.strategies):
        return (forest,)
    curves = Figure(
        name="strategies-roc",
        caption="Receiver operating characteristics of the strategies, mean of the folds, by patient.",
        alt=f"ROC curves of the strategies. AUROC by patient: {told}.",
        draw=partial(draw_roc, [result.roc[0] for result in with_curves], [row.name for row in rows], None),
    )
    return (curves, forest)


def _side_by_side(evaluation: Evaluation) -> Table:
    metrics: tuple[str, ...] = ("auroc", "auprc", "sensitivity", "specificity")
    if evaluation.kind == "findings":
        metrics = ("auroc", "auprc")
    elif evaluation.positive_class is None:
        metrics = ("auroc", "auprc", "accuracy", "balanced_accuracy")
    columns = (
        Column(title="Strategy", is_wide=True),
        *(Column(title=vocabulary.metric(name).title, align=_NUMBER) for name in metrics),
        Column(title="Time, all folds", align=_NUMBER),
    )
    rows = tuple(
        (
            vocabulary.strategy(evaluation, result.strategy),
            *(vocabulary.stacked(evaluation.estimate(result.strategy, "patient", name)) for name in metrics),
            duration(sum(item.seconds for item in result.training)) if result.training else MISSING,
        )
        for result in evaluation.strategies
    )
    caption = "Strategies side by side, by patient, with intervals."
    return Table(name="strategies-side-by-side", caption=caption, columns=columns, rows=rows)


def _differences(evaluation: Evaluation) -> Table:
    columns = (
        Column(title="Strategy minus reference", is_wide=True),
        Column(title="Unit"),
        Column(title="Measure"),
        Column(title="Difference", align=_NUMBER),
        Column(title=confidence(evaluation.comparisons[0].confidence), align=_NUMBER),
        Column(title="Note"),
    )
    marks = Footnotes()
    chosen = [item for item in evaluation.comparisons if _is_shown(item, evaluation)]
    rows = tuple((*_difference_row(evaluation, item), marks.mark(item.method)) for item in chosen)
    return Table(
        name="paired-differences", caption="Paired differences on the same patients and folds.", columns=columns,
        rows=rows,
        notes=(
            "An interval that includes zero does not show a difference; it does not show that there is none either. "
            "The intervals are not adjusted for the number of comparisons.",
            marks.text(),
        ),
    )  # fmt: skip


def _is_shown(item: Comparison, evaluation: Evaluation) -> bool:
    """Of single findings, the areas by patient; the others stand in report.json."""
    metric, separator, _ = item.metric.partition(":")
    return evaluation.kind == "classes" or not separator or (metric, item.level) == ("auroc", "patient")


def _difference_row(evaluation: Evaluation, item: Comparison) -> tuple[str, ...]:
    pair = [vocabulary.short_strategy(evaluation, name) for name in (item.strategy, item.reference)]
    return (
        f"{pair[0]} − {pair[1].lower()}",
        item.level,
        vocabulary.metric(item.metric).title,
        *vocabulary.difference_of(item.metric, item.difference, item.low, item.high),
    )


def _weights(evaluation: Evaluation) -> list[Block]:
    seen: dict[tuple[str, str], tuple[TrainingSummary, list[str]]] = {}
    for result in evaluation.strategies:
        for item in result.training:
            _, users = seen.setdefault((item.weights_source, item.weights_sha256), (item, []))
            name = vocabulary.strategy(evaluation, result.strategy)
            if name not in users:
                users.append(name)
    blocks: list[Block] = []
    for item, users in seen.values():
        rows = [("Used by", joined(users, "and")), ("Source", vocabulary.weights(item.weights_source))]
        if item.weights_source != "random":
            rows += [
                ("File", item.weights_file or MISSING),
                ("SHA-256", item.weights_sha256 or MISSING),
                ("Licence", item.weights_licence or "not stated"),
            ]
        if item.inputs_normalised_by:
            rows.append(("Inputs normalised by", item.inputs_normalised_by))
        blocks.append(Facts(rows=tuple(rows)))
    return blocks or [not_evaluated("no record of training was found.")]


def _slug(strategy: str) -> str:
    return "".join(character if character.isascii() and character.isalnum() else "-" for character in strategy.lower())
