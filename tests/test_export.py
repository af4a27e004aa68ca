"""The verb `export`: volumes as other programs want them, with nothing changed."""

import gzip

import nibabel as nib
import numpy as np
import pytest

from pipeline.cli import main
from pipeline.core.artefacts import read_table
from pipeline.core.records import Image
from tests.stages.series_files import Study, oblique_stack, radiograph
from tests.stages.test_preprocess import SHUFFLED, _preprocess


@pytest.fixture
def study(tmp_path) -> Study:
    return Study(tmp_path / "study")


def test_volumes_are_exported_as_they_are_by_patient(study, tmp_path):
    values, places, affine = oblique_stack()
    series = study.add_volume(values, places, SHUFFLED)
    study.add_images(radiograph(1))
    _preprocess(study)
    assert main(["export", str(study.folder), "--output", str(tmp_path / "out")]) == 0
    (file,) = (tmp_path / "out").rglob("*.nii.gz")
    assert file.parent.name == series.patient
    written = nib.load(file)
    assert written.shape == (72, 64, 10)
    plain = next((study.folder / "images" / "volumes").iterdir())
    assert gzip.decompress(file.read_bytes()) == plain.read_bytes()
    first = file.read_bytes()
    assert main(["export", str(study.folder), "--output", str(tmp_path / "out")]) == 0
    assert file.read_bytes() == first
    assert [image.volume_file for image in read_table(tmp_path / "out" / "volumes.tsv", Image)] == [plain.name]
    corners = nib.affines.apply_affine(np.linalg.inv(written.affine) @ affine, [[0, 0, 0], [71, 63, 9]])
    assert np.abs(corners - np.rint(corners)).max() < 0.01


def test_a_study_without_volumes_is_an_error_for_the_user(study, tmp_path, capfd):
    study.add_images(radiograph(1))
    _preprocess(study)
    assert main(["export", str(study.folder), "--output", str(tmp_path / "out")]) == 2
    assert "no volumes" in capfd.readouterr().err
