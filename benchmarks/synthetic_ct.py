"""CT series of clinical size for benchmarks: as many pixels, as much noise and as little order as real ones."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

SIZE = 512  # pixels a side
PIXEL_MM = 0.75
SLICE_MM = 1.25
_NOISE_HU = 15.0
_AIR_HU, _TISSUE_HU, _BONE_HU = -1000.0, 40.0, 700.0
_UID = "1.2.826.0.1.3680043.8.498.7"


def write_series(folder: Path, *, series: int = 3, slices: int = 120, seed: int = 11) -> Path:
    """Write series of a round body with bones in air, 12 bits in 16, 0.5 MB a slice.

    Parameters
    ----------
    folder
        Where; one folder for each series.
    series, slices
        How many series, and slices in each.
    seed
        Of the noise.

    Returns
    -------
    Path
        The folder.
    """
    generator = np.random.default_rng(seed)
    for number in range(1, series + 1):
        place = folder / f"series-{number}"
        place.mkdir(parents=True)
        for index in range(slices):
            dataset = _header(number, index)
            dataset.PixelData = _stored(index / slices, generator).tobytes()
            dataset["PixelData"].VR = "OW"
            dataset.save_as(place / f"{index:04d}.dcm", enforce_file_format=True)
    return folder


def _header(number: int, index: int) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    values = {
        "SpecificCharacterSet": "ISO_IR 100",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": f"{_UID}.{number}.{index + 1}",
        "StudyDate": "20240102",
        "StudyTime": "101112",
        "Modality": "CT",
        "Manufacturer": "BENCHMARK",
        "SeriesDescription": f"Volume {number}",
        "PatientName": f"Patient^{number}",
        "PatientID": f"P{number}",
        "SliceThickness": SLICE_MM,
        "KVP": 120,
        "StudyInstanceUID": f"{_UID}.{number}.0.1",
        "SeriesInstanceUID": f"{_UID}.{number}.0.2",
        "SeriesNumber": number,
        "InstanceNumber": index + 1,
        "ImagePositionPatient": [-SIZE * PIXEL_MM / 2, -SIZE * PIXEL_MM / 2, index * SLICE_MM],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "FrameOfReferenceUID": f"{_UID}.{number}.0.3",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": SIZE,
        "Columns": SIZE,
        "PixelSpacing": [PIXEL_MM, PIXEL_MM],
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
        "PixelRepresentation": 0,
        "WindowCenter": 40,
        "WindowWidth": 400,
        "RescaleIntercept": -1024,
        "RescaleSlope": 1,
        "RescaleType": "HU",
    }
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


def _stored(height: float, generator: np.random.Generator) -> NDArray[np.uint16]:
    """Draw one slice; noise is everywhere, as in a scanner's images."""
    along = np.linspace(-1, 1, SIZE, dtype=np.float32)
    down, right = along[:, None], along[None, :]
    values = np.full((SIZE, SIZE), _AIR_HU, np.float32)
    values[(right / 0.8) ** 2 + (down / 0.6) ** 2 < 1] = _TISSUE_HU
    values[right**2 + ((down - 0.4) / 0.8) ** 2 < 0.01 + 0.005 * np.sin(20 * height)] = _BONE_HU
    values += generator.normal(0, _NOISE_HU, values.shape).astype(np.float32)
    return np.clip(np.rint(values) + 1024, 0, 4095).astype(np.uint16)
