"""Tiny DICOM files for the tests of this package: one grey image, any attribute replaced, any fault planted."""

import struct
from pathlib import Path

import numpy as np
import pydicom
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

SYNTAXES = {
    "explicit": ExplicitVRLittleEndian,
    "implicit": ImplicitVRLittleEndian,
    "big endian": ExplicitVRBigEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
    "RLE": RLELossless,
    "JPEG 2000": JPEG2000Lossless,
}
PIXELS = ((np.arange(33 * 36) * 51) & 0xFFF).astype(np.uint16).reshape(33, 36)
LIMIT = 1_000_000
GEOMETRY = {
    "ImagePositionPatient": [-10.5, 20.25, 30.0],
    "ImageOrientationPatient": [1, 0, 0, 0, 0.8, 0.6],
    "PixelSpacing": [0.8, 0.6],
}


def radiograph(**elements) -> Dataset:
    """Make a complete data set; an attribute given as None is left out."""
    dataset = Dataset()
    values = {
        "SOPClassUID": ComputedRadiographyImageStorage,
        "SOPInstanceUID": "1.2.3.1",
        "StudyInstanceUID": "1.2.3.2",
        "SeriesInstanceUID": "1.2.3.3",
        "PatientID": "PID-4711",
        "PatientName": "Mustermann^Erika",
        "Modality": "CR",
        "StudyDate": "20240229",
        **elements,
    }
    with pydicom.config.disable_value_validation():  # the archives we read were not validated either
        for keyword, value in values.items():
            if value is not None:
                setattr(dataset, keyword, value)
    return dataset


def ct(**elements) -> Dataset:
    """Make the data set of a slice."""
    return radiograph(**{"SOPClassUID": CTImageStorage, "Modality": "CT", **GEOMETRY, **elements})


def with_pixels(dataset: Dataset, stored: np.ndarray = PIXELS, *, bits: int = 12, order: str = "<") -> Dataset:
    """Add pixels and their description, unless the data set has one of these attributes already."""
    values = {
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": stored.shape[0],
        "Columns": stored.shape[1],
        "BitsAllocated": 8 * stored.dtype.itemsize,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(np.issubdtype(stored.dtype, np.signedinteger)),
    }
    for keyword, value in values.items():
        if keyword not in dataset:
            setattr(dataset, keyword, value)
    dataset.PixelData = stored.astype(stored.dtype.newbyteorder(order)).tobytes()
    dataset["PixelData"].VR = "OW" if stored.dtype.itemsize > 1 else "OB"
    return dataset


def write(path: Path, dataset: Dataset, *, syntax: str = "explicit", preamble: bytes = bytes(128)) -> Path:
    """Write a data set whose pixel data are native little endian (or absent) in any transfer syntax."""
    uid = SYNTAXES[syntax]
    dataset.file_meta = FileMetaDataset()
    is_packed = uid in {RLELossless, JPEG2000Lossless}
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian if is_packed else uid
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.get("SOPInstanceUID", "1.2.3.99")
    dataset.preamble = preamble
    if is_packed:
        dataset.compress(uid, generate_instance_uid=False)
    elif syntax == "big endian" and "PixelData" in dataset and dataset.BitsAllocated == 16:
        dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    dcmwrite(path, dataset, enforce_file_format=True)
    return path


def raw_element(group: int, element: int, representation: str, value: bytes) -> bytes:
    """Encode one element in explicit little endian, whatever its value is worth."""
    if representation in {"OB", "OW", "SQ", "UN", "UT"}:
        head = struct.pack("<HH2sHL", group, element, representation.encode(), 0, len(value))
    else:
        head = struct.pack("<HH2sH", group, element, representation.encode(), len(value))
    return head + value
