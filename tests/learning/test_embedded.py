"""The source that comes with the software: the registered file, its data sheet, and what it can tell."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.metrics import roc_auc_score

from pipeline.cli import main
from pipeline.config import load
from pipeline.core.errors import WeightsError
from pipeline.learning.inference import predict_logits
from pipeline.learning.inputs.devices import Placement, choose_placement
from pipeline.learning.inputs.rendered import RenderedSource
from pipeline.learning.loop.checkpoints import write_tensors
from pipeline.learning.pretraining import write_source
from pipeline.learning.weights import loading
from pipeline.learning.weights.files import file_digest, read_facts, read_state, require_statistics
from pipeline.learning.weights.loading import WeightsChoice, build_network, places_of, verify
from pipeline.learning.weights.sources import IMAGENET_NORMALISATION, PHANTOM_NORMALISATION, SOURCES, Normalisation
from pipeline.learning.weights.store import bring_in, check_file, fetch
from pipeline.phantom.source_findings import FINDINGS
from pipeline.phantom.source_radiograph import ANY, GROUNDS, LABELS, SourceStream

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
    findings, grounds = (np.mean([float(told[name]) for name in names]) for names in (FINDINGS, GROUNDS))
    short = f"any finding {told[ANY]}, mean of the 15 findings {findings:.3f}, mean of the 15 grounds {grounds:.3f};"
    assert short in text


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


def own_file(path: Path, facts: dict) -> WeightsChoice:
    write_tensors(path, {"conv1.weight": torch.ones(2, 2)}, facts)
    return WeightsChoice(source="file", backbone="resnet18", file=path, sha256=file_digest(path))


def test_a_copy_of_the_file_is_normalised_as_the_file(tmp_path, capfd):
    copied = shutil.copy(PATH, tmp_path / "mine.safetensors")
    choice = WeightsChoice(source="file", backbone="resnet18", file=copied, sha256=file_digest(copied))
    assert verify(choice).normalisation == verify(CHOICE).normalisation == PHANTOM_NORMALISATION
    assert verify(replace(choice, normalisation=PHANTOM_NORMALISATION)).normalisation == PHANTOM_NORMALISATION
    assert capfd.readouterr().err == ""


def test_what_the_configuration_states_of_a_file_is_used_and_a_difference_told(tmp_path, capfd):
    facts = {"source": "phantom", "normalisation": Normalisation((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))._asdict()}
    choice = own_file(tmp_path / "mine.safetensors", facts)
    assert verify(choice).normalisation == Normalisation((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert capfd.readouterr().err == ""
    assert verify(replace(choice, normalisation=IMAGENET_NORMALISATION)).normalisation == IMAGENET_NORMALISATION
    (line,) = capfd.readouterr().err.splitlines()
    assert "normalised by mean 0.485, 0.456, 0.406 and deviation 0.229" in line
    assert "mine.safetensors says of itself mean 0.1, 0.2, 0.3 and deviation 0.4, 0.5, 0.6" in line


def test_files_that_were_made_elsewhere_are_normalised_as_before(tmp_path, capfd):
    other = own_file(tmp_path / "other.safetensors", {"source": "other"})
    save_file({"conv1.weight": torch.ones(2, 2)}, tmp_path / "foreign.safetensors")
    torch.save({"conv1.weight": torch.ones(2, 2)}, tmp_path / "foreign.pth")
    for path in (other.file, tmp_path / "foreign.safetensors", tmp_path / "foreign.pth"):
        choice = replace(other, file=path, sha256=file_digest(path))
        assert verify(choice).normalisation == IMAGENET_NORMALISATION
        stated = replace(choice, normalisation=PHANTOM_NORMALISATION)
        assert verify(stated).normalisation == PHANTOM_NORMALISATION
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "said",
    [
        None,
        {"mean": [0.5]},
        {"mean": [0.5], "deviation": [0.25]},
        {"mean": [0.5] * 3, "deviation": [0.25, 0.25, 0.0]},
        {"mean": [0.5, 0.5, float("nan")], "deviation": [0.25] * 3},
        {"mean": [0.0] * 3, "deviation": [1.0] * 3, "of": "volume"},
    ],
)
def test_a_file_that_cannot_say_how_it_was_normalised_is_an_error(tmp_path, said):
    with pytest.raises(WeightsError, match="does not say how the colours"):
        verify(own_file(tmp_path / "mine.safetensors", {"normalisation": said}))


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
    # Which finding it is, is asked of pictures that show any: else its presence alone gives 0.76 to a wrong name.
    shown = truth[:, column] == 1
    each = [roc_auc_score(truth[shown, at], logits[shown, at]) for at in range(1, 1 + len(FINDINGS))]
    assert np.mean(each) > 0.65  # 0.71 on these pictures; 0.59 where another finding is drawn than the label says
    grounds = slice(len(LABELS) - 15, None)
    assert (logits[:, grounds].argmax(axis=1) == truth[:, grounds].argmax(axis=1)).mean() > 0.9
