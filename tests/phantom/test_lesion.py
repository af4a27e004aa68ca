"""A lesion changes what lies in it and nothing else."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.phantom.anatomy import Anatomy, Plane, Pose, depth_inside
from pipeline.phantom.lesion import LARGE_DIAMETER, LARGEST_DIAMETER, SMALLEST_DIAMETER, Lesion
from pipeline.phantom.radiograph import chest, heart_share
from pipeline.phantom.scanners import SCANNERS, expose

UPRIGHT = Pose(rotation_rad=0, shift_x=0, shift_y=0, scale=1, breath=0)


def drawn(seed):
    rng = np.random.default_rng(seed)
    build = Anatomy.draw(rng, is_female=bool(seed % 2), seed=seed)
    return build, Lesion.draw(rng, build)


@settings(max_examples=30)
@given(st.integers(0, 100_000))
def test_a_lesion_lies_in_a_lung_beside_the_heart(seed):
    build, lesion = drawn(seed)
    point = Plane(np.full((1, 1), lesion.x, np.float32), np.full((1, 1), lesion.y, np.float32), 0.0)
    side = "left" if lesion.x > 0 else "right"
    assert depth_inside(build, side, point)[0, 0] > 0
    assert heart_share(build, point)[0, 0] < 0.05
    assert SMALLEST_DIAMETER <= lesion.diameter <= LARGEST_DIAMETER


@settings(max_examples=20)
@given(st.integers(0, 100_000))
def test_attenuation_is_zero_outside_and_at_most_the_contrast_inside(seed):
    build, lesion = drawn(seed)
    plane = Plane.of(build, UPRIGHT, 128)
    added = lesion.attenuation(plane)
    distance = np.hypot(plane.x - lesion.x, plane.y - lesion.y)
    radius = lesion.diameter / 2 * np.sqrt(lesion.elongation) * (1 + lesion.lobe_depth)
    assert added.min() == 0
    assert not added[distance > radius + 1e-4].any()
    assert 0.8 * lesion.contrast < added.max() <= lesion.contrast * (1 + 1e-5)


@pytest.mark.parametrize("scanner", SCANNERS, ids=lambda scanner: scanner.model)
def test_a_picture_with_and_without_a_lesion_differs_only_around_it(scanner):
    build, lesion = drawn(11)
    attenuation, plane = chest(build, UPRIGHT, 128)
    added = lesion.attenuation(plane)
    without, shown = (expose(scanner, field, np.random.default_rng(5)) for field in (attenuation, attenuation + added))
    changed = without != shown
    rows, columns = np.nonzero(added)
    reach = 8  # pixels over which blur and sharpening carry a change, at this size
    allowed = np.zeros_like(changed)
    allowed[rows.min() - reach : rows.max() + reach + 1, columns.min() - reach : columns.max() + reach + 1] = True
    assert not changed[~allowed].any()
    assert changed[added > 0.2 * lesion.contrast].mean() > 0.9
    assert shown[added > 0.2 * lesion.contrast].mean() > without[added > 0.2 * lesion.contrast].mean()


def test_sizes_and_contrasts_vary_widely_and_both_findings_are_common():
    lesions = [drawn(seed)[1] for seed in range(200)]
    large = np.mean([lesion.finding == "large" for lesion in lesions])
    assert 0.3 < large < 0.7
    assert all((lesion.finding == "large") == (lesion.diameter >= LARGE_DIAMETER) for lesion in lesions)
    for values in ([lesion.diameter for lesion in lesions], [lesion.contrast for lesion in lesions]):
        low, high = np.percentile(values, [5, 95])
        assert high > 2 * low
    sides = np.mean([lesion.x > 0 for lesion in lesions])
    assert 0.3 < sides < 0.7
