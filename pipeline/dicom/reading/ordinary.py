"""Ordinary headers, read whole: every element up to the pixel data as pydicom would give it, or nothing.

Where `walker` skips what nobody asked for, this keeps all of it, and declines at the first sign of anything unusual:
then pydicom reads the header. Tags must rise, lengths must be even and end within the file, representations must be
the standard's. Values stay as bytes; sequences are taken to their ends and left to pydicom.

References
----------
DICOM PS3.5, sections 7.1 (data elements) and 7.5 (sequences).
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from struct import Struct, error
from typing import BinaryIO

from pydicom.charset import convert_encodings
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from pipeline.dicom.reading.conversions import DeclinedError
from pipeline.dicom.reading.walker import HeadTooShortError, SequenceTooDeepError, behind_sequence

_SHORT = {
    code.encode(): code
    for code in ("AE", "AS", "AT", "CS", "DA", "DS", "DT", "FD", "FL", "IS", "LO", "LT", "PN", "SH", "SL", "SS", "ST",
                 "TM", "UI", "UL", "US")
}  # fmt: skip
_LONG = {code.encode(): code for code in ("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV")}
_EXPLICIT = Struct("<HH2sH").unpack_from
_IMPLICIT = Struct("<HHL").unpack_from
_LENGTH = Struct("<L").unpack_from
_OPEN = b"\xff\xff\xff\xff"
_SEQUENCE = b"SQ"
_UNDEFINED = 0xFFFFFFFF
_DELIMITER_BYTES = 8
_FIRST_TAG, _FIRST_PIXELS, _PIXELS = 0x00080000, 0x7FE00008, (0x7FE00008, 0x7FE00009, 0x7FE00010)
_MOST_ELEMENTS = 5_000
_LONGEST_BYTES = 1 << 19  # as much as `files` reads of a header at the most, before it leaves it to pydicom
_CHARACTER_SET = BaseTag(0x00080005)

base_tag = lru_cache(maxsize=20_000)(BaseTag)


def read_ordinary(body: BinaryIO, end: int, lengths: Sequence[int]) -> Dataset | None:
    """Read all elements and leave the stream at the pixel data; None, with the stream where it stood, if declined.

    Parameters
    ----------
    body
        The data set, at its first element.
    end
        Position behind its last byte.
    lengths
        How much to read at first, and how much more if that was too little.
    """
    start = body.tell()
    for length in lengths:
        head = body.read(length)
        found = ordinary_elements(head, is_whole=start + len(head) == end)
        if found is not None:
            body.seek(start + found[1])
            return found[0]
        body.seek(start)
        if len(head) < length:
            break
    return None


def ordinary_elements(head: bytes, *, is_whole: bool) -> tuple[Dataset, int] | None:
    """Read all elements in front of the pixel data, explicit little endian.

    Parameters
    ----------
    head
        The data set from its first byte on, or as much as has been read.
    is_whole
        Whether `head` reaches to the end of the file.

    Returns
    -------
    tuple | None
        The elements, and the position of the pixel data (or of the end); None if anything is unusual, or if `head`
        ends before.
    """
    found = ordinary_pieces(head, 0, is_implicit=False, is_whole=is_whole)
    return (dataset_of(found[0], is_implicit=False), found[1]) if found else None


def ordinary_pieces(head: bytes, at: int, *, is_implicit: bool, is_whole: bool) -> tuple[dict[int, bytes], int] | None:
    """Cut a data set in little endian into its elements: as `ordinary_elements`, but nothing is made of the bytes.

    Parameters
    ----------
    head, is_whole
        As there; `head` may begin before the data set.
    at
        Where in `head` the data set begins.
    is_implicit
        Whether representations are left out.

    Returns
    -------
    tuple | None
        Each element as it stands, from its tag to the end of its value (of a sequence of undefined length: its
        delimiter), by tag in rising order; and where the pixel data begin.
    """
    try:
        return (_implicit_pieces if is_implicit else _explicit_pieces)(head, at, len(head) if is_whole else -1)
    except (error, DeclinedError, HeadTooShortError, SequenceTooDeepError, UnicodeDecodeError):
        return None


def dataset_of(pieces: Mapping[int, bytes], *, is_implicit: bool) -> Dataset:
    """Make a data set of elements as they stood, which pydicom converts when they are asked for."""
    found: dict[BaseTag, DataElement | RawDataElement] = {}
    at = 0
    for tag, piece in pieces.items():
        raw = raw_of(tag, piece, at, is_implicit=is_implicit)
        found[raw.tag] = raw
        at += len(piece)
    dataset = Dataset(found)
    charset = found.get(_CHARACTER_SET)
    value = charset.value if isinstance(charset, RawDataElement) and charset.value else b"ISO_IR 6"
    dataset.set_original_encoding(is_implicit, True, _encodings(value))
    return dataset


def raw_of(tag: int, piece: bytes, at: int = 0, *, is_implicit: bool) -> RawDataElement:
    """Make an element of its bytes, which began at `at`."""
    key = base_tag(tag)
    representation = None if is_implicit else _SHORT.get(piece[4:6])
    if representation is not None or is_implicit:
        begin, is_open = 8, is_implicit and piece[4:8] == _OPEN
    else:
        begin, is_open, representation = 12, piece[8:12] == _OPEN, _LONG[piece[4:6]]
    value = piece[begin:-_DELIMITER_BYTES] if is_open else piece[begin:]
    if is_open:
        representation = "SQ"
    return RawDataElement(key, representation, len(value), value, at + begin, is_implicit, True)


def _explicit_pieces(head: bytes, at: int, end: int) -> tuple[dict[int, bytes], int]:
    """Cut explicit little endian; the data set ends at `end`, if that is known, or with the pixel data."""
    found: dict[int, bytes] = {}
    last, size = _FIRST_TAG - 1, min(len(head), at + _LONGEST_BYTES)
    unpack, short = _EXPLICIT, _SHORT  # this loop is where de-identification of slices is
    while at != end:
        group, number, code, length = unpack(head, at)
        tag = group << 16 | number
        if tag <= last or tag >= _FIRST_PIXELS:
            return _at_pixels(found, tag, last, at)
        begin = at
        at += 8
        if code not in short:
            if code not in _LONG or length:  # two reserved bytes
                raise DeclinedError
            (length,) = _LENGTH(head, at)
            at += 4
            if length == _UNDEFINED:
                if code != _SEQUENCE:
                    raise DeclinedError
                at, length = behind_sequence(head, at, False, 1), 0
        at += length
        if at > size or length % 2:
            raise DeclinedError
        found[tag] = head[begin:at]
        last = tag
    return _checked(found, at)


def _implicit_pieces(head: bytes, at: int, end: int) -> tuple[dict[int, bytes], int]:
    """Cut implicit little endian."""
    found: dict[int, bytes] = {}
    last, size = _FIRST_TAG - 1, min(len(head), at + _LONGEST_BYTES)
    if head[at + 4 : at + 6].isalpha():  # looks like explicit encoding
        raise DeclinedError
    while at != end:
        group, number, length = _IMPLICIT(head, at)
        tag = group << 16 | number
        if tag <= last or tag >= _FIRST_PIXELS:
            return _at_pixels(found, tag, last, at)
        begin = at
        at += 8
        if length == _UNDEFINED:
            if not (dictionary_has_tag(tag) and dictionary_VR(tag) == "SQ"):
                raise DeclinedError
            at, length = behind_sequence(head, at, True, 1), 0
        at += length
        if at > size or length % 2:
            raise DeclinedError
        found[tag] = head[begin:at]
        last = tag
    return _checked(found, at)


def _at_pixels(found: dict[int, bytes], tag: int, last: int, at: int) -> tuple[dict[int, bytes], int]:
    if tag not in _PIXELS or tag <= last:
        raise DeclinedError
    return _checked(found, at)


def _checked(found: dict[int, bytes], at: int) -> tuple[dict[int, bytes], int]:
    # The value of Specific Character Set begins behind eight bytes in either form.
    if len(found) > _MOST_ELEMENTS or not found.get(_CHARACTER_SET, b"")[8:].isascii():
        raise DeclinedError
    return found, at


@lru_cache(maxsize=64)
def _encodings(value: bytes) -> str | list[str]:
    names = value.decode("ascii").rstrip(" \0").split("\\")
    return convert_encodings([name.strip() for name in names])
