"""The doctor: says what is missing and how to mend it, and prints no identifier."""

import json
import struct
import sys
import types
from pathlib import Path

import pytest

from pipeline import doctor
from pipeline.cli import main
from pipeline.doctor import package_checks, study_checks

ROOT = Path(__file__).resolve().parents[1]
CANARY = "CANARY_NAME"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A study with everything at hand, as the working folder; a stand-in for PyTorch, which takes seconds to load."""
    monkeypatch.chdir(tmp_path)
    stand_in = types.ModuleType("torch")
    stand_in.cuda = types.SimpleNamespace(is_available=lambda: False)
    stand_in.version = types.SimpleNamespace(cuda=None)
    monkeypatch.setitem(sys.modules, "torch", stand_in)
    (tmp_path / "images" / CANARY).mkdir(parents=True)
    (tmp_path / "images" / CANARY / f"{CANARY}.dcm").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "labels.csv").write_text(f"PatientID,label\n{CANARY},a\n", encoding="utf-8")
    (tmp_path / "study.yaml").write_text(
        "study: mine\n"
        "ingest: {source: images}\n"
        "label: {table: labels.csv, key: PatientID, classes: [a, b]}\n"
        "train: {weights: random}\n",
        encoding="utf-8",
    )
    return tmp_path


def checks():
    return {check.what: check for check in study_checks(Path("study.yaml"))}


def test_a_study_that_can_run_is_ready(place, capfd):
    assert main(["doctor", "--configfile", "study.yaml"]) == 0
    printed = capfd.readouterr().out
    assert printed.endswith("\nready\n")
    assert "bad" not in printed
    assert "images holds DICOM files" in printed
    assert CANARY not in printed


def test_the_built_in_study_is_the_default(place, capfd):
    (place / "config").mkdir()
    (place / "config" / "config.yaml").write_bytes((ROOT / "config" / "config.yaml").read_bytes())
    assert main(["doctor"]) == 0
    assert "synthetic, made by the study itself" in capfd.readouterr().out


def test_what_is_missing_is_told_with_a_remedy(place, capfd):
    text = (place / "study.yaml").read_text(encoding="utf-8")
    text = text.replace("images", "nowhere").replace("labels.csv", "none.csv")
    (place / "study.yaml").write_text(text.replace("random", "{source: file, file: x.pth, sha256: '" + "0" * 64 + "'}"))
    assert main(["doctor", "--configfile", "study.yaml"]) == 2
    printed = capfd.readouterr().out
    for key in ("ingest.source", "label.table", "train.weights"):
        assert f"bad   {key}" in printed
    assert printed.endswith("\n3 to mend before a study can run\n")


def test_a_checkpoint_of_another_study_is_found(place, capfd):
    facts = {
        "backbone": "resnet18",
        "head_blocks": ["layer4"],
        "classes": ["a", "b"],
        "weights_source": "random",
        "weights_sha256": "",
        "weights_licence": "",
        "normalisation": {"mean": [0.5] * 3, "deviation": [0.5] * 3},
    }
    header = json.dumps({"__metadata__": {"facts": json.dumps(facts)}}).encode()
    (place / "other.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    text = (place / "study.yaml").read_text(encoding="utf-8")
    (place / "study.yaml").write_text(text.replace("random", "{source: run, file: other.safetensors}"))
    assert main(["doctor", "--configfile", "study.yaml"]) == 0
    assert "run, found; no digest was asked for" in capfd.readouterr().out


def test_a_bad_configuration_is_told_with_its_lines(place, capfd):
    (place / "study.yaml").write_text("study: mine\ntrain: {epoch: 3}\n", encoding="utf-8")
    assert main(["doctor", "--configfile", "study.yaml"]) == 2
    printed = capfd.readouterr().out
    assert "study.yaml:2: unknown key `train.epoch`" in printed


def test_an_empty_folder_and_one_without_dicom(place):
    for path in sorted((place / "images").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    assert checks()["ingest.source"].state == "bad"
    (place / "images" / f"{CANARY}.txt").write_text("no image", encoding="utf-8")
    found = checks()["ingest.source"]
    assert found.state == "note"
    assert CANARY not in "".join(found)


def test_a_key_that_others_can_read_is_bad(place):
    key = place / "results" / "mine" / "restricted" / "key"
    key.parent.mkdir(parents=True)
    key.write_text("secret", encoding="utf-8")
    key.chmod(0o644)
    assert checks()["secret key"].state == "bad"
    assert "chmod 600" in checks()["secret key"].remedy
    key.chmod(0o600)
    assert checks()["secret key"].state == "ok"
    assert "secret" not in checks()["secret key"].found


def test_packages_out_of_range_are_named(monkeypatch):
    monkeypatch.setattr(doctor, "_required_packages", lambda: ["numpy>=1", "pydantic>=99", "no-such-package-here>=1"])
    found = list(package_checks())
    assert [check.state for check in found] == ["bad", "bad"]
    assert "pydantic" in found[0].found
    assert "wanted >=99" in found[0].found
    assert "no-such-package-here not installed" in found[1].found


def test_the_installed_packages_fit():
    assert [check.state for check in package_checks()] == ["ok"]
