"""The chest film: what is dark on a real one is dark here."""

import numpy as np
import pytest

from pipeline.phantom.anatomy import Anatomy, Pose, depth_inside
from pipeline.phantom.radiograph import chest, heart_share
from pipeline.phantom.skeleton import add_ribs, clavicle, skeleton, spine
from pipeline.phantom.vessels import vessels

UPRIGHT = Pose(rotation_rad=0, shift_x=0, shift_y=0, scale=1, breath=0)
SIZE = 128


@pytest.fixture(scope="module", params=[(3, False), (4, True)])
def film(request):
    seed, is_female = request.param
    build = Anatomy.draw(np.random.default_rng(seed), is_female=is_female, seed=seed)
    attenuation, plane = chest(build, UPRIGHT, SIZE)
    return build, attenuation, plane


def mean_at(film, x, y, half=0.05):
    _, attenuation, plane = film
    return attenuation[(np.abs(plane.x - x) < half) & (np.abs(plane.y - y) < half)].mean()


def test_lungs_are_dark_and_the_middle_and_the_belly_are_bright(film):
    lungs = [mean_at(film, side * 0.45, y) for side in (-1, 1) for y in (-0.3, 0.1)]
    bright = [mean_at(film, 0, 0.2), mean_at(film, 0, -0.1), mean_at(film, -0.4, 0.85), mean_at(film, 0.15, 0.35)]
    assert max(lungs) + 0.3 < min(bright)


def test_air_beside_the_neck_is_empty(film):
    _, attenuation, _ = film
    assert attenuation[:4, :4].max() < 0.1
    assert attenuation.min() >= 0


def test_the_heart_lies_more_to_the_left(film):
    build, _, plane = film
    share = heart_share(build, plane)
    assert share[plane.x > 0].sum() > 1.5 * share[plane.x < 0].sum()
    assert 0 <= share.min() < share.max() <= 0.86


def test_the_windpipe_is_a_dark_line_in_the_upper_middle(film):
    assert mean_at(film, 0.008, -0.45, 0.02) < mean_at(film, 0.09, -0.45, 0.02)


def test_ribs_are_bright_bands_of_the_right_number(film):
    """A vertical line through the outer lung crosses the back halves of ribs about one pitch apart."""
    build, _, plane = film
    ribs = np.zeros_like(plane.x)
    add_ribs(ribs, build, plane, "left")
    assert ribs[plane.x < -0.05].max() < 1e-3
    column = ribs[:, int(np.argmin(np.abs(plane.x[SIZE // 2] - 0.2)))]
    crossings = int(((column[1:] > 0.08) & (column[:-1] <= 0.08)).sum())
    assert 8 <= crossings <= 12


def test_bones_only_add(film):
    build, _, plane = film
    assert skeleton(build, plane).min() >= -1e-6
    assert spine(build, plane)[np.abs(plane.x) > 0.3].max() < 1e-4
    assert clavicle(plane, plane.reach("right"))[plane.y > 0].max() < 1e-4


def test_vessels_spread_from_the_roots_and_thin_out(film):
    build, _, plane = film
    drawn = vessels(build, UPRIGHT, SIZE)
    assert drawn.min() >= 0
    central = drawn[(np.abs(np.abs(plane.x) - 0.22) < 0.08) & (np.abs(plane.y) < 0.15)].mean()
    outer = drawn[(np.abs(plane.x) > 0.6) & (np.abs(plane.y) < 0.15)].mean()
    assert central > 2 * outer > 0


def test_structure_belongs_to_the_patient_not_to_the_size(film):
    """At twice the size the same chest appears."""
    build, attenuation, _ = film
    larger = chest(build, UPRIGHT, 2 * SIZE)[0].reshape(SIZE, 2, SIZE, 2).mean(axis=(1, 3))
    assert np.corrcoef(larger.ravel(), attenuation.ravel())[0, 1] > 0.99


def test_two_patients_differ_and_one_patient_does_not():
    films = [
        chest(Anatomy.draw(np.random.default_rng(seed), is_female=False, seed=seed), UPRIGHT, 64)[0]
        for seed in (1, 1, 2)
    ]
    assert np.array_equal(films[0], films[1])
    assert np.abs(films[0] - films[2]).mean() > 0.02


def test_lungs_lie_where_the_anatomy_says(film):
    build, attenuation, plane = film
    inside = np.maximum(depth_inside(build, "right", plane), depth_inside(build, "left", plane)) > 0.05
    clear = inside & (heart_share(build, plane) == 0)
    body = (np.abs(plane.x) < 0.1) & (np.abs(plane.y) < 0.6)
    assert np.median(attenuation[clear]) < 0.6 * np.median(attenuation[body])
