"""A volume that is constant along depth has the logits of its slice."""

import pytest
import torch

from pipeline.core.errors import WeightsError
from pipeline.learning.networks.backbones import BACKBONES, block_of, head_of, pooling_of
from pipeline.learning.volumes.networks import VOLUME_BACKBONES, build_volume_network, inflate
from tests.learning.test_grey import build, normalised

pytestmark = pytest.mark.slow


def images(*size):
    return torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(3))


def constant(flat, depth):
    return flat.unsqueeze(2).repeat(1, 1, depth, 1, 1)


@pytest.fixture(scope="module")
def network():
    return build("resnet18")


@pytest.mark.parametrize("manner", ["centre", "mean"])
@pytest.mark.parametrize(
    ("stem_depth", "stem_stride", "depth"), [(7, 1, 8), (7, 2, 12), (3, 1, 5), (3, 2, 3), (7, 1, 1), (1, 1, 4)]
)
def test_a_constant_volume_has_the_logits_of_its_slice(network, manner, stem_depth, stem_stride, depth):
    volume = inflate(network, "resnet18", manner, stem_depth=stem_depth, stem_stride=stem_stride)
    flat = images(48, 56)
    with torch.no_grad():
        assert (volume(constant(flat, depth)) - network(flat)).abs().max() < 1e-4


@pytest.mark.parametrize("manner", ["centre", "mean"])
def test_bottlenecks_are_inflated_too(manner):
    network, flat = build("resnet50").double(), images(48, 48).double()
    with torch.no_grad():
        found = inflate(network, "resnet50", manner)(constant(flat, 4))
        assert (found - network(flat)).abs().max() < 1e-9


def test_the_mean_needs_repeated_ends_and_differs_from_the_centre_on_real_volumes(network, monkeypatch):
    flat, volume = images(48, 48), torch.randn(1, 3, 8, 48, 48, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        mean, centre = inflate(network, "resnet18", "mean"), inflate(network, "resnet18", "centre")
        assert (mean(volume) - centre(volume)).abs().max() > 1e-2
        monkeypatch.setattr("pipeline.learning.volumes.networks.repeat_end_slices", lambda _: None)
        dark = inflate(network, "resnet18", "mean")
        assert (dark(constant(flat, 8)) - network(flat)).abs().max() > 1e-2


def test_depth_is_read_by_the_mean_from_the_start(network):
    """The centre's other slices are zeros, to be learned; the mean's look at neighbours at once."""
    kernels = {manner: inflate(network, "resnet18", manner).conv1.weight for manner in ("centre", "mean")}
    assert torch.equal(kernels["centre"][:, :, 3], network.conv1.weight)
    assert kernels["centre"].abs().sum(dim=(0, 1, 3, 4)).count_nonzero() == 1
    assert torch.allclose(kernels["mean"].sum(dim=2), network.conv1.weight, atol=1e-6)


def test_inflation_leaves_the_network_and_the_random_numbers_alone(network):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)
    inflate(network, "resnet18")
    assert torch.equal(torch.rand(1), wanted)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("manner", ["centre", "mean"])
def test_inflated_networks_learn(network, manner):
    volume = inflate(network, "resnet18", manner).train()
    torch.autograd.backward(volume(torch.rand(2, 3, 4, 32, 32)).sum())
    assert all(value.grad is not None for value in volume.parameters())
    assert volume.conv1.weight.grad[:, :, 0].abs().sum() > 0


@pytest.mark.parametrize("name", VOLUME_BACKBONES)
def test_blocks_head_and_pooling_are_those_of_the_network_for_images(name):
    with torch.device("meta"):
        volume = build_volume_network(name, 3)
    assert head_of(volume).in_features == BACKBONES[name].features
    assert type(pooling_of(volume)) is torch.nn.AdaptiveAvgPool3d
    assert {block_of(key, name) for key, _ in volume.named_parameters()} == set(BACKBONES[name].blocks)


def test_other_backbones_have_no_network_for_volumes():
    with pytest.raises(WeightsError, match="there is no vgg11_bn for volumes"):
        build_volume_network("vgg11_bn", 2)


@pytest.mark.real_data
@pytest.mark.parametrize("manner", ["centre", "mean"])
def test_imagenets_network_is_inflated(imagenet_resnet18, manner):
    network = BACKBONES["resnet18"].build(1000)
    network.load_state_dict(torch.load(imagenet_resnet18, weights_only=True))
    flat = normalised(torch.rand(1, 1, 128, 128, generator=torch.Generator().manual_seed(6)))
    with torch.no_grad():
        assert (inflate(network, "resnet18", manner)(constant(flat, 9)) - network.eval()(flat)).abs().max() < 1e-4
