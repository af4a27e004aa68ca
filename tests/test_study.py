"""The whole road on a small built-in study: from files with planted hazards to the report."""

import base64
import json
import re
import zlib
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import pytest

from pipeline.core.artefacts import read_document, read_table
from pipeline.core.records import CalibratedPrediction, Finding, FlowStep, FoldRole, Image, Label, Prediction
from pipeline.core.results import Evaluation
from pipeline.dicom.deidentification.pseudonyms import Pseudonyms, read_or_create_key
from pipeline.phantom.manifest import Manifest
from tests.byte_search import leaks, public_files, public_leaks
from tests.small_study import SMALL, run

pytestmark = pytest.mark.slow
TABLES = ("rejections", "quarantine", "quality", "unreadable", "unlabelled", "duplicates")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of a finished study; ``terminal.txt`` holds what was printed."""
    folder = tmp_path_factory.mktemp("study")
    done = run(folder, SMALL)
    (folder / "terminal.txt").write_text(done.stdout + done.stderr, encoding="utf-8")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return folder


@pytest.fixture(scope="module")
def manifest(study: Path) -> Manifest:
    return read_document(study / "data/phantom/manifest.json", Manifest)


def findings(study: Path) -> list[Finding]:
    return [row for name in TABLES for row in read_table(study / f"results/small/{name}.tsv", Finding)]


def evaluation(study: Path) -> Evaluation:
    return read_document(study / "results/small/evaluation.json", Evaluation)


def test_the_report_is_there(study):
    for name in ("report.html", "report.pdf", "report.json", "model_card.md"):
        assert (study / "reports/small" / name).stat().st_size > 1000, name


def test_every_planted_file_is_left_out_for_its_reason_and_no_other(study, manifest):
    for stage, table in (("ingest", "rejections"), ("deidentify", "quarantine")):
        rows = read_table(study / f"results/small/{table}.tsv", Finding)
        planted = Counter(file.reason for file in manifest.left_out(stage))
        assert Counter(row.code for row in rows if row.severity == "excluded") == planted
        assert planted, stage


def test_every_planted_hazard_is_noticed(study, manifest):
    """Where the manifest says that something is left out, it is; where it does not, the hazard is only noted."""
    severities = defaultdict(set)
    for row in findings(study):
        severities[row.stage, row.code].add(row.severity)
    assert len(severities) > 10
    for hazard in manifest.hazards:
        if hazard.reason:
            expected = "excluded" if hazard.excluded else "noted"
            assert expected in severities[hazard.stage, hazard.reason], hazard.kind


def test_nothing_is_lost_on_the_way(study, manifest):
    steps = {path.stem: read_table(path, FlowStep)[0] for path in sorted((study / "results/small/flow").glob("*.tsv"))}
    order = ("ingest", "deidentify", "check_quality", "preprocess", "label", "split")
    assert set(steps) == set(order)
    assert steps["ingest"].entered == len(manifest.files)
    for before, after in pairwise(order):
        entered = steps[before].left if steps[after].unit == "instance" else steps[before].produced
        assert steps[after].entered == entered, after
    roles = read_table(study / "results/small/folds.tsv", FoldRole)
    assert Counter(role.role for role in roles)["test"] == steps["split"].left


def test_labels_are_those_of_the_cohort(study, manifest):
    """Turn each study's UID into its pseudonym with the key: its images must bear its label."""
    names = Pseudonyms(read_or_create_key(study / "results/small/restricted/key"))
    images = {image.image_id: image for image in read_table(study / "results/small/images.tsv", Image)}
    labels = read_table(study / "results/small/labels.tsv", Label)
    truth = {names.uid(case.study_uid): case.label for case in manifest.studies if case.is_in_table}
    patients = {names.uid(case.study_uid): names.patient(case.patient_id) for case in manifest.studies}
    for label in labels:
        image = images[label.image_id]
        assert truth[image.study_uid] == label.label
        assert patients[image.study_uid] == label.patient == image.patient
    unlabelled = {image.study_uid for image in images.values()} - set(truth)
    assert len(labels) == sum(image.study_uid not in unlabelled for image in images.values())
    assert len({label.label for label in labels}) == 2


def test_predictions_cover_every_image_once_for_each_strategy(study):
    roles = read_table(study / "results/small/folds.tsv", FoldRole)
    tested = {(role.fold, role.image_id) for role in roles if role.role == "test"}
    for strategy in ("full", "probe"):
        rows = [
            row
            for fold in range(3)
            for row in read_table(study / f"results/small/folds/{fold}/predictions.tsv", Prediction)
            if row.strategy == strategy and row.role == "test"
        ]
        assert {(row.fold, row.image_id) for row in rows} == tested
        assert len(rows) == len(tested)
    final = read_table(study / "results/small/predictions.tsv", CalibratedPrediction)
    assert all(abs(sum(row.probabilities) - 1) < 1e-6 for row in final)


def test_the_report_says_that_random_weights_transfer_nothing(study):
    text = (study / "reports/small/report.html").read_text(encoding="utf-8")
    assert re.search(r"random (initial )?weights", text, re.IGNORECASE)
    assert "from the source weights" not in text
    assert evaluation(study).warnings


def test_a_second_run_does_nothing(study):
    done = run(study, SMALL)
    assert done.returncode == 0
    assert "Nothing to be done" in done.stdout + done.stderr


# --- identifiers -----------------------------------------------------------------------------------------------


def test_no_planted_identifier_is_in_any_byte_outside_restricted(study, manifest):
    assert len(public_files(study)) > 100
    assert public_leaks(study, manifest) == []


def test_the_search_finds_what_it_looks_for(study, manifest, tmp_path):
    """The search above can fail: it finds the tokens in the raw files, and in a compressed stream."""
    raw = [path for path in (study / "data/phantom/dicom").rglob("*") if path.is_file() and path.stat().st_size > 1000]
    assert len(leaks(raw, {manifest.stem})) == len(raw)
    hidden = tmp_path / "hidden.pdf"
    hidden.write_bytes(b"%PDF stream\n" + zlib.compress(manifest.stem.encode()) + b"endstream")
    coded = tmp_path / base64.b64encode(f"x/{manifest.stem}NAME/y".encode()).decode().replace("/", "_")
    coded.write_bytes(b"")
    page = tmp_path / "page.html"
    page.write_text(" " * 50_000 + base64.b64encode(f"deep below {manifest.stem} in a page".encode()).decode())
    assert leaks([hidden, coded, page], {manifest.stem}) == [str(hidden), str(coded), str(page)]


def test_restricted_files_are_closed_to_others(study):
    folder = study / "results/small/restricted"
    assert folder.stat().st_mode & 0o077 == 0
    files = [path for path in folder.iterdir() if path.is_file()]
    assert {path.name for path in files} >= {"key", "instances.parquet", "pseudonyms.tsv", "rejected.tsv"}
    assert all(path.stat().st_mode & 0o077 == 0 for path in files)


def test_another_key_gives_other_names_and_the_same_folds(study, tmp_path):
    raw = study / "data/phantom"  # the same files, this time as a study of real data
    settings = {**SMALL, "phantom": None, "ingest": {"source": str(raw / "dicom")}}
    settings["label"] = {**SMALL["label"], "table": str(raw / "labels.csv")}
    done = run(tmp_path, settings, "--until", "split")
    assert done.returncode == 0, done.stderr[-3000:]
    tables = [read_table(folder / "results/small/folds.tsv", FoldRole) for folder in (study, tmp_path)]
    names = [{role.patient for role in table} for table in tables]
    assert not names[0] & names[1]
    # Rows by content: which of two identical pictures comes first depends on the key, and makes no difference.
    digests = [
        {image.row: image.pixel_sha256 for image in read_table(folder / "results/small/images.tsv", Image)}
        for folder in (study, tmp_path)
    ]
    divided = [
        [(role.fold, digest[role.row], role.group, role.label, role.role) for role in table]
        for table, digest in zip(tables, digests, strict=True)
    ]
    assert divided[0] == divided[1]
    pixels = [(folder / "results/small/images/pixels.npy").read_bytes() for folder in (study, tmp_path)]
    assert pixels[0] == pixels[1]


def test_three_classes_from_split_to_report(study):
    """The same cohort with three classes: only what depends on the labels runs again."""
    settings = json.loads(json.dumps(SMALL))
    settings["label"] |= {"column": "finding", "classes": ["none", "small", "large"]}
    settings["split"] = {"folds": 2}
    settings["train"] |= {"strategy": "probe", "compare": []}
    done = run(study, settings)
    assert done.returncode == 0, done.stderr[-6000:]
    assert "rule preprocess" not in done.stdout + done.stderr
    result = evaluation(study)
    assert result.classes == ("none", "small", "large")
    assert len(result.strategies[0].roc) == 3
    assert result.estimate("probe", "patient", "auroc").value is not None
    assert "not evaluated" in (study / "reports/small/report.html").read_text(encoding="utf-8")


def test_a_bad_configuration_stops_before_any_work_and_names_every_error(tmp_path):
    settings = {**SMALL, "trian": {}, "split": {"folds": 1}}
    done = run(tmp_path, settings)
    shown = done.stdout + done.stderr
    assert done.returncode != 0
    assert "did you mean `train`" in shown
    assert "split.folds" in shown
    assert "Traceback" not in shown
    assert not (tmp_path / "results").exists()
    assert not (tmp_path / "data").exists()
