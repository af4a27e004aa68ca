"""Errors for users: what, where, what to do."""

import inspect

import pytest

from pipeline.core import errors
from pipeline.core.errors import PipelineError

KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, PipelineError)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_message_has_up_to_three_parts(kind):
    assert str(kind("too few patients")) == "too few patients"
    assert str(kind("too few patients", where="folds.tsv")) == "folds.tsv: too few patients"
    whole = kind("too few patients", where="folds.tsv", remedy="ask for fewer folds")
    assert str(whole) == "folds.tsv: too few patients\n  what to do: ask for fewer folds"
    assert (whole.what, whole.where, whole.remedy) == ("too few patients", "folds.tsv", "ask for fewer folds")


def test_errors_are_shallow_and_explained():
    for kind in KINDS:
        assert kind is PipelineError or kind.__bases__ == (PipelineError,)
        assert kind.__doc__
