"""Every identifying place holds a token, and every token is where the manifest says."""

import re
import warnings

import pydicom
import pytest
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset
from pydicom.valuerep import VR, validate_value

from pipeline.phantom.canaries import PLACES, STEM, Aviary, Numbers

# What the issue and PS3.15 table E.1-1 name first; the whole list stands in PLACES.
MUST = {
    "PatientName", "PatientID", "OtherPatientIDs", "AccessionNumber", "InstitutionName", "InstitutionAddress",
    "ReferringPhysicianName", "PerformingPhysicianName", "OperatorsName", "StationName", "DeviceSerialNumber",
    "StudyDescription", "SeriesDescription", "ImageComments", "PatientAddress", "PatientTelephoneNumbers", "StudyID",
}  # fmt: skip


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.keyword)
def test_values_are_valid_for_their_representation(place):
    value = place.text.format(f"{STEM}{place.word}999999")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        validate_value(VR(dictionary_VR(place.keyword)), value, pydicom.config.RAISE)


def test_words_and_keywords_are_used_once_and_the_important_ones_are_there():
    assert len({place.word for place in PLACES}) == len(PLACES)
    keywords = {place.keyword for place in PLACES}
    assert len(keywords) == len(PLACES)
    assert keywords >= MUST


def test_tokens_of_two_people_differ():
    aviary = Aviary()
    datasets = [Dataset(), Dataset()]
    for number, dataset in enumerate(datasets):
        aviary.plant(dataset, Numbers(number, number, number))
    tokens = [set(re.findall(rf"{STEM}[A-Z]+\d{{6}}", str(dataset))) for dataset in datasets]
    assert not tokens[0] & tokens[1]
    assert len(tokens[0]) > len(PLACES)


def test_the_preamble_is_as_long_as_it_must_be():
    preamble = Aviary().preamble(Numbers(1, 2, 0))
    assert len(preamble) == 128
    assert preamble.startswith(STEM.encode())


def test_every_token_of_the_manifest_is_in_the_raw_files_or_their_names(cohort):
    """Otherwise a search for them in the outputs could not fail."""
    found = set()
    pattern = re.compile(rf"{STEM}[A-Z]+\d{{6}}".encode())
    for path in cohort.folder.rglob("*"):
        found |= set(pattern.findall(str(path.relative_to(cohort.folder)).encode()))
        if path.is_file() and not path.is_symlink() and path.name != "manifest.json":
            found |= set(pattern.findall(path.read_bytes()))
    listed = {canary.token.encode() for canary in cohort.manifest.canaries}
    assert found == listed
    assert all(canary.token.startswith(cohort.manifest.stem) for canary in cohort.manifest.canaries)


def test_tokens_are_found_at_the_places_named(cohort):
    """Check one file element by element, nested and private ones included."""
    file = cohort.manifest.accepted()[0]
    dataset = pydicom.dcmread(cohort.dicom / file.path)
    places = {canary.token: set(canary.places) for canary in cohort.manifest.canaries}
    for place in PLACES:
        token = re.search(rf"{STEM}[A-Z]+\d{{6}}", str(dataset[place.keyword].value)).group()
        assert place.keyword in places[token]
    request = dataset.RequestAttributesSequence[0]
    assert "RequestAttributesSequence/RequestedProcedureID" in places[request.RequestedProcedureID]
    for holder in (dataset, request):
        private = [element for element in holder if element.tag.is_private]
        assert {element.VR for element in private} == {"LO", "OB", "SQ"}
    assert dataset.preamble.rstrip(b"\0").decode() in places
    kinds = {name for names in places.values() for name in names}
    assert kinds >= {"preamble", "file name", "folder name", "private LO", "private OB", "text file", "labels.csv"}


def test_original_uids_count_as_identifiers(cohort):
    file = cohort.manifest.accepted()[0]
    dataset = pydicom.dcmread(cohort.dicom / file.path)
    uids = {dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID, dataset.DeviceUID}
    assert uids <= cohort.manifest.identifiers()
