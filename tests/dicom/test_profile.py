"""The tables of the standard: what they hold, and that their parts fit together."""

import hashlib
from collections import Counter
from pathlib import Path

import pytest
from pydicom.datadict import dictionary_has_tag, dictionary_VR, tag_for_keyword
from pydicom.uid import UID, CTImageStorage

from pipeline.dicom.deidentification import profile
from pipeline.dicom.deidentification.decisions import ACTIONS, Place, decision
from pipeline.dicom.deidentification.options import CODES, DEFAULT_OPTIONS, OPTIONS, WORDS, contradiction, method_codes

FOLDER = Path(profile.__file__).parent
COLUMNS = {
    "retain_safe_private": {"C": 1},
    "retain_uids": {"K": 60},
    "retain_device_identity": {"K": 48, "C": 11},
    "retain_institution_identity": {"K": 10},
    "retain_patient_characteristics": {"K": 14, "C": 5},
    "retain_longitudinal_full_dates": {"K": 169},
    "retain_longitudinal_modified_dates": {"C": 169},
    "clean_descriptors": {"C": 141},
    "clean_structured_content": {"C": 4},
    "clean_graphics": {"C": 4},
}
NEWER_THAN_PYDICOM = 26  # attributes of the table that pydicom's dictionary does not know; they are removed


@pytest.mark.parametrize(
    ("name", "rows", "sha256"),
    [
        ("confidentiality_profile.tsv", 657, "9105e4b9e44d5927"),
        ("structured_content.tsv", 214, "6eddc228041ff91b"),
        ("safe_private.tsv", 130, "53289857365ae093"),
        ("attribute_types.tsv", 831, "55a980b6c9dda431"),
        ("object_modules.tsv", 180, "e6db5b74308f6a4c"),
    ],
)
def test_tables_are_as_they_were_made(name, rows, sha256):
    """Nobody edits them by hand: docs/confidentiality_tables.py makes them."""
    data = (FOLDER / name).read_bytes()
    assert data.count(b"\n") == rows + 1
    assert hashlib.sha256(data).hexdigest()[:16] == sha256


def test_actions_of_the_table():
    found = Counter(row.basic for row in profile.attributes().values())
    wanted = {"X": 417, "D": 93, "U": 55, "Z": 42, "X/D": 23, "X/Z": 11, "X/Z/D": 8, "Z/D": 6, "X/Z/U*": 2}
    assert found == wanted
    for column, counts in COLUMNS.items():
        rows = profile.attributes().values()
        assert Counter(row.options[column] for row in rows if column in row.options) == counts
    assert set(COLUMNS) | {"clean_pixel_data"} == set(OPTIONS) == set(CODES) == set(WORDS)


def test_the_table_names_attributes_as_the_dictionary_does():
    single = [row for tag, row in profile.attributes().items() if tag.isalnum() and "x" not in tag and tag != "PRIVATE"]
    unknown = [row for row in single if not dictionary_has_tag(int(row.tag, 16))]
    assert len(single) == 653
    assert len(unknown) == NEWER_THAN_PYDICOM
    assert all(decision(int(row.tag, 16), Place(frozenset(OPTIONS), "")).action == "remove" for row in unknown)


@pytest.mark.parametrize("options", [(), DEFAULT_OPTIONS, tuple(word for word in OPTIONS if "full" not in word)])
def test_every_attribute_has_an_action_under_all_options(options):
    for tag in profile.attributes():
        if "x" in tag or tag == "PRIVATE":
            continue
        found = decision(int(tag, 16), Place(frozenset(options), CTImageStorage))
        assert found.action in ACTIONS


def test_what_the_table_removes_is_removed_without_options():
    for tag, row in profile.attributes().items():
        if row.basic == "X" and "x" not in tag and tag != "PRIVATE":
            assert decision(int(tag, 16), Place(frozenset(), CTImageStorage)).action == "remove", row.name
        if row.basic in {"D", "U", "Z"} and "x" not in tag and dictionary_has_tag(int(tag, 16)) and tag > "0008":
            assert decision(int(tag, 16), Place(frozenset(), CTImageStorage)).action in {
                "dummy", "dummy_sequence", "uid", "empty", "pseudonym", "references",
            }, row.name  # fmt: skip


@pytest.mark.parametrize(
    ("sop_class", "keyword", "parent", "action", "wanted"),
    [
        ("1.2.840.10008.5.1.4.1.1.2", "SeriesDate", "", "X/D", "X"),  # type 3 in General Series
        ("1.2.840.10008.5.1.4.1.1.2", "ContentDate", "", "Z/D", "Z"),  # type 2C in General Image
        ("1.2.840.10008.5.1.4.1.1.2", "AcquisitionDate", "", "X/Z", "X"),
        ("1.2.840.10008.5.1.4.1.1.128", "AcquisitionDate", "", "X/Z", "Z"),  # type 2 in PET Image
        ("1.2.840.10008.5.1.4.1.1.88.33", "ContentDate", "", "Z/D", "D"),  # type 1 in SR Document General
        ("1.2.840.10008.5.1.4.1.1.2.1", "AcquisitionDateTime", "", "X/Z/D", "D"),  # 1C in Enhanced CT Image
        ("1.2.3", "AcquisitionDateTime", "", "X/Z/D", "D"),  # unknown: what harms no object
        ("1.2.3", "SeriesDate", "", "X/Z", "Z"),
        ("1.2.840.10008.5.1.4.1.1.2", "ReferencedImageSequence", "", "X/Z/U*", "U"),
        ("1.2.840.10008.5.1.4.1.1.2", "KVP", "", "K", "K"),
    ],
)
def test_conditional_actions_follow_the_type(sop_class, keyword, parent, action, wanted):
    assert profile.resolved(action, sop_class, parent, tag_for_keyword(keyword)) == wanted


def test_storage_classes_are_those_of_the_standard():
    uids = [row["sop_class"] for row in profile.read_rows("object_modules.tsv")]
    assert len(set(uids)) == len(uids)
    assert all(UID(uid).is_valid for uid in uids)
    assert sum(UID(uid).name.endswith("Storage") or "Storage" in UID(uid).name for uid in uids) > 150


def test_types_are_of_conditional_attributes():
    for row in profile.read_rows("attribute_types.tsv"):
        tag = tag_for_keyword(row["keyword"])
        assert "/" in profile.attributes()[f"{tag:08X}"].basic
        assert row["type"] in {"1", "1C", "2", "2C", "3"}
        assert not row["parent"] or dictionary_VR(tag_for_keyword(row["parent"])) == "SQ"


def test_safe_private_attributes():
    safe = profile.safe_private()
    assert safe[0x7053, 0x00, "Philips PET Private Group"] == "DS"
    assert safe[0x0019, 0x0C, "SIEMENS MR HEADER"] == "IS"
    assert all(group % 2 for group, _, _ in safe)


def test_options_that_contradict_each_other():
    assert "cannot both" in contradiction(["retain_longitudinal_full_dates", "retain_longitudinal_modified_dates"])
    assert "twice" in contradiction(["retain_uids", "retain_uids"])
    assert "unknown" in contradiction(["retain_everything"])
    assert "needs rules" in contradiction(["clean_pixel_data"], has_pixel_rules=False)
    assert contradiction(DEFAULT_OPTIONS, has_pixel_rules=False) == ""


def test_codes_of_the_options():
    assert [code.value for code in method_codes(OPTIONS)] == [
        "113100", "113103", "113104", "113105", "113106", "113107", "113108", "113109", "113110", "113111", "113112",
    ]  # fmt: skip
    assert CODES["clean_pixel_data"].value == "113101"
