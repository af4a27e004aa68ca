"""Skeleton: ribs, clavicles, spine and shoulder blades as attenuation seen from the front."""

import numpy as np

from pipeline.phantom.anatomy import SIDES, Anatomy, Field, Plane, Side, bump, outer_border, single, step

_PAIRS_OF_RIBS = 10
_FIRST_RIB = -0.80  # y at the spine
_TURN = 0.985  # share of a rib's reach where it turns forward; its last bit runs along the ray
_CARTILAGE = 0.30  # reach where a rib's front end becomes cartilage, which films hardly show


def skeleton(anatomy: Anatomy, plane: Plane) -> Field:
    """Attenuation of all bones, shape (rows, columns)."""
    total = spine(anatomy, plane)
    for side in SIDES:
        reach = plane.reach(side)
        total += clavicle(plane, reach)
        total += shoulder(plane, reach)
        add_ribs(total, anatomy, plane, side)
    return np.float32(anatomy.bone_density) * total


def add_ribs(total: Field, anatomy: Anatomy, plane: Plane, side: Side) -> None:
    """Add one side's ribs in place: each falls from the spine to the chest wall, turns, and goes on forward."""
    reach = plane.reach(side)
    columns = np.flatnonzero((reach > 0).any(axis=0))
    across = slice(int(columns[0]), int(columns[-1]) + 1)
    for number in range(_PAIRS_OF_RIBS):
        start = _FIRST_RIB + number * anatomy.rib_pitch
        turn = start + anatomy.rib_drop * (0.6 + 0.05 * number)
        front = 0.14 + 0.022 * number
        inside = (plane.y > start - 0.08) & (plane.y < turn + front + 0.08)
        rows = np.flatnonzero(inside.any(axis=1))
        if rows.size == 0:
            continue
        window = (slice(int(rows[0]), int(rows[-1]) + 1), across)
        width = float(outer_border(anatomy, np.asarray(turn, np.float32))) + 0.015
        if width < 0.2:
            continue
        total[window] += _rib(plane.y[window], reach[window], (start, turn, front), width, anatomy.rib_radius)


def _rib(y: Field, reach: Field, heights: tuple[float, float, float], width: float, radius: float) -> Field:
    """One rib of a side: `heights` are y at the spine, y of the turn, and how far the front end falls below it."""
    start, turn, front = heights
    share = np.clip(reach / np.float32(width), 0, _TURN)
    rest = 1 - share
    # Back half: an arch, flat at the spine and steep at the chest wall. Distance: |f| / |grad f|.
    root = np.sqrt(1 - share**2.2)
    slope = np.float32((turn - start) / width) * 1.1 * share**1.2 / root
    back = (y - np.float32(turn) + np.float32(turn - start) * root) / np.sqrt(1 + slope**2)
    # Front half: falls obliquely towards the breastbone.
    slope = np.float32(-front / width * 0.62) * rest**-0.38
    fore = (y - np.float32(turn) - np.float32(front) * rest**0.62) / np.sqrt(1 + slope**2)
    visible = step(np.float32(_TURN * width) - reach, 0.004) * step(reach - 0.05, 0.015)
    bony = step(reach - _CARTILAGE, 0.03)
    return single((0.20 * _tube(back, radius) + 0.155 * bony * _tube(fore, radius * 1.15)) * visible)


def _tube(distance: Field, radius: float) -> Field:
    """Profile of a hollow bone: dense edges around a lighter core, 1 at most."""
    ratio = np.minimum((distance / np.float32(radius)) ** 2, 1)
    return single(np.sqrt(1 - ratio) - np.float32(0.55) * np.sqrt(np.maximum(np.float32(0.62) - ratio, 0)))


def clavicle(plane: Plane, reach: Field) -> Field:
    """One collar bone: a gently S-shaped bar from the breastbone outwards and up."""
    axis = -0.54 - 0.22 * np.clip(reach, 0, 1.2) - 0.03 * np.sin(np.clip(reach, 0, 1) * np.float32(6.5))
    thickness = 0.030 + 0.012 * bump(reach - 0.08, 0.06)
    ratio = np.minimum(((plane.y - axis) / thickness) ** 2, 1)
    profile = np.sqrt(1 - ratio) - np.float32(0.5) * np.sqrt(np.maximum(np.float32(0.55) - ratio, 0))
    return single(0.24 * profile * step(reach - 0.07, 0.008) * step(0.80 - reach, 0.02))


def shoulder(plane: Plane, reach: Field) -> Field:
    """Shoulder blade (a faint wedge beside the lung) and the head of the arm bone."""
    inner = 0.63 + 0.05 * (plane.y + 0.5)
    outer = 0.86 - 0.20 * (plane.y + 0.5)
    blade = step(reach - inner, 0.012) * step(outer - reach, 0.015) * step(plane.y + 0.62, 0.03)
    edge = bump(reach - inner, 0.012) * step(plane.y + 0.60, 0.03) * step(0.12 - plane.y, 0.05)
    blade = blade * step(0.10 - plane.y, 0.04)
    head = np.hypot(reach - np.float32(0.93), plane.y + np.float32(0.66)) / np.float32(0.11)
    return single(0.07 * blade + 0.04 * edge + 0.25 * np.sqrt(np.maximum(1 - head**2, 0)))


def spine(anatomy: Anatomy, plane: Plane) -> Field:
    """Vertebral bodies with disc spaces, pedicles and spinous processes."""
    height = (plane.y - np.float32(_FIRST_RIB)) / np.float32(anatomy.rib_pitch)
    within = height - np.floor(height) - np.float32(0.5)  # -0.5..0.5 in one vertebra
    half_width = 0.058 + 0.012 * (plane.y + 0.7)
    body = step(half_width - np.abs(plane.x), 0.006)
    disc = bump(np.abs(within) - 0.5, 0.09)
    pedicle = bump(np.abs(plane.x) - 0.04, 0.012) * bump(within + 0.08, 0.12)
    process = bump(plane.x, 0.009) * bump(within - 0.2, 0.2)
    return single(body * (0.13 - 0.08 * disc) + 0.07 * pedicle + 0.06 * process)
