"""The verb `wrap`: pictures and NIfTI volumes go through the whole door and come out as they were."""

import csv

import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import Image as Pillow

from pipeline.cli import main
from pipeline.config import DeidentifySettings, IngestSettings, PreprocessSettings
from pipeline.core.artefacts import read_table, write_table
from pipeline.core.records import Finding, Image
from pipeline.dicom.decoding.pixels import read_pixels
from pipeline.stages.deidentify import deidentify
from pipeline.stages.ingest import ingest
from pipeline.stages.preprocess import preprocess
from tests.stages.series_files import radiograph


def write_rows(path, rows):
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def read_rows(path):
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def wrap(folder, *words):
    return main(["wrap", str(folder), "--table", str(folder / "table.csv"), "--output", str(folder / "out"), *words])


def through_the_door(folder, modalities):
    """Ingest, de-identify and preprocess what was wrapped; give the images and where their files lie."""
    results = folder / "results"
    closed = results / "restricted"
    source = folder / "out" / "dicom"
    ingest(
        settings=IngestSettings(source=source, modalities=modalities), key=closed / "key",
        instances=closed / "instances.parquet", rejected=closed / "rejected.tsv",
        rejections=results / "rejections.tsv", flow=results / "flow" / "ingest.tsv",
    )  # fmt: skip
    deidentify(
        settings=DeidentifySettings(), source=source, key=closed / "key", instances=closed / "instances.parquet",
        dicom=results / "dicom", series=results / "series.tsv", pseudonyms=closed / "pseudonyms.tsv",
        quarantine=results / "quarantine.tsv", blanked=results / "blanked.tsv",
        receipt=results / "receipt.tsv",
        flow=results / "flow" / "deidentify.tsv",
    )  # fmt: skip
    write_table(results / "quality.tsv", Finding, [])
    preprocess(
        settings=PreprocessSettings(size=32), series=results / "series.tsv", quality=results / "quality.tsv",
        dicom=results / "dicom", images=results / "images.tsv", pixels=results / "pixels.npy",
        volumes=results / "volumes", unreadable=results / "unreadable.tsv", flow=results / "flow" / "preprocess.tsv",
    )  # fmt: skip
    assert read_table(results / "rejections.tsv", Finding) == []
    assert read_table(results / "quarantine.tsv", Finding) == []
    return read_table(results / "images.tsv", Image), results


def test_pictures_keep_their_values_and_the_table_its_columns(tmp_path):
    deep, plain = radiograph(1), (radiograph(2) // 16).astype(np.uint8)
    Pillow.fromarray(deep).save(tmp_path / "deep.png")
    (tmp_path / "b").mkdir()
    Pillow.fromarray(plain).save(tmp_path / "b" / "plain.png")
    Pillow.fromarray(np.dstack([plain] * 3)).save(tmp_path / "colour.png")
    rows = [
        {"file": "deep.png", "PatientID": "p1", "label": "yes"},
        {"file": "b/plain.png", "PatientID": "p2", "label": "no"},
        {"file": "colour.png", "PatientID": "p2", "label": "no"},
    ]
    write_rows(tmp_path / "table.csv", rows)
    assert wrap(tmp_path) == 0
    labelled = read_rows(tmp_path / "out" / "labels.csv")
    assert [{key: row[key] for key in rows[0]} for row in labelled] == rows
    files = {pydicom.dcmread(path).SOPInstanceUID: path for path in (tmp_path / "out" / "dicom").rglob("*.dcm")}
    for row, expected in zip(labelled, (deep, plain, plain), strict=True):
        found = read_pixels(files[row["SOPInstanceUID"]])
        np.testing.assert_array_equal(found.values, expected)
        assert not found.is_monochrome1
    images, _ = through_the_door(tmp_path, ("CR",))
    assert len(images) == 3
    assert len({image.patient for image in images}) == 2


AFFINE = np.array([[-0.8, 0.06, 0.2, 30], [0.05, 0.78, 0.4, -20], [-0.1, -0.3, 2.4, 5], [0, 0, 0, 1.0]])


def square(affine):
    """Put the axes at right angles, lengths kept."""
    axes, upper = np.linalg.qr(affine[:3, :3])
    result = affine.copy()
    result[:3, :3] = axes * np.diag(upper)
    return result


@pytest.mark.parametrize("kind", ["int16", "uint16", "float32", "tilted"])
def test_a_volume_comes_out_where_and_as_it_went_in(tmp_path, kind):
    generator = np.random.default_rng(1)
    affine = square(AFFINE)
    if kind == "tilted":
        affine[:3, 2] += 0.3 * affine[:3, 1]
    values = generator.integers(-900, 2000, (14, 12, 9))
    values = values + 33_000 if kind == "uint16" else values / 7 if kind == "float32" else values
    values = values.astype({"tilted": "int16"}.get(kind, kind))
    (tmp_path / "sub-01" / "anat").mkdir(parents=True)
    nib.Nifti1Image(values, affine).to_filename(tmp_path / "sub-01" / "anat" / "sub-01_T1w.nii.gz")
    write_rows(tmp_path / "table.csv", [{"file": "sub-01/anat/sub-01_T1w.nii.gz", "label": "yes"}])
    assert wrap(tmp_path, "--modality", "MR") == 0
    assert read_rows(tmp_path / "out" / "labels.csv")[0]["PatientID"] == "01"
    (image,), results = through_the_door(tmp_path, ("MR",))
    found = nib.load(results / "volumes" / image.volume_file)
    expected = nib.as_closest_canonical(nib.Nifti1Image(values, affine))
    assert found.shape == expected.shape
    corners = [[x, y, z] for x in (0, 13) for y in (0, 11) for z in (0, 8)]
    there, here = (nib.affines.apply_affine(one, corners) for one in (found.affine, expected.affine))
    assert np.abs(there - here).max() < 1e-3
    step = (values.max() - values.min()) / 65535 if kind == "float32" else 0
    difference = np.abs(found.get_fdata() - expected.get_fdata()).max()
    assert difference <= step + 1e-5 if kind == "float32" else difference == 0


def test_time_points_become_parts(tmp_path):
    values = np.random.default_rng(1).integers(0, 99, (6, 5, 4, 3)).astype(np.int16)
    nib.Nifti1Image(values, np.diag([2.0, 2.0, 3.0, 1.0])).to_filename(tmp_path / "sub-7_bold.nii")
    write_rows(tmp_path / "table.csv", [{"file": "sub-7_bold.nii"}])
    assert wrap(tmp_path, "--modality", "MR") == 0
    images, results = through_the_door(tmp_path, ("MR",))
    found = [nib.load(results / "volumes" / image.volume_file).get_fdata() for image in images]
    assert len(found) == 3
    for time in range(3):
        assert any(np.array_equal(one, values[..., time]) for one in found)


def test_every_line_that_does_not_fit_is_named_and_nothing_is_written(tmp_path, capfd):
    Pillow.fromarray(radiograph(1)).save(tmp_path / "a.png")
    (tmp_path / "link.png").symlink_to("a.png")
    names = ["a.png", "a.png", "gone.png", "../a.png", "notes.txt", "link.png"]
    write_rows(tmp_path / "table.csv", [{"file": name, "PatientID": f"ANNA^CANARY{name}"} for name in names])
    assert wrap(tmp_path) == 2
    shown = capfd.readouterr().err
    for words in (
        "line 3 names the same file as line 2", "line 4 names a file that is not there", "line 5 names a file outside",
        "line 6 names no PNG", "line 7 names a file that is not there, or is a link",
    ):  # fmt: skip
        assert words in shown
    assert "CANARY" not in shown
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"image": "a.png", "PatientID": "p"}], "no column `file`"),
        ([{"file": "a.png", "person": "p"}], "line 2 names no patient"),
        ([{"file": "broken.png", "PatientID": "p"}], "line 2: the file cannot be wrapped"),
        ([{"file": "a.png", "PatientID": "p"}], None),
    ],
)
def test_a_wrong_table_or_picture_is_an_error_for_the_user(tmp_path, capfd, rows, words):
    Pillow.fromarray(radiograph(1)).save(tmp_path / "a.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "a.png").read_bytes()[:300])
    write_rows(tmp_path / "table.csv", rows)
    assert wrap(tmp_path) == (2 if words else 0)
    assert (words or "") in capfd.readouterr().err


def test_what_is_not_there_is_told_by_name(tmp_path, capfd):
    words = ["--table", str(tmp_path / "none.csv"), "--output", str(tmp_path / "out")]
    assert main(["wrap", str(tmp_path / "none"), *words]) == 2
    assert "no such folder" in capfd.readouterr().err
    assert main(["wrap", str(tmp_path), *words]) == 2
    assert "(No such file or directory)" in capfd.readouterr().err
    (tmp_path / "none.csv").write_text("file,PatientID\n", encoding="utf-8")
    assert main(["wrap", str(tmp_path), *words]) == 2
    assert "a header line and no rows" in capfd.readouterr().err


def test_a_picture_is_no_volume(tmp_path, capfd):
    Pillow.fromarray(radiograph(1)).save(tmp_path / "a.png")
    write_rows(tmp_path / "table.csv", [{"file": "a.png", "PatientID": "p"}])
    assert wrap(tmp_path, "--modality", "CT") == 2
    assert "a picture is no volume" in capfd.readouterr().err
