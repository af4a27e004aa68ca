"""The verb `triage`: a table of what a folder holds, without a name on the terminal."""

import shutil
import stat
from collections import Counter

import pytest

from pipeline.cli import main
from pipeline.core.reasons import REASONS
from tests.dicom.samples import PIXELS, ct, with_pixels, write


def take(capsys, *words):
    status = main(["triage", *map(str, words)])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def stack(root, series, *, count=4, **elements):
    for level in range(count):
        name = f"{series}-{level}-{elements.get('EchoTime', 0)}"
        place = {"ImagePositionPatient": [0, -0.6 * 2 * level, 0.8 * 2 * level], "InstanceNumber": level}
        uids = {
            "SeriesInstanceUID": f"1.2.{series}",
            "SOPInstanceUID": f"1.2.{series}.{level}.{int(elements.get('EchoTime', 0))}",
        }
        write(root / f"{name}.dcm", with_pixels(ct(**{**place, **uids, **elements}), PIXELS))


@pytest.fixture(autouse=True)
def _no_fault_handler(monkeypatch):
    monkeypatch.setattr("faulthandler.enable", lambda: None)


def test_each_series_is_a_line_with_its_outcome_and_each_reason_has_a_remedy(tmp_path, capsys):
    root = tmp_path / "raw"
    stack(root, 1, SeriesDescription="Thorax ANNA^CANARY")
    stack(root, 2, EchoTime=5.0)
    stack(root, 2, EchoTime=9.0)
    stack(root, 3, count=3)
    write(root / "gap.dcm", with_pixels(ct(SeriesInstanceUID="1.2.3", SOPInstanceUID="1.2.3.99",
                                           ImagePositionPatient=[0, -0.6 * 9, 0.8 * 9]), PIXELS))  # fmt: skip
    stack(root, 4, count=1, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    (root / "notes.txt").write_text("notes")
    status, table, _ = take(capsys, root)
    assert status == 0
    rows = [line for line in table.splitlines() if " CT " in line]
    assert Counter(line.split()[-1] for line in rows) == {"taken": 2, "INSTANCES_MISSING": 1}
    assert any("2 by echo time" in line and line.startswith("2 ") for line in rows)
    assert "3 of 4 series would be taken" in table
    for code, number in (("INSTANCES_MISSING", "1 series"), ("LOCALIZER", "1 file"), ("NOT_DICOM", "1 file")):
        assert f"{code}: {number}. {REASONS[code].meaning}" in table
        assert REASONS[code].remedy in table
    assert "CANARY" not in table


def test_descriptions_go_to_a_file_of_the_owner_only(tmp_path, capsys):
    stack(tmp_path / "raw", 1, SeriesDescription="Thorax\tANNA^CANARY")
    target = tmp_path / "series.tsv"
    target.touch(mode=0o644)
    _, table, shown = take(capsys, tmp_path / "raw", "--output", target)
    assert "CANARY" not in table + shown
    header, line = target.read_text(encoding="utf-8").splitlines()
    assert dict(zip(header.split("\t"), line.split("\t"), strict=True))["description"] == "Thorax ANNA^CANARY"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


def test_the_selection_of_a_study_decides(tmp_path, capsys):
    stack(tmp_path / "raw", 1, SeriesDescription="Thorax")
    study = tmp_path / "study.yaml"
    study.write_text(
        "study: own\n"
        f"ingest: {{source: {tmp_path / 'raw'}, modalities: [CT], select: {{descriptions: ['head*']}}}}\n"
        "label: {table: labels.csv, key: PatientID, classes: [a, b]}\n",
        encoding="utf-8",
    )
    status, table, _ = take(capsys, tmp_path / "raw", "--configfile", study)
    assert status == 1
    assert "UNWANTED_SERIES: 1 series" in table


def test_an_archive_is_taken_as_its_folder_is(tmp_path, capsys):
    stack(tmp_path / "raw", 1)
    _, table, _ = take(capsys, tmp_path / "raw")
    packed = shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "raw")
    status, of_archive, _ = take(capsys, packed)
    assert status == 0
    assert of_archive == table


def test_a_missing_folder_is_an_error_for_the_user(tmp_path, capsys):
    for name in ("none", "x" * 300):  # the second is refused by the system, as a folder that may not be entered
        status, _, shown = take(capsys, tmp_path / name)
        assert status == 2
        assert "what to do" in shown


def test_an_empty_folder_says_what_to_do(tmp_path, capsys):
    status, shown, _ = take(capsys, tmp_path)
    assert status == 1
    assert "There are no files" in shown


def test_the_built_in_volumes_are_taken(volume_cohort, capsys):
    status, table, shown = take(capsys, volume_cohort.dicom)
    assert status == 0
    assert "taken" in table
    assert volume_cohort.manifest.stem not in table + shown
