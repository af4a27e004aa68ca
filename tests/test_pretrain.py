"""The verb that makes source weights: a small training from the command line to a file that a study may start from."""

import re
from pathlib import Path

import numpy as np
import pytest

from pipeline.cli import main
from pipeline.learning.weights.files import file_digest, read_facts
from pipeline.learning.weights.loading import WeightsChoice, build_network, verify
from pipeline.phantom.source_radiograph import LABELS

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
        (("--epochs", "0"), "--epochs: 0 is not at least 1"),
        (("--size", "8"), "--size: 8 is not at least 32"),
        (("--output", "own.pth"), "name it NAME.safetensors"),
    ],
)
def test_numbers_that_cannot_be_trained_with_are_one_clear_error(tmp_path, capfd, options, told):
    assert pretrain(tmp_path, *options) == 2
    said = capfd.readouterr().err
    assert told in said
    assert "Traceback" not in said
    assert not list(tmp_path.glob("*.safetensors"))
