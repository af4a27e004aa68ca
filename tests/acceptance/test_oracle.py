"""Protocol A: every accepted slice of every set stands, with its values, where its own header says."""

import nibabel as nib
import numpy as np
import pytest

from tests.acceptance.convert import Conversion, convert, oblique_ct, save
from tests.acceptance.oracle import Original, accounting_violations, plane_of, volume_violations
from tests.real_data import data_set

REAL = (pytest.mark.real_data, pytest.mark.slow)


def check(conversion: Conversion) -> int:
    """Hold everything that was converted against the original files; give the number of slices checked."""
    assert accounting_violations(conversion.fates()) == []
    slices, files = 0, set()
    for image in conversion.images:
        nifti, originals = conversion.volume(image), conversion.originals(image)
        array = np.asarray(nifti.dataobj)
        assert volume_violations(array, nifti.affine, originals) == [], image.volume_file
        assert nib.aff2axcodes(nifti.affine) == ("R", "A", "S")
        assert len(originals) == image.source_slices
        slices += len(originals)
        files |= {one.path for one in originals}
    assert sum("accepted" in fate for fate in conversion.fates().values()) == len(files)
    assert {path.name for path in conversion.volumes.glob("*")} == {image.volume_file for image in conversion.images}
    return slices


@pytest.fixture(scope="module")
def phantom(volume_cohort, tmp_path_factory) -> Conversion:
    return convert(volume_cohort.dicom, tmp_path_factory.mktemp("phantom") / "results")


@pytest.mark.slow
def test_every_slice_of_the_phantom_stands_where_its_header_says(phantom, volume_cohort):
    assert check(phantom) == len([file for file in volume_cohort.manifest.accepted() if not file.reason])
    assert len(phantom.images) == len(volume_cohort.manifest.volumes)


@pytest.mark.parametrize(
    ("name", "fewest_volumes"),
    [
        # 4 series of GE with 10 time points, 4 of Siemens with 2 (mosaics)
        pytest.param("dcm_qa_nih", 48, marks=REAL),
        pytest.param("dcm_qa_enh", 6, marks=REAL),
    ],
)
def test_every_slice_of_a_real_set_stands_where_its_header_says(name, fewest_volumes, tmp_path):
    conversion = convert(data_set(name), tmp_path / "results")
    check(conversion)
    assert len(conversion.images) >= fewest_volumes


@pytest.mark.real_data
@pytest.mark.slow
def test_every_slice_of_icometrix_stands_where_its_header_says(tmp_path):
    """One folder at a time: some hold the same instances in two encodings, which are conflicts if seen together."""
    folders = sorted({path.parent for path in data_set("icometrix").resolve().rglob("*.dcm")})
    volumes = 0
    for number, folder in enumerate(folders):
        conversion = convert(folder, tmp_path / str(number))
        check(conversion)
        volumes += len(conversion.images)
    assert volumes >= 16


# --- can the oracle fail?


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    folder = tmp_path_factory.mktemp("truth")
    save(folder / "raw", oblique_ct(8))
    conversion = convert(folder / "raw", folder / "results")
    (image,) = conversion.images
    nifti = conversion.volume(image)
    return np.asarray(nifti.dataobj).copy(), nifti.affine, conversion.originals(image)


def test_the_oracle_passes_what_is_right(truth):
    assert volume_violations(*truth) == []


@pytest.mark.parametrize("axis", range(3))
def test_the_oracle_sees_half_a_voxel(truth, axis):
    array, affine, files = truth
    shifted = affine.copy()
    shifted[:3, 3] += affine[:3, axis] / 2
    assert any("off the grid" in message for message in volume_violations(array, shifted, files))


@pytest.mark.parametrize("axis", range(3))
def test_the_oracle_sees_a_whole_voxel(truth, axis):
    array, affine, files = truth
    shifted = affine.copy()
    shifted[:3, 3] += affine[:3, axis]
    assert volume_violations(array, shifted, files)


@pytest.mark.parametrize("axis", range(3))
def test_the_oracle_sees_a_mirrored_volume(truth, axis):
    array, affine, files = truth
    assert volume_violations(np.flip(array, axis), affine, files)


def test_the_oracle_sees_two_swapped_slices(truth):
    array, affine, files = truth
    axis = array.shape.index(8)
    order = [0, 2, 1, 3, 4, 5, 6, 7]
    assert len(volume_violations(np.take(array, order, axis), affine, files)) == 2


def test_the_oracle_sees_one_changed_value(truth):
    """A corner is looked at in every slice."""
    array, affine, files = truth
    changed = array.copy()
    changed[0, 0, 0] += 1
    assert volume_violations(changed, affine, files) == ["1 of 68 pixels have other values"]


def test_the_oracle_sees_a_lost_and_an_added_slice(truth):
    array, affine, files = truth
    assert volume_violations(array, affine, files[1:])
    assert volume_violations(array, affine, [*files, files[0]])


def test_the_oracle_sees_lost_and_doubly_counted_files():
    fates = {"a": ["accepted"], "b": ["NOT_DICOM"], "c": [], "d": ["accepted", "NOT_DICOM"], "e": ["NO_SUCH_CODE"]}
    assert [message[0] for message in accounting_violations(fates)] == ["c", "d", "e"]


def test_the_oracle_reads_signed_bits_under_garbage(tmp_path):
    (dataset,) = oblique_ct(1, PixelRepresentation=1)
    dataset.PixelData = np.full(48 * 64, 0x7FFF, "<u2").tobytes()
    (path,) = save(tmp_path, [dataset])
    assert np.unique(plane_of(Original(path)).values) == [-1025.0]
