"""A network cut into blocks is the network."""

import pytest
import torch

from pipeline.learning.inference import _pool
from pipeline.learning.inputs.devices import choose_placement
from pipeline.learning.networks.backbones import BACKBONES, HEAD, block_of, head_of, pooling_of, replace_head
from pipeline.learning.networks.blocks import (
    boundary_of,
    early_network,
    feature_blocks,
    features_after_blocks,
    lower,
    part,
    upper,
)
from pipeline.learning.networks.vgg import build_vgg

pytestmark = pytest.mark.slow


def network_of(name):
    """Thin VGGs: the real ones have 130 million parameters, and their names are the same."""
    torch.manual_seed(0)
    if name.startswith("vgg"):
        widths = tuple(tuple(4 for _ in block) for block in ((1,), (1,), (1, 1), (1, 1), (1, 1)))
        widths = widths if name == "vgg11_bn" else tuple(tuple(4 for _ in range(n)) for n in (2, 2, 3, 3, 3))
        return build_vgg(widths, 3, hidden=8).eval()
    network = BACKBONES[name].build(3)
    replace_head(network, 3, 1)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # statistics as of a trained network
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    return network.eval()


@pytest.mark.parametrize("name", BACKBONES)
def test_blocks_one_after_the_other_are_the_network(name):
    network, images = network_of(name), torch.randn(2, 3, 64, 64)
    facts = BACKBONES[name]
    assert len(facts.steps) == len(facts.blocks)
    with torch.inference_mode():
        whole = network(images)
        values = images
        for block in facts.blocks:
            values = part(network, name, (block,))(values.clone())
        assert torch.equal(values, whole)
        for boundary in facts.blocks[1:]:
            assert torch.equal(upper(network, name, boundary)(lower(network, name, boundary)(images)), whole)


@pytest.mark.parametrize("name", BACKBONES)
def test_parts_hold_their_own_blocks_under_the_networks_names(name):
    network = network_of(name)
    whole = dict(network.named_parameters())
    for boundary in BACKBONES[name].blocks[1:]:
        below, above = (dict(cut(network, name, boundary).named_parameters()) for cut in (lower, upper))
        assert {**below, **above}.keys() == whole.keys()
        assert not below.keys() & above.keys()
        assert all(value is whole[key] for key, value in {**below, **above}.items())
        blocks = BACKBONES[name].blocks
        assert {block_of(key, name) for key in above} == set(blocks[blocks.index(boundary) :])
        assert head_of(upper(network, name, boundary)) is head_of(network)
        if boundary not in (HEAD, "classifier"):
            assert pooling_of(upper(network, name, boundary)) is pooling_of(network)


@pytest.mark.parametrize("name", BACKBONES)
def test_the_last_features_are_what_enters_the_head(name):
    network, images = network_of(name), torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        boundary = BACKBONES[name].blocks[-2]
        found, kept = features_after_blocks(network, name, images, keep=boundary)
        assert len(found) == len(feature_blocks(name))
        assert torch.equal(found[-1], _pool(network, images, choose_placement("cpu", "float32", 2)))
        maps = lower(network, name, boundary)(images)
        assert torch.equal(kept, maps)
        assert torch.allclose(found[-2], maps.mean(dim=(2, 3)), atol=1e-6)
        used = feature_blocks(name)[-2:]
        joined = torch.cat(found[-2:], dim=1)
        head = torch.nn.Linear(joined.shape[1], 2)
        assert torch.allclose(early_network(network, name, used, head)(images), head(joined), atol=1e-6)
        _, last = features_after_blocks(network, name, images, keep=HEAD)
        assert torch.equal(last, lower(network, name, HEAD)(images))


def test_where_a_network_is_cut():
    assert boundary_of(frozenset({"layer3", "layer4", "head"}), "resnet18") == "layer3"
    assert boundary_of(frozenset(BACKBONES["vgg11_bn"].blocks), "vgg11_bn") == "conv1"
