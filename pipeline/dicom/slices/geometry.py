"""Geometry of a stack of slices: order, spacing and affine, or the reason why the slices do not form one."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]

FEWEST_SLICES = 2  # one slice has no spacing
# Direction cosines are written with few digits; 1e-3 over 512 pixels of 0.5 mm is a quarter of a millimetre.
_UNIT_TOLERANCE = 1e-3
_SAME_COSINES = 1e-4
_SAME_SPACING = 1e-4  # relative
DUPLICATE_MM = 1e-2
# Each slice must lie within this part of a voxel of where the affine puts it.
_EVEN_VOXELS = 0.05
# In-plane drift over the whole stack, in pixels, beyond which the stack is called tilted.
_TILT_PIXELS = 0.5
# Gantries tilt by 30 degrees at most; a stack sheared by more is put together wrongly.
_LARGEST_TILT_DEGREES = 45.0


@dataclass(frozen=True)
class StackGeometry:
    """How slices form a volume.

    The volume's axes are (column, row, slice): ``volume[i, j, k]`` is the pixel in column ``i`` and row ``j``
    of the slice ``order[k]``. For slices read as (rows, columns) arrays that is
    ``np.stack([slices[n].T for n in order], axis=-1)``.

    Attributes
    ----------
    order
        Shape (n,): indices of the given slices, sorted along the normal of the first slice.
    affine_mm
        Shape (4, 4): from voxel indices to millimetres, axes right, anterior, superior (RAS, as in NIfTI).
    spacing_mm
        Distance between columns, rows and slices.
    tilt_degrees
        Angle between the stack and the normal of its slices (a tilted gantry); 0 if it moves the last slice by
        less than half a pixel. The affine is sheared by it, and right.
    """

    order: NDArray[np.intp]
    affine_mm: FloatArray
    spacing_mm: tuple[float, float, float]
    tilt_degrees: float = 0.0


def stack_geometry(
    positions_mm: ArrayLike, orientations: ArrayLike, pixel_spacings_mm: ArrayLike
) -> StackGeometry | str:
    """Order slices along their normal and prove that they form an even, complete stack.

    Parameters
    ----------
    positions_mm
        Shape (n, 3): Image Position (Patient), the centre of each slice's first pixel (LPS).
    orientations
        Shape (n, 6): Image Orientation (Patient), direction cosines of a row and of a column.
    pixel_spacings_mm
        Shape (n, 2): Pixel Spacing, the distance between rows and between columns.

    Returns
    -------
    StackGeometry | str
        The geometry, or a key of `pipeline.core.reasons.REASONS`: ``TOO_FEW_SLICES`` (fewer than two),
        ``BAD_GEOMETRY``, ``MIXED_SERIES``, ``DUPLICATE_POSITION``, ``INSTANCES_MISSING``.

    References
    ----------
    DICOM PS3.3, sections C.7.6.2 (Image Plane Module) and C.7.6.2.1.1 (equation C.7.6.2.1-1).
    """
    positions = np.asarray(positions_mm, dtype=np.float64).reshape(-1, 3)
    cosines = np.asarray(orientations, dtype=np.float64).reshape(-1, 6)
    spacings = np.asarray(pixel_spacings_mm, dtype=np.float64).reshape(-1, 2)
    if len(positions) < FEWEST_SLICES:
        return "TOO_FEW_SLICES"
    problem = _uniform(cosines, spacings)
    if problem or not np.isfinite(positions).all():
        return problem or "BAD_GEOMETRY"
    row, column = cosines[0, :3], cosines[0, 3:]
    normal = np.cross(row, column)
    normal /= np.linalg.norm(normal)
    heights = positions @ normal
    order = np.argsort(heights, kind="stable")
    step = (positions[order[-1]] - positions[order[0]]) / (len(order) - 1)
    problem = _even(positions[order], heights[order], step, normal, spacings[0])
    if problem:
        return problem
    lps = np.eye(4)
    lps[:3, 0] = row * spacings[0, 1]
    lps[:3, 1] = column * spacings[0, 0]
    lps[:3, 2] = step
    lps[:3, 3] = positions[order[0]]
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps
    return StackGeometry(
        order=order,
        affine_mm=affine,
        spacing_mm=(float(spacings[0, 1]), float(spacings[0, 0]), float(np.linalg.norm(step))),
        tilt_degrees=_tilt(step, normal, len(order), spacings[0]),
    )


def is_orientation(cosines: ArrayLike) -> bool:
    """Tell whether six direction cosines are two perpendicular unit vectors (PS3.3, C.7.6.2.1.1)."""
    vectors = np.asarray(cosines, dtype=np.float64)
    if vectors.shape != (6,) or not np.isfinite(vectors).all():
        return False
    gram = vectors.reshape(2, 3) @ vectors.reshape(2, 3).T
    return bool(np.abs(gram - np.eye(2)).max() <= _UNIT_TOLERANCE)


def _tilt(step: FloatArray, normal: FloatArray, count: int, pixel: FloatArray) -> float:
    drift = np.linalg.norm(step - (step @ normal) * normal)
    if drift * (count - 1) <= _TILT_PIXELS * pixel.min():
        return 0.0
    return float(np.degrees(np.arctan2(drift, step @ normal)))


def _uniform(cosines: FloatArray, spacings: FloatArray) -> str:
    """Check that all slices have one valid orientation and one valid spacing."""
    if not all(is_orientation(values) for values in set(map(tuple, cosines.tolist()))):
        return "BAD_GEOMETRY"
    if not np.isfinite(spacings).all() or (spacings <= 0).any():
        return "BAD_GEOMETRY"
    same_plane = np.abs(cosines - cosines[0]).max() <= _SAME_COSINES
    same_grid = np.abs(spacings / spacings[0] - 1).max() <= _SAME_SPACING
    return "" if same_plane and same_grid else "MIXED_SERIES"


def _even(positions: FloatArray, heights: FloatArray, step: FloatArray, normal: FloatArray, pixel: FloatArray) -> str:
    """Check ordered slices against the straight, even line from the first to the last."""
    gaps = np.diff(heights)
    if gaps.min() < max(DUPLICATE_MM, _EVEN_VOXELS * float(np.median(gaps))):
        return "DUPLICATE_POSITION"
    away = positions - (positions[0] + np.arange(len(positions))[:, None] * step)
    along = away @ normal
    if np.abs(along).max() > _EVEN_VOXELS * float(step @ normal):
        return "INSTANCES_MISSING"
    across = np.linalg.norm(away - along[:, None] * normal, axis=1)
    if across.max() > _EVEN_VOXELS * float(pixel.min()):
        return "INSTANCES_MISSING"
    return "BAD_GEOMETRY" if step @ normal < np.cos(np.radians(_LARGEST_TILT_DEGREES)) * np.linalg.norm(step) else ""
