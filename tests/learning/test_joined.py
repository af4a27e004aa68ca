"""The head on the pooled features of all blocks joined."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.learning.loop import checkpoints, finetuning
from pipeline.learning.loop.finetuning import class_weights
from pipeline.learning.networks.backbones import BACKBONES, head_of
from pipeline.learning.networks.blocks import feature_blocks, features_after_blocks, joined_network
from pipeline.learning.probing.sweep import ProbeData, probe_at, probe_logits
from pipeline.learning.training import train_strategy
from pipeline.learning.weights.files import file_digest
from pipeline.learning.weights.loading import RANDOM, VerifiedWeights, WeightsChoice, build_network, verify
from tests.learning.plain_resnet import random_state
from tests.learning.test_finetuning import recipe
from tests.learning.test_training import logits, study

pytestmark = pytest.mark.slow
WIDTH = 64 + 64 + 128 + 256 + 512


@pytest.fixture
def source(tmp_path: Path) -> VerifiedWeights:
    path = tmp_path / "source.pth"
    torch.save(random_state(3), path)
    return verify(WeightsChoice(source="file", backbone="resnet18", file=path, sha256=file_digest(path)))


def test_training_starts_as_the_probe_of_all_blocks(tmp_path, source):
    """With steps of almost no size the result is the regression on all features, computed here without the network."""
    one = study(head="joined", recipe=recipe(epochs=1, learning_rate=1e-12))
    outcome = train_strategy("full", one, source, tmp_path / "states")
    network = build_network("resnet18", source, seed=0).eval()
    grey = torch.from_numpy(one.pixels).float()[:, None] / 255
    images = (grey - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(
        3, 1, 1
    )
    with torch.inference_mode():
        found, _ = features_after_blocks(network, "resnet18", images)
    features = dict(zip(feature_blocks("resnet18"), (part.numpy() for part in found), strict=True))
    rows = {part: [role for role in one.roles if role.role == part] for part in ("train", "validation", "test")}
    places = {part: np.array([role.row for role in members]) for part, members in rows.items()}
    truth = {part: np.array([one.classes.index(role.label) for role in members]) for part, members in rows.items()}
    weights = class_weights(truth["train"], 2, balance=one.recipe.balance_classes)
    data = ProbeData(places["train"], truth["train"], places["validation"], truth["validation"], weights)
    probe = probe_at(features, feature_blocks("resnet18"), data)
    expected = probe_logits(features, probe, np.concatenate([places["validation"], places["test"]])) - np.log(weights)
    np.testing.assert_allclose(logits(outcome), expected, atol=2e-3)
    assert outcome.summary.head_blocks == feature_blocks("resnet18")
    assert head_of(outcome.networks[0]).weight.shape == (2, WIDTH)


@pytest.mark.parametrize("name", ["full", "gradual", "scratch"])
def test_a_training_broken_off_ends_as_one_that_was_not(tmp_path, source, monkeypatch, name):
    monkeypatch.setattr(checkpoints, "SECONDS_BETWEEN_STATES", 0.0)
    whole = train_strategy(name, study(head="joined"), source, tmp_path / "whole")
    usual, calls = finetuning.calibrated_loss, []

    def breaks(*arguments: np.ndarray) -> float:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return usual(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(finetuning, "calibrated_loss", breaks)
        with pytest.raises(KeyboardInterrupt):
            train_strategy(name, study(head="joined"), source, tmp_path / "broken")
    resumed = train_strategy(name, study(head="joined"), source, tmp_path / "broken")
    assert np.array_equal(logits(whole), logits(resumed))
    ours, theirs = (one.networks[0].state_dict() for one in (whole, resumed))
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


@pytest.mark.parametrize("name", ["probe", "last_block"])
def test_strategies_with_frozen_blocks_keep_their_own_head(tmp_path, name):
    last, joined = (train_strategy(name, study(head=head), RANDOM, tmp_path / head) for head in ("last", "joined"))
    assert joined.summary.head_blocks == ("layer4",)
    assert np.array_equal(logits(last), logits(joined))


def test_a_state_of_the_other_head_is_not_gone_on_from(tmp_path, source, capsys):
    train_strategy("full", study(), source, tmp_path / "states")
    train_strategy("full", study(head="joined"), source, tmp_path / "states")
    assert "was made from other data, settings" in capsys.readouterr().err


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_can_be_joined(name):
    """Every block gets a gradient through the joined head, and the names are the network's own."""
    torch.manual_seed(0)
    network = BACKBONES[name].build(3)
    example = torch.rand(2, 3, 64, 64)
    whole = joined_network(network, name, example[:1], seed=1)
    assert set(whole.state_dict()) == set(network.state_dict())
    torch.autograd.backward(whole(example).square().sum())
    assert whole(example).shape == (2, 3)
    assert all(value.grad is not None for key, value in whole.named_parameters() if value.requires_grad), name
