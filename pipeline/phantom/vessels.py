"""Vessels: the branching shadows that spread from the roots of the lungs."""

import numpy as np
import numpy.typing as npt

from pipeline.phantom.anatomy import SIDES, SIGN, Anatomy, Field, Pose, Side

Points = npt.NDArray[np.float64]
_ROOT: dict[Side, tuple[float, float]] = {"right": (0.15, -0.02), "left": (0.17, -0.07)}
_STEPS = 28  # points along a branch
_GENERATIONS = 4
_LENGTHS = (0.50, 0.30, 0.19, 0.12)  # of a branch of each generation
_WIDTHS = (0.011, 0.007, 0.0045, 0.003)  # half width of a branch of each generation
_DENSITY = (0.085, 0.06, 0.04, 0.022)  # attenuation at its axis


def vessels(anatomy: Anatomy, pose: Pose, size: int) -> Field:
    """Attenuation of the vessel trees of both lungs, shape (size, size)."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng([anatomy.seed, 1])
    trees = [_tree(rng, side) for side in SIDES]
    total = np.zeros((size, size), np.float32)
    for generation in range(_GENERATIONS):
        x, y = pose.to_field(*np.concatenate([tree[generation] for tree in trees], axis=1))
        sigma = max(_WIDTHS[generation] * size / 2, 0.55)
        drawn = gaussian_filter(_drawn(x, y, size), sigma, truncate=3)
        # Points lie one step apart; this factor makes a straight line of them 1 at its axis.
        spacing = _LENGTHS[generation] / _STEPS * size / 2
        total += np.float32(_DENSITY[generation] * spacing * sigma * np.sqrt(2 * np.pi)) * drawn
    return total


def _tree(rng: np.random.Generator, side: Side) -> list[Points]:
    """Points of every generation of one side's tree, shape (2, points)."""
    count = 11
    angles = np.linspace(-1.25, 1.35, count) + rng.normal(0, 0.09, count)  # 0: straight outwards, positive: down
    starts = np.array(_ROOT[side])[:, None] + rng.normal(0, 0.02, (2, count))
    generations: list[Points] = []
    for generation in range(_GENERATIONS):
        length = _LENGTHS[generation] * rng.uniform(0.7, 1.15, angles.size)
        wander = np.cumsum(rng.normal(0, 0.05, (angles.size, _STEPS)), axis=1)
        turns = wander + rng.normal(0, 0.012, (angles.size, 1)) * np.arange(_STEPS)
        heading = angles[:, None] + turns
        stride = (length / _STEPS)[:, None]
        x = starts[0][:, None] + np.cumsum(stride * np.cos(heading), axis=1)
        y = starts[1][:, None] + np.cumsum(stride * np.sin(heading), axis=1)
        generations.append(np.stack([SIGN[side] * x.ravel(), y.ravel()]))
        children = 3
        parent = np.repeat(np.arange(angles.size), children)
        place = rng.integers(_STEPS // 4, _STEPS, parent.size)
        starts = np.stack([x[parent, place], y[parent, place]])
        angles = heading[parent, place] + rng.choice([-1, 1], parent.size) * rng.uniform(0.3, 0.8, parent.size)
    return generations


def _drawn(x: Points, y: Points, size: int) -> Field:
    """Count points into pixels, each shared by its four neighbours; points outside are dropped."""
    column, row = (x + 1) * size / 2 - 0.5, (y + 1) * size / 2 - 0.5
    inside = (column >= 0) & (column < size - 1) & (row >= 0) & (row < size - 1)
    column, row = column[inside], row[inside]
    left, top = column.astype(np.int64), row.astype(np.int64)
    right_share, low_share = column - left, row - top
    counts = np.zeros(size * size)
    for down, row_share in ((0, 1 - low_share), (1, low_share)):
        for along, share in ((0, 1 - right_share), (1, right_share)):
            counts += np.bincount((top + down) * size + left + along, row_share * share, size * size)
    return counts.reshape(size, size).astype(np.float32)
