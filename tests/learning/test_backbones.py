import pytest
import torch

from pipeline.learning.backbones import BACKBONES, block_of, head_of, recognise, replace_head
from tests.learning.plain_resnet import random_state

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "parameters"), [("resnet18", 11_689_512), ("resnet34", 21_797_672), ("resnet50", 25_557_032)]
)
def test_size_is_torchvisions(name, parameters):
    network = BACKBONES[name].build(1000)
    assert sum(value.numel() for value in network.parameters()) == parameters
    assert head_of(network).in_features == BACKBONES[name].features
    assert recognise(set(network.state_dict())) == name


@pytest.mark.parametrize(("name", "bottleneck"), [("resnet18", False), ("resnet50", True)])
def test_names_and_shapes_are_torchvisions(name, bottleneck):
    published = {key: value.shape for key, value in random_state(0, bottleneck=bottleneck).items()}
    assert {key: value.shape for key, value in BACKBONES[name].build(1000).state_dict().items()} == published


def test_every_parameter_belongs_to_a_block():
    network = BACKBONES["resnet18"].build(2)
    assert {block_of(name, "resnet18") for name, _ in network.named_parameters()} == set(BACKBONES["resnet18"].blocks)


def test_new_head_is_seeded_and_starts_near_even_odds():
    networks = [BACKBONES["resnet18"].build(1000) for _ in range(2)]
    for network in networks:
        replace_head(network, 3, seed=5)
    first, second = (head_of(network) for network in networks)
    assert torch.equal(first.weight, second.weight)
    assert first.weight.shape == (3, 512)
    assert float(first.weight.detach().std()) == pytest.approx(0.01, rel=0.1)
