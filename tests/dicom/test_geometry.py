import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.dicom.slices.geometry import StackGeometry, is_orientation, stack_geometry


def stack(count=12, seed=0, gap=2.5, spacing=(0.8, 0.6)):
    """Make positions, orientations and spacings of an oblique, anisotropic stack, in the order of the slices."""
    generator = np.random.default_rng(seed)
    axes, _ = np.linalg.qr(generator.normal(size=(3, 3)))
    row, column = axes[:, 0], axes[:, 1]
    corner = generator.uniform(-200, 200, 3)
    positions = corner + np.arange(count)[:, None] * gap * np.cross(row, column)
    orientations = np.tile(np.concatenate([row, column]), (count, 1))
    return positions, orientations, np.tile(spacing, (count, 1))


def rounded(values):
    """As the standard's decimal strings hold them: 16 characters."""
    return np.vectorize(lambda value: float(f"{value:.6f}"))(values)


seeds = st.integers(0, 2**32 - 1)


@settings(deadline=None)
@given(seeds, st.integers(2, 40), st.floats(0.3, 10), st.floats(0.1, 3), st.floats(0.1, 3))
def test_every_corner_lands_where_its_slice_says(seed, count, gap, between_rows, between_columns):
    """The oracle: each slice's own position, orientation and spacing, mapped back, are its voxel indices."""
    positions, orientations, spacings = stack(count, seed, gap, (between_rows, between_columns))
    positions, orientations = rounded(positions), rounded(orientations)
    shuffled = np.random.default_rng(seed).permutation(count)
    found = stack_geometry(positions[shuffled], orientations[shuffled], spacings)
    assert isinstance(found, StackGeometry)
    assert sorted(found.order) == list(range(count))
    inverse = np.linalg.inv(found.affine_mm)
    rows, columns = 40, 50
    for slice_index, source in enumerate(shuffled[found.order]):
        for i, j in ((0, 0), (columns - 1, 0), (0, rows - 1), (columns - 1, rows - 1)):
            # PS3.3, equation C.7.6.2.1-1, written out
            lps = (
                positions[source]
                + orientations[source, :3] * between_columns * i
                + orientations[source, 3:] * between_rows * j
            )
            ras = np.array([-lps[0], -lps[1], lps[2], 1])
            np.testing.assert_allclose(inverse @ ras, (i, j, slice_index, 1), atol=0.01)


@given(seeds)
def test_the_order_of_files_does_not_matter(seed):
    positions, orientations, spacings = stack(seed=seed)
    shuffled = np.random.default_rng(seed).permutation(len(positions))
    first = stack_geometry(positions, orientations, spacings)
    second = stack_geometry(positions[shuffled], orientations, spacings)
    np.testing.assert_array_equal(first.affine_mm, second.affine_mm)
    np.testing.assert_array_equal(first.order, shuffled[second.order])


def test_known_axial_stack():
    """Axial slices, feet first in the list: LPS (x, y, z) becomes RAS (-x, -y, z)."""
    positions = [[-100, -120, z] for z in (30.0, 25.0, 20.0)]
    found = stack_geometry(positions, [[1, 0, 0, 0, 1, 0]] * 3, [[0.5, 0.7]] * 3)
    np.testing.assert_allclose(found.affine_mm, [[-0.7, 0, 0, 100], [0, -0.5, 0, 120], [0, 0, 5, 20], [0, 0, 0, 1]])
    assert found.order.tolist() == [2, 1, 0]
    assert found.spacing_mm == (0.7, 0.5, 5.0)


def test_noise_of_decimal_strings_is_no_fault():
    positions, orientations, spacings = stack()
    positions += np.random.default_rng(1).uniform(-5e-3, 5e-3, positions.shape)
    assert isinstance(stack_geometry(positions, orientations, spacings), StackGeometry)


@given(seeds, st.integers(1, 10))
def test_a_missing_slice_is_found(seed, gone):
    positions, orientations, spacings = (np.delete(values, gone, axis=0) for values in stack(seed=seed))
    assert stack_geometry(positions, orientations, spacings) == "INSTANCES_MISSING"


def test_one_missing_slice_among_many_is_found():
    for gone in (1, 250, 498):
        positions, orientations, spacings = (np.delete(values, gone, axis=0) for values in stack(500))
        assert stack_geometry(positions, orientations, spacings) == "INSTANCES_MISSING"


def test_uneven_spacing_is_found():
    positions, orientations, spacings = stack()
    positions[5] += 0.3 * (positions[6] - positions[5])
    assert stack_geometry(positions, orientations, spacings) == "INSTANCES_MISSING"


def test_a_slice_shifted_within_its_plane_is_found():
    positions, orientations, spacings = stack()
    positions[5] += 0.5 * orientations[5, :3]
    assert stack_geometry(positions, orientations, spacings) == "INSTANCES_MISSING"


@pytest.mark.parametrize("distance", [0.0, 1e-3])
def test_two_slices_at_one_place_are_found(distance):
    positions, orientations, spacings = stack()
    positions[4] = positions[3] + distance
    assert stack_geometry(positions, orientations, spacings) == "DUPLICATE_POSITION"


def test_a_series_over_time_is_no_volume():
    positions, orientations, spacings = (np.repeat(values, 10, axis=0) for values in stack(15))
    assert stack_geometry(positions, orientations, spacings) == "DUPLICATE_POSITION"


@pytest.mark.parametrize("degrees", [-18.5, 2.0, 16.5])
def test_a_tilted_gantry_gives_a_sheared_affine_that_is_right(degrees):
    positions, orientations, spacings = tilted(degrees)
    found = stack_geometry(positions, orientations, spacings)
    assert found.tilt_degrees == pytest.approx(abs(degrees))
    for place, index in enumerate(found.order):
        corner = found.affine_mm @ [0, 0, place, 1]
        np.testing.assert_allclose(corner[:3], positions[index] * [-1, -1, 1], atol=1e-6)
    axes = found.affine_mm[:3, :3] / np.linalg.norm(found.affine_mm[:3, :3], axis=0)
    assert np.abs(axes[:, 2] @ axes[:, :2]).max() == pytest.approx(abs(np.sin(np.radians(degrees))))


def test_an_upright_stack_is_not_called_tilted():
    positions, orientations, spacings = stack()
    positions += np.random.default_rng(1).uniform(-5e-3, 5e-3, positions.shape)
    assert stack_geometry(positions, orientations, spacings).tilt_degrees == 0


def test_a_tilted_stack_with_a_gap_is_still_refused():
    assert stack_geometry(*(np.delete(values, 7, axis=0) for values in tilted(16.5))) == "INSTANCES_MISSING"


def test_no_gantry_tilts_by_half_a_right_angle():
    assert stack_geometry(*tilted(50.0)) == "BAD_GEOMETRY"


def tilted(degrees):
    positions, orientations, spacings = stack(30)
    normal = np.cross(orientations[0, :3], orientations[0, 3:])
    order = np.argsort(positions @ normal)
    heights = (positions @ normal)[order]
    shear = np.tan(np.radians(degrees)) * (heights - heights[0])
    positions[order] += shear[:, None] * orientations[0, 3:]
    return positions, orientations, spacings


def test_a_localiser_among_the_slices_is_found():
    positions, orientations, spacings = stack()
    orientations[0] = np.roll(orientations[0], 3)
    assert stack_geometry(positions, orientations, spacings) == "MIXED_SERIES"


def test_another_pixel_spacing_is_found():
    positions, orientations, spacings = stack()
    spacings[3] *= 1.01
    assert stack_geometry(positions, orientations, spacings) == "MIXED_SERIES"


@pytest.mark.parametrize("count", [0, 1])
def test_one_slice_is_no_stack(count):
    positions, orientations, spacings = stack(count)
    assert stack_geometry(positions, orientations, spacings) == "TOO_FEW_SLICES"


@pytest.mark.parametrize("part", [0, 1, 2])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_a_number_is_bad_geometry(part, value):
    parts = stack()
    parts[part][2, 0] = value
    assert stack_geometry(*parts) == "BAD_GEOMETRY"


@pytest.mark.parametrize("value", [0.0, -0.5])
def test_spacing_is_positive(value):
    positions, orientations, spacings = stack()
    spacings[:, 0] = value
    assert stack_geometry(positions, orientations, spacings) == "BAD_GEOMETRY"


@pytest.mark.parametrize(
    ("cosines", "expected"),
    [
        ([1, 0, 0, 0, 1, 0], True),
        ([0.70711, 0.70711, 0, 0, 0, -1], True),
        ([1, 0, 0, 1, 0, 0], False),
        ([2, 0, 0, 0, 1, 0], False),
        ([0, 0, 0, 0, 0, 0], False),
        ([1, 0, 0, 0.01, 1, 0], False),
        ([1, 0, 0], False),
    ],
)
def test_orientation_is_two_perpendicular_unit_vectors(cosines, expected):
    assert is_orientation(cosines) is expected
