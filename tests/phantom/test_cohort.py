"""The whole cohort: the same order, the same bytes; the truth is true; nothing foreign is overwritten."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from sklearn.metrics import roc_auc_score

from pipeline.core.errors import ArtefactError
from pipeline.phantom.cohort import Order, write_cohort

ROOT = Path(__file__).resolve().parents[2]
SMALL = Order("radiograph", patients=20, prevalence=0.35, size=64, seed=3)


def digests(folder):
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    write_cohort(SMALL, folder)
    return folder


def test_another_process_writes_the_same_bytes(small, tmp_path):
    """Even with another seed of Python's own hashes."""
    program = (
        "import sys; from pathlib import Path; from pipeline.phantom.cohort import *; "
        "write_cohort(Order('radiograph', patients=20, prevalence=0.35, size=64, seed=3), Path(sys.argv[1]))"
    )
    subprocess.run([sys.executable, "-c", program, tmp_path], cwd=ROOT, check=True, env={"PYTHONHASHSEED": "77"})
    assert digests(tmp_path) == digests(small)


def test_volumes_are_written_the_same_twice(tmp_path):
    order = Order("volume", patients=4, prevalence=0.5, size=64, seed=3)
    for name in ("one", "two"):
        write_cohort(order, tmp_path / name)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


def test_another_seed_shares_neither_pixels_nor_uids(small, tmp_path):
    other = write_cohort(Order("radiograph", patients=20, prevalence=0.35, size=64, seed=4), tmp_path)
    text = (small / "manifest.json").read_text()
    assert not [file.path for file in other.files if file.pixel_sha256 and file.pixel_sha256 in text]
    assert not [file.sop_uid for file in other.files if file.sop_uid and file.sop_uid in text]


def test_the_table_says_what_the_manifest_says(cohort):
    lines = cohort.labels.read_text().splitlines()
    assert lines[0] == "PatientID,StudyInstanceUID,label,finding"
    expected = [
        f"{study.patient_id},{study.study_uid},{study.label},{study.finding}"
        for study in cohort.manifest.studies
        if study.is_in_table
    ]
    assert lines[1:] == expected
    assert {study.finding for study in cohort.manifest.studies} == {"none", "small", "large"}


def test_prevalence_counts_patients(cohort):
    labelled = {study.patient_id for study in cohort.manifest.studies if study.is_in_table and study.has_images}
    ill = {study.patient_id for study in cohort.manifest.studies if study.label == "lesion"}
    assert (len(labelled), len(ill)) == (30, round(30 * 0.35))


def test_label_finding_and_lesion_agree(cohort, volume_cohort):
    for study in (*cohort.manifest.studies, *volume_cohort.manifest.studies):
        assert (study.label == "lesion") == (study.finding != "none") == (study.lesion is not None)


def film(cohort, study_uid):
    (file,) = [file for file in cohort.manifest.accepted() if file.study_uid == study_uid]
    data = pydicom.dcmread(cohort.dicom / file.path)
    value = data.pixel_array / (2**data.BitsStored - 1)
    return 1 - value if data.PhotometricInterpretation == "MONOCHROME1" else value


def test_lesions_brighten_the_place_named(cohort):
    """Brighter than the mirror place for almost all; faint ones may drown in ribs and vessels."""
    differences = []
    for study in cohort.manifest.studies:
        if study.lesion:
            value = film(cohort, study.study_uid)
            radius = max(int(study.lesion.diameter / 4 * 96), 2)
            row, column = int(study.lesion.row * 96), int(study.lesion.column * 96)
            window = (slice(row - radius, row + radius + 1), slice(column - radius, column + radius + 1))
            differences.append(value[window].mean() - value[:, ::-1][window].mean())
    assert np.mean(np.array(differences) > 0) > 0.8
    assert np.mean(differences) > 0.1


def test_no_single_brightness_tells_the_label(cohort):
    """Neither the mean nor the spread of the whole film is a shortcut."""
    studies = [study for study in cohort.manifest.studies if study.has_images]
    label = [study.label == "lesion" for study in studies]
    films = [film(cohort, study.study_uid) for study in studies]
    for feature in (np.mean, np.std):
        assert 0.2 < roc_auc_score(label, [feature(value) for value in films]) < 0.8


def test_an_earlier_cohort_is_replaced(tmp_path):
    write_cohort(Order("volume", patients=4, prevalence=0.5, size=64, seed=3), tmp_path)
    write_cohort(SMALL, tmp_path)
    assert "CT" not in {pydicom.dcmread(path, force=True).get("Modality") for path in tmp_path.rglob("*.dcm")}
    assert {path.name for path in tmp_path.iterdir()} == {"dicom", "labels.csv", "manifest.json"}


@pytest.mark.parametrize("manifest", [None, "{}"])
def test_foreign_files_are_left_alone(tmp_path, manifest):
    precious = tmp_path / "dicom/precious.dcm"
    precious.parent.mkdir()
    precious.write_bytes(b"somebody's data")
    if manifest is not None:
        (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(ArtefactError, match="nothing was changed"):
        write_cohort(SMALL, tmp_path)
    assert precious.read_bytes() == b"somebody's data"


def test_an_interrupted_run_leaves_no_half_cohort(tmp_path, monkeypatch):
    """What was written before the end stands aside and is cleared by the next run."""

    def fail(*_arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.phantom.cohort.plant_files", fail)
        with pytest.raises(KeyboardInterrupt):
            write_cohort(SMALL, tmp_path)
    assert not (tmp_path / "dicom").exists()
    write_cohort(SMALL, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"dicom", "labels.csv", "manifest.json"}
