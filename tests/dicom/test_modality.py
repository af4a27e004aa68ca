import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from pipeline.dicom.files import FileFault
from pipeline.dicom.modality import modality_values, padding_marks, stored_values
from pipeline.dicom.pixel_format import PixelFormat

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


def rescaled(stored, **elements):
    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    form = PixelFormat(1, len(stored), 16, 16, False, "MONOCHROME2")
    return modality_values(dataset, np.array(stored, np.int32), form, True)


@given(st.lists(st.integers(0, 65535), min_size=1), st.integers(-32, 32).filter(bool), st.integers(-5000, 5000))
def test_whole_numbers_stay_exact(stored, slope, intercept):
    values, _ = rescaled(stored, RescaleSlope=str(slope), RescaleIntercept=str(intercept))
    assert values.dtype == np.int32
    assert values.tolist() == [slope * value + intercept for value in stored]


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
