import pytest
import torch

from pipeline.learning.loop.averaging import WeightAverage

pytestmark = pytest.mark.slow


def test_the_average_follows_the_weights_by_its_formula_and_frozen_ones_stay():
    network = torch.nn.Linear(3, 2)
    average = WeightAverage(network, ["weight", "bias"], 0.5)
    expected = network.weight.detach().clone()
    frozen = network.bias.detach().clone()
    for step in range(20):
        with torch.no_grad():
            network.weight.add_(torch.full_like(network.weight, 0.1 * step))
        average.update()
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * network.weight.detach()
        assert torch.allclose(average.values["weight"], expected, atol=1e-6)
    assert torch.equal(average.values["bias"], frozen)


def test_the_network_gets_its_own_weights_back():
    network = torch.nn.Linear(3, 2)
    average = WeightAverage(network, ["weight"], 0.9)
    with torch.no_grad():
        network.weight.add_(1)
    own, mean = network.weight.detach().clone(), average.values["weight"].clone()

    def fail() -> None:
        with average.in_place():
            assert torch.equal(network.weight, mean)
            raise ValueError("in between")

    with pytest.raises(ValueError, match="in between"):
        fail()
    assert torch.equal(network.weight, own)
    assert torch.equal(average.values["weight"], mean)
    average.update()
    assert not torch.equal(average.values["weight"], mean)
