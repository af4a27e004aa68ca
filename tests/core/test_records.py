"""Records: frozen, closed, finite; a flow that does not add up cannot be made."""

import inspect

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.core import records, results
from pipeline.core.records import (
    Finding,
    FlowStep,
    Identified,
    Instance,
    MultiFrameInstance,
    OriginalName,
    Plane,
    PseudonymLink,
    Record,
    RejectedFile,
)

KINDS = [
    kind
    for module in (records, results)
    for _, kind in inspect.getmembers(module, inspect.isclass)
    if issubclass(kind, Record) and kind.__module__ == module.__name__
]
IDENTIFYING_FIELDS = {"patient_id", "path", "institution", "patient_name", "accession_number"}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_record_is_frozen_and_closed(kind):
    assert kind.model_config["frozen"]
    assert kind.model_config["extra"] == "forbid"
    assert kind.model_config["allow_inf_nan"] is False
    assert kind.__doc__


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_fields_that_identify_belong_to_identified_records(kind):
    if IDENTIFYING_FIELDS & set(kind.model_fields):
        assert issubclass(kind, Identified)


def test_those_that_may_identify():
    assert {kind for kind in KINDS if issubclass(kind, Identified)} == {
        Identified,
        Instance,
        MultiFrameInstance,
        OriginalName,
        Plane,
        PseudonymLink,
        RejectedFile,
    }


counts = st.integers(0, 50)


@given(counts, counts, counts, counts, st.sampled_from(["series", "image"]))
def test_a_flow_is_made_exactly_if_it_adds_up(entered, excluded, left, produced, unit):
    adds_up = entered == excluded + left and (unit != "image" or produced == left)
    values = {
        "stage": "split",
        "unit": "image",
        "entered": entered,
        "excluded": excluded,
        "left": left,
        "produced_unit": unit,
        "produced": produced,
    }
    if adds_up:
        FlowStep(**values)
    else:
        with pytest.raises(ValidationError):
            FlowStep(**values)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_number_that_is_none(value):
    with pytest.raises(ValidationError):
        Finding(stage="s", unit="image", unit_id="i", code="LOW_CONTRAST", severity="noted", value=value)
