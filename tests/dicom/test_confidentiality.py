from datetime import date, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.datadict import dictionary_VM, dictionary_VR
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.sr.codedict import codes

from pipeline.dicom.deidentification.confidentiality import (
    METHOD,
    METHOD_CODES,
    Identity,
    deidentified,
    describe_actions,
    fixed_words,
    profile,
    shifted_date,
)
from pipeline.dicom.deidentification.leaks import identity_tokens
from pipeline.dicom.deidentification.pseudonyms import Pseudonyms
from pipeline.dicom.reading.files import FileFault
from tests.dicom.samples import GEOMETRY, ct, radiograph, with_pixels

NAMES = Pseudonyms(bytes(range(32)))
# Representations whose values cannot hold a name; the actions that keep a value as it is may have no other.
NUMERIC = {"DS", "IS", "US", "SS", "FD", "FL", "US or SS", "US or OW"}
WRITTEN_BY_US = {
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
    "LongitudinalTemporalInformationModified",
    "PatientName",
    "PatientID",
    "PatientAge",
}


def clean(dataset, largest=3650):
    return deidentified(dataset, Identity(NAMES, dataset.PatientID, largest, identity_tokens(dataset)))


def test_each_attribute_has_one_rule():
    attributes = [rule.attribute for rule in profile()]
    assert len(set(attributes)) == len(attributes)


@pytest.mark.parametrize("rule", profile(), ids=lambda rule: rule.attribute)
def test_values_are_kept_as_they_are_only_where_no_name_fits(rule):
    representation = dictionary_VR(rule.tag)
    if rule.action in {"number", "vital_number", "table"}:
        # Words of a palette: their number is checked when the file is read, and they are searched for identity.
        assert representation in (NUMERIC | {"OW"} if rule.action == "table" else NUMERIC)
    if rule.action == "terms":
        assert representation in {"CS", "LO"}
        assert rule.terms
        assert all(len(term) <= 16 and term == term.upper() and term.isascii() for term in rule.terms)
    else:
        assert not rule.terms
    if rule.action in {"uid", "class"}:
        assert representation == "UI"
    if rule.action == "date":
        assert representation == "DA"
        assert dictionary_VM(rule.tag) == "1"


def test_every_action_is_described():
    described = describe_actions()
    assert [attribute for attribute, _, _ in described[:-1]] == [rule.attribute for rule in profile()]
    assert described[-1][:2] == ("everything else", "removed")
    assert all(word for row in described for word in row)


def test_method_codes_are_those_of_the_standard():
    known = {codes.DCM.__getattr__(name).value: codes.DCM.__getattr__(name).meaning for name in codes.DCM.dir()}
    for value, meaning in METHOD_CODES:
        assert known[value] == meaning


def test_nothing_but_the_profile_leaves():
    dataset = with_pixels(ct(StudyDescription="x", InstitutionName="y", ImageComments="z", StationName="s"))
    dataset.private_block(0x0011, "MAKER", create=True).add_new(1, "LO", "private")
    dataset.add_new(0x60000022, "LO", "overlay")
    dataset.add_new(0x50000020, "CS", "CURVE")
    dataset.ReferencedImageSequence = Sequence([Dataset()])
    allowed = {rule.attribute for rule in profile()} | WRITTEN_BY_US
    result = clean(dataset)
    assert {element.keyword for element in result} <= allowed
    assert "PixelData" not in result


def test_the_patient_is_a_pseudonym_and_the_file_says_so():
    result = clean(with_pixels(radiograph(PatientBirthDate="19500101", PatientSex="F")))
    pseudonym = NAMES.patient("PID-4711")
    assert result.PatientID == result.PatientName == pseudonym
    assert result.PatientBirthDate == ""
    assert result.PatientSex == "F"
    assert result.PatientIdentityRemoved == "YES"
    assert result.DeidentificationMethod == METHOD
    assert [item.CodeValue for item in result.DeidentificationMethodCodeSequence] == [code for code, _ in METHOD_CODES]
    assert result.LongitudinalTemporalInformationModified == "MODIFIED"


def test_uids_are_replaced_but_those_of_the_standard():
    dataset = with_pixels(ct(FrameOfReferenceUID="1.2.3.4"))
    result = clean(dataset)
    for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        assert result[keyword].value == NAMES.uid(dataset[keyword].value)
    assert result.SOPClassUID == dataset.SOPClassUID
    assert "SOPClassUID" not in clean(with_pixels(radiograph(SOPClassUID="1.2.3.4")))


def test_geometry_and_values_are_kept_to_the_letter():
    dataset = with_pixels(
        ct(RescaleSlope="1.000000", RescaleIntercept="-1024.0", ImagePositionPatient=["-10.50", "+1e1", "3.0000"])
    )
    result = clean(dataset)
    for keyword in (*GEOMETRY, "RescaleSlope", "RescaleIntercept"):
        assert result[keyword] == dataset[keyword]
    assert [str(value) for value in result.ImagePositionPatient] == ["-10.50", "+1e1", "3.0000"]


@pytest.mark.parametrize(
    ("keyword", "given_value", "kept"),
    [
        ("BodyPartExamined", "CHEST", "CHEST"),
        ("BodyPartExamined", "chest", "CHEST"),
        ("BodyPartExamined", "MUSTERMANN", ""),
        ("ViewPosition", "PA", "PA"),
        ("ViewPosition", "DR MEIER", ""),
        ("PatientSex", "X", ""),
        ("ImageType", ["ORIGINAL", "PRIMARY", "MUSTERMANN"], ["ORIGINAL", "PRIMARY"]),
        ("ImageType", ["ORIGINAL", "SECRET", "AXIAL"], ["ORIGINAL", "", "AXIAL"]),
        ("Manufacturer", "Siemens Healthineers", "Siemens Healthineers"),
        ("Manufacturer", "Scanner of Erika", None),
        ("Manufacturer", "Scanner of PID-4711", None),
        ("Manufacturer", "Größe", None),
        ("ManufacturerModelName", "SOMATOM Force", "SOMATOM Force"),
        ("ManufacturerModelName", "line\nbreak", None),
        ("AccessionNumber", "A1", ""),
        ("StudyTime", "101112", ""),
        ("SeriesTime", "101112", None),
        ("AcquisitionDateTime", "20240101101112", None),
        ("KVP", "120", 120),
        ("SeriesNumber", "471100", 471100),
    ],
)
def test_values(keyword, given_value, kept):
    result = clean(with_pixels(radiograph(**{keyword: given_value})))
    if kept is None:
        assert keyword not in result
    else:
        assert result[keyword].value == kept


def test_a_number_that_is_the_patients_is_removed():
    result = clean(with_pixels(radiograph(PatientID="471100", SeriesNumber="471100", InstanceNumber="47")))
    assert "SeriesNumber" not in result
    assert result.InstanceNumber == 47


def test_pixels_never_change_their_meaning_by_a_removed_element():
    with pytest.raises(FileFault, match="DEIDENTIFICATION_FAILED"):
        clean(with_pixels(radiograph(PatientID="1024000", RescaleSlope="1", RescaleIntercept="1024000")))


@pytest.mark.parametrize(
    ("age", "birth", "expected"),
    [
        ("045Y", "", "045Y"),
        ("089Y", "", "089Y"),
        ("090Y", "", "090Y"),
        ("103Y", "", "090Y"),
        ("999Y", "", None),
        ("012M", "", "012M"),
        ("", "19500301", "073Y"),
        ("", "19200101", "090Y"),
        ("", "20230329", "011M"),
        ("SECR", "", None),
    ],
)
def test_ages_above_89_are_one_group(age, birth, expected):
    dataset = with_pixels(radiograph(PatientBirthDate=birth))
    dataset.add_new("PatientAge", "SH", age)
    assert clean(dataset).get("PatientAge") == expected


days = st.dates(date(1990, 1, 1), date(2030, 1, 1))


@given(st.lists(days, min_size=4, max_size=4), st.text("0123456789", min_size=1), st.integers(30, 36_500))
def test_dates_of_a_patient_move_together(values, patient, largest):
    keywords = ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate")
    dataset = radiograph(PatientID=patient, **dict(zip(keywords, (f"{day:%Y%m%d}" for day in values), strict=True)))
    result = clean(dataset, largest)
    moves = {day - date.fromisoformat(result[keyword].value) for keyword, day in zip(keywords, values, strict=True)}
    assert moves == {timedelta(days=NAMES.date_shift_days(patient, largest))}


@pytest.mark.parametrize("value", ["", "2024", "20241301", "0001", "00010105", "20240101\\20240102"])
def test_what_cannot_be_moved_is_emptied(value):
    assert shifted_date(value, timedelta(days=365)) == ""


def test_a_lookup_table_keeps_its_numbers_and_loses_its_words():
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [4, 0, 16])
    item.add_new("LUTExplanation", "LO", "for Mustermann")
    item.add_new("ModalityLUTType", "LO", "Mustermann")
    item.add_new("LUTData", "OW", np.arange(4, dtype="<u2").tobytes())
    item.PatientName = "Mustermann"
    result = clean(with_pixels(radiograph(ModalityLUTSequence=Sequence([item]))))
    (kept,) = result.ModalityLUTSequence
    assert {element.keyword for element in kept} == {"LUTDescriptor", "LUTData", "ModalityLUTType"}
    assert kept.ModalityLUTType == ""
    assert kept.LUTData == item.LUTData


def test_the_source_is_not_changed():
    dataset = with_pixels(ct(PatientAge="095Y", BodyPartExamined="secret"))
    before = dataset.to_json()
    clean(dataset)
    assert dataset.to_json() == before


def test_fixed_words_hold_what_the_rules_write():
    assert METHOD.casefold() in fixed_words()
    assert "chest" in fixed_words()
