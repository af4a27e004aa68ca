import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.dicom.slices.selection import Selection, orientation_of, select
from tests.dicom.test_triage import CORONAL, slice_at, volumes


def kept(instances, **rules) -> bool:
    found = select(instances, Selection(**rules))
    assert len(found.kept) + len(found.refused) == len(instances)
    assert {code for _, code in found.refused} <= {"UNWANTED_SERIES"}
    assert not (found.kept and found.refused)  # a series is taken or left as a whole
    return bool(found.kept)


THIN = {"series_description": "Chest 1.0 B60f", "slice_thickness_mm": 1.0, "has_contrast_agent": True}


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({}, True),
        ({"descriptions": ("chest*",)}, True),
        ({"descriptions": ("abdomen*", "*B60?")}, True),
        ({"descriptions": ("chest",)}, False),
        ({"not_descriptions": ("*b60f",)}, False),
        ({"orientations": ("axial",)}, True),
        ({"orientations": ("coronal", "sagittal")}, False),
        ({"slice_thickness_mm": (0.5, 1.0)}, True),
        ({"slice_thickness_mm": (1.5, 5.0)}, False),
        ({"slices": (5, 5)}, True),
        ({"slices": (6, 100)}, False),
        ({"contrast_agent": True}, True),
        ({"contrast_agent": False}, False),
    ],
)
def test_rules(rules, expected):
    assert kept(volumes([THIN]), **rules) is expected


def test_what_the_header_does_not_say_fits_no_rule_that_asks():
    assert not kept(volumes([{}]), slice_thickness_mm=(0.1, 100))
    assert not kept(volumes([{}]), descriptions=("?*",))
    assert kept(volumes([{}]), contrast_agent=False)


def test_parts_are_judged_one_by_one():
    stack = [one.model_copy(update={"part": 1 + (one.instance_number >= 100)}) for one in volumes([{}, THIN])]
    found = select(stack, Selection(contrast_agent=True))
    assert {one.part for one in found.kept} == {2}
    assert {one.part for one, _ in found.refused} == {1}


def test_rules_about_slices_do_not_concern_radiographs():
    image = slice_at(0.0, 1, kind="image", image_orientation=None)
    assert kept([image], orientations=("axial",), slices=(10, 20), slice_thickness_mm=(1, 2))
    assert not kept([image], descriptions=("knee*",))


def test_orientations_have_their_usual_names():
    assert orientation_of(CORONAL) == "coronal"
    assert orientation_of((0, 1, 0, 0, 0, -1)) == "sagittal"


@given(st.floats(0, 40))
def test_a_gantry_tilt_up_to_25_degrees_is_still_axial(degrees):
    angle = np.radians(degrees)
    tilted = (1.0, 0.0, 0.0, 0.0, float(np.cos(angle)), float(np.sin(angle)))
    assert (orientation_of(tilted) == "axial") is bool(degrees <= 25) or degrees == pytest.approx(25)
