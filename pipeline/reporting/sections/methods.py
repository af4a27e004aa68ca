"""Section 3: the methods, from the configuration and from the records of training."""

from pipeline.core.results import Evaluation
from pipeline.reporting import vocabulary
from pipeline.reporting.blocks import Block, Column, Paragraph, Section, Table, not_evaluated
from pipeline.reporting.document import Report
from pipeline.reporting.formatting import capitalised, count, joined


def methods(report: Report) -> Section:
    """Give the methods text and how each strategy was set up."""
    lead = "Generated from the configuration and the records of training; nothing here is written by hand."
    blocks: list[Block] = [Paragraph(lead=item.heading, text=item.text) for item in report.text.methods]
    if not blocks:
        blocks.append(not_evaluated("no methods text was given."))
    blocks.append(_strategies(report.evaluation))
    return Section(name="methods", title="Methods", lead=lead, blocks=tuple(blocks))


def _strategies(evaluation: Evaluation) -> Block:
    trained = [result for result in evaluation.strategies if result.training]
    if not trained:
        return not_evaluated("no record of training was found.")
    columns = (
        Column(title="Strategy", is_wide=True),
        Column(title="Network"),
        Column(title="Start"),
        Column(title="Trained parameters", align="right"),
        Column(title="Frozen parameters", align="right"),
        Column(title="Input, pixels", align="right"),
    )
    rows = []
    for result in trained:
        first = result.training[0]
        start = joined([capitalised(name) for name in sorted({item.weights_source for item in result.training})])
        size = f"{first.image_size} × {first.image_size}"
        parameters = (count(first.trained_parameters), count(first.frozen_parameters))
        rows.append((vocabulary.strategy(evaluation, result.strategy), first.backbone, start, *parameters, size))
    return Table(name="strategies", caption="Strategies trained.", columns=columns, rows=tuple(rows))
