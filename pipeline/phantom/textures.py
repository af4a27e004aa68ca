"""Textures: procedural grounds without any anatomy, and the noise fields that tissue is made of."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.core.seeding import derive_seed
from pipeline.phantom.anatomy import single

Values = npt.NDArray[Any]  # of 32-bit floating point
LARGEST_SIDE = 512  # pixels, of the fields that every image cuts another piece out of
EXPONENTS = (0.6, 1.0, 1.5, 2.0)  # of the falling amplitude: from grainy to cloudy


class NoiseBank:
    """Large fields of fractal noise, drawn once for a stream; images cut pieces out of them.

    Parameters
    ----------
    seed
        Of the stream.
    """

    def __init__(self, seed: int) -> None:
        self._fields = [
            fractal(np.random.default_rng(derive_seed(seed, "source", "bank", place)), LARGEST_SIDE, exponent)
            for place, exponent in enumerate(EXPONENTS)
        ]

    def piece(self, rng: np.random.Generator, size: int, kind: int | None = None) -> Values:
        """Cut out, turn and mirror a piece of (size, size); mean about 0, standard deviation about 1."""
        field = self._fields[int(rng.integers(len(EXPONENTS))) if kind is None else kind]
        stride = int(rng.integers(1, max(2, min(4, LARGEST_SIDE // size))))
        row, column = rng.integers(0, LARGEST_SIDE - stride * size + 1, 2)
        cut = field[row : row + stride * size : stride, column : column + stride * size : stride]
        if rng.random() < 0.5:
            cut = cut[:, ::-1]
        return np.ascontiguousarray(np.rot90(cut, int(rng.integers(4))))


def fractal(rng: np.random.Generator, size: int, exponent: float) -> Values:
    """Draw noise whose amplitude falls with the spatial frequency to the power `exponent`; mean 0, deviation 1."""
    rows, columns = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :]
    frequency = np.hypot(rows, columns)
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal((size, size))) * frequency**-exponent
    field = np.fft.irfft2(spectrum, (size, size))
    return single((field - field.mean()) / field.std())


def _coordinates(rng: np.random.Generator, size: int) -> tuple[Values, Values]:
    """Give turned coordinates of all pixels, in fractions of the side."""
    line = single((np.arange(size) + 0.5) / size - 0.5)
    turn = rng.uniform(0, np.pi)
    cosine, sine = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    return cosine * line[None, :] + sine * line[:, None], cosine * line[:, None] - sine * line[None, :]


def _cloud(rng: np.random.Generator, size: int, bank: NoiseBank) -> Values:
    return 0.25 * bank.piece(rng, size, 2)


def _grain(rng: np.random.Generator, size: int, bank: NoiseBank) -> Values:
    return 0.25 * bank.piece(rng, size, 0)


def _worms(rng: np.random.Generator, size: int, bank: NoiseBank) -> Values:
    """Draw winding bands: level lines of a cloud."""
    return 0.3 * np.sin(np.float32(rng.uniform(4, 12)) * bank.piece(rng, size, 3))


def _grating(rng: np.random.Generator, size: int, bank: NoiseBank) -> Values:
    """Draw parallel waves, slightly bent."""
    x, _ = _coordinates(rng, size)
    bent = x + np.float32(0.01 * rng.uniform(0, 2)) * bank.piece(rng, size, 3)
    drawn: Values = 0.3 * np.sin(np.float32(2 * np.pi * rng.uniform(4, 20)) * bent + np.float32(rng.uniform(0, 6)))
    return drawn


def _plaid(rng: np.random.Generator, size: int, bank: NoiseBank) -> Values:
    """Draw two gratings across each other, multiplied."""
    x, y = _coordinates(rng, size)
    bent = np.float32(0.01) * bank.piece(rng, size, 3)
    across = np.sin(np.float32(2 * np.pi * rng.uniform(3, 12)) * (x + bent))
    drawn: Values = 0.4 * across * np.sin(np.float32(2 * np.pi * rng.uniform(3, 12)) * (y + bent))
    return drawn


def _cells(rng: np.random.Generator, size: int, _bank: NoiseBank) -> Values:
    """Draw the distance to the nearest of random points: bright borders between cells."""
    points = single(rng.uniform(-0.55, 0.55, (int(rng.integers(12, 40)), 2)))
    line = single((np.arange(size) + 0.5) / size - 0.5)
    nearest = np.full((size, size), 9, np.float32)
    for x, y in points:
        np.minimum(nearest, (line - x)[None, :] ** 2 + (line - y)[:, None] ** 2, out=nearest)
    return np.sqrt(nearest) * np.float32(3.0) - 0.3


def _leaves(rng: np.random.Generator, size: int, _bank: NoiseBank) -> Values:
    """Draw dead leaves: discs and boxes of one grey each, thrown over each other."""
    line = single((np.arange(size) + 0.5) / size - 0.5)
    field = np.zeros((size, size), np.float32)
    count = 60
    radii = 0.03 / (rng.uniform(0.03, 1, count) ** 0.7)
    centres, greys = rng.uniform(-0.6, 0.6, (count, 2)), rng.uniform(-0.5, 0.5, count)
    for place in np.argsort(-radii):
        x, y = centres[place]
        across, down = np.abs(line - np.float32(x))[None, :], np.abs(line - np.float32(y))[:, None]
        radius = np.float32(min(radii[place], 0.3))
        covered = across**2 + down**2 < radius**2 if place % 2 else np.maximum(across, down) < radius
        field[covered] = greys[place]
    return field


def _weave(rng: np.random.Generator, size: int, _bank: NoiseBank) -> Values:
    """Draw sum of a few plane waves with random directions: a smooth tangle without a main direction."""
    field = np.zeros((size, size), np.float32)
    wave = rng.uniform(4, 14)
    for _ in range(6):
        x, _y = _coordinates(rng, size)
        field += np.sin(np.float32(2 * np.pi * wave) * x + np.float32(rng.uniform(0, 6)))
    return 0.14 * field


TEXTURES: dict[str, Callable[[np.random.Generator, int, NoiseBank], Values]] = {
    "cloud": _cloud,
    "grain": _grain,
    "worms": _worms,
    "grating": _grating,
    "plaid": _plaid,
    "cells": _cells,
    "dead leaves": _leaves,
    "weave": _weave,
}
"""Each takes a generator, the side in pixels and the stream's noise, and gives a field around 0 of about +- 0.5."""
