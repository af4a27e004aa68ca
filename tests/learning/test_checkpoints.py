import multiprocessing
import resource

import pytest
import torch

from pipeline.core.errors import ArtefactError, TrainingError
from pipeline.learning.loop import checkpoints
from pipeline.learning.loop.checkpoints import StateFolder, locked, read_checkpoint, write_checkpoint

pytestmark = pytest.mark.slow


def tensors(value: float) -> dict[str, torch.Tensor]:
    image = torch.full((1, 2, 3, 4), value).contiguous(memory_format=torch.channels_last)
    return {"a": image, "step": torch.tensor(value)}


def test_round_trip(tmp_path):
    write_checkpoint(tmp_path / "c.safetensors", tensors(0.1), {"epoch": 3, "loss": 0.1 + 0.2})
    read = read_checkpoint(tmp_path / "c.safetensors")
    assert read.facts == {"epoch": 3, "loss": 0.1 + 0.2}
    assert all(torch.equal(read.tensors[name], value) for name, value in tensors(0.1).items())


def test_equal_contents_give_equal_bytes(tmp_path):
    """Many times: safetensors writes entries of its metadata in an order that differs from one to the next."""
    for name in map(str, range(10)):
        write_checkpoint(tmp_path / name, tensors(0.5), {"x": 1, "y": 2})
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_the_two_last_states_are_kept_and_the_last_is_read(tmp_path):
    states = StateFolder(tmp_path, "key")
    assert states.latest() is None
    for epoch in range(1, 5):
        states.save(epoch, tensors(epoch), {"epoch": epoch})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch-00003.safetensors", "epoch-00004.safetensors"]
    assert states.latest().facts["epoch"] == 4


@pytest.mark.parametrize("damage", ["truncated", "emptied", "overwritten", "flipped"])
def test_a_damaged_last_state_falls_back_to_the_one_before(tmp_path, damage, capsys):
    states = StateFolder(tmp_path, "key")
    for epoch in (1, 2):
        states.save(epoch, tensors(epoch), {"epoch": epoch})
    path = tmp_path / "epoch-00002.safetensors"
    content = path.read_bytes()
    flipped = content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]  # of a value
    damaged = {"truncated": content[:-5], "emptied": b"", "overwritten": b"x" * len(content), "flipped": flipped}
    path.write_bytes(damaged[damage])
    assert states.latest().facts["epoch"] == 1
    assert "damaged" in capsys.readouterr().err


def test_a_state_of_another_key_is_never_resumed(tmp_path):
    StateFolder(tmp_path, "one").save(1, tensors(1), {"epoch": 1})
    assert StateFolder(tmp_path, "other").latest() is None


def _try_lock(folder: str, answer: "multiprocessing.SimpleQueue[str]") -> None:
    from pathlib import Path

    try:
        with locked(Path(folder)):
            answer.put("held")
    except TrainingError as error:
        answer.put(str(error))


def test_a_second_process_is_refused(tmp_path):
    context = multiprocessing.get_context("spawn")
    answer = context.SimpleQueue()
    with locked(tmp_path):
        process = context.Process(target=_try_lock, args=(str(tmp_path), answer))
        process.start()
        assert "another process" in answer.get()
        process.join()
    with locked(tmp_path):
        pass


def test_short_epochs_share_a_state(tmp_path, monkeypatch):
    states = StateFolder(tmp_path, "key")
    assert not states.is_due()
    monkeypatch.setattr(checkpoints, "SECONDS_BETWEEN_STATES", 0.0)
    assert states.is_due()


def test_leftovers_of_another_training_do_not_push_out_the_own_state(tmp_path):
    old = StateFolder(tmp_path, "old")
    for epoch in (7, 8):
        old.save(epoch, tensors(epoch), {"epoch": epoch})
    states = StateFolder(tmp_path, "new")
    for epoch in (1, 2):
        states.save(epoch, tensors(epoch), {"epoch": epoch})
        assert states.latest().facts["epoch"] == epoch
    assert len(list(tmp_path.iterdir())) == 2


def _save_with_little_room(folder, line):
    """Leave room for the facts and not for the tensors; a file beyond the limit is refused as by a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    try:
        StateFolder(folder, "key").save(2, {"a": torch.zeros(100_000)}, {"epoch": 2})
    except ArtefactError as error:
        line.send((error.what, error.where, error.remedy))
    except Exception as error:  # noqa: BLE001  whatever it is, the test is to show it
        line.send((type(error).__name__, str(error), ""))


def test_a_state_that_the_disk_cannot_hold_is_an_error_for_people_and_the_one_before_stays(tmp_path):
    StateFolder(tmp_path, "key").save(1, tensors(1.0), {"epoch": 1})
    context = multiprocessing.get_context("forkserver")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_save_with_little_room, args=(tmp_path, there))
    process.start()
    there.close()
    what, where, remedy = here.recv()
    process.join()
    assert what == "cannot write (File too large)"
    assert where.endswith("epoch-00002.safetensors")
    assert "free disk space" in remedy
    assert [path.name for path in tmp_path.iterdir()] == ["epoch-00001.safetensors"]
    assert StateFolder(tmp_path, "key").latest().facts["epoch"] == 1


def test_what_is_no_fault_of_the_disk_stays_a_fault_of_the_program(tmp_path, monkeypatch):
    import safetensors.torch

    def refuse(*_, **__):
        raise safetensors.SafetensorError("Error while serializing: invalid header")

    monkeypatch.setattr(safetensors.torch, "save_file", refuse)
    with pytest.raises(safetensors.SafetensorError):
        write_checkpoint(tmp_path / "c.safetensors", tensors(1.0), {})
    assert not list(tmp_path.iterdir())
