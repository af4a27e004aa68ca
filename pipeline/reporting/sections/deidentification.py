"""Section on de-identification: what was done to which attributes, in which pixels, and what was kept out."""

from collections import Counter, defaultdict

from pipeline.core.records import ReceiptLine
from pipeline.core.results import FindingCount
from pipeline.reporting.blocks import Block, Column, Facts, Heading, Paragraph, Section, Table, not_evaluated
from pipeline.reporting.document import CleanedPlace, Deidentification, Report
from pipeline.reporting.formatting import count, counted

_MOST_NAMED = 12  # attributes of one action
_MOST_PLACES = 30
# In words of the receipt; strongest first.
_MEANING = {
    "removed": "The element is not in the file any more.",
    "content item removed": "An item of a report's content went as a whole.",
    "emptied": "The element is there, without a value.",
    "dummy": "A value that says nothing stands in its place.",
    "pseudonym": "The patient's pseudonym stands in its place.",
    "keyed UID": "Another UID stands in its place, the same one for the same original.",
    "moved": "The date moved by the patient's own secret number of days.",
    "age limited": "Ages above 89 years are stated as 90.",
    "cleaned": "Only words of the vocabulary, or terms of the standard, are left of the text.",
    "kept": "The value is what it was: it has no form in which it could name anybody.",
}
_STAGE = "deidentify"


def deidentification(report: Report) -> Section:
    """Say what was done to make the files that this study is about."""
    done = report.deidentification
    lead = (
        "What was done to the files before anything else looked at them: a receipt without any value of any file. The "
        "whole of it, attribute by attribute, is receipt.tsv beside the results; the rules stand in "
        "docs/deidentification.md."
    )
    blocks: list[Block] = []
    if done.receipt:
        blocks += [_method(done), _actions(done.receipt)]
    else:
        blocks.append(not_evaluated("no receipt was handed over."))
    blocks.append(Heading(text="Pixels"))
    if done.cleaned:
        blocks.append(_places(done.cleaned))
    else:
        blocks.append(Paragraph(text="No pixels were overwritten."))
    blocks.append(Heading(text="Kept out"))
    findings = [one for one in report.evaluation.findings if one.stage == _STAGE and one.severity == "excluded"]
    blocks.append(_kept_out(findings) if findings else Paragraph(text="Nothing was kept out by this step."))
    return Section(name="deidentification", title="Receipt of de-identification", lead=lead, blocks=tuple(blocks))


def _method(done: Deidentification) -> Facts:
    attributes = len({(line.tag, line.keyword) for line in done.receipt})
    elements = sum(line.elements for line in done.receipt)
    rows = [(f"DCM {code.value}", code.meaning) for code in done.codes]
    return Facts(rows=(*rows, ("Treated", f"{counted(elements, 'element')} of {counted(attributes, 'attribute')}")))


def _actions(receipt: tuple[ReceiptLine, ...]) -> Table:
    """Give a row for each action, with the attributes that it was done to most often."""
    by_action: dict[str, Counter[str]] = defaultdict(Counter)
    for line in receipt:
        by_action[line.action][line.keyword or line.tag] += line.elements
    order = list(_MEANING)
    actions = sorted(by_action, key=lambda word: (order.index(word) if word in order else len(order), word))
    columns = (
        Column(title="What was done"),
        Column(title="Attributes", align="right"),
        Column(title="Elements", align="right"),
        Column(title="To which attributes, the most frequent first", is_wide=True),
    )
    rows = tuple(
        (word, count(len(by_action[word])), count(by_action[word].total()), _named(by_action[word])) for word in actions
    )
    notes = tuple(f"{word}: {_MEANING[word]}" for word in actions if word in _MEANING)
    caption = "What was done to how many elements. PRIVATE stands for all private attributes."
    return Table(name="deidentification-actions", caption=caption, columns=columns, rows=rows, notes=notes)


def _named(attributes: Counter[str]) -> str:
    names = sorted(attributes, key=lambda name: (-attributes[name], name))
    shown, rest = names[:_MOST_NAMED], len(names) - _MOST_NAMED
    return ", ".join(shown) + (f" and {counted(rest, 'other')}" if rest > 0 else "")


def _places(cleaned: tuple[CleanedPlace, ...]) -> Table:
    columns = (
        Column(title="Rule", is_code=True),
        *(Column(title=title, align="right") for title in ("Top", "Left", "Rows", "Columns", "Images")),
    )
    shown = sorted(cleaned, key=lambda one: (one.rule, -one.images, one.top, one.left, one.rows, one.columns))
    rows = tuple(
        (one.rule, *map(count, (one.top, one.left, one.rows, one.columns, one.images))) for one in shown[:_MOST_PLACES]
    )
    rest = len(shown) - _MOST_PLACES
    notes = (f"{counted(rest, 'other rectangle')} in fewer images.",) if rest > 0 else ()
    caption = "Rectangles that were overwritten, in pixels from the upper left corner."
    return Table(name="deidentification-pixels", caption=caption, columns=columns, rows=rows, notes=notes)


def _kept_out(findings: list[FindingCount]) -> Table:
    columns = (
        Column(title="Code", is_code=True),
        Column(title="Number", align="right"),
        Column(title="What it means", is_wide=True),
    )
    ordered = sorted(findings, key=lambda one: (-one.count, one.code))
    rows = tuple((one.code, count(one.count), one.meaning) for one in ordered)
    caption = "Why images were kept out by this step."
    return Table(name="deidentification-kept-out", caption=caption, columns=columns, rows=rows)
