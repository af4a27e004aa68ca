"""The source that comes with the software: the registered file, its data sheet, and what it can tell."""

import re
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from pipeline.cli import main
from pipeline.config import load
from pipeline.core.errors import WeightsError
from pipeline.learning.inference import predict_logits
from pipeline.learning.inputs.devices import Placement, choose_placement
from pipeline.learning.inputs.rendered import RenderedSource
from pipeline.learning.pretraining import write_source
from pipeline.learning.weights import loading
from pipeline.learning.weights.files import file_digest, read_facts, read_state, require_statistics
from pipeline.learning.weights.loading import WeightsChoice, build_network, places_of, verify
from pipeline.learning.weights.sources import SOURCES
from pipeline.learning.weights.store import bring_in, check_file, fetch
from pipeline.phantom.source_radiograph import ANY, LABELS, SourceStream

CHOICE = WeightsChoice(source="phantom", backbone="resnet18")
(PATH,) = places_of("phantom", "resnet18")
SHEET = PATH.with_suffix(".md")
LARGEST = 24_000_000


def test_the_file_is_the_registered_one_and_small_enough_to_ship():
    file = SOURCES["phantom"].files["resnet18"]
    assert file_digest(PATH) == file.sha256
    assert PATH.stat().st_size <= LARGEST
    assert file.megabytes == pytest.approx(PATH.stat().st_size / 1e6, abs=0.05)
    assert verify(CHOICE).licence.startswith("Apache-2.0")


def test_what_writes_sources_would_write_the_same_bytes(tmp_path):
    write_source(tmp_path / "again.safetensors", read_state(PATH), read_facts(PATH))
    assert (tmp_path / "again.safetensors").read_bytes() == PATH.read_bytes()


def test_the_data_sheet_is_about_this_file():
    text = SHEET.read_text(encoding="utf-8")
    first = text.splitlines()[0]
    assert "built-in study" in first
    assert "no substitute for ImageNet on patients" in first
    assert f"`{file_digest(PATH)}`" in text
    assert f"{PATH.stat().st_size:,} bytes" in text
    facts = read_facts(PATH)
    assert f"| seed | {facts['seed']} |" in text
    assert f"--size {facts['size']} " in text
    assert tuple(facts["classes"]) == LABELS
    assert SOURCES["phantom"].output_classes == len(LABELS)
    told = dict(re.findall(r"^\| ([a-z -]+) \| ([01]\.\d{3}) \|$", text, re.MULTILINE))
    assert set(told) == set(LABELS)


def test_the_built_in_study_starts_from_it_beside_a_twin_from_scratch():
    train = load(Path(__file__).resolve().parents[2] / "config/config.yaml").train
    assert (train.weights.source, train.strategy) == ("phantom", "full")
    assert "scratch" in train.compare


def test_its_batch_normalisation_has_statistics_of_its_own_and_nothing_is_read_but_tensors():
    state = read_state(PATH)
    require_statistics(state, PATH.name)
    check_file("phantom", "resnet18", PATH)
    assert all(bool((value > 0).any()) for name, value in state.items() if name.endswith("running_var"))


def test_verbs_know_it_and_need_no_network(capfd, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(["weights", "list"]) == 0
    assert main(["weights", "fetch", "phantom/resnet18"]) == 0
    assert main(["weights", "verify"]) == 0
    told = capfd.readouterr().out
    assert f"ok    phantom/resnet18  {PATH}  SHA-256 {file_digest(PATH)}" in told
    assert fetch("phantom", "resnet18") == PATH
    assert bring_in(PATH) == ("phantom", "resnet18", PATH)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_or_changed_file_is_an_error_and_no_fall_back(monkeypatch, tmp_path):
    monkeypatch.setattr(loading, "EMBEDDED_FOLDER", tmp_path)
    with pytest.raises(WeightsError, match="install it again"):
        verify(CHOICE)
    (tmp_path / PATH.name).write_bytes(PATH.read_bytes()[:-1] + b"x")
    with pytest.raises(WeightsError, match="wrong digest"):
        verify(CHOICE)


@pytest.mark.slow
def test_the_file_tells_what_new_pictures_of_its_stream_show():
    """On pictures that no training row reaches, by the road that a study takes: verified, built, predicted."""
    choose_placement("cpu", "float32", 1)
    weights, facts = verify(CHOICE), read_facts(PATH)
    stream = SourceStream(facts["seed"], facts["size"])
    rows = np.arange(500_000, 500_160)
    source = RenderedSource(stream.picture, weights.normalisation, Placement("cpu", "float32", 1))
    logits = predict_logits(build_network("resnet18", weights, seed=0), source, rows)
    truth = np.stack([stream.labels(int(row)) for row in rows])
    column = LABELS.index(ANY)
    assert roc_auc_score(truth[:, column], logits[:, column]) > 0.8
    grounds = slice(len(LABELS) - 15, None)
    assert (logits[:, grounds].argmax(axis=1) == truth[:, grounds].argmax(axis=1)).mean() > 0.9
