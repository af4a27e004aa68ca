import pytest
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from pipeline.dicom.reading import elements
from pipeline.dicom.reading.quiet import quiet


def raw(keyword, representation, value):
    """An element as it comes from a file, not yet converted."""
    dataset = Dataset()
    tag = Tag(keyword)
    dataset._dict[tag] = RawDataElement(tag, representation, len(value), value, 0, False, True)
    return dataset


def test_missing_and_empty_are_none_or_empty():
    dataset = Dataset()
    dataset.PatientName = None
    dataset.Rows = None
    dataset.PixelSpacing = None
    assert elements.text(dataset, "PatientID") == elements.text(dataset, "PatientName") == ""
    assert elements.integer(dataset, "Rows") is elements.integer(dataset, "Columns") is None
    assert elements.positive_pair(dataset, "PixelSpacing") is None
    assert elements.words(dataset, "LUTDescriptor", True) == ()


@pytest.mark.parametrize(
    ("keyword", "representation", "value"),
    [
        ("PixelSpacing", "DS", b"a\\b "),
        ("PixelSpacing", "DS", b"0.5\\inf "),
        ("PixelSpacing", "DS", b"0.5\\nan "),
        ("PixelSpacing", "DS", b"0.5 "),
        ("PixelSpacing", "DS", b"1\\2\\3 "),
        ("PixelSpacing", "OB", b"0.5\\0.5 "),
        ("PixelSpacing", "US", b"\1"),
        ("PixelSpacing", "DS", b"0.5\\-1"),
        ("PixelSpacing", "FD", b"123"),
    ],
)
def test_what_is_no_pair_is_none(keyword, representation, value):
    with quiet():
        assert elements.positive_pair(raw(keyword, representation, value), keyword) is None


@pytest.mark.parametrize(
    ("value", "expected"), [(b"12 ", 12), (b"12.0", 12), (b"12.5", None), (b"x ", None), (b"1\\2 ", None), (b"", None)]
)
def test_whole_numbers(value, expected):
    with quiet():
        assert elements.integer(raw("InstanceNumber", "IS", value), "InstanceNumber") == expected


def test_text_is_stripped_and_joined():
    with quiet():
        assert elements.text(raw("PatientID", "LO", b" 4711\0"), "PatientID") == "4711"
        assert elements.texts(raw("ImageType", "CS", b"A \\B\\\\C "), "ImageType") == ("A", "B", "", "C")
        assert elements.text(raw("PatientID", "OB", b"4711"), "PatientID") == ""


def test_windows_come_as_lists():
    with quiet():
        assert elements.first_number(raw("WindowCenter", "DS", b"40\\600 "), "WindowCenter") == 40
        assert elements.first_number(raw("WindowCenter", "DS", b"40"), "WindowCenter") == 40
        assert elements.first_number(raw("WindowCenter", "DS", b"x\\40"), "WindowCenter") is None


@pytest.mark.parametrize(("little", "expected"), [(True, 0xF830), (False, 0x30F8)])
def test_words_of_open_signedness(little, expected):
    dataset = Dataset()
    dataset.add(DataElement(Tag("PixelPaddingValue"), "OW", b"\x30\xf8"))
    assert elements.words(dataset, "PixelPaddingValue", little) == (expected,)
    dataset.add(DataElement(Tag("PixelPaddingValue"), "SS", -2000))
    assert elements.words(dataset, "PixelPaddingValue", little) == (-2000,)


def test_tags_without_a_keyword():
    dataset = Dataset()
    dataset.add(DataElement(0x60020102, "US", 12))
    assert elements.integer(dataset, 0x60020102) == 12
    assert elements.integer(dataset, 0x60000102) is None
