"""Scanners: how two machines at two sites turn attenuation into stored pixel values."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from pipeline.phantom.anatomy import Field
from pipeline.phantom.lettering import letters

Stored = npt.NDArray[np.uint16]


@dataclass(frozen=True)
class Scanner:
    """One machine: what it is called and how it sees.

    `noise` is the standard deviation that photon statistics give in open air, in units of attenuation; it grows
    with the square root of the dose lost on the way. `middle` and `latitude` shape the film-like curve.
    """

    manufacturer: str
    model: str
    software: str
    modality: Literal["CR", "DX"]
    bits_stored: int
    rescale_slope: int
    kilovolt: float
    blur: float  # of the detector, in 1/256 of the field
    noise: float
    noise_floor: float  # electronics
    sharpening: float
    middle: float
    latitude: float
    exposure_spread: float  # standard deviation of the logarithm of the dose
    border: float  # mean width of the collimated border, fraction of the field
    marker: str  # lead letter beside the shoulder


SCANNERS: tuple[Scanner, ...] = (
    Scanner(
        manufacturer="Phantom Radiography",
        model="PR-10 CR",
        software="3.1",
        modality="CR",
        bits_stored=10,
        rescale_slope=4,
        kilovolt=110.0,
        blur=0.55,
        noise=0.016,
        noise_floor=0.010,
        sharpening=0.3,
        middle=0.74,
        latitude=0.27,
        exposure_spread=0.30,
        border=0.02,
        marker="R",
    ),
    Scanner(
        manufacturer="Synthetic Imaging",
        model="SI-12 DX",
        software="7.0.2",
        modality="DX",
        bits_stored=12,
        rescale_slope=1,
        kilovolt=125.0,
        blur=0.35,
        noise=0.010,
        noise_floor=0.005,
        sharpening=0.7,
        middle=0.80,
        latitude=0.33,
        exposure_spread=0.15,
        border=0.0,
        marker="L",
    ),
)


def expose(scanner: Scanner, attenuation: Field, rng: np.random.Generator) -> Stored:
    """Take a picture.

    Parameters
    ----------
    scanner
        The machine.
    attenuation
        Shape (rows, columns).
    rng
        Draws dose, processing and noise; its use does not depend on the attenuation, so that two pictures with
        one seed differ only where their attenuations do.

    Returns
    -------
    Stored
        Bright bones on a dark ground (MONOCHROME2), 0 to ``2**bits_stored - 1``.
    """
    from scipy.ndimage import gaussian_filter

    size = attenuation.shape[1]
    dose = rng.lognormal(0, scanner.exposure_spread)
    middle = scanner.middle + rng.normal(0, 0.03)
    latitude = scanner.latitude * rng.lognormal(0, 0.06)
    grain = rng.standard_normal(attenuation.shape, dtype=np.float32)
    floor = rng.standard_normal(attenuation.shape, dtype=np.float32)
    edges = np.abs(rng.normal(scanner.border, 0.5 * scanner.border, 4))

    seen = gaussian_filter(attenuation, scanner.blur * size / 256, truncate=3)
    quantum = np.float32(scanner.noise / np.sqrt(dose)) * np.exp(np.float32(0.5) * seen)
    heel = np.float32(0.05) * np.linspace(-1, 1, attenuation.shape[0], dtype=np.float32)[:, None]
    seen = seen + quantum * grain + np.float32(scanner.noise_floor) * floor + heel
    seen = seen + np.float32(scanner.sharpening) * (seen - gaussian_filter(seen, 2.5 * size / 256, truncate=3))
    value = 1 / (1 + np.exp((np.float32(middle) - seen) / np.float32(latitude)))
    _add_marker(value, scanner.marker)
    _collimate(value, edges)
    largest = 2**scanner.bits_stored - 1
    return np.asarray(np.clip(np.rint(value * largest), 0, largest), np.uint16)


def _add_marker(value: Field, letter: str) -> None:
    """Draw the side marker in place, in the upper corner of the side it names."""
    scale = max(value.shape[1] // 128, 1)
    glyph = np.kron(letters(letter), np.ones((scale, scale), bool))
    top, inset = value.shape[0] // 20, value.shape[1] // 20
    left = inset if letter == "R" else value.shape[1] - inset - glyph.shape[1]
    value[top : top + glyph.shape[0], left : left + glyph.shape[1]][glyph] = 0.97


def _collimate(value: Field, edges: npt.NDArray[np.float64]) -> None:
    """Darken the borders that the shutters cover, in place."""
    rows, columns = value.shape
    top, bottom = (round(edge * rows) for edge in edges[:2])
    left, right = (round(edge * columns) for edge in edges[2:])
    for covered in (value[:top], value[rows - bottom :], value[:, :left], value[:, columns - right :]):
        covered[...] = 0.01
