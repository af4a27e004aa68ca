import struct

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut
from pydicom.sequence import Sequence

from pipeline.core.reasons import REASONS
from pipeline.dicom.decoding.pixels import PixelReadError, is_decodable, read_pixels
from pipeline.dicom.reading import files
from tests.dicom.samples import GEOMETRY, PIXELS, SYNTAXES, ct, radiograph, with_pixels, write
from tests.real_data import data_set


def read(tmp_path, dataset, **options):
    return read_pixels(write(tmp_path / "a.dcm", dataset, **options))


def refused(path, **options):
    with pytest.raises(PixelReadError) as caught:
        read_pixels(path, **options)
    assert str(caught.value) == caught.value.code
    assert caught.value.code in REASONS
    return caught.value.code


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize(
    ("dtype", "bits"), [(np.uint16, 12), (np.int16, 12), (np.int16, 16), (np.uint16, 16), (np.uint8, 8)]
)
def test_the_same_values_in_every_syntax(tmp_path, syntax, dtype, bits):
    low = -(1 << (bits - 1)) if np.issubdtype(dtype, np.signedinteger) else 0
    stored = np.random.default_rng(1).integers(low, low + (1 << bits), PIXELS.shape).astype(dtype)
    found = read(tmp_path, with_pixels(radiograph(), stored, bits=bits), syntax=syntax)
    assert found.values.dtype == (np.int32 if (dtype, bits) == (np.uint16, 16) else np.int16)
    np.testing.assert_array_equal(found.values, stored)
    np.testing.assert_array_equal(found.values, pydicom.dcmread(tmp_path / "a.dcm").pixel_array)
    assert (found.lowest_possible, found.highest_possible) == (low, low + (1 << bits) - 1)


@pytest.mark.parametrize("syntax", ["explicit", "big endian", "RLE"])
def test_bits_above_those_stored_are_not_trusted(tmp_path, syntax):
    stored = np.random.default_rng(1).integers(-2048, 2048, PIXELS.shape).astype(np.int16)
    garbage = np.random.default_rng(2).integers(0, 16, PIXELS.shape).astype(np.uint16) << 12
    mixed = (stored.view(np.uint16) & 0x0FFF | garbage).view(np.int16)
    found = read(tmp_path, with_pixels(ct(), mixed), syntax=syntax)
    np.testing.assert_array_equal(found.values, stored)


def test_odd_numbers_of_bytes_are_padded(tmp_path):
    stored = np.arange(33 * 35, dtype=np.uint8).reshape(33, 35)
    for syntax in ("explicit", "implicit", "big endian", "deflated", "RLE"):
        dataset = with_pixels(radiograph(), stored, bits=8)
        if syntax != "RLE":
            dataset.PixelData += b"\0"
        np.testing.assert_array_equal(read(tmp_path, dataset, syntax=syntax).values, stored)


def test_bytes_in_big_endian_words(tmp_path):
    stored = np.arange(33 * 36, dtype=np.uint8).reshape(33, 36)
    dataset = with_pixels(radiograph(), stored, bits=8)
    dataset.PixelData = np.frombuffer(dataset.PixelData, np.uint16).byteswap().tobytes()
    dataset["PixelData"].VR = "OW"
    np.testing.assert_array_equal(read(tmp_path, dataset, syntax="big endian").values, stored)


@pytest.mark.parametrize(
    ("slope", "intercept", "dtype"),
    [
        ("1", "-1024", np.int16),
        ("2", "0", np.int16),
        ("0.5", "3", np.float32),
        ("1", "0.25", np.float32),
        ("-1", "4095", np.int16),
        ("100", "0", np.int32),
    ],
)
def test_slope_and_intercept(tmp_path, slope, intercept, dtype):
    dataset = with_pixels(ct(RescaleSlope=slope, RescaleIntercept=intercept))
    found = read(tmp_path, dataset)
    assert found.values.dtype == dtype
    expected = float(slope) * PIXELS.astype(float) + float(intercept)
    np.testing.assert_allclose(found.values, expected, rtol=1e-6)
    ends = sorted([float(intercept), float(slope) * 4095 + float(intercept)])
    assert [found.lowest_possible, found.highest_possible] == ends


@pytest.mark.parametrize("slope", ["0", "1e400", "abc"])
def test_a_slope_that_is_none(tmp_path, slope):
    path = write(tmp_path / "a.dcm", with_pixels(ct(RescaleSlope="12345", RescaleIntercept="0")))
    path.write_bytes(path.read_bytes().replace(b"12345 ", slope.encode().ljust(6)))
    assert refused(path) == "UNDECODABLE_PIXELS"


def modality_lut(first, entries, bits, representation="US", kind="HU"):
    item = Dataset()
    item.add_new("LUTDescriptor", representation, [len(entries) & 0xFFFF, first, bits])
    item.add_new("ModalityLUTType", "LO", kind)
    item.add_new("LUTData", "OW", np.asarray(entries, "<u2").tobytes())
    return Sequence([item])


@pytest.mark.parametrize("syntax", ["explicit", "implicit"])
def test_a_lookup_table_agrees_with_pydicom(tmp_path, syntax):
    table = np.random.default_rng(3).integers(0, 65536, 3000)
    dataset = with_pixels(ct(ModalityLUTSequence=modality_lut(500, table, 16)))
    found = read(tmp_path, dataset, syntax=syntax)
    np.testing.assert_array_equal(found.values, table[np.clip(PIXELS.astype(int) - 500, 0, 2999)])
    assert found.unit == "HU"
    if syntax == "explicit":
        again = pydicom.dcmread(tmp_path / "a.dcm")
        np.testing.assert_array_equal(found.values, apply_modality_lut(again.pixel_array, again))


def test_a_lookup_table_of_signed_values(tmp_path):
    stored = (PIXELS.astype(np.int16)) - 2048
    table = np.arange(4096)[::-1]
    for syntax in ("explicit", "implicit"):
        lut = modality_lut(-2048 if syntax == "explicit" else 63488, table, 12, "SS" if syntax == "explicit" else "US")
        found = read(tmp_path, with_pixels(ct(ModalityLUTSequence=lut), stored), syntax=syntax)
        np.testing.assert_array_equal(found.values, 2047 - stored)


@pytest.mark.parametrize("fault", ["short", "bits"])
def test_a_damaged_lookup_table(tmp_path, fault):
    lut = modality_lut(0, np.arange(100), 16)
    lut[0].LUTDescriptor = [200, 0, 16] if fault == "short" else [100, 0, 32]
    assert refused(write(tmp_path / "a.dcm", with_pixels(ct(ModalityLUTSequence=lut)))) == "UNDECODABLE_PIXELS"


@pytest.mark.parametrize("syntax", ["explicit", "implicit", "big endian"])
def test_padding_goes_the_way_of_the_pixels(tmp_path, syntax):
    dataset = with_pixels(ct(RescaleSlope="1", RescaleIntercept="-1024"), PIXELS.astype(np.int16) - 2048)
    dataset.add_new("PixelPaddingValue", "SS", -2000)
    assert read(tmp_path, dataset, syntax=syntax).padding == (-3024.0, -3024.0)
    dataset.add_new("PixelPaddingRangeLimit", "SS", -1990)
    dataset.PixelData = (PIXELS.astype("<i2") - 2048).tobytes()
    assert read(tmp_path, dataset, syntax=syntax).padding == (-3024.0, -3014.0)


def test_padding_written_as_unsigned_bits(tmp_path):
    dataset = with_pixels(ct(), PIXELS.astype(np.int16) - 2048)
    dataset.add_new("PixelPaddingValue", "US", 63536)  # -2000, a common mistake
    assert read(tmp_path, dataset).padding == (-2000.0, -2000.0)


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({}, (None, "")),
        ({"PixelSpacing": [0.1, 0.2]}, ((0.1, 0.2), "PixelSpacing")),
        ({"ImagerPixelSpacing": [0.3, 0.3]}, ((0.3, 0.3), "ImagerPixelSpacing")),
        ({"PixelSpacing": [0.1, 0.2], "ImagerPixelSpacing": [0.3, 0.3]}, ((0.1, 0.2), "PixelSpacing")),
        (
            {"ImagerPixelSpacing": [0.3, 0.3], "EstimatedRadiographicMagnificationFactor": "1.5"},
            ((pytest.approx(0.2), pytest.approx(0.2)), "ImagerPixelSpacing/magnification"),
        ),
        ({"NominalScannedPixelSpacing": [0.4, 0.4]}, ((0.4, 0.4), "NominalScannedPixelSpacing")),
        ({"PixelSpacing": [0, 0], "ImagerPixelSpacing": [0.3, 0.3]}, ((0.3, 0.3), "ImagerPixelSpacing")),
    ],
)
def test_the_best_spacing_is_taken(tmp_path, elements, expected):
    found = read(tmp_path, with_pixels(radiograph(**elements)))
    assert (found.pixel_spacing_mm, found.pixel_spacing_source) == expected


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({}, None),
        ({"PixelAspectRatio": [2, 1]}, (2, 1)),
        ({"PixelAspectRatio": [2, 0]}, None),
        ({"PixelAspectRatio": [2, 1], "PixelSpacing": [0.1, 0.1]}, None),  # lengths are better than their ratio
    ],
)
def test_the_aspect_ratio_counts_where_there_is_no_spacing(tmp_path, elements, expected):
    assert read(tmp_path, with_pixels(radiograph(**elements))).pixel_aspect_ratio == expected


def test_facts_beside_the_pixels(tmp_path):
    dataset = with_pixels(ct(WindowCenter=[40, 600], WindowWidth=[400, 1600], ViewPosition="AP"))
    dataset.PhotometricInterpretation = "MONOCHROME1"
    found = read(tmp_path, dataset)
    assert found.is_monochrome1
    assert (found.window_centre, found.window_width) == (40, 400)
    assert found.image_position_mm == tuple(GEOMETRY["ImagePositionPatient"])
    assert found.unit == "HU"
    assert found.view_position == "AP"
    assert found.padding is None
    np.testing.assert_array_equal(found.values, PIXELS)  # MONOCHROME1 is reported, not inverted


@pytest.mark.parametrize("width", [None, 0, -5])
def test_half_a_window_is_none(tmp_path, width):
    found = read(tmp_path, with_pixels(radiograph(WindowCenter=40, WindowWidth=width)))
    assert found.window_centre is found.window_width is None


def test_sizes_are_checked_before_decoding(tmp_path):
    path = write(tmp_path / "a.dcm", with_pixels(radiograph()))
    assert refused(path, largest_bytes=PIXELS.nbytes - 1) == "BAD_DIMENSIONS"
    assert read_pixels(path, largest_bytes=PIXELS.nbytes).values.shape == PIXELS.shape


def test_damaged_runs_are_refused(tmp_path):
    path = write(tmp_path / "a.dcm", with_pixels(radiograph()), syntax="RLE")
    data = bytearray(path.read_bytes())
    start = data.index(struct.pack("<HH", 0x7FE0, 0x0010)) + 200
    data[start:-20] = b"\x80" * (len(data) - 20 - start)
    path.write_bytes(data)
    assert refused(path) == "UNDECODABLE_PIXELS"


@pytest.mark.parametrize("kept", [100, 600, 710])
def test_a_codestream_that_breaks_off_is_refused(tmp_path, kept):
    """OpenJPEG would decode what there is and leave the rest of the image empty."""
    path = write(tmp_path / "a.dcm", with_pixels(radiograph()), syntax="JPEG 2000")
    data = path.read_bytes()
    start = data.index(b"\xff\x4f\xff\x51")
    codestream = data[start:-8][:kept]
    path.write_bytes(data[: start - 4] + struct.pack("<L", len(codestream)) + codestream + data[-8:])
    assert refused(path) == "TRUNCATED_FILE"


def test_numbers_beyond_the_stored_bits_are_refused(tmp_path):
    stored = PIXELS.copy()
    stored[0, 0] = 0x1FFF
    dataset = with_pixels(radiograph(), stored, bits=13)
    path = write(tmp_path / "a.dcm", dataset, syntax="JPEG 2000")
    data = path.read_bytes()
    for element, old, new in ((0x0101, 13, 12), (0x0102, 12, 11)):
        head = struct.pack("<HH2sH", 0x0028, element, b"US", 2)
        data = data.replace(head + struct.pack("<H", old), head + struct.pack("<H", new))
    path.write_bytes(data)
    assert refused(path) == "UNDECODABLE_PIXELS"


@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_flipped_bytes_never_raise_anything_else(tmp_path, data):
    syntax = data.draw(st.sampled_from(sorted(SYNTAXES)))
    path = tmp_path / f"{syntax}.dcm"
    if not path.exists():
        write(path, with_pixels(ct(RescaleSlope="1", RescaleIntercept="0")), syntax=syntax)
    content = bytearray(path.read_bytes())
    for place in data.draw(st.lists(st.integers(132, len(content) - 1), min_size=1, max_size=32)):
        content[place] = data.draw(st.integers(0, 255))
    broken = tmp_path / "broken.dcm"
    broken.write_bytes(content)
    try:
        found = read_pixels(broken, largest_bytes=1_000_000)
    except PixelReadError as error:
        assert error.code in REASONS  # noqa: PT017
    else:
        assert found.values.ndim == 2
        assert np.isfinite(found.values).all()
        assert found.values.min() >= found.lowest_possible
        assert found.values.max() <= found.highest_possible


@pytest.mark.parametrize(
    ("uid", "expected"),
    [
        ("1.2.840.10008.1.2", True),
        ("1.2.840.10008.1.2.5", True),
        ("1.2.840.10008.1.2.4.90", True),
        ("1.2.840.10008.1.2.4.91", True),
        ("1.2.840.10008.1.2.4.201", True),  # High-Throughput JPEG 2000
        ("1.2.840.10008.1.2.4.202", True),
        ("1.2.840.10008.1.2.4.203", True),
        ("1.2.840.10008.1.2.4.100", False),
        ("1.2.3", False),
        ("", False),
    ],
)
def test_decoders_at_hand(uid, expected):
    assert is_decodable(uid) is expected


def test_nothing_of_the_file_is_said(tmp_path, capsys, recwarn, caplog):
    dataset = with_pixels(ct(PatientName="SECRET^NAME", PatientAge="045Y", PixelSpacing=["0.81234", "0.6"]))
    path = write(tmp_path / "a.dcm", dataset, syntax="RLE")
    data = path.read_bytes().replace(b"045Y", b"SECR").replace(b"0.81234", b"0.SECRE")
    path.write_bytes(data[:-60] + b"\x80" * 48 + data[-12:])
    assert refused(path) == "UNDECODABLE_PIXELS"
    out = capsys.readouterr()
    assert not out.out
    assert not out.err
    assert not recwarn.list
    assert "SECR" not in caplog.text


# --- the fast way through the header


def outcome(path):
    """Give everything that is read, or the reason why nothing is."""
    try:
        found = read_pixels(path)
    except PixelReadError as error:
        return error.code
    values = found.values
    return (values.dtype, values.tobytes(), values.shape, *(repr(v) for k, v in vars(found).items() if k != "values"))


def slow_outcome(path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "walk", lambda _head, _tags: None)
        return outcome(path)


decimals = st.one_of(
    st.sampled_from(["", "1", "1.0", "-1024", "0.5", "1e2", "65535", "-32768", "0", "1.000000", " 2 ", "1\\2", "x"]),
    st.integers(-100_000, 100_000).map(str),
    st.floats(-1e4, 1e4).map(lambda value: f"{value:.6g}"),
)


@st.composite
def slices(draw):
    """Draw the data set of a slice with any of what changes its values: usual, odd and missing elements."""
    allocated = draw(st.sampled_from([8, 16]))
    bits = draw(st.integers(max(2, allocated - 8), allocated))
    dtype = np.dtype(f"{draw(st.sampled_from('ui'))}{allocated // 8}")
    generator = np.random.default_rng(draw(st.integers(0, 99)))
    words = generator.integers(0, 1 << allocated, (7, 6))  # with garbage in the high bits
    if draw(st.booleans()):
        words &= (1 << bits) - 1
    dataset = ct()
    optional = {
        "RescaleSlope": decimals, "RescaleIntercept": decimals, "WindowCenter": decimals, "WindowWidth": decimals,
        "RescaleType": st.sampled_from(["HU", "US", "", "x"]), "ViewPosition": st.sampled_from(["AP", ""]),
        "PixelSpacing": st.sampled_from([None, [0.5, 0.5], [0, 1], ""]), "HighBit": st.just(bits - 1),
        "PixelAspectRatio": st.sampled_from([[2, 1], [1, 1], ""]), "ImagePositionPatient": st.sampled_from([None, ""]),
        "PhotometricInterpretation": st.sampled_from(["MONOCHROME1", "MONOCHROME2"]),
        "SpecificCharacterSet": st.sampled_from(["ISO_IR 100", "ISO_IR 192", ""]),
    }  # fmt: skip
    with pydicom.config.disable_value_validation():
        for keyword, values in optional.items():
            if draw(st.booleans()):
                value = draw(values)
                if value == "x" and keyword in {"RescaleSlope", "RescaleIntercept"}:
                    value = "1"
                setattr(dataset, keyword, value if value != "x" or keyword == "RescaleType" else "1")
    for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit", "SmallestImagePixelValue"):
        if draw(st.booleans()):
            sign = draw(st.sampled_from(["US", "SS"]))
            dataset.add_new(keyword, sign, draw(st.integers(0, 65535) if sign == "US" else st.integers(-32768, 32767)))
    return with_pixels(dataset, words.astype(f"u{allocated // 8}").view(dtype), bits=bits)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(slices(), st.sampled_from(["explicit", "implicit", "RLE"]))
def test_the_fast_and_the_slow_way_read_the_same(tmp_path, dataset, syntax):
    with pydicom.config.disable_value_validation():
        path = write(tmp_path / "a.dcm", dataset, syntax=syntax)
    assert outcome(path) == slow_outcome(path)


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize("name", ["dcm_qa_nih", "icometrix", "dcm_qa_enh", "wg04", "pydicom_data"])
def test_the_fast_and_the_slow_way_read_the_same_of_real_files(name):
    for path in sorted(data_set(name).rglob("*")):
        if path.is_file():
            assert outcome(path) == slow_outcome(path)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_headers_are_read_the_same_both_ways(tmp_path, data):
    path = tmp_path / "whole.dcm"
    if not path.exists():
        dataset = with_pixels(ct(RescaleSlope="2", RescaleIntercept="-1024", WindowCenter=[40, 600], WindowWidth="400"))
        dataset.add_new("PixelPaddingValue", "SS", -2000)
        write(path, dataset)
    content = bytearray(path.read_bytes())
    end = content.rindex(b"\xe0\x7f\x10\0") + 12
    for place in data.draw(st.lists(st.integers(132, end), min_size=1, max_size=4)):
        content[place] = data.draw(st.integers(0, 255))
    broken = tmp_path / "broken.dcm"
    broken.write_bytes(content)
    assert outcome(broken) == slow_outcome(broken)


@pytest.mark.parametrize("shape", [(50, 10), (2500, 1000)])
def test_files_of_any_length_are_read_the_same_way(tmp_path, shape):
    """Small files are read as a whole; of large ones the header first, and then the pixels."""
    stored = np.random.default_rng(1).integers(0, 4096, shape).astype(np.uint16)
    path = write(tmp_path / "a.dcm", with_pixels(ct(), stored))
    np.testing.assert_array_equal(read_pixels(path).values, stored)
    assert outcome(path) == slow_outcome(path)
    path.write_bytes(path.read_bytes()[:-1])
    assert refused(path) == "TRUNCATED_FILE"
