"""Texts and rendered reports for the tests of this folder."""

import pytest

from pipeline.core.records import BlankedRectangle, ReceiptLine
from pipeline.reporting.document import (
    CodedOption,
    Deidentification,
    MethodParagraph,
    Setting,
    StudyText,
    as_bytes,
    cleaned_places,
    compose,
)
from pipeline.reporting.render import render
from tests.reporting.synthetic_evaluation import make_evaluation

# Each would do something in HTML, typst, Markdown, a spreadsheet, Jinja2 or a terminal if it were not kept as text.
HOSTILE = (
    "<script>alert(1)</script>",
    '" onmouseover="alert(2) 肺炎 \ue000 \N{GRINNING FACE}',
    '#panic("typst") *bold* _it_ $x^2$ @ref \\u{41}',
    "](javascript:alert(3)) ![x](http://evil.example/x.png)",
    '=HYPERLINK("http://evil.example")',
    "{{ 7 * 7 }}{% raw %}",
    "\N{RIGHT-TO-LEFT OVERRIDE}gnp.exe\x07",
    "肺炎 & <b>",
)


def make_text(**changes):
    values = {
        "title": "Pneumonia on chest radiographs",
        "question": "Does a chest radiograph show pneumonia?",
        "data_source": "Chest radiographs of two sites, selected by the radiologist's report",
        "limitations": ("Labels come from reports, not from a second reading", "Children were not included"),
        "methods": (MethodParagraph(heading="Images", text="All files below one folder were read."),),
        "settings": (Setting(key="seed", value="20261121"), Setting(key="train.epochs", value="20")),
    }
    return StudyText(**{**values, **changes})


def make_deidentification(names=("StudyDate", "PatientName", "InstitutionName"), rule="acme"):
    """Give a receipt in which each action is done to some attributes."""
    actions = ("moved", "pseudonym", "removed", "kept", "keyed UID", "cleaned", "age limited", "dummy", "emptied")
    lines = [
        ReceiptLine(tag=f"(0008,{1000 + number:04d})", keyword=name, action=action, elements=10 * number + len(action))
        for number, name in enumerate(names)
        for action in actions
    ]
    more = [
        ReceiptLine(tag=f"(0018,{n:04d})", keyword=f"Attribute{n}", action="removed", elements=n) for n in range(1, 20)
    ]
    private = ReceiptLine(tag="PRIVATE", keyword="", action="removed", elements=900)
    rectangles = [
        BlankedRectangle(sop_uid=f"2.25.{number}", rule=rule, top=0, left=left, rows=60, columns=1024)
        for number in range(7)
        for left in (0, number)
    ]
    return Deidentification(
        codes=(CodedOption(value="113100", meaning="Basic Application Confidentiality Profile"),),
        receipt=(*lines, *more, private),
        cleaned=cleaned_places(rectangles),
    )


@pytest.fixture(scope="session")
def report():
    """The report of a study with two classes and three strategies."""
    return compose(make_evaluation(), make_text(), make_deidentification())


@pytest.fixture(scope="session")
def document(report):
    return as_bytes(report)


@pytest.fixture(scope="session")
def files(document):
    """All files rendered from `document`."""
    return render(document)


@pytest.fixture(scope="session")
def hostile_report():
    """Four classes, no intervals, random weights, and words that would do harm if they were taken for markup."""
    evaluation = make_evaluation(
        classes=HOSTILE[:4],
        strategies=("full", "probe"),
        weights="random",
        has_intervals=False,
        warnings=HOSTILE,
        code=HOSTILE[0],
    )
    text = make_text(
        title=" ".join(HOSTILE),
        question=HOSTILE[0],
        data_source=HOSTILE[2],
        limitations=HOSTILE,
        is_synthetic=True,
        methods=tuple(MethodParagraph(heading=words, text=words) for words in HOSTILE),
        settings=tuple(Setting(key=words, value=words) for words in HOSTILE),
    )
    return compose(evaluation, text, make_deidentification(HOSTILE, HOSTILE[0]))


@pytest.fixture(scope="session")
def hostile_files(hostile_report):
    return render(as_bytes(hostile_report))
