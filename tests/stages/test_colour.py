"""Pictures in colour from the archive to the network: through all stages, and beside grey ones."""

import numpy as np
import pydicom
import pytest

from pipeline.core.artefacts import read_table
from pipeline.core.records import Image, Series
from pipeline.dicom.decoding.colour import luminance
from tests.acceptance.convert import Conversion, convert, oblique_ct, save
from tests.dicom.samples import radiograph, with_pixels, write
from tests.stages.series_files import radiograph as drawn

GREY = (drawn(1, (40, 50)) >> 4).astype(np.uint8)
COLOUR = np.random.default_rng(5).integers(0, 256, (40, 50, 3)).astype(np.uint8)


def picture(number: int, stored: np.ndarray, **elements) -> pydicom.Dataset:
    uids = {"SOPInstanceUID": f"1.2.3.1.{number}", "SeriesInstanceUID": f"1.2.3.3.{number}"}
    dataset = with_pixels(radiograph(**uids, **elements), stored[..., 0] if stored.ndim == 3 else stored, bits=8)
    dataset.PixelData = stored.tobytes()
    return dataset


def in_colour(number: int, rgb: np.ndarray, **elements) -> pydicom.Dataset:
    facts = {"SamplesPerPixel": 3, "PlanarConfiguration": 0, "PhotometricInterpretation": "RGB", **elements}
    return picture(number, rgb, **facts)


def in_palette(number: int, stored: np.ndarray, tables: np.ndarray, **elements) -> pydicom.Dataset:
    dataset = picture(number, stored, PhotometricInterpretation="PALETTE COLOR", **elements)
    for name, table in zip(("Red", "Green", "Blue"), tables, strict=True):
        dataset.add_new(f"{name}PaletteColorLookupTableDescriptor", "US", [len(table), 0, 16])
        dataset.add_new(f"{name}PaletteColorLookupTableData", "OW", table.astype("<u2").tobytes())
    return dataset


def by_series(run: Conversion) -> dict[int, Image]:
    images = read_table(run.results / "images.tsv", Image)
    names = {run.names.uid(f"1.2.3.3.{number}"): number for number in range(1, 9)}
    return {names[image.series_uid]: image for image in images}


@pytest.mark.parametrize("syntax", ["explicit", "RLE"])
def test_colours_arrive_as_the_luminance_that_they_had(tmp_path, syntax):
    tables = np.random.default_rng(6).integers(0, 65536, (3, 256)).astype(np.uint16)
    files = {
        1: picture(1, GREY),
        2: in_colour(2, np.dstack([GREY] * 3)),
        3: in_colour(3, COLOUR, Rows=40),
        4: picture(4, luminance(COLOUR)),
        5: in_palette(5, GREY, tables),
        6: in_palette(6, GREY, np.tile(np.arange(256), (3, 1))),
    }
    for number, dataset in files.items():
        write(tmp_path / "raw" / f"{number}.dcm", dataset, syntax=syntax)
    run = convert(tmp_path / "raw", tmp_path / "results", modalities=("CR",))
    images = by_series(run)
    assert sorted(images) == [1, 2, 3, 4, 5, 6]
    assert images[1].pixel_sha256 == images[2].pixel_sha256 == images[6].pixel_sha256
    assert images[3].pixel_sha256 == images[4].pixel_sha256 != images[1].pixel_sha256
    noted = {one.unit_id for one in run.findings if one.code == "COLOUR_TO_GREY" and one.severity == "noted"}
    assert noted == {run.names.uid(f"1.2.3.3.{number}") for number in (2, 3, 5, 6)}
    kept = {
        series.series_uid: series.photometric_interpretation
        for series in read_table(run.results / "series.tsv", Series)
    }
    assert kept[run.names.uid("1.2.3.3.3")] == "RGB"
    assert kept[run.names.uid("1.2.3.3.5")] == "PALETTE COLOR"


def test_a_palette_that_spells_a_name_stays_behind(tmp_path):
    tables = np.zeros((3, 256), np.uint16)
    tables[1, :10] = np.frombuffer(b"MUSTERMANN ERIKA....", "<u2")
    write(tmp_path / "raw" / "1.dcm", in_palette(1, GREY, tables))
    write(tmp_path / "raw" / "2.dcm", picture(2, GREY))
    run = convert(tmp_path / "raw", tmp_path / "results", modalities=("CR",))
    assert sorted(by_series(run)) == [2]
    assert run.counts()["instance", "DEIDENTIFICATION_FAILED"] == 1


def test_slices_in_colour_become_a_volume_of_luminance(tmp_path):
    slices = oblique_ct(6)
    planes = []
    for number, dataset in enumerate(slices):
        rgb = np.random.default_rng(number).integers(0, 256, (dataset.Rows, dataset.Columns, 3)).astype(np.uint8)
        planes.append(luminance(rgb))
        dataset.SamplesPerPixel, dataset.PlanarConfiguration, dataset.PhotometricInterpretation = 3, 0, "RGB"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
        dataset.PixelData = rgb.tobytes()
        dataset["PixelData"].VR = "OB"
    save(tmp_path / "raw", slices)
    run = convert(tmp_path / "raw", tmp_path / "results")
    (image,) = run.images
    values = np.asanyarray(run.volume(image).dataobj)
    assert sorted(values.ravel()) == sorted(np.concatenate(planes).ravel())
    assert [one.code for one in run.findings if one.severity == "noted"].count("COLOUR_TO_GREY") == 1
