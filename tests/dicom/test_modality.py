import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from pipeline.dicom.decoding.modality import Modality, modality_of, narrow_values, padding_marks, stored_values
from pipeline.dicom.decoding.pixel_format import PixelFormat
from pipeline.dicom.reading.files import FileFault

formats = st.builds(
    lambda stored, extra, signed: PixelFormat(1, 1, min(16, stored + extra), stored, signed, "MONOCHROME2"),
    st.integers(2, 16),
    st.integers(0, 14),
    st.booleans(),
)


@given(formats, st.data())
def test_every_word_with_the_same_stored_bits_is_the_same_value(form, data):
    low, high = form.stored_range
    value = data.draw(st.integers(low, high))
    other_bits = data.draw(st.integers(0, 0xFFFF)) >> form.bits_stored << form.bits_stored
    word = value & ((1 << form.bits_stored) - 1) | other_bits
    for container in (np.array([word], np.uint16), np.array([word], np.uint16).view(np.int16)):
        assert stored_values(container, form).tolist() == [value]
    for order in "<>":
        assert narrow_values(np.array([word], f"{order}u2"), form).tolist() == [value]
    if form.bits_stored <= 8:
        assert narrow_values(np.array([word & 0xFF], np.uint8), form).tolist() == [value]


def test_words_of_which_all_bits_are_stored_are_not_copied():
    words = np.arange(4, dtype=np.uint16)
    for is_signed in (False, True):
        assert np.shares_memory(narrow_values(words, PixelFormat(1, 4, 16, 16, is_signed, "MONOCHROME2")), words)


def rescaled(stored, *, form=None, dtype=np.int32, **elements):
    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    form = form or PixelFormat(1, len(stored), 16, 16, False, "MONOCHROME2")
    modality = modality_of(dataset, form, True)
    return modality.of_pixels(np.array(stored, dtype)), modality.unit


def in_double_precision(stored, slope, intercept):
    """The plain way: everything as float64; whole numbers in the narrowest type that holds them."""
    values = np.array(stored, np.float64) * slope + intercept
    if slope.is_integer() and intercept.is_integer():
        for dtype in (np.int16, np.int32):
            if np.iinfo(dtype).min <= values.min() and values.max() <= np.iinfo(dtype).max:
                return values.astype(dtype)
    return values.astype(np.float32)


numbers = st.one_of(
    st.sampled_from([0, 1, -1, 2, -1024, 32767, -32768, 65535, -65536, 0.5, 0.25]),
    st.integers(-5000, 5000),
    st.integers(-(2**31), 2**31),
    st.floats(-1e6, 1e6).map(lambda value: float(f"{value:.8g}")),
)


@given(formats, numbers.filter(bool), numbers, st.data())
def test_fast_and_plain_arithmetic_agree(form, slope, intercept, data):
    slope, intercept = float(f"{slope:.8g}"), float(f"{intercept:.8g}")
    low, high = form.stored_range
    stored = data.draw(st.lists(st.integers(low, high), min_size=1, max_size=9))
    narrow = f"{'i' if form.is_signed else 'u'}{form.bits_allocated // 8 if form.bits_allocated in {8, 16} else 2}"
    expected = in_double_precision(stored, slope, intercept)
    for dtype in (narrow, np.int32):
        factors = {"RescaleSlope": f"{slope:.8g}", "RescaleIntercept": f"{intercept:.8g}"}
        values, _ = rescaled(stored, form=form, dtype=dtype, **factors)
        assert values.dtype == expected.dtype
        np.testing.assert_array_equal(values, expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32])
def test_stored_values_are_overwritten_only_where_nobody_needs_them(dtype):
    modality = Modality("", (0, 255), slope=-2.0, intercept=-1024.0)
    stored = np.arange(5, dtype=dtype)
    kept = stored.copy()
    expected = [-1024, -1026, -1028, -1030, -1032]
    assert modality.of_pixels(stored).tolist() == expected
    np.testing.assert_array_equal(stored, kept)
    stored.flags.writeable = False
    assert modality.of_pixels(stored, in_place=True).tolist() == expected
    assert modality.of_pixels(kept, in_place=True).tolist() == expected


@given(formats, numbers.filter(bool), numbers)
def test_single_numbers_go_the_way_of_the_pixels(form, slope, intercept):
    dataset = Dataset()
    dataset.RescaleSlope, dataset.RescaleIntercept = f"{slope:.8g}", f"{intercept:.8g}"
    modality = modality_of(dataset, form, True)
    ends = modality.of_numbers(form.stored_range)
    assert ends == modality.of_pixels(np.array(form.stored_range, np.int32)).astype(float).tolist()


@given(st.lists(st.integers(0, 65535), min_size=1), st.floats(1e-3, 1e3), st.floats(-1e4, 1e4))
def test_fractions_are_computed_in_double_precision(stored, slope, intercept):
    slope, intercept = float(f"{slope:.8g}"), float(f"{intercept:.8g}")
    values, _ = rescaled(stored, RescaleSlope=f"{slope:.8g}", RescaleIntercept=f"{intercept:.8g}")
    expected = np.array(stored, np.float64) * slope + intercept
    np.testing.assert_array_equal(values.astype(np.float32), expected.astype(np.float32))


def test_values_beyond_32_bits_are_floats():
    values, _ = rescaled([65535], RescaleSlope="1000000", RescaleIntercept="0")
    assert values.dtype == np.float32
    with pytest.raises(FileFault, match="UNDECODABLE_PIXELS"):
        rescaled([65535], RescaleSlope="1e300", RescaleIntercept="0")


@pytest.mark.parametrize(
    ("elements", "unit"),
    [
        ({}, ""),
        ({"Modality": "CT"}, "HU"),
        ({"Modality": "CT", "RescaleType": "HU"}, "HU"),
        ({"Modality": "CT", "RescaleType": ""}, "HU"),
        ({"Modality": "CT", "RescaleType": "US"}, ""),
        ({"Modality": "CT", "RescaleType": "Mustermann"}, ""),
        ({"Modality": "MR", "RescaleType": "US"}, ""),
        ({"RescaleType": "OD"}, "OD"),
        ({"RescaleType": "Mustermann"}, ""),
    ],
)
def test_units(elements, unit):
    assert rescaled([0], **elements)[1] == unit


def test_a_limit_of_padding_without_a_value_means_nothing():
    dataset = Dataset()
    dataset.add_new("PixelPaddingRangeLimit", "US", 10)
    form = PixelFormat(1, 1, 16, 16, False, "MONOCHROME2")
    assert padding_marks(dataset, form, True) == ()
    dataset.add_new("PixelPaddingValue", "US", 0)
    assert padding_marks(dataset, form, True) == (0, 10)
