"""Stochastic depth: residual blocks of an EfficientNet are left out at random in training, where they are trained."""

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.networks.nets import efficientnet
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.learning.inputs.batches import PixelSource
from pipeline.learning.inputs.devices import choose_placement
from pipeline.learning.loop.checkpoints import StateFolder
from pipeline.learning.loop.finetuning import FoldData, Task, fine_tune, set_mode
from pipeline.learning.loop.launching import together
from pipeline.learning.loop.team import ALONE, Team
from pipeline.learning.networks.backbones import BACKBONES, block_of, replace_head
from pipeline.learning.networks.blocks import lower, upper
from pipeline.learning.strategies import BlockPlan
from pipeline.learning.weights.loading import RANDOM, build_network
from pipeline.learning.weights.sources import IMAGENET_NORMALISATION
from tests.learning.test_finetuning import CHANGES, recipe

pytestmark = pytest.mark.slow
NAME = "efficientnet_b0"
IMAGES = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def network() -> torch.nn.Module:
    made = build_network(NAME, RANDOM, seed=3)
    replace_head(made, 2, seed=4)
    return made


def features(made: torch.nn.Module, seed: int) -> torch.Tensor:
    """Give the maps before the head, whose dropout is something else."""
    torch.manual_seed(seed)
    with torch.no_grad():
        return lower(made, NAME, "head")(IMAGES)


def set_lower_mode(made: torch.nn.Module, blocks: set[str], *, keep_statistics: bool = True) -> None:
    set_mode(made, NAME, blocks, keep_statistics=keep_statistics)


@pytest.fixture(scope="module")
def made():
    return network()


def test_trained_blocks_are_left_out_at_random_and_frozen_ones_never(made):
    set_lower_mode(made, {"head"})
    still = features(made, 1)
    assert torch.equal(features(made, 2), still)
    set_lower_mode(made, {"stage5", "head"})
    first = features(made, 1)
    assert torch.equal(features(made, 1), first)
    assert not torch.equal(features(made, 2), first)
    made.eval()
    assert torch.equal(features(made, 2), still)


@pytest.mark.parametrize("keep_statistics", [True, False])
def test_modes_are_set_for_blocks_and_for_batch_normalisation(made, keep_statistics):
    set_lower_mode(made, {"stage5", "head"}, keep_statistics=keep_statistics)
    for name, module in made.named_modules():
        is_trained = bool(name) and block_of(name, NAME) in {"stage5", "head"}
        is_kept = keep_statistics and isinstance(module, _BatchNorm)
        assert module.training == (is_trained and not is_kept), name


def test_blocks_are_left_out_as_often_as_their_place_says(made, monkeypatch):
    """Of 16 blocks the one at place i is left out of i/16 of 20 % of the images' passes, as torchvision does it."""
    real, told = efficientnet.drop_connect, {}

    def watched(values, p, training):
        given = real(values, p=p, training=training)
        told.setdefault(round(p, 6), []).append((given.flatten(1).abs().sum(dim=1) == 0).double())
        return given

    monkeypatch.setattr(efficientnet, "drop_connect", watched)
    set_lower_mode(made, set(BACKBONES[NAME].blocks))
    for seed in range(60):
        features(made, seed)
    assert len(told) == 9  # blocks with a way around them, but for the first of all, which has none
    for rate, left_out in told.items():
        share = float(torch.cat(left_out).mean())
        assert abs(share - rate) < 4 * (rate * (1 - rate) / 480) ** 0.5, rate


def fold_data() -> FoldData:
    truth = np.arange(18) % 2
    pixels = np.random.default_rng(0).integers(60, 120, size=(18, 32, 32), dtype=np.uint8)
    pixels[truth == 1, 10:22, 10:22] += 100
    return FoldData(
        inputs=PixelSource(pixels, IMAGENET_NORMALISATION, choose_placement("cpu", "float32", 1), CHANGES),
        train_rows=np.arange(12),
        train_classes=truth[:12],
        validation_rows=np.arange(12, 18),
        validation_classes=truth[12:],
        class_weights=np.ones(2),
    )


class _Killed(Exception):  # noqa: N818  it is no error of the program
    pass


class _Killing(StateFolder):
    """Save after every step and die after the third of the run, as if the machine had failed."""

    def is_overdue(self):
        return True

    def save(self, epoch, tensors, facts, step=0):
        super().save(epoch, tensors, facts, step)
        if (epoch, step) == (1, 1):
            raise _Killed


def train(folder: Path, team: Team, *, is_killed: bool = False) -> tuple[list[object], dict[str, torch.Tensor]]:
    """Train for two epochs of two steps; tell which images left out which blocks, and what the weights are then."""
    plan = tuple(BlockPlan(name) for name in ("stage4", "stage5", "head"))
    task = Task(strategy="full", fold=0, seed=7, backbone=NAME, plan=plan, is_pretrained=True)
    real, masks = efficientnet.drop_connect, []

    def watched(values, p, training):
        given = real(values, p=p, training=training)
        if training:
            masks.append((given.flatten(1).abs().sum(dim=1) == 0).tolist())
        return given

    trained, numbers = network(), recipe(epochs=2, batch_size=6)
    efficientnet.drop_connect = watched
    try:
        if is_killed:
            states = _Killing(folder, "k", is_read_only=not team.is_first)
            with suppress(_Killed):
                fine_tune(network(), fold_data(), numbers, task, states, team)
            assert len(masks) % 3 == 0  # three of four steps
            torch.manual_seed(99)  # what other generators did does not matter
        team.gather(0)  # who goes on finds what the first one has written
        states = StateFolder(folder, "k", is_read_only=not team.is_first)
        fine_tune(trained, fold_data(), numbers, task, states, team)
    finally:
        efficientnet.drop_connect = real
    return masks, trained.state_dict()


def train_twice(team: Team, folder: Path) -> list[list[object]]:
    """Train without and with a kill; give what each process of the team left out."""
    wanted, whole = train(folder / "whole", team)
    masks, killed = train(folder / "killed", team, is_killed=True)
    assert masks == wanted
    assert sum(map(sum, masks)) > 0
    steps = len(masks) // 4
    assert len({str(masks[first : first + steps]) for first in range(0, len(masks), steps)}) == 4  # each step its own
    assert all(torch.equal(value, killed[name]) for name, value in whole.items())
    told: list[list[object]] = team.gather(masks)
    return told


def test_a_killed_training_leaves_out_the_same_blocks_and_ends_with_the_same_bits(tmp_path):
    train_twice(ALONE, tmp_path)


def test_each_process_of_a_team_leaves_out_blocks_of_its_own_and_does_so_again(tmp_path):
    with together(2, "cpu", train_twice, tmp_path) as team:
        first, second = train_twice(team, tmp_path)
    assert len(first) == len(second)
    assert first != second


def test_the_part_that_a_bank_serves_leaves_out_its_own_blocks(made):
    """What is trained from a bank is the upper part, under the names of the network."""
    top = upper(made, NAME, "stage5")
    set_mode(top, NAME, {"stage5", "head"}, keep_statistics=True)
    assert {name for name, one in top.named_modules() if isinstance(one, efficientnet.MBConvBlock) and one.training}
    made.eval()
