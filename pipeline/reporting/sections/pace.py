"""What transfer saves: epochs to the score that a random start reaches; and how to start from somewhere else."""

from pipeline.core.results import Evaluation, StrategyResult
from pipeline.reporting import vocabulary
from pipeline.reporting.blocks import Block, Callout, Column, Table
from pipeline.reporting.formatting import MISSING, decimal

EMBEDDED = "phantom"


def pace(evaluation: Evaluation) -> list[Block]:
    """Give a table of the epochs to the same score, fold by fold; nothing if there is no random start to compare with.

    The score is the AUROC by image on the inner validation part: that of the test part is known for one epoch only.
    """
    main = vocabulary.own(evaluation)
    others = [item for item in evaluation.strategies if vocabulary.is_random(item) and item.history]
    if vocabulary.is_random(main) or not main.history or not others:
        return []
    reference = others[0]
    rows = [_row(main, reference, fold) for fold in sorted({item.fold for item in reference.history})]
    name, other = (vocabulary.short_strategy(evaluation, item.strategy) for item in (main, reference))
    columns = (
        Column(title="Fold", is_wide=True),
        Column(title=f"Best of: {other.lower()}", align="right"),
        Column(title="In its epoch", align="right"),
        Column(title=f"{name}: as good in epoch", align="right"),
    )
    reached = [int(row[3]) for row in rows if row[3].isdecimal()]
    note = f"{name} was as good in {len(reached)} of {len(rows)} folds"
    if reached:
        epochs = [int(row[2]) for row, found in zip(rows, [row[3] for row in rows], strict=True) if found.isdecimal()]
        mean, own = sum(reached) / len(reached), sum(epochs) / len(epochs)
        note += f", there after {decimal(mean, 1)} epochs in the mean instead of {decimal(own, 1)}"
    caption = "Epochs to the same score: AUROC by image on the inner validation part of each fold."
    return [Table(name="epochs-to-same-score", caption=caption, columns=columns, rows=tuple(rows), notes=(f"{note}.",))]


def other_source(evaluation: Evaluation) -> list[Block]:
    """Say, where the weights are those of this software, what they are and how to start from ImageNet."""
    used = {item.weights_source for result in evaluation.strategies for item in result.training}
    if EMBEDDED not in used:
        return []
    text = (
        "These weights were made for the built-in study and are no substitute for ImageNet on patients. To start from "
        "ImageNet instead, change one line of the configuration, “weights: phantom” in the section “train”, to "
        "“weights: imagenet”; “python -m pipeline doctor” says where the file has to be."
    )
    return [Callout(tone="note", title="Another source takes one line", text=(text,))]


def _row(main: StrategyResult, reference: StrategyResult, fold: int) -> tuple[str, str, str, str]:
    course = [(item.validation_auroc, -item.epoch) for item in reference.history if item.fold == fold]
    known = [(value, epoch) for value, epoch in course if value is not None]
    if not known:
        return str(fold + 1), MISSING, MISSING, MISSING
    best, epoch = max(known)
    reached = sorted(
        item.epoch
        for item in main.history
        if item.fold == fold and item.validation_auroc is not None and item.validation_auroc >= best
    )
    return str(fold + 1), decimal(best), str(-epoch), str(reached[0]) if reached else "never"
