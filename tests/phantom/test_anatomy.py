"""Shapes of the chest: the lungs lie where lungs lie."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.phantom.anatomy import Anatomy, Plane, Pose, bump, depth_inside, diaphragm, step

UPRIGHT = Pose(rotation_rad=0, shift_x=0, shift_y=0, scale=1, breath=0)


def anatomy(seed=0, *, is_female=False):
    return Anatomy.draw(np.random.default_rng(seed), is_female=is_female, seed=seed)


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.booleans())
def test_lungs_fill_a_third_of_the_field_and_do_not_meet(seed, is_female):
    build = anatomy(seed, is_female=is_female)
    plane = Plane.of(build, UPRIGHT, 64)
    right, left = (depth_inside(build, side, plane) > 0 for side in ("right", "left"))
    assert not (right & left).any()
    assert 0.2 < (right | left).mean() < 0.6
    assert plane.x[right].max() < 0 < plane.x[left].min()


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_the_right_diaphragm_stands_higher(seed):
    build = anatomy(seed)
    reach = np.full(1, 0.36, np.float32)
    assert diaphragm(build, "right", reach, 0.0) < diaphragm(build, "left", reach, 0.0)


def test_a_deep_breath_lowers_the_diaphragm():
    reach = np.linspace(0.1, 0.8, 5, dtype=np.float32)
    assert (diaphragm(anatomy(), "left", reach, 0.1) > diaphragm(anatomy(), "left", reach, 0.0)).all()


@settings(max_examples=20)
@given(
    st.builds(
        Pose,
        rotation_rad=st.floats(-0.1, 0.1),
        shift_x=st.floats(-0.1, 0.1),
        shift_y=st.floats(-0.1, 0.1),
        scale=st.floats(0.9, 1.1),
        breath=st.just(0.0),
    ),
    st.integers(0, 100),
)
def test_a_pose_and_the_coordinates_of_its_pixels_agree(pose, seed):
    """The way forth (points to the field) undoes the way back (pixels to the anatomy) but for the deformation."""
    size = 32
    plane = Plane.of(anatomy(seed), pose, size)
    u, v = pose.to_field(plane.x.astype(float), plane.y.astype(float))
    line = (np.arange(size) + 0.5) / size * 2 - 1
    assert np.abs(u - line[None, :]).max() < 0.04
    assert np.abs(v - line[:, None]).max() < 0.04


def test_the_deformation_belongs_to_the_patient():
    one, again, other = (Plane.of(anatomy(seed), UPRIGHT, 32).x for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("softness", [0.001, 0.1])
def test_step_rises_from_0_to_1_for_any_distance(softness):
    values = step(np.linspace(-100, 100, 501, dtype=np.float32), softness)
    assert np.isfinite(values).all()
    assert (np.diff(values) >= 0).all()
    assert values[0] == pytest.approx(0, abs=1e-6)
    assert values[250] == pytest.approx(0.5)
    assert values[-1] == pytest.approx(1)


def test_bump_is_a_gaussian():
    assert bump(np.array([0.0, 0.2, -0.2]), 0.2) == pytest.approx([1, np.exp(-0.5), np.exp(-0.5)])
