import numpy as np
import pytest

from pipeline.dicom.decoding.pixels import read_pixels
from pipeline.dicom.slices.geometry import StackGeometry
from pipeline.dicom.slices.volumes import slices_geometry
from tests.dicom.samples import PIXELS, ct, radiograph, with_pixels, write


def slices(tmp_path, *datasets):
    return [read_pixels(write(tmp_path / f"{n}.dcm", dataset)) for n, dataset in enumerate(datasets)]


def at(z, stored=PIXELS, **elements):
    return with_pixels(ct(ImagePositionPatient=[0, -0.6 * z, 0.8 * z], **elements), stored)


def test_slices_read_from_files_form_a_volume(tmp_path):
    found = slices_geometry(slices(tmp_path, at(4), at(0), at(2)))
    assert isinstance(found, StackGeometry)
    assert found.order.tolist() == [1, 2, 0]
    assert found.spacing_mm == pytest.approx((0.6, 0.8, 2.0))


@pytest.mark.parametrize(
    ("odd", "code"),
    [
        (at(2, PIXELS[:-1]), "MIXED_SERIES"),
        (at(2, RescaleType="OD"), "MIXED_SERIES"),
        (at(2, PhotometricInterpretation="MONOCHROME1"), "MIXED_SERIES"),
        (at(2, PixelSpacing=[0.8, 0.7]), "MIXED_SERIES"),
        (with_pixels(radiograph(Modality="CT")), "BAD_GEOMETRY"),
        (at(0.001), "DUPLICATE_POSITION"),
        (at(3), "INSTANCES_MISSING"),
    ],
)
def test_an_odd_slice_is_found(tmp_path, odd, code):
    assert slices_geometry(slices(tmp_path, at(0), odd, at(4), at(6))) == code


def test_no_slices():
    assert slices_geometry([]) == "TOO_FEW_SLICES"


def test_the_affine_puts_a_pixel_where_its_slice_says(tmp_path):
    parts = slices(tmp_path, at(0), at(2), at(4))
    found = slices_geometry(parts)
    # column 3, row 5 of the second slice, in LPS by hand: 0.6 mm along x, 0.8 mm along (0, 0.8, 0.6)
    lps = np.array([3 * 0.6, -1.2 + 5 * 0.8 * 0.8, 1.6 + 5 * 0.8 * 0.6])
    np.testing.assert_allclose(found.affine_mm @ [3, 5, 1, 1], [-lps[0], -lps[1], lps[2], 1])
