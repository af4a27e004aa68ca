import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nibabel.orientations import aff2axcodes

from pipeline.core.volume import Volume


def _rotation(seed: int) -> np.ndarray:
    matrix, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return matrix


@st.composite
def volumes(draw: st.DrawFn) -> Volume:
    """Volumes in any orientation, left- or right-handed, with unequal axes and spacings."""
    shape = draw(st.tuples(*[st.integers(1, 5)] * 3))
    spacing = draw(st.tuples(*[st.floats(0.2, 8)] * 3))
    affine = np.eye(4)
    affine[:3, :3] = _rotation(draw(st.integers(0, 10_000))) * spacing
    affine[:3, 3] = draw(st.tuples(*[st.floats(-500, 500)] * 3))
    return Volume(np.arange(np.prod(shape)).reshape(shape), affine, "HU")


@given(volumes())
def test_voxels_and_places_are_inverse(volume):
    voxels = np.argwhere(volume.array >= 0)
    np.testing.assert_allclose(volume.to_voxels(volume.to_patient(voxels)), voxels, atol=1e-8)


@given(volumes())
def test_spacing_is_the_distance_between_neighbours(volume):
    corner = volume.to_patient((0, 0, 0))
    neighbours = volume.to_patient(np.eye(3))
    np.testing.assert_allclose(volume.spacing_mm, np.linalg.norm(neighbours - corner, axis=1))


@given(volumes())
def test_reorienting_moves_no_voxel_in_the_patient(volume):
    turned = volume.reoriented()
    voxels = np.argwhere(volume.array >= 0)
    found = np.rint(turned.to_voxels(volume.to_patient(voxels))).astype(int)
    np.testing.assert_array_equal(turned.array[tuple(found.T)], volume.array[tuple(voxels.T)])
    assert turned.axis_codes == "RAS"
    assert turned.unit == volume.unit


@given(volumes())
def test_reorienting_twice_changes_nothing_more(volume):
    once = volume.reoriented()
    twice = once.reoriented()
    np.testing.assert_array_equal(once.array, twice.array)
    np.testing.assert_array_equal(once.affine_mm, twice.affine_mm)


@pytest.mark.parametrize("seed", range(20))
def test_orientation_agrees_with_nibabel(seed):
    affine = np.diag([0.7, 1.3, 4, 1])
    # Up to 20 degrees from the patient's axes, where every rule of "nearest" agrees.
    generator = np.random.default_rng(seed)
    tilt, _ = np.linalg.qr(np.eye(3) + 0.15 * generator.normal(size=(3, 3)))
    swap = np.eye(3)[generator.permutation(3)] * generator.choice([-1, 1], 3)
    affine[:3, :3] = tilt @ swap @ affine[:3, :3]
    affine[:3, 3] = generator.normal(scale=100, size=3)
    array = generator.normal(size=(3, 4, 5)).astype(np.float32)
    volume = Volume(array, affine)
    expected = nib.as_closest_canonical(nib.Nifti1Image(array, affine))
    assert volume.axis_codes == "".join(aff2axcodes(affine))
    np.testing.assert_array_equal(volume.reoriented().array, np.asarray(expected.dataobj))
    np.testing.assert_allclose(volume.reoriented().affine_mm, expected.affine, atol=1e-9)


def test_dicom_axes_are_named_lps():
    assert Volume(np.zeros((1, 1, 1)), np.diag([-1.0, -1.0, 1.0, 1.0])).axis_codes == "LPS"


def test_shear_is_seen():
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    assert not Volume(np.zeros((2, 2, 2)), affine).is_sheared
    affine[1, 2] = 0.5
    assert Volume(np.zeros((2, 2, 2)), affine).is_sheared


def test_the_affine_cannot_be_changed_afterwards():
    given_affine = np.eye(4)
    volume = Volume(np.zeros((2, 2, 2)), given_affine)
    given_affine[0, 3] = 9
    assert volume.to_patient((0, 0, 0)).tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="read-only"):
        volume.affine_mm[0, 3] = 9


@pytest.mark.parametrize(
    ("array", "affine", "message"),
    [
        (np.zeros((2, 2)), np.eye(4), "three axes"),
        (np.zeros((2, 0, 2)), np.eye(4), "three axes"),
        (np.zeros((2, 2, 2)), np.eye(3), "4 x 4"),
        (np.zeros((2, 2, 2)), np.full((4, 4), np.nan), "finite"),
        (np.zeros((2, 2, 2)), np.diag([1.0, 1.0, 1.0, 2.0]), "last row"),
        (np.zeros((2, 2, 2)), np.diag([1.0, 1.0, 0.0, 1.0]), "flattens"),
    ],
)
def test_impossible_volumes_are_refused(array, affine, message):
    with pytest.raises(ValueError, match=message):
        Volume(array, affine)
