"""One channel gives the logits of three, at every place of the image, its border included."""

import copy

import pytest
import torch

from pipeline.learning.networks.backbones import BACKBONES
from pipeline.learning.networks.vgg import VGG11, build_vgg
from pipeline.learning.volumes.grey import to_one_channel
from pipeline.learning.volumes.networks import inflate
from pipeline.learning.weights.sources import IMAGENET_NORMALISATION

pytestmark = pytest.mark.slow


def with_statistics(network, seed=0):
    """Statistics as if trained; untrained ones (0 and 1) would hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return network.eval()


def build(name):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return with_statistics(build_vgg(VGG11, 5, hidden=16) if name == "vgg11_bn" else BACKBONES[name].build(5))


def normalised(grey):
    shape = (1, 3, *(1,) * (grey.ndim - 2))
    mean, deviation = (grey.new_tensor(values).view(shape) for values in IMAGENET_NORMALISATION[:2])
    return (grey - mean) / deviation


def grey_images(*size):
    return torch.rand(2, 1, *size, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "densenet121", "efficientnet_b0", "vgg11_bn"])
@pytest.mark.parametrize("size", [(64, 64), (45, 77)])
def test_logits_are_those_of_the_normalised_repeated_channel(name, size):
    network, grey = build(name), grey_images(*size)
    single = copy.deepcopy(network)
    to_one_channel(single, IMAGENET_NORMALISATION)
    with torch.no_grad():
        wanted = network(normalised(grey))
        assert (single(grey) - wanted).abs().max() < 1e-5 * wanted.abs().max()


def test_equality_is_exact_but_for_rounding_at_every_place_of_the_first_map():
    network, grey = build("resnet18").double(), grey_images(33, 40).double()
    single = copy.deepcopy(network)
    to_one_channel(single, IMAGENET_NORMALISATION)
    with torch.no_grad():
        wanted, found = network.conv1(normalised(grey)), single.conv1(grey)
        assert (found - wanted).abs().max() < 1e-13
        # A bias in the place of the second channel is right inside and wrong along the border.
        biased = torch.nn.functional.conv2d(grey, single.conv1.weight[:, :1], stride=2, padding=3)
        biased += single.conv1.weight[:, 1:].sum(dim=(2, 3)).view(1, -1, 1, 1)
    assert (biased - wanted)[..., 2:-2, 2:-2].abs().max() < 1e-13
    assert (biased - wanted).abs().max() > 0.1


@pytest.mark.parametrize("name", ["resnet18", "vgg11_bn"])
def test_without_normalisation_kernels_are_summed(name):
    network, grey = build(name), grey_images(64, 48)
    single = copy.deepcopy(network)
    to_one_channel(single)
    first = next(module for module in single.modules() if isinstance(module, torch.nn.Conv2d))
    assert first.weight.shape[1] == 1
    with torch.no_grad():
        assert (single(grey) - network(grey.repeat(1, 3, 1, 1))).abs().max() < 1e-5


def test_inflated_networks_take_one_channel_too():
    network, grey = build("resnet18"), grey_images(48, 48)
    volume = inflate(network, "resnet18")
    to_one_channel(volume, IMAGENET_NORMALISATION)
    with torch.no_grad():
        found = volume(grey.unsqueeze(2).repeat(1, 1, 5, 1, 1))
        assert (found - network(normalised(grey))).abs().max() < 1e-5


def test_both_parts_can_be_trained_and_only_the_first_convolution_changes():
    network = build("resnet18")
    single = copy.deepcopy(network)
    to_one_channel(single, IMAGENET_NORMALISATION)
    torch.autograd.backward(single(grey_images(32, 32)).sum())
    assert single.conv1.weight.grad.abs().sum(dim=(0, 2, 3)).min() > 0
    before, after = network.state_dict(), single.state_dict()
    assert set(before) == set(after)
    assert [name for name in before if not _same(before[name], after[name])] == ["conv1.weight"]


@pytest.mark.real_data
def test_imagenets_network_sees_grey_as_it_saw_colour(imagenet_resnet18):
    network = BACKBONES["resnet18"].build(1000)
    network.load_state_dict(torch.load(imagenet_resnet18, weights_only=True))
    single = copy.deepcopy(network.eval())
    to_one_channel(single, IMAGENET_NORMALISATION)
    grey = grey_images(224, 224)
    with torch.no_grad():
        assert (single(grey) - network(normalised(grey))).abs().max() < 1e-4


def _same(one, other):
    return one.shape == other.shape and torch.equal(one, other)
