from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.imaging.steps import (
    PadToSquare,
    PlanarImage,
    Quantise,
    ReflectMonochrome1,
    ResizeKeepingAspect,
    ScalePercentiles,
    ScaleWindow,
    apply,
    padding_mask,
    resample,
    standard_steps,
)

TWELVE_BITS = (0.0, 4095.0)


def _image(values, is_monochrome1=False, **others) -> PlanarImage:
    return PlanarImage(np.asarray(values, dtype=np.float32), is_monochrome1, TWELVE_BITS, **others)


@st.composite
def images(draw: st.DrawFn) -> PlanarImage:
    """12-bit images of any shape and spacing, some with padding."""
    shape = draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    values = draw(arrays(np.int16, shape, elements=st.integers(0, 4095)))
    spacing = draw(st.none() | st.tuples(st.floats(0.1, 3), st.floats(0.1, 3)))
    padding = draw(st.none() | arrays(np.bool_, shape))
    return _image(values, draw(st.booleans()), spacing=spacing, padding=padding)


scalings = st.one_of(
    st.builds(ScalePercentiles, st.floats(0, 49), st.floats(51, 100)),
    st.builds(ScaleWindow, st.floats(-1000, 5000), st.floats(0.5, 5000)),
)


def _triangle_matrix(source: int, target: int) -> np.ndarray:
    """Antialiased triangle filter as a matrix (target, source), written from its definition in float64."""
    factor = source / target
    half_width = max(factor, 1.0)
    centres = (np.arange(target) + 0.5) * factor
    distance = np.abs(np.arange(source) + 0.5 - centres[:, None]) / half_width
    weights = np.maximum(0, 1 - distance)
    return weights / weights.sum(axis=1, keepdims=True)


# --- reflection


@given(images())
def test_a_negative_file_gives_the_same_values(image):
    negative = replace(image, values=4095 - image.values, is_monochrome1=True)
    positive = replace(image, is_monochrome1=False)
    np.testing.assert_array_equal(ReflectMonochrome1()(negative).values, positive.values)


@given(images())
def test_reflection_happens_once(image):
    once = ReflectMonochrome1()(image)
    assert not once.is_monochrome1
    assert ReflectMonochrome1()(once) is once


def test_reflection_uses_the_representable_range_and_not_that_of_the_image():
    signed = PlanarImage(np.float32([[-5, 10]]), True, (-2048.0, 2047.0))
    assert ReflectMonochrome1()(signed).values.tolist() == [[4, -11]]


@given(images(), st.floats(-1000, 5000), st.floats(1, 4000))
def test_a_window_on_a_reflected_image_is_the_inverted_window(image, centre, width):
    plain = replace(image, is_monochrome1=False, padding=None)
    reflected = ReflectMonochrome1()(replace(plain, is_monochrome1=True))
    window = ScaleWindow(centre, width)
    low, high = window(plain).intensity
    assert window(reflected).intensity == pytest.approx((high, low), abs=1e-6)
    np.testing.assert_allclose(window(reflected).values, 1 - window(plain).values, atol=1e-5)


# --- scaling


@given(images(), scalings)
def test_scaled_values_stay_in_range_and_in_order(image, scaling):
    scaled = scaling(image)
    assert scaled.values.dtype == np.float32
    assert scaled.values.min() >= 0
    assert scaled.values.max() <= 1
    kept = np.ones(image.values.shape, bool) if image.padding is None else ~image.padding
    order = np.argsort(image.values[kept], kind="stable")
    assert (np.diff(scaled.values[kept][order]) >= 0).all()
    assert (scaled.values[~kept] == 0).all()


@given(images(), scalings)
def test_the_recorded_intensities_explain_the_scaled_values(image, scaling):
    scaled = scaling(image)
    low, high = scaled.intensity
    if low < high and image.padding is None:
        expected = np.clip((image.values.astype(float) - low) / (high - low), 0, 1)
        np.testing.assert_allclose(scaled.values, expected, atol=1e-6)


@given(images(), st.integers(1, 8), st.integers(0, 1000))
def test_percentile_scaling_ignores_gain_and_offset(image, gain, offset):
    step = ScalePercentiles(1, 99)
    changed = replace(image, values=image.values * gain + offset)
    np.testing.assert_allclose(step(changed).values, step(image).values, atol=1e-5)


@given(images())
def test_padding_does_not_move_the_percentiles(image):
    if image.padding is not None and not image.padding.all():
        wild = np.where(image.padding, np.float32(-30000), image.values)
        assert (
            ScalePercentiles(1, 99)(replace(image, values=wild)).intensity == ScalePercentiles(1, 99)(image).intensity
        )


def test_the_padding_mask_takes_both_ends_of_its_range():
    values = np.array([[-2000, -1999, -1000, 0, 7]])
    assert padding_mask(values, None) is None
    assert padding_mask(values, (-2000.0, -1999.0)).tolist() == [[True, True, False, False, False]]
    assert padding_mask(values, (7.0, 7.0)).tolist() == [[False, False, False, False, True]]
    assert padding_mask(values, (5.0, 6.0)) is None


def test_percentiles_of_a_ramp():
    scaled = ScalePercentiles(10, 90)(_image(np.arange(101).reshape(1, 101)))
    assert scaled.intensity == (10, 90)
    assert scaled.values[0, [0, 10, 50, 90, 100]].tolist() == [0, 0, 0.5, 1, 1]


def test_an_image_of_one_value_becomes_zero():
    scaled = ScalePercentiles(0.5, 99.5)(_image(np.full((4, 4), 700)))
    assert not scaled.values.any()
    assert scaled.intensity == (700, 700)


def test_a_nearly_empty_image_keeps_its_few_values():
    values = np.zeros((100, 100))
    values[3, 4], values[5, 6] = 100, 50
    scaled = ScalePercentiles(0.5, 99.5)(_image(values))
    assert scaled.intensity == (0, 100)
    assert scaled.values[5, 6] == 0.5


def test_a_window_maps_its_ends():
    scaled = ScaleWindow(centre=40, width=400)(_image([[-200, -160, 40, 240, 300]]))
    assert scaled.intensity == (-160, 240)
    assert scaled.values.tolist() == [[0, 0, 0.5, 1, 1]]


# --- resizing


@given(images(), st.integers(1, 50))
def test_resizing_keeps_range_and_aspect(image, size):
    resized = ResizeKeepingAspect(size)(image)
    assert max(resized.values.shape) == size
    assert image.values.min() <= resized.values.min()
    assert resized.values.max() <= image.values.max()
    height, width = np.array(image.values.shape) * (image.spacing or (1, 1))
    expected = np.array([height, width]) * size / max(height, width)
    assert (np.abs(resized.values.shape - expected) <= np.where(expected < 1, 1, 0.5 + 1e-9)).all()


@given(images(), st.integers(1, 50))
def test_resizing_keeps_the_extent_in_the_patient(image, size):
    if image.spacing is not None:
        resized = ResizeKeepingAspect(size)(image)
        before = np.multiply(image.values.shape, image.spacing)
        np.testing.assert_allclose(np.multiply(resized.values.shape, resized.spacing), before)


@given(images(), st.integers(1, 50))
def test_resizing_again_changes_nothing_without_spacing(image, size):
    step = ResizeKeepingAspect(size)
    once = step(replace(image, spacing=None))
    assert step(once) is once


@given(images(), st.integers(2, 50), st.floats(-4095, 4095, width=32))
def test_a_constant_stays_constant(image, size, value):
    resized = ResizeKeepingAspect(size)(replace(image, values=np.full_like(image.values, value)))
    np.testing.assert_array_equal(resized.values, np.float32(value))


@given(st.integers(0, 1000), st.integers(1, 60), st.integers(1, 60), st.integers(1, 60), st.integers(1, 60))
def test_resampling_equals_an_independent_filter(seed, rows, columns, new_rows, new_columns):
    values = np.random.default_rng(seed).random((rows, columns), dtype=np.float32)
    expected = _triangle_matrix(rows, new_rows) @ values @ _triangle_matrix(columns, new_columns).T
    np.testing.assert_allclose(resample(values, (new_rows, new_columns)), expected, atol=2e-6)


@given(st.integers(0, 1000), st.floats(-3, 3), st.floats(-3, 3))
def test_resampling_is_linear(seed, first_factor, second_factor):
    first, second = np.random.default_rng(seed).random((2, 31, 23), dtype=np.float32)
    together = resample(first_factor * first + second_factor * second, (8, 9))
    apart = first_factor * resample(first, (8, 9)) + second_factor * resample(second, (8, 9))
    np.testing.assert_allclose(together, apart, atol=1e-5)


def test_shrinking_a_ramp_gives_area_averages_inside():
    ramp = np.tile(np.arange(64, dtype=np.float32), (8, 1))
    averages = ramp.reshape(8, 16, 4).mean(axis=2)
    np.testing.assert_allclose(resample(ramp, (8, 16))[:, 1:-1], averages[:, 1:-1], atol=1e-5)


def test_shrinking_leaves_no_alias():
    """A grating finer than the new pixels must turn grey; taking every fourth pixel would give stripes."""
    grating = np.tile(np.float32([0, 1]), (64, 32))
    assert np.ptp(resample(grating, (16, 16))[:, 1:-1]) < 0.01
    assert np.ptp(resample(grating, (15, 13))[:, 1:-1]) < 0.05


def test_the_picture_does_not_shift():
    values = np.zeros((90, 120), np.float32)
    values[60:66, 30:36] = 1
    small = resample(values, (30, 40)).astype(float)
    rows, columns = np.mgrid[:30, :40]
    centre = np.array([(small * rows).sum(), (small * columns).sum()]) / small.sum()
    np.testing.assert_allclose((centre + 0.5) * 3 - 0.5, (62.5, 32.5), atol=0.01)


def test_a_circle_in_the_patient_stays_a_circle():
    rows, columns = np.mgrid[:100, :200]
    disc = ((rows - 49.5) ** 2 * 4 + (columns - 99.5) ** 2 < 80**2).astype(np.float32)  # 2 mm rows, 1 mm columns
    resized = ResizeKeepingAspect(100)(_image(disc, spacing=(2.0, 1.0)))
    assert resized.values.shape == (100, 100)
    height, width = (np.count_nonzero(resized.values.max(axis=axis) > 0.5) for axis in (1, 0))
    assert abs(height - width) <= 1


# --- padding and quantisation


@given(images())
def test_padding_adds_zeros_around_an_unchanged_picture(image):
    padded = PadToSquare()(image)
    side = max(image.values.shape)
    assert padded.values.shape == (side, side)
    top, left = ((side - count) // 2 for count in image.values.shape)
    rows, columns = image.values.shape
    np.testing.assert_array_equal(padded.values[top : top + rows, left : left + columns], image.values)
    assert padded.values.astype(np.int64).sum() == image.values.astype(np.int64).sum()
    assert PadToSquare()(padded) is padded


def test_an_odd_line_goes_below():
    assert PadToSquare()(_image([[1, 1]])).values.tolist() == [[1, 1], [0, 0]]


@pytest.mark.parametrize("dtype", ["uint8", "float16"])
def test_quantising_rounds_to_the_nearest(dtype):
    values = np.linspace(0, 1, 1001, dtype=np.float32).reshape(7, 143)
    stored = Quantise(dtype)(_image(values)).values
    assert stored.dtype == dtype
    unit = 255 if dtype == "uint8" else 1
    np.testing.assert_allclose(stored.astype(float) / unit, values, atol=0.5 / 255 if dtype == "uint8" else 2**-12)
    assert (stored.min(), stored.max()) == (0, unit)
    assert (np.diff(stored.ravel().astype(float)) >= 0).all()


@pytest.mark.parametrize("dtype", ["uint8", "float16"])
def test_quantising_clips_and_happens_once(dtype):
    once = Quantise(dtype)(_image([[-0.5, 1.5]]))
    assert once.values.tolist() == [[0, 255 if dtype == "uint8" else 1]]
    assert Quantise(dtype)(once) is once


# --- all steps


@given(images(), scalings, st.integers(1, 40), st.sampled_from(["uint8", "float16"]))
def test_every_image_gets_the_standard_form(image, scaling, size, dtype):
    done = apply(standard_steps(scaling=scaling, size=size, dtype=dtype), image)
    assert done.values.shape == (size, size)
    assert done.values.dtype == dtype
    assert not done.is_monochrome1
    assert np.isfinite(done.values.astype(float)).all()
    assert done.values.max() <= (255 if dtype == "uint8" else 1)


@given(images(), scalings)
def test_steps_leave_their_input_alone(image, scaling):
    before = image.values.copy()
    image.values.flags.writeable = False
    apply(standard_steps(scaling=scaling, size=16, dtype="uint8"), image)
    np.testing.assert_array_equal(image.values, before)
