import pytest
import torch

from pipeline.core.errors import TrainingError
from pipeline.learning.inputs.devices import Placement
from pipeline.learning.loop import memory
from pipeline.learning.loop.memory import announce, forecast

pytestmark = pytest.mark.slow
PLACE = Placement("cpu", "float32", 1)


def made() -> torch.nn.Module:
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(256, 2)
    )


def test_what_autograd_keeps_is_counted():
    network, images = made(), torch.zeros(2, 1, 8, 8)
    found = forecast(network, images, PLACE, is_averaged=False)
    count = sum(value.numel() for value in network.parameters())
    assert found.weights == 4 * count
    assert found.training == 3 * 4 * count
    assert found.activations == 4 * (64 + 256)  # the input for the convolution, its result for all that follows
    assert found.total(10) == 16 * count + 10 * found.activations


def test_what_is_frozen_keeps_nothing():
    network, images = made(), torch.zeros(2, 1, 8, 8)
    network[0].requires_grad_(requires_grad=False)
    found = forecast(network, images, PLACE, is_averaged=True)
    assert found.training == 4 * 4 * 514
    assert found.activations == 4 * 256


def test_only_what_clearly_cannot_fit_is_refused(monkeypatch, capsys):
    found = memory.Forecast(weights=2**30, training=3 * 2**30, activations=2**20)
    announce(found, 32, PLACE)
    assert "about 4.0 GiB of memory for 32 images" in capsys.readouterr().err
    monkeypatch.setattr(memory, "_capacity", lambda placement: 4 * 2**30)
    with pytest.raises(TrainingError, match=r"the device has 4\.0 GiB[\s\S]*smaller"):
        announce(found, 32, PLACE)
