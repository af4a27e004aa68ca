import numpy as np
import pytest

from pipeline.core.records import Instance, MultiFrameInstance
from pipeline.dicom.slices.headers import read_header
from pipeline.dicom.slices.mosaic import tile, tiles_to_a_side
from pipeline.dicom.slices.triage import triage
from tests.acceptance.convert import oblique_ct
from tests.dicom.multiframe import csa_header, mosaic
from tests.dicom.samples import write


def read(tmp_path, dataset, **options):
    path = write(tmp_path / "a.dcm", dataset, **options)
    return read_header(path, path.name, modalities=("CT", "MR"), largest_bytes=10_000_000)


@pytest.mark.parametrize("count", [2, 4, 5, 9, 11])
@pytest.mark.parametrize("is_reversed", [False, True])
def test_tiles_lie_where_their_slices_lay(tmp_path, count, is_reversed):
    slices = oblique_ct(count)[:: -1 if is_reversed else 1]
    found = read(tmp_path, mosaic(slices))
    assert isinstance(found, MultiFrameInstance)
    frames = found.expanded()
    assert len(frames) == count
    for frame, one in zip(frames, slices, strict=True):
        assert frame.image_position_mm == pytest.approx(np.array(one.ImagePositionPatient, float), abs=1e-5)
        assert (frame.rows, frame.columns) == (one.Rows, one.Columns)
    assert triage(frames).refused == ()


def test_nibabel_puts_the_tiles_into_the_same_places(tmp_path):
    from nibabel.nicom.dicomwrappers import wrapper_from_file

    found = read(tmp_path, mosaic(oblique_ct(7)))
    theirs = wrapper_from_file(tmp_path / "a.dcm")
    assert theirs.is_mosaic
    for number, frame in enumerate(found.expanded()):
        assert frame.image_position_mm == pytest.approx((theirs.affine @ [0, 0, number, 1])[:3], abs=1e-4)


def without_spacing(whole):
    del whole.SpacingBetweenSlices


def without_private_header(whole):
    del whole[0x0029, 0x1010]


def by_another_maker(whole):
    whole[0x0029, 0x0010].value = "ELSE"


FAULTS = {
    "no spacing": without_spacing,
    "no private header": without_private_header,
    "another maker's block": by_another_maker,
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_mosaic_that_says_too_little_is_refused(tmp_path, name):
    whole = mosaic(oblique_ct(5))
    FAULTS[name](whole)
    assert_refused(read(tmp_path, whole))


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"SV10",
        csa_header(5, [1, 0, 0])[:120],
        csa_header(0, [0, 0, 1]),
        csa_header(10_000_000, [0, 0, 1]),
        csa_header(5, [float("nan")] * 3),
        csa_header(5, [0.5, 0.5, 0.5]),
        b"SV10\4\3\2\1\xff\xff\xff\xff" + bytes(200),
        bytes(range(256)),
    ],
    ids=["empty", "cut", "cut later", "no tile", "many tiles", "no number", "no unit", "no end", "garbage"],
)
def test_a_private_header_that_makes_no_sense_is_refused(tmp_path, header):
    assert_refused(read(tmp_path, mosaic(oblique_ct(5), csa=header)))


@pytest.mark.parametrize("count", [4, 6, 10, 16])
def test_a_number_of_tiles_that_the_protocol_denies_is_refused(tmp_path, count):
    slices = oblique_ct(7, shape=(48, 48))
    normal = np.cross(*np.array(slices[0].ImageOrientationPatient, float).reshape(2, 3))
    assert_refused(read(tmp_path, mosaic(slices, csa=csa_header(count, normal), protocol=7)))
    assert_refused(read(tmp_path, mosaic(slices, csa=csa_header(count, normal), protocol=0, matrix=0)))
    if count not in {9, 8, 7, 6, 5}:
        assert_refused(read(tmp_path, mosaic(slices, csa=csa_header(count, normal), protocol=0, matrix=48)))


@pytest.mark.parametrize("matrix", [24, 48])
def test_without_a_protocol_the_acquisition_matrix_confirms_the_tiles(tmp_path, matrix):
    found = read(tmp_path, mosaic(oblique_ct(7, shape=(48, 48)), protocol=0, matrix=matrix))
    assert isinstance(found, MultiFrameInstance)


def test_tiles_that_do_not_follow_their_normal_are_refused(tmp_path):
    slices = oblique_ct(4)
    assert_refused(read(tmp_path, mosaic(slices, normal=np.array(slices[0].ImageOrientationPatient[:3], float))))


def assert_refused(found):
    assert type(found) is Instance
    assert [code for _, code in triage([found]).refused] == ["MOSAIC_IMAGE"]


def test_tiles_are_cut_row_by_row():
    sheet = np.arange(6 * 8).reshape(6, 8)
    assert tiles_to_a_side(4) == 2
    assert [tile(sheet, 4, number)[0, 0] for number in (1, 2, 3, 4)] == [0, 4, 24, 28]
    assert tile(sheet, 4, 4).shape == (3, 4)
