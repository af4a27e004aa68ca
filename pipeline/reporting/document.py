"""The report as one record: the evaluation's numbers, rounded, and the words that stand beside them.

``report.json`` holds this record; every other document is a pure function of it.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable
from typing import Any, Literal

from pipeline.core.records import BlankedRectangle, ReceiptLine, Record
from pipeline.core.results import Evaluation
from pipeline.reporting.sums import check_sums

SIGNIFICANT_DIGITS = 4
Status = Literal["Research use. Not a medical device."]
STATUS: Status = "Research use. Not a medical device."


class Setting(Record):
    """One key of the configuration, as used."""

    key: str
    value: str


class MethodParagraph(Record):
    """One paragraph of the methods, generated from the configuration."""

    heading: str
    text: str


class StudyText(Record):
    """What the configuration says about a study, in words; it holds no path and no identifier."""

    title: str
    question: str = ""
    data_source: str = ""
    limitations: tuple[str, ...] = ()
    is_synthetic: bool = False  # the built-in study's generated images
    is_split_by_site: bool = False  # whole sites were held out, not only patients
    methods: tuple[MethodParagraph, ...] = ()
    settings: tuple[Setting, ...] = ()


class CodedOption(Record):
    """A code of (0012,0064), De-identification Method Code Sequence, and what it means."""

    value: str
    meaning: str


class CleanedPlace(Record):
    """A rectangle that a rule blanked, and in how many images."""

    rule: str
    top: int
    left: int
    rows: int
    columns: int
    images: int


class Deidentification(Record):
    """What de-identification did, without any value of any file."""

    codes: tuple[CodedOption, ...] = ()
    receipt: tuple[ReceiptLine, ...] = ()
    cleaned: tuple[CleanedPlace, ...] = ()


class Report(Record):
    """Everything that the documents of a study are made from."""

    format: Literal["report 1"] = "report 1"
    status: Status = STATUS
    text: StudyText
    evaluation: Evaluation
    deidentification: Deidentification = Deidentification()


def cleaned_places(rectangles: Iterable[BlankedRectangle]) -> tuple[CleanedPlace, ...]:
    """Count the images of each rectangle, without saying which they are."""
    images = Counter((one.rule, one.top, one.left, one.rows, one.columns) for one in rectangles)
    return tuple(
        CleanedPlace(rule=rule, top=top, left=left, rows=rows, columns=columns, images=count)
        for (rule, top, left, rows, columns), count in sorted(images.items())
    )


def compose(evaluation: Evaluation, text: StudyText, deidentification: Deidentification | None = None) -> Report:
    """Join numbers and words to a report.

    Parameters
    ----------
    evaluation
        The study's results. Its sums are checked before anything is rounded.
    text
        The words; control characters in them are replaced by spaces.
    deidentification
        What de-identification did, if that is known.

    Returns
    -------
    Report
        With every floating-point number rounded to four significant digits, so that the documents do not
        depend on the last bits of a sum, which differ between processors.

    Raises
    ------
    ReportError
        If numbers that must add up do not.
    """
    check_sums(evaluation)
    done = deidentification or Deidentification()
    parts = {"text": text, "evaluation": evaluation, "deidentification": done}
    plain = _plain({name: part.model_dump() for name, part in parts.items()})
    return Report.model_validate(plain)


def as_bytes(report: Report) -> bytes:
    """Give the bytes of ``report.json`` (as `core.artefacts.write_document` writes them)."""
    return f"{report.model_dump_json(indent=1)}\n".encode()


def _plain(value: Any) -> Any:
    """Round numbers and clean texts at every depth."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_plain(item) for item in value)
    if isinstance(value, float):
        return float(f"{value:.{SIGNIFICANT_DIGITS}g}")
    return _printable(value) if isinstance(value, str) else value


def _printable(text: str) -> str:
    """Replace what has no shape or changes the shape of its neighbours (controls, direction overrides)."""
    return "".join(" " if unicodedata.category(character) in {"Cc", "Cf", "Cs"} else character for character in text)
