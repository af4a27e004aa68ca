"""Groups of digits in free texts: dates and numbers of people are split into pieces too short to be noticed."""

import pytest
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from pipeline.dicom.deidentification.words import cleaned, cleaned_term
from tests.dicom.samples import ct
from tests.dicom.test_confidentiality import clean


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("CT chest follow up 12/03/24 prior 08-05-26", "CT chest follow up prior"),
        ("chest 030 555 123", "chest"),
        ("chest (030) 555 - 123", "chest"),
        ("chest 078-05-1120", "chest"),
        ("chest 8/5", "chest"),
        ("chest 12 / 03 / 24", "chest"),
        ("chest 12. 3. 24 left", "chest left"),
        ("chest 2.50 mm", "chest 2.50 mm"),
        ("axial 3 5 mm", "axial 3 5 mm"),
        ("axial 030 555 123 mm", "axial mm"),
        ("chest 5 mm 3 mm", "chest 5 mm 3 mm"),
        ("L4/5 T2", "L4/5 T2"),
        ("chest 12-MAR-24 left", "chest left"),
        ("chest 12-Mai-24 left", "chest left"),
        ("chest 12/III/64", "chest"),
        ("chest MAR24", "chest"),
        ("chest 12/oct", "chest"),
        ("chest 12th March 24", "chest"),
        ("chest 1st of May 64", "chest"),
        ("2nd of chest", "2nd of chest"),
        ("t2_tse_3mm tra", "t2_tse_3mm tra"),
    ],
)
def test_groups_of_digits_go(text, kept):
    assert cleaned(text, lambda word: False) == kept


def test_days_of_months_go():
    assert not any(sign.isdigit() for sign in cleaned("chest 12 mar 24", lambda word: False))


@pytest.mark.parametrize(
    ("term", "kept"),
    [
        ("A 12/03/24", ""),
        ("A 12_03_24", ""),
        ("12 03", ""),
        ("AXIAL 3", "AXIAL 3"),
        ("M_SE", "M_SE"),
        ("12-MAR-24", ""),
        ("12-MAI-24", ""),
        ("OKT64", ""),
        ("1ST OF MAY 64", ""),
        ("12 MAR", ""),
        ("T2_TSE_3MM", "T2_TSE_3MM"),
    ],
)
def test_terms_hold_no_groups_of_digits(term, kept):
    assert cleaned_term(term, lambda word: False) == kept


def test_values_of_several_parts_are_looked_at_together():
    result = clean(ct(PatientState="030\\555\\123", ScanOptions="12\\03\\24", AcquisitionNumber="19260508"))
    assert result.PatientState == "REMOVED"
    assert not result.ScanOptions
    assert "AcquisitionNumber" not in result
    for moment in ("20240301120000", "202403011200", "20240301120000.5", "2.0240301e7"):
        assert "KVP" not in clean(ct(KVP=moment))
    assert "KVP" in clean(ct(KVP="20240301250000"))
    kept = clean(ct(AcquisitionNumber="19261350", ScanOptions="HELICAL"))
    assert (kept.AcquisitionNumber, kept.ScanOptions) == (19261350, "HELICAL")


def test_the_patients_number_with_a_point_is_the_patients_number():
    assert "KVP" not in clean(ct(PatientID="1234567", KVP="1234567.0"))


@pytest.mark.parametrize("age", ["91Y", "095Y", "103 y", "95-yo", "90 years", "90-year-old", "127 YEARS"])
def test_great_ages_go_from_texts(age):
    assert not any(sign.isdigit() for sign in cleaned(f"chest {age} axial", lambda word: False))
    assert not any(sign.isdigit() for sign in cleaned_term(f"AXIAL {age.upper()}", lambda word: False))


@pytest.mark.parametrize("text", ["chest 89 y", "90Y axial", "191 y", "5.91 y", "95 mm", "089Y"])
def test_other_numbers_are_no_great_ages(text):
    assert cleaned(text, lambda word: False) == text


@pytest.mark.parametrize(
    ("charset", "value", "kept"),
    [
        ("ISO_IR 192", "Bràman axial".encode(), b"axial"),  # the second byte of the letter is a blank in Latin-1
        ("GBK", b"\x85man axial", b"axial"),
        ("\\ISO 2022 IR 87", b"axial \x1b$B;3\\12A\\ED\x1b(B", b"axial"),  # two of these bytes are a backslash
    ],
)
def test_a_piece_of_a_word_in_other_letters_is_no_word(charset, value, kept):
    source = ct(SpecificCharacterSet=charset)
    source[0x00081030] = RawDataElement(Tag(0x00081030), "LO", len(value), value, 0, False, True)
    assert clean(source, options=("clean_descriptors",)).get_item(0x00081030).value == kept
