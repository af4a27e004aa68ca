"""The verb that makes source weights: a small training from the command line to a file that a study may start from."""

import re
import signal
from pathlib import Path

import numpy as np
import pytest

from pipeline import pretrain as verb
from pipeline.cli import main
from pipeline.core.records import EpochLog
from pipeline.learning.pretraining import Pretrained
from pipeline.learning.weights.files import file_digest, read_facts
from pipeline.learning.weights.loading import WeightsChoice, build_network, verify
from pipeline.learning.weights.sources import PHANTOM_NORMALISATION
from pipeline.phantom.source_findings import FINDINGS
from pipeline.phantom.source_radiograph import ANY, GROUNDS, LABELS

SMALL = ("--epochs", "2", "--rows", "384", "--size", "32", "--held-out", "256", "--device", "cpu")


def pretrain(folder: Path, *more: str) -> int:
    return main(
        ["pretrain", "--output", str(folder / "own.safetensors"), "--state", str(folder / "state"), *SMALL, *more]
    )


@pytest.mark.slow
def test_the_verb_writes_a_source_and_its_data_sheet(tmp_path, capfd):
    assert pretrain(tmp_path, "--precision", "float32") == 0
    path, sheet = tmp_path / "own.safetensors", (tmp_path / "own.md").read_text(encoding="utf-8")
    assert f"SHA-256 {file_digest(path)}" in capfd.readouterr().err
    facts = read_facts(path)
    assert (facts["backbone"], facts["size"], tuple(facts["classes"])) == ("resnet18", 32, LABELS)

    lines = sheet.splitlines()
    assert lines[0].startswith("own.safetensors: made for the built-in study")
    assert "no substitute for ImageNet on patients" in lines[0]
    assert "# Data sheet of `own`" in lines
    assert f"`{file_digest(path)}`" in sheet
    assert "all planned epochs were run" in sheet
    told = dict(re.findall(r"^\| ([a-z -]+) \| ([01]\.\d{3}) \|$", sheet, re.MULTILINE))
    assert set(told) == set(LABELS)
    assert np.mean([float(value) for value in told.values()]) > 0.5

    choice = WeightsChoice(source="file", backbone="resnet18", file=path, sha256=file_digest(path))
    assert verify(choice).normalisation == PHANTOM_NORMALISATION
    build_network("resnet18", verify(choice), seed=0)

    # The command in the sheet is the whole recipe: it gives the same bytes, here from the finished state.
    (made_by,) = re.findall(r"`python -m (pipeline pretrain [^`]*)`", sheet.replace("\n", " "))
    words = made_by.replace("FOLDER", str(tmp_path / "state")).replace("own.s", f"{tmp_path}/again.s").split()[1:]
    assert main(words) == 0
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()
    assert "resumed after epoch 2" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--rows", "40"), "--rows"),
        (("--held-out", "4"), "--held-out"),
        (("--minutes", "0"), "--minutes: 0 is not above 0"),
        (("--minutes", "nan"), "--minutes: nan is not above 0"),
        (("--learning-rate", "-1"), "--learning-rate: -1 is not above 0"),
        (("--learning-rate", "inf"), "--learning-rate: inf is not at most 1"),
        (("--epochs", "0"), "--epochs: 0 is not at least 1"),
        (("--size", "8"), "--size: 8 is not at least 32"),
        (("--size", "513"), "--size: 513 is not at most 512"),
        (("--minutes", "inf"), "--minutes: inf is not at most "),
        (("--minutes", "1e9"), "--minutes: 1e+09 is not at most "),
        (("--output", "own.pth"), "name it NAME.safetensors"),
    ],
)
def test_numbers_that_cannot_be_trained_with_are_one_clear_error(tmp_path, capfd, options, told):
    assert pretrain(tmp_path, *options) == 2
    said = capfd.readouterr().err
    assert told in said
    assert "Traceback" not in said
    assert not list(tmp_path.glob("*.safetensors"))


LOSSES = (0.9, 0.5, 0.7)
SCORES = {name: 0.9 if name == ANY else 0.7 if name in FINDINGS else 1.0 for name in LABELS}


@pytest.fixture
def trained(monkeypatch):
    """Stand for the training, which is tested with `pretrain_network`; give what the verb asked of it."""
    import torch

    asked = {}

    def training(task, placement, folder, seconds):
        asked.update(task=task, seconds=seconds, on_signal=signal.getsignal(signal.SIGTERM))
        history = [
            EpochLog(
                strategy="scratch",
                fold=0,
                epoch=epoch,
                train_loss=1.0,
                validation_loss=loss,
                validation_auroc=0.5,
                learning_rate=1e-4,
                seconds=1.0,
            )
            for epoch, loss in enumerate(LOSSES, start=1)
        ]
        return Pretrained({"conv1.weight": torch.ones(2, 2)}, history, 2, 60.0, 70.0, is_whole=True)

    monkeypatch.setattr(verb, "pretrain_network", training)
    monkeypatch.setattr(verb, "held_out_scores", lambda task, state, placement: dict(reversed(SCORES.items())))
    return asked


def test_the_verb_gives_the_training_its_time_and_can_be_asked_to_end(tmp_path, trained):
    before = signal.getsignal(signal.SIGTERM)  # other tests may have left theirs
    assert pretrain(tmp_path, "--minutes", "2.5") == 0
    assert trained["seconds"] == 150
    assert trained["on_signal"] not in {before, signal.SIG_DFL, signal.SIG_IGN, signal.default_int_handler}
    assert signal.getsignal(signal.SIGTERM) == before
    assert (trained["task"].rows, trained["task"].held_out, trained["task"].recipe.balance_classes) == (384, 256, True)


def test_the_data_sheet_tells_the_epoch_kept_and_findings_apart_from_grounds(tmp_path, trained):
    assert pretrain(tmp_path) == 0
    (line,) = [row for row in (tmp_path / "own.md").read_text().splitlines() if row.startswith("| source task |")]
    assert "validation loss 0.500 nats" in line
    assert "any finding 0.900, mean of the 15 findings 0.700, mean of the 15 grounds 1.000" in line
    assert len(FINDINGS) == len(GROUNDS) == 15
    assert "epoch 2 is kept" in (tmp_path / "own.md").read_text()
    assert not [path for path in (tmp_path / "state").iterdir() if path.name != "lock"]


def test_the_file_says_how_its_inputs_were_normalised(tmp_path, trained):
    assert pretrain(tmp_path) == 0
    path = tmp_path / "own.safetensors"
    assert read_facts(path)["normalisation"] == {"mean": [0.5] * 3, "deviation": [0.25] * 3, "of": "range"}
    choice = WeightsChoice(source="file", backbone="resnet18", file=path, sha256=file_digest(path))
    assert verify(choice).normalisation == PHANTOM_NORMALISATION


def test_nothing_is_overwritten_but_what_the_verb_has_made(tmp_path, trained, capfd):
    sheet, weights = tmp_path / "own.md", tmp_path / "own.safetensors"
    for text in ("# A page of somebody\n", "", "other.safetensors: made for the built-in study of this software\n"):
        sheet.write_text(text)
        assert pretrain(tmp_path) == 2
        assert "--output: own.md exists and is no data sheet" in capfd.readouterr().err
        assert sheet.read_text() == text
        assert not weights.exists()
    sheet.unlink()
    weights.write_bytes(b"trained for a week")
    assert pretrain(tmp_path) == 2
    assert "--output: own.safetensors exists, without a data sheet" in capfd.readouterr().err
    assert weights.read_bytes() == b"trained for a week"
    assert trained == {}

    weights.unlink()
    assert pretrain(tmp_path) == 0
    made = weights.read_bytes()
    weights.write_bytes(b"older")
    assert pretrain(tmp_path) == 0
    assert weights.read_bytes() == made


@pytest.mark.parametrize("is_written", [False, True])
def test_a_verb_that_ends_as_it_writes_the_weights_can_be_run_again(tmp_path, trained, monkeypatch, is_written):
    real = verb.write_source

    def ending(path, state, facts):
        if path.parent != tmp_path or is_written:
            real(path, state, facts)
        if path.parent == tmp_path:
            raise KeyboardInterrupt  # as a second SIGINT does

    monkeypatch.setattr(verb, "write_source", ending)
    assert pretrain(tmp_path) != 0
    assert (tmp_path / "own.safetensors").exists() == is_written
    monkeypatch.setattr(verb, "write_source", real)
    assert pretrain(tmp_path) == 0
    assert f"`{file_digest(tmp_path / 'own.safetensors')}`" in (tmp_path / "own.md").read_text()
