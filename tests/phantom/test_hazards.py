"""Each planted hazard is really one: checked against the files, not against the code that made them."""

from collections import Counter
from typing import get_args

import numpy as np
import pydicom
import pytest
from pydicom.errors import InvalidDicomError

from pipeline.phantom.hazards import burn_in
from pipeline.phantom.manifest import HazardKind

ONLY_VOLUMES = {"missing_slice"}
ONLY_RADIOGRAPHS = {
    "monochrome1", "same_image_two_patients", "similar_image_two_patients", "patient_with_both_labels", "overlay",
}  # fmt: skip


def only(cohort, kind):
    (hazard,) = cohort.manifest.of_kind(kind)
    return hazard


def read(cohort, hazard, place=0):
    return pydicom.dcmread(cohort.dicom / hazard.paths[place])


def pixels_of(cohort, study_uid):
    (file,) = [file for file in cohort.manifest.accepted() if file.study_uid == study_uid]
    return pydicom.dcmread(cohort.dicom / file.path)


def test_all_kinds_are_planted(cohort, volume_cohort):
    kinds = set(get_args(HazardKind))
    assert {hazard.kind for hazard in cohort.manifest.hazards} == kinds - ONLY_VOLUMES
    assert {hazard.kind for hazard in volume_cohort.manifest.hazards} >= kinds - ONLY_RADIOGRAPHS


def test_files_left_out_are_those_of_the_hazards(cohort, volume_cohort):
    for manifest in (cohort.manifest, volume_cohort.manifest):
        listed = Counter((file.path, file.stage, file.reason) for file in manifest.files if file.reason)
        excluded = [hazard for hazard in manifest.hazards if hazard.excluded]
        planted = Counter((path, hazard.stage, hazard.reason) for hazard in excluded for path in hazard.paths)
        assert listed == planted


def test_no_labelled_study_loses_its_image(cohort):
    with_images = {file.study_uid for file in cohort.manifest.accepted()}
    for study in cohort.manifest.studies:
        assert (study.study_uid in with_images) == study.has_images


def test_compressed_and_inverted_files_are_what_they_say(cohort):
    by_series = {file.series_uid: file for file in cohort.manifest.accepted()}
    for kind, field, value in (
        ("rle", "transfer_syntax_uid", "1.2.840.10008.1.2.5"),
        ("jpeg2000", "transfer_syntax_uid", "1.2.840.10008.1.2.4.90"),
        ("monochrome1", "photometric_interpretation", "MONOCHROME1"),
    ):
        named = set(only(cohort, kind).series_uids)
        assert named == {uid for uid, file in by_series.items() if getattr(file, field) == value}
        assert len(named) >= 2


def test_a_monochrome1_file_shows_the_same_anatomy_when_inverted(cohort):
    hazard = only(cohort, "monochrome1")
    data = pixels_of(cohort, hazard.study_uids[0])
    film = 2**data.BitsStored - 1 - data.pixel_array.astype(int)
    rows, columns = film.shape
    lung = film[int(0.4 * rows) : int(0.5 * rows), int(0.25 * columns) : int(0.32 * columns)]
    spine = film[int(0.4 * rows) : int(0.5 * rows), int(0.47 * columns) : int(0.53 * columns)]
    assert np.median(lung) < np.median(spine)


def test_the_byte_copy_has_another_name_and_comes_later(cohort):
    hazard = only(cohort, "byte_copy")
    (copy,) = [file for file in cohort.manifest.files if file.path == hazard.paths[0]]
    (original,) = [file for file in cohort.manifest.accepted() if file.sha256 == copy.sha256]
    assert copy.path > original.path
    assert copy.path.rsplit("/", 1)[1] != original.path.rsplit("/", 1)[1]
    assert (cohort.dicom / copy.path).read_bytes() == (cohort.dicom / original.path).read_bytes()


def test_conflicting_files_share_a_uid_and_differ_in_a_pixel(cohort):
    hazard = only(cohort, "conflicting_instances")
    one, other = read(cohort, hazard, 0), read(cohort, hazard, 1)
    assert one.SOPInstanceUID == other.SOPInstanceUID
    assert (one.pixel_array != other.pixel_array).sum() == 1


def test_two_patients_share_a_picture_exactly_and_two_almost(cohort):
    exact, similar = only(cohort, "same_image_two_patients"), only(cohort, "similar_image_two_patients")
    for hazard, largest in ((exact, 0), (similar, 1)):
        assert len(set(hazard.patient_ids)) == 2
        films = [pixels_of(cohort, uid).pixel_array.astype(int) for uid in hazard.study_uids]
        assert np.abs(films[0] - films[1]).max() == largest
    everything = Counter(file.pixel_sha256 for file in cohort.manifest.accepted())
    assert sorted(everything.values())[-2:] == [1, 2]


def test_the_truncated_file_ends_too_early(cohort):
    data = read(cohort, only(cohort, "truncated"))
    wanted = data.Rows * data.Columns * 2
    assert 0 < len(data.PixelData) < wanted


def test_what_is_no_image_is_none(cohort):
    for kind in ("text_file", "empty_file"):
        with pytest.raises(InvalidDicomError):
            read(cohort, only(cohort, kind))
    assert (cohort.dicom / only(cohort, "empty_file").paths[0]).stat().st_size == 0
    report = read(cohort, only(cohort, "structured_report"))
    assert report.Modality == "SR"
    assert "PixelData" not in report
    assert "CANARY" in report.ContentSequence[0].TextValue


def test_the_link_points_to_a_file_of_the_cohort(cohort):
    path = cohort.dicom / only(cohort, "symbolic_link").paths[0]
    assert path.is_symlink()
    assert path.resolve(strict=True).is_relative_to(cohort.dicom.resolve())
    assert not path.readlink().is_absolute()


def test_one_file_lacks_its_patient(cohort):
    data = read(cohort, only(cohort, "missing_patient_id"))
    assert data.PatientID == ""
    assert data.SOPInstanceUID


def test_text_is_burned_in_where_the_flag_says_so(cohort):
    hazard = only(cohort, "burned_in")
    data = read(cohort, hazard)
    assert data.BurnedInAnnotation == "YES"
    assert (data.pixel_array[-40:] == 2**data.BitsStored - 1).sum() > 50
    others = [pydicom.dcmread(cohort.dicom / file.path, stop_before_pixels=True) for file in cohort.manifest.accepted()]
    assert {data.BurnedInAnnotation for data in others} == {"NO"}


def test_burning_in_changes_the_text_only():
    pixels = np.zeros((128, 128), np.uint16)
    burn_in(pixels, 12, 99)
    assert set(np.unique(pixels)) == {0, 99}
    assert 50 < (pixels == 99).sum() < 400


def test_text_wider_than_the_image_is_cut():
    pixels = np.zeros((48, 64), np.uint16)
    burn_in(pixels, 123456, 99)
    assert pixels[:, -4:].any()


def test_label_hazards_agree_with_the_table(cohort):
    rows = [line.split(",") for line in cohort.labels.read_text().splitlines()[1:]]
    listed = {row[1] for row in rows}
    without = only(cohort, "patient_without_label")
    assert not set(without.study_uids) & listed
    assert set(without.patient_ids) <= {person.patient_id for person in cohort.manifest.patients}
    absent = only(cohort, "label_without_image")
    assert set(absent.study_uids) <= listed
    assert not set(absent.study_uids) & {file.study_uid for file in cohort.manifest.files}
    for hazard in cohort.manifest.of_kind("patient_with_both_labels"):
        assert {row[2] for row in rows if row[0] == hazard.patient_ids[0]} == {"normal", "lesion"}


def test_somebody_is_older_than_89(cohort):
    hazard = only(cohort, "age_above_89")
    data = pixels_of(cohort, hazard.study_uids[0])
    assert int(data.PatientAge[:3]) > 89


def test_overlays_are_where_they_are_said_to_be(cohort):
    paths = {path for hazard in cohort.manifest.of_kind("overlay") for path in hazard.paths}
    found = {
        file.path
        for file in cohort.manifest.accepted()
        if (0x6000, 0x3000) in pydicom.dcmread(cohort.dicom / file.path)
    }
    assert found == paths
    assert paths


def test_a_slice_is_missing_in_the_middle(volume_cohort):
    hazard = only(volume_cohort, "missing_slice")
    heights = []
    for path in hazard.paths:
        data = pydicom.dcmread(volume_cohort.dicom / path, stop_before_pixels=True)
        normal = np.cross(data.ImageOrientationPatient[:3], data.ImageOrientationPatient[3:])
        heights.append(float(np.dot(normal, data.ImagePositionPatient)))
    gaps = np.diff(sorted(heights))
    assert np.sort(gaps)[-1] == pytest.approx(2 * np.median(gaps), rel=1e-3)
    assert np.sort(gaps)[-2] == pytest.approx(np.median(gaps), rel=1e-3)
