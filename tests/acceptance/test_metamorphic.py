"""Protocol D: what does not change an examination does not change a byte of its volume."""

import importlib.util
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset

from tests.acceptance.convert import ENCODINGS, Conversion, convert, ingested, oblique_ct, save

COUNT = 12


def cohort(folder: Path, change: Callable[[list[Dataset]], list[Dataset]] = list, **options) -> None:
    """Write an unsigned series of whole numbers and a signed one with a fractional slope, as two patients."""
    save(folder / "a", change(oblique_ct(COUNT)), **options)
    save(folder / "b", change(_signed()), **options)


def _signed() -> list[Dataset]:
    slices = oblique_ct(
        COUNT, seed=2, series="1.2.4.3", StudyInstanceUID="1.2.4.2", PatientID="PID-2", PixelRepresentation=1
    )
    for one in slices:
        words = np.frombuffer(one.PixelData, "<u2").astype(np.int16) - 2048
        one.PixelData, one.RescaleSlope = words.tobytes(), "0.25"
    return slices


def outputs(conversion: Conversion) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in conversion.volumes.iterdir()}


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Conversion:
    folder = tmp_path_factory.mktemp("original")
    cohort(folder / "raw", seed=None)
    return convert(folder / "raw", folder / "results")


@pytest.fixture
def expect_the_same(original, tmp_path):
    """Convert a variant with the key of the original and compare names and bytes of the volumes."""

    def check(raw: Path) -> None:
        variant = convert(raw, tmp_path / "results", key=original.results / "restricted" / "key")
        assert len(outputs(original)) == 2
        assert outputs(variant) == outputs(original)
        assert [image.pixel_sha256 for image in variant.images] == [image.pixel_sha256 for image in original.images]

    return check


@pytest.mark.parametrize("form", ["zip", "tar", "gztar", "bztar", "xztar"])
def test_an_archive_holds_the_same(expect_the_same, tmp_path, form):
    cohort(tmp_path / "raw")
    expect_the_same(Path(shutil.make_archive(str(tmp_path / "archive"), form, tmp_path / "raw")))


def test_the_folder_of_a_dicomdir(expect_the_same, tmp_path):
    cohort(tmp_path / "raw")
    (tmp_path / "raw" / "DICOMDIR").write_bytes(b"a directory")
    expect_the_same(tmp_path / "raw" / "DICOMDIR")


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_names_of_files_do_not_matter(expect_the_same, tmp_path, seed):
    cohort(tmp_path / "raw", seed=seed)
    expect_the_same(tmp_path / "raw")


@pytest.mark.parametrize(
    "number",
    [
        lambda index: COUNT - index,
        lambda index: 1,
        lambda index: (index * 5) % COUNT + 1,
        lambda index: 10**6 + index,
        lambda index: None,
    ],
    ids=["reversed", "all the same", "shuffled", "large", "empty"],
)
def test_instance_numbers_do_not_matter(expect_the_same, tmp_path, number):
    def renumbered(slices: list[Dataset]) -> list[Dataset]:
        for index, one in enumerate(slices):
            one.InstanceNumber = number(index)
        return slices

    cohort(tmp_path / "raw", renumbered)
    expect_the_same(tmp_path / "raw")


@pytest.mark.parametrize("syntax", ENCODINGS)
def test_the_encoding_does_not_matter(expect_the_same, tmp_path, syntax):
    if syntax == "JPEG-LS" and importlib.util.find_spec("jpeg_ls") is None:
        pytest.skip("pyjpegls, which encodes JPEG-LS, is not installed")
    cohort(tmp_path / "raw", syntax=syntax)
    expect_the_same(tmp_path / "raw")


def test_encodings_may_be_mixed_within_a_series(expect_the_same, tmp_path):
    slices = [oblique_ct(COUNT), _signed()]
    for number, syntax in enumerate(("explicit", "RLE", "JPEG 2000", "deflated", "implicit", "big endian")):
        for name, series in zip("ab", slices, strict=True):
            save(tmp_path / "raw" / name / str(number), series[number::6], syntax=syntax)
    expect_the_same(tmp_path / "raw")


def test_folders_do_not_matter(expect_the_same, tmp_path):
    cohort(tmp_path / "flat")
    for number, path in enumerate(sorted((tmp_path / "flat").rglob("*.dcm"))):
        target = tmp_path / "raw" / f"{number % 5}" / "deeper" / path.parent.name / path.stem
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, target)
    expect_the_same(tmp_path / "raw")


def test_other_files_beside_do_not_matter(expect_the_same, tmp_path):
    cohort(tmp_path / "raw")
    (tmp_path / "raw" / "notes.txt").write_text("not an image")
    shutil.copytree(tmp_path / "raw" / "a", tmp_path / "raw" / "again")
    expect_the_same(tmp_path / "raw")


def test_another_key_changes_names_and_nothing_else(original, tmp_path):
    variant = convert(original.source, tmp_path / "results")
    assert not set(outputs(variant)) & set(outputs(original))
    assert sorted(outputs(variant).values()) == sorted(outputs(original).values())


def test_folders_that_change_places_are_read_again(tmp_path):
    """Names, sizes and times are as before; what lies there is not."""
    for name, patient in (("a", "P-1"), ("b", "P-2")):
        slices = oblique_ct(3, PatientID=patient, series=f"1.2.{name == 'a':d}", StudyInstanceUID=f"1.3.{patient[-1]}")
        for path in save(tmp_path / "raw" / name, slices, seed=None):
            os.utime(path, ns=(10**18, 10**18))
    before = ingested(tmp_path / "raw", tmp_path / "results")
    for source, target in (("a", "c"), ("b", "a"), ("c", "b")):
        (tmp_path / "raw" / source).rename(tmp_path / "raw" / target)
    after = ingested(tmp_path / "raw", tmp_path / "results")
    fresh = ingested(tmp_path / "raw", tmp_path / "fresh")
    assert after == fresh != before
