"""Ordinary headers, read whole: every element up to the pixel data as pydicom would give it, or nothing.

Where `walker` skips what nobody asked for, this keeps all of it, and declines at the first sign of anything unusual:
then pydicom reads the header. Tags must rise, lengths must be even and end within the file, representations must be
the standard's. Values stay as bytes; sequences are taken to their ends and left to pydicom.

References
----------
DICOM PS3.5, sections 7.1 (data elements) and 7.5 (sequences).
"""

from collections.abc import Sequence
from functools import lru_cache
from struct import Struct, error
from typing import BinaryIO, cast

from pydicom.charset import convert_encodings
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
_LENGTH = Struct("<L").unpack_from
_UNDEFINED = 0xFFFFFFFF
_DELIMITER_BYTES = 8
_FIRST_TAG, _FIRST_PIXELS, _PIXELS = 0x00080000, 0x7FE00000, (0x7FE00008, 0x7FE00009, 0x7FE00010)
_MOST_ELEMENTS = 5_000
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
    try:
        found, at = _walked(head, is_whole=is_whole)
    except (error, DeclinedError, HeadTooShortError, SequenceTooDeepError, UnicodeDecodeError):
        return None
    dataset = Dataset(cast("dict[BaseTag, DataElement | RawDataElement]", found))
    charset = found.get(_CHARACTER_SET)
    dataset.set_original_encoding(False, True, _encodings(charset.value if charset else b"ISO_IR 6"))
    return dataset, at


def _walked(head: bytes, *, is_whole: bool) -> tuple[dict[BaseTag, RawDataElement], int]:
    found: dict[BaseTag, RawDataElement] = {}
    at, last, size = 0, _FIRST_TAG - 1, len(head)
    while True:
        if at == size and is_whole:
            return found, at
        group, number, code, length = _EXPLICIT(head, at)
        tag = group << 16 | number
        if tag in _PIXELS and tag > last:
            return found, at
        if tag <= last or tag >= _FIRST_PIXELS or len(found) > _MOST_ELEMENTS:
            raise DeclinedError
        representation = _SHORT.get(code)
        begin = at + 8
        if representation is None:
            representation = _LONG.get(code)
            if representation is None or length:  # two reserved bytes
                raise DeclinedError
            (length,) = _LENGTH(head, begin)
            begin += 4
        if length == _UNDEFINED:
            if representation != "SQ":
                raise DeclinedError
            at = behind_sequence(head, begin, False, 1)
            value = head[begin : at - _DELIMITER_BYTES]
        else:
            at = begin + length
            value = head[begin:at]
        if at > size or (length % 2 and length != _UNDEFINED):
            raise DeclinedError
        key = base_tag(tag)
        found[key] = RawDataElement(key, representation, len(value), value, begin, False, True)
        last = tag


@lru_cache(maxsize=64)
def _encodings(value: bytes) -> str | list[str]:
    names = value.decode("ascii").rstrip(" \0").split("\\")
    return convert_encodings([name.strip() for name in names])
