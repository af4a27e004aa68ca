"""Public corpora: every file is accounted for, and what is compressed without loss decodes to the same values."""

import time

import numpy as np
import pytest

from pipeline.core.reasons import REASONS
from pipeline.dicom.decoding.pixels import PixelReadError, read_pixels
from tests.dicom.corpora import outcomes
from tests.real_data import data_set

pytestmark = [pytest.mark.slow, pytest.mark.real_data]
# NEMA WG-04: one image in several transfer syntaxes; the last part of a name is the syntax.
LOSSLESS = ("J2KR", "JLSL", "JPLL", "RLE")
LOSSY = ("J2KI", "JLSN", "JPLY")


@pytest.mark.parametrize(("name", "fewest"), [("wg04", 190), ("pydicom_data", 70)])
def test_every_file_ends_decoded_or_with_a_reason(name, fewest):
    started = time.monotonic()
    found = outcomes(data_set(name))
    assert len(found) >= fewest
    assert {one.result for one in found} <= {"decoded", *REASONS}
    assert sum(one.result == "decoded" for one in found) >= 40 if name == "wg04" else True
    assert time.monotonic() - started < len(found)  # no file hangs: the mean is below a second


def images():
    folder = data_set("wg04") / "WG04"
    found: dict[str, dict[str, object]] = {}
    for path in sorted(folder.resolve().rglob("*")):
        base, _, kind = path.name.partition("_")
        if path.is_file() and kind in LOSSLESS + LOSSY:
            found.setdefault(base, {})[kind] = path
    return found


def read(path):
    try:
        return read_pixels(path)
    except PixelReadError:  # colour, several frames
        return None


def test_lossless_syntaxes_decode_to_the_same_values():
    compared = 0
    for base, files in images().items():
        read_files = {kind: read(path) for kind, path in files.items() if kind in LOSSLESS}
        known = {kind: one.values for kind, one in read_files.items() if one is not None}
        for kind, values in known.items():
            first = next(iter(known.values()))
            np.testing.assert_array_equal(values, first, err_msg=f"{base} {kind}")
        compared += len(known) >= 3
    assert compared >= 5


def test_lossy_syntaxes_stay_near_the_lossless_ones():
    compared = 0
    for base, files in images().items():
        known = {kind: one.values.astype(float) for kind, path in files.items() if (one := read(path)) is not None}
        exact = next((known[kind] for kind in LOSSLESS if kind in known), None)
        for kind in LOSSY:
            if exact is not None and kind in known:
                error = np.abs(known[kind] - exact)
                assert error.mean() < 0.02 * np.ptp(exact), f"{base} {kind}"
                compared += 1
    assert compared >= 10


def test_lossless_jpeg_agrees_with_another_decoder():
    import imagecodecs
    import pydicom
    from pydicom.encaps import get_frame

    compared = 0
    for files in images().values():
        path = files.get("JPLL")
        found = read(path) if path else None
        if found is None:
            continue
        dataset = pydicom.dcmread(path)
        other = imagecodecs.ljpeg_decode(get_frame(dataset.PixelData, 0, number_of_frames=1)).astype(np.int64)
        slope, intercept = float(dataset.get("RescaleSlope", 1)), float(dataset.get("RescaleIntercept", 0))
        if not dataset.PixelRepresentation:
            np.testing.assert_allclose(found.values, other * slope + intercept)
            compared += 1
    assert compared >= 3


def test_jpeg_ls_agrees_with_another_decoder():
    import pydicom

    compared = 0
    for files in images().values():
        path = files.get("JLSL")
        found = read(path) if path else None
        if found is None:
            continue
        dataset = pydicom.dcmread(path)
        slope, intercept = float(dataset.get("RescaleSlope", 1)), float(dataset.get("RescaleIntercept", 0))
        try:
            other = dataset.pixel_array.astype(np.int64)
        except RuntimeError:  # the other decoder refuses one of the samples
            continue
        np.testing.assert_allclose(found.values, other * slope + intercept)
        compared += 1
    assert compared >= 5
