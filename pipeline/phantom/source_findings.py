"""Findings of the source task: what may be seen in its images, none of them the lesion of the built-in study.

The target's lesion is one smooth lobulated opacity. Here are rings, plates, stars, meshes, cracks and the like: related
in that they are to be found behind other structures and noise, at many sizes and strengths, and different in kind.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.phantom.anatomy import single
from pipeline.phantom.textures import NoiseBank

Values = npt.NDArray[Any]  # of 32-bit floating point
_MARGIN = 1.25  # how far the window reaches, in radii


class Local(NamedTuple):
    """Coordinates around the centre of a finding in its radii: turned, and polar; `pixel` is a pixel's width."""

    x: Values
    y: Values
    radius: Values
    angle: Values
    pixel: float
    bank: NoiseBank


def add_finding(
    total: Values,
    name: str,
    rng: np.random.Generator,
    centre: tuple[float, float],
    diameter: float,
    contrast: float,
    bank: NoiseBank,
) -> None:
    """Add a finding to an attenuation in place.

    Parameters
    ----------
    total
        Shape (size, size); the field of view is [-1, 1] in both directions.
    name
        One of `FINDINGS`.
    rng
        Draws its details.
    centre
        x and y in the field of view.
    diameter
        Of its outline, in half fields of view.
    contrast
        Attenuation where it is thickest.
    bank
        The stream's noise.
    """
    size = len(total)
    reach = _MARGIN * diameter / 2
    (left, right), (top, bottom) = (
        (max(0, round((at - reach + 1) * size / 2)), min(size, round((at + reach + 1) * size / 2))) for at in centre
    )
    if right - left < 2 or bottom - top < 2:
        return
    line = single((np.arange(size) + 0.5) / size * 2 - 1)
    dx = (line[left:right] - np.float32(centre[0]))[None, :] * np.float32(2 / diameter)
    dy = (line[top:bottom] - np.float32(centre[1]))[:, None] * np.float32(2 / diameter)
    turn = rng.uniform(0, 2 * np.pi)
    cosine, sine = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    stretch = np.float32(rng.uniform(0.85, 1.2))
    x, y = (cosine * dx + sine * dy) * stretch, (cosine * dy - sine * dx) / stretch
    local = Local(x, y, np.sqrt(x * x + y * y), np.arctan2(y, x), 4 / (size * diameter), bank)
    total[top:bottom, left:right] += np.float32(contrast) * FINDINGS[name](rng, local)


def _edge(distance: Values, local: Local) -> Values:
    """Rise from 0 to 1 within about a pixel where `distance` (in radii) turns positive."""
    return np.clip(distance / np.float32(local.pixel) + np.float32(0.5), 0, 1)


def _disc(local: Local, outer: float = 1.0) -> Values:
    return _edge(np.float32(outer) - local.radius, local)


def _window(local: Local) -> Values:
    """Give a soft mask of a patch, 1 in the middle."""
    return np.clip(np.float32(1.6) * (1 - local.radius * local.radius), 0, 1)


def _ring(rng: np.random.Generator, local: Local) -> Values:
    """Draw wall of a hollow ball."""
    wall = rng.uniform(0.1, 0.35)
    ratio = np.minimum(local.radius, 1) ** 2
    inner = np.maximum((1 - wall) ** 2 - ratio, 0)
    drawn: Values = np.float32(1.4) * (np.sqrt(1 - ratio) - np.sqrt(inner)) * _disc(local)
    return drawn


def _crescent(rng: np.random.Generator, local: Local) -> Values:
    """Draw a disc with a disc cut out of one side."""
    shift = np.float32(rng.uniform(0.35, 0.7))
    cut = np.sqrt((local.x - shift) ** 2 + local.y**2)
    return _disc(local) * _edge(cut - np.float32(0.85), local)


def _plate(rng: np.random.Generator, local: Local) -> Values:
    """Draw a flat polygon with sharp corners."""
    corners = int(rng.integers(3, 5))
    share = np.float32(2 * np.pi / corners)
    within = np.mod(local.angle, share) - share / 2
    return _edge(np.float32(0.85 * np.cos(np.pi / corners)) - local.radius * np.cos(within), local)


def _star(rng: np.random.Generator, local: Local) -> Values:
    """Draw spikes around a small core."""
    spikes = int(rng.integers(7, 16))
    waves = 0.5 + 0.5 * np.cos(np.float32(spikes) * local.angle + np.float32(2.0) * np.sin(local.angle))
    fall = np.maximum(1 - local.radius, 0)
    return single(fall * np.maximum(waves**2, _edge(np.float32(0.25) - local.radius, local)))


def _specks(rng: np.random.Generator, local: Local) -> Values:
    """Draw a cluster of small dense grains."""
    field = np.zeros(np.broadcast_shapes(local.x.shape, local.y.shape), np.float32)
    for _ in range(int(rng.integers(6, 18))):
        away, around = np.sqrt(rng.random()) * 0.9, rng.uniform(0, 2 * np.pi)
        x, y = np.float32(away * np.cos(around)), np.float32(away * np.sin(around))
        grain = max(rng.uniform(0.04, 0.12), 0.6 * local.pixel)
        field += np.maximum(1 - ((local.x - x) ** 2 + (local.y - y) ** 2) / np.float32(grain**2), 0)
    return np.minimum(field, 1)


def _cyst(rng: np.random.Generator, local: Local) -> Values:
    """Draw a lucent hole: less attenuation than around it, with a thin dense rim."""
    rim = np.exp(-(((local.radius - np.float32(0.93)) / np.float32(0.06 + local.pixel / 2)) ** 2))
    hole = np.maximum(1 - local.radius**2, 0) ** np.float32(rng.uniform(0.3, 0.6))
    return single(np.float32(rng.uniform(0.1, 0.5)) * rim - hole)


def _mesh(rng: np.random.Generator, local: Local) -> Values:
    """Draw a patch of crossing bars."""
    wave = np.float32(np.pi * rng.uniform(2, 4.5))
    bars = np.maximum(np.abs(np.cos(wave * local.x)), np.abs(np.cos(wave * local.y)))
    return _edge(bars - np.float32(0.85), local) * _window(local)


def _comb(rng: np.random.Generator, local: Local) -> Values:
    """Draw a honeycomb of lucent cells with dense walls: three waves at 60 degrees."""
    wave = np.float32(2 * np.pi * rng.uniform(1.5, 3))
    third = np.float32(np.sqrt(3) / 2)
    waves = np.cos(wave * local.x)
    for direction in (-1, 1):
        waves = waves + np.cos(wave * (np.float32(0.5 * direction) * local.x + third * local.y))
    return single(np.clip(0.6 - 0.5 * waves, -0.5, 1) * _window(local))


def _haze(rng: np.random.Generator, local: Local) -> Values:
    """Draw a ragged cloud without an outline: noise under a soft mask."""
    rows, columns = local.radius.shape
    cloud = local.bank.piece(rng, max(rows, columns), 1)[:rows, :columns]
    drawn: Values = np.clip(np.float32(0.45) + np.float32(0.6) * cloud, 0, 1.5) * _window(local)
    return drawn


def _wedge(rng: np.random.Generator, local: Local) -> Values:
    """Draw a triangle whose thickness grows from its tip to its base."""
    opening = np.float32(rng.uniform(0.35, 0.8))
    along = (local.x + 1) / 2
    return (
        np.clip(along, 0, 1) * _edge(opening * along - np.abs(local.y), local) * _edge(np.float32(0.7) - local.x, local)
    )


def _screw(rng: np.random.Generator, local: Local) -> Values:
    """Draw a metal pin with a thread and a head."""
    half = np.float32(rng.uniform(0.08, 0.16))
    thread = half * (1 + np.float32(0.35) * np.sin(local.x * np.float32(2 * np.pi * rng.uniform(4, 8))))
    width = np.where(local.x > np.float32(0.75), 2 * half, thread)
    return np.float32(1.5) * _edge(width - np.abs(local.y), local) * _edge(np.float32(0.95) - np.abs(local.x), local)


def _beads(rng: np.random.Generator, local: Local) -> Values:
    """Draw a bent chain of small balls."""
    count, bend = int(rng.integers(4, 8)), rng.uniform(-0.5, 0.5)
    field = np.zeros(np.broadcast_shapes(local.x.shape, local.y.shape), np.float32)
    grain = max(0.7 / count, 0.6 * local.pixel)
    for place in np.linspace(-0.85, 0.85, count):
        away = (local.x - np.float32(place)) ** 2 + (local.y - np.float32(bend * (place**2 - 0.4))) ** 2
        field += np.sqrt(np.maximum(1 - away / np.float32(grain**2), 0))
    return field


def _pyramid(rng: np.random.Generator, local: Local) -> Values:
    """Draw a block on a triangle, whose thickness falls evenly from its middle to its sides."""
    third = np.float32(2 * np.pi / 3)
    within = np.mod(local.angle, third) - third / 2
    drawn: Values = np.float32(rng.uniform(0.9, 1.1)) * np.maximum(1 - 2 * local.radius * np.cos(within), 0)
    return drawn


def _sausage(rng: np.random.Generator, local: Local) -> Values:
    """Draw a long round rod, solid and slightly bent."""
    bent = local.y - np.float32(rng.uniform(-0.35, 0.35)) * (local.x * local.x - np.float32(0.3))
    beyond = np.maximum(np.abs(local.x) - np.float32(0.7), 0)
    drawn: Values = np.sqrt(
        np.maximum(1 - (bent * bent + beyond * beyond) / np.float32(rng.uniform(0.18, 0.3) ** 2), 0)
    )
    return drawn


def _dumbbell(rng: np.random.Generator, local: Local) -> Values:
    """Draw two solid balls side by side, joined by a neck."""
    ball = np.float32(rng.uniform(0.3, 0.42))
    away = (np.abs(local.x) - (np.float32(0.95) - ball)) ** 2 + local.y**2
    neck = np.float32(0.3) * _edge(np.float32(0.1) - np.abs(local.y), local) * (np.abs(local.x) < 0.6)
    drawn: Values = np.maximum(np.sqrt(np.maximum(1 - away / ball**2, 0)), neck)
    return drawn


FINDINGS: dict[str, Callable[[np.random.Generator, Local], Values]] = {
    "ring": _ring,
    "crescent": _crescent,
    "plate": _plate,
    "star": _star,
    "specks": _specks,
    "cyst": _cyst,
    "mesh": _mesh,
    "comb": _comb,
    "haze": _haze,
    "wedge": _wedge,
    "screw": _screw,
    "beads": _beads,
    "pyramid": _pyramid,
    "sausage": _sausage,
    "dumbbell": _dumbbell,
}
"""Each gives a profile of about 1 where the finding is densest; some are lucent, and negative."""
