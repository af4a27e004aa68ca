"""The fault table: each planted fault has exactly one reason code, and nothing is ever raised."""

import hashlib
import os
import socket
import struct
import threading
import time
import tracemalloc
import zlib
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian

from pipeline.core.reasons import REASONS
from pipeline.core.records import Instance
from pipeline.dicom.reading.quiet import quiet
from pipeline.dicom.slices.headers import age_years, parsed_date, read_header
from tests.dicom.samples import LIMIT, PIXELS, SYNTAXES, ct, radiograph, raw_element, with_pixels, write

MODALITIES = ("CR", "CT")


def look(path, modalities=MODALITIES):
    return read_header(path, path.name, modalities=modalities, largest_bytes=LIMIT)


@contextmanager
def most_memory_bytes():
    """Give a list that holds the most memory allocated at one time in the block, once it is over."""
    peak = []
    tracemalloc.start()
    try:
        yield peak
        peak.append(tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()


def patched(path, **changes):
    """Write a good file and overwrite bytes of its elements: keyword -> (old value bytes, new value bytes)."""
    data = path.read_bytes()
    for old, new in changes.values():
        assert data.count(old) == 1
        data = data.replace(old, new)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_good_file_is_accepted_in_every_syntax(tmp_path, syntax):
    path = write(tmp_path / "a.dcm", with_pixels(radiograph(BurnedInAnnotation="NO")), syntax=syntax)
    found = look(path)
    assert isinstance(found, Instance)
    assert (found.rows, found.columns, found.bits_stored, found.is_signed) == (33, 36, 12, False)
    assert found.kind == "image"
    assert found.patient_id == "PID-4711"
    assert found.burned_in_annotation is False
    content = path.read_bytes()
    assert found.head_sha256 == hashlib.sha256(len(content).to_bytes(8, "big") + content[: 1 << 14]).hexdigest()
    assert found.size_bytes == len(content)
    assert found.transfer_syntax_uid == SYNTAXES[syntax]


@pytest.mark.parametrize("syntax", ["explicit", "implicit", "deflated"])
def test_a_patient_whose_number_cannot_be_read_is_nobody(tmp_path, syntax):
    """In another character set than the file says, other patients have the same one as far as it can be read."""
    dataset = with_pixels(radiograph(SpecificCharacterSet="ISO_IR 192"))
    dataset[0x00100020] = RawDataElement(Tag(0x00100020), "LO", 6, b"\xc4A4711", 0, False, True)
    with quiet():
        assert look(write(tmp_path / "a.dcm", dataset, syntax=syntax)) == "MISSING_IDENTITY"


def test_a_slice_keeps_its_place(tmp_path):
    found = look(write(tmp_path / "a.dcm", with_pixels(ct())))
    assert found.kind == "slice"
    assert found.image_position_mm == (-10.5, 20.25, 30.0)
    assert found.image_orientation == (1, 0, 0, 0, 0.8, 0.6)
    assert found.pixel_spacing_mm == (0.8, 0.6)


def missing(keyword):
    return lambda: with_pixels(radiograph(**{keyword: None}))


def changed(**elements):
    return lambda: with_pixels(radiograph(**elements))


def changed_slice(**elements):
    return lambda: with_pixels(ct(**elements))


def overdescribed(**elements):
    """Describe other pixels than there are."""

    def make():
        dataset = with_pixels(radiograph())
        for keyword, value in elements.items():
            setattr(dataset, keyword, value)
        return dataset

    return make


FAULTY_HEADERS = {
    "no patient": (missing("PatientID"), "MISSING_IDENTITY"),
    "blank patient": (changed(PatientID="  "), "MISSING_IDENTITY"),
    "no study": (missing("StudyInstanceUID"), "MISSING_IDENTITY"),
    "no series": (missing("SeriesInstanceUID"), "MISSING_IDENTITY"),
    "no instance": (missing("SOPInstanceUID"), "MISSING_IDENTITY"),
    "no modality": (missing("Modality"), "MISSING_IDENTITY"),
    "other modality": (changed(Modality="US"), "UNWANTED_MODALITY"),
    "structured report": (lambda: radiograph(SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11"), "NOT_AN_IMAGE"),
    "presentation state": (lambda: radiograph(SOPClassUID="1.2.840.10008.5.1.4.1.1.11.1"), "NOT_AN_IMAGE"),
    "key objects": (lambda: radiograph(SOPClassUID="1.2.840.10008.5.1.4.1.1.88.59"), "NOT_AN_IMAGE"),
    "structure set": (lambda: radiograph(SOPClassUID="1.2.840.10008.5.1.4.1.1.481.3"), "NOT_AN_IMAGE"),
    "directory": (lambda: radiograph(SOPClassUID="1.2.840.10008.1.3.10"), "NOT_AN_IMAGE"),
    "private class": (changed(SOPClassUID="1.3.12.2.1107.5.9.1"), "UNSUPPORTED_IMAGE"),
    "image class without pixels": (radiograph, "TRUNCATED_FILE"),
    "no rows": (overdescribed(Rows=0), "BAD_DIMENSIONS"),
    "too many rows": (overdescribed(Rows=65535, Columns=65535), "BAD_DIMENSIONS"),
    "frames beyond the limit": (overdescribed(NumberOfFrames="100000"), "BAD_DIMENSIONS"),
    "negative frames": (overdescribed(NumberOfFrames="-1"), "BAD_DIMENSIONS"),
    "more rows than pixels": (overdescribed(Rows=34), "BAD_DIMENSIONS"),
    "fewer rows than pixels": (overdescribed(Rows=32), "BAD_DIMENSIONS"),
    "several frames": (overdescribed(NumberOfFrames="2"), "UNSUPPORTED_IMAGE"),
    "colour": (overdescribed(SamplesPerPixel=3, PhotometricInterpretation="RGB"), "UNSUPPORTED_IMAGE"),
    "palette": (overdescribed(PhotometricInterpretation="PALETTE COLOR"), "UNSUPPORTED_IMAGE"),
    "one bit": (overdescribed(BitsAllocated=1, BitsStored=1, HighBit=0), "UNSUPPORTED_IMAGE"),
    "32 bits": (overdescribed(BitsAllocated=32, BitsStored=32, HighBit=31), "UNSUPPORTED_IMAGE"),
    "more bits stored than there are": (overdescribed(BitsStored=17, HighBit=16), "UNSUPPORTED_IMAGE"),
    "bits shifted": (overdescribed(HighBit=15), "UNSUPPORTED_IMAGE"),
    "no position": (changed_slice(ImagePositionPatient=None), "BAD_GEOMETRY"),
    "no orientation": (changed_slice(ImageOrientationPatient=None), "BAD_GEOMETRY"),
    "flat orientation": (changed_slice(ImageOrientationPatient=[1, 0, 0, 1, 0, 0]), "BAD_GEOMETRY"),
    "no spacing": (changed_slice(PixelSpacing=None), "BAD_GEOMETRY"),
    "zero spacing": (changed_slice(PixelSpacing=[0, 0.6]), "BAD_GEOMETRY"),
    "negative spacing": (changed_slice(PixelSpacing=[0.8, -0.6]), "BAD_GEOMETRY"),
    "one spacing": (changed_slice(PixelSpacing=[0.8]), "BAD_GEOMETRY"),
}


@pytest.mark.parametrize("fault", FAULTY_HEADERS)
@pytest.mark.parametrize("syntax", ["explicit", "implicit", "deflated"])
def test_faulty_headers(tmp_path, fault, syntax):
    make, code = FAULTY_HEADERS[fault]
    assert look(write(tmp_path / "a.dcm", make(), syntax=syntax)) == code
    assert code in REASONS


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"-10.5\\20.25\\30.0", b"-10.5\\TEXT!\\30.0"),
        (b"-10.5\\20.25\\30.0", b"-10.5\\2nan5\\30.0"),
        (b"0.8\\0.6 ", b"nan\\0.6 "),
    ],
)
def test_text_where_numbers_belong(tmp_path, old, new):
    dataset = ct(ImageOrientationPatient=["1", "0", "0", "0", "1", "0"])
    path = write(tmp_path / "a.dcm", with_pixels(dataset))
    assert look(patched(path, position=(old, new))) == "BAD_GEOMETRY"


def test_entries_that_are_no_files(tmp_path):
    write(tmp_path / "real.dcm", with_pixels(radiograph()))
    (tmp_path / "link.dcm").symlink_to(tmp_path / "real.dcm")
    (tmp_path / "loop.dcm").symlink_to(tmp_path / "loop.dcm")
    os.mkfifo(tmp_path / "pipe.dcm")
    (tmp_path / "folder.dcm").mkdir()
    with socket.socket(socket.AF_UNIX) as endpoint:
        endpoint.bind(str(tmp_path / "socket.dcm"))
        for name in ("link", "loop", "pipe", "folder", "socket"):
            assert look(tmp_path / f"{name}.dcm") == "NOT_A_REGULAR_FILE", name
    assert look(tmp_path / "absent.dcm") == "UNREADABLE_FILE"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permissions(tmp_path):
    path = write(tmp_path / "a.dcm", with_pixels(radiograph()))
    path.chmod(0)
    assert look(path) == "UNREADABLE_FILE"


def test_bytes_that_are_no_dicom(tmp_path):
    path = tmp_path / "a.dcm"
    good = write(tmp_path / "good.dcm", with_pixels(radiograph())).read_bytes()
    for content, code in [
        (b"", "EMPTY_FILE"),
        (b"not dicom", "NOT_DICOM"),
        (b"text " * 1000, "NOT_DICOM"),
        (good[132:], "NOT_DICOM"),
        (bytes(128) + b"DICM", "UNREADABLE_HEADER"),
        (bytes(128) + b"DICM" + b"\xff" * 500, "UNREADABLE_HEADER"),
    ]:
        path.write_bytes(content)
        assert look(path) == code


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_truncated_file_is_never_accepted(tmp_path, syntax):
    path = write(tmp_path / "a.dcm", with_pixels(radiograph()), syntax=syntax)
    whole = path.read_bytes()
    assert isinstance(look(path), Instance)
    for kept in range(1, len(whole) - 1, 37):
        path.write_bytes(whole[:kept])
        code = look(path)
        assert code in {"NOT_DICOM", "UNREADABLE_HEADER", "TRUNCATED_FILE"}, (kept, code)
    path.write_bytes(whole[:-9])
    assert look(path) == "TRUNCATED_FILE"


@pytest.mark.parametrize("length", [0xFFFFFFF0, 10_000_000])
def test_a_lying_length_of_the_pixel_data(tmp_path, length):
    path = write(tmp_path / "a.dcm", with_pixels(radiograph()))
    head = struct.pack("<HH2sHL", 0x7FE0, 0x0010, b"OW", 0, PIXELS.nbytes)
    patched(path, length=(head, head[:8] + struct.pack("<L", length)))
    assert look(path) == "TRUNCATED_FILE"


def test_native_pixels_of_undefined_length(tmp_path):
    path = write(tmp_path / "a.dcm", with_pixels(radiograph()))
    head = struct.pack("<HH2sHL", 0x7FE0, 0x0010, b"OW", 0, PIXELS.nbytes)
    patched(path, length=(head, head[:8] + b"\xff" * 4))
    assert look(path) == "UNREADABLE_HEADER"


def test_a_missing_transfer_syntax(tmp_path):
    path = write(tmp_path / "a.dcm", with_pixels(radiograph()))
    uid = ExplicitVRLittleEndian.encode() + b"\0"
    patched(path, syntax=(uid, bytes(len(uid))))
    assert look(path) == "UNREADABLE_HEADER"


def test_another_encoding_than_stated(tmp_path):
    path = write(tmp_path / "a.dcm", with_pixels(radiograph()), syntax="implicit")
    patched(path, syntax=(b"1.2.840.10008.1.2\0", b"1.2.840.10008.1.2.1\0"[:18]))
    assert look(path) != "accepted"
    assert not isinstance(look(path), Instance)


@pytest.mark.parametrize("uid", ["1.2.840.10008.1.2.4.100", "1.2.840.10008.1.2.4.94", "1.2.3.4"])
def test_a_compression_without_a_decoder(tmp_path, uid):
    path = write(tmp_path / "a.dcm", with_pixels(radiograph()), syntax="RLE")
    data = path.read_bytes()
    meta = with_meta_syntax(data, uid)
    path.write_bytes(meta)
    assert look(path) == "UNSUPPORTED_TRANSFER_SYNTAX"


def with_meta_syntax(data, uid):
    """Replace the transfer syntax in the meta information and mend the group length."""
    at = data.index(struct.pack("<HH2s", 0x0002, 0x0010, b"UI"))
    (length,) = struct.unpack_from("<H", data, at + 6)
    value = uid.encode() + b"\0" * (len(uid) % 2)
    (group,) = struct.unpack_from("<L", data, 140)
    changed_data = data[: at + 6] + struct.pack("<H", len(value)) + value + data[at + 8 + length :]
    return changed_data[:140] + struct.pack("<L", group + len(value) - length) + changed_data[144:]


@pytest.mark.parametrize("at", [0, 1])
def test_a_codestream_of_another_size_is_not_decoded(tmp_path, at):
    path = write(tmp_path / "a.dcm", with_pixels(radiograph()), syntax="JPEG 2000")
    data = bytearray(path.read_bytes())
    start = data.index(b"\xff\x4f\xff\x51") + 8 + 4 * at
    data[start : start + 4] = struct.pack(">L", 1 << 20)
    path.write_bytes(data)
    assert look(path) == "BAD_DIMENSIONS"


def test_garbage_for_a_codestream(tmp_path):
    path = write(tmp_path / "a.dcm", with_pixels(radiograph()), syntax="JPEG 2000")
    data = path.read_bytes()
    path.write_bytes(data.replace(b"\xff\x4f\xff\x51", b"\x12\x34\x56\x78"))
    assert look(path) == "BAD_DIMENSIONS"


def test_a_deflate_bomb_stays_small(tmp_path):
    path = write(tmp_path / "a.dcm", with_pixels(radiograph()), syntax="deflated")
    data = path.read_bytes()
    start = 144 + struct.unpack_from("<L", data, 140)[0]
    bomb = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    packed = b"".join(bomb.compress(bytes(1 << 24)) for _ in range(6)) + bomb.flush()
    path.write_bytes(data[:start] + packed)
    with most_memory_bytes() as peak:
        assert look(path) == "BAD_DIMENSIONS"
    assert peak[0] < 60_000_000  # it would inflate to 100 MB


def test_garbage_for_a_deflated_data_set(tmp_path):
    path = write(tmp_path / "a.dcm", with_pixels(radiograph()), syntax="deflated")
    data = path.read_bytes()
    start = 144 + struct.unpack_from("<L", data, 140)[0]
    path.write_bytes(data[:start] + b"\xff" * 200)
    assert look(path) == "UNREADABLE_HEADER"


@pytest.mark.parametrize("depth", [30, 400])
def test_nested_sequences_neither_crash_nor_hang(tmp_path, depth):
    item_start = struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
    item_end = struct.pack("<HHL", 0xFFFE, 0xE00D, 0) + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    head = struct.pack("<HH2sHL", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF)
    path = write(tmp_path / "a.dcm", with_pixels(radiograph()))
    data = path.read_bytes()
    at = data.index(struct.pack("<HH2s", 0x0010, 0x0010, b"PN"))
    path.write_bytes(data[:at] + (head + item_start) * depth + item_end * depth + data[at:])
    found = look(path)
    assert found == "UNREADABLE_HEADER" if depth == 400 else isinstance(found, Instance)


def test_a_large_private_element_is_not_read_into_memory(tmp_path):
    path = write(tmp_path / "a.dcm", with_pixels(radiograph()))
    data = path.read_bytes()
    at = data.index(struct.pack("<HH2s", 0x0010, 0x0010, b"PN"))
    path.write_bytes(data[:at] + raw_element(0x0009, 0x1001, "OB", bytes(60_000_000)) + data[at:])
    with most_memory_bytes() as peak:
        assert isinstance(look(path), Instance)
    assert peak[0] < 5_000_000


def test_very_many_elements_do_not_cost_minutes(tmp_path):
    path = write(tmp_path / "a.dcm", with_pixels(radiograph()))
    data = path.read_bytes()
    at = data.index(struct.pack("<HH2s", 0x0010, 0x0010, b"PN"))
    path.write_bytes(data[:at] + raw_element(0x0009, 0x1001, "LO", b"") * 300_000 + data[at:])
    started = time.monotonic()
    assert look(path) == "UNREADABLE_HEADER"
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("value", ["../../etc/passwd", "a/b", "\0", "line\nbreak", "x" * 300, "=1+1", "Zoë 田中"])
def test_strange_patient_numbers_are_only_texts(tmp_path, value):
    dataset = with_pixels(radiograph(SpecificCharacterSet="ISO_IR 192"))
    path = write(tmp_path / "a.dcm", dataset)
    data = path.read_bytes()
    old = struct.pack("<HH2sH", 0x0010, 0x0020, b"LO", 8) + b"PID-4711"
    new = value.encode() + b" " * (len(value.encode()) % 2)
    path.write_bytes(data.replace(old, struct.pack("<HH2sH", 0x0010, 0x0020, b"LO", len(new)) + new))
    found = look(path)
    if value.strip("\0"):
        assert found.patient_id == value
    else:
        assert found == "MISSING_IDENTITY"


def test_an_unknown_character_set_is_no_obstacle(tmp_path, capsys, recwarn):
    dataset = with_pixels(radiograph())
    path = write(tmp_path / "a.dcm", dataset)
    data = path.read_bytes()
    at = data.index(struct.pack("<HH2s", 0x0008, 0x0016, b"UI"))
    path.write_bytes(data[:at] + raw_element(0x0008, 0x0005, "CS", b"SECRET SET") + data[at:])
    assert isinstance(look(path), Instance)
    assert "SECRET" not in capsys.readouterr().err
    assert not recwarn.list


def test_burned_in_annotation_is_taken_as_it_stands(tmp_path):
    for value, expected in (("YES", True), ("NO", False), (None, None), ("PERHAPS", None)):
        found = look(write(tmp_path / "a.dcm", with_pixels(radiograph(BurnedInAnnotation=value))))
        assert found.burned_in_annotation is expected


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_flipped_bytes_never_raise(tmp_path, data):
    syntax = data.draw(st.sampled_from(sorted(SYNTAXES)))
    path = tmp_path / f"{syntax}.dcm"
    if not path.exists():
        write(path, with_pixels(ct(Extra=None)), syntax=syntax)
    content = bytearray(path.read_bytes())
    for place in data.draw(st.lists(st.integers(132, len(content) - 1), min_size=1, max_size=64)):
        content[place] = data.draw(st.integers(0, 255))
    broken = tmp_path / "broken.dcm"
    broken.write_bytes(content)
    found = look(broken)
    assert isinstance(found, Instance) or found in REASONS


def test_reading_from_threads_is_silent(tmp_path, recwarn):
    paths = [write(tmp_path / f"{number}.dcm", with_pixels(ct(PatientAge="BAD!"))) for number in range(4)]
    found = []
    threads = [threading.Thread(target=lambda path=path: found.append(look(path))) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4


@pytest.mark.parametrize(
    ("age", "born", "seen", "expected"),
    [
        ("045Y", "19000101", "20200101", 45),
        ("018M", "", "", 1.5),
        ("010D", "", "", 10 / 365.25),
        ("", "20000229", "20230228", 22),
        ("", "20000229", "20230301", 23),
        ("", "20230110", "20230709", 5 / 12),
        ("", "20240101", "20230101", None),
        ("", "18000101", "20230101", None),
        ("45", "", "", None),
        ("", "", "20230101", None),
        ("-10Y", "", "", None),
    ],
)
def test_ages(age, born, seen, expected):
    assert age_years(age, born, seen) == (pytest.approx(expected) if expected is not None else None)


@pytest.mark.parametrize("value", ["", "2024", "20240230", "2024-1-1", "202402291", "２０２４０２２９", "abcdefgh"])
def test_what_is_no_date(value):
    assert parsed_date(value) is None
