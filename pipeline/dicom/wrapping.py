"""Wrapping: plain pictures and NIfTI volumes as DICOM objects, so that they enter by the same door as all else."""

import hashlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

_SOP_CLASSES = {
    "CR": "1.2.840.10008.5.1.4.1.1.1",
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "MR": "1.2.840.10008.5.1.4.1.1.4",
    "PT": "1.2.840.10008.5.1.4.1.1.128",
}
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])
_INT16 = np.iinfo(np.int16)
_UINT16 = np.iinfo(np.uint16)


class Identity(NamedTuple):
    """Whose picture it is: the Patient ID, and words that name study and series (turned into UIDs)."""

    patient_id: str
    study: str
    series: str


def uid(*words: str) -> str:
    """Make a UID below ``2.25`` from words: the same words give the same UID."""
    digest = hashlib.sha256("\x1f".join(words).encode("utf-8", "surrogatepass")).digest()
    return f"2.25.{int.from_bytes(digest[:15], 'big')}"


def wrap_picture(values: NDArray[Any], identity: Identity, *, modality: str) -> Dataset:
    """Make a projection image of a grey picture.

    Parameters
    ----------
    values
        Shape (rows, columns), uint8 or uint16; high values are bright.
    identity
        Whose it is.
    modality
        ``CR`` and the like.
    """
    dataset = _object(values, identity, modality, instance=1)
    dataset.BitsAllocated = dataset.BitsStored = values.dtype.itemsize * 8
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = 0
    return dataset


def wrap_volume(
    values: NDArray[Any], affine_mm: NDArray[np.float64], identity: Identity, *, modality: str
) -> Iterator[Dataset]:
    """Make the slices of a volume, or of several over time, along the third axis.

    Values that are whole numbers and fit 16 bits are kept as they are; others are stored in 65 536 steps from the
    lowest to the highest, with Rescale Slope and Intercept.

    Parameters
    ----------
    values
        Shape (I, J, K) or (I, J, K, times), finite.
    affine_mm
        From voxel indices to RAS+ millimetres, as in NIfTI.
    identity
        Whose it is.
    modality
        ``MR``, ``CT`` or ``PT``.

    Raises
    ------
    ValueError
        If the first two axes are not at right angles, or a value is not finite.
    """
    directions = _RAS_TO_LPS @ affine_mm[:3, :3]
    spacing = np.linalg.norm(directions[:, :2], axis=0)
    row, column = (directions[:, :2] / spacing).T
    if not abs(row @ column) < 1e-4:
        message = "the rows and columns of the volume are not at right angles"
        raise ValueError(message)
    stored, slope, intercept = _in_16_bits(values)
    stacks = stored[..., None] if stored.ndim == 3 else stored
    for time in range(stacks.shape[3]):
        for index in range(stacks.shape[2]):
            place = _RAS_TO_LPS @ (affine_mm @ [0, 0, index, 1])[:3]
            plane = np.ascontiguousarray(stacks[:, :, index, time].T)
            dataset = _object(plane, identity, modality, instance=time * stacks.shape[2] + index + 1)
            dataset.BitsAllocated = dataset.BitsStored = 16
            dataset.HighBit = 15
            dataset.PixelRepresentation = int(plane.dtype == np.int16)
            dataset.ImagePositionPatient = [_decimal(value) for value in place]
            dataset.ImageOrientationPatient = [_decimal(value) for value in (*row, *column)]
            dataset.PixelSpacing = [_decimal(spacing[1]), _decimal(spacing[0])]
            dataset.RescaleSlope, dataset.RescaleIntercept = _decimal(slope), _decimal(intercept)
            if stacks.shape[3] > 1:
                dataset.TemporalPositionIdentifier = time + 1
            yield dataset


def _object(plane: NDArray[Any], identity: Identity, modality: str, *, instance: int) -> Dataset:
    dataset = Dataset()
    dataset.SOPClassUID = _SOP_CLASSES.get(modality, _SOP_CLASSES["CR"])
    dataset.PatientID = identity.patient_id
    dataset.StudyInstanceUID = uid("study", identity.patient_id, identity.study)
    dataset.SeriesInstanceUID = uid("series", identity.patient_id, identity.series)
    dataset.SOPInstanceUID = uid("instance", identity.patient_id, identity.series, str(instance))
    dataset.Modality = modality
    dataset.InstanceNumber = instance
    dataset.BurnedInAnnotation = "NO"
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = plane.shape
    pixels = plane.astype(plane.dtype.newbyteorder("<")).tobytes()
    dataset.PixelData = pixels + b"\0" * (len(pixels) % 2)
    dataset["PixelData"].VR = "OB" if plane.dtype.itemsize == 1 else "OW"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    return dataset


def _in_16_bits(values: NDArray[Any]) -> tuple[NDArray[Any], float, float]:
    """Give stored values with slope and intercept."""
    if not np.isfinite(values).all():
        message = "the volume holds values that are not finite"
        raise ValueError(message)
    low, high = float(values.min()), float(values.max())
    is_whole = np.issubdtype(values.dtype, np.integer) or bool((values == np.rint(values)).all())
    for limits in (_INT16, _UINT16):
        if is_whole and limits.min <= low and high <= limits.max:
            return values.astype(limits.dtype), 1.0, 0.0
    slope = float(_decimal((high - low) / _UINT16.max))
    intercept = float(_decimal(low))
    steps = np.rint((values.astype(np.float64) - intercept) / slope)
    return np.clip(steps, 0, _UINT16.max).astype(np.uint16), slope, intercept


def _decimal(value: float) -> str:
    """Write a decimal string of at most 16 characters (PS3.5, section 6.2)."""
    for digits in range(15, 4, -1):
        text = f"{value:.{digits}g}"
        if len(text) <= 16:
            return text
    return f"{value:.4e}"
