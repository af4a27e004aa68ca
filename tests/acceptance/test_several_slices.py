"""Objects with several slices make the same volumes, byte for byte, as the single slices that they were made from."""

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.sequence import Sequence as Items

from tests.acceptance.convert import ENCODINGS, Conversion, convert, oblique_axes, oblique_ct, save
from tests.acceptance.oracle import accounting_violations, volume_violations
from tests.dicom.multiframe import enhanced, mosaic

COUNT = 7


@pytest.fixture(scope="module")
def single(tmp_path_factory) -> Conversion:
    folder = tmp_path_factory.mktemp("single")
    save(folder / "raw", oblique_ct(COUNT))
    return convert(folder / "raw", folder / "results")


def content(conversion: Conversion) -> list[bytes]:
    return sorted(path.read_bytes() for path in conversion.volumes.iterdir())


def check(conversion: Conversion, volumes: int = 1) -> None:
    """Hold each volume against its frames, and every file to account."""
    assert accounting_violations(conversion.fates()) == []
    assert len(conversion.images) == volumes
    for image in conversion.images:
        nifti = conversion.volume(image)
        assert volume_violations(np.asarray(nifti.dataobj), nifti.affine, conversion.originals(image)) == []
        assert len(conversion.originals(image)) == image.source_slices


@pytest.mark.parametrize("syntax", ["explicit", *(name for name in ENCODINGS if name != "JPEG-LS")])
@pytest.mark.parametrize("make", [enhanced, mosaic])
def test_the_same_volume_as_from_single_slices(single, tmp_path, make, syntax):
    save(tmp_path / "raw", [make(oblique_ct(COUNT))], syntax=syntax)
    conversion = convert(tmp_path / "raw", tmp_path / "results")
    check(conversion)
    if make is enhanced:
        assert content(conversion) == content(single)
    else:  # positions are computed from the centre of the mosaic, and rounded
        ours, theirs = conversion.volume(conversion.images[0]), single.volume(single.images[0])
        assert np.array_equal(np.asarray(ours.dataobj), np.asarray(theirs.dataobj))
        assert np.allclose(ours.affine, theirs.affine, atol=1e-5)


def test_frames_in_any_order(single, tmp_path):
    slices = oblique_ct(COUNT)
    order = np.random.default_rng(3).permutation(COUNT)
    save(tmp_path / "raw", [enhanced([slices[index] for index in order])])
    conversion = convert(tmp_path / "raw", tmp_path / "results")
    check(conversion)
    assert content(conversion) == content(single)


def test_one_volume_in_several_objects(single, tmp_path):
    """A concatenation (PS3.3, C.7.6.16.2.2.4): the frames of one volume stand in several files of one series."""
    slices = oblique_ct(COUNT)
    save(tmp_path / "raw", [enhanced(slices[:3]), enhanced(slices[3:])])
    conversion = convert(tmp_path / "raw", tmp_path / "results")
    check(conversion)
    assert content(conversion) == content(single)


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_missing_file_of_a_concatenation_is_noticed(single, tmp_path, missing):
    slices = oblique_ct(COUNT)
    files = [enhanced(slices[:3]), enhanced(slices[3:5]), enhanced(slices[5:])]
    for number, one in enumerate(files, start=1):
        one.ConcatenationUID, one.InConcatenationNumber, one.InConcatenationTotalNumber = "1.2.3.88", number, 3
    save(tmp_path / "whole", files)
    assert content(convert(tmp_path / "whole", tmp_path / "whole results")) == content(single)
    del files[missing]
    save(tmp_path / "raw", files)
    conversion = convert(tmp_path / "raw", tmp_path / "results")
    assert conversion.images == []
    assert set(map(tuple, conversion.fates().values())) == {("SERIES_INCOMPLETE",)}


def test_a_slope_for_each_frame(tmp_path):
    slices = oblique_ct(COUNT)
    for number, one in enumerate(slices, start=1):
        one.RescaleSlope, one.RescaleIntercept = number, -number
    save(tmp_path / "raw", [enhanced(slices)])
    save(tmp_path / "single", slices)
    conversion = convert(tmp_path / "raw", tmp_path / "results")
    check(conversion)
    assert content(conversion) == content(convert(tmp_path / "single", tmp_path / "single results"))


def test_time_points_become_volumes(tmp_path):
    slices = [one for seed in range(3) for one in oblique_ct(COUNT, seed=seed, axes=oblique_axes())]
    times = [1 + number // COUNT for number in range(3 * COUNT)]
    save(tmp_path / "raw", [enhanced(slices, times=times)])
    conversion = convert(tmp_path / "raw", tmp_path / "results")
    check(conversion, volumes=3)


def test_mosaics_of_several_time_points_become_volumes(tmp_path):
    sheets = []
    for time in range(3):
        sheet = mosaic(oblique_ct(5, seed=time, axes=oblique_axes()))
        sheet.AcquisitionNumber, sheet.SOPInstanceUID = time + 1, f"1.2.3.66.{time}"
        sheets.append(sheet)
    save(tmp_path / "raw", sheets)
    check(convert(tmp_path / "raw", tmp_path / "results"), volumes=3)


def split(dataset: Dataset, fragments: int) -> Dataset:
    """Encapsulate anew, each frame in several fragments, with an offset table."""
    frames = list(generate_frames(dataset.PixelData, number_of_frames=int(dataset.NumberOfFrames)))
    dataset.PixelData = encapsulate(frames, fragments_per_frame=fragments, has_bot=True)
    return dataset


def test_frames_in_several_fragments(single, tmp_path):
    from pydicom import dcmread

    (path,) = save(tmp_path / "raw", [enhanced(oblique_ct(COUNT))], syntax="JPEG 2000")
    split(dcmread(path), 3).save_as(path)
    conversion = convert(tmp_path / "raw", tmp_path / "results")
    check(conversion)
    assert content(conversion) == content(single)


def test_a_frame_too_few_makes_no_volume(tmp_path):
    whole = enhanced(oblique_ct(COUNT))
    whole.PerFrameFunctionalGroupsSequence = Items(whole.PerFrameFunctionalGroupsSequence[1:])
    save(tmp_path / "raw", [whole])
    conversion = convert(tmp_path / "raw", tmp_path / "results")
    assert conversion.images == []
    assert list(conversion.fates().values()) == [["BAD_DIMENSIONS"]]


def test_a_gap_between_frames_makes_no_volume(tmp_path):
    slices = oblique_ct(COUNT)
    del slices[3]
    save(tmp_path / "raw", [enhanced(slices)])
    conversion = convert(tmp_path / "raw", tmp_path / "results")
    assert conversion.images == []
    assert list(conversion.fates().values()) == [["INSTANCES_MISSING"]]
