"""No identifier leaves the restricted folder: not from volumes, nor from runs that fail or are killed."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.core.artefacts import read_document, read_table
from pipeline.core.records import Image
from pipeline.phantom.manifest import Manifest
from tests.byte_search import public_leaks
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


def test_a_volume_study_that_cannot_train_yet(tmp_path):
    """Slices to volumes, then a failing job whose error ends on the terminal and in the logs."""
    settings = changed(
        phantom={"kind": "volume", "patients": 20, "size": 128},
        ingest={"modalities": ["CT"]},
        check_quality={"min_size": 32},
        preprocess={"intensity": {"kind": "window", "centre": 40, "width": 400}},
    )
    done = run(tmp_path, settings)
    assert done.returncode != 0
    assert "volumes can be prepared" in done.stdout + done.stderr
    images = read_table(tmp_path / "results/small/images.tsv", Image)
    assert sum(bool(image.volume_file) for image in images) >= 10
    assert public_leaks(tmp_path, manifest(tmp_path)) == []


@pytest.fixture(scope="module")
def ingested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a study that has come as far as the images."""
    folder = tmp_path_factory.mktemp("ingested")
    assert run(folder, SMALL, "--until", "preprocess").returncode == 0
    return folder


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"label": {"column": "PatientID", "on_unknown_class": "error"}}, "unknown"),
        ({"label": {"column": "PatientName"}}, "PatientName"),
        ({"label": {"key": "PatientID", "on_contradiction": "error"}}, "label"),
        ({"label": {"classes": ["benign", "malignant"], "on_unknown_class": "error"}}, "unknown"),
        ({"split": {"folds": 30}}, "fold"),
    ],
)
def test_a_run_that_fails_on_its_data(ingested, sections, told):
    """Identifiers stand in the very cells that are complained about."""
    done = run(ingested, changed(**sections))
    assert done.returncode != 0
    assert told in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert public_leaks(ingested, manifest(ingested)) == []


def test_a_bug_in_the_middle_of_the_identifiers(ingested, tmp_path):
    """A damaged table makes the stage fail in a library whose messages repeat what they read."""
    del tmp_path
    restricted = ingested / "results/small/restricted"
    kept = (restricted / "instances.parquet").read_bytes()
    first = manifest(ingested).studies[0].patient_id
    (restricted / "instances.parquet").write_text(f"{first},{first}\n" * 50, encoding="utf-8")
    done = run(ingested, SMALL, "--until", "deidentify")
    (restricted / "instances.parquet").write_bytes(kept)
    assert done.returncode != 0
    assert public_leaks(ingested, manifest(ingested)) == []


def rewriting(study: Path) -> bool:
    return any(study.glob("results/small/dicom/*/*.dcm"))


def training(study: Path) -> bool:
    return "epoch 1/" in (study / "terminal.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("moment", [rewriting, training])
def test_a_run_that_is_killed(tmp_path, moment):
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


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 180
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
