import stat
from collections import Counter
from datetime import date

import numpy as np
import pydicom
import pytest

from pipeline.config import DeidentifySettings, IngestSettings
from pipeline.core.artefacts import read_table
from pipeline.core.errors import DicomError
from pipeline.core.records import BlankedRectangle, Finding, FlowStep, PseudonymLink, Series
from pipeline.dicom.deidentification.pseudonyms import Pseudonyms, read_or_create_key
from pipeline.stages import deidentify as module
from pipeline.stages.deidentify import deidentify
from pipeline.stages.ingest import ingest
from tests.dicom.samples import PIXELS, ct, radiograph, with_pixels, write
from tests.dicom.test_burned_in import written_into


def scan(root, result):
    ingest(
        settings=IngestSettings(source=root, modalities=("CR", "CT")),
        key=result / "restricted" / "key",
        instances=result / "restricted" / "instances.parquet",
        rejected=result / "restricted" / "rejected.tsv",
        rejections=result / "rejections.tsv",
        flow=result / "flow" / "ingest.tsv",
    )


def rewrite(root, result, threads=1, **settings):
    deidentify(
        settings=DeidentifySettings(**settings),
        source=root,
        key=result / "restricted" / "key",
        instances=result / "restricted" / "instances.parquet",
        dicom=result / "dicom",
        series=result / "series.tsv",
        pseudonyms=result / "restricted" / "pseudonyms.tsv",
        quarantine=result / "quarantine.tsv",
        blanked=result / "blanked.tsv",
        receipt=result / "receipt.tsv",
        flow=result / "flow" / "deidentify.tsv",
        threads=threads,
    )


def add(root, patient, study, series, number, **elements):
    base = f"1.2.{patient}.{study}"
    values = {
        "PatientID": f"PID-{patient}",
        "PatientName": f"Mustermann{patient}^Erika{patient}",
        "StudyInstanceUID": base,
        "SeriesInstanceUID": f"{base}.{series}",
        "SOPInstanceUID": f"{base}.{series}.{number}",
        "InstitutionName": "Hospital of Musterstadt",
        "Manufacturer": "Maker",
        "ManufacturerModelName": "Model 1",
        **elements,
    }
    make = ct if values.get("Modality") == "CT" else radiograph
    stored = PIXELS + number + 7 * series + 49 * study + 343 * patient & 0xFFF
    return write(root / f"{patient}-{study}-{series}-{number}.dcm", with_pixels(make(**values), stored))


@pytest.fixture
def archive(tmp_path):
    root = tmp_path / "raw"
    add(root, 1, 1, 1, 1, StudyDate="20200101", PatientAge="070Y", BodyPartExamined="CHEST", ViewPosition="PA")
    add(root, 1, 2, 1, 1, StudyDate="20210203", PatientAge="071Y", InstitutionName="Other Clinic")
    add(root, 2, 1, 1, 1, StudyDate="20200101", PatientAge="095Y", PatientSex="M")
    add(root, 2, 1, 2, 1, StudyDate="20200101", BurnedInAnnotation="YES")
    for number in range(3):
        place = [0, 0, 2.5 * number]
        add(
            root, 3, 1, 1, number, Modality="CT", ImagePositionPatient=place, ImageOrientationPatient=[1, 0, 0, 0, 1, 0]
        )
    return root


def test_two_studies_of_a_patient_stay_together(archive, tmp_path):
    result = tmp_path / "results"
    scan(archive, result)
    rewrite(archive, result)
    names = Pseudonyms(read_or_create_key(result / "restricted" / "key"))
    records = {record.series_uid: record for record in read_table(result / "series.tsv", Series)}
    first, second = records[names.uid("1.2.1.1.1")], records[names.uid("1.2.1.2.1")]
    assert first.patient == second.patient == names.patient("PID-1")
    days = date.fromisoformat(second.study_date) - date.fromisoformat(first.study_date)
    assert days == date(2021, 2, 3) - date(2020, 1, 1)
    assert first.study_date < "2020-01-01"
    assert first.site != second.site
    assert first.scanner == second.scanner == "Maker Model 1"
    assert (first.body_part, first.view_position, first.patient_age_years) == ("CHEST", "PA", 70)
    assert records[names.uid("1.2.2.1.1")].patient_age_years == 90
    volume = records[names.uid("1.2.3.1.1")]
    assert (volume.kind, volume.instances, volume.modality) == ("volume", 3, "CT")


def test_the_numbers_add_up(archive, tmp_path):
    result = tmp_path / "results"
    scan(archive, result)
    rewrite(archive, result)
    names = Pseudonyms(read_or_create_key(result / "restricted" / "key"))
    (step,) = read_table(result / "flow" / "deidentify.tsv", FlowStep)
    (before,) = read_table(result / "flow" / "ingest.tsv", FlowStep)
    (finding,) = read_table(result / "quarantine.tsv", Finding)
    records = read_table(result / "series.tsv", Series)
    assert step.entered == before.left == 7
    assert (step.excluded, step.left, step.produced) == (1, 6, 4)
    assert sum(record.instances for record in records) == 6
    assert (finding.code, finding.unit, finding.unit_id) == (
        "BURNED_IN_ANNOTATION",
        "instance",
        names.uid("1.2.2.1.2.1"),
    )
    files = sorted(path.relative_to(result / "dicom") for path in (result / "dicom").rglob("*.dcm"))
    assert len(files) == 6
    assert {path.parts[0] for path in files} == {record.series_uid for record in records}
    for path in files:
        found = pydicom.dcmread(result / "dicom" / path)
        assert (found.SeriesInstanceUID, f"{found.SOPInstanceUID}.dcm") == path.parts
    links = read_table(result / "restricted" / "pseudonyms.tsv", PseudonymLink)
    assert [link.patient_id for link in links] == ["PID-1", "PID-2", "PID-3"]
    assert [link.patient for link in links] == [names.patient(link.patient_id) for link in links]
    shifts = {link.patient: link.date_shift_days for link in links}
    for record in records:
        if record.patient == names.patient("PID-1"):
            assert (date.fromisoformat(record.study_date).toordinal() + shifts[record.patient]) in {
                date(2020, 1, 1).toordinal(),
                date(2021, 2, 3).toordinal(),
            }


def test_what_a_rule_blanks_is_counted_and_recorded(archive, tmp_path, capsys):
    rule = {
        "name": "cr-maker-one", "modality": "CR", "manufacturer": "Maker", "model": "Model 1", "rows": 33,
        "columns": 36, "photometric": "MONOCHROME2", "vouches": True,
        "blank": [{"top": 30, "left": 0, "rows": 3, "columns": 36}],
    }  # fmt: skip
    result = tmp_path / "results"
    scan(archive, result)
    rewrite(archive, result, pixel_rules=[rule])
    names = Pseudonyms(read_or_create_key(result / "restricted" / "key"))
    (step,) = read_table(result / "flow" / "deidentify.tsv", FlowStep)
    assert (step.excluded, step.left) == (0, 7)
    findings = read_table(result / "quarantine.tsv", Finding)
    assert {(one.code, one.severity, one.value) for one in findings} == {("PIXELS_BLANKED", "noted", 1)}
    rows = read_table(result / "blanked.tsv", BlankedRectangle)
    assert [one.sop_uid for one in rows] == [one.unit_id for one in findings]
    assert {one.sop_uid for one in rows} == {names.uid(f"1.2.{one}.1") for one in ("1.1.1", "1.2.1", "2.1.1", "2.1.2")}
    assert {(one.rule, one.top, one.left, one.rows, one.columns) for one in rows} == {("cr-maker-one", 30, 0, 3, 36)}
    assert "deidentify: remarks: PIXELS_BLANKED 4" in capsys.readouterr().err
    for path in (result / "dicom").rglob("*.dcm"):
        found = pydicom.dcmread(path)
        assert (found.get("BurnedInAnnotation") == "NO") == (found.SOPInstanceUID in {one.sop_uid for one in rows})
        assert (np.ptp(found.pixel_array[30:]) == 0) == (found.Modality == "CR")


@pytest.mark.parametrize("numbers", [[2], range(2, 24, 2)])
def test_a_volume_is_looked_at_whatever_its_numbers(archive, tmp_path, numbers):
    for number in numbers:
        uids = {"StudyInstanceUID": "1.2.9", "SeriesInstanceUID": "1.2.9.1", "SOPInstanceUID": f"1.2.9.1.{number}"}
        place = {"ImagePositionPatient": [0, 0, 2.5 * number], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
        whole = ct(PatientID="PID-9", InstanceNumber=number, **uids, **place)
        banner = written_into(200, "MILLER ANN 48213")
        whole.Rows, whole.Columns = 200, 200
        write(
            archive / f"9-{number}.dcm",
            with_pixels(whole, np.frombuffer(banner.PixelData, np.uint16).reshape(200, 200)),
        )
    scan(archive, tmp_path / "result")
    rewrite(archive, tmp_path / "result")
    codes = Counter(one.code for one in read_table(tmp_path / "result" / "quarantine.tsv", Finding))
    assert codes["BURNED_IN_TEXT_SUSPECTED"] == -(-len(numbers) // 8)
    assert codes["SERIES_INCOMPLETE"] == len(numbers) - codes["BURNED_IN_TEXT_SUSPECTED"]
    patients = {one.patient for one in read_table(tmp_path / "result" / "series.tsv", Series)}
    assert len(patients) == 3


def test_no_identifier_leaves_the_restricted_folder(archive, tmp_path, capsys, recwarn):
    result = tmp_path / "results"
    scan(archive, result)
    rewrite(archive, result)
    restricted = result / "restricted"
    assert {stat.S_IMODE(path.stat().st_mode) for path in restricted.iterdir()} == {0o600}
    public = [path for path in result.rglob("*") if restricted not in path.parents and path != restricted]
    content = b"".join(path.read_bytes() for path in public if path.is_file())
    names = "\n".join(str(path.relative_to(result)) for path in public)
    said = content + names.encode() + "".join(capsys.readouterr()).encode()
    for token in (
        "mustermann",
        "erika",
        "pid-",
        "1.2.1.1",
        "1.2.2.1",
        "musterstadt",
        "clinic",
        "20200101",
        "2020-01-01",
    ):
        assert token.encode() not in said.lower(), token
    assert not recwarn.list


def test_neither_order_nor_contents_depend_on_the_key(archive, tmp_path):
    """With another key the tables hold other pseudonyms in the same places."""
    rows = []
    for name in ("a", "b"):
        result = tmp_path / name
        scan(archive, result)
        rewrite(archive, result)
        hidden = {"patient", "study_uid", "series_uid", "study_date", "site"}
        rows.append([record.model_dump(exclude=hidden) for record in read_table(result / "series.tsv", Series)])
    assert rows[0] == rows[1]
    assert (tmp_path / "a" / "restricted" / "key").read_bytes() != (tmp_path / "b" / "restricted" / "key").read_bytes()


def test_again_gives_the_same_bytes_with_processes(archive, tmp_path, monkeypatch):
    result = tmp_path / "results"
    scan(archive, result)
    rewrite(archive, result)
    first = {path: path.read_bytes() for path in result.rglob("*") if path.is_file()}
    monkeypatch.setattr(module, "WORTH_PROCESSES", 2)
    rewrite(archive, result, threads=2)
    assert {path: path.read_bytes() for path in result.rglob("*") if path.is_file()} == first


def test_a_source_that_changed_is_counted(archive, tmp_path):
    result = tmp_path / "results"
    scan(archive, result)
    changed = archive / "1-1-1-1.dcm"
    changed.write_bytes(changed.read_bytes()[:-1] + b"\x77")
    (archive / "3-1-1-2.dcm").unlink()
    rewrite(archive, result)
    codes = sorted(finding.code for finding in read_table(result / "quarantine.tsv", Finding))
    assert codes == [
        *("BURNED_IN_ANNOTATION", "DEIDENTIFICATION_FAILED", "DEIDENTIFICATION_FAILED"),
        *("SERIES_INCOMPLETE", "SERIES_INCOMPLETE"),  # the other slices of the first one's volume
    ]


def test_nothing_left_is_an_error(tmp_path):
    root = tmp_path / "raw"
    add(root, 1, 1, 1, 1, BurnedInAnnotation="YES")
    scan(root, tmp_path / "results")
    with pytest.raises(DicomError, match="BURNED_IN_ANNOTATION 1"):
        rewrite(root, tmp_path / "results")


def test_the_source_is_only_read(archive, tmp_path):
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in archive.rglob("*") if path.is_file()}
    archive.chmod(0o500)
    try:
        scan(archive, tmp_path / "results")
        rewrite(archive, tmp_path / "results")
    finally:
        archive.chmod(0o700)
    assert {
        path: (path.stat().st_mtime_ns, path.read_bytes()) for path in archive.rglob("*") if path.is_file()
    } == before
