"""Mosaics: the slices of one volume laid out as tiles of one image, as Siemens scanners write them.

Where the tiles belong stands in the scanner's private header (CSA), which nibabel reads: how many there are, and
the direction in which they follow one another. Their number must agree with the scanner's protocol, or else the size
of a tile with the acquisition matrix. Image Position (Patient) is that of a slice as large as the whole mosaic about
the same centre.

References
----------
https://nipy.org/nibabel/dicom/dicom_mosaic.html
"""

import re
from collections.abc import Iterable
from math import isqrt

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from pipeline.core.records import Instance, MultiFrameInstance, Plane
from pipeline.dicom.reading import elements

_WORD = "MOSAIC"
_GROUP = 0x0029
_CREATOR = "SIEMENS CSA HEADER"
_BLOCKS = range(0x10, 0x18)  # private blocks in which the header may stand
_IMAGE_HEADER = 0x10  # its element within the block
_SERIES_HEADER = 0x20  # the series' header, which holds the protocol as text
_SLICES = re.compile(rb"sSliceArray\.lSize\s*=\s*(0x[0-9a-fA-F]{1,4}|[0-9]{1,4})\s")
_SPACING = "SpacingBetweenSlices"
_MATRIX = "AcquisitionMatrix"
MOSAIC_TAGS = (
    0x00180088,
    0x00181310,
    *(_GROUP << 16 | block for block in _BLOCKS),
    *(_GROUP << 16 | block << 8 | part for block in _BLOCKS for part in (_IMAGE_HEADER, _SERIES_HEADER)),
)
_UNIT_TOLERANCE = 1e-3
_MOST_TILES = 1024


def is_mosaic(image_type: Iterable[str]) -> bool:
    """Tell by Image Type whether an image is a mosaic."""
    return _WORD in {word.upper() for word in image_type}


def tiles(instance: Instance, private: Dataset) -> MultiFrameInstance | None:
    """Give a mosaic's slices as frames; rows and columns become those of one tile.

    Parameters
    ----------
    instance
        The mosaic as its header has it.
    private
        The elements `MOSAIC_TAGS` of the file.

    Returns
    -------
    MultiFrameInstance | None
        None if the header does not say, or contradicts itself about, where the tiles belong.
    """
    found = _private_facts(private)
    spacing = elements.number(private, _SPACING)
    orientation, position, pixel = instance.image_orientation, instance.image_position_mm, instance.pixel_spacing_mm
    if found is None or spacing is None or spacing <= 0 or not orientation or not position or not pixel:
        return None
    count, normal = found
    side = tiles_to_a_side(count)
    row, column = np.reshape(orientation, (2, 3))
    if instance.rows % side or instance.columns % side or not _is_normal(normal, row, column):
        return None
    rows, columns = instance.rows // side, instance.columns // side
    if not _is_confirmed(private, count, max(rows, columns)):
        return None
    first = np.asarray(position) + (
        row * pixel[1] * (instance.columns - columns) / 2 + column * pixel[0] * (instance.rows - rows) / 2
    )
    shared = {name: value for name, value in instance if name in Plane.model_fields}
    planes = tuple(
        Plane.model_construct(**{**shared, "image_position_mm": _triple(first + index * spacing * normal)})
        for index in range(count)
    )
    whole = {**dict(instance), "rows": rows, "columns": columns, "frames": count}
    return MultiFrameInstance.model_construct(**{**whole, "planes": planes})


def tiles_to_a_side(count: int) -> int:
    """Give the number of tiles in a row of the mosaic: the smallest square that holds them all.

    Examples
    --------
    >>> tiles_to_a_side(16), tiles_to_a_side(17), tiles_to_a_side(1)
    (4, 5, 1)
    """
    return isqrt(count - 1) + 1


def tile(mosaic: NDArray[np.int32], count: int, number: int) -> NDArray[np.int32]:
    """Cut one slice out of a mosaic.

    Parameters
    ----------
    mosaic
        Shape (rows, columns) of the whole image.
    count
        Number of slices in it.
    number
        Which one, from 1: row by row from the upper left.
    """
    side = tiles_to_a_side(count)
    rows, columns = (length // side for length in mosaic.shape)
    down, right = divmod(number - 1, side)
    return mosaic[down * rows : (down + 1) * rows, right * columns : (right + 1) * columns]


def _private_facts(private: Dataset) -> tuple[int, NDArray[np.float64]] | None:
    """Read the number of tiles, and the direction from one to the next (a unit vector in DICOM's axes)."""
    from nibabel.nicom import csareader

    for block in _BLOCKS:
        if elements.text(private, _GROUP << 16 | block) != _CREATOR:
            continue
        try:
            value = private[_GROUP << 16 | block << 8 | _IMAGE_HEADER].value
            header = csareader.read(value)
            count = int(csareader.get_n_mosaic(header))
            normal = np.asarray(csareader.get_slice_normal(header), dtype=np.float64)
        except Exception:  # noqa: BLE001  a private header: whatever is wrong with it, it does not say
            return None
        is_direction = normal.shape == (3,) and bool(np.isfinite(normal).all())
        return (count, normal) if 1 <= count <= _MOST_TILES and is_direction else None
    return None


def _is_confirmed(private: Dataset, count: int, longest: int) -> bool:
    """Tell whether a second witness agrees on the number of tiles: one number alone could cut slices to pieces."""
    for block in _BLOCKS:
        tag = _GROUP << 16 | block << 8 | _SERIES_HEADER
        value = private[tag].value if tag in private else None
        if isinstance(value, bytes) and (found := _SLICES.search(value)):
            return int(found[1], 0) == count
    matrix = elements.numbers(private, _MATRIX, 4)
    # Images may be interpolated to twice the matrix.
    return matrix is not None and longest in {max(matrix), 2 * max(matrix)}


def _is_normal(normal: NDArray[np.float64], row: NDArray[np.float64], column: NDArray[np.float64]) -> bool:
    """Tell whether the tiles follow one another along the normal of the plane, up or down."""
    return bool(abs(abs(normal @ np.cross(row, column)) - 1) <= _UNIT_TOLERANCE)


def _triple(values: NDArray[np.float64]) -> tuple[float, float, float]:
    return (float(values[0]), float(values[1]), float(values[2]))
