"""The index on the disk: what is read again and what is not, and the answers that only several files give."""

import json
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.errors import ArtefactError
from pipeline.core.records import Instance, MultiFrameInstance, Plane
from pipeline.dicom.indexing import consistency
from pipeline.dicom.indexing import index as module
from pipeline.dicom.indexing import scan as reading
from pipeline.dicom.indexing.archives import Tree
from pipeline.dicom.indexing.consistency import LOSSES, refuse_inconsistent
from pipeline.dicom.indexing.index import Rejection, open_index
from pipeline.dicom.indexing.rows import Entry, from_json, to_json
from pipeline.dicom.indexing.scan import answers_digest, update
from pipeline.dicom.reading.files import Refusal, Slot
from tests.dicom.samples import LIMIT, radiograph, with_pixels, write

SETTINGS = {"modalities": ("CR",), "largest_bytes": LIMIT}
PLANE = Plane(image_position_mm=(0, 0, 1.5), image_orientation=(1, 0, 0, 0, 1, 0), pixel_spacing_mm=(1, 2))


def instance(**values):
    base = {
        "path": "a",
        "size_bytes": 1,
        "modified_ns": 0,
        "head_sha256": "0",
        "patient_id": "p",
        "study_uid": "st",
        "series_uid": "se",
        "sop_uid": "so",
        "sop_class_uid": "c",
        "transfer_syntax_uid": "t",
        "modality": "CR",
        "kind": "image",
        "rows": 1,
        "columns": 1,
        "frames": 1,
        "samples_per_pixel": 1,
        "bits_allocated": 8,
        "bits_stored": 8,
        "is_signed": False,
        "photometric_interpretation": "MONOCHROME2",
    }
    return Instance(**{**base, **values})


def several_frames(count=3, **values):
    planes = tuple(PLANE.model_copy(update={"image_position_mm": (0.0, 0.0, 1.5 * n)}) for n in range(count))
    return MultiFrameInstance(**dict(instance(frames=count, kind="slice", modality="MR", **values)), planes=planes)


# --- what is read again


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "source"
    for number in range(12):
        write(root / f"{number % 3}" / f"{number:02d}.dcm", with_pixels(radiograph(SOPInstanceUID=f"1.2.{number}")))
    (root / "notes.txt").write_text("notes")
    (root / "link").symlink_to("notes.txt")
    return root


@pytest.fixture
def reads(monkeypatch):
    """The names of the files whose headers are read."""
    seen = []
    real = reading._look

    def look(root, modalities, largest_bytes, path):
        seen.append(path)
        return real(root, modalities, largest_bytes, path)

    monkeypatch.setattr(reading, "_look", look)
    return seen


def look_again(root, place, **changed):
    """Bring the index up to date; give what is in it."""
    options = {**SETTINGS, **changed}
    with open_index(place / "index.sqlite", answers_digest(Tree(root), **options)) as index:
        update(index, Tree(root), **options)
        refuse_inconsistent(index, root, keep_shared_ids=False)
        return list(index.unrefused()), list(index.rejections())


def test_a_second_scan_reads_nothing(tree, tmp_path, reads):
    first = look_again(tree, tmp_path)
    assert len(reads) == 13
    assert ([one.path for one in first[1]], len(first[0])) == (["link", "notes.txt"], 12)
    reads.clear()
    assert look_again(tree, tmp_path) == first
    assert reads == []


def test_only_new_and_changed_files_are_read_and_those_that_are_gone_are_forgotten(tree, tmp_path, reads):
    look_again(tree, tmp_path)
    reads.clear()
    write(tree / "new.dcm", with_pixels(radiograph(SOPInstanceUID="1.2.99")))
    write(tree / "1" / "01.dcm", with_pixels(radiograph(SOPInstanceUID="1.2.1", ImageComments="longer now")))
    (tree / "2" / "02.dcm").unlink()
    (tree / "0" / "03.dcm").rename(tree / "0" / "moved.dcm")
    accepted, _ = look_again(tree, tmp_path)
    assert sorted(reads) == ["0/moved.dcm", "1/01.dcm", "new.dcm"]
    paths = {one.path for one in accepted}
    assert {"new.dcm", "0/moved.dcm"} <= paths
    assert not {"2/02.dcm", "0/03.dcm"} & paths


def test_another_content_of_one_length_is_noticed_though_its_time_was_put_back(tree, tmp_path, reads):
    look_again(tree, tmp_path)
    path = tree / "0" / "00.dcm"
    before = path.stat()
    time.sleep(0.05)  # the clock of the file system ticks more slowly than ours
    path.write_bytes(path.read_bytes().replace(b"PID-4711", b"PID-4712"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    reads.clear()
    look_again(tree, tmp_path)
    assert reads == ["0/00.dcm"]


def test_a_file_that_takes_the_place_of_another_is_read_though_no_time_tells_them_apart(tmp_path):
    """As when folders change places by being renamed."""
    for first, second, expected in (("1", "2", ["a/x", "b/x", "c/x"]), ("2", "1", ["a/x", "b/x"]), ("2", "1", [])):
        inodes = {"a/x": first, "b/x": second, "c/x": "3"}
        with open_index(tmp_path / "index.sqlite", "") as index:
            waiting = index.compare(Entry(path, 1, 1, 1, inode) for path, inode in inodes.items())
            assert list(waiting) == expected
            index.add(waiting, [instance(path=path, sop_uid=inodes[path]) for path in waiting])
            assert [one.sop_uid for one in index.unrefused()] == list(inodes.values())


@pytest.mark.parametrize("changed", [{"modalities": ("CR", "DX")}, {"largest_bytes": LIMIT - 1}])
def test_other_settings_read_everything_again(tree, tmp_path, reads, changed, capsys):
    look_again(tree, tmp_path)
    reads.clear()
    look_again(tree, tmp_path, **changed)
    assert len(reads) == 13
    assert "have changed" in capsys.readouterr().err


def test_another_folder_reads_everything_again(tree, tmp_path, reads):
    look_again(tree, tmp_path)
    reads.clear()
    look_again(tree.rename(tmp_path / "elsewhere"), tmp_path)
    assert len(reads) == 13


def test_what_answers_depend_on_is_told_apart(tmp_path, monkeypatch):
    before = answers_digest(Tree(tmp_path), **SETTINGS)
    assert answers_digest(Tree(tmp_path), modalities=["CR"], largest_bytes=LIMIT) == before
    assert answers_digest(Tree(tmp_path, archive="another"), **SETTINGS) != before
    real = reading.metadata.version
    for reader in ("pydicom", "nibabel"):  # nibabel reads what mosaics say of themselves
        monkeypatch.setattr(reading.metadata, "version", lambda name, it=reader: "other" if name == it else real(name))
        assert answers_digest(Tree(tmp_path), **SETTINGS) != before


class Stop(BaseException):
    """What stops a scan from outside."""


def test_a_scan_that_was_stopped_goes_on_where_it_stood(tree, tmp_path, monkeypatch):
    whole = look_again(tree, tmp_path / "..")
    (tmp_path / ".." / "index.sqlite").unlink()
    seen = []
    real = reading._look

    def stopping(root, modalities, largest_bytes, path):
        seen.append(path)
        if len(seen) == 7:
            raise Stop
        return real(root, modalities, largest_bytes, path)

    monkeypatch.setattr(reading, "_look", stopping)
    monkeypatch.setattr(reading, "_LOT", 2)
    with pytest.raises(Stop):
        look_again(tree, tmp_path)
    assert look_again(tree, tmp_path) == whole
    assert len(seen) == 7 + 13 - 6  # six answers had been kept
    assert len(set(seen)) == 13


KILLED = """
import sys, time
from pathlib import Path
from pipeline.dicom.indexing import index
from pipeline.dicom.indexing import scan
from tests.dicom.test_index import look_again
index._ROWS, index._SECONDS_BETWEEN_COMMITS, scan._LOT = 2, 0.0, 1
real = scan._look
def slow(root, modalities, largest_bytes, path):
    if path == "1/07.dcm":
        print("here", flush=True)
        time.sleep(600)
    return real(root, modalities, largest_bytes, path)
scan._look = slow
look_again(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def test_a_scan_that_was_killed_goes_on_where_it_stood(tree, tmp_path, reads):
    arguments = [sys.executable, "-c", KILLED, str(tree), str(tmp_path)]
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(arguments, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout.readline() == b"here\n"
        process.send_signal(signal.SIGKILL)
    found = look_again(tree, tmp_path)
    assert reads
    assert len(reads) <= 8
    assert "0/00.dcm" not in reads
    (tmp_path / "index.sqlite").unlink()
    assert look_again(tree, tmp_path) == found


def test_copies_are_compared_once(tree, tmp_path, monkeypatch):
    (tree / "again.dcm").write_bytes((tree / "0" / "00.dcm").read_bytes())
    compared = []
    real = consistency.whole_sha256
    monkeypatch.setattr(consistency, "whole_sha256", lambda path: compared.append(path) or real(path))
    first = look_again(tree, tmp_path)
    assert Rejection("again.dcm", "DUPLICATE_FILE") in first[1]
    assert len(compared) == 2
    assert look_again(tree, tmp_path) == first
    assert len(compared) == 2


# --- the file


def test_the_index_is_for_its_owner_only(tree, tmp_path):
    look_again(tree, tmp_path)
    files = [path for path in tmp_path.iterdir() if path.is_file()]
    assert {"index.sqlite"} <= {path.name for path in files}
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def garbage(path):
    path.write_bytes(b"no database at all" * 1000)


def another_database(path):
    path.unlink()
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE files (name)")
    database.close()


def cut_short(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def overwritten(path):
    content = bytearray(path.read_bytes())
    content[4096:12288] = os.urandom(8192)
    path.write_bytes(content)


def a_link(path):
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


@pytest.mark.parametrize("damage", [garbage, another_database, cut_short, overwritten])
def test_a_damaged_or_foreign_file_is_replaced_and_that_is_said(tree, tmp_path, reads, damage, capsys):
    first = look_again(tree, tmp_path)
    damage(tmp_path / "index.sqlite")
    reads.clear()
    assert look_again(tree, tmp_path) == first
    assert len(reads) == 13
    assert "the index is damaged or not one" in capsys.readouterr().err


@pytest.mark.parametrize("damage", [a_link, lambda path: path.write_bytes(b"")])
def test_a_link_or_an_empty_file_is_replaced(tree, tmp_path, reads, damage):
    first = look_again(tree, tmp_path)
    damage(tmp_path / "index.sqlite")
    reads.clear()
    assert look_again(tree, tmp_path) == first
    assert len(reads) == 13
    assert not (tmp_path / "index.sqlite").is_symlink()


def test_two_processes_do_not_share_an_index(tmp_path):
    with (
        open_index(tmp_path / "index.sqlite", ""),
        pytest.raises(ArtefactError, match="another process"),
        open_index(tmp_path / "index.sqlite", ""),
    ):
        pass


def test_a_place_that_cannot_be_used_is_an_error_for_the_user(tmp_path):
    (tmp_path / "index.sqlite").mkdir()
    with pytest.raises(ArtefactError, match="cannot be made"), open_index(tmp_path / "index.sqlite", ""):
        pass
    with pytest.raises(ArtefactError, match="cannot be made"), open_index(tmp_path / "none" / "index.sqlite", ""):
        pass


def test_a_name_with_quotation_marks_and_other_signs_is_no_trouble(tree, tmp_path, reads):
    place = Path(os.fsdecode(os.fsencode(tmp_path) + b"/it's 100% M\xfcller?#"))
    place.mkdir()
    first = look_again(tree, place)
    reads.clear()
    assert look_again(tree, place) == first
    assert reads == []


# --- records and frames


@pytest.mark.parametrize(
    "one",
    [
        instance(),
        instance(image_type=("ORIGINAL", 'a"b', "ü\0"), echo_time_ms=1e-300, diffusion_direction=(0.1, 0.2, 1 / 3)),
        instance(burned_in_annotation=False, instance_number=-(2**31), patient_age_years=0.25),
        several_frames(),
    ],
)
def test_a_record_comes_back_as_it_was(one):
    again = from_json(to_json(one))
    assert again == one
    assert type(again) is type(one)
    assert again.model_dump(mode="json") == one.model_dump(mode="json")
    assert json.loads(again.model_dump_json()) == json.loads(one.model_dump_json())


def fill(index, answers):
    """Give an index files and what they said; nothing is read."""
    waiting = index.compare(Entry(path, 1, 1, 1, "1") for path in answers)
    index.add(waiting, [answers[path] for path in sorted(answers)])


def test_frames_come_one_by_one_and_their_file_counts_once():
    answers = {path: several_frames(path=path, sop_uid=path) for path in ("a", "b", "c")}
    with open_index(None, "") as index:
        fill(index, answers)
        ((*frames,),) = index.series()
        assert [(one.path, one.frame) for one in frames] == [(path, n) for path in "abc" for n in (1, 2, 3)]
        assert [one.image_position_mm[2] for one in frames[:3]] == [0.0, 1.5, 3.0]
        assert not any(isinstance(one, MultiFrameInstance) for one in frames)
        codes = {1: "LOCALIZER", 2: "SECONDARY_IMAGE", 3: "LOCALIZER"}
        refused = [(one, codes[one.frame]) for one in reversed(frames) if (one.path, one.frame) != ("a", 2)]
        index.settle([frames[1]], refused)
        counts = index.counts()
        assert (counts.entries, counts.files_kept, counts.series_kept) == (3, 1, 1)
        assert list(index.rejections()) == [Rejection("b", "LOCALIZER"), Rejection("c", "LOCALIZER")]


def test_series_come_whole_by_study_series_and_path(monkeypatch):
    monkeypatch.setattr(module, "_FEWEST_TOGETHER", 3)
    answers = {}
    for number, (study, series) in enumerate([("2", "b"), ("1", "d"), ("2", "a"), ("1", "c")] * 2):
        path = f"{number}"
        answers[path] = instance(path=path, sop_uid=path, study_uid=study, series_uid=series)
    with open_index(None, "") as index:
        fill(index, answers)
        found = [[(one.series_uid, one.path) for one in together] for together in index.series()]
    assert found == [[("c", "3"), ("c", "7"), ("d", "1"), ("d", "5")], [("a", "2"), ("a", "6"), ("b", "0"), ("b", "4")]]


# --- the answers of several files, against a plain reference that holds everything in memory


def without_duplicates(instances):
    same = defaultdict(list)
    for one in instances:
        same[one.sop_uid].append(one)
    kept, rejections = [], []
    for group in same.values():
        first, *others = sorted(group, key=lambda one: one.path)
        if len({one.head_sha256 for one in group}) > 1:
            slot = Slot(first.series_uid, first.sop_uid) if first.kind == "slice" else None
            rejections += [(one.path, "CONFLICTING_INSTANCES", slot) for one in group]
            continue
        kept.append(first)
        rejections += [(one.path, "DUPLICATE_FILE", None) for one in others]
    return sorted(kept, key=lambda one: one.path), rejections


def without_contradictions(instances):
    owners = defaultdict(set)
    for one in instances:
        owners["study", one.study_uid].add((one.patient_id,))
        owners["series", one.series_uid].add((one.patient_id, one.study_uid, one.modality))
    kept, rejections = [], []
    for one in instances:
        if len(owners["study", one.study_uid]) == len(owners["series", one.series_uid]) == 1:
            kept.append(one)
        else:
            rejections.append((one.path, "INCONSISTENT_IDENTITY", None))
    return kept, rejections


def incomplete_series(instances, rejections):
    there = {one.sop_uid for one in instances}
    return {
        slot.series_uid
        for _, code, slot in rejections
        if slot and code in LOSSES and slot.series_uid and slot.sop_uid not in there
    }


def shared_ids(instances):
    known = defaultdict(set)
    for one in instances:
        issuer = "".join(filter(str.isalnum, one.patient_id_issuer.casefold()))
        known[one.patient_id, "issuer"].add(issuer)
        known[one.patient_id, "birth date"].add(one.patient_birth_date)
        known[one.patient_id, "sex"].add(one.patient_sex.upper() if one.patient_sex.upper() in "MF" else "")
    return {patient_id for (patient_id, _), values in known.items() if len(values - {""}) > 1}


def expected(answers, keep_shared_ids):
    instances = [one for one in answers.values() if isinstance(one, Instance)]
    rejections = [(path, str(one), getattr(one, "slot", None)) for path, one in answers.items() if isinstance(one, str)]
    for check in (without_duplicates, without_contradictions):
        instances, refused = check(instances)
        rejections += refused
    incomplete = incomplete_series(instances, rejections)
    rejections += [(one.path, "SERIES_INCOMPLETE", None) for one in instances if one.series_uid in incomplete]
    instances = [one for one in instances if one.series_uid not in incomplete]
    shared = shared_ids(instances)
    if not keep_shared_ids:
        rejections += [(one.path, "SHARED_PATIENT_ID", None) for one in instances if one.patient_id in shared]
        instances = [one for one in instances if one.patient_id not in shared]
    return instances, sorted((path, code) for path, code, _ in rejections), shared


INSTANCES = st.builds(
    instance,
    patient_sex=st.sampled_from(["", "F", "M", "f", "O"]),
    patient_birth_date=st.sampled_from(["", "", "19600301", "19610301"]),
    patient_id_issuer=st.sampled_from(["", "North", "NORTH.", "Süd", " "]),
    sop_uid=st.sampled_from([str(number) for number in range(9)]),
    head_sha256=st.sampled_from("aaab"),
    patient_id=st.sampled_from(["x", "y", "x\0y", "ÿ"]),
    study_uid=st.sampled_from("123"),
    series_uid=st.sampled_from("mnopq"),
    modality=st.sampled_from(["CT", "CT", "MR"]),
    kind=st.sampled_from(["slice", "image"]),
)
REFUSALS = st.builds(
    Refusal,
    st.sampled_from(["TRUNCATED_FILE", "BAD_GEOMETRY", "UNSUPPORTED_IMAGE", "UNREADABLE_HEADER"]),
    st.builds(Slot, st.sampled_from(["", *"mnopq"]), st.sampled_from(["", *"0123456789"])),
)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.one_of(INSTANCES, INSTANCES, INSTANCES, REFUSALS, st.sampled_from(["NOT_DICOM", "TRUNCATED_FILE"]))),
    st.booleans(),
)
def test_the_index_answers_as_the_plain_reference_does(found, keep_shared_ids):
    answers = {}
    for number, one in enumerate(found):
        path = f"{number:03d}"
        answers[path] = one.model_copy(update={"path": path}) if isinstance(one, Instance) else one
    with pytest.MonkeyPatch.context() as patch, open_index(None, "") as index:
        patch.setattr(consistency, "whole_sha256", lambda path: "the same")
        fill(index, answers)
        refuse_inconsistent(index, Path(), keep_shared_ids=keep_shared_ids)
        instances, rejections, shared = expected(answers, keep_shared_ids)
        assert list(index.unrefused()) == instances
        assert [tuple(one) for one in index.rejections()] == rejections
        assert index.shared_ids == shared
        listed = [one for together in index.series() for one in together]
        assert listed == sorted(instances, key=lambda one: (one.study_uid, one.series_uid, one.path))
        assert index.counts().entries == len(found)
        assert len(instances) + len(rejections) == len(found)
        assert len({one.sop_uid for one in instances}) == len(instances)
