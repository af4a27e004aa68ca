import os
import shutil
import stat
import tarfile
import zipfile

import pytest

from pipeline.config import IngestSettings
from pipeline.core.artefacts import read_parquet, read_table
from pipeline.core.errors import DicomError
from pipeline.core.reasons import REASONS
from pipeline.core.records import Finding, FlowStep, Instance, RejectedFile
from pipeline.dicom.deidentification.pseudonyms import Pseudonyms, read_or_create_key
from pipeline.dicom.indexing.archives import source_root
from pipeline.stages.ingest import ingest
from tests.acceptance.convert import oblique_ct
from tests.dicom.multiframe import enhanced, item
from tests.dicom.samples import radiograph, with_pixels, write

TABLES = ("restricted/instances.parquet", "restricted/rejected.tsv", "rejections.tsv", "flow/ingest.tsv")


def run(root, result, **settings):
    options = {"source": root, "modalities": ("CR",), **settings}
    ingest(
        settings=IngestSettings(**options),
        key=result / "restricted" / "key",
        instances=result / "restricted" / "instances.parquet",
        rejected=result / "restricted" / "rejected.tsv",
        rejections=result / "rejections.tsv",
        flow=result / "flow" / "ingest.tsv",
    )


def add(root, name, number, **elements):
    return write(root / name, with_pixels(radiograph(SOPInstanceUID=f"1.2.3.1.{number}", **elements)))


@pytest.fixture
def archive(tmp_path):
    root = tmp_path / "raw data"
    add(root, "MUSTERMANN/1.dcm", 1)
    add(root, "MUSTERMANN/2.dcm", 2)
    add(root, "MUSTERMANN/3.dcm", 3, SeriesInstanceUID="1.2.3.9")
    again = add(root, "ERIKA.dcm", 4)
    (root / "copy.dcm").write_bytes(again.read_bytes())
    (root / "=cmd|calc'!A0").write_text("a formula for a name")
    (root / "notes\tof\nMUSTERMANN.txt").write_text("notes")
    add(root, "us.dcm", 5, Modality="US")
    (root / "link").symlink_to("copy.dcm")
    return root


def test_the_numbers_add_up_and_every_file_is_somewhere(archive, tmp_path):
    result = tmp_path / "results"
    run(archive, result)
    instances = list(read_parquet(result / "restricted" / "instances.parquet", Instance))
    rejected = read_table(result / "restricted" / "rejected.tsv", RejectedFile)
    findings = read_table(result / "rejections.tsv", Finding)
    (step,) = read_table(result / "flow" / "ingest.tsv", FlowStep)
    entries = {os.path.relpath(path, archive) for path in archive.rglob("*") if path.is_symlink() or path.is_file()}
    assert {one.path for one in instances} | {one.path for one in rejected} == entries
    assert len(instances) + len(rejected) == len(entries) == step.entered
    assert (step.excluded, step.left, step.produced_unit, step.produced) == (len(findings), 4, "instance", 4)
    assert [(one.file_id, one.reason) for one in rejected] == [(one.unit_id, one.code) for one in findings]
    assert {one.code for one in findings} == {"DUPLICATE_FILE", "NOT_DICOM", "UNWANTED_MODALITY", "NOT_A_REGULAR_FILE"}
    assert all(one.code in REASONS and one.severity == "excluded" and one.unit == "file" for one in findings)
    assert len({one.unit_id for one in findings}) == len(findings)


def test_identifiers_stay_in_the_restricted_folder(archive, tmp_path, capsys):
    result = tmp_path / "results"
    run(archive, result)
    restricted = result / "restricted"
    assert stat.S_IMODE(restricted.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in restricted.iterdir()} == {0o600}
    public = b"".join(
        path.read_bytes() for path in result.rglob("*") if path.is_file() and restricted not in path.parents
    )
    printed = "".join(capsys.readouterr()).encode()
    assert public
    for token in (b"MUSTERMANN", b"ERIKA", b"PID-4711", b"1.2.3.1", b"us.dcm", b"notes"):
        assert token.lower() not in (public + printed).lower()
    assert b"images of this study" in printed


def test_findings_use_the_key_of_the_study(archive, tmp_path):
    result = tmp_path / "results"
    run(archive, result)
    names = Pseudonyms(read_or_create_key(result / "restricted" / "key"))
    rejected = read_table(result / "restricted" / "rejected.tsv", RejectedFile)
    assert [one.file_id for one in rejected] == [names.file(one.path) for one in rejected]


def test_the_same_archive_gives_the_same_tables(archive, tmp_path):
    run(archive, tmp_path / "a")
    (tmp_path / "b" / "restricted").mkdir(parents=True)
    (tmp_path / "b" / "restricted" / "key").write_bytes((tmp_path / "a" / "restricted" / "key").read_bytes())
    (tmp_path / "b" / "restricted" / "key").chmod(0o600)
    run(archive, tmp_path / "b")
    for name in TABLES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_second_run_gives_the_same_tables_and_one_after_a_change_those_of_a_fresh_start(archive, tmp_path):
    result = tmp_path / "results"
    run(archive, result)
    first = {name: (result / name).read_bytes() for name in TABLES}
    run(archive, result)
    assert {name: (result / name).read_bytes() for name in TABLES} == first
    (archive / "ERIKA.dcm").unlink()  # its copy takes its place
    add(archive, "MUSTERMANN/4.dcm", 6)
    run(archive, result)
    again = {name: (result / name).read_bytes() for name in TABLES}
    assert again != first
    (result / "restricted" / "index.sqlite").unlink()
    run(archive, result)
    assert {name: (result / name).read_bytes() for name in TABLES} == again


def test_the_order_in_which_a_folder_is_listed_makes_no_difference(archive, tmp_path, monkeypatch):
    run(archive, tmp_path / "results")
    first = {name: (tmp_path / "results" / name).read_bytes() for name in TABLES}
    (tmp_path / "results" / "restricted" / "index.sqlite").unlink()
    real = os.scandir

    class Backwards:
        def __init__(self, path):
            self.entries = real(path)

        def __enter__(self):
            return sorted(self.entries, key=lambda entry: entry.name, reverse=True)

        def __exit__(self, *_):
            self.entries.close()

    monkeypatch.setattr(os, "scandir", Backwards)
    run(archive, tmp_path / "results")
    assert {name: (tmp_path / "results" / name).read_bytes() for name in TABLES} == first


def test_instances_come_series_after_series(tmp_path):
    for number, series in enumerate("2121"):
        add(tmp_path / "raw", f"{number}.dcm", number + 1, SeriesInstanceUID=f"1.2.3.{series}")
    run(tmp_path / "raw", tmp_path / "results")
    found = read_parquet(tmp_path / "results" / "restricted" / "instances.parquet", Instance)
    assert [(one.series_uid[-1], one.path[0]) for one in found] == [("1", "1"), ("1", "3"), ("2", "0"), ("2", "2")]


def packed(root, target, kind):
    """Put a folder into an archive, its links as links."""
    paths = sorted(path for path in root.rglob("*") if path.is_symlink() or path.is_file())
    if kind == "tar":
        with tarfile.open(target, "w:gz") as archive:
            for path in paths:
                archive.add(path, path.relative_to(root), recursive=False)
        return target
    with zipfile.ZipFile(target, "w") as archive:
        for path in paths:
            name = path.relative_to(root).as_posix()
            if path.is_symlink():
                info = zipfile.ZipInfo(name)
                info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
                archive.writestr(info, str(path.readlink()))
            else:
                archive.write(path, name)
    return target


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_archive_gives_what_its_folder_gives(archive, tmp_path, kind):
    run(archive, tmp_path / "folder")
    shutil.copytree(tmp_path / "folder" / "restricted", tmp_path / "packed" / "restricted")
    source = packed(archive, tmp_path / "packed.bin", kind)
    run(source, tmp_path / "packed")
    for name in ("restricted/rejected.tsv", "rejections.tsv", "flow/ingest.tsv"):
        assert (tmp_path / "packed" / name).read_bytes() == (tmp_path / "folder" / name).read_bytes()
    ours, theirs = (
        list(read_parquet(tmp_path / name / "restricted" / "instances.parquet", Instance))
        for name in ("packed", "folder")
    )
    assert {one.head_sha256 for one in ours} == {one.head_sha256 for one in theirs}
    root = source_root(source, tmp_path / "packed" / "restricted")
    assert all((root / one.path).stat().st_size == one.size_bytes for one in ours)
    assert "MUSTERMANN" not in "".join(one.path for one in ours)


def test_a_member_that_went_away_after_unpacking_is_counted(archive, tmp_path):
    source = packed(archive, tmp_path / "packed.zip", "zip")
    run(source, tmp_path / "results")
    (before,) = read_table(tmp_path / "results" / "flow" / "ingest.tsv", FlowStep)
    root = source_root(source, tmp_path / "results" / "restricted")
    *_, last = read_parquet(tmp_path / "results" / "restricted" / "instances.parquet", Instance)
    (root / last.path).unlink()
    run(source, tmp_path / "results")
    (after,) = read_table(tmp_path / "results" / "flow" / "ingest.tsv", FlowStep)
    assert (after.entered, after.left) == (before.entered, before.left - 1)
    rejected = read_table(tmp_path / "results" / "restricted" / "rejected.tsv", RejectedFile)
    assert [one.path for one in rejected if one.reason == "UNREADABLE_FILE"] == ["MUSTERMANN/3.dcm"]


def test_a_directory_file_stands_for_its_folder(archive, tmp_path):
    (archive / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    run(archive / "DICOMDIR", tmp_path / "results")
    (step,) = read_table(tmp_path / "results" / "flow" / "ingest.tsv", FlowStep)
    assert (step.entered, step.left) == (10, 4)
    with pytest.raises(DicomError, match="source folder"):
        run(archive / "DICOMDIR", archive / "results")


def test_a_file_counts_once_however_many_of_its_frames_are_kept(tmp_path):
    for number, kinds in enumerate((("LOCALIZER", "SCOUT"), ("LOCALIZER", "M"))):
        whole = enhanced(oblique_ct(2, series=f"1.2.3.{number}"))
        for frame, kind in zip(whole.PerFrameFunctionalGroupsSequence, kinds, strict=True):
            frame.CTImageFrameTypeSequence = item(FrameType=["ORIGINAL", "PRIMARY", kind])
        write(tmp_path / "raw" / f"{number}.dcm", whole)
    run(tmp_path / "raw", tmp_path / "results", modalities=("CT",))
    (step,) = read_table(tmp_path / "results" / "flow" / "ingest.tsv", FlowStep)
    rejected = read_table(tmp_path / "results" / "restricted" / "rejected.tsv", RejectedFile)
    kept = list(read_parquet(tmp_path / "results" / "restricted" / "instances.parquet", Instance))
    assert (step.entered, step.left, step.excluded, step.produced) == (2, 1, 1, 1)
    assert [(one.path, one.reason) for one in rejected] == [("0.dcm", "LOCALIZER")]
    assert [(one.path, one.frame) for one in kept] == [("1.dcm", 2)]
