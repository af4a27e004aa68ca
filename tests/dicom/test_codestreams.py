"""What stands in compressed frames beside the picture goes; the picture stays to the last value, and so do lengths."""

import io
import struct
from contextlib import suppress
from itertools import pairwise

import imagecodecs
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.encaps import encapsulate, encapsulate_extended, generate_frames
from pydicom.uid import (
    JPEG2000,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from pipeline.deidentify_folder import deidentify_folder
from pipeline.dicom.deidentification.codestreams import without_comments
from pipeline.dicom.reading.files import FileFault
from tests.dicom.samples import radiograph, with_pixels

WORDS = (b"MUSTERMANN", b"JO AB", b"19260508", b"2024:03:01", b"St Marys")
TEXT = b"MUSTERMANN JO AB 19260508 2024:03:01 St Marys"
RNG = np.random.default_rng(3)
GREY8 = RNG.normal(100, 20, (96, 80)).clip(0, 255).astype(np.uint8)
GREY12 = RNG.normal(1000, 200, (96, 80)).clip(0, 4095).astype(np.uint16)
COLOUR = np.dstack([GREY8, GREY8[::-1], 255 - GREY8])


def pillow(picture, kind="JPEG", **options):
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, kind, **options)
    return buffer.getvalue()


def with_rgb_components(codestream):
    """Name the components R, G and B: without the JFIF header decoders take them for these colours."""
    made = bytearray(codestream)
    for marker, first, step in ((b"\xff\xc0", 10, 3), (b"\xff\xda", 5, 2)):
        at = made.index(marker)
        for number, letter in enumerate(b"RGB"):
            made[at + first + number * step] = letter
    return bytes(made)


CODESTREAMS = {
    "baseline": (JPEGBaseline8Bit, pillow(GREY8), imagecodecs.jpeg_decode),
    "progressive": (JPEGBaseline8Bit, pillow(COLOUR, progressive=True), imagecodecs.jpeg_decode),
    "restarts": (JPEGBaseline8Bit, pillow(COLOUR, restart_marker_blocks=3), imagecodecs.jpeg_decode),
    "Adobe": (JPEGBaseline8Bit, imagecodecs.jpeg_encode(COLOUR, colorspace="rgb", outcolorspace="rgb"), None),
    "JFIF": (JPEGBaseline8Bit, with_rgb_components(pillow(COLOUR)), imagecodecs.jpeg_decode),
    "extended": (JPEGExtended12Bit, imagecodecs.jpeg_encode(GREY12, bitspersample=12), imagecodecs.jpeg_decode),
    "lossless": (JPEGLosslessSV1, imagecodecs.ljpeg_encode(GREY12, bitspersample=12), imagecodecs.jpegsof3_decode),
    "JPEG-LS": (JPEGLSLossless, imagecodecs.jpegls_encode(GREY12), imagecodecs.jpegls_decode),
    "JPEG 2000": (JPEG2000Lossless, imagecodecs.jpeg2k_encode(GREY12, codecformat="j2k"), imagecodecs.jpeg2k_decode),
    "tiles": (
        JPEG2000,
        pillow(GREY8, kind="JPEG2000", tile_size=(32, 32), no_jp2=True),
        imagecodecs.jpeg2k_decode,
    ),
    "JP2": (JPEG2000, imagecodecs.jpeg2k_encode(GREY12, codecformat="jp2"), imagecodecs.jpeg2k_decode),
    "HTJ2K": (HTJ2KLossless, imagecodecs.htj2k_encode(GREY12), imagecodecs.htj2k_decode),
}


def decoded(name, codestream):
    return (CODESTREAMS[name][2] or imagecodecs.jpeg_decode)(codestream)


def segment(marker, text):
    return struct.pack(">HH", 0xFF00 | marker, len(text) + 2) + text


def planted(name, codestream):
    """Put texts wherever there is room for them."""
    if name == "JP2":
        at = codestream.index(b"jp2h") - 4
        box = struct.pack(">L4s", 8 + len(TEXT), b"xml ") + TEXT
        start = codestream.index(b"\xff\x4f\xff\x51")
        length = struct.unpack_from(">L", codestream, start - 8)[0]
        inner = in_jpeg_2000(codestream[start:])
        grown = length + len(inner) - len(codestream[start:]) if length else 0
        head = codestream[at : start - 8]
        return codestream[:at] + box + head + struct.pack(">L4s", grown, b"jp2c") + inner
    if name in {"JPEG 2000", "tiles", "HTJ2K"}:
        return in_jpeg_2000(codestream)
    texts = segment(0xFE, TEXT) + segment(0xE1, b"Exif\0\0" + TEXT) + segment(0xE2, b"ICC_PROFILE\0\1\1" + TEXT)
    texts += segment(0xE8, TEXT) + segment(0xED, TEXT) + segment(0xE0, b"JFXX\0" + TEXT)
    at = codestream.index(b"\xff\xda")  # between the tables and the scan
    made = codestream[:2] + texts + codestream[2:at] + segment(0xFE, TEXT) + codestream[at:-2]
    if name == "JPEG-LS":  # whose decoder takes nothing between scan and end
        return made + b"\xff\xd9" + TEXT
    return made + b"\xff" + segment(0xFE, TEXT) + b"\xff\xd9" + TEXT


def in_jpeg_2000(codestream):
    comment = struct.pack(">HHH", 0xFF64, 4 + len(TEXT), 1) + TEXT
    at = 4 + struct.unpack_from(">H", codestream, 4)[0]
    made = codestream[:at] + comment
    while codestream[at : at + 2] != b"\xff\x90":
        end = at + 2 + struct.unpack_from(">H", codestream, at + 2)[0]
        if codestream[at : at + 2] != b"\xff\x55":  # lengths of tile parts, which grow here
            made += codestream[at:end]
        at = end
    while codestream[at : at + 2] == b"\xff\x90":
        length = struct.unpack_from(">L", codestream, at + 6)[0] or len(codestream) - 2 - at
        head = codestream[at : at + 6] + struct.pack(">L", length + len(comment)) + codestream[at + 10 : at + 12]
        made += head + comment + codestream[at + 12 : at + length]
        at += length
    return made + codestream[at:]


def value_of(frames, fragments=1, *, has_table=True):
    return encapsulate(frames, fragments_per_frame=fragments, has_bot=has_table)


def items(value):
    found, at = [], 0
    while at < len(value):
        length = struct.unpack_from("<L", value, at + 4)[0]
        found.append((at, length))
        at += 8 + length
    return found


@pytest.mark.parametrize("fragments", [1, 2, 7])
@pytest.mark.parametrize("name", CODESTREAMS)
def test_texts_go_and_the_picture_stays(name, fragments):
    syntax, codestream, _ = CODESTREAMS[name]
    frames = [codestream, planted(name, codestream), codestream]
    value = value_of(frames, fragments)
    assert all(word in value for word in WORDS) or fragments > 1
    made = without_comments(value, syntax)
    assert items(made) == items(value)
    assert made[: items(value)[1][0]] == value[: items(value)[1][0]]  # the offset table
    whole = b"".join(made[at + 8 : at + 8 + length] for at, length in items(made)[1:])
    assert not [word for word in WORDS if word in whole]
    for frame in generate_frames(made, number_of_frames=3):
        np.testing.assert_array_equal(decoded(name, frame), decoded(name, codestream))


@pytest.mark.parametrize("name", CODESTREAMS)
def test_what_encoders_write_of_themselves_does_not_matter(name):
    """A second pass finds nothing to do, whatever the first one did."""
    syntax, codestream, _ = CODESTREAMS[name]
    value = value_of([codestream, codestream])
    made = without_comments(value, syntax)
    assert without_comments(made, syntax) is made


def test_runs_have_no_room_for_texts():
    value = value_of([bytes(66)])
    assert without_comments(value, RLELossless) is value


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.110", "1.2.840.10008.1.2.4.102", "1.2.3"])
def test_what_cannot_be_followed_is_refused(syntax):
    with pytest.raises(FileFault, match="DEIDENTIFICATION_FAILED"):
        without_comments(value_of([CODESTREAMS["baseline"][1]]), syntax)


@pytest.mark.parametrize("name", [*CODESTREAMS, "RLE"])
def test_an_offset_table_holds_offsets(name):
    """Readers of a single frame skip it, whatever it holds."""
    syntax, codestream, _ = CODESTREAMS.get(name, (RLELossless, bytes(64), None))
    single = without_comments(value_of([codestream], has_table=False), syntax)[8:]
    table = struct.pack("<HHL", 0xFFFE, 0xE000, 4)
    assert without_comments(table + b"ANNA" + single, syntax) == table + bytes(4) + single
    for text in (b"JO AB 19260508", TEXT):
        with pytest.raises(FileFault, match="DEIDENTIFICATION_FAILED"):
            without_comments(struct.pack("<HHL", 0xFFFE, 0xE000, len(text)) + text + single, syntax)
    for frames, fragments in ((3, 1), (3, 2), (1, 5)):
        value = value_of([codestream] * frames, fragments)
        assert without_comments(value, syntax)[: items(value)[1][0]] == value[: items(value)[1][0]]


def box(kind, contents):
    return struct.pack(">L4s", 8 + len(contents), kind) + contents


@pytest.mark.parametrize(
    "extra",
    [
        box(b"jP  ", TEXT),
        box(b"ftyp", b"jp2 \0\0\0\0" + TEXT),
        box(b"ftyp", b"MUSTERMANN"),
        box(b"JOHN", b"") + box(b"DOE ", b"x"),
        box(b"free", TEXT),
    ],
)
@pytest.mark.parametrize("is_inside", [False, True])
def test_boxes_have_no_room_for_texts(extra, is_inside):
    syntax, codestream, decode = CODESTREAMS["JP2"]
    at = codestream.index(b"jp2h") - 4
    length = struct.unpack_from(">L", codestream, at)[0]
    inner = codestream[at + 8 : at + length]
    codestream = codestream[:12] + box(b"ftyp", b"jp2 \0\0\0\0jp2 " + TEXT[:20]) + codestream[12 + 20 :]
    at += 20
    if is_inside:
        inner += box(b"res ", box(b"resc", TEXT[:10])) + box(b"free", TEXT)
    value = value_of([codestream[:at] + extra + box(b"jp2h", inner) + codestream[at + length :]])
    made = without_comments(value, syntax)
    assert len(made) == len(value)
    assert not [word for word in (*WORDS, TEXT[:4], b"JOHN", b"DOE ") if word in made]
    (frame,) = generate_frames(made, number_of_frames=1)
    np.testing.assert_array_equal(decode(frame), decode(codestream))


def test_colours_by_a_number_hold_a_number():
    syntax, codestream, _ = CODESTREAMS["JP2"]
    at, colours = codestream.index(b"jp2h") - 4, codestream.index(b"colr") - 4
    length, size = (struct.unpack_from(">L", codestream, place)[0] for place in (at, colours))
    contents = codestream[colours + 8 : colours + size] + TEXT
    inner = codestream[at + 8 : colours] + box(b"colr", contents) + codestream[colours + size : at + length]
    with pytest.raises(FileFault, match="DEIDENTIFICATION_FAILED"):
        without_comments(value_of([codestream[:at] + box(b"jp2h", inner) + codestream[at + length :]]), syntax)


def damages(name):
    codestream = CODESTREAMS[name][1]
    yield b"no codestream at all"
    yield codestream + codestream  # the second would be overwritten
    yield codestream[:2] + b"\xff\xf3\0\6TEXT" + codestream[2:]  # of no known meaning
    yield codestream[:2] + b"\xff\xfe\0\1" + codestream[2:]
    yield codestream[:2] + b"\xff\xfe\xff\xff"
    yield codestream[:3]


@pytest.mark.parametrize("name", ["baseline", "JPEG-LS", "JPEG 2000"])
def test_damaged_codestreams_are_refused(name):
    for damaged in damages(name):
        with pytest.raises(FileFault, match="DEIDENTIFICATION_FAILED"):
            without_comments(value_of([damaged]), CODESTREAMS[name][0])


@pytest.mark.parametrize("name", ["baseline", "JPEG-LS", "JPEG 2000"])
def test_a_frame_that_breaks_off_hides_nothing_behind_it(name):
    """A decoder may show what there is of the first; the comment of the second goes in any case, or the file."""
    syntax, codestream, _ = CODESTREAMS[name]
    value = value_of([codestream[: len(codestream) // 2 & ~1], planted(name, codestream)])
    try:
        made = without_comments(value, syntax)
    except FileFault:
        return
    assert not [word for word in WORDS if word in made]


def test_every_cut_is_followed_or_refused():
    """Bytes of hostile files end in a reason code, never in another exception."""
    for name in ("baseline", "JPEG-LS", "JPEG 2000", "JP2"):
        syntax, codestream, _ = CODESTREAMS[name]
        value = value_of([planted(name, codestream)])
        for length in [*range(400), *range(400, len(value), 97)]:
            with suppress(FileFault):
                assert len(without_comments(value[:length], syntax)) == length
        for at in range(400):
            changed = bytearray(value)
            changed[at] ^= 0xFF
            with suppress(FileFault):
                assert len(without_comments(bytes(changed), syntax)) == len(value)


@pytest.mark.parametrize("is_extended", [False, True])
def test_a_comment_in_a_frame_of_many_does_not_leave(tmp_path, is_extended):
    codestream = CODESTREAMS["baseline"][1]
    frames = [codestream] * 9
    frames[4] = planted("baseline", codestream)[: -len(TEXT)]  # behind its end, no frame may bear anything
    dataset = with_pixels(
        radiograph(Modality="XA", SOPClassUID="1.2.840.10008.5.1.4.1.1.12.1", NumberOfFrames=9), GREY8, bits=8
    )
    if is_extended:
        value, offsets, lengths = encapsulate_extended(frames)
        dataset.PixelData, dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths = value, offsets, lengths
    else:
        dataset.PixelData = encapsulate(frames)
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    source = tmp_path / "in"
    source.mkdir()
    dataset.save_as(source / "a.dcm", enforce_file_format=True)
    before = pydicom.dcmread(source / "a.dcm")
    assert deidentify_folder(input=source, output=tmp_path / "out") == 0
    (path,) = (tmp_path / "out" / "dicom").rglob("*.dcm")
    assert not [word for word in WORDS if word in path.read_bytes()]
    after = pydicom.dcmread(path)
    if is_extended:
        assert after.ExtendedOffsetTable == before.ExtendedOffsetTable
        offsets = struct.unpack("<9Q", after.ExtendedOffsetTable)
    else:
        offsets = struct.unpack("<9L", after.PixelData[8:44])
    assert [after.PixelData[items(after.PixelData)[1][0] + at :][:4] for at in offsets] == [b"\xfe\xff\0\xe0"] * 9
    assert all(first < second for first, second in pairwise(offsets))
    np.testing.assert_array_equal(after.pixel_array, before.pixel_array)
