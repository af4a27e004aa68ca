"""Radiograph: everything in the beam's way summed up, as attenuation along each ray."""

import numpy as np

from pipeline.phantom.anatomy import SIDES, Anatomy, Field, Plane, Pose, bump, depth_inside, outer_border, single, step
from pipeline.phantom.skeleton import skeleton
from pipeline.phantom.vessels import vessels


def chest(anatomy: Anatomy, pose: Pose, size: int) -> tuple[Field, Plane]:
    """Attenuation of a chest from the front, and the anatomical coordinates of its pixels.

    Returns
    -------
    attenuation
        Shape (size, size); about 0 in open air, 0.3 in the lungs, 1.3 behind the heart.
    plane
        For things added later, such as a lesion.
    """
    plane = Plane.of(anatomy, pose, size)
    lung, recess = _air(anatomy, plane)
    flesh = _flesh(anatomy, plane)
    inside = np.clip(lung * 1.6, 0, 1)
    total = flesh - np.float32(0.74 + 0.10 * anatomy.emphysema) * lung - np.float32(0.10) * recess
    total += _middle(anatomy, plane)
    total += vessels(anatomy, pose, size) * inside
    total += _texture(anatomy, size) * (0.25 + inside)
    body = np.clip(flesh / 0.5, 0, 1)
    total += skeleton(anatomy, plane) * body
    return np.maximum(total, 0), plane


def _air(anatomy: Anatomy, plane: Plane) -> tuple[Field, Field]:
    """How much air a ray meets in the lungs (0 to 1), and in the recess behind the diaphragm."""
    lung = np.zeros_like(plane.x)
    recess = np.zeros_like(plane.x)
    for side in SIDES:
        depth = depth_inside(anatomy, side, plane)
        thick = 1 - np.exp(-np.clip(depth + 0.02, 0, 2) / np.float32(0.10))
        gradient = 0.86 + 0.14 * np.clip((plane.y + 0.7) / 1.1, 0, 1)
        lung += step(depth, 0.006) * (0.30 + 0.70 * thick) * gradient
        lower = Plane(plane.x, plane.y - np.float32(0.13), plane.breath)
        recess += step(depth_inside(anatomy, side, lower), 0.02)
    return single(lung * (1 - heart_share(anatomy, plane))), recess


def heart_share(anatomy: Anatomy, plane: Plane) -> Field:
    """Share of the air that the heart takes the place of, 0 to 0.85."""
    cosine, sine = np.cos(anatomy.heart_angle_rad), np.sin(anatomy.heart_angle_rad)
    x, y = plane.x - np.float32(0.10), plane.y - np.float32(anatomy.dome_left + plane.breath - 0.20)
    ratio = ((x * cosine + y * sine) / anatomy.heart_length) ** 2 + (
        (y * cosine - x * sine) / anatomy.heart_breadth
    ) ** 2
    left = np.maximum(1 - ratio, 0) ** 0.35
    right = np.maximum(1 - ((x + 0.10) / 0.155) ** 2 - (y / 0.21) ** 2, 0) ** 0.5
    return single(0.85 * np.maximum(left, right))


def _flesh(anatomy: Anatomy, plane: Plane) -> Field:
    """Soft tissue of the trunk without the mediastinum, lungs filled in."""
    reach = np.abs(plane.x)
    wall = 0.07 + 0.09 * anatomy.fat
    side = outer_border(anatomy, np.maximum(plane.y, np.float32(-0.35))) + np.float32(wall)
    # Above the armpits the outline runs over the raised shoulders to the neck.
    shoulder = 0.20 + 1.25 * np.clip(plane.y + 1.04 + 0.10 * anatomy.fat, 0, 2) ** 0.8
    armpit = np.clip((-plane.y - 0.10) / 0.45, 0, 1)
    edge = np.minimum(shoulder, side + 0.8 * armpit**2)
    inward = np.clip((edge - reach) / 0.16, 0, 1)
    thickness = np.sqrt(1 - (1 - inward) ** 2)
    girth = 0.92 + 0.16 * anatomy.fat + 0.14 * step(-0.55 - plane.y, 0.10) + 0.22 * step(plane.y - 0.55, 0.10)
    total = thickness * girth
    if anatomy.breast:
        for centre in (-0.43, 0.43):
            ratio = np.hypot((plane.x - np.float32(centre)) / 0.33, (plane.y - np.float32(0.30)) / 0.30)
            total += np.float32(0.17 * anatomy.breast) * np.maximum(1 - ratio**2.5, 0) ** 0.7 * step(plane.y + 0.2, 0.1)
    if anatomy.gas:
        ratio = np.hypot((plane.x - np.float32(0.36)) / 1.5, plane.y - np.float32(anatomy.dome_left + 0.17))
        total -= 0.30 * step(np.float32(anatomy.gas) - ratio, 0.012)
    return single(total)


def _middle(anatomy: Anatomy, plane: Plane) -> Field:
    """Great vessels, roots of the lungs and the air of the windpipe."""
    column = 0.14 * step(0.11 - np.abs(plane.x), 0.02) * step(0.5 - plane.y, 0.1)
    knob = np.hypot(plane.x - np.float32(0.085), plane.y + np.float32(0.27)) / np.float32(anatomy.aorta + 0.02)
    arch = 0.16 * np.maximum(1 - knob**2, 0) ** 0.5
    descending = 0.06 * step(0.03 - np.abs(plane.x - np.float32(0.085)), 0.012) * step(plane.y + 0.27, 0.03)
    roots = np.zeros_like(plane.x)
    for centre, level in ((-0.165, 0.0), (0.185, -0.05)):
        roots += 0.16 * bump(plane.x - np.float32(centre), 0.038) * bump(plane.y - np.float32(level), 0.085)
    split = -0.25
    pipe = bump(plane.x - np.float32(0.008), 0.026) * step(split - plane.y, 0.02)
    for direction, slope in ((-1, 1.25), (1, 0.85)):
        offset = (direction * plane.x - (plane.y - split) / slope) * np.float32(slope / np.hypot(1, slope))
        pipe += 0.7 * bump(offset, 0.02) * step(plane.y - split, 0.015) * step(-0.08 - plane.y, 0.03)
    return single(column + arch + descending + roots - 0.26 * pipe)


def _texture(anatomy: Anatomy, size: int) -> Field:
    """Fine structure of the tissue at several scales, standard deviation about 0.02."""
    from scipy.ndimage import gaussian_filter, zoom

    rng = np.random.default_rng([anatomy.seed, 2])
    total = np.zeros((size, size), np.float32)
    for period, amplitude in ((size // 128, 0.009), (size // 48, 0.012), (size // 12, 0.016)):
        coarse = max(period, 1)
        cells = -(-size // coarse) + 3
        noise = rng.standard_normal((cells, cells), dtype=np.float32)
        fine = zoom(noise, coarse, order=1)[:size, :size] if coarse > 1 else noise[:size, :size]
        smooth = gaussian_filter(fine, 0.6 * coarse, truncate=3)
        total += np.float32(amplitude) * smooth / smooth.std()
    return total
