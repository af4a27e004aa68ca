"""Volumes: CT-like chests, slice by slice, in oblique position and with unequal spacings."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.phantom.lesion import Finding

Hounsfield = npt.NDArray[np.float32]
_HALF_CHEST_MM = (160.0, 120.0, 110.0)  # right-left, front-back, head-feet
_FEWEST_COLUMNS = 64  # below 43, slices would be too small for the five wavelet levels of JPEG 2000
_TYPICAL_MM = 36.0  # median diameter of a nodule
_LARGE_MM = 36.0  # diameter from which it is called large
_CENTRES = {-1: (-0.44, 0.02), 1: (0.44, 0.02)}  # of the lungs, in half chests
_LUNG = (0.33, 0.62, 0.95)  # half axes of a lung, in half chests


@dataclass(frozen=True)
class Tomograph:
    """One CT scanner: its name and how it stores and blurs."""

    manufacturer: str
    model: str
    software: str
    bits_stored: int
    is_signed: bool
    noise_hu: float
    blur: float  # pixels


TOMOGRAPHS: tuple[Tomograph, ...] = (
    Tomograph("Phantom Radiography", "PT-16", "2.0", bits_stored=12, is_signed=False, noise_hu=18.0, blur=0.7),
    Tomograph("Synthetic Imaging", "ST-64", "5.4", bits_stored=16, is_signed=True, noise_hu=28.0, blur=0.45),
)


@dataclass(frozen=True)
class Stack:
    """Geometry of a series: a grid of voxels in the patient's frame (LPS, mm)."""

    shape: tuple[int, int, int]  # columns, rows, slices
    spacing: tuple[float, float, float]  # between rows, between columns, between slices
    axes: npt.NDArray[np.float64]  # (3, 3): columns are the directions of growing column, row and slice index
    first: npt.NDArray[np.float64]  # centre of the first voxel

    @classmethod
    def draw(cls, rng: np.random.Generator, size: int) -> "Stack":
        """Draw a tilted grid around the chest.

        Slices have half as many columns as a radiograph of `size` pixels, but at least 64, and three rows for
        every four columns.
        """
        columns = max(size // 2, _FEWEST_COLUMNS)
        rows, slices = 3 * columns // 4, int(rng.integers(24, 33))
        # Decimal fractions that a decimal string holds exactly, so that header and manifest agree to the last digit.
        between_columns = round(2 * _HALF_CHEST_MM[0] * rng.uniform(1.1, 1.2) / columns, 4)
        between_rows = round(2 * _HALF_CHEST_MM[1] * rng.uniform(1.1, 1.2) / rows, 4)
        between_slices = round(2 * _HALF_CHEST_MM[2] * rng.uniform(0.95, 1.05) / slices, 2)
        axes = np.round(_rotation(*rng.uniform(-0.3, 0.3, 3)), 10)
        centre = rng.uniform(-30, 30, 3)
        middle = np.array([columns - 1, rows - 1, slices - 1]) / 2
        first = centre - axes @ (middle * np.array([between_columns, between_rows, between_slices]))
        return cls((columns, rows, slices), (between_rows, between_columns, between_slices), axes, np.round(first, 6))

    @property
    def orientation(self) -> npt.NDArray[np.float64]:
        """Image Orientation (Patient): the directions of growing column and row index, shape (6,)."""
        return np.concatenate([self.axes[:, 0], self.axes[:, 1]])

    def position(self, index: int) -> npt.NDArray[np.float64]:
        """Image Position (Patient) of a slice, shape (3,), mm."""
        return self.first + self.axes[:, 2] * self.spacing[2] * index

    def affine(self) -> npt.NDArray[np.float64]:
        """Matrix from (column, row, slice) indices to mm in RAS+, shape (4, 4)."""
        matrix = np.eye(4)
        matrix[:3, :3] = self.axes * np.array([self.spacing[1], self.spacing[0], self.spacing[2]])
        matrix[:3, 3] = self.first
        return np.diag([-1.0, -1.0, 1.0, 1.0]) @ matrix

    def chest_coordinates(self) -> tuple[npt.NDArray[np.float32], ...]:
        """Give x (right to left), y (front to back) and z (feet to head) of voxels in half chests.

        Each has shape (slices, rows, columns). The chest is turned with the grid by half the grid's own tilt, so
        that neither the patient nor the grid stands straight.
        """
        columns, rows, slices = self.shape
        u = ((np.arange(columns) - (columns - 1) / 2) * self.spacing[1]).astype(np.float32)[None, None, :]
        v = ((np.arange(rows) - (rows - 1) / 2) * self.spacing[0]).astype(np.float32)[None, :, None]
        w = ((np.arange(slices) - (slices - 1) / 2) * self.spacing[2]).astype(np.float32)[:, None, None]
        turn = ((self.axes + np.eye(3)) / 2).astype(np.float32)
        return tuple(
            (turn[axis, 0] * u + turn[axis, 1] * v + turn[axis, 2] * w) / np.float32(_HALF_CHEST_MM[axis])
            for axis in range(3)
        )


@dataclass(frozen=True)
class Nodule:
    """A ball in a lung."""

    centre: tuple[float, float, float]  # in half chests
    diameter_mm: float
    contrast_hu: float

    @property
    def finding(self) -> Finding:
        """Class by size."""
        return "large" if self.diameter_mm >= _LARGE_MM else "small"

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Nodule":
        """Draw size, contrast and place independently."""
        side = int(rng.choice([-1, 1]))
        away = rng.uniform(-0.55, 0.55, 3)
        centre = (
            _CENTRES[side][0] + away[0] * _LUNG[0] + 0.04 * side,
            _CENTRES[side][1] + away[1] * _LUNG[1],
            away[2] * _LUNG[2],
        )
        return cls(
            centre=centre,
            diameter_mm=float(np.clip(rng.lognormal(np.log(_TYPICAL_MM), 0.2), 18, 52)),
            contrast_hu=float(np.clip(rng.lognormal(np.log(850), 0.2), 300, 1000)),
        )

    def density(self, coordinates: tuple[npt.NDArray[np.float32], ...]) -> Hounsfield:
        """HU added by the nodule; exactly 0 outside the ball."""
        squares = [
            ((axis - np.float32(middle)) * np.float32(half)) ** 2
            for axis, middle, half in zip(coordinates, self.centre, _HALF_CHEST_MM, strict=True)
        ]
        ratio = (squares[0] + squares[1] + squares[2]) / np.float32((self.diameter_mm / 2) ** 2)
        return np.asarray(np.float32(self.contrast_hu) * np.maximum(1 - ratio, 0) ** np.float32(0.4), np.float32)


def chest(stack: Stack, rng: np.random.Generator) -> Hounsfield:
    """Draw a chest of muscle, fat, lungs, vessels, heart, spine and ribs, shape (slices, rows, columns), in HU."""
    from scipy.ndimage import gaussian_filter

    x, y, z = stack.chest_coordinates()
    build = rng.uniform(0.92, 1.05, 6)
    trunk = (x / np.float32(0.95 * build[0])) ** 2 + (y / np.float32(0.92 * build[1])) ** 2
    volume = np.full(trunk.shape, -1000, np.float32)
    volume[trunk < 1] = -95
    volume[trunk < 0.86] = 45
    shell = (trunk > 0.70) & (trunk < 0.80)
    rib = np.sin(np.float32(26 * build[2]) * z + np.float32(2.5) * y) > 0.35
    volume[shell & rib] = 380
    # Vessels are thin within a slice and go on to the next: a nodule is what is wide.
    grain = gaussian_filter(rng.standard_normal(trunk.shape, dtype=np.float32), (1.5, 0.8, 0.8))
    grain /= grain.std()
    for side, (middle_x, middle_y) in _CENTRES.items():
        ratio = ((x - np.float32(middle_x)) / np.float32(_LUNG[0] * build[3])) ** 2
        ratio = ratio + ((y - np.float32(middle_y)) / np.float32(_LUNG[1] * build[4])) ** 2 + (z / _LUNG[2]) ** 2
        heart = ((x - 0.10) / 0.34) ** 2 + ((y + 0.25) / 0.36) ** 2 + ((z + 0.25) / 0.5) ** 2
        inside = (ratio < 1) & ((heart > 1) | (side < 0)) & (trunk < 0.70)
        vessel = np.where(grain > 2.2, np.float32(420), np.float32(0))
        volume = np.where(inside, -860 + 35 * grain + vessel, volume)
    body = (x / 0.13) ** 2 + ((y - 0.62) / 0.17) ** 2
    disc = np.cos(np.float32(20 * build[5]) * z) > -0.75
    return np.where((body < 1) & disc, 240, volume).astype(np.float32)


def scan(tomograph: Tomograph, density: Hounsfield, rng: np.random.Generator) -> npt.NDArray[np.int32]:
    """Blur, add noise and round to stored values: HU + 1024, within what the scanner can store."""
    from scipy.ndimage import gaussian_filter

    noise = rng.standard_normal(density.shape, dtype=np.float32)
    seen = gaussian_filter(density, (0, tomograph.blur, tomograph.blur), truncate=3)
    seen += np.float32(tomograph.noise_hu) * noise
    low, high = (-(2**15), 2**15 - 1) if tomograph.is_signed else (0, 2**tomograph.bits_stored - 1)
    return np.asarray(np.clip(np.rint(seen + 1024), low, high), np.int32)


def _rotation(about_x: float, about_y: float, about_z: float) -> npt.NDArray[np.float64]:
    cosines, sines = np.cos([about_x, about_y, about_z]), np.sin([about_x, about_y, about_z])
    x = np.array([[1, 0, 0], [0, cosines[0], -sines[0]], [0, sines[0], cosines[0]]])
    y = np.array([[cosines[1], 0, sines[1]], [0, 1, 0], [-sines[1], 0, cosines[1]]])
    z = np.array([[cosines[2], -sines[2], 0], [sines[2], cosines[2], 0], [0, 0, 1]])
    return np.asarray(z @ y @ x, np.float64)
