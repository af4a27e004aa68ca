"""The grid for learning: a thing of known place and size in the patient stands at the right index."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.volume import Volume
from pipeline.imaging.grid import Grid, plane_of, put_on_grid
from pipeline.imaging.steps import ScalePercentiles, ScaleWindow

WINDOW = ScaleWindow(centre=50, width=100)
BALL_MM = np.array([12.0, -9.0, 14.0])  # right, anterior, superior of the centre


def rotation(*degrees):
    matrix = np.eye(3)
    for (one, other), angle in zip(((1, 2), (0, 2), (0, 1)), np.radians(degrees), strict=True):
        turn = np.eye(3)
        turn[[one, one, other, other], [one, other, one, other]] = (
            np.cos(angle),
            -np.sin(angle),
            np.sin(angle),
            np.cos(angle),
        )
        matrix = turn @ matrix
    return matrix


def ball(axes, spacing, shape, middle=(5.0, -7.0, 100.0), radius=9.0, value=100):
    """Sample a ball of `value` in 0; `axes` are the directions of the voxel axes, their centre stands at `middle`."""
    affine = np.eye(4)
    affine[:3, :3] = axes * np.array(spacing)
    affine[:3, 3] = middle - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    away = index @ affine[:3, :3].T + affine[:3, 3] - (np.array(middle) + BALL_MM)
    return Volume(np.where(np.linalg.norm(away, axis=-1) < radius, value, 0).astype(np.int16), affine)


def centre_of(pixels):
    weights = pixels.astype(float)
    index = np.stack(np.meshgrid(*map(np.arange, pixels.shape), indexing="ij"), axis=-1)
    return (weights[..., None] * index).sum(axis=(0, 1, 2)) / weights.sum()


SHEARED = np.array([[1, 0, 0], [0, 1, np.sin(0.3)], [0, 0, np.cos(0.3)]])
SOURCES = {
    "upright": (np.eye(3), (1.0, 1.0, 1.0), (60, 60, 60)),
    "flipped": (np.diag([-1.0, -1.0, 1.0]), (1.0, 1.0, 1.0), (60, 60, 60)),
    "upside down": (np.diag([1.0, -1.0, -1.0]), (0.7, 0.7, 2.5), (90, 90, 26)),
    "thick slices": (np.eye(3), (0.8, 0.6, 4.0), (80, 100, 16)),
    "sagittal": (np.eye(3)[:, [1, 2, 0]], (0.9, 0.9, 3.0), (70, 70, 20)),
    "tilted": (rotation(12, -15, 20), (1.2, 0.9, 2.0), (60, 80, 40)),
    "far tilted": (rotation(40, 30, -35), (1.0, 1.0, 1.5), (80, 80, 60)),
    "tilted gantry": (SHEARED, (1.0, 1.0, 2.0), (64, 64, 32)),
}


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("spacing", [(2.0, 1.5), (6.0, 4.0)], ids=["fine", "coarse"])
def test_a_ball_stands_where_it_stands_in_the_patient(name, spacing):
    """Expected by hand: feet to head, front to back, right to left, in mm over the spacing, from the middle."""
    between_slices, between_pixels = spacing
    grid = Grid(slices=31, size=45, slice_spacing_mm=between_slices, pixel_spacing_mm=between_pixels)
    found = put_on_grid(ball(*SOURCES[name]), grid, WINDOW, "float16")
    right, anterior, superior = BALL_MM
    expected = np.array([15 + superior / between_slices, 22 - anterior / between_pixels, 22 - right / between_pixels])
    tolerance = 0.35 if spacing == (2.0, 1.5) else 0.2
    assert np.abs(centre_of(found.pixels) - expected).max() < tolerance
    assert found.spacing_mm == (between_slices, between_pixels, between_pixels)
    volume_mm = found.pixels.astype(float).sum() * between_slices * between_pixels**2
    assert volume_mm == pytest.approx(4 / 3 * np.pi * 9**3, rel=0.12)  # nothing is lost between coarse points


@pytest.mark.parametrize(
    ("plane", "expected"),
    [
        ("axial", lambda right, anterior, superior: (superior, -anterior, -right)),
        ("coronal", lambda right, anterior, superior: (-anterior, -superior, -right)),
        ("sagittal", lambda right, anterior, superior: (-right, -superior, -anterior)),
    ],
)
def test_planes_are_those_that_radiologists_look_at(plane, expected):
    grid = Grid(slices=40, size=40, plane=plane, slice_spacing_mm=1.5, pixel_spacing_mm=1.5)
    found = put_on_grid(ball(*SOURCES["tilted"]), grid, WINDOW, "uint8").pixels
    assert np.abs(centre_of(found) - 19.5 - np.array(expected(*BALL_MM)) / 1.5).max() < 0.35


def test_without_spacings_the_whole_volume_fits_and_pixels_are_square():
    volume = Volume(np.full((50, 100, 20), 100, np.int16), np.diag([1.0, 1.0, 5.0, 1.0]))
    found = put_on_grid(volume, Grid(slices=10, size=50), WINDOW, "uint8")
    assert found.spacing_mm == pytest.approx((10.0, 2.0, 2.0))
    assert (found.pixels[:, :, :12] == 0).all()  # 50 mm wide in 100 mm: a quarter on either side
    assert (found.pixels[:, :, 13:37] == 255).all()
    assert (found.pixels[:, :, 38:] == 0).all()


@pytest.mark.parametrize("axes", [np.eye(3), rotation(10, 20, -15)], ids=["upright", "tilted"])
def test_a_uniform_volume_stays_uniform_where_it_is_and_zero_elsewhere(axes):
    affine = np.eye(4)
    affine[:3, :3] = axes * np.array([2.0, 2.0, 3.0])
    volume = Volume(np.full((30, 24, 20), 60.0, np.float32), affine)
    found = put_on_grid(volume, Grid(slices=24, size=48, slice_spacing_mm=4, pixel_spacing_mm=2.1), WINDOW, "float16")
    values = np.unique(found.pixels)
    assert set(values.tolist()) == {0.0, np.float16(0.6).item()}
    wanted = 30 * 24 * 20 * 12 / (4 * 2.1 * 2.1)
    assert (found.pixels > 0).sum() == pytest.approx(wanted, rel=0.08)


@given(st.permutations(range(3)), st.tuples(*[st.booleans()] * 3))
def test_however_voxels_are_stored_the_grid_is_the_same(order, is_reversed):
    """The same voxels in the same places, with axes swapped and reversed."""
    volume = ball(*SOURCES["tilted"])
    turned = np.eye(4)
    turned[:3, :3] = np.eye(3)[:, order]
    array = volume.array.transpose(order)
    for axis in range(3):
        if is_reversed[axis]:
            turned[:, 3] += turned[:, axis] * (array.shape[axis] - 1)
            turned[:, axis] *= -1
            array = np.flip(array, axis)
    grid = Grid(slices=12, size=16, slice_spacing_mm=1.9, pixel_spacing_mm=1.7)
    one, other = (
        put_on_grid(each, grid, WINDOW, "float16").pixels.astype(float)
        for each in (volume, Volume(array, volume.affine_mm @ turned))
    )
    assert np.abs(one - other).max() < 2e-3


def test_fine_stripes_become_grey_and_no_coarse_stripes():
    """Aliasing would turn stripes of one voxel into broad ones."""
    stripes = np.broadcast_to(np.arange(128)[:, None, None] % 2 * 100, (128, 128, 24)).astype(np.int16)
    for size in (16, 20, 30, 37):
        found = put_on_grid(Volume(stripes, np.eye(4)), Grid(slices=8, size=size), WINDOW, "float16").pixels
        inside = found[:, 2:-2, 2:-2].astype(float)
        assert abs(inside.mean() - 0.5) < 0.02
        assert inside.std() < 0.1


def test_values_are_clipped_before_they_are_averaged():
    """A metal voxel counts as white, not as forty whites."""
    values = np.zeros((16, 16, 16), np.int16)
    values[::2] = 4000
    found = put_on_grid(Volume(values, np.eye(4)), Grid(slices=8, size=8), WINDOW, "float16").pixels
    assert np.abs(found.astype(float) - 0.5).max() < 1e-3


def test_percentiles_are_those_of_the_volume_without_its_padding():
    values = np.arange(20 * 20 * 20).reshape(20, 20, 20).astype(np.int32)
    values[:4] = -5000
    found = put_on_grid(
        Volume(values, np.eye(4)), Grid(slices=20, size=20), ScalePercentiles(1, 99), "uint8", padding=(-6000, -4000)
    )
    assert found.intensity == tuple(np.percentile(values[4:], [1, 99]))
    assert (found.pixels[:, :, 16:] == 0).all()  # the first voxels are the patient's left
    assert found.pixels[:, :, :16].max() == 255


def test_a_volume_of_one_value_is_black():
    flat = Volume(np.full((8, 8, 8), 7, np.int16), np.eye(4))
    assert not put_on_grid(flat, Grid(slices=4, size=8), ScalePercentiles(1, 99), "uint8").pixels.any()


def test_interpolation_equals_that_of_an_independent_program():
    """On a linear ramp every linear interpolation is exact, wherever the points lie."""
    shape = (30, 26, 22)
    affine = np.eye(4)
    affine[:3, :3] = rotation(8, -11, 5) * np.array([1.1, 0.9, 1.6])
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    slope = np.array([0.6, -0.4, 0.5])
    values = (index @ affine[:3, :3].T) @ slope + 50
    grid = Grid(slices=8, size=10, slice_spacing_mm=0.9, pixel_spacing_mm=0.8)
    volume = Volume(values.astype(np.float32), affine)
    found = put_on_grid(volume, grid, WINDOW, "float16").pixels
    matrix = grid.affine_for(volume)
    for place in itertools.product(range(8), range(10), range(10)):
        point = matrix[:3, :3] @ place + matrix[:3, 3]
        assert found[place] == pytest.approx((point @ slope + 50) / 100, abs=2e-3)


# --- what the order of voxels, and of blocks, must not change

# Neither 100 slices nor 47 rows are a whole number of blocks.
MANY_SLICES = np.random.default_rng(3).integers(0, 101, size=(47, 50, 100)).astype(np.int16)


@pytest.mark.parametrize("axis", range(3))
def test_reversing_the_stored_voxels_changes_nothing(axis):
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    turned = np.eye(4)
    turned[axis, axis] = -1
    turned[axis, 3] = MANY_SLICES.shape[axis] - 1
    grid = Grid(slices=32, size=15)
    one, other = (
        put_on_grid(volume, grid, WINDOW, "float16").pixels.astype(float)
        for volume in (Volume(MANY_SLICES, affine), Volume(np.flip(MANY_SLICES, axis), affine @ turned))
    )
    assert np.abs(one - other).max() < 1e-3
    assert one.std() > 0.02  # of noise that was averaged


@pytest.mark.parametrize("direction", [1.0, -1.0])
def test_a_ramp_is_exact_up_to_the_last_slice(direction):
    """100 slices on 32: the last block holds one slice, and stands where that one is."""
    ramp = np.broadcast_to(np.arange(100, dtype=np.float32), (24, 24, 100))
    found = put_on_grid(
        Volume(ramp, np.diag([1.0, 1.0, direction, 1.0])), Grid(slices=32, size=8), WINDOW, "float16"
    ).pixels[:, 4, 4]
    index = (np.arange(32) + 0.5) * 100 / 32 - 0.5
    wanted = index / 100
    assert np.abs(found.astype(float) - (wanted if direction > 0 else wanted[::-1])).max() < 1e-3


# --- what the grid does not hold


def test_the_share_that_is_cut_off_is_told():
    """Upright, so that it can be counted: 300 slices of 1 mm on 32 that are 2 mm apart, and 40 of 50 columns."""
    volume = Volume(np.zeros((50, 50, 300), np.int16), np.eye(4))

    def cut_off(**changes):
        return put_on_grid(volume, Grid(slices=32, size=40, **changes), WINDOW, "uint8").cut_off

    assert cut_off(slice_spacing_mm=2) == pytest.approx(1 - 64 / 300, abs=0.02)
    assert cut_off(slice_spacing_mm=10, pixel_spacing_mm=1) == pytest.approx(1 - 0.8**2)
    assert 0 < cut_off(slice_spacing_mm=298 / 32) < 0.05  # one slice at either end
    assert cut_off(slice_spacing_mm=300 / 32) == 0


@pytest.mark.parametrize("name", SOURCES)
def test_without_spacings_nothing_is_cut_off(name):
    for plane in ("axial", "coronal", "sagittal"):
        assert put_on_grid(ball(*SOURCES[name]), Grid(slices=7, size=9, plane=plane), WINDOW, "uint8").cut_off == 0


@pytest.mark.parametrize(
    ("orientation", "plane"),
    [
        ((1, 0, 0, 0, 1, 0), "axial"),
        ((-1, 0, 0, 0, -0.9, 0.436), "axial"),
        ((1, 0, 0, 0, 0, -1), "coronal"),
        ((0, 1, 0, 0, 0, -1), "sagittal"),
    ],
)
def test_planes_of_acquisition_have_names(orientation, plane):
    assert plane_of(orientation) == plane
