"""Colours become luminance; pydicom and its own test files are the authority."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydicom.data import get_testdata_file
from pydicom.pixels.processing import apply_color_lut, convert_color_space
from pydicom.uid import JPEGLSLossless, RLELossless

from pipeline.dicom.decoding.colour import luminance
from pipeline.dicom.decoding.pixels import PixelData, PixelReadError, read_pixels
from tests.dicom.samples import PIXELS, SYNTAXES, ct, radiograph, with_pixels, write

PICTURE = np.random.default_rng(1).integers(0, 256, (33, 35, 3)).astype(np.uint8)


def coloured(picture=PICTURE, *, photometric="RGB", planar=0, **elements):
    laid_out = picture if planar == 0 else picture.transpose(2, 0, 1)
    dataset = with_pixels(
        radiograph(SamplesPerPixel=3, PlanarConfiguration=planar, **elements), picture[..., 0], bits=8
    )
    dataset.PhotometricInterpretation = photometric
    dataset.PixelData = laid_out.tobytes() + bytes(picture.size % 2)
    return dataset


def with_palette(dataset, tables, *, first=0, bits=16):
    dataset.PhotometricInterpretation = "PALETTE COLOR"
    for name, table in zip(("Red", "Green", "Blue"), tables, strict=True):
        dataset.add_new(f"{name}PaletteColorLookupTableDescriptor", "US", [len(table) & 0xFFFF, first, bits])
        value = np.asarray(table, "<u2").tobytes() if bits == 16 else bytes(table) + bytes(len(table) % 2)
        dataset.add_new(f"{name}PaletteColorLookupTableData", "OW", value)
    return dataset


def refused(path):
    with pytest.raises(PixelReadError) as caught:
        read_pixels(path)
    return caught.value.code


def plain(found: PixelData):
    assert found.was_colour
    assert (found.unit, found.window_centre, found.padding, found.is_monochrome1) == ("", None, None, False)
    assert found.lowest_possible == 0
    return found.values.astype(int)


@given(arrays(np.uint8, (4, 3)))
def test_luminance_is_that_of_bt_601(rgb):
    exact = [(299 * int(r) + 587 * int(g) + 114 * int(b)) for r, g, b in rgb]
    expected = [value // 1000 + ((value % 1000, value // 1000 % 2) >= (500, 1)) for value in exact]
    assert luminance(rgb).tolist() == expected
    assert np.abs(luminance(rgb) - rgb @ [0.299, 0.587, 0.114]).max() <= 0.5 + 1e-9


@given(st.integers(0, 65535))
def test_grey_stays_grey(value):
    assert luminance(np.full((1, 3), value, np.uint16)).tolist() == [value]


@pytest.mark.parametrize("planar", [0, 1])
@pytest.mark.parametrize("syntax", [*SYNTAXES, "JPEG-LS"])
def test_every_syntax_gives_the_same_luminance(tmp_path, syntax, planar):
    dataset = coloured(planar=planar, WindowCenter=40, WindowWidth=400, RescaleSlope=2, RescaleIntercept=-5)
    if syntax == "RLE":  # always by plane, whatever the header says (PS3.5, G.2); its encoder wants it by pixel
        dataset.PlanarConfiguration, dataset.PixelData = 0, coloured().PixelData
    if syntax == "JPEG-LS":
        write(tmp_path / "a.dcm", dataset)
        dataset.compress(JPEGLSLossless, generate_instance_uid=False)
        dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    elif syntax == "big endian":
        dataset["PixelData"].VR = "OB"
        write(tmp_path / "a.dcm", dataset, syntax=syntax)
    else:
        write(tmp_path / "a.dcm", dataset, syntax=syntax)
    if syntax == "RLE":
        dataset.PlanarConfiguration = planar
        dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    found = read_pixels(tmp_path / "a.dcm")
    np.testing.assert_array_equal(plain(found), luminance(PICTURE))
    assert found.highest_possible == 255


def test_the_luminance_of_ybr_is_its_y(tmp_path):
    rgb = np.random.default_rng(2).integers(60, 190, (12, 14, 3)).astype(np.uint8)
    ybr = convert_color_space(rgb, "RGB", "YBR_FULL")
    found = read_pixels(write(tmp_path / "a.dcm", coloured(ybr, photometric="YBR_FULL")))
    assert np.abs(plain(found) - ybr[..., 0]).max() <= 1
    pairs = ybr.reshape(12, 7, 2, 3)
    halved = np.concatenate([pairs[..., 0], pairs[:, :, 0, 1:]], axis=-1)
    dataset = coloured(ybr, photometric="YBR_FULL_422")
    dataset.PixelData = halved.tobytes()
    path = write(tmp_path / "b.dcm", dataset)
    # pixels take over the colour of their neighbours, and with it lose or gain hardly any light
    assert np.abs(plain(read_pixels(path)) - ybr[..., 0]).mean() < 8
    dataset.PixelData = ybr.tobytes()
    assert refused(write(tmp_path / "c.dcm", dataset)) == "BAD_DIMENSIONS"


FILES = (
    "SC_rgb.dcm", "SC_rgb_rle.dcm", "SC_rgb_jpeg_dcmtk.dcm", "SC_rgb_dcmtk_+eb+cr.dcm", "SC_rgb_dcmtk_+eb+cy+n1.dcm",
    "SC_rgb_dcmtk_+eb+cy+np.dcm", "SC_rgb_small_odd.dcm", "SC_rgb_small_odd_big_endian.dcm",
    "SC_rgb_small_odd_jpeg.dcm", "SC_ybr_full_422_uncompressed.dcm", "SC_rgb_jls_lossy_line.dcm",
    "SC_rgb_jls_lossy_sample.dcm", "SC_rgb_gdcm_KY.dcm", "examples_rgb_color.dcm", "examples_palette.dcm",
)  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_files_of_pydicom(name):
    found = get_testdata_file(name, download=False)
    if not found:
        pytest.skip("not installed with pydicom")
    theirs = pydicom.dcmread(found)
    picture = theirs.pixel_array
    if theirs.PhotometricInterpretation == "PALETTE COLOR":
        picture = apply_color_lut(picture, theirs)
    expected = luminance(picture).astype(int)
    assert np.abs(plain(read_pixels(Path(found))) - expected).max() <= 1


@pytest.mark.parametrize("syntax", ["explicit", "implicit", "big endian", "RLE"])
@pytest.mark.parametrize(("entries", "first", "bits"), [(4096, 0, 16), (300, 500, 16), (256, 10, 8), (31, 0, 8)])
def test_palettes(tmp_path, syntax, entries, first, bits):
    tables = np.random.default_rng(3).integers(0, 1 << bits, (3, entries))
    dataset = with_palette(with_pixels(radiograph()), tables.tolist(), first=first, bits=bits)
    if syntax == "big endian":
        for name in ("Red", "Green", "Blue"):
            element = dataset[f"{name}PaletteColorLookupTableData"]
            element.value = np.frombuffer(element.value, "<u2").astype(">u2").tobytes()
    found = read_pixels(write(tmp_path / "a.dcm", dataset, syntax=syntax))
    index = np.clip(PIXELS.astype(int) - first, 0, entries - 1)
    expected = luminance(np.moveaxis(tables[:, index], 0, -1).astype(np.uint16))
    np.testing.assert_array_equal(plain(found), expected)
    assert found.highest_possible == (1 << bits) - 1


def test_a_full_palette_of_16_bits(tmp_path):
    stored = np.arange(1 << 16, dtype=np.uint16).reshape(256, 256)
    tables = np.random.default_rng(3).integers(0, 1 << 16, (3, 1 << 16))
    dataset = with_palette(with_pixels(radiograph(), stored, bits=16), tables)
    found = read_pixels(write(tmp_path / "a.dcm", dataset))
    np.testing.assert_array_equal(plain(found), luminance(tables.T.astype(np.uint16)).reshape(256, 256))


@pytest.mark.parametrize("fault", ["longer", "shorter", "missing", "bits", "unequal", "no words", "signed"])
def test_a_palette_that_is_not_whole_is_refused(tmp_path, fault):
    dataset = with_palette(with_pixels(radiograph()), [[1] * 100] * 3)
    table = dataset["GreenPaletteColorLookupTableData"]
    if fault in {"longer", "shorter"}:
        for name in ("Red", "Green", "Blue"):
            element = dataset[f"{name}PaletteColorLookupTableData"]
            element.value = element.value + b"Mustermann" if fault == "longer" else element.value[:-2]
    elif fault == "missing":
        del dataset[table.tag]
    elif fault == "bits":
        for name in ("Red", "Green", "Blue"):
            dataset[f"{name}PaletteColorLookupTableDescriptor"].value = [100, 0, 12]
    elif fault == "unequal":
        dataset.GreenPaletteColorLookupTableDescriptor = [50, 0, 16]
    elif fault == "no words":
        table.value = b""
    else:
        dataset.PixelRepresentation = 1
    assert refused(write(tmp_path / "a.dcm", dataset)) == "UNSUPPORTED_IMAGE"


@pytest.mark.parametrize(
    "elements",
    [
        {"PhotometricInterpretation": "HSV"},
        {"PhotometricInterpretation": "CMYK", "SamplesPerPixel": 4},
        {"PhotometricInterpretation": "MONOCHROME2"},
        {"SamplesPerPixel": 1},
        {"SamplesPerPixel": 2},
        {"PlanarConfiguration": None},
        {"PlanarConfiguration": 2},
        {"BitsStored": 7, "HighBit": 6},
        {"PixelRepresentation": 1},
    ],
)
def test_other_colours_are_refused(tmp_path, elements):
    dataset = coloured()
    for keyword, value in elements.items():
        if value is None:
            del dataset[keyword]
        else:
            setattr(dataset, keyword, value)
    assert refused(write(tmp_path / "a.dcm", dataset)) in {"UNSUPPORTED_IMAGE", "BAD_DIMENSIONS"}


def test_a_codestream_of_another_number_of_colours_is_refused(tmp_path):
    path = write(tmp_path / "a.dcm", with_pixels(ct(), PICTURE[..., 0], bits=8), syntax="JPEG 2000")
    grey = pydicom.dcmread(path)
    grey.SamplesPerPixel, grey.PhotometricInterpretation, grey.PlanarConfiguration = 3, "RGB", 0
    grey.save_as(path)
    assert refused(path) == "BAD_DIMENSIONS"


def test_runs_of_one_plane_are_refused_for_three(tmp_path):
    dataset = with_pixels(ct(), PICTURE[..., 0], bits=8)
    write(tmp_path / "a.dcm", dataset)
    dataset.compress(RLELossless, generate_instance_uid=False)
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    dataset.save_as(tmp_path / "a.dcm")
    assert refused(tmp_path / "a.dcm") == "UNDECODABLE_PIXELS"
