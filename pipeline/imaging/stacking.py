"""Stacking: slices become a volume, and every slice proves that it stands where its own header says."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.core.volume import Volume

# DICOM's patient axes run to the left, posterior, superior; those of `Volume` to the right, anterior, superior.
_LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])
# Largest distance, in voxels, of a pixel's own place from the voxel that holds it.
TOLERANCE_VOXELS = 0.05
# Each slice is probed at this many rows and columns, its corners among them.
_PROBES = 5


class Probes(NamedTuple):
    """Pixels of one slice: places in RAS+ millimetres, shape (n, 3), and values, shape (n,)."""

    places_mm: NDArray[np.float64]
    values: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Slice:
    """One slice with its own place in the patient, as its header gives it.

    Parameters
    ----------
    values
        Modality values, shape (rows, columns).
    position_mm
        Image Position (Patient): the centre of the first pixel, in DICOM's axes.
    orientation
        Image Orientation (Patient): the direction cosines of a row, then of a column.
    spacing_mm
        Pixel Spacing: between rows, between columns.
    """

    values: NDArray[Any]
    position_mm: tuple[float, float, float]
    orientation: tuple[float, float, float, float, float, float]
    spacing_mm: tuple[float, float]

    def places_mm(self, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[np.float64]:
        """Give the places of pixels in RAS+ millimetres, shape (n, 3); PS3.3, equation C.7.6.2.1-1."""
        along_row, along_column = np.reshape(self.orientation, (2, 3))
        between_rows, between_columns = self.spacing_mm
        places = (
            np.asarray(self.position_mm)
            + columns[:, None] * between_columns * along_row
            + rows[:, None] * between_rows * along_column
        )
        ras: NDArray[np.float64] = places * _LPS_TO_RAS
        return ras


def stack(slices: Iterable[Slice], *, count: int, affine_mm: NDArray[np.float64], unit: str) -> Volume:
    """Stack slices into a volume whose axes point to right, anterior and superior, and prove its geometry.

    Parameters
    ----------
    slices
        The slices in the order of the stack. Each is looked at once, so that a generator keeps only one
        beside the volume in memory.
    count
        Number of slices.
    affine_mm
        From (column, row, slice) to RAS+ millimetres.
    unit
        Unit of the values.

    Returns
    -------
    Volume
        int16 if all values are integers that fit, else float32.

    Raises
    ------
    ValueError
        If the slices differ in shape, are not `count`, or one of them does not stand, with its values,
        within 0.05 voxels of where its own header puts it.
    """
    array: NDArray[Any] = np.zeros((0, 0, 0), np.int16)
    probes: list[Probes] = []
    for index, plane in enumerate(slices):
        if index == 0:
            array = np.zeros((count, *plane.values.shape), np.int16)
        if index >= count or plane.values.shape != array.shape[1:]:
            message = "the slices differ in shape, or there are more than announced"
            raise ValueError(message)
        if array.dtype == np.int16 and not fits_int16(plane.values):
            array = array.astype(np.float32)
        array[index] = plane.values
        probes.append(probes_of(plane))
    if len(probes) != count:
        message = f"{len(probes)} slices came where {count} were announced"
        raise ValueError(message)
    volume = Volume(array.transpose(2, 1, 0), affine_mm, unit).reoriented()
    prove(volume, probes)
    return volume


def probes_of(plane: Slice) -> Probes:
    """Take a slice's corners and some pixels between them, with their places."""
    rows, columns = _probe_pixels(plane.values.shape)
    return Probes(plane.places_mm(rows, columns), plane.values[rows, columns].astype(np.float32))


def prove(volume: Volume, probes: Iterable[Probes]) -> None:
    """Find every probe in a volume by its place alone, and compare the values.

    Raises
    ------
    ValueError
        If one of them does not stand, with its value, within 0.05 voxels of where its header puts it.
    """
    for places, values in probes:
        _prove(volume, places, values)


def fits_int16(values: NDArray[Any]) -> bool:
    """Tell whether all values are integers between -32768 and 32767."""
    limits = np.iinfo(np.int16)
    if values.min() < limits.min or values.max() > limits.max:
        return False
    return np.issubdtype(values.dtype, np.integer) or bool((values == np.rint(values)).all())


def _probe_pixels(shape: tuple[int, ...]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    lines = [np.unique(np.linspace(0, length - 1, _PROBES).round().astype(np.intp)) for length in shape]
    rows, columns = np.meshgrid(*lines, indexing="ij")
    return rows.ravel(), columns.ravel()


def _prove(volume: Volume, places_mm: NDArray[np.float64], values: NDArray[np.float32]) -> None:
    """Find one slice's probes in the volume by place alone, and compare their values."""
    voxels = volume.to_voxels(places_mm)
    nearest = np.rint(voxels).astype(np.intp)
    if not np.abs(voxels - nearest).max() <= TOLERANCE_VOXELS:
        message = "a slice does not lie on the grid of its volume"
        raise ValueError(message)
    if (nearest < 0).any() or (nearest >= volume.array.shape).any():
        message = "a slice lies outside its volume"
        raise ValueError(message)
    if not np.array_equal(volume.array[tuple(nearest.T)].astype(np.float32), values):
        message = "a slice does not stand where its header says"
        raise ValueError(message)
