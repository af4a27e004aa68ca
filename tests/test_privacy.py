"""No identifier leaves the restricted folder: not from volumes, nor from runs that fail or are killed."""

import csv
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.core.artefacts import read_document, read_table
from pipeline.core.records import FoldRole, Image, Prediction
from pipeline.phantom.manifest import Manifest
from tests.byte_search import leaks, public_files, public_leaks
from tests.small_study import ROOT, SMALL, command, run

pytestmark = pytest.mark.slow


def manifest(study: Path) -> Manifest:
    return read_document(study / "data/phantom/manifest.json", Manifest)


def changed(**sections: dict[str, object]) -> dict[str, object]:
    """Give the small study with other values."""
    settings = json.loads(json.dumps(SMALL))
    for name, values in sections.items():
        settings[name] = {**settings.get(name, {}), **values}
    return settings


def test_a_volume_study_from_its_slices_to_its_report(tmp_path):
    """First with more folds than can be made: a failing job whose error ends on the terminal and in the logs."""
    settings = changed(
        phantom={"kind": "volume", "patients": 20, "size": 128},
        ingest={"modalities": ["CT"]},
        check_quality={"min_size": 32},
        preprocess={
            "size": 32,
            "intensity": {"kind": "window", "centre": -200, "width": 1600},
            "volume": {"slices": 8},
        },
        split={"folds": 20},
        train={"volumes": {"road": "attention"}, "epochs": 1, "batch_size": 4, "compare": ["probe"]},
    )
    done = run(tmp_path, settings)
    assert done.returncode != 0
    assert "set split.folds to at most" in done.stdout + done.stderr
    images = read_table(tmp_path / "results/small/images.tsv", Image)
    assert sum(bool(image.volume_file) for image in images) >= 10
    assert public_leaks(tmp_path, manifest(tmp_path)) == []
    settings["split"]["folds"] = 2
    done = run(tmp_path, settings)
    assert done.returncode == 0, done.stderr[-3000:]
    tested = [
        row
        for fold in range(2)
        for row in read_table(tmp_path / f"results/small/folds/{fold}/predictions.tsv", Prediction)
        if (row.role, row.strategy) == ("test", "full")
    ]
    kept = {role.image_id for role in read_table(tmp_path / "results/small/folds.tsv", FoldRole)}
    assert sorted(row.image_id for row in tested) == sorted(kept)  # one prediction for each volume
    text = (tmp_path / "reports/small/report.html").read_text(encoding="utf-8")
    assert "multiple-instance learning" in text
    assert "8 axial slices" in text
    assert public_leaks(tmp_path, manifest(tmp_path)) == []


@pytest.fixture(scope="module")
def ingested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a study that has come as far as the images."""
    folder = tmp_path_factory.mktemp("ingested")
    assert run(folder, SMALL, "--until", "preprocess").returncode == 0
    return folder


def name_the_classes(row: dict[str, str]) -> None:
    row["label"] = row["PatientID"]


def give_no_known_key(row: dict[str, str]) -> None:
    row["StudyInstanceUID"] = row["PatientID"]


def contradict(row: dict[str, str]) -> None:
    row["StudyInstanceUID"] = "ANNA^CANARY"


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (name_the_classes, "the class is not one of those configured"),
        (give_no_known_key, "labelled keys of the table belongs to one of the"),
        (contradict, "give one key 2 classes"),
    ],
)
def test_a_label_table_that_is_complained_about(ingested, tmp_path, spoil, told):
    """Identifiers stand in the very cells that are wrong."""
    planted = manifest(ingested)
    with (ingested / "data/phantom/labels.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    for row in rows:
        spoil(row)
    table = tmp_path / "labels.csv"
    with table.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    source = {"source": str(ingested / "data/phantom/dicom")}
    settings = changed(
        label={"table": str(table), "on_contradiction": "error" if spoil is contradict else "exclude"}, ingest=source
    )
    settings["phantom"] = None
    study = tmp_path / "study"
    done = run(study, settings)
    shown = done.stdout + done.stderr
    assert done.returncode != 0
    assert told in shown
    # Whether keys are those of images is known to the stage alone; everything else is told before any work.
    assert ("Error in rule label" in shown) == (spoil is give_no_known_key)
    assert (study / "results").exists() == (spoil is give_no_known_key)
    assert "Traceback" not in shown
    results = ingested / "results/small"
    by_hand = subprocess.run(
        [
            *(sys.executable, "-m", "pipeline", "label", "--settings", study / "study.yaml", "--table", table),
            *("--key", results / "restricted/key", "--images", results / "images.tsv"),
            *(word for name in ("labels", "unlabelled", "flow") for word in (f"--{name}", study / f"{name}.tsv")),
            *("--log", study / "label.log"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert by_hand.returncode == 2
    assert told in (study / "label.log").read_text(encoding="utf-8")
    (study / "by_hand.txt").write_text(by_hand.stdout + by_hand.stderr, encoding="utf-8")
    assert public_leaks(study, planted) == []
    assert leaks(public_files(study), {"ANNA^CANARY"}) == []


def test_a_bug_in_the_middle_of_the_identifiers(tmp_path):
    """A library raises with a Patient ID in its message: the whole workflow keeps it to the restricted folder."""
    (tmp_path / "sitecustomize.py").write_text(
        """
import sys
if "pipeline" in sys.orig_argv and "deidentify" in sys.orig_argv:
    import pipeline.stages.deidentify as stage
    def fail(patients, *others):
        raise ValueError(sorted(patients)[0])
    stage._links = fail
""",
        encoding="utf-8",
    )
    done = run(tmp_path, SMALL, "--until", "deidentify", environment={"PYTHONPATH": str(tmp_path)})
    assert done.returncode != 0
    assert "this is a bug in deidentify" in done.stdout + done.stderr
    planted = manifest(tmp_path)
    kept = tmp_path / "results/small/restricted/error-deidentify.txt"
    assert planted.stem in kept.read_text(encoding="utf-8")
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert public_leaks(tmp_path, planted) == []


def rewriting(study: Path) -> bool:
    return any(study.glob("results/small/dicom/*/*.dcm"))


def training(study: Path) -> bool:
    return "epoch 1/" in (study / "terminal.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("moment", [rewriting, training])
def test_a_run_that_is_killed(tmp_path, ingested, moment):
    """`kill -9` while files are rewritten, and while the network is trained: what lies about is as clean."""
    settings = changed(train={"epochs": 20})
    with (tmp_path / "terminal.txt").open("w") as terminal:
        process = subprocess.Popen(
            command(tmp_path, settings), cwd=ROOT, stdout=terminal, stderr=terminal, start_new_session=True
        )
        wait_for(lambda: moment(tmp_path) or process.poll() is not None)
        assert process.poll() is None, "the run ended before it could be killed"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert moment(tmp_path)
    assert not (tmp_path / "reports").exists()
    assert public_leaks(tmp_path, manifest(tmp_path)) == []
    if moment is rewriting:  # and what the next run makes of it is whole
        assert run(tmp_path, settings, "--unlock").returncode == 0
        assert run(tmp_path, settings, "--until", "preprocess").returncode == 0
        images = read_table(tmp_path / "results/small/images.tsv", Image)
        assert {image.pixel_sha256 for image in images} == {
            image.pixel_sha256 for image in read_table(ingested / "results/small/images.tsv", Image)
        }
        files = len(list((tmp_path / "results/small/dicom").rglob("*")))
        assert files == len(list((ingested / "results/small/dicom").rglob("*")))
        assert public_leaks(tmp_path, manifest(tmp_path)) == []


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 180
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
