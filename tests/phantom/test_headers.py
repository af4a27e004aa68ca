"""Headers are those of proper CR, DX, CT and SR objects, and agree with the plan."""

from datetime import date

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import UID, ComputedRadiographyImageStorage, CTImageStorage, DigitalXRayImageStorageForPresentation

from pipeline.phantom.canaries import Aviary
from pipeline.phantom.headers import Occasion, add_overlay, add_radiograph, general, make_uid
from pipeline.phantom.plan import PlannedPatient, PlannedStudy
from pipeline.phantom.scanners import SCANNERS

ATTRIBUTES = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientAge", "StudyDate", "StudyTime",
    "AccessionNumber", "InstitutionName", "ReferringPhysicianName", "Manufacturer", "ManufacturerModelName",
    "StationName", "DeviceSerialNumber", "BodyPartExamined", "PixelSpacing", "BitsStored", "WindowCenter",
    "WindowWidth", "RescaleSlope", "RescaleIntercept", "BurnedInAnnotation", "SpecificCharacterSet", "Modality",
)  # fmt: skip


def occasion(site=0, visit=0):
    studies = tuple(PlannedStudy(4 + place, place, date(2015, 3, 1 + place), "101500", False) for place in range(2))
    return Occasion(9, PlannedPatient(2, site, "F", date(1950, 3, 2), studies), studies[visit])


def image(site=0, *, is_inverted=False):
    pixels = np.arange(64, dtype=np.uint16).reshape(8, 8)
    data = general(occasion(site), Aviary(), series="main", instance="main")
    add_radiograph(data, SCANNERS[site], pixels, is_inverted=is_inverted)
    return data, pixels


@pytest.mark.parametrize("site", [0, 1])
def test_a_radiograph_says_what_it_is(site):
    data, _ = image(site)
    assert all(keyword in data for keyword in ATTRIBUTES)
    classes = (ComputedRadiographyImageStorage, DigitalXRayImageStorageForPresentation)
    assert data.SOPClassUID == classes[site]
    assert (data.Modality, data.BitsStored, data.HighBit, data.BitsAllocated) == (
        ("CR", 10, 9, 16),
        ("DX", 12, 11, 16),
    )[site]
    assert data.ViewPosition == "PA"
    assert data.ImagerPixelSpacing[0] > data.PixelSpacing[0]  # the detector lies behind the patient
    assert data.PatientAge == "064Y"


@pytest.mark.parametrize("site", [0, 1])
def test_the_window_covers_the_rescaled_values(site):
    data, _ = image(site)
    top = (2**data.BitsStored - 1) * data.RescaleSlope + data.RescaleIntercept
    assert data.WindowCenter - data.WindowWidth / 2 <= 0
    assert data.WindowCenter + data.WindowWidth / 2 >= top


@pytest.mark.parametrize("site", [0, 1])
def test_monochrome1_stores_the_same_picture_the_other_way_round(site):
    (plain, pixels), (inverted, _) = image(site), image(site, is_inverted=True)
    assert plain.PhotometricInterpretation == "MONOCHROME2"
    assert inverted.PhotometricInterpretation == "MONOCHROME1"
    largest = 2**plain.BitsStored - 1
    stored = np.frombuffer(inverted.PixelData, "<u2").reshape(8, 8)
    assert np.array_equal(largest - stored, pixels)
    if site:
        assert inverted.PresentationLUTShape == "INVERSE"


def test_the_second_study_refers_to_the_first():
    later = general(occasion(visit=1), Aviary(), series="main", instance="main")
    assert later.ReferencedStudySequence[0].ReferencedSOPInstanceUID == occasion().study_uid
    assert later.StudyInstanceUID != occasion().study_uid
    assert "ReferencedStudySequence" not in general(occasion(), Aviary(), series="main", instance="main")


def test_uids_are_valid_and_depend_on_every_name():
    uids = [make_uid(*names) for names in ((1, "a"), (2, "a"), (1, "b"), (1, "a", 1))]
    assert len(set(uids)) == 4
    assert all(UID(uid).is_valid and len(uid) <= 64 for uid in uids)
    assert make_uid(1, "a") == uids[0]


def test_an_overlay_spells_the_name():
    data = Dataset()
    data.Rows, data.Columns = 32, 96
    add_overlay(data, Aviary(), occasion().numbers)
    dots = data.overlay_array(0x6000)
    assert dots.shape == (32, 96)
    assert 20 < dots.sum() < 400


def test_files_agree_with_the_manifest(cohort):
    people = {person.patient_id: person for person in cohort.manifest.patients}
    studies = {study.study_uid: study for study in cohort.manifest.studies}
    for file in cohort.manifest.accepted():
        data = pydicom.dcmread(cohort.dicom / file.path, stop_before_pixels=True)
        person, study = people[data.PatientID], studies[data.StudyInstanceUID]
        assert data.PatientSex == person.sex
        assert data.PatientBirthDate == person.birth_date
        assert data.StudyDate == study.study_date
        assert study.patient_id == data.PatientID
        assert abs(int(data.PatientAge[:3]) - person.age_years) <= 3
        assert (data.SeriesInstanceUID, data.SOPInstanceUID) == (file.series_uid, file.sop_uid)
        assert data.PhotometricInterpretation == file.photometric_interpretation
        assert data.file_meta.TransferSyntaxUID == file.transfer_syntax_uid


def test_names_with_umlauts_survive_in_both_character_sets(cohort):
    names = {}
    for file in cohort.manifest.accepted():
        data = pydicom.dcmread(cohort.dicom / file.path, stop_before_pixels=True)
        names[data.SpecificCharacterSet] = data.PatientName.given_name
    assert names == {"ISO_IR 100": "Zoë", "ISO_IR 192": "Zoë"}


def test_volumes_are_ct(volume_cohort):
    data = pydicom.dcmread(volume_cohort.dicom / volume_cohort.manifest.accepted()[0].path)
    assert data.SOPClassUID == CTImageStorage
    assert all(keyword in data for keyword in ATTRIBUTES)
    assert (data.Modality, data.RescaleIntercept, data.RescaleType) == ("CT", -1024, "HU")
