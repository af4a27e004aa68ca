"""Small de-identified series for the tests: DICOM files and the table that lists them."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from pipeline.core.artefacts import read_table, write_table
from pipeline.core.records import Finding, Series

SYNTAXES = {
    "explicit": ExplicitVRLittleEndian,
    "implicit": ImplicitVRLittleEndian,
    "big endian": ExplicitVRBigEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
    "RLE": RLELossless,
    "JPEG 2000": JPEG2000Lossless,
}


def radiograph(seed: int, shape: tuple[int, int] = (80, 100)) -> np.ndarray:
    """Draw a smooth 12-bit picture with noise, different for each seed."""
    generator = np.random.default_rng(seed)
    rows, columns = (np.linspace(0, 3, length) for length in shape)
    waves = sum(np.sin(a * rows[:, None] + b * columns + c) for a, b, c in generator.uniform(1, 4, (5, 3)))
    return np.clip(2000 + 350 * waves + generator.normal(0, 20, shape), 0, 4095).astype(np.uint16)


def write_dicom(path: Path, stored: np.ndarray, *, syntax: str = "explicit", bits: int = 12, **elements) -> None:
    """Write one grey 16-bit file whose stored values are given; `elements` are further DICOM attributes."""
    uid = SYNTAXES[syntax]
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian if uid.is_compressed else uid
    dataset.SOPClassUID = (
        CTImageStorage if "ImagePositionPatient" in elements else DigitalXRayImageStorageForPresentation
    )
    dataset.SOPInstanceUID = path.stem
    dataset.Modality = "CT" if "ImagePositionPatient" in elements else "DX"
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = stored.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, bits, bits - 1
    dataset.PixelRepresentation = int(np.issubdtype(stored.dtype, np.signedinteger))
    for name, value in elements.items():
        setattr(dataset, name, value)
    order = ">" if syntax == "big endian" else "<"
    dataset.PixelData = stored.astype(stored.dtype.newbyteorder(order)).tobytes()
    dataset["PixelData"].VR = "OW"
    if uid.is_compressed and uid != DeflatedExplicitVRLittleEndian:
        dataset.compress(uid, generate_instance_uid=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)


@dataclass
class Study:
    """A folder with the inputs and outputs of the two stages."""

    folder: Path
    listed: list[Series] = field(default_factory=list)

    @property
    def dicom(self) -> Path:
        return self.folder / "dicom"

    def add_images(self, *pictures: np.ndarray, uid: str | None = None, **options) -> Series:
        """Add a series of images that stand alone; their file names follow their order."""
        series = self._list("image", len(pictures), pictures[0].shape, uid)
        for number, picture in enumerate(pictures, start=1):
            write_dicom(self.dicom / series.series_uid / f"{series.series_uid}.{number}.dcm", picture, **options)
        return series

    def add_volume(self, slices: list[np.ndarray], places: list[dict], names: list[int], **options) -> Series:
        """Add a series of slices with their geometry; `names` number the files."""
        series = self._list("volume", len(slices), slices[0].shape, None)
        for values, place, number in zip(slices, places, names, strict=True):
            path = self.dicom / series.series_uid / f"{series.series_uid}.{number}.dcm"
            write_dicom(path, values, **place, **options)
        return series

    def findings(self, name: str) -> list[Finding]:
        return read_table(self.folder / f"{name}.tsv", Finding)

    def save(self) -> None:
        write_table(self.folder / "series.tsv", Series, self.listed)

    def _list(self, kind: str, instances: int, shape: tuple[int, int], uid: str | None) -> Series:
        number = len(self.listed) + 1
        series = Series(
            patient=f"P{number}",
            study_uid=f"2.25.1{number}",
            series_uid=uid or f"2.25.2{number}",
            modality="DX" if kind == "image" else "CT",
            kind=kind,
            instances=instances,
            rows=shape[0],
            columns=shape[1],
            photometric_interpretation="MONOCHROME2",
            site="site-1",
            view_position="PA",
            patient_age_years=50.0,
            patient_sex="F",
        )
        self.listed.append(series)
        return series


def oblique_stack(count: int = 10, shape: tuple[int, int] = (64, 72), seed: int = 1) -> tuple[list, list, np.ndarray]:
    """Make signed 12-bit slices on an oblique, anisotropic grid.

    Returns the stored values, the geometry attributes of each slice, and the affine from (column, row, slice)
    to RAS millimetres, computed here and independently of the pipeline.
    """
    generator = np.random.default_rng(seed)
    values = [radiograph(seed * 100 + index, shape).astype(np.int16) - 2048 for index in range(count)]
    axes, _ = np.linalg.qr(np.eye(3) + 0.2 * generator.normal(size=(3, 3)))
    axes *= np.sign(np.diag(axes))
    row, column = axes[:, 0].round(6), axes[:, 1].round(6)
    normal = np.cross(row, column)
    corner = np.array([-120.5, -80.25, 33.0])
    places = [
        {
            "ImagePositionPatient": [f"{value:.6f}" for value in corner + index * 2.5 * normal],
            "ImageOrientationPatient": [f"{value:.6f}" for value in (*row, *column)],
            "PixelSpacing": ["0.8", "0.6"],
        }
        for index in range(count)
    ]
    affine = np.eye(4)
    affine[:3] = np.column_stack([row * 0.6, column * 0.8, normal * 2.5, corner])
    return values, places, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
