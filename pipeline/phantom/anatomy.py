"""Anatomy: the shapes of one synthetic chest, and how it stands before the detector.

Lengths are fractions of half the field of view: the field spans [-1, 1] in x (towards the patient's left, the
right side of the picture) and in y (towards the feet). `reach` is the distance from the midline, x with the
sign of the side taken off. The proportions are read off ordinary postero-anterior chest films; nothing here
is fitted to a patient.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Field = npt.NDArray[np.float32]
Side = Literal["right", "left"]
SIGN: dict[Side, float] = {"right": -1.0, "left": 1.0}
SIDES: tuple[Side, ...] = ("right", "left")
_WAVES = 5  # of the smooth deformation
_STEEPEST_EXPONENT = 30.0  # keeps float32 exponentials finite


def single(values: Any) -> Field:
    """Hold values in single precision: half the time of double, and far more digits than a film has."""
    return np.asarray(values, np.float32)


@dataclass(frozen=True)
class Anatomy:
    """The build of one patient; it stays the same in all of the patient's studies."""

    chest_half_width: float
    apex: float  # y of the lungs' tops
    widest: float  # y where the chest is widest
    dome_right: float  # y of the right diaphragm's top
    dome_left: float
    dome_rise: float  # height of the dome over the costophrenic angle
    heart_length: float  # half axes of the heart's outline
    heart_breadth: float
    heart_angle_rad: float
    aorta: float  # radius of the aortic knob
    rib_pitch: float  # distance of neighbouring ribs along the spine
    rib_drop: float  # how far a rib's back half falls from the spine to the side
    rib_radius: float
    bone_density: float
    fat: float  # extra soft tissue, 0 (lean) to 1
    breast: float  # extra tissue of the breasts, 0 if none
    emphysema: float  # extra darkness of the lungs, 0 to 1
    gas: float  # size of the stomach bubble, 0 if none
    seed: int  # of the vessels, the texture and the deformation

    @classmethod
    def draw(cls, rng: np.random.Generator, *, is_female: bool, seed: int) -> "Anatomy":
        """Draw a build; the sexes differ in size and in the breasts' shadow."""
        scale = 0.95 if is_female else 1.0
        dome = rng.normal(0.49, 0.045)
        return cls(
            chest_half_width=scale * rng.uniform(0.80, 0.88),
            apex=rng.uniform(-0.88, -0.81),
            widest=rng.uniform(0.32, 0.44),
            dome_right=dome,
            dome_left=dome + rng.uniform(0.02, 0.07),
            dome_rise=rng.uniform(0.13, 0.22),
            heart_length=scale * rng.uniform(0.34, 0.42),
            heart_breadth=scale * rng.uniform(0.23, 0.28),
            heart_angle_rad=rng.uniform(0.45, 0.75),
            aorta=rng.uniform(0.055, 0.085),
            rib_pitch=rng.uniform(0.118, 0.130),
            rib_drop=rng.uniform(0.15, 0.24),
            rib_radius=rng.uniform(0.019, 0.024),
            bone_density=rng.uniform(0.75, 1.15),
            fat=rng.beta(2, 3),
            breast=rng.uniform(0.4, 1.0) if is_female else 0.0,
            emphysema=rng.beta(1.5, 4),
            gas=rng.uniform(0.06, 0.13) if rng.random() < 0.7 else 0.0,
            seed=seed,
        )


@dataclass(frozen=True)
class Pose:
    """How the patient stands and breathes in one study."""

    rotation_rad: float
    shift_x: float
    shift_y: float
    scale: float
    breath: float  # how much lower the diaphragm stands than in the anatomy; negative: a shallow breath

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Pose":
        """Draw an ordinary, slightly imperfect position."""
        return cls(
            rotation_rad=rng.normal(0, 0.025),
            shift_x=rng.normal(0, 0.03),
            shift_y=rng.normal(0.02, 0.03),
            scale=rng.normal(1.0, 0.03),
            breath=rng.normal(0, 0.03),
        )

    def to_field(self, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], ...]:
        """Map points of the anatomy to points of the field of view."""
        cosine, sine = np.cos(self.rotation_rad), np.sin(self.rotation_rad)
        return (
            self.scale * (cosine * x - sine * y) + self.shift_x,
            self.scale * (sine * x + cosine * y) + self.shift_y,
        )


@dataclass(frozen=True)
class Plane:
    """Anatomical coordinates of every pixel, shape (rows, columns) each."""

    x: Field
    y: Field
    breath: float

    @classmethod
    def of(cls, anatomy: Anatomy, pose: Pose, size: int) -> "Plane":
        """Give the coordinates that a pose and the patient's own smooth irregularity put under each pixel."""
        line = single((np.arange(size) + 0.5) / size * 2 - 1)
        u, v = (line - np.float32(pose.shift_x))[None, :], (line - np.float32(pose.shift_y))[:, None]
        cosine, sine = np.float32(np.cos(pose.rotation_rad)), np.float32(np.sin(pose.rotation_rad))
        x, y = (cosine * u + sine * v) / np.float32(pose.scale), (cosine * v - sine * u) / np.float32(pose.scale)
        rng = np.random.default_rng([anatomy.seed, 0])
        moved_x, moved_y = x.copy(), y.copy()
        for _ in range(_WAVES):
            kx, ky, phase_x, phase_y = rng.uniform(-4, 4), rng.uniform(-4, 4), *rng.uniform(0, 2 * np.pi, 2)
            # A plane wave is the outer product of two short complex vectors: no sine of every pixel.
            moved_x += _wave(line, kx, ky, phase_x) * np.float32(0.006)
            moved_y += _wave(line, ky, kx, phase_y) * np.float32(0.006)
        return cls(single(moved_x), single(moved_y), pose.breath)

    def reach(self, side: Side) -> Field:
        """Distance of every pixel from the midline towards a side; negative on the other side."""
        return single(np.float32(SIGN[side]) * self.x)


def step(distance: npt.NDArray[np.floating[Any]], softness: float) -> Field:
    """Rise smoothly from 0 to 1 where `distance` turns positive."""
    scaled = np.clip(distance / np.float32(softness), -_STEEPEST_EXPONENT, _STEEPEST_EXPONENT)
    return single(1 / (1 + np.exp(-scaled)))


def bump(distance: npt.NDArray[np.floating[Any]], width: float) -> Field:
    """Gaussian of standard deviation `width`, 1 where `distance` is 0."""
    scaled = np.clip(distance / np.float32(width), -8, 8)
    return single(np.exp(np.float32(-0.5) * scaled * scaled))


def outer_border(anatomy: Anatomy, y: Field) -> Field:
    """Reach of the lung's outer border at a height: a blunt arch that is widest low in the chest."""
    height = anatomy.widest - anatomy.apex
    above = np.clip((anatomy.widest - y) / np.float32(height), 0, 1)
    below = np.clip((y - anatomy.widest) / np.float32(height), 0, 1)
    arch = (1 - above**2.3) ** 0.56 * (1 - 0.25 * below**2)
    return single(np.float32(anatomy.chest_half_width) * arch)


def inner_border(anatomy: Anatomy, side: Side, y: Field) -> Field:
    """Reach of the lung's inner border: the edge of the mediastinum without the heart."""
    if side == "right":
        waist = 0.115 + 0.03 * bump(y + 0.45, 0.2) + 0.02 * bump(y - 0.05, 0.1)
        return single(waist + 0.04 * step(y - 0.1, 0.05))
    waist = 0.10 + 0.02 * bump(y + 0.5, 0.15)
    knob = anatomy.aorta * bump(y + 0.27, 0.062)
    trunk = 0.055 * bump(y + 0.09, 0.08)
    return single(waist + knob + trunk + 0.03 * step(y - 0.1, 0.05))


def diaphragm(anatomy: Anatomy, side: Side, reach: Field, breath: float) -> Field:
    """Height (y) of the diaphragm at a reach: a dome that falls to the costophrenic angle."""
    top = (anatomy.dome_right if side == "right" else anatomy.dome_left) + breath
    outward = (reach - np.float32(0.36)) / np.float32(anatomy.chest_half_width - 0.36)
    fall = np.where(outward > 0, anatomy.dome_rise * np.abs(outward) ** 2.3, 0.05 * outward**2)
    return single(top + fall)


def depth_inside(anatomy: Anatomy, side: Side, plane: Plane) -> Field:
    """Distance to the nearest border of a lung, positive inside (in field units, not exactly Euclidean)."""
    reach = plane.reach(side)
    outer = outer_border(anatomy, plane.y) - reach
    inner = reach - inner_border(anatomy, side, plane.y)
    lower = diaphragm(anatomy, side, reach, plane.breath) - plane.y
    upper = plane.y - np.float32(anatomy.apex)
    return single(np.minimum(np.minimum(outer, inner), np.minimum(lower, upper)))


def _wave(line: Field, kx: float, ky: float, phase: float) -> Field:
    across = np.exp(1j * (kx * line + phase)).astype(np.complex64)
    down = np.exp(1j * ky * line).astype(np.complex64)
    return single(down[:, None].real * across[None, :].real - down[:, None].imag * across[None, :].imag)
