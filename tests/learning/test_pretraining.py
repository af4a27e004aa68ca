"""Pre-training by the loop that fine-tunes: resumable to the byte, stopped at any epoch, written as a source."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.core.errors import TrainingError
from pipeline.core.seeding import derive_seed
from pipeline.learning.inputs.devices import Placement, choose_placement
from pipeline.learning.inputs.feeding import feed
from pipeline.learning.inputs.rendered import RenderedSource
from pipeline.learning.loop.interruption import TrainingInterruptedError, interruptible
from pipeline.learning.networks.backbones import BACKBONES
from pipeline.learning.pretraining import SourceTask, pretrain_network, write_source
from pipeline.learning.recipes import Recipe
from pipeline.learning.weights.files import file_digest, read_state
from pipeline.learning.weights.loading import VerifiedWeights, build_network
from pipeline.learning.weights.sources import PHANTOM_NORMALISATION

NAMES = ("left", "right")
PLACEMENT = Placement("cpu", "float32", 1)
RECIPE = Recipe(
    epochs=2,
    patience=2,
    batch_size=8,
    learning_rate=1e-4,
    weight_decay=0.05,
    warmup_fraction=0.1,
    label_smoothing=0.0,
    balance_classes=True,
    ema_decay=0.9,
)


def states(row: int) -> np.ndarray:
    return np.array([row & 1, row >> 1 & 1])


def draw(row: int, variant: int) -> np.ndarray:
    picture = np.random.default_rng(derive_seed(5, row, variant)).integers(0, 100, (32, 32)).astype(np.uint8)
    for side, present in enumerate(states(row)):
        picture[8:24, 16 * side + 4 : 16 * side + 12] += np.uint8(120 * present)
    return picture


TASK = SourceTask(
    draw=draw,
    states=states,
    names=NAMES,
    rows=32,
    recipe=RECIPE,
    backbone="resnet18",
    seed=3,
    size=32,
    code="test",
    held_out=16,
)


def test_a_rendered_source_is_fed_as_it_gives_and_every_variant_is_another_picture():
    source = RenderedSource(draw, PHANTOM_NORMALISATION, PLACEMENT)
    rows = [np.array([0, 3, 1]), np.array([2, 5])]
    fed = list(feed(source, rows, [11, 12]))
    assert all(torch.equal(one, source.train(part, seed)) for one, part, seed in zip(fed, rows, (11, 12), strict=True))
    assert not torch.equal(source.train(rows[0], 11), source.train(rows[0], 12))
    assert torch.equal(source.plain(rows[0]), next(iter(feed(source, rows))))
    expected = (torch.from_numpy(draw(3, 11)) / 255 - 0.5) / 0.25
    assert torch.allclose(fed[0][1], expected.expand(3, 32, 32))


def test_plain_pictures_are_drawn_once():
    asked = []

    def noted(row: int, variant: int) -> np.ndarray:
        asked.append((row, variant))
        return draw(row, variant)

    source = RenderedSource(noted, PHANTOM_NORMALISATION, PLACEMENT)
    for _ in range(3):
        source.plain(np.array([4, 6]))
    assert asked == [(4, 0), (6, 0)]


@pytest.mark.slow
def test_a_training_that_was_stopped_ends_with_the_same_bytes(tmp_path):
    choose_placement("cpu", "float32", 1)
    whole = pretrain_network(TASK, PLACEMENT, tmp_path / "whole", 10)
    left = iter(range(TASK.rows + TASK.held_out + 20))  # the signal comes in the middle of the second epoch

    def interrupting(row: int, variant: int) -> np.ndarray:
        if next(left, None) == TASK.rows + TASK.held_out + 10:
            os.kill(os.getpid(), signal.SIGTERM)
        return draw(row, variant)

    with interruptible():
        stopped = pretrain_network(replace(TASK, draw=interrupting), PLACEMENT, tmp_path / "stopped", 10)
    assert not stopped.is_whole
    assert [log.epoch for log in stopped.history] == [1]
    write_source(tmp_path / "usable.safetensors", stopped.state, {})  # at any epoch there is something to use
    resumed = pretrain_network(TASK, PLACEMENT, tmp_path / "stopped", 10)
    assert resumed.is_whole
    for name, found in (("one", whole), ("other", resumed)):
        write_source(tmp_path / f"{name}.safetensors", found.state, {"seed": 3})
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "other.safetensors").read_bytes()
    assert (tmp_path / "one.safetensors").read_bytes() != (tmp_path / "usable.safetensors").read_bytes()


@pytest.mark.slow
def test_a_training_stopped_before_its_first_epoch_has_nothing_to_give(tmp_path):
    def interrupting(row: int, variant: int) -> np.ndarray:
        os.kill(os.getpid(), signal.SIGTERM)
        return draw(row, variant)

    with interruptible(), pytest.raises(TrainingInterruptedError):
        pretrain_network(replace(TASK, draw=interrupting), PLACEMENT, tmp_path, 10)


def test_a_source_is_written_in_half_the_size_and_read_back_as_a_network(tmp_path):
    network = BACKBONES["resnet18"].build(len(NAMES))
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(1e-7, 2)  # smaller than the smallest float16
    path = tmp_path / "source.safetensors"
    write_source(path, network.state_dict(), {"seed": 3})
    assert path.stat().st_size < 24e6
    weights = VerifiedWeights(
        source="file",
        path=path,
        sha256=file_digest(path),
        licence="",
        normalisation=PHANTOM_NORMALISATION,
        output_classes=len(NAMES),
    )
    found = build_network("resnet18", weights, seed=0).state_dict()
    for name, value in network.state_dict().items():
        if value.ndim == 1:
            assert torch.equal(found[name], value), name
        elif value.ndim:
            assert torch.allclose(found[name], value, rtol=2**-10, atol=1e-7), name
    kinds = {value.dtype for value in read_state(path).values()}
    assert kinds == {torch.float16, torch.float32}


def test_kernels_that_do_not_fit_into_half_precision_are_refused(tmp_path):
    with pytest.raises(TrainingError, match="float16"):
        write_source(tmp_path / "w.safetensors", {"conv.weight": torch.full((1, 1), 1e6)}, {})
    assert list(Path(tmp_path).iterdir()) == []
