"""Pixel format: what a header says about the pixels, held against the bytes that are there, before any decoding."""

import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

from pydicom.dataset import Dataset
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from pipeline.dicom.decoding.colour import COLOURS, PALETTE, PALETTE_KEYWORDS, SUBSAMPLED, palette_bits
from pipeline.dicom.reading import elements
from pipeline.dicom.reading.files import PIXEL_DATA, FileFault, Source
from pipeline.dicom.reading.walker import Element, as_header

PIXEL_FORMAT_KEYWORDS = (
    "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns", "BitsAllocated",
    "BitsStored", "HighBit", "PixelRepresentation", "PlanarConfiguration", *PALETTE_KEYWORDS,
)  # fmt: skip
GREY = frozenset({"MONOCHROME1", "MONOCHROME2"})
NATIVE = frozenset(
    {ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian}
)
_JPEG_2000 = frozenset({JPEG2000, JPEG2000Lossless, HTJ2K, HTJ2KLossless, HTJ2KLosslessRPCL})
_UNDEFINED_LENGTH = 0xFFFFFFFF
_ITEM = 0xFFFEE000
_SEQUENCE_DELIMITER = 0xFFFEE0DD
_MOST_FRAGMENTS = 100_000  # of one frame; the standard's own writers use one
_CODESTREAM_HEAD_BYTES = 1 << 16
_J2K_START = b"\xff\x4f\xff\x51"  # SOC and SIZ (ISO/IEC 15444-1, A.4.1 and A.5.1)
_CODESTREAM_TAIL_BYTES = 64
CODESTREAM_PADDING = b"\0\xff"  # zero by the standard, 255 by the reference encoder of WG-04
END_OF_CODESTREAM = b"\xff\xd9"  # EOC of JPEG 2000, EOI of JPEG and JPEG-LS
# JPEG start-of-frame markers (ITU-T T.81, table B.1; T.87 for JPEG-LS), without DHT, JPG and DAC.
_START_OF_FRAME = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})
_JPEG_MARKER = 0xFF
_JPEG_STANDALONE = frozenset({0x01, *range(0xD0, 0xD9)})


@dataclass(frozen=True)
class PixelFormat:
    """Frames of one size, and how their values are stored (PS3.3, section C.7.6.3).

    Attributes
    ----------
    planar_configuration
        0 if the three samples of a pixel follow one another, 1 if each has a plane of its own; None if there is one
        sample, or if the file does not say.
    palette_bits
        Of the entries of the palette: 8 or 16; 0 if there is none.
    """

    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    is_signed: bool
    photometric_interpretation: str
    frames: int = 1
    samples: int = 1
    planar_configuration: int | None = None
    palette_bits: int = 0

    @property
    def is_colour(self) -> bool:
        """Whether the picture is in colour, be it that of a palette."""
        return self.photometric_interpretation not in GREY

    @property
    def frame_bytes(self) -> int:
        """Length of the decoded pixels of one frame."""
        return self.rows * self.columns * self.samples * self.bits_allocated // 8

    @property
    def size_bytes(self) -> int:
        """Length of the decoded pixels."""
        return self.frame_bytes * self.frames

    @property
    def stored_range(self) -> tuple[int, int]:
        """Lowest and highest value that the stored bits can hold."""
        low = -(1 << (self.bits_stored - 1)) if self.is_signed else 0
        return low, low + (1 << self.bits_stored) - 1

    @property
    def grey_range(self) -> tuple[int, int]:
        """Lowest and highest value of the grey picture before its modality transformation: of colours, luminance."""
        return (0, (1 << (self.palette_bits or 8)) - 1) if self.is_colour else self.stored_range


@dataclass(frozen=True)
class PixelElement:
    """Where the pixel data element lies in the body of a file.

    Attributes
    ----------
    representation
        ``OB`` or ``OW``; empty in implicit encoding.
    start, length
        Of the value. For encapsulated data: of all items, without the sequence delimiter.
    is_encapsulated
        Whether the value is a sequence of fragments (PS3.5, section A.4).
    first_fragment
        Position and length of the first fragment behind the offset table; (0, 0) if there is none.
    fragments_bytes, fragments
        Length of all fragments together, and their number.
    """

    representation: str
    start: int
    length: int
    is_encapsulated: bool = False
    first_fragment: tuple[int, int] = (0, 0)
    fragments_bytes: int = 0
    fragments: int = 0


def pixel_format(dataset: Dataset, largest_bytes: int) -> PixelFormat:
    """Read the pixel format and check it by arithmetic.

    Raises
    ------
    FileFault
        ``BAD_DIMENSIONS`` if a dimension is missing, zero or more than `largest_bytes` when decoded;
        ``UNSUPPORTED_IMAGE`` if it does not hold grey frames of 8 or 16 bits, colours of 8, or those of a palette.
    """
    if header := as_header(dataset):
        return _known_format(tuple(map(header.get, PIXEL_FORMAT_KEYWORDS)), largest_bytes)
    return _pixel_format(dataset, largest_bytes)


@lru_cache(maxsize=256)
def _known_format(found: tuple[Element | None, ...], largest_bytes: int) -> PixelFormat:
    """Give the format of a header whose elements are those of one that was read before."""
    known = {name: element for name, element in zip(PIXEL_FORMAT_KEYWORDS, found, strict=True) if element is not None}
    return _pixel_format(cast("Dataset", known), largest_bytes)


def _pixel_format(dataset: Dataset, largest_bytes: int) -> PixelFormat:
    rows, columns = elements.integer(dataset, "Rows"), elements.integer(dataset, "Columns")
    frames = _one_if_absent(dataset, "NumberOfFrames")
    samples = _one_if_absent(dataset, "SamplesPerPixel")
    allocated = elements.integer(dataset, "BitsAllocated")
    if not rows or not columns or not frames or not samples or min(rows, columns, frames, samples) < 1:
        raise FileFault("BAD_DIMENSIONS")
    if rows * columns * frames * samples * max(allocated or 0, 8) // 8 > largest_bytes:
        raise FileFault("BAD_DIMENSIONS")
    stored = elements.integer(dataset, "BitsStored")
    high_bit = elements.integer(dataset, "HighBit")
    sign = elements.integer(dataset, "PixelRepresentation")
    photometric = elements.text(dataset, "PhotometricInterpretation")
    planar = elements.integer(dataset, "PlanarConfiguration") if samples > 1 else None
    is_supported = (
        allocated in {8, 16}
        and stored is not None
        and 1 < stored <= allocated
        and high_bit in {None, stored - 1}
        and sign in {0, 1}
        and planar in {None, 0, 1}
    )
    if photometric in COLOURS:
        is_supported = is_supported and (samples, allocated, stored, sign) == (3, 8, 8, 0)
    else:
        is_supported = is_supported and samples == 1 and (photometric in GREY or (photometric, sign) == (PALETTE, 0))
    if not is_supported:
        raise FileFault("UNSUPPORTED_IMAGE")
    bits = palette_bits(dataset) if photometric == PALETTE else 0
    is_signed = sign == 1
    return PixelFormat(
        rows, columns, allocated or 0, stored or 0, is_signed, photometric, frames, samples, planar, bits
    )


def pixel_element(source: Source) -> PixelElement:
    """Find the pixel data; the body must stand there (see `files.read_elements`), and is moved.

    Raises
    ------
    FileFault
        ``TRUNCATED_FILE`` if the file ends before, or inside of, the pixel data; ``UNSUPPORTED_IMAGE`` for
        floating-point pixels; ``UNREADABLE_HEADER`` if something else stands there.
    """
    order = "<" if source.is_little_endian else ">"
    if source.is_implicit:
        group, element, length = struct.unpack(f"{order}HHL", _exactly(source, 8))
        representation = ""
    else:
        group, element, code, _, length = struct.unpack(f"{order}HH2sHL", _exactly(source, 12))
        representation = code.decode("ascii", "replace")
    tag = group << 16 | element
    if tag != PIXEL_DATA:
        raise FileFault("UNSUPPORTED_IMAGE" if group == PIXEL_DATA >> 16 else "UNREADABLE_HEADER")
    if representation not in {"", "OB", "OW"}:
        raise FileFault("UNREADABLE_HEADER")
    start = source.body.tell()
    if length == _UNDEFINED_LENGTH:
        return _encapsulated(source, representation, start)
    if start + length > source.end:
        raise FileFault("TRUNCATED_FILE")
    return PixelElement(representation, start, length)


def check_pixel_data(source: Source, found: PixelElement, expected: PixelFormat) -> None:
    """Hold the pixel data against the format: native data by their length, compressed ones by their own header.

    Raises
    ------
    FileFault
        ``BAD_DIMENSIONS`` if they disagree; ``UNSUPPORTED_IMAGE`` if colours are native and it is not known how they
        are laid out; ``UNREADABLE_HEADER`` if the transfer syntax and the way the data
        are packed do; ``TRUNCATED_FILE`` if a codestream breaks off inside of complete fragments.
    """
    syntax = source.transfer_syntax_uid
    if found.is_encapsulated == (syntax in NATIVE):
        raise FileFault("UNREADABLE_HEADER")
    if not found.is_encapsulated:
        _check_native_length(found, expected)
        return
    if found.fragments < expected.frames:
        raise FileFault("TRUNCATED_FILE")
    if syntax == RLELossless:
        lines = expected.frames * expected.rows * expected.samples
        # A run costs at most one byte more for every 128 (PS3.5, G.3.1); the header has 64 bytes.
        if found.fragments_bytes > expected.size_bytes * 129 // 128 + lines * 4 + expected.frames * 128:
            raise FileFault("BAD_DIMENSIONS")
        return
    start, length = found.first_fragment
    source.body.seek(start)
    head = source.body.read(min(length, _CODESTREAM_HEAD_BYTES))
    if codestream_size(head, syntax) != (expected.rows, expected.columns, expected.samples):
        raise FileFault("BAD_DIMENSIONS")
    # Decoders fill up what is missing without a word; a codestream that is whole ends with its end marker.
    source.body.seek(max(found.start, found.start + found.length - _CODESTREAM_TAIL_BYTES))
    if not source.body.read(_CODESTREAM_TAIL_BYTES).rstrip(CODESTREAM_PADDING).endswith(END_OF_CODESTREAM):
        raise FileFault("TRUNCATED_FILE")


def _check_native_length(found: PixelElement, expected: PixelFormat) -> None:
    length = expected.size_bytes
    if expected.samples > 1 and expected.planar_configuration is None:
        raise FileFault("UNSUPPORTED_IMAGE")
    if expected.photometric_interpretation == SUBSAMPLED:  # two pixels share their colour (PS3.3, C.7.6.3.1.2)
        if expected.columns % 2 or expected.frames != 1 or expected.planar_configuration != 0:
            raise FileFault("UNSUPPORTED_IMAGE")
        length = length * 2 // 3
    if found.length not in {length, length + length % 2}:
        raise FileFault("BAD_DIMENSIONS")


def codestream_size(head: bytes, transfer_syntax_uid: str) -> tuple[int, int, int] | None:
    """Read rows, columns and components from the beginning of a JPEG 2000, JPEG or JPEG-LS codestream.

    Examples
    --------
    >>> codestream_size(bytes.fromhex("ffd8 ffc0 000b 08 0002 0003 01 011100"), "1.2.840.10008.1.2.4.50")
    (2, 3, 1)
    """
    if transfer_syntax_uid in _JPEG_2000:
        at = head.find(_J2K_START)
        if at < 0 or len(head) < at + 42:
            return None
        right, bottom, left, top = struct.unpack_from(">4L", head, at + 8)
        return bottom - top, right - left, struct.unpack_from(">H", head, at + 40)[0]
    return _jpeg_size(head)


def _jpeg_size(head: bytes) -> tuple[int, int, int] | None:
    at = 2 if head.startswith(b"\xff\xd8") else len(head)
    while at + 10 <= len(head):
        if head[at] != _JPEG_MARKER:
            return None
        marker = head[at + 1]
        if marker in _START_OF_FRAME:
            rows, columns, components = struct.unpack_from(">HHB", head, at + 5)
            return rows, columns, components
        if marker == _JPEG_MARKER:  # fill byte
            at += 1
        elif marker in _JPEG_STANDALONE:
            at += 2
        else:
            at += 2 + int.from_bytes(head[at + 2 : at + 4], "big")
    return None


def _encapsulated(source: Source, representation: str, start: int) -> PixelElement:
    first = (0, 0)
    total = 0
    at = start
    for index in range(_MOST_FRAGMENTS):
        source.body.seek(at)
        group, element, length = struct.unpack("<HHL", _exactly(source, 8))
        tag = group << 16 | element
        if tag == _SEQUENCE_DELIMITER:
            return PixelElement(representation, start, at - start, True, first, total, index - 1)
        if tag != _ITEM or length == _UNDEFINED_LENGTH:
            break
        if at + 8 + length > source.end:
            raise FileFault("TRUNCATED_FILE")
        if index > 0:  # the first item is the basic offset table
            total += length
            first = first if first != (0, 0) else (at + 8, length)
        at += 8 + length
    raise FileFault("UNREADABLE_HEADER")


def _exactly(source: Source, count: int) -> bytes:
    found = source.body.read(count)
    if len(found) < count:
        raise FileFault("TRUNCATED_FILE")
    return found


def _one_if_absent(dataset: Dataset, keyword: str) -> int | None:
    return elements.integer(dataset, keyword) if elements.text(dataset, keyword) else 1
