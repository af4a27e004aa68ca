from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.imaging.stacking import Slice, fits_int16, prove, stack, stacked

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def _series(seed: int, count: int = 6, shape: tuple[int, int] = (5, 8)) -> tuple[list[Slice], np.ndarray]:
    """Slices of an oblique, anisotropic stack, and the affine (column, row, slice) written independently."""
    generator = np.random.default_rng(seed)
    axes, _ = np.linalg.qr(generator.normal(size=(3, 3)))
    along_row, along_column = axes[:, 0], axes[:, 1]
    normal = np.cross(along_row, along_column)
    spacing, step, corner = (0.6, 0.8), 2.5, generator.normal(scale=100, size=3)
    values = generator.integers(-1000, 2000, (count, *shape)).astype(np.float32)
    slices = [
        Slice(plane, tuple(corner + index * step * normal), (*along_row, *along_column), spacing)
        for index, plane in enumerate(values)
    ]
    affine = np.eye(4)
    affine[:3] = np.column_stack([along_row * spacing[1], along_column * spacing[0], normal * step, corner])
    return slices, LPS_TO_RAS @ affine


@given(st.integers(0, 10_000))
def test_every_pixel_lies_in_the_volume_where_its_header_says(seed):
    slices, affine = _series(seed)
    volume = stack(iter(slices), count=len(slices), affine_mm=affine, unit="HU")
    assert (volume.axis_codes, volume.unit, volume.array.dtype) == ("RAS", "HU", np.int16)
    for plane in slices:
        for row, column in np.ndindex(*plane.values.shape):
            # PS3.3 C.7.6.2.1.1, one pixel at a time.
            x, y, z = (
                plane.position_mm[axis]
                + plane.orientation[axis] * plane.spacing_mm[1] * column
                + plane.orientation[axis + 3] * plane.spacing_mm[0] * row
                for axis in range(3)
            )
            voxel = np.linalg.solve(volume.affine_mm, [-x, -y, z, 1])[:3]
            assert np.abs(voxel - voxel.round()).max() < 1e-6
            assert volume.array[tuple(voxel.round().astype(int))] == plane.values[row, column]


def test_fractions_make_a_volume_of_floats():
    slices, affine = _series(1)
    slices[3] = replace(slices[3], values=slices[3].values + np.float32(0.25))
    volume = stack(slices, count=6, affine_mm=affine, unit="")
    assert volume.array.dtype == np.float32
    assert sorted(volume.array.ravel()) == sorted(np.concatenate([plane.values.ravel() for plane in slices]))


@pytest.mark.parametrize(
    ("values", "fits"),
    [([-32768, 32767], True), ([32768, 0], False), ([0.5, 1], False), ([np.nan, 1], False), ([np.inf, 1], False)],
)
def test_what_fits_into_int16(values, fits):
    assert fits_int16(np.float32(values)) is fits


def test_swapped_slices_are_refused():
    slices, affine = _series(1)
    with pytest.raises(ValueError, match="does not stand"):
        stack([slices[1], slices[0], *slices[2:]], count=6, affine_mm=affine, unit="")


def test_a_slice_between_two_others_is_refused():
    slices, affine = _series(1)
    normal = np.subtract(slices[1].position_mm, slices[0].position_mm) / 2.5
    moved = replace(slices[2], position_mm=tuple(slices[2].position_mm + 0.06 * 2.5 * normal))
    with pytest.raises(ValueError, match="does not lie on the grid"):
        stack([*slices[:2], moved, *slices[3:]], count=6, affine_mm=affine, unit="")


def test_a_slice_outside_is_refused():
    slices, affine = _series(1)
    normal = np.subtract(slices[1].position_mm, slices[0].position_mm)
    moved = replace(slices[5], position_mm=tuple(slices[5].position_mm + normal))
    with pytest.raises(ValueError, match="outside"):
        stack([*slices[:5], moved], count=6, affine_mm=affine, unit="")


@pytest.mark.parametrize("axis", [0, 1])
def test_a_mirrored_affine_is_refused(axis):
    slices, affine = _series(1)
    flip = np.eye(4)
    flip[axis, axis] = -1
    flip[axis, 3] = (8, 5)[axis] - 1
    with pytest.raises(ValueError, match="does not stand"):
        stack(slices, count=6, affine_mm=affine @ flip, unit="")


@pytest.mark.parametrize("count", [5, 7])
def test_another_number_of_slices_is_refused(count):
    slices, affine = _series(1)
    with pytest.raises(ValueError, match="slices"):
        stack(slices, count=count, affine_mm=affine, unit="")


def test_slices_of_two_shapes_are_refused():
    slices, affine = _series(1)
    slices[2] = replace(slices[2], values=slices[2].values[:-1])
    with pytest.raises(ValueError, match="differ in shape"):
        stack(slices, count=6, affine_mm=affine, unit="")


@pytest.mark.parametrize("shape", [(4, 8), (5, 8), (3, 7), (1, 4), (6, 2)])
@pytest.mark.parametrize("signs", [(1, 1), (1, -1), (-1, 1), (-1, -1)])
@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32])
def test_slices_lie_as_they_should_however_they_are_turned(shape, signs, dtype):
    values = np.random.default_rng(1).integers(-32768, 32768, (3, *shape)).astype(dtype)
    values[0, 0, :2] = (-32768, 32767)
    affine = np.diag([-1.0 * signs[0], -1.0 * signs[1], 2.0, 1.0])
    axes = (signs[0], 0, 0, 0, signs[1], 0)
    slices = [Slice(plane, (0.0, 0.0, 2.0 * index), axes, (1.0, 1.0)) for index, plane in enumerate(values)]
    volume = stack(slices, count=3, affine_mm=affine, unit="")
    turned = values[:, :: -signs[1], :: -signs[0]].transpose(2, 1, 0)
    np.testing.assert_array_equal(volume.array, turned)
    assert volume.array.dtype == np.int16
    assert volume.array.flags.f_contiguous


@pytest.mark.parametrize("fractions", [0, 5])
def test_large_whole_numbers_are_kept_or_refused_but_never_rounded(fractions):
    """2**24 + 1 is the first whole number that float32 does not hold."""
    slices, affine = _series(3)
    values = [one.values.astype(np.int32) + (1 << 24) + 1 for one in slices]
    large = [replace(one, values=plane) for one, plane in zip(slices, values, strict=True)]
    volume = stack(large, count=len(large), affine_mm=affine, unit="")
    assert volume.array.dtype == np.int32
    assert sorted(volume.array.ravel()) == sorted(np.concatenate([plane.ravel() for plane in values]))
    large[fractions] = replace(large[fractions], values=slices[0].values + np.float32(0.5))
    with pytest.raises(ValueError, match="too large"):
        stack(large, count=len(large), affine_mm=affine, unit="")


def test_large_fractions_are_no_fault():
    slices, affine = _series(3)
    large = [replace(one, values=one.values * np.float32(1e6) + np.float32(0.5)) for one in slices]
    assert stack(large, count=len(large), affine_mm=affine, unit="").array.dtype == np.float32


def test_whole_numbers_beyond_32_bits_are_not_taken_for_smaller_ones():
    slices, affine = _series(3)
    large = [replace(one, values=one.values.astype(np.int64) + (1 << 32)) for one in slices]
    with pytest.raises(ValueError, match="too large"):
        stack(large, count=len(large), affine_mm=affine, unit="")


def test_what_was_rounded_is_not_proved():
    slices, affine = _series(3)
    large = [replace(one, values=one.values.astype(np.int32) * 2 + (1 << 25) + 1) for one in slices]
    volume, probes = stacked(large, count=len(large), affine_mm=affine, unit="")
    prove(volume, probes)
    with pytest.raises(ValueError, match="does not stand"):
        prove(replace(volume, array=volume.array.astype(np.float32)), probes)
