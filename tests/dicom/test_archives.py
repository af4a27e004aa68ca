"""Archives: what is unpacked, what is refused, and what a made-up archive cannot do."""

import gzip
import io
import os
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections import namedtuple
from pathlib import Path

import pytest

from pipeline.config import Config
from pipeline.core.artefacts import read_table
from pipeline.core.errors import DicomError
from pipeline.core.provenance import tree_state
from pipeline.dicom.indexing import archives
from pipeline.dicom.indexing.archives import Member, folder_of, is_archive, source_root, unpack
from pipeline.prerequisites import source_problems

LIMIT = 100_000
NAMES = ["a/b.dcm", "../../escape.dcm", "/absolute.dcm", "C:\\windows.dcm", "ü" * 300, "x" * 5000, "new\nline\t.dcm"]


@pytest.fixture
def restricted(tmp_path):
    folder = tmp_path / "results" / "restricted"
    folder.mkdir(parents=True)
    return folder


def content_of(name):
    return f"content of {name}".encode(errors="surrogateescape") * 3


def a_zip(path, names=NAMES, **options):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, **options) as archive:
        for name in names:
            archive.writestr(name, content_of(name))
    return path


def a_tar(path, names=NAMES, mode="w", change=lambda info: info):
    with tarfile.open(path, mode) as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(content_of(name))
            archive.addfile(change(info), io.BytesIO(content_of(name)))
    return path


def taken(source, restricted):
    """Unpack; give the content of each member by its name, and the codes of those refused."""
    tree = unpack(source, restricted, largest_bytes=LIMIT)
    return {name: (tree.root / file).read_bytes() for file, name in tree.names()}, dict(tree.refused())


def nothing_outside(tmp_path, restricted, source):
    outside = [path for path in tmp_path.rglob("*") if path.is_file() and restricted not in path.parents]
    return outside == [source]


MAKERS = {
    "zip": a_zip,
    "tar": a_tar,
    "gz": lambda path: a_tar(path, mode="w:gz"),
    "bz2": lambda path: a_tar(path, mode="w:bz2"),
    "xz": lambda path: a_tar(path, mode="w:xz"),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_members_are_found_by_content_and_lie_under_numbers(tmp_path, restricted, kind):
    source = MAKERS[kind](tmp_path / "archive.bin")
    assert is_archive(source)
    found, refused = taken(source, restricted)
    assert not refused
    assert sorted(found.values()) == sorted(content_of(name) for name in NAMES)
    assert all(name in found for name in NAMES[:3])
    assert all(len(name) <= 1000 for name in found)
    root = source_root(source, restricted)
    paths = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    assert paths == [f"0000/{number:07d}" for number in range(1, len(NAMES) + 1)]
    assert nothing_outside(tmp_path, restricted, source)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (restricted / "unpacked").rglob("*") if path.is_file()}
    assert modes == {0o600}
    folders = {stat.S_IMODE(path.stat().st_mode) for path in (restricted / "unpacked").rglob("*") if path.is_dir()}
    assert folders == {0o700}
    table = read_table(restricted / "unpacked" / "names.tsv", Member)
    assert {one.path: (root / one.file).read_bytes() for one in table} == found


def test_folders_and_directories_files_are_no_archives(tmp_path, restricted):
    folder = tmp_path / "disc"
    folder.mkdir()
    listing = folder / "DICOMDIR"
    listing.write_bytes(b"a listing")
    assert folder_of(folder) == folder_of(listing) == folder
    assert source_root(listing, restricted) == source_root(folder, restricted) == folder
    assert unpack(listing, restricted, largest_bytes=LIMIT).root == folder
    assert list(unpack(folder, restricted, largest_bytes=LIMIT).names()) == []
    assert not (restricted / "unpacked").exists()


def test_another_file_is_an_error_for_the_user(tmp_path, restricted):
    source = tmp_path / "scan.dcm"
    source.write_bytes(bytes(128) + b"DICM" + bytes(1000))
    with pytest.raises(DicomError, match="neither a folder nor an archive"):
        unpack(source, restricted, largest_bytes=LIMIT)
    with pytest.raises(DicomError, match="run the stage ingest again"):
        source_root(source, restricted)


def test_an_archive_that_is_as_it_was_is_not_unpacked_again(tmp_path, restricted):
    source = a_zip(tmp_path / "a.zip")
    first = taken(source, restricted)
    before = {path: path.stat().st_ctime_ns for path in source_root(source, restricted).rglob("*")}
    assert taken(source, restricted) == first
    assert {path: path.stat().st_ctime_ns for path in before} == before
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archives, "_zip_members", None)
        taken(source, restricted)
    a_zip(source, ["other"])
    assert taken(source, restricted) == ({"other": content_of("other")}, {})


def test_what_was_unpacked_goes_when_the_source_is_a_folder(tmp_path, restricted):
    taken(a_zip(tmp_path / "a.zip"), restricted)
    (tmp_path / "folder").mkdir()
    unpack(tmp_path / "folder", restricted, largest_bytes=LIMIT)
    assert not (restricted / "unpacked").exists()


def test_an_unpacking_that_was_killed_is_done_again(tmp_path, restricted):
    source = a_zip(tmp_path / "a.zip")
    first = taken(source, restricted)
    (restricted / "unpacked" / "complete.json").unlink()
    (restricted / "unpacked" / "members" / "0000" / "0000002").write_bytes(b"half")
    with pytest.raises(DicomError):
        source_root(source, restricted)
    assert taken(source, restricted) == first


def test_files_have_the_time_of_the_archive_so_that_records_do_not_depend_on_the_unpacking(tmp_path, restricted):
    source = a_zip(tmp_path / "a.zip")
    os.utime(source, ns=(1, 1_600_000_000_123_456_789))
    root = unpack(source, restricted, largest_bytes=LIMIT).root
    times = {path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
    assert times == {source.stat().st_mtime_ns}


def test_one_name_twice_is_two_members(tmp_path, restricted):
    with pytest.warns(UserWarning, match="Duplicate name"):
        source = a_zip(tmp_path / "a.zip", ["twice", "twice"])
    found, _ = taken(source, restricted)
    assert set(found) == {"twice", "twice (member 2)"}


def test_names_that_are_not_utf8_are_kept_as_text(tmp_path, restricted):
    source = a_tar(tmp_path / "a.tar", [os.fsdecode(b"M\xfcller")])
    found, _ = taken(source, restricted)
    assert set(found) == {"M\\xfcller"}


# --- members that are refused


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, b"Z"])
def test_links_and_devices_in_a_tar_are_counted(tmp_path, restricted, kind):
    def change(info):
        if info.name == "odd":
            info.type, info.linkname, info.size = kind, "/etc/passwd", 0
        return info

    found, refused = taken(a_tar(tmp_path / "a.tar", ["odd", "good"], change=change), restricted)
    assert set(found) == {"good"}
    assert refused == {"odd": "NOT_A_REGULAR_FILE"}


def test_links_in_a_zip_are_counted_and_folders_are_not(tmp_path, restricted):
    source = a_zip(tmp_path / "a.zip", ["good", "folder/"])
    with zipfile.ZipFile(source, "a") as archive:
        link = zipfile.ZipInfo("link")
        link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    found, refused = taken(source, restricted)
    assert set(found) == {"good"}
    assert refused == {"link": "NOT_A_REGULAR_FILE"}


def with_a_bad_checksum(path):
    content = path.read_bytes()
    at = content.index(b"PK\x03\x04") + 30 + len("bad")
    path.write_bytes(content[: at + 4] + bytes([content[at + 4] ^ 0xFF]) + content[at + 5 :])


def marked_as_encrypted(path):
    content = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(mark) + offset] |= 1
    path.write_bytes(content)


def of_an_unknown_method(path):
    content = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        content[content.index(mark) + offset] = 77
    path.write_bytes(content)


@pytest.mark.parametrize("spoil", [with_a_bad_checksum, marked_as_encrypted, of_an_unknown_method])
def test_members_of_a_zip_that_cannot_be_read_cost_no_other(tmp_path, restricted, spoil):
    source = a_zip(tmp_path / "a.zip", ["bad", "good"])
    spoil(source)
    found, refused = taken(source, restricted)
    assert set(found) == {"good"}
    assert refused == {"bad": "UNREADABLE_FILE"}
    assert len(list(source_root(source, restricted).rglob("0*1"))) == 0


def test_a_size_that_lies_makes_no_difference(tmp_path, restricted):
    """The directory says 10 bytes, the member holds 500 kB: it cannot be had, and no more than 10 bytes are written."""
    source = tmp_path / "a.zip"
    with zipfile.ZipFile(source, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bad", bytes(500_000))
        archive.writestr("good", b"good")
    content = bytearray(source.read_bytes())
    struct.pack_into("<L", content, content.index(b"PK\x01\x02") + 24, 10)
    source.write_bytes(content)
    found, refused = taken(source, restricted)
    assert set(found) == {"good"}
    assert refused == {"bad": "UNREADABLE_FILE"}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_member_beyond_the_limit_is_refused_and_not_written(tmp_path, restricted, method):
    source = tmp_path / "a.zip"
    with zipfile.ZipFile(source, "w", method) as archive:
        archive.writestr("large", bytes(LIMIT + 1))
        archive.writestr("just", bytes(LIMIT))
    found, refused = taken(source, restricted)
    assert set(found) == {"just"}
    assert refused == {"large": "BAD_DIMENSIONS"}


def test_a_member_of_a_tar_beyond_the_limit_is_refused_and_the_next_is_found(tmp_path, restricted):
    source = tmp_path / "a.tar.gz"
    with tarfile.open(source, "w:gz") as archive:
        for name, size in (("large", LIMIT + 1), ("just", LIMIT)):
            info = tarfile.TarInfo(name)
            info.size = size
            archive.addfile(info, io.BytesIO(bytes(size)))
    found, refused = taken(source, restricted)
    assert set(found) == {"just"}
    assert refused == {"large": "BAD_DIMENSIONS"}


# --- archives that are refused


def overlapping(path, members=400):
    """Write a zip whose members all stand for the same compressed bytes (D. Fifield, "A better zip bomb", 2019)."""
    kernel = zlib.compress(bytes(LIMIT), 9, wbits=-15)
    crc = zlib.crc32(bytes(LIMIT))
    local = struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, 0, 8, 0, 0, crc, len(kernel), LIMIT, 1, 0) + b"a"
    entry = struct.pack("<4s6H3L5H2L", b"PK\x01\x02", 20, 20, 0, 8, 0, 0, crc, len(kernel), LIMIT, 1, 0, 0, 0, 0, 0, 0)
    directory = (entry + b"a") * members
    start = len(local) + len(kernel)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, members, members, len(directory), start, 0)
    path.write_bytes(local + kernel + directory + end)
    return path


def test_an_archive_that_holds_absurdly_much_stops_and_leaves_nothing(tmp_path, restricted, monkeypatch):
    monkeypatch.setattr(archives, "_GIGABYTE", 1_000_000)
    monkeypatch.setattr(archives, "_MOST_EXPANSION", 100)
    source = overlapping(tmp_path / "bomb.zip")
    with pytest.raises(DicomError, match="more than 100 times its own size"):
        unpack(source, restricted, largest_bytes=LIMIT)
    assert not (restricted / "unpacked").exists()


def test_what_is_skipped_in_a_tar_counts_as_well(tmp_path, restricted, monkeypatch):
    monkeypatch.setattr(archives, "_GIGABYTE", 1_000_000)
    monkeypatch.setattr(archives, "_MOST_EXPANSION", 100)
    source = tmp_path / "bomb.tgz"
    with tarfile.open(source, "w:gz") as archive:
        for number in range(40):
            info = tarfile.TarInfo(f"{number}")
            info.size = 10 * LIMIT
            archive.addfile(info, io.BytesIO(bytes(info.size)))
    with pytest.raises(DicomError, match="more than 100 times its own size"):
        unpack(source, restricted, largest_bytes=LIMIT)


def test_a_full_disk_is_noticed_before_it_is_full(tmp_path, restricted, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda _: usage(10**12, 10**12 - 10**8, 10**8))
    with pytest.raises(DicomError, match="would fill the disk"):
        unpack(a_zip(tmp_path / "a.zip"), restricted, largest_bytes=LIMIT)
    assert not (restricted / "unpacked").exists()


def cut(path, count):
    content = path.read_bytes()
    path.write_bytes(content[:count])


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
@pytest.mark.parametrize("fraction", [0.3, 0.5, 0.9])
def test_a_tar_that_is_cut_short_is_refused_as_a_whole(tmp_path, restricted, mode, fraction):
    source = tmp_path / "a.tar"
    with tarfile.open(source, mode) as archive:
        for number in range(10):
            info = tarfile.TarInfo(f"{number}")
            info.size = 20_000
            archive.addfile(info, io.BytesIO(os.urandom(info.size)))
    cut(source, int(source.stat().st_size * fraction))
    with pytest.raises(DicomError, match=r"damaged or cut short|neither"):
        unpack(source, restricted, largest_bytes=LIMIT)
    assert not (restricted / "unpacked").exists()


def test_a_damaged_header_within_a_tar_is_not_taken_for_its_end(tmp_path, restricted):
    source = a_tar(tmp_path / "a.tar", ["one", "two", "three"])
    content = bytearray(source.read_bytes())
    content[content.index(b"two")] ^= 1
    source.write_bytes(content)
    with pytest.raises(DicomError, match="damaged or cut short"):
        unpack(source, restricted, largest_bytes=LIMIT)


def test_a_tar_without_its_end_is_refused(tmp_path, restricted):
    source = a_tar(tmp_path / "a.tar", ["one"])
    cut(source, 1024)
    with pytest.raises(DicomError, match="damaged or cut short"):
        unpack(source, restricted, largest_bytes=LIMIT)


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_a_long_name_that_would_fill_the_memory_is_refused(tmp_path, restricted, kind):
    info = tarfile.TarInfo("long")
    info.type, info.size = kind, 1 << 35
    source = a_tar(tmp_path / "a.tar", ["one"])
    source.write_bytes(source.read_bytes()[:1024] + info.tobuf() + bytes(4096))
    with pytest.raises(DicomError, match="damaged or cut short"):
        unpack(source, restricted, largest_bytes=LIMIT)


def test_a_tar_whose_last_member_is_a_zip_is_a_tar(tmp_path, restricted):
    inner = a_zip(tmp_path / "inner.zip", ["inner"])
    source = tmp_path / "a.tar"
    with tarfile.open(source, "w") as archive:
        archive.add(inner, "inner.zip")
    found, _ = taken(source, restricted)
    assert set(found) == {"inner.zip"}


@pytest.mark.parametrize("seed", range(40))
def test_flipped_bytes_end_in_members_codes_or_an_error_for_the_user(tmp_path, restricted, seed):
    import random

    generator = random.Random(seed)
    source = (a_zip if seed % 2 else a_tar)(tmp_path / "archive", ["a", "b", "c"])
    content = bytearray(source.read_bytes())
    for _ in range(3):
        content[generator.randrange(len(content))] = generator.randrange(256)
    source.write_bytes(content)
    try:
        found, refused = taken(source, restricted)
    except DicomError:
        return
    assert len(found) + len(refused) <= 3
    assert nothing_outside(tmp_path, restricted, source)
    assert set(refused.values()) <= {"UNREADABLE_FILE", "NOT_A_REGULAR_FILE", "BAD_DIMENSIONS"}


def test_a_source_that_is_not_there_is_left_to_the_scan(tmp_path, restricted):
    assert unpack(tmp_path / "none", restricted, largest_bytes=LIMIT).root == Path(tmp_path / "none")


def test_a_change_of_an_archive_makes_the_stage_run_again(tmp_path):
    source = a_zip(tmp_path / "a.zip")
    before = tree_state(source)
    assert tree_state(source) == before
    os.utime(source, ns=(0, 0))
    assert tree_state(source) != before


def study(source):
    return Config.model_validate(
        {
            "study": "own",
            "ingest": {"source": source},
            "label": {"table": "a", "key": "PatientID", "classes": ["a", "b"]},
        }
    )


def test_archives_may_be_named_in_the_configuration(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert source_problems(study(a_zip(tmp_path / "a.zip"))) == []
    other = tmp_path / "b.dcm"
    other.write_bytes(bytes(128) + b"DICM" + bytes(1000))
    (found,) = source_problems(study(other))
    assert "neither a folder nor an archive" in found.found
    (tmp_path / "results").mkdir()
    (found,) = source_problems(study(a_zip(tmp_path / "results" / "a.zip")))
    assert "lie within one another" in found.found


def glued(tmp_path, form):
    """Write two archives of different files one behind the other."""
    parts = []
    for number in range(2):
        folder = tmp_path / f"folder {number}"
        folder.mkdir()
        for name in "abc":
            (folder / f"{name}{number}").write_bytes(name.encode() * 700)
        parts.append(Path(shutil.make_archive(str(tmp_path / f"part {number}"), form, folder)))
    path = tmp_path / "both"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


@pytest.mark.parametrize("form", ["zip", "tar", "gztar", "bztar", "xztar"])
def test_an_archive_behind_an_archive_is_not_passed_over(tmp_path, restricted, form):
    with pytest.raises(DicomError, match="several archives in one file"):
        unpack(glued(tmp_path, form), restricted, largest_bytes=LIMIT)


def test_an_empty_zip_behind_another_does_not_hide_its_members(tmp_path, restricted):
    source = a_zip(tmp_path / "a.zip")
    source.write_bytes(source.read_bytes() + a_zip(tmp_path / "empty.zip", []).read_bytes())
    with pytest.raises(DicomError, match="several archives in one file"):
        unpack(source, restricted, largest_bytes=LIMIT)
    assert taken(tmp_path / "empty.zip", restricted) == ({}, {})


@pytest.mark.parametrize(("count", "is_fine"), [(20_000, True), (3_000_000, False)])
def test_zeros_behind_a_tar_are_its_end_unless_absurdly_many(tmp_path, restricted, monkeypatch, count, is_fine):
    monkeypatch.setattr(archives, "_GIGABYTE", 1_000_000)
    plain = a_tar(tmp_path / "a.tar", ["one"])
    source = tmp_path / "a.tgz"
    source.write_bytes(gzip.compress(plain.read_bytes() + bytes(count)))
    if is_fine:
        assert taken(source, restricted) == ({"one": content_of("one")}, {})
    else:
        with pytest.raises(DicomError, match="damaged"):
            unpack(source, restricted, largest_bytes=LIMIT)


def test_an_emptied_header_in_the_middle_of_a_tar_is_not_its_end(tmp_path, restricted):
    source = a_tar(tmp_path / "a.tar", ["one", "two", "three"])
    content = bytearray(source.read_bytes())
    at = content.index(b"two")
    content[at : at + 512] = bytes(512)
    source.write_bytes(content)
    with pytest.raises(DicomError, match="damaged or cut short"):
        unpack(source, restricted, largest_bytes=LIMIT)


def test_another_archive_of_the_same_size_and_time_is_unpacked_anew(tmp_path, restricted):
    sources = [a_zip(tmp_path / f"{name}.zip", [name]) for name in ("one", "two")]
    for _ in range(100):  # until no tick of the clock lies between the two changes of status
        for source in sources:
            os.utime(source, ns=(10**18, 10**18))
        if len({source.stat().st_ctime_ns for source in sources}) == 1:
            break
    trees = [unpack(source, restricted, largest_bytes=LIMIT) for source in sources for _ in range(2)]
    assert [list(taken(source, restricted)[0]) for source in sources] == [["one"], ["two"]]
    assert trees[0] == trees[1] != trees[2] == trees[3]  # so that an index of the one is none of the other
