"""The probe over boundaries: the block that carries the signal is found without the test part."""

import numpy as np
import pytest
import torch

from pipeline.learning.bank.filling import features_of_blocks, fill_bank
from pipeline.learning.networks.backbones import BACKBONES
from pipeline.learning.probing.sweep import ProbeData, candidates, choose_probe, probe_at, probe_logits, probe_network
from tests.learning.test_bank import order

pytestmark = pytest.mark.slow
BLOCKS = ("stem", "layer1", "layer2", "layer3", "layer4")


def task(carrier: tuple[str, ...], images: int = 120) -> tuple[dict[str, np.ndarray], np.ndarray, ProbeData]:
    """Features of noise, but for those of the carriers, each of which holds a part of the signal."""
    generator = np.random.default_rng(5)
    truth = generator.integers(0, 2, images)
    features = {block: generator.normal(size=(images, 12)).astype(np.float32) for block in BLOCKS}
    for block in carrier:
        features[block][:, 0] += (1.5 if len(carrier) > 1 else 3) * truth
    train, validation = np.arange(images // 2), np.arange(images // 2, 3 * images // 4)
    data = ProbeData(train, truth[train], validation, truth[validation], np.ones(2))
    return features, truth, data


@pytest.mark.parametrize("carrier", BLOCKS)
def test_the_block_that_carries_the_signal_is_chosen(carrier):
    features, truth, data = task((carrier,))
    found = choose_probe(features, data)
    assert carrier in found.blocks
    logits = probe_logits(features, found, np.arange(90, 120))
    assert np.mean(logits.argmax(axis=1) == truth[90:]) > 0.75


@pytest.mark.parametrize("carriers", [("layer3", "layer4"), ("layer2", "layer3", "layer4"), BLOCKS])
def test_blocks_that_each_hold_a_part_are_joined(carriers):
    features, _, data = task(carriers, images=400)
    assert choose_probe(features, data).blocks == carriers


def test_the_choice_does_not_see_the_test_part():
    features, _, data = task(("layer2",))
    found = choose_probe(features, data)
    for values in features.values():
        values[90:] = 1e3
    again = choose_probe(features, data)
    assert again.blocks == found.blocks
    assert np.array_equal(again.head.weight, found.head.weight)


def test_equal_features_give_the_block_nearest_to_the_output():
    features, _, data = task(("layer2",))
    same = dict.fromkeys(BLOCKS, features["layer2"])
    assert choose_probe(same, data).blocks == ("layer4",)
    for facts in BACKBONES.values():
        found = candidates(facts.blocks[:-1])
        assert len(set(found)) == len(found) == 2 * len(facts.blocks[:-1]) - 1


@pytest.mark.parametrize("blocks", [("layer4",), ("layer2",), ("layer3", "layer4")])
def test_a_probe_is_a_network(tmp_path, blocks):
    one = order(None)
    features = features_of_blocks(fill_bank(one, tmp_path))
    data = ProbeData(np.arange(6), np.arange(6) % 2, np.arange(6, 8), np.arange(2), np.ones(2))
    probe = probe_at(features, blocks, data)
    network = probe_network(one.network, "resnet18", probe).eval()
    with torch.inference_mode():
        logits = network(one.source.plain(np.arange(10))).numpy()
    assert np.allclose(logits, probe_logits(features, probe, np.arange(10)), atol=1e-4)
