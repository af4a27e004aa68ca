"""The report record: rounded numbers, clean words, one set of bytes."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.artefacts import read_document, write_document
from pipeline.core.errors import ReportError
from pipeline.reporting.document import Report, as_bytes, compose
from tests.reporting.conftest import make_text
from tests.reporting.synthetic_evaluation import make_evaluation


def leaves(value, path=()):
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from leaves(item, (*path, index))
    else:
        yield path, value


def test_numbers_are_the_evaluations_to_four_digits(report):
    before = dict(leaves(make_evaluation().model_dump()))
    after = dict(leaves(report.evaluation.model_dump()))
    assert before.keys() == after.keys()
    assert any(isinstance(value, float) and after[path] != value for path, value in before.items())
    for path, value in before.items():
        if isinstance(value, float):
            assert math.isclose(after[path], value, rel_tol=5.001e-4), path
            assert len(repr(after[path]).replace("e-0", "").strip("0.-").replace(".", "")) <= 5, path
        else:
            assert after[path] == value, path


def test_bytes_are_those_of_a_document_and_read_back_equal(report, tmp_path):
    path = tmp_path / "report.json"
    write_document(path, report)
    assert path.read_bytes() == as_bytes(report)
    assert read_document(path, Report) == report


@given(st.text())
def test_words_keep_what_can_be_seen(words):
    title = compose(EVALUATION, make_text(title=words)).text.title
    assert len(title) == len(words)
    assert all(kept in (character, " ") for kept, character in zip(title, words, strict=True))
    assert not any(character in title for character in "\x00\x07\x1b\u202e\u2066\u200b")


EVALUATION = make_evaluation(strategies=("full",), folds=2, patients=30)


def test_broken_sums_make_no_report():
    row = EVALUATION.cohort[0].model_copy(update={"images": 1})
    broken = EVALUATION.model_copy(update={"cohort": (row, *EVALUATION.cohort[1:])})
    with pytest.raises(ReportError):
        compose(broken, make_text())
