"""Stacking: slices become a volume, and every slice proves that it stands where its own header says."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.core.volume import Volume, upright_axes

# DICOM's patient axes run to the left, posterior, superior; those of `Volume` to the right, anterior, superior.
_LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])
# Largest distance, in voxels, of a pixel's own place from the voxel that holds it.
TOLERANCE_VOXELS = 0.05
_WIDTHS = (np.dtype(np.int16), np.dtype(np.int32), np.dtype(np.float32))
_LARGEST_EXACT = 1 << 24  # of whole numbers in float32
# Each slice is probed at this many rows and columns, its corners among them.
_PROBES = 5


class Probes(NamedTuple):
    """Pixels of n slices: places in RAS+ millimetres, shape (n, m, 3), and values, shape (n, m)."""

    places_mm: NDArray[np.float64]
    values: NDArray[Any]


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


def stack(slices: Iterable[Slice], *, count: int, affine_mm: NDArray[np.float64], unit: str) -> Volume:
    """Give the volume of `stacked` alone."""
    volume, _ = stacked(slices, count=count, affine_mm=affine_mm, unit=unit)
    return volume


def stacked(slices: Iterable[Slice], *, count: int, affine_mm: NDArray[np.float64], unit: str) -> tuple[Volume, Probes]:
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
    tuple
        The volume, of the type of `narrowest` for all its values; and the probes of the slices by which it
        was proved.

    Raises
    ------
    ValueError
        If the slices differ in shape, are not `count`, or one of them does not stand, with its values,
        within 0.05 voxels of where its own header puts it.
    """
    array: NDArray[Any] = np.zeros((0, 0, 0), np.int16)
    seen: list[_Seen] = []
    for index, plane in enumerate(slices):
        if index == 0:
            array = _as_written((count, *plane.values.shape), affine_mm, np.dtype(np.int16))
        if index >= count or plane.values.shape != array.shape[1:]:
            message = "the slices differ in shape, or there are more than announced"
            raise ValueError(message)
        if plane.values.dtype != array.dtype:
            array = _widened(array, index, plane.values, affine_mm)
        array[index] = plane.values
        seen.append(_seen(plane))
    if len(seen) != count:
        message = f"{len(seen)} slices came where {count} were announced"
        raise ValueError(message)
    volume = Volume(array.transpose(2, 1, 0), affine_mm, unit).reoriented()
    probes = _placed(seen, array.shape[1:])
    prove(volume, probes)
    return volume, probes


def _widened(array: NDArray[Any], filled: int, values: NDArray[Any], affine_mm: NDArray[np.float64]) -> NDArray[Any]:
    """Give room of a type that holds the slices so far and one more; the same room if it does."""
    needed = max(narrowest(values), array.dtype, key=_WIDTHS.index)
    whole = [part for part in (array[:filled], values) if np.issubdtype(part.dtype, np.integer)]
    if needed == np.float32 and any(np.abs(part.astype(np.int64)).max(initial=0) > _LARGEST_EXACT for part in whole):
        message = "whole numbers too large to stand beside fractions"
        raise ValueError(message)
    if needed == array.dtype:
        return array
    wider = _as_written(array.shape, affine_mm, needed)
    wider[:filled] = array[:filled]
    return wider


def prove(volume: Volume, probes: Probes) -> None:
    """Find every probe in a volume by its place alone, and compare the values.

    Raises
    ------
    ValueError
        If one of them does not stand, with its value, within 0.05 voxels of where its header puts it.
    """
    voxels = volume.to_voxels(probes.places_mm)
    nearest = np.rint(voxels)
    if not np.abs(voxels - nearest).max() <= TOLERANCE_VOXELS:
        message = "a slice does not lie on the grid of its volume"
        raise ValueError(message)
    if (nearest < 0).any() or (nearest >= volume.array.shape).any():
        message = "a slice lies outside its volume"
        raise ValueError(message)
    first, second, third = np.moveaxis(nearest.astype(np.intp), -1, 0)
    # Compared without narrowing: what float32 rounds is not equal.
    if not np.array_equal(volume.array[first, second, third], probes.values):
        message = "a slice does not stand where its header says"
        raise ValueError(message)


def narrowest(values: NDArray[Any]) -> np.dtype[Any]:
    """Give the type to store values in: int16 or int32 for whole numbers that fit, float32 for all others."""
    int16, int32, float32 = _WIDTHS
    if fits_int16(values):
        return int16
    limits = np.iinfo(int32)
    is_whole = np.issubdtype(values.dtype, np.integer)
    return int32 if is_whole and limits.min <= values.min() and values.max() <= limits.max else float32


def fits_int16(values: NDArray[Any]) -> bool:
    """Tell whether all values are integers between -32768 and 32767."""
    limits = np.iinfo(np.int16)
    is_whole = np.issubdtype(values.dtype, np.integer)
    if not is_whole and (values[:1] != np.rint(values[:1])).any():  # fractions show early
        return False
    if values.min() < limits.min or values.max() > limits.max:
        return False
    return is_whole or bool((values == np.rint(values)).all())


class _Seen(NamedTuple):
    """What is kept of a slice: its place (position, orientation, spacing: 11 numbers), and the values probed."""

    place: tuple[float, ...]
    values: NDArray[Any]


def _seen(plane: Slice) -> _Seen:
    place = (*plane.position_mm, *plane.orientation, *plane.spacing_mm)
    return _Seen(place, plane.values[_probe_pixels(plane.values.shape)])


def _placed(seen: Sequence[_Seen], shape: tuple[int, ...]) -> Probes:
    """Compute where the probed pixels lie: PS3.3, equation C.7.6.2.1-1, turned to RAS+ millimetres."""
    rows, columns = _probe_pixels(shape)
    places = np.array([one.place for one in seen], dtype=np.float64)
    position, along_row, along_column = (places[:, None, axis : axis + 3] for axis in (0, 3, 6))
    between_rows, between_columns = (places[:, None, axis : axis + 1] for axis in (9, 10))
    lps = position + columns[:, None] * between_columns * along_row + rows[:, None] * between_rows * along_column
    return Probes(lps * _LPS_TO_RAS, np.stack([one.values for one in seen]))


@lru_cache(maxsize=64)
def _probe_pixels(shape: tuple[int, ...]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    lines = [np.unique(np.linspace(0, length - 1, _PROBES).round().astype(np.intp)) for length in shape]
    rows, columns = np.meshgrid(*lines, indexing="ij")
    return rows.ravel(), columns.ravel()


def _as_written(shape: tuple[int, ...], affine_mm: NDArray[np.float64], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Make room for slices, shape (slices, rows, columns), that lies in memory as it will in the file.

    The first of the patient's axes runs fastest there, and all of them upwards; so writing takes no copy.
    """
    order, is_reversed = upright_axes(affine_mm)
    grid = shape[::-1]
    upright = np.empty([grid[axis] for axis in order], dtype, order="F")
    turned = upright[tuple(slice(None, None, -1 if reverse else 1) for reverse in is_reversed)]
    return turned.transpose([order.index(axis) for axis in (2, 1, 0)])
