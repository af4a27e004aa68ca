from datetime import date, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.datadict import DicomDictionary, dictionary_has_tag, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.sr.codedict import codes

from pipeline.dicom.deidentification.confidentiality import METHOD, deidentified
from pipeline.dicom.deidentification.dates import shifted_date
from pipeline.dicom.deidentification.decisions import ACTIONS, Place, decision
from pipeline.dicom.deidentification.leaks import identity_tokens
from pipeline.dicom.deidentification.options import DEFAULT_OPTIONS, OPTIONS, method_codes
from pipeline.dicom.deidentification.profile import defined_terms
from pipeline.dicom.deidentification.pseudonyms import Pseudonyms
from pipeline.dicom.deidentification.values import Identity
from pipeline.dicom.reading.files import FileFault
from tests.dicom.samples import GEOMETRY, ct, radiograph, with_pixels

NAMES = Pseudonyms(bytes(range(32)))
# Representations whose values cannot hold a name; the actions that keep a value as it is may have no other.
NUMERIC = {"DS", "IS", "US", "SS", "UL", "SL", "UV", "SV", "FD", "FL", "AT", "OB", "OD", "OF", "OL", "OV", "OW"}
CONTENT = Place(frozenset(DEFAULT_OPTIONS), "1.2.840.10008.5.1.4.1.1.2")


def clean(dataset, largest=3650, options=DEFAULT_OPTIONS):
    tokens = identity_tokens(dataset, options)
    return deidentified(dataset, Identity(NAMES, dataset.PatientID, largest, tokens), options)


@pytest.mark.parametrize("tag", [tag for tag, entry in DicomDictionary.items() if entry[4]])
def test_values_are_kept_as_they_are_only_where_no_name_fits(tag):
    found = decision(tag, CONTENT)
    assert found.action in ACTIONS
    allowed = set(found.representation.split(" or "))
    if found.action in {"number", "vital", "binary"}:
        assert allowed <= NUMERIC
    if found.action == "terms":
        assert allowed == {"CS"}
        assert all(len(term) <= 16 and term == term.upper() and term.isascii() for term in found.terms)
    if found.action in {"uid", "known_uid", "class"}:
        assert allowed == {"UI"}
    if found.action in {"date", "full_date"}:
        assert allowed <= {"DA", "DT", "TM"}
    if allowed & {"PN", "AE", "UR"}:
        assert found.action in {"remove", "empty", "dummy", "pseudonym"}
    if allowed & {"LO", "SH", "LT", "ST", "UC", "UT"}:
        assert found.action not in {"retained", "number", "binary"}
        if found.action == "device":
            assert found.keyword in {"Manufacturer", "ManufacturerModelName"}


def test_defined_terms_are_of_the_standard():
    assert all(tag_for_keyword(keyword) for keyword in defined_terms())


def test_method_codes_are_those_of_the_standard():
    known = {codes.DCM.__getattr__(name).value: codes.DCM.__getattr__(name).meaning for name in codes.DCM.dir()}
    for value, meaning in method_codes(set(OPTIONS)):
        assert known[value] == meaning


def test_what_no_standard_names_goes():
    dataset = with_pixels(ct(StudyDescription="x", InstitutionName="y", ImageComments="z", StationName="s"))
    dataset.private_block(0x0011, "MAKER", create=True).add_new(1, "LO", "private")
    dataset.add_new(0x60000022, "LO", "overlay")
    dataset.add_new(0x50000020, "CS", "CURVE")
    dataset.add_new(0x00189999, "LO", "unknown")
    dataset.add_new(0xFFFCFFFC, "OB", b"padding")
    dataset.add_new(0x00080001, "UL", 1)
    result = clean(dataset)
    gone = {"StudyDescription", "InstitutionName", "ImageComments", "StationName"}
    assert not gone & {element.keyword for element in result}
    assert all(dictionary_has_tag(element.tag) and not element.tag.is_private for element in result)
    assert not {0x60000022, 0x50000020, 0x00189999, 0xFFFCFFFC, 0x00080001} & set(result.keys())
    assert "PixelData" not in result


def test_the_patient_is_a_pseudonym_and_the_file_says_so():
    result = clean(with_pixels(radiograph(PatientBirthDate="19500101", PatientSex="F")))
    pseudonym = NAMES.patient("PID-4711")
    assert result.PatientID == result.PatientName == pseudonym
    assert result.PatientBirthDate == ""
    assert result.PatientSex == "F"
    assert result.PatientIdentityRemoved == "YES"
    assert result.DeidentificationMethod == METHOD
    assert [item.CodeValue for item in result.DeidentificationMethodCodeSequence] == ["113100", "113107", "113108"]
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
        ("EthnicGroup", "Mustermann", "REMOVED"),
        ("ImageType", ["ORIGINAL", "PRIMARY", "MUSTERMANN"], ["ORIGINAL", "PRIMARY"]),
        ("ImageType", ["ORIGINAL", "SECRET", "AXIAL"], ["ORIGINAL", "", "AXIAL"]),
        ("Manufacturer", "Siemens Healthineers", "Siemens Healthineers"),
        ("Manufacturer", "Scanner of Erika", None),
        ("Manufacturer", "Scanner of PID-4711", None),
        ("Manufacturer", "Größe", None),
        ("ManufacturerModelName", "SOMATOM Force", "SOMATOM Force"),
        ("ManufacturerModelName", "line\nbreak", None),
        ("AccessionNumber", "A1", ""),
        ("StudyTime", "101112", "101112"),
        ("SeriesTime", "101112", "101112"),
        ("SeriesTime", "Mustermann", ""),
        ("BodyPartExamined", "KNEE RT", "KNEE RT"),
        ("ConvolutionKernel", "Br40d", "Br40d"),
        ("ConvolutionKernel", "Mustermann", "REMOVED"),
        ("ProtocolName", "Chest", None),
        ("SequenceName", "*epfid2d1_64", "*epfid2d1_64"),
        ("SequenceName", "Mustermann", "REMOVED"),
        ("RequestingService", "WARD 7", None),
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
    assert {element.keyword for element in kept} == {
        "LUTDescriptor", "LUTData", "ModalityLUTType", "LUTExplanation", "PatientName",
    }  # fmt: skip
    assert kept.ModalityLUTType == "REMOVED"
    assert kept.LUTExplanation == "for"
    assert kept.PatientName == ""
    assert kept.LUTData == item.LUTData


def test_the_source_is_not_changed():
    dataset = with_pixels(ct(PatientAge="095Y", BodyPartExamined="secret"))
    before = dataset.to_json()
    clean(dataset)
    assert dataset.to_json() == before


def content_item(kind, code, scheme="DCM", **values):
    item, name = Dataset(), Dataset()
    name.CodeValue, name.CodingSchemeDesignator, name.CodeMeaning = code, scheme, "Subject Age"
    item.RelationshipType, item.ValueType, item.ConceptNameCodeSequence = "CONTAINS", kind, [name]
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item


def measured(number, unit):
    value, code = Dataset(), Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = unit, "UCUM", "unit"
    value.NumericValue, value.FloatingPointValue, value.MeasurementUnitsCodeSequence = number, float(number), [code]
    return value


def report(*items):
    dataset = ct(PatientBirthDate="19260508", StudyDate="20240301")
    dataset.SOPClassUID, dataset.ContentSequence = "1.2.840.10008.5.1.4.1.1.88.22", list(items)
    return dataset


@pytest.mark.parametrize("dates", ["retain_longitudinal_full_dates", "retain_longitudinal_modified_dates"])
def test_content_without_its_option_says_no_date_and_no_number(dates):
    age = content_item("NUM", "121033", MeasuredValueSequence=[measured("97", "a")])
    born = content_item("DATE", "1", "99LOCAL", Date="19260508")
    inner = content_item("CONTAINER", "1", "99LOCAL", ContentSequence=[born], ContinuityOfContent="SEPARATE")
    kept_age, container = clean(report(age, inner), options=(dates,)).ContentSequence
    assert len(kept_age.MeasuredValueSequence) == 0
    assert container.ContentSequence[0].Date == "19000101"
    assert (kept_age.ValueType, kept_age.RelationshipType) == ("NUM", "CONTAINS")
    assert container.ContinuityOfContent == "SEPARATE"


@pytest.mark.parametrize(
    ("number", "unit", "concept", "kept"),
    [
        ("97", "a", ("121033", "DCM"), ["90"]), ("89", "a", ("121033", "DCM"), ["89"]),
        ("97", "a", ("7", "99LOCAL"), ["90"]), ("1164", "mo", ("121033", "DCM"), ["1080"]),
        ("1000", "mo", ("121033", "DCM"), ["1000"]), ("97", "1", ("30525-0", "LN"), []),
        ("97", "mm", ("7", "LN"), ["97"]),
    ],
)  # fmt: skip
def test_ages_in_content_are_limited(number, unit, concept, kept):
    options = ("retain_patient_characteristics", "clean_structured_content", "retain_longitudinal_full_dates")
    source = report(
        content_item("NUM", *concept, MeasuredValueSequence=[measured(number, unit)]),
        content_item("DATE", "121031", Date="19260508"),
        content_item("TEXT", "121031", TextValue="born 8 5 26"),
        content_item("DATE", "21112-8", "LN", Date="19260508"),
    )
    (item,) = clean(source, options=options).ContentSequence
    assert [str(one.NumericValue) for one in item.MeasuredValueSequence] == kept
    assert all("FloatingPointValue" not in one or unit == "mm" for one in item.MeasuredValueSequence)
    assert source.ContentSequence[0].MeasuredValueSequence[0].NumericValue == int(number)
