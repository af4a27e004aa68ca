"""Triage: every slice ends in one volume or is refused, and volumes that lie on one another are told apart."""

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.records import Instance
from pipeline.dicom.slices.triage import AXES, triage

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)


def slice_at(height: float, number: int, **values: object) -> Instance:
    base = {
        "path": f"{number:04d}",
        "size_bytes": 1,
        "modified_ns": 0,
        "head_sha256": f"{number}",
        "patient_id": "p",
        "study_uid": "st",
        "series_uid": "se",
        "sop_uid": f"1.{number}",
        "sop_class_uid": "c",
        "transfer_syntax_uid": "t",
        "modality": "MR",
        "kind": "slice",
        "rows": 8,
        "columns": 8,
        "frames": 1,
        "samples_per_pixel": 1,
        "bits_allocated": 16,
        "bits_stored": 12,
        "is_signed": False,
        "photometric_interpretation": "MONOCHROME2",
        "instance_number": number,
        "image_position_mm": (0.0, 0.0, height),
        "image_orientation": AXIAL,
        "pixel_spacing_mm": (1.0, 1.0),
        "image_type": ("ORIGINAL", "PRIMARY", "M"),
    }
    return Instance(**{**base, **values})


def volumes(values: list[dict[str, object]], slices: int = 5) -> list[Instance]:
    """Stack one volume for each dict, all in one place and one series."""
    return [
        slice_at(2.5 * level, 100 * number + level, **changes)
        for number, changes in enumerate(values)
        for level in range(slices)
    ]


def parts(instances) -> dict[int, list[str]]:
    found = defaultdict(list)
    for one in triage(instances).kept:
        found[one.part].append(one.sop_uid)
    return {number: sorted(found[number]) for number in sorted(found)}


def axes(instances) -> set[str]:
    return {one.part_axis for one in triage(instances).kept}


def test_a_single_volume_is_not_divided():
    assert parts(volumes([{}])) == {0: [f"1.{number}" for number in range(5)]}
    assert axes(volumes([{}])) == {""}


def test_acquisition_numbers_that_alternate_in_one_volume_do_not_divide_it():
    stack = [slice_at(2.5 * level, level, acquisition_number=1 + level % 2) for level in range(8)]
    assert set(parts(stack)) == {0}


@pytest.mark.parametrize(
    ("axis", "first", "second"),
    [
        ("image type", {}, {"image_type": ("ORIGINAL", "PRIMARY", "P")}),
        ("echo time", {"echo_time_ms": 30.0}, {"echo_time_ms": 5.0}),
        ("b-value", {"b_value_s_mm2": 0.0}, {"b_value_s_mm2": 1000.0}),
        ("temporal position", {"temporal_position": 1}, {"temporal_position": 2}),
        ("acquisition number", {"acquisition_number": 1}, {"acquisition_number": 2}),
        ("trigger time", {"trigger_time_ms": 0.0}, {"trigger_time_ms": 40.0}),
        ("acquisition time", {"acquisition_time": "100000"}, {"acquisition_time": "100010"}),
    ],
)
def test_volumes_in_one_place_are_told_apart(axis, first, second):
    stack = volumes([first, second])
    lower, upper = ([f"1.{100 * number + level}" for level in range(5)] for number in range(2))
    expected = {1: upper, 2: lower} if axis == "echo time" else {1: lower, 2: upper}  # parts rise with the value
    assert parts(stack) == expected
    assert axes(stack) == {axis}
    assert axis in AXES


def test_echoes_of_time_points_take_both_axes():
    stack = volumes([{"echo_time_ms": echo, "temporal_position": time} for time in (1, 2) for echo in (5.0, 30.0)])
    assert {len(members) for members in parts(stack).values()} == {5}
    assert set(parts(stack)) == {1, 2, 3, 4}
    assert axes(stack) == {"echo time and temporal position"}


@pytest.mark.parametrize("by_place", [False, True])
def test_regular_instance_numbers_tell_time_points_apart(by_place):
    stack = [
        slice_at(2.5 * level, level * 3 + time if by_place else time * 5 + level)
        for time in range(3)
        for level in range(5)
    ]
    found = parts(stack)
    assert set(found) == {1, 2, 3}
    assert axes(stack) == {"order of instance numbers"}
    for number, time in ((1, 0), (2, 1), (3, 2)):
        own = {f"1.{level * 3 + time if by_place else time * 5 + level}" for level in range(5)}
        assert set(found[number]) == own


def test_irregular_instance_numbers_tell_nothing():
    numbers = [0, 1, 2, 3, 4, 6, 5, 7, 8, 9]  # the second volume in another order: whose is number 5?
    stack = [slice_at(2.5 * (index % 5), number) for index, number in enumerate(numbers)]
    assert set(parts(stack)) == {0}


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"acquisition_number": 2},
        {"acquisition_time": "110000"},
        {"image_type": ("DERIVED", "PRIMARY", "X")},
    ],
)
def test_one_slice_too_many_is_not_explained_away(extra):
    """Whatever its header says: the series stays whole and is refused when it is stacked."""
    stack = [*volumes([{"acquisition_number": 1, "acquisition_time": "100000"}]), slice_at(5.0, 999, **extra)]
    assert set(parts(stack)) == {0}


def test_an_aborted_last_time_point_costs_itself_only():
    stack = volumes([{"temporal_position": time} for time in (1, 2, 3)])[:-2]
    assert {number: len(members) for number, members in parts(stack).items()} == {1: 5, 2: 5}
    assert [code for _, code in triage(stack).refused] == ["SERIES_INCOMPLETE"] * 3


def test_orientations_are_divided_even_if_nothing_says_localizer():
    stack = [*volumes([{}]), slice_at(0.0, 900, image_orientation=CORONAL)]
    assert sorted(len(members) for members in parts(stack).values()) == [1, 5]
    assert axes(stack) == {"frame of reference or orientation"}


def test_frames_of_reference_are_divided():
    lower = [slice_at(2.5 * level, level, frame_of_reference_uid="1.1") for level in range(4)]
    upper = [slice_at(2.5 * level, level, frame_of_reference_uid="1.2") for level in range(4, 8)]
    assert {number: len(members) for number, members in parts([*lower, *upper]).items()} == {1: 4, 2: 4}


def test_echoes_half_a_slice_apart_are_no_single_volume():
    stack = [slice_at(1.25 * level, level, echo_time_ms=10.0 + 10 * (level % 2)) for level in range(20)]
    assert {number: len(members) for number, members in parts(stack).items()} == {1: 10, 2: 10}
    assert axes(stack) == {"echo time"}


def test_small_differences_of_orientation_are_left_to_the_proof():
    tilted = (float(np.cos(0.005)), float(np.sin(0.005)), 0.0, -float(np.sin(0.005)), float(np.cos(0.005)), 0.0)
    assert set(parts([*volumes([{}]), slice_at(50.0, 900, image_orientation=tilted)])) == {0}


@pytest.mark.parametrize(
    ("image_type", "code"),
    [
        (("ORIGINAL", "PRIMARY", "LOCALIZER"), "LOCALIZER"),
        (("ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"), "MOSAIC_IMAGE"),
        (("DERIVED", "SECONDARY", "MPR"), "SECONDARY_IMAGE"),
        (("DERIVED", "PRIMARY", "ADC"), ""),
        ((), ""),
    ],
)
def test_slices_of_no_volume_are_refused_with_their_reason(image_type, code):
    odd = slice_at(30.0, 900, image_type=image_type, image_orientation=CORONAL if code == "LOCALIZER" else AXIAL)
    found = triage([*volumes([{}]), odd])
    assert [(one.sop_uid, reason) for one, reason in found.refused] == ([(odd.sop_uid, code)] if code else [])
    assert {one.part for one in found.kept} == {0}


def test_radiographs_pass_whatever_their_image_type_says():
    image = slice_at(0.0, 1, kind="image", modality="DX", image_type=("DERIVED", "SECONDARY"), image_orientation=None)
    assert triage([image]).kept == (image,)


@given(
    st.lists(
        st.builds(
            lambda level, kind, echo, acquisition, series: {
                "height": float(level), "image_type": kind, "echo_time_ms": echo, "acquisition_number": acquisition,
                "series_uid": series,
            },
            st.integers(0, 4),
            st.sampled_from([("ORIGINAL", "PRIMARY", "M"), ("ORIGINAL", "PRIMARY", "LOCALIZER")]),
            st.sampled_from([None, 1.0, 2.0]),
            st.sampled_from([1, 2]),
            st.sampled_from(["s1", "s2"]),
        ),
        max_size=24,
    ),
    st.randoms(),
)  # fmt: skip
def test_nothing_is_lost_and_the_order_of_files_does_not_matter(rows, random):
    stack = [slice_at(row.pop("height"), number, **row) for number, row in enumerate(rows)]
    found = triage(stack)
    names = [one.sop_uid for one in found.kept] + [one.sop_uid for one, _ in found.refused]
    assert sorted(names) == sorted(one.sop_uid for one in stack)
    shuffled = list(stack)
    random.shuffle(shuffled)
    again = triage(shuffled)
    assert {one.sop_uid: one.part for one in again.kept} == {one.sop_uid: one.part for one in found.kept}
    for series in ("s1", "s2"):
        numbers = sorted({one.part for one in found.kept if one.series_uid == series})
        assert numbers in ([], [0], list(range(1, len(numbers) + 1)))
