"""Oracle: is a volume what its original DICOM files say?

Plain pydicom and numpy; nothing of the pipeline but its reason codes. Acceptance protocol A: every slice's own
corners fall on voxels, its own pixels have the values found there, no slice is lost or added, and every file is
accounted for once.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray

from pipeline.core.reasons import REASONS

TOLERANCE_VOXELS = 0.05
PIXELS_PER_SLICE = 64
RELATIVE_TOLERANCE = 1e-6  # of values that are no whole numbers
_LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Plane:
    """One original slice: its place, and its values in the modality's unit (None if pydicom has no decoder)."""

    position: NDArray[np.float64]
    along_row: NDArray[np.float64]
    down_column: NDArray[np.float64]
    shape: tuple[int, int]
    between_rows: float
    between_columns: float
    values: NDArray[np.float64] | None
    is_whole: bool

    def places(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.float64]:
        """Give places of pixels in RAS millimetres (PS3.3, equation C.7.6.2.1-1)."""
        lps = (
            self.position
            + self.along_row * self.between_columns * columns[:, None]
            + self.down_column * self.between_rows * rows[:, None]
        )
        return lps * _LPS_TO_RAS


def read_plane(path: Path) -> Plane:
    """Read one single-frame slice as its header says, whatever pydicom may warn about."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = pydicom.dcmread(path)
        orientation = np.array(data.ImageOrientationPatient, float)
        slope, intercept = (float(data.get(word) or default) for word, default in _RESCALE)
        stored = _stored(data)
        return Plane(
            position=np.array(data.ImagePositionPatient, float),
            along_row=orientation[:3],
            down_column=orientation[3:],
            shape=(int(data.Rows), int(data.Columns)),
            between_rows=float(data.PixelSpacing[0]),
            between_columns=float(data.PixelSpacing[1]),
            values=None if stored is None else slope * stored + intercept,
            is_whole=slope.is_integer() and intercept.is_integer(),
        )


_RESCALE = (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0))


def _stored(data: pydicom.Dataset) -> NDArray[np.float64] | None:
    """Decode, keep BitsStored bits, extend by the sign (PS3.5, section 8.1.1)."""
    if "ModalityLUTSequence" in data:
        raise NotImplementedError("the oracle knows slope and intercept only")
    if "SamplesPerPixel" not in data:
        data.SamplesPerPixel = 1  # grey has no other number (PS3.3, C.7.6.3.1.2)
    try:
        words = data.pixel_array.astype(np.int64)
    except RuntimeError as error:  # what pydicom raises if no decoder is installed
        if "missing dependencies" in str(error) or "plugin" in str(error):
            return None
        raise
    words &= (1 << data.BitsStored) - 1
    if data.PixelRepresentation:
        words = np.where(words >> (data.BitsStored - 1), words - (1 << data.BitsStored), words)
    return words.astype(np.float64)


@lru_cache(maxsize=4096)
def _known_plane(path: Path, _size: int, _time: int) -> Plane:
    return read_plane(path)


def plane_of(path: Path) -> Plane:
    """Read a slice, or give it again if the file has not changed."""
    state = path.stat()
    return _known_plane(path, state.st_size, state.st_mtime_ns)


def volume_violations(
    array: NDArray[np.generic], affine: NDArray[np.float64], files: Sequence[Path], *, seed: int = 0
) -> list[str]:
    """Hold a volume against the original files that it was made from; an empty list is a pass.

    Parameters
    ----------
    array, affine
        The volume, and from its voxels to RAS millimetres.
    files
        The original files, in any order.
    seed
        Of the choice of pixels.
    """
    generator = np.random.default_rng(seed)
    planes = [plane_of(path) for path in files]
    found = [message for plane in planes for message in _plane_violations(plane, array, affine, generator)]
    if sum(plane.shape[0] * plane.shape[1] for plane in planes) != array.size:
        found.append(f"{array.size} voxels from {len(planes)} slices")
    centres = np.array([_voxels(plane, affine, *_middle(plane))[0] for plane in planes]).round(1)
    if len(np.unique(centres, axis=0)) != len(planes):
        found.append("two slices stand at one place")
    return found


def _plane_violations(
    plane: Plane, array: NDArray[np.generic], affine: NDArray[np.float64], generator: np.random.Generator
) -> list[str]:
    last_row, last_column = plane.shape[0] - 1, plane.shape[1] - 1
    rows = np.concatenate([[0, 0, last_row, last_row], generator.integers(0, last_row + 1, PIXELS_PER_SLICE)])
    columns = np.concatenate([[0, last_column, 0, last_column], generator.integers(0, last_column + 1, 64)])
    voxels = _voxels(plane, affine, rows, columns)
    nearest = np.rint(voxels)
    if not np.abs(voxels - nearest).max() <= TOLERANCE_VOXELS:
        return [f"pixels lie {np.abs(voxels - nearest).max():.3f} voxels off the grid"]
    index = nearest.astype(np.int64)
    if (index < 0).any() or (index >= array.shape).any():
        return ["pixels lie outside of the volume"]
    if plane.values is None:
        return []
    expected = plane.values[rows, columns]
    stored = array[tuple(index.T)].astype(np.float64)
    tolerance = 0 if plane.is_whole else RELATIVE_TOLERANCE * np.abs(expected)
    wrong = ~(np.abs(stored - expected) <= tolerance)
    return [f"{wrong.sum()} of {len(wrong)} pixels have other values"] if wrong.any() else []


def _voxels(
    plane: Plane, affine: NDArray[np.float64], rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> NDArray[np.float64]:
    inverse = np.linalg.inv(affine)
    return plane.places(rows, columns) @ inverse[:3, :3].T + inverse[:3, 3]


def _middle(plane: Plane) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return np.array([plane.shape[0] // 2]), np.array([plane.shape[1] // 2])


def accounting_violations(fates: Mapping[str, Sequence[str]]) -> list[str]:
    """Check that every file was either accepted or left out for one reason that is in the list."""
    known = {"accepted", *REASONS}
    return [
        f"{path}: {' and '.join(fate) or 'lost'}"
        for path, fate in sorted(fates.items())
        if len(fate) != 1 or fate[0] not in known
    ]
