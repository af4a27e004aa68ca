import os
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from pipeline.core.errors import DicomError
from pipeline.dicom.indexing import consistency
from pipeline.dicom.indexing import scan as module
from pipeline.dicom.indexing.archives import source_root, unpack
from pipeline.dicom.indexing.scan import scan, walk
from pipeline.dicom.reading.files import FileFault
from pipeline.dicom.reading.paths import from_text
from tests.dicom.samples import LIMIT, PIXELS, radiograph, with_pixels, write


def take(root, **options):
    return scan(root, modalities=("CR",), largest_bytes=LIMIT, **options)


def codes(found):
    return {rejection.path: rejection.code for rejection in found.rejections}


def add(root, name, **elements):
    number = elements.pop("number", name)
    return write(root / name, with_pixels(radiograph(SOPInstanceUID=f"1.2.{hash_of(number)}", **elements)))


def hash_of(name):
    return int.from_bytes(str(name).encode()[-6:], "big")


def test_every_entry_ends_on_exactly_one_side(tmp_path):
    root = tmp_path / "source"
    add(root, "b/2.dcm")
    add(root, "a/1.dcm")
    add(root, "a.dcm", Modality="US")
    (root / "notes.txt").write_text("notes")
    (root / "empty").touch()
    (root / "a" / "again").symlink_to(root / "b")
    (root / "loop").symlink_to(root)
    os.mkfifo(root / "b" / "pipe")
    (root / "no files").mkdir()
    found = take(root)
    assert [one.path for one in found.instances] == ["a/1.dcm", "b/2.dcm"]
    assert codes(found) == {
        "a.dcm": "UNWANTED_MODALITY",
        "a/again": "NOT_A_REGULAR_FILE",
        "b/pipe": "NOT_A_REGULAR_FILE",
        "empty": "EMPTY_FILE",
        "loop": "NOT_A_REGULAR_FILE",
        "notes.txt": "NOT_DICOM",
    }
    assert found.entries == 8
    assert [one.path for one in found.rejections] == sorted(codes(found))


def test_the_same_file_again_is_dropped(tmp_path):
    first = add(tmp_path, "x/first.dcm")
    (tmp_path / "another.dcm").write_bytes(first.read_bytes())
    found = take(tmp_path)
    assert [one.path for one in found.instances] == ["another.dcm"]  # the first by path
    assert codes(found) == {"x/first.dcm": "DUPLICATE_FILE"}


def test_one_uid_with_different_bytes_is_refused_as_a_whole(tmp_path):
    add(tmp_path, "a.dcm", number=1)
    (tmp_path / "b.dcm").write_bytes((tmp_path / "a.dcm").read_bytes())
    add(tmp_path, "c.dcm", number=1, StudyDate="20200101")
    add(tmp_path, "d.dcm", number=2)
    found = take(tmp_path)
    assert [one.path for one in found.instances] == ["d.dcm"]
    assert codes(found) == dict.fromkeys(["a.dcm", "b.dcm", "c.dcm"], "CONFLICTING_INSTANCES")


def test_one_uid_with_bytes_that_differ_far_behind_the_header_is_refused_as_a_whole(tmp_path):
    large = np.zeros((300, 300), np.uint16)
    first = write(tmp_path / "a.dcm", with_pixels(radiograph(), large))
    content = bytearray(first.read_bytes())
    content[-1] = 1
    (tmp_path / "b.dcm").write_bytes(content)
    assert codes(take(tmp_path)) == dict.fromkeys(["a.dcm", "b.dcm"], "CONFLICTING_INSTANCES")


def test_files_that_vanish_before_they_can_be_compared_are_not_taken_for_the_same(tmp_path, monkeypatch):
    add(tmp_path, "a.dcm", number=1)
    (tmp_path / "b.dcm").write_bytes((tmp_path / "a.dcm").read_bytes())

    def gone(path):
        raise FileFault("UNREADABLE_FILE")

    monkeypatch.setattr(consistency, "whole_sha256", gone)
    assert codes(take(tmp_path)) == dict.fromkeys(["a.dcm", "b.dcm"], "CONFLICTING_INSTANCES")


@pytest.mark.parametrize(
    "other",
    [{"PatientID": "another"}, {"StudyInstanceUID": "1.9"}, {"PatientID": "another", "SeriesInstanceUID": "1.9"}],
)
def test_contradictory_identities_are_refused(tmp_path, other):
    add(tmp_path, "a.dcm")
    add(tmp_path, "b.dcm", **other)
    add(tmp_path, "c.dcm", StudyInstanceUID="1.7", SeriesInstanceUID="1.8")
    found = take(tmp_path)
    assert [one.path for one in found.instances] == ["c.dcm"]
    assert codes(found) == dict.fromkeys(["a.dcm", "b.dcm"], "INCONSISTENT_IDENTITY")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"IssuerOfPatientID": "North"}, {"IssuerOfPatientID": "South"}),
        ({"PatientBirthDate": "19600301"}, {"PatientBirthDate": "19610301"}),
        ({"PatientSex": "F"}, {"PatientSex": "M"}),
    ],
)
def test_an_id_of_two_people_is_refused_with_all_that_stands_under_it(tmp_path, first, second):
    add(tmp_path, "a.dcm", **first)
    add(tmp_path, "b.dcm", StudyInstanceUID="1.7", SeriesInstanceUID="1.8", **second)
    add(tmp_path, "c.dcm", StudyInstanceUID="1.5", SeriesInstanceUID="1.6")  # says nothing, but under the same ID
    add(tmp_path, "d.dcm", PatientID="another", StudyInstanceUID="1.3", SeriesInstanceUID="1.4", **second)
    found = take(tmp_path)
    assert [one.path for one in found.instances] == ["d.dcm"]
    assert codes(found) == dict.fromkeys(["a.dcm", "b.dcm", "c.dcm"], "SHARED_PATIENT_ID")
    kept = take(tmp_path, keep_shared_ids=True)
    assert (len(kept.instances), kept.rejections) == (4, ())
    assert len(found.shared_ids) == 1
    assert kept.shared_ids == found.shared_ids


@pytest.mark.parametrize(
    "second",
    [
        {},
        {"PatientBirthDate": "unknown"},
        {"PatientSex": "O"},
        {"PatientSex": "f"},
        {"IssuerOfPatientID": " "},
        {"IssuerOfPatientID": "NORTH."},
    ],
)
def test_missing_or_vague_values_do_not_make_two_people_of_one(tmp_path, second):
    add(tmp_path, "a.dcm", IssuerOfPatientID="North", PatientBirthDate="19600301", PatientSex="F")
    add(tmp_path, "b.dcm", StudyInstanceUID="1.7", SeriesInstanceUID="1.8", **second)
    assert len(take(tmp_path).instances) == 2


def test_a_file_that_went_astray_says_nothing_about_the_others_under_its_id(tmp_path):
    """b.dcm is a man's image among a woman's: his study is refused, hers stays."""
    add(tmp_path, "a.dcm", PatientID="her", PatientSex="F")
    add(tmp_path, "b.dcm", PatientID="her", PatientSex="M", StudyInstanceUID="1.7", SeriesInstanceUID="1.8")
    add(tmp_path, "c.dcm", PatientID="his", PatientSex="M", StudyInstanceUID="1.7", SeriesInstanceUID="1.8")
    found = take(tmp_path)
    assert [one.path for one in found.instances] == ["a.dcm"]
    assert codes(found) == dict.fromkeys(["b.dcm", "c.dcm"], "INCONSISTENT_IDENTITY")
    assert not found.shared_ids


def test_names_that_are_not_utf8_cost_nothing(tmp_path):
    good = write(tmp_path / "good.dcm", with_pixels(radiograph()))
    name = os.fsencode(tmp_path) + b"/M\xfcller\\x.dcm"
    good.rename(os.fsdecode(name))
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.txt")).write_text("text")
    found = take(tmp_path)
    assert len(found.instances) == 1
    assert os.fsencode(tmp_path / from_text(found.instances[0].path)) == name
    assert list(codes(found).values()) == ["NOT_DICOM"]
    found.rejections[0].path.encode("utf-8")


def test_processes_give_the_same_as_one(tmp_path, monkeypatch):
    for number in range(150):
        add(tmp_path, f"{number % 7}/{number:03d}.dcm", number=number % 140, Rows=PIXELS.shape[0] - (number % 11 == 0))
    alone = take(tmp_path)
    monkeypatch.setattr(module, "_WORTH_PROCESSES", 2)
    assert take(tmp_path, threads=2) == alone
    assert alone.entries == 150
    assert {"BAD_DIMENSIONS", "DUPLICATE_FILE"} <= set(codes(alone).values())


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(DicomError, match="source folder"):
        take(tmp_path / "absent")


def test_a_folder_that_may_not_be_looked_up_is_an_error(tmp_path):
    source = tmp_path / ("x" * 300) / "dicom"  # a name too long for any folder
    with pytest.raises(DicomError, match="missing or cannot be read"):
        list(walk(unpack(source, tmp_path / "restricted", largest_bytes=LIMIT).root))
    with pytest.raises(DicomError, match="neither a folder nor an archive"):
        source_root(source, tmp_path / "restricted")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_closed_folder_is_counted(tmp_path):
    (tmp_path / "closed").mkdir(mode=0)
    try:
        assert codes(take(tmp_path)) == {"closed/": "UNREADABLE_FILE"}
    finally:
        (tmp_path / "closed").chmod(0o700)


def test_a_folder_that_vanishes_is_counted(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    add(tmp_path, "a.dcm")
    real = os.scandir

    def scandir(path):
        if str(path).rstrip("/").endswith("gone"):
            raise OSError
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert {one.path: getattr(one, "code", "") for one in walk(tmp_path)} == {"a.dcm": "", "gone/": "UNREADABLE_FILE"}


def test_a_folder_that_breaks_off_while_it_is_listed_keeps_what_was_seen(tmp_path, monkeypatch):
    add(tmp_path, "folder/a.dcm")
    real = os.scandir

    @contextmanager
    def scandir(path):
        with real(path) as entries:

            def some():
                yield from entries
                if str(path).rstrip("/").endswith("folder"):
                    raise OSError

            yield some()

    monkeypatch.setattr(os, "scandir", scandir)
    found = take(tmp_path)
    assert [one.path for one in found.instances] == ["folder/a.dcm"]
    assert codes(found) == {"folder/": "UNREADABLE_FILE"}


def test_a_file_that_vanishes_while_it_is_listed_is_counted(tmp_path, monkeypatch):
    add(tmp_path, "a.dcm")
    add(tmp_path, "b.dcm")
    real = os.scandir

    @contextmanager
    def scandir(path):
        with real(path) as entries:
            yield (entry if entry.name == "b.dcm" else Gone(entry) for entry in entries)

    class Gone:
        def __init__(self, entry):
            self.name = entry.name

        def is_dir(self, **_):
            return False

        def is_file(self, **_):
            return True

        def stat(self, **_):
            raise FileNotFoundError

    monkeypatch.setattr(os, "scandir", scandir)
    assert codes(take(tmp_path)) == {"a.dcm": "UNREADABLE_FILE"}


def test_nothing_is_written_into_the_source(tmp_path):
    add(tmp_path, "a.dcm")
    before = [(path, path.stat().st_mtime_ns) for path in sorted([tmp_path, *tmp_path.rglob("*")])]
    take(tmp_path)
    assert before == [(path, path.stat().st_mtime_ns) for path in sorted([tmp_path, *tmp_path.rglob("*")])]


def deadly(path):
    """Stand for a header reader that a file kills, in whatever process it runs."""
    if path == "bad":
        os._exit(9)
    return f"read {path}"


@pytest.mark.slow
def test_a_file_that_kills_its_process_costs_no_other(monkeypatch):
    monkeypatch.setattr(module, "_WORTH_PROCESSES", 2)
    monkeypatch.setattr(module, "_LOT", 2)
    files = ["a", "b", "bad", "c"]
    found = list(module._headers(deadly, files, 2))
    assert found == [f"read {name}" if name != "bad" else "UNREADABLE_HEADER" for name in files]
