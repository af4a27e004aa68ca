"""The benchmark for GPUs, run small on the processor: its code works where its numbers mean nothing."""

import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "learning_gpu.py"


@pytest.fixture
def benchmark(monkeypatch):
    import torch

    before = torch.get_num_threads()
    monkeypatch.syspath_prepend(SCRIPT.parent)  # as when it is run
    found = importlib.util.spec_from_file_location("learning_gpu", SCRIPT)
    module = importlib.util.module_from_spec(found)
    sys.modules["learning_gpu"] = module
    found.loader.exec_module(module)
    yield module
    del sys.modules["learning_gpu"]
    torch.set_num_threads(before)


def run(benchmark, monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["learning_gpu.py", *words])
    benchmark.main()


@pytest.mark.slow
def test_it_runs_every_way_and_prints_and_records_targets(benchmark, monkeypatch, tmp_path, capsys):
    from tests.learning.tiny_study import build_tiny

    tiny = benchmark.BACKBONES["resnet18"]._replace(build=build_tiny, features=6)
    monkeypatch.setitem(benchmark.BACKBONES, "resnet18", tiny)
    sizes = ["--size", "32", "--images", "24", "--monai-images", "8", "--batch", "4", "--rounds", "2", "--workers", "0"]
    device = ["--device", "cpu", "--precision", "float32", "--no-compile", "--backbones", "resnet18"]
    run(benchmark, monkeypatch, *sizes, *device, "--record", str(tmp_path / "r.json"))
    shown = capsys.readouterr().out
    targets = re.findall(r"^target (\S+) measured -?[\d.]+ wanted >=[\d.]+ (?:ok|short)$", shown, re.MULTILINE)
    assert {"gpu_resnet18_to_ceiling", "gpu_resnet18_to_monai", "gpu_resnet18_float32_logits_agree"} <= set(targets)
    facts = json.loads((tmp_path / "r.json").read_text())
    assert set(facts["resnet18"]) == {"ours", "ceiling", "ours, read ahead", "MONAI", "scores"}
    assert all(facts["resnet18"][way]["images_per_second"] > 0 for way in ("ours", "ceiling", "MONAI"))
    agreement = next(one for one in facts["targets"] if one["name"] == "gpu_resnet18_float32_logits_agree")
    assert agreement["measured"] > 0.999  # here both are the processor
    if benchmark.torch.cuda.is_available():
        return
    run(benchmark, monkeypatch, "--record", str(tmp_path / "r.json"))
    shown = capsys.readouterr().out
    assert "no GPU here: nothing is measured" in shown
    assert f"last measured: {facts['date']} on processor" in shown


@pytest.mark.slow
def test_without_numbers_it_says_never_measured(benchmark, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(benchmark.torch.cuda, "is_available", lambda: False)
    run(benchmark, monkeypatch, "--record", str(tmp_path / "none.json"))
    assert "last measured: never measured" in capsys.readouterr().out


@pytest.mark.slow
def test_utilisation_that_cannot_be_read_is_unknown(benchmark, monkeypatch, capsys):
    import gpu_measures

    def refuse():
        raise ModuleNotFoundError("pynvml")

    monkeypatch.setattr(benchmark.torch.cuda, "utilization", refuse)
    monkeypatch.setattr(gpu_measures.shutil, "which", lambda name: None)
    assert gpu_measures._utilisation() is None
    gpu_measures.table("x", {"ours": gpu_measures.Measured([1.0]).facts()})
    assert "unknown" in capsys.readouterr().out
