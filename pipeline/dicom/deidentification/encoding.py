"""Encoding: a de-identified data set as the bytes of a DICOM file, around pixels that are not touched."""

import struct
import zlib
from functools import lru_cache

from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from pipeline.dicom.decoding.pixel_format import PixelElement
from pipeline.dicom.deidentification.raw import text_of
from pipeline.dicom.reading.files import PIXEL_DATA, FileFault

# A fixed UUID of this software as a UID (PS3.7, D.3.3.2); it says who wrote a file, nothing else.
IMPLEMENTATION_CLASS_UID = "2.25.178532741261943090401676036365778147102"
IMPLEMENTATION_VERSION_NAME = "IMAGING_TRANSFER"
_EMPTY_PREAMBLE = bytes(128) + b"DICM"
_UNDEFINED_LENGTH = 0xFFFFFFFF
_LONGEST_SHORT = 0xFFFF
# Representations with a length of 32 bits in explicit encoding (PS3.5, section 7.1.2).
_LONG = frozenset(["OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"])
_PADDED_WITH_NUL = frozenset({"UI", "OB", "UN"})
_ITEM = (0xFFFE, 0xE000)
_SOP_CLASS = 0x00080016
_SOP_INSTANCE = 0x00080018
_SEQUENCE_DELIMITER = struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)


def encoded_header(dataset: Dataset, transfer_syntax_uid: str) -> tuple[bytes, bytes]:
    """Encode all of a file but its pixels.

    Parameters
    ----------
    dataset
        Without pixel data.
    transfer_syntax_uid
        The encoding. Deflated data sets are not deflated yet.

    Returns
    -------
    tuple
        An empty preamble with file meta information of our own (no application entity titles), and the data set.
    """
    meta = encoded_meta(text_of(dataset, _SOP_CLASS), text_of(dataset, _SOP_INSTANCE), transfer_syntax_uid)
    return meta, encoded_elements(dataset, transfer_syntax_uid)


def encoded_elements(dataset: Dataset, transfer_syntax_uid: str) -> bytes:
    """Encode the elements of a data set in the order of their tags, without group lengths."""
    return _form(transfer_syntax_uid).encoded(dataset)


def encoded_meta(sop_class_uid: str, sop_uid: str, transfer_syntax_uid: str) -> bytes:
    """Encode preamble and file meta information, which is always explicit little endian (PS3.10, section 7.1).

    Raises
    ------
    FileFault
        ``DEIDENTIFICATION_FAILED`` without a SOP class (those of a maker go with all that is private), which every
        file must have, and for a transfer syntax that is not the standard's: whoever wrote it, it would be copied.
    """
    if not sop_class_uid or UID(transfer_syntax_uid).type != "Transfer Syntax":
        raise FileFault("DEIDENTIFICATION_FAILED")
    form = _form(ExplicitVRLittleEndian)
    rest = b"".join(
        form.framed(0x0002, number, representation, value)
        for number, representation, value in (
            (0x0001, "OB", b"\0\1"),
            (0x0002, "UI", sop_class_uid.encode()),
            (0x0003, "UI", sop_uid.encode()),
            (0x0010, "UI", transfer_syntax_uid.encode()),
            (0x0012, "UI", IMPLEMENTATION_CLASS_UID.encode()),
            (0x0013, "SH", IMPLEMENTATION_VERSION_NAME.encode()),
        )
    )
    return _EMPTY_PREAMBLE + form.framed(0x0002, 0x0000, "UL", struct.pack("<L", len(rest))) + rest


class _Form:
    """One way of encoding data sets (PS3.5, section 7.1); sequences and items get defined lengths."""

    def __init__(self, is_implicit: bool, is_little_endian: bool) -> None:
        self._is_implicit = is_implicit
        self._is_little_endian = is_little_endian
        order = "<" if is_little_endian else ">"
        self._short = struct.Struct(f"{order}HH2sH").pack
        self._long = struct.Struct(f"{order}HH2sHL").pack
        self._implicit = struct.Struct(f"{order}HHL").pack

    def encoded(self, dataset: Dataset) -> bytes:
        """Encode elements as `encoded_elements`."""
        found = {int(tag): element for tag, element in dataset.items()}
        return b"".join(self._element(tag, found[tag], dataset) for tag in sorted(found) if tag & 0xFFFF)

    def _element(self, tag: int, element: DataElement | RawDataElement, dataset: Dataset) -> bytes:
        if isinstance(element, RawDataElement):
            return self.framed(tag >> 16, tag & 0xFFFF, element.VR or "UN", element.value or b"")
        if isinstance(element.value, Sequence):
            items = (self.encoded(item) for item in element.value)
            return self.framed(
                tag >> 16, tag & 0xFFFF, "SQ", b"".join(self._implicit(*_ITEM, len(one)) + one for one in items)
            )
        stream = DicomBytesIO()
        stream.is_implicit_VR = self._is_implicit
        stream.is_little_endian = self._is_little_endian
        write_data_element(stream, element, dataset.get("SpecificCharacterSet", "ISO_IR 6"))
        return stream.getvalue()

    def framed(self, group: int, number: int, representation: str, value: bytes) -> bytes:
        """Put tag, representation and length in front of a value, and padding behind it."""
        if " or " in representation:
            representation = "OW" if "OW" in representation else "US"
        if len(value) % 2:
            value += b"\0" if representation in _PADDED_WITH_NUL else b" "
        if self._is_implicit:
            return self._implicit(group, number, len(value)) + value
        if representation not in _LONG and len(value) > _LONGEST_SHORT:
            representation = "UN"  # PS3.5, section 6.2.2
        code = representation.encode()
        if representation in _LONG:
            return self._long(group, number, code, 0, len(value)) + value
        return self._short(group, number, code, len(value)) + value


@lru_cache(maxsize=64)
def _form(transfer_syntax_uid: str) -> _Form:
    return _Form(transfer_syntax_uid == ImplicitVRLittleEndian, transfer_syntax_uid != ExplicitVRBigEndian)


def encoded_file(
    header: tuple[bytes, bytes], transfer_syntax_uid: str, place: PixelElement | None, pixels: bytes | memoryview
) -> list[bytes | memoryview]:
    """Give the parts of a whole file.

    Parameters
    ----------
    header
        Of `encoded_header`, for the same transfer syntax.
    transfer_syntax_uid
        The encoding, in which `pixels` are already.
    place
        How the pixel data stood in their source; None if there are none.
    pixels
        The value of the pixel data element (PS3.5, annex A), which is always a data set's last.
    """
    meta, body = header
    rest: list[bytes | memoryview] = [body]
    if place is not None:
        rest += [_pixel_header(transfer_syntax_uid, place), pixels]
        rest += [_SEQUENCE_DELIMITER] if place.is_encapsulated else []
    if transfer_syntax_uid != DeflatedExplicitVRLittleEndian:
        return [meta, *rest]
    deflator = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    packed = b"".join([*map(deflator.compress, rest), deflator.flush()])
    return [meta, packed + bytes(len(packed) % 2)]


def _pixel_header(transfer_syntax_uid: str, place: PixelElement) -> bytes:
    length = _UNDEFINED_LENGTH if place.is_encapsulated else place.length
    group, element = PIXEL_DATA >> 16, PIXEL_DATA & 0xFFFF
    if transfer_syntax_uid == ImplicitVRLittleEndian:
        return struct.pack("<HHL", group, element, length)
    order = ">" if transfer_syntax_uid == ExplicitVRBigEndian else "<"
    return struct.pack(f"{order}HH2sHL", group, element, place.representation.encode(), 0, length)
