"""Pre-training by the loop that fine-tunes: resumable to the byte, stopped at any epoch, written as a source."""

import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.core.errors import TrainingError
from pipeline.core.records import EpochLog
from pipeline.core.seeding import derive_seed
from pipeline.learning import pretraining
from pipeline.learning.criteria import calibrated_loss
from pipeline.learning.inference import predict_logits
from pipeline.learning.inputs.devices import Placement, choose_placement
from pipeline.learning.inputs.feeding import feed
from pipeline.learning.inputs.rendered import RenderedSource
from pipeline.learning.loop.checkpoints import locked
from pipeline.learning.loop.interruption import (
    TimeIsOverError,
    TrainingInterruptedError,
    end_if_asked,
    ended_after,
    interruptible,
    is_asked_to_end,
)
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
    return np.array([row & 1, row % 4 == 3], np.int64)  # the second is rare, so that balance makes a difference


def draw(row: int, variant: int) -> np.ndarray:
    picture = np.random.default_rng(derive_seed(5, row, variant)).integers(0, 100, (32, 32)).astype(np.uint8)
    for side, present in enumerate(states(row)):  # faint, so that the second epoch is the better one
        picture[8:24, 16 * side + 4 : 16 * side + 12] += np.uint8(30 * present)
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


class Clock:
    """Stands for the timer: its time is over when the test says so."""

    def __init__(self, seconds, function):
        Clock.seconds, Clock.end = seconds, function

    def start(self):
        pass

    cancel = join = start


def asking(after, end):
    """Draw as `draw`, and let something happen before a picture is drawn, counted from 0."""
    left = iter(range(after + 1))

    def drawing(row: int, variant: int) -> np.ndarray:
        if next(left, None) == after:
            end()
        return draw(row, variant)

    return drawing


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def end_of_time():
    Clock.end()


IN_THE_SECOND_EPOCH = TASK.rows + TASK.held_out + 10
BUDGET = 600.0


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    choose_placement("cpu", "float32", 1)
    return pretrain_network(TASK, PLACEMENT, tmp_path_factory.mktemp("whole"), BUDGET)


def written(path, found):
    write_source(path, found.state, {"seed": 3})
    return path.read_bytes()


@pytest.mark.slow
def test_a_training_that_was_terminated_gives_nothing_and_ends_with_the_same_bytes(tmp_path, whole):
    task = replace(TASK, draw=asking(IN_THE_SECOND_EPOCH, terminate))
    with interruptible(), pytest.raises(TrainingInterruptedError, match="interrupted by SIGTERM") as caught:
        pretrain_network(task, PLACEMENT, tmp_path / "state", BUDGET)
    assert not isinstance(caught.value, TimeIsOverError)
    resumed = pretrain_network(TASK, PLACEMENT, tmp_path / "state", BUDGET)
    assert resumed.is_whole
    assert written(tmp_path / "one.safetensors", resumed) == written(tmp_path / "other.safetensors", whole)


@pytest.mark.slow
def test_when_the_time_is_over_the_best_epoch_is_given_and_more_time_goes_on(tmp_path, whole, monkeypatch):
    monkeypatch.setattr(threading, "Timer", Clock)
    task = replace(TASK, draw=asking(IN_THE_SECOND_EPOCH, end_of_time))
    stopped = pretrain_network(task, PLACEMENT, tmp_path / "state", BUDGET)
    assert Clock.seconds == BUDGET
    assert not stopped.is_whole
    assert [log.epoch for log in stopped.history] == [1]
    assert stopped.history[0].validation_loss == whole.history[0].validation_loss
    usable = written(tmp_path / "usable.safetensors", stopped)
    # What was spent counts: a job that is submitted again and again does not get the whole time each time.
    resumed = pretrain_network(TASK, PLACEMENT, tmp_path / "state", BUDGET)
    assert BUDGET - stopped.seconds <= Clock.seconds < BUDGET
    assert resumed.is_whole
    one, other = written(tmp_path / "one.safetensors", resumed), written(tmp_path / "other.safetensors", whole)
    assert one == other != usable
    assert resumed.best_epoch == 2


@pytest.mark.slow
def test_a_training_stopped_before_its_first_epoch_has_nothing_to_give(tmp_path, monkeypatch):
    with interruptible(), pytest.raises(TrainingInterruptedError, match="SIGTERM"):
        pretrain_network(replace(TASK, draw=asking(0, terminate)), PLACEMENT, tmp_path / "one", BUDGET)
    monkeypatch.setattr(threading, "Timer", Clock)
    with pytest.raises(TimeIsOverError, match="before the first epoch") as caught:
        pretrain_network(replace(TASK, draw=asking(0, end_of_time)), PLACEMENT, tmp_path / "other", BUDGET)
    assert "--minutes" in caught.value.remedy


@pytest.mark.slow
def test_a_signal_is_not_taken_for_the_end_of_the_time(tmp_path, monkeypatch):
    monkeypatch.setattr(threading, "Timer", Clock)
    task = replace(TASK, draw=asking(IN_THE_SECOND_EPOCH, lambda: (end_of_time(), terminate())))
    with interruptible(), pytest.raises(TrainingInterruptedError) as caught:
        pretrain_network(task, PLACEMENT, tmp_path, BUDGET)
    assert not isinstance(caught.value, TimeIsOverError)


def test_the_time_of_one_training_does_not_end_the_next():
    with ended_after(0.0):
        while not is_asked_to_end():
            time.sleep(0.001)
        with pytest.raises(TimeIsOverError):
            end_if_asked()
    assert not is_asked_to_end()


def test_too_few_pictures_name_the_findings_and_the_options(tmp_path):
    rare = replace(TASK, states=lambda row: np.array([row & 1, row == 3]))
    with pytest.raises(
        TrainingError, match="`right` is not both present and absent in the pictures held out"
    ) as caught:
        pretrain_network(rare, PLACEMENT, tmp_path, BUDGET)
    assert "--held-out" in caught.value.remedy
    never = replace(TASK, states=lambda row: np.array([row & 1, 0]))
    with pytest.raises(TrainingError, match="`right` is not both present and absent in the training part") as caught:
        pretrain_network(never, PLACEMENT, tmp_path, BUDGET)
    assert "--rows" in caught.value.remedy
    assert "label.findings" not in caught.value.remedy


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


@pytest.mark.slow
def test_what_is_given_is_the_averaged_network_of_the_epoch_kept(whole):
    """Its loss is the one that was told, which a network of another epoch, or without averaging, has not."""
    network = BACKBONES["resnet18"].build(len(NAMES))
    network.load_state_dict(whole.state)
    rows = np.arange(TASK.rows, TASK.rows + TASK.held_out)
    logits = predict_logits(network, RenderedSource(draw, PHANTOM_NORMALISATION, PLACEMENT), rows)
    weights = np.array([[1.0, 1.0], [4 / 6, 4 / 2]])  # balanced: a half and a quarter of the rows show them
    loss = calibrated_loss(logits, np.stack([states(int(row)) for row in rows]), weights)
    assert loss == pytest.approx(whole.history[whole.best_epoch - 1].validation_loss, rel=1e-6)


class Training:
    """Stands for the loop: notes what it is given, and leaves a state behind."""

    def __init__(self):
        self.data, self.has_resumed, self.folders = None, None, []

    def __call__(self, network, data, recipe, task, states):
        self.data, self.has_resumed = data, states.latest() is not None
        self.folders.append(states.folder)
        log = EpochLog(
            strategy="scratch",
            fold=0,
            epoch=1,
            train_loss=1.0,
            validation_loss=1.0,
            validation_auroc=None,
            learning_rate=1e-4,
            seconds=1.0,
        )
        facts = {"spent": [1.0, 1.0], "best_epoch": 1, "history": [log.model_dump(mode="json")]}
        states.save(1, {"best/weight": torch.tensor([2.0]), "network/weight": torch.tensor([1.0])}, facts)


@pytest.fixture
def training(monkeypatch):
    stand_in = Training()
    monkeypatch.setattr(pretraining, "fine_tune", stand_in)
    monkeypatch.setattr(pretraining, "fresh_network", lambda task: None)
    return stand_in


OTHERS = {
    "names": replace(TASK, names=("left", "other")),
    "rows": replace(TASK, rows=40),
    "held_out": replace(TASK, held_out=24),
    "recipe": replace(TASK, recipe=replace(RECIPE, learning_rate=2e-4)),
    "backbone": replace(TASK, backbone="resnet34"),
    "seed": replace(TASK, seed=4),
    "size": replace(TASK, size=48),
    "code": replace(TASK, code="other"),
}


@pytest.mark.parametrize("other", [*OTHERS, "device", "precision", "threads"])
def test_a_training_of_another_kind_is_not_resumed_and_loses_nothing(tmp_path, training, capfd, other):
    placements = {
        "device": Placement("cuda", "float32", 1),
        "precision": Placement("cpu", "bfloat16", 1),
        "threads": Placement("cpu", "float32", 2),
    }
    placement = placements.get(other, PLACEMENT)
    with locked(tmp_path):
        pretrain_network(TASK, PLACEMENT, tmp_path, BUDGET)
        assert not training.has_resumed
        assert capfd.readouterr().err == ""
        pretrain_network(OTHERS.get(other, TASK), placement, tmp_path, BUDGET)
        assert not training.has_resumed
        assert "the states in this folder are of other commands" in capfd.readouterr().err
        found = pretrain_network(TASK, PLACEMENT, tmp_path, BUDGET)
        assert training.has_resumed
        pretrain_network(OTHERS.get(other, TASK), placement, tmp_path, BUDGET)
        assert training.has_resumed
    assert len(set(training.folders)) == 2
    assert found.state.keys() == {"weight"}
    assert found.state["weight"] == 2


def test_a_training_looks_at_its_rows_and_is_judged_on_others_with_findings_balanced(tmp_path, training):
    pretrain_network(TASK, PLACEMENT, tmp_path, BUDGET)
    data = training.data
    assert len(set(data.train_rows.tolist())) == TASK.rows
    assert len(set(data.validation_rows.tolist())) == TASK.held_out
    assert not set(data.train_rows.tolist()) & set(data.validation_rows.tolist())
    for rows, classes in ((data.train_rows, data.train_classes), (data.validation_rows, data.validation_classes)):
        assert np.array_equal(classes, [states(int(row)) for row in rows])
    # Absent and present get the same total: a half and a quarter of the rows show the findings.
    assert np.allclose(data.class_weights, [[1, 1], [4 / 6, 2]])
    plain = replace(TASK, recipe=replace(RECIPE, balance_classes=False))
    pretrain_network(plain, PLACEMENT, tmp_path, BUDGET)
    assert (training.data.class_weights == 1).all()


@pytest.mark.parametrize("seconds", [1e11, float("inf")])
def test_more_time_than_a_timer_can_wait_for_is_no_silent_end_of_the_limit(seconds):
    with ended_after(seconds):
        time.sleep(0.05)  # the timer's thread would have failed by now, and pytest tells of that
        assert any(isinstance(thread, threading.Timer) for thread in threading.enumerate())
        assert not is_asked_to_end()
