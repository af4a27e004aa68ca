"""Encoding: a de-identified data set as the bytes of a DICOM file, around pixels that are not touched."""

import struct
import zlib
from collections.abc import Iterator
from functools import lru_cache

from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element, write_file_meta_info
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from pipeline.dicom.decoding.pixel_format import PixelElement
from pipeline.dicom.reading.files import PIXEL_DATA

# A fixed UUID of this software as a UID (PS3.7, D.3.3.2); it says who wrote a file, nothing else.
IMPLEMENTATION_CLASS_UID = "2.25.178532741261943090401676036365778147102"
IMPLEMENTATION_VERSION_NAME = "IMAGING_TRANSFER"
_EMPTY_PREAMBLE = bytes(128) + b"DICM"
_UNDEFINED_LENGTH = 0xFFFFFFFF
_LONGEST_SHORT = 0xFFFF
# Representations with a length of 32 bits in explicit encoding (PS3.5, section 7.1.2).
_LONG = frozenset(["OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"])
_PADDED_WITH_NUL = frozenset({"UI", "OB", "UN"})
_ITEM = 0xE000FFFE
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
    meta = _meta(_uid(dataset, _SOP_CLASS), _uid(dataset, _SOP_INSTANCE), transfer_syntax_uid)
    form = _Form(transfer_syntax_uid == ImplicitVRLittleEndian, transfer_syntax_uid != ExplicitVRBigEndian)
    return meta, form.encoded(dataset)


def _uid(dataset: Dataset, tag: int) -> str:
    element = dataset.get_item(tag)
    return element.value.decode().rstrip(" \0") if isinstance(element, RawDataElement) else str(element.value)


@lru_cache(maxsize=1)
def _meta_template(sop_class_uid: str, transfer_syntax_uid: str) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(sop_class_uid)
    meta.TransferSyntaxUID = UID(transfer_syntax_uid)
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    return meta


def _meta(sop_class_uid: str, sop_uid: str, transfer_syntax_uid: str) -> bytes:
    meta = _meta_template(sop_class_uid, transfer_syntax_uid)
    meta.MediaStorageSOPInstanceUID = UID(sop_uid)
    stream = DicomBytesIO()
    stream.write(_EMPTY_PREAMBLE)
    write_file_meta_info(stream, meta)
    return stream.getvalue()


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
        """Encode the elements of a data set in the order of their tags, without group lengths."""
        found = sorted(dataset.items())
        return b"".join(self._element(tag, one, dataset) for tag, one in found if tag.element)

    def _element(self, tag: BaseTag, element: DataElement | RawDataElement, dataset: Dataset) -> bytes:
        if isinstance(element, RawDataElement):
            return self._framed(tag, element.VR or "UN", element.value or b"")
        if isinstance(element.value, Sequence):
            items = (self.encoded(item) for item in element.value)
            group, number = _ITEM & 0xFFFF, _ITEM >> 16
            return self._framed(tag, "SQ", b"".join(self._implicit(group, number, len(one)) + one for one in items))
        stream = DicomBytesIO()
        stream.is_implicit_VR = self._is_implicit
        stream.is_little_endian = self._is_little_endian
        write_data_element(stream, element, dataset.get("SpecificCharacterSet", "ISO_IR 6"))
        return stream.getvalue()

    def _framed(self, tag: BaseTag, representation: str, value: bytes) -> bytes:
        """Put tag, representation and length in front of a value, and padding behind it."""
        if " or " in representation:
            representation = "OW" if "OW" in representation else "US"
        if len(value) % 2:
            value += b"\0" if representation in _PADDED_WITH_NUL else b" "
        if self._is_implicit:
            return self._implicit(tag.group, tag.element, len(value)) + value
        if representation not in _LONG and len(value) > _LONGEST_SHORT:
            representation = "UN"  # PS3.5, section 6.2.2
        code = representation.encode()
        if representation in _LONG:
            return self._long(tag.group, tag.element, code, 0, len(value)) + value
        return self._short(tag.group, tag.element, code, len(value)) + value


def encoded_file(
    header: tuple[bytes, bytes], transfer_syntax_uid: str, place: PixelElement | None, pixels: bytes
) -> Iterator[bytes]:
    """Yield the parts of a whole file.

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
    yield meta
    rest = [body]
    if place is not None:
        rest += [_pixel_header(transfer_syntax_uid, place), pixels]
        rest += [_SEQUENCE_DELIMITER] if place.is_encapsulated else []
    if transfer_syntax_uid != DeflatedExplicitVRLittleEndian:
        yield from rest
        return
    deflator = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    packed = b"".join([*map(deflator.compress, rest), deflator.flush()])
    yield packed + bytes(len(packed) % 2)


def _pixel_header(transfer_syntax_uid: str, place: PixelElement) -> bytes:
    length = _UNDEFINED_LENGTH if place.is_encapsulated else place.length
    group, element = PIXEL_DATA >> 16, PIXEL_DATA & 0xFFFF
    if transfer_syntax_uid == ImplicitVRLittleEndian:
        return struct.pack("<HHL", group, element, length)
    order = ">" if transfer_syntax_uid == ExplicitVRBigEndian else "<"
    return struct.pack(f"{order}HH2sHL", group, element, place.representation.encode(), 0, length)
