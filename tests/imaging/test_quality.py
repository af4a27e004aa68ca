import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.core.reasons import REASONS
from pipeline.imaging.quality import Limits, check_matrix, check_values, contrast, saturated_fraction

LIMITS = Limits(min_size=64, min_contrast=0.02, max_saturated_fraction=0.5)
pictures = arrays(np.float32, st.tuples(st.integers(1, 30), st.integers(1, 30)), elements=st.integers(-2000, 4095))


@given(pictures, st.integers(1, 10), st.integers(-1000, 1000))
def test_measures_are_fractions_and_ignore_gain_and_offset(values, gain, offset):
    changed = values * gain + offset
    for measure in (contrast, saturated_fraction):
        assert 0 <= measure(values) <= 1
        assert measure(changed) == pytest.approx(measure(values), abs=1e-5)
        assert measure(-values) == pytest.approx(measure(values), abs=1e-5)


def test_contrast_of_a_ramp():
    assert contrast(np.arange(101.0)) == pytest.approx(0.9)
    assert contrast(np.full(7, 3.0)) == 0


def test_a_marker_does_not_lend_contrast():
    values = np.random.default_rng(1).normal(1000, 3, (200, 200))
    values[:10, :10] = 4095
    assert contrast(values) < 0.005


def test_saturated_fraction_counts_the_end_with_more():
    values = np.arange(100.0)
    values[:30] = 0
    values[80:] = 200
    assert saturated_fraction(values) == pytest.approx(0.30)
    assert saturated_fraction(np.zeros(5)) == 1


def test_a_good_image_has_no_shortcoming():
    good = np.random.default_rng(1).normal(1000, 200, (64, 80))
    assert check_matrix(good.shape, LIMITS) == []
    assert check_values([good], LIMITS) == []


@pytest.mark.parametrize(("shape", "value"), [((63, 900), 63), ((900, 10), 10)])
def test_a_small_matrix_is_left_out(shape, value):
    (found,) = check_matrix(shape, LIMITS)
    assert (found.code, found.severity, found.value) == ("SMALL_MATRIX", "excluded", value)


def test_a_flat_image_is_left_out_and_a_saturated_one_noted():
    flat = np.full((64, 64), 9.0)
    assert [(one.code, one.severity) for one in check_values([flat], LIMITS)] == [
        ("LOW_CONTRAST", "excluded"),
        ("SATURATED", "noted"),
    ]
    half = np.random.default_rng(1).normal(1000, 200, (64, 64))
    half[:40] = 0
    (found,) = check_values([half], LIMITS)
    assert (found.code, found.severity, found.value) == ("SATURATED", "noted", 40 / 64)


def test_a_volume_may_have_slices_of_air():
    air = np.full((64, 64), -1000.0)
    body = np.random.default_rng(1).normal(0, 200, (64, 64))
    assert check_values(iter([air, body, body]), LIMITS) == []


def test_codes_are_known():
    flat = np.full((8, 8), 9.0)
    for found in [*check_values([flat], LIMITS), *check_matrix(flat.shape, LIMITS)]:
        assert found.code in REASONS
