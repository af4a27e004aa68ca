"""De-identification without a study: places, options, files that cannot leave, and equal results for equal keys."""

import os
import stat
from pathlib import Path

import pydicom
import pytest

from pipeline import deidentify_folder
from pipeline.cli import main
from pipeline.core.artefacts import read_table
from pipeline.core.records import Finding, OriginalName, PseudonymLink
from pipeline.dicom.deidentification import found_headers
from pipeline.dicom.deidentification.description import description
from pipeline.dicom.deidentification.options import DEFAULT_OPTIONS, OPTIONS
from pipeline.dicom.reading.paths import from_text
from tests.dicom.samples import ct, radiograph, with_pixels, write

ROOT = Path(__file__).resolve().parents[1]


def deidentify(source, output, *more):
    return main(["deidentify", "--input", str(source), "--output", str(output), *map(str, more)])


def written(output):
    return {path.relative_to(output): path.read_bytes() for path in (output / "dicom").rglob("*.dcm")}


def reasons(output):
    return sorted(one.code for one in read_table(output / "quarantine.tsv", Finding))


def test_the_documentation_says_what_is_printed(capfd):
    assert main(["deidentify", "--describe"]) == 0
    shown = capfd.readouterr().out
    page = (ROOT / "docs" / "deidentification.md").read_text(encoding="utf-8")
    assert page.endswith(shown.strip() + "\n")
    for word in DEFAULT_OPTIONS:
        assert f"`{word}`" in shown


@pytest.mark.parametrize("word", OPTIONS)
def test_every_option_changes_what_is_said(word):
    without = [one for one in DEFAULT_OPTIONS if one != word and "dates" not in one]
    assert description([*without, word]) != description(without)


def test_options_that_contradict_each_other_are_errors(tmp_path, capfd):
    words = ("retain_longitudinal_full_dates", "retain_longitudinal_modified_dates")
    assert deidentify(tmp_path, tmp_path / "out", "--options", *words) == 2
    assert "cannot both" in capfd.readouterr().err
    assert deidentify(tmp_path, tmp_path / "out", "--options", "keep_all") == 2


@pytest.mark.parametrize("place", ["in/out", "in", "restricted"])
def test_places_that_would_mix(tmp_path, place):
    write(tmp_path / "in" / "a.dcm", with_pixels(radiograph()))
    more = ("--restricted", tmp_path / "out" / "restricted") if place == "restricted" else ()
    output = tmp_path / ("out" if place == "restricted" else place)
    assert deidentify(tmp_path / "in", output, *more) == 2
    assert [path.name for path in (tmp_path / "in").rglob("*")] == ["a.dcm"]


def test_places_that_may_not_be_looked_up_are_told_and_no_bug(tmp_path, capfd):
    """A name that is too long is refused to everybody, as what is behind a folder that may not be entered."""
    write(tmp_path / "in" / "a.dcm", with_pixels(radiograph()))
    closed = tmp_path / ("x" * 300)
    for source, output, told in (
        (closed, tmp_path / "out", "missing or cannot be read"),
        (tmp_path / "in", closed, "looked into"),
    ):
        assert deidentify(source, output, "--restricted", tmp_path / "restricted") == 2
        assert told in capfd.readouterr().err


def test_names_that_the_folder_does_not_know_are_counted(tmp_path, capfd):
    write(tmp_path / "in" / "a.dcm", with_pixels(radiograph()))
    assert deidentify(tmp_path / "in", tmp_path / "out") == 0
    capfd.readouterr()
    assert main(["relink", "--restricted", str(tmp_path / "restricted" / "out"), "--pseudonyms", "P-1", "P-2"]) == 1
    assert "2 of 2 names" in capfd.readouterr().err


def test_files_that_cannot_leave_are_counted(tmp_path):
    source = tmp_path / "in"
    write(source / "a.dcm", with_pixels(radiograph()))
    write(source / "same.dcm", with_pixels(radiograph()))
    write(source / "b.dcm", with_pixels(radiograph(SOPInstanceUID="1.2.3.20", SeriesNumber="1")))
    write(source / "c.dcm", with_pixels(radiograph(SOPInstanceUID="1.2.3.20", SeriesNumber="2")))
    write(source / "flagged.dcm", with_pixels(radiograph(SOPInstanceUID="1.2.3.21", BurnedInAnnotation="YES")))
    write(source / "short.dcm", with_pixels(radiograph(SOPInstanceUID="1.2.3.22", Rows=5)))
    write(source / "nameless.dcm", with_pixels(radiograph(SOPInstanceUID="1.2.3.23", StudyInstanceUID="")))
    (source / "text.txt").write_text("Mustermann")
    (source / "empty").touch()
    (source / "link.dcm").symlink_to(source / "a.dcm")
    output = tmp_path / "out"
    assert deidentify(source, output) == 0
    assert len(written(output)) == 1
    assert reasons(output) == sorted(
        ["DUPLICATE_FILE", "CONFLICTING_INSTANCES", "CONFLICTING_INSTANCES", "BURNED_IN_ANNOTATION", "BAD_DIMENSIONS",
         "MISSING_IDENTITY", "NOT_DICOM", "EMPTY_FILE", "NOT_A_REGULAR_FILE"]
    )  # fmt: skip


def test_what_was_kept_out_can_be_found_again(tmp_path, capfd):
    """With the restricted folder; nothing of it stands in what may leave."""
    write(tmp_path / "in" / "a.dcm", with_pixels(radiograph()))
    odd = Path(os.fsdecode(b"M\xfcller")) / "flagged.dcm"
    write(tmp_path / "in" / odd, with_pixels(radiograph(SOPInstanceUID="1.2.3.21", BurnedInAnnotation="YES")))
    assert deidentify(tmp_path / "in", tmp_path / "out") == 0
    (finding,) = read_table(tmp_path / "out" / "quarantine.tsv", Finding)
    table = tmp_path / "restricted" / "out" / "back.tsv"
    words = ["relink", "--restricted", str(tmp_path / "restricted" / "out"), "--pseudonyms", finding.unit_id]
    assert main([*words, "--output", str(table)]) == 0
    (found,) = read_table(table, OriginalName)
    assert (found.kind, from_text(found.original)) == ("file", os.fspath(odd))
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file() and b"flagged" in path.read_bytes()]


@pytest.mark.parametrize(
    ("first", "second", "is_noted"),
    [
        ({"PatientBirthDate": "19260508"}, {"PatientBirthDate": "19800101"}, True),
        ({"IssuerOfPatientID": "Clinic Nord"}, {"IssuerOfPatientID": "Clinic S\xfcd"}, True),
        ({"IssuerOfPatientID": "Clinic Nord"}, {"IssuerOfPatientID": "CLINIC-NORD"}, False),
        ({"PatientSex": "F"}, {"PatientSex": "M"}, True),
        ({"PatientSex": "F"}, {"PatientSex": "O"}, False),
        ({"PatientBirthDate": "19260508"}, {"PatientBirthDate": ""}, False),
    ],
)
def test_several_people_under_one_id_are_noted(tmp_path, capfd, first, second, is_noted):
    """Each in a study of their own."""
    for number, values in enumerate((first, second)):
        uids = {"StudyInstanceUID": f"1.2.3.4.{number}", "SOPInstanceUID": f"1.2.3.5.{number}"}
        whole = radiograph(**{"SpecificCharacterSet": "ISO_IR 100", "PatientBirthDate": "", **uids, **values})
        write(tmp_path / "in" / f"{number}.dcm", with_pixels(whole))
    assert deidentify(tmp_path / "in", tmp_path / "out") == 0
    found = read_table(tmp_path / "out" / "quarantine.tsv", Finding)
    (link,) = read_table(tmp_path / "restricted" / "out" / "pseudonyms.tsv", PseudonymLink)
    notes = [("patient", link.patient, "SHARED_PATIENT_ID", "noted")]
    assert [(one.unit, one.unit_id, one.code, one.severity) for one in found] == (notes if is_noted else [])
    assert ("remarks: SHARED_PATIENT_ID 1" in capfd.readouterr().err) == is_noted


class Interruption(BaseException):
    """What nobody expects."""


def interrupted(*_):
    raise Interruption


def test_nothing_leaves_before_the_verdict(tmp_path, monkeypatch):
    """An interrupted run leaves no folder of files, and the next one starts clean."""
    source, output = tmp_path / "in", tmp_path / "out"
    write(source / "a.dcm", with_pixels(radiograph()))
    write(source / "b.dcm", with_pixels(radiograph(SOPInstanceUID="1.2.3.20")))
    with monkeypatch.context() as patch:
        patch.setattr(deidentify_folder, "_write_tables", interrupted)
        with pytest.raises(Interruption):
            deidentify(source, output)
        assert [one.name for one in output.iterdir()] == [".unfinished"]
    with monkeypatch.context() as patch:
        patch.setattr(deidentify_folder, "_finish", interrupted)
        with pytest.raises(Interruption):
            deidentify(source, output)
        assert not (output / "dicom").exists()
    (source / "b.dcm").unlink()
    assert deidentify(source, output) == 0
    assert len(written(output)) == len(list(output.rglob("*.dcm"))) == 1
    assert {one.name for one in output.iterdir()} == {"dicom", "receipt.tsv", "quarantine.tsv", "blanked.tsv"}
    assert deidentify(source, output) == 2  # what is finished is not overwritten


def test_leftovers_are_removed_from_no_other_folder(tmp_path):
    write(tmp_path / "out" / ".unfinished" / "a.dcm", with_pixels(radiograph()))
    assert deidentify(tmp_path / "out" / ".unfinished", tmp_path / "out") == 2
    (tmp_path / "out" / "mine.txt").touch()
    write(tmp_path / "in" / "a.dcm", with_pixels(radiograph()))
    assert deidentify(tmp_path / "in", tmp_path / "out") == 2
    assert (tmp_path / "out" / ".unfinished" / "a.dcm").is_file()


def test_what_cannot_be_taken_back_is_an_error(tmp_path, monkeypatch, capfd):
    source, output = tmp_path / "in", tmp_path / "out"
    write(source / "b.dcm", with_pixels(radiograph(SOPInstanceUID="1.2.3.20", SeriesNumber="1")))
    write(source / "c.dcm", with_pixels(radiograph(SOPInstanceUID="1.2.3.20", SeriesNumber="2")))
    unlink = Path.unlink

    def refused(path, *more, **options):
        if path.suffix == ".dcm":
            raise PermissionError(1, "Operation not permitted")
        unlink(path, *more, **options)

    monkeypatch.setattr(Path, "unlink", refused)
    assert deidentify(source, output) != 0
    assert "cannot remove a file" in capfd.readouterr().err
    assert not (output / "dicom").exists()


def test_the_key_is_made_once_and_closed(tmp_path):
    source = tmp_path / "in"
    write(source / "a.dcm", with_pixels(ct()))
    assert deidentify(source, tmp_path / "one") == 0
    key = tmp_path / "restricted" / "one" / "key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(key.parent.stat().st_mode) == 0o700
    assert deidentify(source, tmp_path / "two", "--key", key) == 0
    assert deidentify(source, tmp_path / "three") == 0
    assert written(tmp_path / "one") == written(tmp_path / "two") != written(tmp_path / "three")
    assert key.read_text().strip().encode() not in b"".join(
        path.read_bytes() for path in (tmp_path / "one").rglob("*") if path.is_file()
    )


def test_nobody_is_not_everybody(tmp_path):
    """Files without a patient ID are of as many patients as there are studies, not of one."""
    source = tmp_path / "in"
    for number in (1, 2):
        uids = {"StudyInstanceUID": f"1.2.3.{number}", "SOPInstanceUID": f"1.2.4.{number}"}
        write(source / f"{number}.dcm", with_pixels(radiograph(PatientID="", **uids)))
    output = tmp_path / "out"
    assert deidentify(source, output) == 0
    patients = {pydicom.dcmread(output / name).PatientID for name in written(output)}
    assert len(patients) == 2
    links = read_table(tmp_path / "restricted" / "out" / "pseudonyms.tsv", PseudonymLink)
    assert {one.patient for one in links} == patients


@pytest.mark.parametrize(
    ("options", "study_date", "kept"),
    [
        (("retain_longitudinal_full_dates",), "20240229", {"StudyTime": "101112"}),
        (("retain_patient_characteristics",), "", {"StudyTime": "", "PatientSex": "F"}),
        (("retain_uids",), "", {"SOPInstanceUID": "1.2.3.1", "PatientSex": ""}),
        (("retain_institution_identity",), "", {"InstitutionName": "Hospital Nord", "StationName": None}),
        (
            ("retain_device_identity",),
            "",
            {"StationName": "CT1", "DeviceSerialNumber": "4711A", "InstitutionName": None},
        ),
        (("clean_descriptors",), "", {"StudyDescription": "chest of", "SeriesDescription": "axial"}),
    ],
)
def test_options_keep_what_they_say(tmp_path, options, study_date, kept):
    values = {
        "StudyTime": "101112", "PatientSex": "F", "InstitutionName": "Hospital Nord", "StationName": "CT1",
        "DeviceSerialNumber": "4711A", "StudyDescription": "chest of Mustermann", "SeriesDescription": "axial Kowalski",
    }  # fmt: skip
    write(tmp_path / "in" / "a.dcm", with_pixels(radiograph(**values)))
    output = tmp_path / "out"
    assert deidentify(tmp_path / "in", output, "--options", *options) == 0
    (name,) = written(output)
    found = pydicom.dcmread(output / name)
    assert found.StudyDate == study_date
    for keyword, value in kept.items():
        assert found.get(keyword) == value, keyword
    assert found.PatientName == found.PatientID != "PID-4711"


@pytest.mark.parametrize("charset", ["ISO_IR 192", "ISO_IR 13", "GB18030"])
@pytest.mark.parametrize("is_fast", [True, False])
def test_patients_whose_numbers_cannot_be_read_do_not_become_one(tmp_path, monkeypatch, charset, is_fast):
    """Both numbers are read as the same one: a character that is none, and the rest."""
    if not is_fast:
        monkeypatch.setattr(found_headers, "ordinary_pieces", lambda *_a, **_k: None)
    for number, first in enumerate((b"\xff", b"\xfe")):
        uids = {word: f"1.2.3.{number}.{word}" for word in ("1", "2", "3")}
        dataset = radiograph(
            SpecificCharacterSet=charset,
            StudyInstanceUID=uids["1"],
            SeriesInstanceUID=uids["2"],
            SOPInstanceUID=uids["3"],
            PatientID="Q04711",
        )
        path = write(tmp_path / "in" / f"{number}.dcm", with_pixels(dataset))
        path.write_bytes(path.read_bytes().replace(b"Q04711", first + b"04711"))
    write(tmp_path / "in" / "good.dcm", with_pixels(radiograph()))
    assert deidentify(tmp_path / "in", tmp_path / "out") == 0
    assert reasons(tmp_path / "out") == ["MISSING_IDENTITY", "MISSING_IDENTITY"]
    assert len(written(tmp_path / "out")) == 1


def test_a_number_is_the_same_in_every_character_set(tmp_path):
    for number, (charset, name) in enumerate(
        [("ISO_IR 192", "\u5c71\u7530 4711"), (["", "ISO 2022 IR 87"], "\u5c71\u7530 4711")]
    ):
        dataset = radiograph(SOPInstanceUID=f"1.2.3.1.{number}", PatientID=name, PatientName="X^Y")
        dataset.SpecificCharacterSet = charset
        write(tmp_path / "in" / f"{number}.dcm", with_pixels(dataset))
    assert deidentify(tmp_path / "in", tmp_path / "out") == 0
    found = {pydicom.dcmread(path).PatientID for path in (tmp_path / "out").rglob("*.dcm")}
    assert len(found) == 1
    (link,) = read_table(tmp_path / "restricted" / "out" / "pseudonyms.tsv", PseudonymLink)
    assert link.patient_id == "\u5c71\u7530 4711"
