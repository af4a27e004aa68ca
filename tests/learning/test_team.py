"""Several processes train one network as one process does, and what happens to one of them is said and survived."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.core.errors import TrainingError
from pipeline.learning.inputs.devices import choose_devices
from pipeline.learning.loop import launching
from pipeline.learning.loop.checkpoints import StateFolder, read_checkpoint
from pipeline.learning.loop.finetuning import fine_tune
from pipeline.learning.loop.launching import together
from pipeline.learning.loop.team import ALONE, Team
from tests.learning.test_finetuning import fold_data, network, recipe, task
from tests.learning.tiny_study import kill, write_source
from tests.learning.tiny_team import (
    both,
    die,
    differ,
    fail,
    normalise,
    read_map,
    spread,
    start_together,
    stumble,
    tell_addresses,
)

pytestmark = pytest.mark.slow
PATIENCE = 120.0


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="the kernel does not tell who listens where")
def test_nothing_listens_beyond_this_machine():
    with together(2, "cpu", tell_addresses) as team:
        found = tell_addresses(team)
    assert found[0], "the first process does not listen at all"
    assert {address for one in found for address in one} == {"0100007F"}  # 127.0.0.1


def test_one_alone_starts_nothing():
    with together(1, "cuda", fail) as team:
        assert team is ALONE
        assert team.gather(3) == [3]


def test_normalisation_over_two_processes_is_that_of_the_whole_batch_and_gradients_add_up():
    both(normalise)


def test_all_begin_with_the_weights_of_the_first():
    both(spread, size=3)


@pytest.mark.parametrize(
    ("function", "message"),
    [(fail, "process 2 of the training: the wind has turned"), (stumble, "KeyError"), (die, r"ended \(SIGKILL\)")],
)
def test_what_happens_to_another_process_is_an_error_here(function, message, capfd):
    began = time.monotonic()
    with pytest.raises(TrainingError, match=message):
        _exchange_twice(function)
    assert time.monotonic() - began < 60


def _exchange_twice(function):
    with together(2, "cpu", function) as team:
        team.gather(0)
        team.gather(0)


def test_processes_that_differ_stop():
    with pytest.raises(TrainingError, match=r"different numbers: \[0, 1\]"):
        both(differ)


def test_a_process_that_cannot_start_is_an_error():
    with pytest.raises(TrainingError, match="process 2 of the training ended"):
        both(spread, _Unreadable())


class _Unreadable:
    def __reduce__(self):
        return os.abort, ()


def test_a_memory_map_is_opened_again_and_not_sent(tmp_path):
    np.save(tmp_path / "pixels.npy", np.arange(6).reshape(2, 3))
    pixels = np.load(tmp_path / "pixels.npy", mmap_mode="r")
    for sent, name in ((pixels, str(tmp_path / "pixels.npy")), (pixels[1:], "")):
        with together(2, "cpu", read_map, sent) as team:
            _, found = team.gather(None)
        assert found == ("memmap" if name else "ndarray", name, sent.tolist())


def test_more_gpus_than_there_are_is_an_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(TrainingError, match="2 GPUs are asked for, and PyTorch sees 1"), together(2, "cuda", fail):
        pass


def test_batches_too_small_for_the_team_are_an_error(tmp_path):
    with pytest.raises(TrainingError, match="batches of 10 images cannot be divided over 11 processes"):
        fine_tune(network(), fold_data(), recipe(), task(), StateFolder(tmp_path, "k"), Team(0, 11))


@pytest.mark.parametrize(
    ("device", "devices", "gpus", "expected"),
    [("cpu", "auto", 4, (1, 8)), ("cpu", 2, 0, (2, 4)), ("auto", "auto", 4, (4, 2)), ("auto", "auto", 0, (1, 8))],
)
def test_as_many_processes_as_asked_for_share_the_threads(monkeypatch, device, devices, gpus, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    before = torch.get_num_threads()
    count, placement = choose_devices(device, devices, "float32", 8, gpus)
    torch.set_num_threads(before)
    torch.use_deterministic_algorithms(mode=True)
    assert (count, placement.threads) == expected


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Train with one process and with two, without interruption."""
    folder = tmp_path_factory.mktemp("whole")
    write_source(folder / "source.pth")
    running = []
    for name in ("full", "scratch"):
        for devices in (1, 2):
            running.append(start_together(name, folder / "source.pth", folder / f"{name}-{devices}", devices))
        for process in running:
            process.join()
            assert process.exitcode == 0
    return folder


@pytest.mark.parametrize("name", ["full", "scratch"])
def test_two_processes_learn_what_one_learns(whole, name):
    """Sums of parts round otherwise than sums of the whole: losses and weights agree to about 1e-6 of their size.

    In `scratch` statistics are learned over parts of 2 and 3 images.
    """
    one, two = (
        read_checkpoint(sorted((whole / f"{name}-{devices}" / "states" / name).glob("epoch-*"))[-1])
        for devices in (1, 2)
    )
    losses = [[(log["train_loss"], log["validation_loss"]) for log in state.facts["history"]] for state in (one, two)]
    assert len(losses[0]) == 3
    assert np.allclose(losses[0], losses[1], rtol=1e-3, atol=1e-5)
    if name == "full":
        for key, value in one.tensors.items():
            if key.startswith(("network/", "average/")):
                assert torch.allclose(value, two.tensors[key], rtol=1e-3, atol=1e-4), key


def begin(whole, folder, name="full"):
    for path in folder.glob("states/process-*"):
        path.unlink()
    return start_together(name, whole / "source.pth", folder, 2)


def wait_for(condition, process):
    began = time.monotonic()
    while not condition() and process.is_alive():
        assert time.monotonic() - began < PATIENCE
        time.sleep(0.002)


def states(folder):
    return list((folder / "states").glob("full/*.safetensors"))


def is_running(number):
    try:
        return Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def assert_finished_alike(whole, folder):
    process = begin(whole, folder)
    process.join()
    assert process.exitcode == 0
    assert "resumed after epoch" in (folder / "log.txt").read_text()
    assert (folder / "result.safetensors").read_bytes() == (whole / "full-2" / "result.safetensors").read_bytes()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_training_of_two_processes_goes_on_with_the_same_bits(whole, tmp_path, number):
    folder = tmp_path / "out"
    process = begin(whole, folder)
    wait_for(lambda: len(states(folder)) > 1, process)
    other = int((folder / "states" / "process-1").read_text())
    kill(process, number)
    assert process.exitcode == (2 if number == signal.SIGTERM else -signal.SIGKILL)
    began = time.monotonic()
    while is_running(other):
        assert time.monotonic() - began < 30, "the other process outlives the first"
        time.sleep(0.01)
    assert_finished_alike(whole, folder)


def test_when_the_other_process_dies_the_training_ends_and_goes_on_later(whole, tmp_path):
    folder = tmp_path / "out"
    process = begin(whole, folder)
    wait_for(lambda: len(states(folder)) > 1, process)
    os.kill(int((folder / "states" / "process-1").read_text()), signal.SIGKILL)
    began = time.monotonic()
    process.join()
    assert time.monotonic() - began < 30
    assert process.exitcode == 2
    assert "process 2 of the training ended (SIGKILL)" in (folder / "log.txt").read_text()
    assert_finished_alike(whole, folder)


def test_a_wait_without_end_is_ended(tmp_path):
    """As with a GPU, which waits for ever for one that is gone: here the first process sleeps."""
    context = launching.multiprocessing.get_context("forkserver")
    process = context.Process(target=_sleep_while_the_other_dies, args=(str(tmp_path / "log"),))
    process.start()
    process.join(60)
    assert process.exitcode == 2
    assert "ended (SIGKILL)" in (tmp_path / "log").read_text()


def _sleep_while_the_other_dies(log):
    import sys

    launching.SECONDS_TO_END = 0.5
    with Path(log).open("w") as sys.stderr, together(2, "cpu", die) as team:
        team.gather(0)
        time.sleep(1000)
