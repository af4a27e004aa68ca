"""Grids for learning: a volume resampled to an array of one shape, its axes those of the patient.

The grid stands in patient space and the volume is looked up where each of its points lies, so that tilted, sheared,
flipped and anisotropic sources need no treatment of their own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.core.volume import Volume
from pipeline.imaging.steps import Scaling, padding_mask, quantised, without_padding

Plane = Literal["axial", "coronal", "sagittal"]
Triple = tuple[float, float, float]
# Directions of growing slice, row and column index in RAS+: slices as radiologists look at them. Axial slices go from
# feet to head, coronal ones from front to back, sagittal ones from right to left; columns go to the patient's left or
# back, rows to the back or to the feet.
_DIRECTIONS: dict[Plane, tuple[tuple[int, int, int], ...]] = {
    "axial": ((0, 0, 1), (0, -1, 0), (-1, 0, 0)),
    "coronal": ((0, -1, 0), (0, 0, -1), (-1, 0, 0)),
    "sagittal": ((-1, 0, 0), (0, 0, -1), (0, -1, 0)),
}
# Points beyond the outer edge of the volume by rounding errors only still belong to it.
_EDGE = 1e-6  # voxels
_PROBES = 64  # voxels along each axis that are asked whether the grid holds them, the outermost among them


@dataclass(frozen=True)
class Grid:
    """The shape of the array, and how it lies in the patient.

    Attributes
    ----------
    slices, size
        Number of slices; rows and columns of each.
    plane
        Of the slices.
    slice_spacing_mm, pixel_spacing_mm
        Between slices, and between rows and columns. None: the smallest with which the whole volume fits.
    """

    slices: int
    size: int
    plane: Plane = "axial"
    slice_spacing_mm: float | None = None
    pixel_spacing_mm: float | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Slices, rows, columns."""
        return self.slices, self.size, self.size

    def spacing_for(self, volume: Volume) -> Triple:
        """Give the spacings along slices, rows and columns for a volume, in mm."""
        deep, high, wide = _extents(volume, self.plane)
        between_pixels = self.pixel_spacing_mm or max(high, wide) / self.size
        return self.slice_spacing_mm or deep / self.slices, between_pixels, between_pixels

    def affine_for(self, volume: Volume) -> NDArray[np.float64]:
        """Give the matrix (4, 4) from (slice, row, column) indices to RAS+ mm; both centres are the same point."""
        matrix = np.eye(4)
        matrix[:3, :3] = np.transpose(_DIRECTIONS[self.plane]) * np.array(self.spacing_for(volume))
        centre = volume.to_patient((np.array(volume.array.shape) - 1) / 2)
        matrix[:3, 3] = centre - matrix[:3, :3] @ ((np.array(self.shape) - 1) / 2)
        return matrix


@dataclass(frozen=True, eq=False)
class GriddedVolume:
    """A volume on its grid.

    Attributes
    ----------
    pixels
        Stored values, shape (slices, rows, columns).
    spacing_mm
        Between slices, rows and columns.
    intensity
        The values of the volume at the lowest and at the highest stored value.
    cut_off
        Share of the volume that lies outside of the grid, in [0, 1].
    """

    pixels: NDArray[Any]
    spacing_mm: Triple
    intensity: tuple[float, float]
    cut_off: float


def put_on_grid(
    volume: Volume,
    grid: Grid,
    scaling: Scaling,
    dtype: Literal["uint8", "float16"],
    *,
    padding: tuple[float, float] | None = None,
) -> GriddedVolume:
    """Scale a volume's values to [0, 1], resample them to a grid around its centre, and round them once.

    Values are scaled and clipped before anything is averaged, as for images. Where the grid is coarser than the
    volume, voxels are averaged first (no aliasing): in whole blocks, then by a Gaussian whose standard deviation is
    half of what is left of the reduction beyond 1 (the rule of scikit-image's ``resize``). Between the voxels left,
    interpolation is linear. What lies outside of the volume, by the outer edges of its voxels, is 0. In which order
    voxels are stored changes nothing.

    Parameters
    ----------
    volume
        Any orientation.
    grid
        What to resample to.
    scaling
        Which values become 0 and 1.
    dtype
        Of the stored values.
    padding
        Ends of the values that are no part of the picture (PS3.3 C.7.5.1.1.2); such voxels are 0.
    """
    ends = scaling.ends(without_padding(volume.array, padding_mask(volume.array, padding)))
    upright = volume.reoriented()  # blocks are counted from one corner: that of the patient, not of the file
    affine = grid.affine_for(upright)
    reduction = _reductions(upright, affine)
    shape = upright.array.shape
    blocks = [max(1, min(int(factor + _EDGE), count)) for factor, count in zip(reduction, shape, strict=True)]
    values = _block_means(np.asfortranarray(upright.array), blocks, ends, padding)
    left = [factor / block for factor, block in zip(reduction, blocks, strict=True)]
    found = _look_up(values, _indices(upright, affine, grid.shape), shape, blocks, left)
    return GriddedVolume(quantised(found, dtype), grid.spacing_for(upright), ends, _share_outside(upright, grid))


def plane_of(orientation: Sequence[float]) -> Plane:
    """Name the plane that is nearest to that of an acquired slice.

    Parameters
    ----------
    orientation
        Direction cosines of its rows and columns, six numbers (Image Orientation (Patient), PS3.3 C.7.6.2.1.1).

    Examples
    --------
    >>> plane_of([0, 1, 0, 0, 0, -1])
    'sagittal'
    """
    normal = np.abs(np.cross(orientation[:3], orientation[3:]))
    planes: tuple[Plane, ...] = ("sagittal", "coronal", "axial")
    return planes[int(normal.argmax())]


def _share_outside(volume: Volume, grid: Grid) -> float:
    """Tell what share of evenly spread voxels, those at the outer faces included, have centres beyond the grid."""
    whole = np.linalg.inv(grid.affine_for(volume)) @ volume.affine_mm
    probes = [np.unique(np.linspace(0, count - 1, min(count, _PROBES)).round()) for count in volume.array.shape]
    first, second, third = np.meshgrid(*probes, indexing="ij", sparse=True)
    is_inside = np.ones([len(one) for one in probes], bool)
    for row, count in zip(whole[:3], grid.shape, strict=True):
        index = row[0] * first + row[1] * second + row[2] * third + row[3]
        is_inside &= (index >= -0.5 - _EDGE) & (index <= count - 0.5 + _EDGE)
    return 1 - float(is_inside.mean())


def _extents(volume: Volume, plane: Plane) -> Triple:
    """Lengths in mm along slices, rows and columns of the upright box that holds all of the volume's voxels."""
    edges = np.abs(volume.affine_mm[:3, :3]) * np.array(volume.array.shape)
    deep, high, wide = np.abs(np.array(_DIRECTIONS[plane])) @ edges.sum(axis=1)
    return float(deep), float(high), float(wide)


def _reductions(volume: Volume, affine: NDArray[np.float64]) -> list[float]:
    """Tell for each axis of the volume how many of its voxels lie between two points of the grid, at least 1."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    cosines = (affine[:3, :3] / spacing).T @ (volume.affine_mm[:3, :3] / volume.spacing_mm)
    between = np.sqrt((cosines**2 * spacing[:, None] ** 2).sum(axis=0))  # along each axis of the volume, mm
    return [max(1.0, float(factor)) for factor in between / volume.spacing_mm]


def _indices(
    volume: Volume, affine: NDArray[np.float64], shape: tuple[int, int, int]
) -> tuple[NDArray[np.float64], ...]:
    """Give the volume's (fractional) indices of every point of the grid: three arrays of the grid's shape."""
    whole = np.linalg.inv(volume.affine_mm) @ affine
    deep, high, wide = np.ogrid[: shape[0], : shape[1], : shape[2]]
    return tuple(row[0] * deep + row[1] * high + row[2] * wide + row[3] for row in whole[:3])


def _block_means(
    values: NDArray[Any], blocks: Sequence[int], ends: tuple[float, float], padding: tuple[float, float] | None
) -> NDArray[np.float32]:
    """Scale to [0, 1] and average blocks, plane by plane; the last block of an axis may be shorter than the others."""
    parts = [_lengths(count, block) for count, block in zip(values.shape, blocks, strict=True)]
    found = np.zeros((len(parts[2]), len(parts[0]), len(parts[1])), np.float32)
    for index in range(values.shape[2]):
        plane = _scaled(values[:, :, index], ends, padding)
        for axis in (0, 1):
            if blocks[axis] > 1:
                plane = np.add.reduceat(plane, np.arange(0, plane.shape[axis], blocks[axis]), axis=axis)
        block = index // blocks[2]
        found[block] += plane / parts[2][block]
    return (found / (parts[0][:, None] * parts[1])).transpose(1, 2, 0)


def _lengths(count: int, block: int) -> NDArray[np.float32]:
    """Give the number of voxels in each block along an axis."""
    starts = np.arange(0, count, block)
    return np.minimum(block, count - starts).astype(np.float32)


def _scaled(plane: NDArray[Any], ends: tuple[float, float], padding: tuple[float, float] | None) -> NDArray[np.float32]:
    low, high = ends
    if not low < high:
        return np.zeros(plane.shape, np.float32)
    scaled = np.clip((plane.astype(np.float64) - low) / (high - low), 0, 1).astype(np.float32)
    mask = padding_mask(plane, padding)
    if mask is not None:
        scaled[mask] = 0
    return scaled


def _look_up(
    values: NDArray[np.float32],
    indices: tuple[NDArray[np.float64], ...],
    shape: tuple[int, ...],
    blocks: Sequence[int],
    left: Sequence[float],
) -> NDArray[np.float32]:
    """Interpolate block means at indices that count single voxels; 0 outside of the volume of that shape."""
    from scipy.ndimage import gaussian_filter, map_coordinates

    smooth = gaussian_filter(values, [max(0.0, (factor - 1) / 2) for factor in left], mode="nearest")
    places = [_between_blocks(index, count, block) for index, count, block in zip(indices, shape, blocks, strict=True)]
    found: NDArray[np.float32] = map_coordinates(smooth, np.stack(places), order=1, mode="nearest")
    is_inside = np.ones(found.shape, bool)
    for index, count in zip(indices, shape, strict=True):
        is_inside &= (index >= -0.5 - _EDGE) & (index <= count - 0.5 + _EDGE)
    return np.where(is_inside, found, np.float32(0))


def _between_blocks(index: NDArray[np.float64], count: int, block: int) -> NDArray[np.float64]:
    """Turn indices that count voxels into those that count blocks, by the middle of the voxels that each block has."""
    middles = np.arange(0, count, block) + (_lengths(count, block) - 1) / 2
    return np.interp(index, middles, np.arange(len(middles)))
