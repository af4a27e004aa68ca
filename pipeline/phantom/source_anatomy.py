"""Anatomies of the source task: limbs, heads and trunks that are no chest, each put together from tubes and shells.

Lengths are fractions of half the field of view, as in `pipeline.phantom.anatomy`; x and y are the coordinates of every
pixel after the body was turned, moved and scaled, and everything is attenuation summed along a ray.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.phantom.anatomy import single

Values = npt.NDArray[Any]  # of 32-bit floating point
Point = tuple[float, float]
MADE_UP = "made-up body"


def _soft(distance: Values, softness: float) -> Values:
    """Rise from 0 to 1 over about `softness` around the place where `distance` turns positive."""
    return np.clip(distance / np.float32(softness) + np.float32(0.5), 0, 1)


def _ellipse(x: Values, y: Values, centre: Point, axes: Point, turn: float = 0.0) -> Values:
    """Give the squared distance from a centre, 1 on the outline."""
    cosine, sine = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    dx, dy = x - np.float32(centre[0]), y - np.float32(centre[1])
    return ((cosine * dx + sine * dy) / np.float32(axes[0])) ** 2 + (
        (cosine * dy - sine * dx) / np.float32(axes[1])
    ) ** 2


def _solid(ratio: Values) -> Values:
    """Give the thickness of a ball, 1 in the middle."""
    drawn: Values = np.sqrt(np.maximum(1 - ratio, 0))
    return drawn


def _shell(ratio: Values, inner: float) -> Values:
    """Give the thickness of a hollow ball, brightest at its border."""
    return _solid(ratio) - np.sqrt(np.maximum(np.float32(inner) - ratio, 0))


def _bone(x: Values, y: Values, start: Point, end: Point, radius: float, flare: float = 0.6) -> Values:
    """Draw a long bone: a hollow tube whose ends are wider, 1 at its dense borders."""
    ax, ay = np.float32(start[0]), np.float32(start[1])
    bx, by = np.float32(end[0] - start[0]), np.float32(end[1] - start[1])
    squared = bx * bx + by * by
    along = np.clip(((x - ax) * bx + (y - ay) * by) / squared, 0, 1)
    away = (x - ax - along * bx) ** 2 + (y - ay - along * by) ** 2
    width = np.float32(radius) * (1 + np.float32(flare) * (2 * along - 1) ** 6)
    ratio = away / (width * width)
    return _solid(ratio) - np.float32(0.6) * np.sqrt(np.maximum(np.float32(0.6) - ratio, 0))


def _bones(x: Values, y: Values, points: Sequence[Point], radius: float, gap: float = 0.03) -> Values:
    """Draw a chain of bones with joint spaces between them, each a little thinner than the one before."""
    total = np.zeros_like(x)
    for place, (start, end) in enumerate(pairwise(points)):
        length = float(np.hypot(end[0] - start[0], end[1] - start[1]))
        share = gap / length
        first = (start[0] + share * (end[0] - start[0]), start[1] + share * (end[1] - start[1]))
        last = (end[0] - share * (end[0] - start[0]), end[1] - share * (end[1] - start[1]))
        total += _bone(x, y, first, last, radius * 0.9**place)
    return total


def _knee(rng: np.random.Generator, x: Values, y: Values) -> Values:
    """Draw two long bones that meet, one beside the lower, and a round one before them."""
    bend = rng.normal(0, 0.12)
    width = rng.uniform(0.16, 0.24)
    flesh = 0.6 * _solid((x / np.float32(width + rng.uniform(0.25, 0.4)) - np.float32(bend) * y) ** 2)
    total = flesh + 0.45 * _bone(x, y, (bend, -1.3), (0.0, -0.06), width, 0.9)
    total += 0.45 * _bone(x, y, (0.0, 0.06), (-bend, 1.3), 0.9 * width, 1.0)
    total += 0.3 * _bone(x, y, (1.5 * width, 0.22), (1.4 * width - bend, 1.3), 0.07)
    total += 0.25 * _solid(_ellipse(x, y, (0.02, rng.uniform(-0.3, -0.1)), (0.7 * width, 0.8 * width)))
    return total


def _hand(rng: np.random.Generator, x: Values, y: Values) -> Values:
    """Draw five rays of bones that spread from small round ones."""
    total = np.zeros_like(x)
    flesh = np.zeros_like(x)
    spread = rng.uniform(0.7, 1.1)
    for ray in range(5):
        lean = spread * (ray - 2) * 0.28 + rng.normal(0, 0.04)
        reach = (1.25, 1.5, 1.6, 1.5, 1.2)[ray] * rng.uniform(0.9, 1.05)
        root = (0.28 * np.sin(2.2 * lean), 0.42)
        points = [
            (root[0] + reach * part * np.sin(lean), root[1] - reach * part * np.cos(lean))
            for part in (0, 0.45, 0.72, 0.95)
        ]
        total += 0.36 * _bones(x, y, points, 0.055)
        flesh = np.maximum(flesh, _bone(x, y, points[0], points[-1], 0.13, 0.0))
    for _ in range(6):
        centre = (rng.uniform(-0.2, 0.2), rng.uniform(0.45, 0.65))
        total += 0.2 * _shell(_ellipse(x, y, centre, (rng.uniform(0.06, 0.1), rng.uniform(0.06, 0.1))), 0.5)
    total += 0.36 * _bone(x, y, (-0.12, 0.75), (-0.14, 1.5), 0.11) + 0.3 * _bone(x, y, (0.14, 0.75), (0.16, 1.5), 0.08)
    palm = _solid(_ellipse(x, y, (0, 0.35), (0.42, 0.5))) + _soft(0.33 - np.abs(x), 0.1) * _soft(y - 0.5, 0.1)
    drawn: Values = total + 0.45 * np.maximum(flesh, np.minimum(palm, 1))
    return drawn


def _skull(rng: np.random.Generator, x: Values, y: Values) -> Values:
    """Draw a shell with orbits, air-filled sinuses, teeth and sutures."""
    axes = (rng.uniform(0.62, 0.74), rng.uniform(0.75, 0.88))
    head = _ellipse(x, y, (0, -0.1), axes)
    total = 0.35 * _solid(head / np.float32(1.12)) + 0.75 * _shell(head, rng.uniform(0.86, 0.92))
    level = rng.uniform(0.1, 0.2)
    for side in (-1, 1):
        total -= 0.22 * _solid(_ellipse(x, y, (side * 0.27, level), (0.17, 0.14)))
        total += 0.18 * _shell(_ellipse(x, y, (side * 0.27, level), (0.19, 0.16)), 0.8)
        total -= 0.14 * _solid(_ellipse(x, y, (side * 0.16, level + 0.32), (0.12, 0.15)))
    total -= 0.15 * _solid(_ellipse(x, y, (0, level - 0.22), (0.16, 0.1))) * (rng.random() < 0.8)
    mouth = np.float32(level + 0.58)
    teeth = _soft(np.abs(np.sin(x * np.float32(np.pi / 0.075))) - 0.3, 0.3) * _soft(0.27 - np.abs(x), 0.04)
    total += 0.4 * teeth * (_soft(0.07 - np.abs(y - mouth + 0.09), 0.02) + _soft(0.07 - np.abs(y - mouth - 0.09), 0.02))
    seam = np.float32(0.02) * np.sin(x * 60) + np.float32(rng.uniform(-0.55, -0.4)) + 0.3 * x * x
    total -= 0.12 * np.exp(-(((y - seam) / np.float32(0.015)) ** 2)) * (head < 0.9)
    return total


def _spine(rng: np.random.Generator, x: Values, y: Values) -> Values:
    """Draw a bent column of blocks with spaces between them, from the side, in flesh."""
    bend, tilt = rng.uniform(-0.35, 0.35), rng.uniform(-0.2, 0.2)
    axis = np.float32(bend) * (y * y - 0.4) + np.float32(tilt) * y
    pitch = rng.uniform(0.24, 0.36)
    height = y / np.float32(pitch) + np.float32(rng.random())
    within = np.abs(height - np.floor(height) - np.float32(0.5))
    half = np.float32(rng.uniform(0.15, 0.22))
    away = np.abs(x - axis)
    block = _soft(half * (1 + 0.5 * (2 * within) ** 4) - away, 0.025) * _soft(0.41 - within, 0.06)
    rim = block - _soft(0.8 * half - away, 0.03) * _soft(0.33 - within, 0.06)
    total = 0.55 * _solid((x / np.float32(rng.uniform(0.8, 1.2))) ** 2) + 0.28 * block + 0.16 * rim
    for side in (-1, 1):
        offset = x - axis - np.float32(side) * (half + np.float32(0.12))
        total += 0.12 * _solid((offset / np.float32(0.1)) ** 2 + ((within - 0.05) / np.float32(0.3)) ** 2)
    drawn: Values = total
    return drawn


def _pelvis(rng: np.random.Generator, x: Values, y: Values) -> Values:
    """Draw two wings, a wedge between them, two holes below, and the heads of the thighs."""
    total = 0.7 * _solid((x / np.float32(1.15)) ** 4)
    wide, turn = rng.uniform(0.52, 0.62), rng.uniform(0.35, 0.6)
    for side in (-1, 1):
        total += 0.35 * _shell(_ellipse(x, y, (side * wide, -0.3), (0.42, 0.27), side * turn), 0.8)
        total += 0.12 * _solid(_ellipse(x, y, (side * wide, -0.3), (0.42, 0.27), side * turn))
        total += 0.38 * _shell(_ellipse(x, y, (side * 0.3, 0.45), (0.18, 0.24), -side * 0.4), 0.45)
        total += 0.32 * _solid(_ellipse(x, y, (side * 0.66, 0.2), (0.16, 0.16)))
        total += 0.36 * _bone(x, y, (side * 0.7, 0.25), (side * 0.95, 0.5), 0.1, 0.2)
        total += 0.4 * _bone(x, y, (side * 0.95, 0.42), (side * 0.9, 1.5), 0.13, 0.4)
    sacrum = (
        _soft(0.27 - 0.4 * np.clip(y + 0.5, 0, 1) - np.abs(x), 0.04) * _soft(y + 0.55, 0.04) * _soft(0.15 - y, 0.05)
    )
    total += 0.25 * sacrum * (1 - 0.4 * (np.sin(y * 30) > 0.6))
    total += 0.3 * _soft(0.14 - np.abs(x), 0.03) * _soft(-0.55 - y, 0.03)
    return total


def _belly(rng: np.random.Generator, x: Values, y: Values) -> Values:
    """Draw soft organs and gas in loops before a faint column."""
    total = 0.9 * _solid((x / np.float32(rng.uniform(1.0, 1.3))) ** 4)
    for _ in range(3):
        centre, axes = (
            (rng.uniform(-0.7, 0.7), rng.uniform(-0.6, 0.6)),
            (rng.uniform(0.25, 0.5), rng.uniform(0.15, 0.35)),
        )
        total += rng.uniform(0.1, 0.25) * _solid(_ellipse(x, y, centre, axes, rng.uniform(0, 3)))
    for _ in range(int(rng.integers(3, 9))):
        centre, long = (rng.uniform(-0.7, 0.7), rng.uniform(-0.7, 0.7)), rng.uniform(0.1, 0.3)
        total -= rng.uniform(0.15, 0.35) * _solid(_ellipse(x, y, centre, (long, 0.45 * long), rng.uniform(0, 3)))
    height = y / np.float32(0.27)
    within = np.abs(height - np.floor(height) - np.float32(0.5))
    return total + 0.22 * _soft(0.14 - np.abs(x), 0.03) * _soft(0.42 - within, 0.06)


def _body(rng: np.random.Generator, x: Values, y: Values) -> Values:
    """Draw a body that nobody has: both sides alike, with bars, shells, hollows and solid parts anywhere."""
    reach = np.abs(x)
    total = rng.uniform(0.4, 1.0) * _solid((reach / np.float32(rng.uniform(0.8, 1.2))) ** int(rng.choice((2, 4))))
    for _ in range(int(rng.integers(1, 4))):
        centre, axes = (rng.uniform(0.1, 0.7), rng.uniform(-0.7, 0.7)), tuple(rng.uniform(0.12, 0.5, 2))
        ratio = _ellipse(reach, y, centre, (axes[0], axes[1]), rng.uniform(0, np.pi))
        kind = rng.random()
        if kind < 0.45:
            total -= rng.uniform(0.15, 0.5) * _solid(ratio) ** np.float32(rng.uniform(0.3, 1.0))
        else:
            total += rng.uniform(0.1, 0.4) * (_shell(ratio, rng.uniform(0.4, 0.85)) if kind < 0.8 else _solid(ratio))
    if rng.random() < 0.7:
        pitch, fall, bow = rng.uniform(0.12, 0.3), rng.uniform(-0.6, 0.6), rng.uniform(-0.6, 0.6)
        height = (y - np.float32(fall) * reach - np.float32(bow) * reach * reach) / np.float32(pitch)
        within = np.abs(height - np.floor(height) - np.float32(0.5))
        ratio = (within / np.float32(rng.uniform(0.12, 0.3))) ** 2
        total += rng.uniform(0.06, 0.25) * (_solid(ratio) - np.float32(0.5) * np.sqrt(np.maximum(0.6 - ratio, 0)))
    for _ in range(int(rng.integers(0, 3))):
        start, end = rng.uniform(0, 0.9, 2), rng.uniform(-1, 1, 2)
        total += rng.uniform(0.15, 0.35) * _bone(
            reach, y, (start[0], end[0]), (start[1], end[1]), rng.uniform(0.04, 0.12)
        )
    return total


def place(rng: np.random.Generator, size: int) -> tuple[Values, Values]:
    """Give the coordinates of all pixels in a body that is turned, moved and scaled at random."""
    line = single((np.arange(size) + 0.5) / size * 2 - 1)
    turn, scale = rng.normal(0, 0.35), rng.uniform(0.8, 1.35)
    cosine, sine = np.float32(np.cos(turn) / scale), np.float32(np.sin(turn) / scale)
    u, v = (line - np.float32(rng.normal(0, 0.12)))[None, :], (line - np.float32(rng.normal(0, 0.12)))[:, None]
    mirror = np.float32(rng.choice((-1, 1)))
    return mirror * (cosine * u + sine * v), cosine * v - sine * u


ANATOMIES: dict[str, Callable[[np.random.Generator, Values, Values], Values]] = {
    "knee": _knee,
    "hand": _hand,
    "skull": _skull,
    "spine": _spine,
    "pelvis": _pelvis,
    "belly": _belly,
    MADE_UP: _body,
}
"""Each takes a generator and the coordinates of all pixels, and gives the attenuation, about 0 to 1.5."""
