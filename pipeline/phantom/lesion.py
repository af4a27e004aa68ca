"""Lesion: a focal opacity in a lung; its presence decides the label, its size the finding."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.phantom.anatomy import SIGN, Anatomy, Field, Plane, Side, depth_inside, single
from pipeline.phantom.radiograph import heart_share

Finding = Literal["none", "small", "large"]
# Lengths are fractions of half the field of view: 0.44 is 56 pixels of 256, or 88 mm.
_TYPICAL_DIAMETER, _SPREAD_OF_DIAMETER = 0.44, 0.32  # median, and standard deviation of the logarithm
SMALLEST_DIAMETER, LARGEST_DIAMETER = 0.16, 0.80
LARGE_DIAMETER = 0.44  # from here on a lesion is called large
# Attenuation at the thickest point; a rib has about 0.2, the noise of the poorer scanner about 0.03.
_TYPICAL_CONTRAST, _SPREAD_OF_CONTRAST = 0.60, 0.42
_FAINTEST, _DENSEST = 0.12, 0.85
_FALL = 0.8  # exponent of the profile: 0.5 is a ball, 1 a paraboloid
_ROOM = 0.14  # of a centre from the nearest border of the lung, at most
_TRIES = 10_000


@dataclass(frozen=True)
class Lesion:
    """A lobulated, roughly elliptic opacity; lengths are fractions of half the field of view."""

    x: float
    y: float
    diameter: float  # mean of the two axes
    elongation: float  # long axis over short axis
    angle_rad: float
    lobes: int
    lobe_depth: float  # how far the outline departs from an ellipse, as a fraction of the radius
    contrast: float  # attenuation at the thickest point

    @property
    def finding(self) -> Finding:
        """Class by size."""
        return "large" if self.diameter >= LARGE_DIAMETER else "small"

    @classmethod
    def draw(cls, rng: np.random.Generator, anatomy: Anatomy) -> "Lesion":
        """Draw a lesion that lies inside a lung and beside the heart.

        Sizes and contrasts are drawn independently from wide distributions: many lesions are plain enough to be
        learnt from a hundred patients, a few hardly show, so that no reader, human or machine, is right on all.
        """
        diameter = _lognormal(rng, _TYPICAL_DIAMETER, _SPREAD_OF_DIAMETER, SMALLEST_DIAMETER, LARGEST_DIAMETER)
        contrast = _lognormal(rng, _TYPICAL_CONTRAST, _SPREAD_OF_CONTRAST, _FAINTEST, _DENSEST)
        x, y = _place(rng, anatomy, diameter)
        return cls(
            x=x,
            y=y,
            diameter=diameter,
            elongation=rng.uniform(1.0, 1.35),
            angle_rad=rng.uniform(0, np.pi),
            lobes=int(rng.integers(2, 6)),
            lobe_depth=rng.uniform(0.02, 0.12),
            contrast=contrast,
        )

    def attenuation(self, plane: Plane) -> Field:
        """Attenuation added by the lesion; exactly 0 outside its outline."""
        cosine, sine = np.cos(self.angle_rad), np.sin(self.angle_rad)
        dx, dy = plane.x - np.float32(self.x), plane.y - np.float32(self.y)
        root = np.sqrt(self.elongation)
        along, across = (cosine * dx + sine * dy) / root, (cosine * dy - sine * dx) * root
        outline = 1 + self.lobe_depth * np.sin(self.lobes * np.arctan2(across, along) + self.angle_rad)
        ratio = np.hypot(along, across) / (self.diameter / 2 * outline)
        return single(self.contrast * np.maximum(1 - ratio**2, 0) ** _FALL)


def _place(rng: np.random.Generator, anatomy: Anatomy, diameter: float) -> tuple[float, float]:
    for _ in range(_TRIES):
        side: Side = "right" if rng.random() < 0.5 else "left"
        reach, y = rng.uniform(0.15, anatomy.chest_half_width), rng.uniform(anatomy.apex, anatomy.dome_left)
        x = SIGN[side] * reach
        point = Plane(np.full((1, 1), x, np.float32), np.full((1, 1), y, np.float32), 0.0)
        is_clear = float(depth_inside(anatomy, side, point)[0, 0]) > min(0.35 * diameter, _ROOM)
        if is_clear and float(heart_share(anatomy, point)[0, 0]) < 0.05:
            return x, y
    message = "no place for a lesion in this anatomy"
    raise AssertionError(message)


def _lognormal(rng: np.random.Generator, median: float, spread: float, low: float, high: float) -> float:
    return float(np.clip(rng.lognormal(np.log(median), spread), low, high))
