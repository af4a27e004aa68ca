import pytest

from pipeline.core.errors import TrainingError
from pipeline.learning.inputs.devices import choose_placement

pytestmark = pytest.mark.slow


def test_precision_is_as_asked():
    assert choose_placement("cpu", "float32", 1).precision == "float32"
    assert choose_placement("cpu", "bfloat16", 1).precision == "bfloat16"


def test_auto_takes_what_the_hardware_multiplies(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    assert choose_placement("cpu", "auto", 1).precision == "float32"
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)
    assert choose_placement("cpu", "auto", 1).precision == "bfloat16"


def test_a_gpu_that_is_not_there_is_an_error(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_placement("auto", "float32", 1).device == "cpu"
    with pytest.raises(TrainingError, match="sees no GPU"):
        choose_placement("cuda", "auto", 1)


@pytest.mark.gpu
def test_a_step_on_the_gpu_agrees_with_the_processor():
    import numpy as np
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no GPU on this machine")
    from pipeline.learning.inference import predict_logits
    from pipeline.learning.inputs.batches import PixelSource
    from pipeline.learning.weights.loading import RANDOM, build_network
    from pipeline.learning.weights.sources import IMAGENET_NORMALISATION

    pixels = np.random.default_rng(0).integers(0, 255, size=(8, 64, 64), dtype=np.uint8)
    network = build_network("resnet18", RANDOM, seed=1)
    found = []
    for device in ("cpu", "cuda"):
        source = PixelSource(pixels, IMAGENET_NORMALISATION, choose_placement(device, "float32", 1))
        found.append(predict_logits(network.to(device), source, np.arange(8)))
    assert np.abs(found[0] - found[1]).max() < 1e-2
