import os
import shutil
import signal
import time

import numpy as np
import pytest

from pipeline.core.artefacts import read_document, write_document
from pipeline.learning.bank.files import BankManifest
from pipeline.learning.loop import interruption
from pipeline.learning.loop.checkpoints import read_checkpoint
from pipeline.learning.loop.interruption import TrainingInterruptedError, end_if_asked, interruptible, is_asked_to_end
from pipeline.learning.strategies import STRATEGIES, banked
from tests.learning.tiny_study import fill_tiny, kill, start, train_tiny, write_source

pytestmark = pytest.mark.slow
KILLS = int(os.environ.get("IMAGING_TRANSFER_TEST_KILLS", "4"))  # of each strategy: 20 in all, if none are asked for
PATIENCE = 60.0  # seconds for what takes less than one on a machine of its own


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Fill the bank and train every strategy without interruption; give the source of weights and the folders."""
    folder = tmp_path_factory.mktemp("whole")
    write_source(folder / "source.pth")
    process = start(fill_tiny, folder / "source.pth", folder / "bank.json")
    process.join()
    assert process.exitcode == 0
    for name in STRATEGIES:
        process = begin(name, folder, folder / name)
        began = time.monotonic()
        process.join()
        (folder / name / "seconds").write_text(str(time.monotonic() - began))
        assert process.exitcode == 0
    return folder


def wait_for(condition, process):
    began = time.monotonic()
    while not condition() and process.is_alive():
        assert time.monotonic() - began < PATIENCE
        time.sleep(0.001)


def begin(name, whole, folder):
    (folder / "begun").unlink(missing_ok=True)
    process = start(train_tiny, name, whole / "source.pth", folder, whole / "bank.json")
    wait_for((folder / "begun").exists, process)
    return process


def assert_equal_bytes(whole, folder, name):
    assert (folder / "result.safetensors").read_bytes() == (whole / name / "result.safetensors").read_bytes()


@pytest.mark.parametrize("name", STRATEGIES)
def test_killed_at_random_moments_the_results_have_the_same_bytes(whole, tmp_path, name):
    """SIGKILL leaves no chance to save anything; what counts is what was written before."""
    moments = np.random.default_rng(list(name.encode()))
    folder = tmp_path / name
    duration = float((whole / name / "seconds").read_text())
    kills = 0
    while kills < KILLS:
        process = begin(name, whole, folder)
        time.sleep(moments.uniform(0, 0.3 * duration))
        kill(process)
        if process.exitcode == -signal.SIGKILL:
            kills += 1
        else:  # it was done before: this one does not count
            shutil.rmtree(folder)
    final = begin(name, whole, folder)
    final.join()
    assert final.exitcode == 0
    assert_equal_bytes(whole, folder, name)


def test_a_probe_chooses_among_the_blocks_of_the_bank(whole):
    assert "probe: features after" in (whole / "probe" / "log.txt").read_text()
    for name in STRATEGIES:
        blocks = read_checkpoint(whole / name / "result.safetensors").facts["head_blocks"]
        assert (blocks == ["layer4"]) == (name != "probe")  # here others tell the bars apart better


@pytest.mark.parametrize("name", banked(STRATEGIES, is_random=False))
def test_strategies_from_a_source_read_the_bank(whole, tmp_path, name):
    """Without one of its files they stop, so that what the kills of these strategies test is training from a bank."""
    folder = tmp_path / "whole"
    folder.mkdir()
    shutil.copy(whole / "source.pth", folder)
    manifest = read_document(whole / "bank.json", BankManifest)
    shutil.copytree(manifest.folder, folder / "bank")
    for path in (folder / "bank").glob(f"{'features' if name == 'probe' else 'maps'}-00000008.npy"):
        path.unlink()
    write_document(folder / "bank.json", manifest.model_copy(update={"folder": str(folder / "bank")}))
    process = begin(name, folder, tmp_path / name)
    process.join()
    assert process.exitcode == 2
    assert "the bank" in (tmp_path / name / "log.txt").read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_step_and_ends_with_an_error(whole, tmp_path, number):
    folder = tmp_path / "out"
    process = begin("gradual", whole, folder)
    wait_for(lambda: any((folder / "states").glob("gradual/*")), process)
    began = time.monotonic()
    kill(process, number)
    assert time.monotonic() - began < 30
    assert process.exitcode == 2
    assert f"interrupted by {number.name}" in (folder / "log.txt").read_text()
    assert not (folder / "result.safetensors").exists()
    begin("gradual", whole, folder).join()
    assert "resumed after epoch" in (folder / "log.txt").read_text()
    assert_equal_bytes(whole, folder, "gradual")


def test_a_damaged_state_costs_one_step(whole, tmp_path):
    folder = tmp_path / "out"
    process = begin("full", whole, folder)
    wait_for(lambda: len(list((folder / "states").glob("full/*.step-*"))) > 1, process)
    kill(process)
    last = sorted((folder / "states" / "full").glob("epoch-*.safetensors"))[-1]
    last.write_bytes(last.read_bytes()[:-7])
    begin("full", whole, folder).join()
    assert "training state passed over" in (folder / "log.txt").read_text()
    assert_equal_bytes(whole, folder, "full")


def test_what_is_compared_was_trained(whole):
    """Were the start kept, equal bytes would say nothing of the steps."""
    for name in STRATEGIES:
        assert (read_checkpoint(whole / name / "result.safetensors").facts["best_epoch"] > 0) == (name != "probe")


def test_the_two_networks_of_an_ensemble_differ_and_a_probe_of_a_source_has_one(whole):
    for name in STRATEGIES:
        tensors = read_checkpoint(whole / name / "result.safetensors").tensors
        if name == "probe":
            assert not any(key.startswith("1/") for key in tensors)
        else:
            assert not tensors["0/fc.weight"].equal(tensors["1/fc.weight"])


def test_handlers_are_put_back_and_a_second_sigint_ends_at_once():
    before = signal.getsignal(signal.SIGTERM)
    with interruptible():
        assert not is_asked_to_end()
        end_if_asked()
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert is_asked_to_end()
        with pytest.raises(TrainingInterruptedError, match="SIGTERM"):
            end_if_asked()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before
    assert interruption._asked == []
