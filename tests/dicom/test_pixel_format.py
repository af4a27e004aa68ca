import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.dicom.decoding.pixel_format import PixelFormat, codestream_size, pixel_element, pixel_format
from pipeline.dicom.reading.files import FileFault, opened, read_elements
from pipeline.dicom.reading.quiet import quiet
from tests.dicom.samples import LIMIT, PIXELS, SYNTAXES, radiograph, with_pixels, write

JPEG, JPEG_LS, JPEG_2000 = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90"


def segment(marker, payload):
    return bytes([0xFF, marker]) + struct.pack(">H", len(payload) + 2) + payload


def frame(marker, rows, columns, components=1):
    return segment(marker, struct.pack(">BHHB", 12, rows, columns, components) + bytes(3 * components))


sizes = st.integers(1, 65535)


@given(sizes, sizes, st.sampled_from([1, 3]), st.binary(max_size=30), st.integers(0, 3))
def test_sizes_of_jpeg_files_are_found_behind_other_segments(rows, columns, components, comment, fill):
    start = b"\xff\xd8" + segment(0xE0, b"JFIF\0") + segment(0xFE, comment) + b"\xff" * fill
    for marker in (0xC0, 0xC1, 0xC3):
        found = codestream_size(start + frame(marker, rows, columns, components) + bytes(10), JPEG)
        assert found == (rows, columns, components)
    assert codestream_size(start + frame(0xF7, rows, columns) + bytes(10), JPEG_LS) == (rows, columns, 1)


@given(
    st.integers(1, 2**31),
    st.integers(1, 2**31),
    st.integers(0, 2**30),
    st.integers(0, 2**30),
    st.binary(max_size=9).filter(lambda box: b"\xff\x4f\xff\x51" not in box),  # the start itself
)
def test_sizes_of_jpeg_2000_files(rows, columns, top, left, box):
    siz = struct.pack(">HHLLLL", 41, 0, columns + left, rows + top, left, top) + bytes(16) + struct.pack(">H", 1)
    assert codestream_size(box + b"\xff\x4f\xff\x51" + siz + bytes(20), JPEG_2000) == (rows, columns, 1)


@given(st.binary(max_size=200), st.sampled_from([JPEG, JPEG_LS, JPEG_2000]))
def test_garbage_has_no_size_or_some(data, syntax):
    found = codestream_size(data, syntax)
    assert found is None or len(found) == 3


def test_a_huffman_table_is_no_frame():
    data = b"\xff\xd8" + segment(0xC4, bytes(20)) + frame(0xC0, 7, 9) + bytes(10)
    assert codestream_size(data, JPEG) == (7, 9, 1)


@pytest.mark.parametrize(
    ("bits", "signed", "expected"), [(8, False, (0, 255)), (12, True, (-2048, 2047)), (16, True, (-32768, 32767))]
)
def test_range_of_stored_values(bits, signed, expected):
    assert PixelFormat(1, 1, 16, bits, signed, "MONOCHROME2").stored_range == expected


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_the_element_is_where_it_is(tmp_path, syntax):
    path = write(tmp_path / "a.dcm", with_pixels(radiograph()), syntax=syntax)
    with quiet(), opened(path, LIMIT) as source:
        read_elements(source, ())
        found = pixel_element(source)
        assert found.is_encapsulated == (syntax in {"RLE", "JPEG 2000"})
        if found.is_encapsulated:
            assert found.start + found.length == source.end - 8
            # an item with one offset of four bytes, then the head of the one fragment
            assert found.fragments_bytes == found.length - 12 - 8
            assert found.first_fragment == (found.start + 12 + 8, found.fragments_bytes)
        else:
            assert (found.length, found.start + found.length) == (PIXELS.nbytes, source.end)


@given(st.integers(0, 70_000), st.integers(0, 70_000), st.integers(-2, 10_000), st.sampled_from([8, 16, 32, 64]))
def test_limits_are_kept_for_every_combination(rows, columns, frames, bits):
    dataset = radiograph(
        Rows=rows & 0xFFFF,
        Columns=columns & 0xFFFF,
        NumberOfFrames=str(frames),
        BitsAllocated=bits,
        BitsStored=bits,
        HighBit=bits - 1,
        PixelRepresentation=0,
        SamplesPerPixel=1,
        PhotometricInterpretation="MONOCHROME2",
    )
    try:
        found = pixel_format(dataset, LIMIT)
    except FileFault as fault:
        assert fault.code in {"BAD_DIMENSIONS", "UNSUPPORTED_IMAGE"}  # noqa: PT017
    else:
        assert 0 < found.size_bytes == found.rows * found.columns * bits // 8 * found.frames <= LIMIT
        assert found.frames == frames
