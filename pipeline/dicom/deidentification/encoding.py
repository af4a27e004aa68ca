"""Encoding: a de-identified data set as the bytes of a DICOM file, around pixels that are not touched."""

import struct
import zlib
from collections.abc import Iterator

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from pipeline.dicom.decoding.pixel_format import PixelElement
from pipeline.dicom.reading.files import PIXEL_DATA

# A fixed UUID of this software as a UID (PS3.7, D.3.3.2); it says who wrote a file, nothing else.
IMPLEMENTATION_CLASS_UID = "2.25.178532741261943090401676036365778147102"
IMPLEMENTATION_VERSION_NAME = "IMAGING_TRANSFER"
_EMPTY_PREAMBLE = bytes(128) + b"DICM"
_UNDEFINED_LENGTH = 0xFFFFFFFF
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
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = UID(transfer_syntax_uid)
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    first = DicomBytesIO()
    first.write(_EMPTY_PREAMBLE)
    write_file_meta_info(first, meta)
    second = DicomBytesIO()
    second.is_implicit_VR = transfer_syntax_uid == ImplicitVRLittleEndian
    second.is_little_endian = transfer_syntax_uid != ExplicitVRBigEndian
    write_dataset(second, dataset)
    return first.getvalue(), second.getvalue()


def encoded_file(
    header: tuple[bytes, bytes], transfer_syntax_uid: str, place: PixelElement, pixels: bytes
) -> Iterator[bytes]:
    """Yield the parts of a whole file.

    Parameters
    ----------
    header
        Of `encoded_header`, for the same transfer syntax.
    transfer_syntax_uid
        The encoding, in which `pixels` are already.
    place
        How the pixel data stood in their source.
    pixels
        The value of the pixel data element (PS3.5, annex A), which is always a data set's last.
    """
    meta, body = header
    yield meta
    rest = (
        body,
        _pixel_header(transfer_syntax_uid, place),
        pixels,
        _SEQUENCE_DELIMITER if place.is_encapsulated else b"",
    )
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
