"""Oracle: is a volume what its original DICOM files say?

Plain pydicom, numpy and nibabel's reader of mosaics; nothing of the pipeline but its reason codes. Acceptance
protocol A: every slice's own corners fall on voxels, its own pixels have the values found there, no slice is lost or
added, and every file is accounted for once.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydicom
from numpy.typing import NDArray

from pipeline.core.reasons import REASONS

TOLERANCE_VOXELS = 0.05
PIXELS_PER_SLICE = 64
RELATIVE_TOLERANCE = 1e-6  # of values that are no whole numbers
_LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])


class Original(NamedTuple):
    """A slice as it came: a file, or one frame of it (from 1)."""

    path: Path
    frame: int = 0


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


def read_planes(path: Path) -> list[Plane]:
    """Read the slices of a file as its header says, whatever pydicom may warn about."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = pydicom.dcmread(path)
        if "PerFrameFunctionalGroupsSequence" in data:
            return _enhanced_planes(data)
        if "MOSAIC" in data.get("ImageType", []):
            return _mosaic_planes(data)
        orientation, spacing = data.ImageOrientationPatient, data.PixelSpacing
        return [_plane(data.ImagePositionPatient, orientation, spacing, _rescale(data), _stored(data), data)]


def _plane(
    position: Sequence[float],
    orientation: Sequence[float],
    spacing: Sequence[float],
    rescale: tuple[float, float],
    stored: NDArray[np.float64] | None,
    data: pydicom.Dataset,
) -> Plane:
    slope, intercept = rescale
    cosines = np.array(orientation, float)
    return Plane(
        position=np.array(position, float),
        along_row=cosines[:3],
        down_column=cosines[3:],
        shape=(int(data.Rows), int(data.Columns)) if stored is None else (stored.shape[0], stored.shape[1]),
        between_rows=float(spacing[0]),
        between_columns=float(spacing[1]),
        values=None if stored is None else slope * stored + intercept,
        is_whole=slope.is_integer() and intercept.is_integer(),
    )


def _rescale(data: pydicom.Dataset) -> tuple[float, float]:
    return float(data.get("RescaleSlope") or 1), float(data.get("RescaleIntercept") or 0)


def _enhanced_planes(data: pydicom.Dataset) -> list[Plane]:
    """Read each frame by its functional groups, its own before the shared ones (PS3.3, C.7.6.16)."""
    stored = _stored(data)
    if stored is not None:
        stored = stored.reshape(-1, data.Rows, data.Columns)
    planes = []
    for number, frame in enumerate(data.PerFrameFunctionalGroupsSequence):
        found = {}
        for group in (*data.get("SharedFunctionalGroupsSequence", []), frame):
            found |= {element.keyword: element.value[0] for element in group if element.VR == "SQ" and element.value}
        planes.append(
            _plane(
                found["PlanePositionSequence"].ImagePositionPatient,
                found["PlaneOrientationSequence"].ImageOrientationPatient,
                found["PixelMeasuresSequence"].PixelSpacing,
                _rescale(found.get("PixelValueTransformationSequence", data)),
                None if stored is None else stored[number],
                data,
            )
        )
    return planes


def _mosaic_planes(data: pydicom.Dataset) -> list[Plane]:
    """Read the tiles of a mosaic as nibabel does; its affine leads from (row, column, tile) to DICOM's axes."""
    from nibabel.nicom.dicomwrappers import MosaicWrapper

    sheet = _stored(data)
    wrapper = MosaicWrapper(data)
    wrapper.get_pixel_array = lambda: sheet
    tiles = None if sheet is None else wrapper.get_unscaled_data()
    places = [(wrapper.affine @ [0, 0, number, 1])[:3] for number in range(wrapper.image_shape[2])]
    return [
        _plane(
            place,
            data.ImageOrientationPatient,
            data.PixelSpacing,
            _rescale(data),
            None if tiles is None else tiles[:, :, number],
            data,
        )
        for number, place in enumerate(places)
    ]


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
def _known_planes(path: Path, _size: int, _time: int) -> list[Plane]:
    return read_planes(path)


def plane_of(original: Original) -> Plane:
    """Read a slice, or give it again if the file has not changed."""
    state = original.path.stat()
    planes = _known_planes(original.path, state.st_size, state.st_mtime_ns)
    return planes[original.frame - 1] if original.frame else planes[0]


def volume_violations(
    array: NDArray[np.generic], affine: NDArray[np.float64], originals: Sequence[Original], *, seed: int = 0
) -> list[str]:
    """Hold a volume against the original files that it was made from; an empty list is a pass.

    Parameters
    ----------
    array, affine
        The volume, and from its voxels to RAS millimetres.
    originals
        The original slices, in any order.
    seed
        Of the choice of pixels.
    """
    generator = np.random.default_rng(seed)
    planes = [plane_of(one) for one in originals]
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
