import pytest
import torch

from pipeline.learning.inference import _pool
from pipeline.learning.inputs.devices import choose_placement
from pipeline.learning.loop.finetuning import set_mode
from pipeline.learning.networks.backbones import (
    BACKBONES,
    HEAD,
    block_of,
    head_of,
    pooling_of,
    published_shapes,
    recognise,
    replace_head,
)
from pipeline.learning.networks.vgg import VGG11, build_vgg
from pipeline.learning.weights.loading import load_strictly
from tests.learning import plain_networks
from tests.learning.plain_resnet import random_state

pytestmark = pytest.mark.slow
# As torchvision's documentation of its models gives them.
PARAMETERS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "densenet121": 7_978_856,
    "efficientnet_b0": 5_288_548,
    "vgg11_bn": 132_868_840,
    "vgg16_bn": 138_365_992,
}
PLAIN = {
    "densenet121": (plain_networks.densenet121_shapes, plain_networks.densenet121),
    "efficientnet_b0": (plain_networks.efficientnet_b0_shapes, plain_networks.efficientnet_b0),
}


def on_paper(name, classes=1000):
    """The network without memory for its values."""
    with torch.device("meta"):
        return BACKBONES[name].build(classes)


@pytest.mark.parametrize("name", BACKBONES)
def test_size_is_torchvisions(name):
    network = on_paper(name)
    assert sum(value.numel() for value in network.parameters()) == PARAMETERS[name]
    assert head_of(network).in_features == BACKBONES[name].features
    assert recognise(network.state_dict()) == name


def published(name):
    if name in PLAIN:
        return PLAIN[name][0]()
    if name.startswith("vgg"):
        return plain_networks.vgg_shapes(name)
    return {key: tuple(value.shape) for key, value in random_state(0, bottleneck=name == "resnet50").items()}


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "densenet121", "efficientnet_b0", "vgg11_bn", "vgg16_bn"])
def test_names_and_shapes_are_those_of_torchvisions_file(name):
    rename = BACKBONES[name].rename
    wanted = {rename(key): shape for key, shape in published(name).items() if not key.endswith("batches_tracked")}
    own = {key: shape for key, shape in published_shapes(name, 1000).items() if not key.endswith("batches_tracked")}
    assert own == wanted
    assert recognise(published(name)) == name


def test_unknown_networks_are_described():
    assert recognise({"features.0.weight"}) == "no known network in torchvision's layout"
    assert recognise({"layer1.0.conv1.weight"}) == "an unknown ResNet (1, 0, 0, 0)"
    nineteen = {f"features.{index}.weight" for index in range(51)}
    assert recognise(nineteen) not in BACKBONES


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("size", [(64, 64), (75, 90)])
def test_logits_equal_an_independent_forward_pass(name, size):
    shapes, forward = PLAIN[name]
    state = plain_networks.random_values(shapes(), 1)
    network = BACKBONES[name].build(1000)
    load_strictly(network, state, where="w.pth", backbone=name)
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        wanted = forward(state, images)
        assert (network.eval()(images) - wanted).abs().max() < 1e-4
    assert wanted.std() > 0.1  # the comparison is of something


@pytest.mark.parametrize("name", ["vgg11_bn", "vgg16_bn"])
def test_vgg_equals_an_independent_forward_pass(name):
    """With short hidden vectors: the published lengths need half a gigabyte."""
    state = plain_networks.random_values(plain_networks.vgg_shapes(name, hidden=32), 3)
    network = build_vgg(plain_networks.VGG_WIDTHS[name], 1000, hidden=32).eval()
    missing, unexpected = network.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(key.endswith("num_batches_tracked") for key in missing)
    images = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        wanted = plain_networks.vgg(name, state, images)
        assert (network(images) - wanted).abs().max() < 1e-4
    assert wanted.std() > 0.1


@pytest.mark.parametrize("name", BACKBONES)
def test_every_parameter_belongs_to_a_block_and_every_block_has_some(name):
    network = on_paper(name)
    found = list(dict.fromkeys(block_of(key, name) for key, _ in network.named_parameters()))
    assert found == list(BACKBONES[name].blocks)  # in this order, from the input to the output
    assert found[-1] == HEAD
    head = {key for key, _ in network.named_parameters() if block_of(key, name) == HEAD}
    assert len(head) == 2


@pytest.mark.parametrize("name", BACKBONES)
def test_a_frozen_block_stays_in_evaluation_mode(name):
    network = on_paper(name)
    blocks = BACKBONES[name].blocks
    set_mode(network, name, blocks[-2:], keep_statistics=False)
    for key, module in network.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.training == (block_of(key, name) in blocks[-2:]), key


@pytest.mark.parametrize("name", [name for name in BACKBONES if name != "vgg16_bn"])
def test_features_are_what_enters_the_head(name):
    network = build_vgg(VGG11, 7, hidden=16) if name == "vgg11_bn" else BACKBONES[name].build(7)
    network.eval()
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        features = _pool(network, images, choose_placement("cpu", "float32", 2))
        assert torch.allclose(head_of(network)(features), network(images), atol=1e-5)
    assert features.shape == (1, 16 if name == "vgg11_bn" else BACKBONES[name].features)
    assert "AdaptiveAvgPool" in type(pooling_of(network)).__name__


def test_vgg_keeps_what_enters_the_head_in_32_bits():
    network = build_vgg(VGG11, 3, hidden=64).eval()
    images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(6))
    with torch.no_grad():
        features = _pool(network, images, choose_placement("cpu", "bfloat16", 2))
    assert features.dtype == torch.float32
    assert not torch.equal(features, features.bfloat16().float())


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "efficientnet_b0"])
def test_new_head_is_seeded_and_starts_near_even_odds(name):
    networks = [BACKBONES[name].build(1000) for _ in range(2)]
    for network in networks:
        replace_head(network, 3, seed=5)
    first, second = (head_of(network) for network in networks)
    assert torch.equal(first.weight, second.weight)
    assert first.weight.shape == (3, BACKBONES[name].features)
    assert float(first.weight.detach().std()) == pytest.approx(0.01, rel=0.1)
    assert networks[0](torch.zeros(2, 3, 32, 32)).shape == (2, 3)
