"""Volumes: voxels with a place in the patient."""

import itertools
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

# The patient axes of an affine's rows: left to right, posterior to anterior, inferior to superior.
_CODES = (("L", "R"), ("P", "A"), ("I", "S"))
_PERMUTATIONS = tuple(itertools.permutations(range(3)))
# Cosine of the largest angle error between axes that still counts as square (0.06 degrees).
_SHEAR_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxels on a regular, possibly sheared, grid.

    Parameters
    ----------
    array
        Voxel values, shape (I, J, K).
    affine_mm
        Matrix (4, 4) from voxel indices (centres) to RAS+ millimetres: x grows to the patient's right, y to
        anterior, z to superior, the convention of NIfTI. DICOM's own axes (LPS) have x and y reversed.
    unit
        Unit of the values, ``"HU"`` for calibrated CT, empty if there is none.

    Raises
    ------
    ValueError
        If the array has not three axes, or the affine is not finite or not invertible.
    """

    array: NDArray[Any]
    affine_mm: NDArray[np.float64]
    unit: str = ""
    _inverse: NDArray[np.float64] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        affine = np.array(self.affine_mm, dtype=np.float64)
        if self.array.ndim != 3 or 0 in self.array.shape:
            message = f"a volume has three axes, none of them empty; this array has the shape {self.array.shape}"
            raise ValueError(message)
        if affine.shape != (4, 4) or not np.isfinite(affine).all() or (affine[3] != (0, 0, 0, 1)).any():
            message = "the affine must be a finite 4 x 4 matrix with the last row 0 0 0 1"
            raise ValueError(message)
        scale = np.prod(np.linalg.norm(affine[:3, :3], axis=0))
        if not abs(np.linalg.det(affine[:3, :3])) > 1e-6 * scale:
            message = "the affine flattens space: two of its axes lie in one direction"
            raise ValueError(message)
        affine.flags.writeable = False
        object.__setattr__(self, "affine_mm", affine)
        object.__setattr__(self, "_inverse", np.linalg.inv(affine))

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distances between the centres of neighbouring voxels along the three axes."""
        first, second, third = np.linalg.norm(self.affine_mm[:3, :3], axis=0)
        return float(first), float(second), float(third)

    @property
    def axis_codes(self) -> str:
        """Where the three axes point to, for example ``"RAS"`` or ``"LPS"`` (nearest patient axes)."""
        nearest = _nearest_axes(self.affine_mm)
        return "".join(_CODES[axis][int(self.affine_mm[axis, index] > 0)] for index, axis in enumerate(nearest))

    @property
    def is_sheared(self) -> bool:
        """Whether the axes are not at right angles (a tilted gantry)."""
        directions = self.affine_mm[:3, :3] / self.spacing_mm
        return bool(np.abs(directions.T @ directions - np.eye(3)).max() > _SHEAR_TOLERANCE)

    def to_patient(self, voxels: ArrayLike) -> NDArray[np.float64]:
        """Map voxel indices, shape (..., 3), to RAS+ millimetres."""
        moved: NDArray[np.float64] = np.asarray(voxels) @ self.affine_mm[:3, :3].T + self.affine_mm[:3, 3]
        return moved

    def to_voxels(self, points_mm: ArrayLike) -> NDArray[np.float64]:
        """Map RAS+ millimetres, shape (..., 3), to (fractional) voxel indices."""
        moved: NDArray[np.float64] = np.asarray(points_mm) @ self._inverse[:3, :3].T + self._inverse[:3, 3]
        return moved

    def reoriented(self) -> "Volume":
        """Swap and reverse axes so that they point nearest to right, anterior and superior.

        No value is interpolated: each voxel keeps its value and its place in the patient. The array of the
        result is a view.
        """
        order, is_reversed = upright_axes(self.affine_mm)
        turned = np.eye(4)
        turned[:3, :3] = np.eye(3)[:, list(order)]
        array = self.array.transpose(order)
        for axis in range(3):
            if is_reversed[axis]:
                turned[:, 3] += turned[:, axis] * (array.shape[axis] - 1)
                turned[:, axis] *= -1
                array = np.flip(array, axis)
        return Volume(array, self.affine_mm @ turned, self.unit)


def upright_axes(affine_mm: NDArray[np.float64]) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
    """Tell how a grid must be turned so that its axes point nearest to right, anterior and superior.

    Returns
    -------
    tuple
        For each patient axis the voxel axis that runs along it, and whether that one runs the other way.
    """
    nearest = _nearest_axes(affine_mm)
    first, second, third = (nearest.index(axis) for axis in range(3))
    right, anterior, superior = (bool(affine_mm[row, axis] < 0) for row, axis in enumerate((first, second, third)))
    return (first, second, third), (right, anterior, superior)


def _nearest_axes(affine_mm: NDArray[np.float64]) -> tuple[int, int, int]:
    """For each voxel axis the patient axis it runs along, one each, the best match over all."""
    cosines = np.abs(affine_mm[:3, :3] / np.linalg.norm(affine_mm[:3, :3], axis=0))
    best = max(_PERMUTATIONS, key=lambda axes: cosines[list(axes), range(3)].sum())
    return best[0], best[1], best[2]
