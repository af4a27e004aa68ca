"""Whatever way images take to the device, the network sees the same bits."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.learning.bank.filling import BankInputs, fill_bank
from pipeline.learning.inputs import feeding
from pipeline.learning.inputs.batches import Part, PixelSource, plain_batches, shuffled_batches
from pipeline.learning.inputs.devices import Placement, choose_placement
from pipeline.learning.inputs.feeding import brought, feed, read_ahead, settle
from pipeline.learning.loop.checkpoints import StateFolder
from pipeline.learning.loop.finetuning import FoldData, fine_tune
from pipeline.learning.weights.sources import IMAGENET_NORMALISATION
from tests.learning.test_bank import order
from tests.learning.test_finetuning import CHANGES, fold_data, network, recipe, task

pytestmark = pytest.mark.slow
PLACE = Placement("cpu", "float32", 1)
ROWS = np.arange(23)


def source(dtype="uint8", place=PLACE):
    pixels = np.random.default_rng(0).integers(0, 256, size=(23, 9, 7)).astype(dtype)
    return PixelSource(pixels / 256 if dtype == "float16" else pixels, IMAGENET_NORMALISATION, place, CHANGES)


def resident(one):
    return replace(one, resident=brought(one.pixels, one.placement.device, chunk_bytes=300))


@pytest.mark.parametrize("dtype", ["uint8", "float16"])
@pytest.mark.parametrize("is_random", [True, False])
def test_resident_prefetched_and_plain_reading_give_the_same_bits(dtype, is_random):
    batches = shuffled_batches(ROWS, 5, 1)
    seeds = list(range(len(batches))) if is_random else None
    plain = source(dtype)
    expected = [plain.train(rows, i) if is_random else plain.plain(rows) for i, rows in enumerate(batches)]
    for found in (
        feed(plain, batches, seeds),
        feed(plain, batches, seeds, is_ahead=True),
        feed(resident(plain), batches, seeds),
    ):
        assert all(one.equal(other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("is_random", [True, False])
def test_maps_of_a_bank_are_the_same_read_ahead_and_in_parts(tmp_path, is_random):
    banked = BankInputs(fill_bank(order("layer4", views=3, images=11), tmp_path, shard_images=4), PLACE)
    batches = shuffled_batches(np.arange(11), 4, 1)
    seeds = list(range(5, 5 + len(batches))) if is_random else None
    expected = [banked.train(rows, 5 + i) if is_random else banked.plain(rows) for i, rows in enumerate(batches)]
    for is_ahead in (True, False):
        found = feed(banked, batches, seeds, is_ahead=is_ahead)
        assert all(one.equal(other) for one, other in zip(found, expected, strict=True))
    parts = [feed(banked, batches, seeds, Part(number, 2), is_ahead=True) for number in range(2)]
    assert all(torch.cat(both).equal(whole) for *both, whole in zip(*parts, expected, strict=True))


def test_a_training_has_the_same_bits_however_its_images_come(tmp_path, monkeypatch):
    found = []
    for way in ("plain", "ahead", "resident"):
        data, trained = fold_data(), network()
        if way == "resident":
            data = FoldData(**{**vars(data), "inputs": resident(data.inputs)})
        with monkeypatch.context() as patch:
            if way == "ahead":
                patch.setattr(feeding, "on_device", _no_reading_here)
                patch.setattr(feeding, "_stored", _always_ahead(feeding._stored))
            history, *_ = fine_tune(trained, data, recipe(epochs=2), task(), StateFolder(tmp_path / way, "k"))
        found.append((trained.state_dict(), [log.train_loss for log in history]))
    for state, losses in found[1:]:
        assert losses == found[0][1]
        assert all(value.equal(found[0][0][name]) for name, value in state.items())


def _no_reading_here(values, device):
    assert threading.current_thread().name.startswith("read-ahead") or values.ndim < 3
    return values.to(device)


def _always_ahead(stored):
    return lambda inputs, wanted, **_: stored(inputs, wanted, is_ahead=True)


@given(count=st.integers(1, 40), of=st.integers(1, 9))
def test_parts_hold_every_image_once_in_order_and_are_of_nearly_equal_size(count, of):
    parts = [np.arange(count)[Part(index, of).within(count)] for index in range(of)]
    assert np.concatenate(parts).tolist() == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("of", [2, 3])
@pytest.mark.parametrize("way", ["plain", "resident", "another kind"])
def test_the_parts_of_a_batch_are_changed_as_the_whole_batch_is(of, way):
    batches, one = plain_batches(ROWS, 8), source()
    one = {"plain": one, "resident": resident(one), "another kind": _Other(one)}[way]
    whole = list(feed(one, batches, [3, 4, 5]))
    parts = [list(feed(one, batches, [3, 4, 5], Part(index, of))) for index in range(of)]
    for index, batch in enumerate(whole):
        assert torch.cat([part[index] for part in parts]).equal(batch)


class _Other:
    """Inputs of another kind, which know nothing of parts."""

    def __init__(self, one):
        self.placement, self.looks, self.train, self.plain = one.placement, 1, one.train, one.plain


def test_what_fails_in_the_thread_fails_here_and_leaves_no_thread():
    def read(index):
        if index == 3:
            raise OSError("gone")
        return torch.tensor([index])

    found = []
    with pytest.raises(OSError, match="gone"):
        found.extend(int(one) for one in read_ahead(read, 10, "cpu"))
    assert found == [0, 1, 2]
    assert not [one for one in threading.enumerate() if one.name.startswith("read-ahead")]


def test_who_stops_early_leaves_no_thread_and_little_was_read():
    seen = []
    reading = read_ahead(lambda index: seen.append(index) or torch.tensor([index]), 1000, "cpu", depth=2)
    assert next(reading) == 0
    reading.close()
    assert not [one for one in threading.enumerate() if one.name.startswith("read-ahead")]
    assert len(seen) <= 3


def test_on_a_processor_the_memory_map_stays_where_it_is(capfd):
    assert settle(source()).resident is None
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("free", "is_resident"), [(23 * 63 * 10 // 3 + 1, True), (23 * 63 * 10 // 3 - 1, False)])
def test_a_gpu_with_room_takes_all_images_and_says_so(monkeypatch, capfd, free, is_resident):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free, 2 * free))
    monkeypatch.setattr(feeding, "brought", lambda pixels, device: torch.from_numpy(pixels))
    settled = settle(source(place=Placement("cuda", "float32", 1)))
    assert (settled.resident is not None) == is_resident
    assert ("are brought to the GPU" in capfd.readouterr().err) == is_resident
    assert settle(settled) is settled or not is_resident


@pytest.mark.gpu
def test_a_gpu_sees_the_same_bits_by_each_way():
    if not torch.cuda.is_available():
        pytest.skip("no GPU on this machine")
    one = source(place=choose_placement("cuda", "float32", 1))
    batches = shuffled_batches(ROWS, 5, 1)
    seeds = list(range(len(batches)))
    expected = [one.train(rows, seed) for rows, seed in zip(batches, seeds, strict=True)]
    for way in (one, settle(one)):
        assert all(a.equal(b) for a, b in zip(feed(way, batches, seeds), expected, strict=True))
