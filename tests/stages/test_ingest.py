import os
import stat

import pytest

from pipeline.config import IngestSettings
from pipeline.core.artefacts import read_parquet, read_table
from pipeline.core.errors import DicomError
from pipeline.core.reasons import REASONS
from pipeline.core.records import Finding, FlowStep, Instance, RejectedFile
from pipeline.dicom.pseudonyms import Pseudonyms, read_or_create_key
from pipeline.stages.ingest import ingest
from tests.dicom.samples import radiograph, with_pixels, write


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
    assert (step.excluded, step.left, step.produced_unit, step.produced) == (len(findings), 4, "series", 2)
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
    for name in ("restricted/instances.parquet", "restricted/rejected.tsv", "rejections.tsv", "flow/ingest.tsv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_no_usable_image_is_an_error_that_counts(tmp_path):
    add(tmp_path / "raw", "a.dcm", 1, Modality="US")
    with pytest.raises(DicomError, match="UNWANTED_MODALITY 1"):
        run(tmp_path / "raw", tmp_path / "results")


def test_a_missing_source_is_an_error(tmp_path):
    with pytest.raises(DicomError, match="source"):
        run(tmp_path / "absent", tmp_path / "results")


def test_results_inside_of_the_source_are_refused(archive):
    before = sorted(archive.rglob("*"))
    with pytest.raises(DicomError, match="source folder"):
        run(archive, archive / "results")
    assert sorted(archive.rglob("*")) == before


@pytest.mark.parametrize("decision", ["exclude", "note"])
def test_an_id_of_two_people_is_left_out_or_noted_by_pseudonym(tmp_path, decision):
    root, result = tmp_path / "raw", tmp_path / "results"
    add(root, "a.dcm", 1, PatientID="shared", PatientSex="F", StudyInstanceUID="1.7", SeriesInstanceUID="1.8")
    add(root, "b.dcm", 2, PatientID="shared", PatientSex="M", StudyInstanceUID="1.5", SeriesInstanceUID="1.6")
    add(root, "c.dcm", 3)
    run(root, result, on_shared_patient_id=decision)
    findings = read_table(result / "rejections.tsv", Finding)
    (step,) = read_table(result / "flow" / "ingest.tsv", FlowStep)
    assert {one.code for one in findings} == {"SHARED_PATIENT_ID"}
    if decision == "exclude":
        assert [(one.unit, one.severity) for one in findings] == [("file", "excluded")] * 2
        assert (step.entered, step.excluded, step.left) == (3, 2, 1)
    else:
        names = Pseudonyms(read_or_create_key(result / "restricted" / "key"))
        assert [(one.unit, one.severity, one.unit_id) for one in findings] == [
            ("patient", "noted", names.patient("shared"))
        ]
        assert (step.entered, step.excluded, step.left) == (3, 0, 3)


def test_the_size_limit_of_the_configuration_holds(tmp_path):
    root = tmp_path / "raw"
    dataset = with_pixels(radiograph())
    dataset.Rows, dataset.Columns = 1000, 600
    write(root / "large.dcm", dataset)
    add(root, "small.dcm", 1)
    run(root, tmp_path / "results", max_instance_mb=1)
    (finding,) = read_table(tmp_path / "results" / "rejections.tsv", Finding)
    assert finding.code == "BAD_DIMENSIONS"
