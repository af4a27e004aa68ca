import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipeline.core.errors import WeightsError
from pipeline.learning.networks.backbones import BACKBONES, head_of
from pipeline.learning.weights.files import file_digest, read_state
from pipeline.learning.weights.loading import (
    RANDOM,
    VerifiedWeights,
    WeightsChoice,
    build_network,
    load_strictly,
    verify,
)
from pipeline.learning.weights.sources import IMAGENET_NORMALISATION, Normalisation
from tests.learning import plain_networks
from tests.learning.plain_resnet import forward, random_state

pytestmark = pytest.mark.slow  # importing monai takes seconds
OTHER_HEADS = [
    ("resnet18", lambda: (random_state(1), "fc.")),
    ("densenet121", lambda: (_made(plain_networks.densenet121_shapes()), "classifier.")),
    ("efficientnet_b0", lambda: (_made(plain_networks.efficientnet_b0_shapes()), "classifier.")),
]


def _made(shapes: plain_networks.Shapes) -> dict[str, torch.Tensor]:
    return plain_networks.random_values(shapes, 1)


def save(path: Path, state: object, **options: bool) -> Path:
    torch.save(state, path, **options)
    return path


def choice(path: Path, **changes: object) -> WeightsChoice:
    return WeightsChoice(
        **{"source": "file", "backbone": "resnet18", "file": path, "sha256": file_digest(path), **changes}
    )


def test_network_equals_an_independent_forward_pass(tmp_path):
    state = random_state(3)
    network = build_network("resnet18", verify(choice(save(tmp_path / "w.pth", state))), seed=0).eval()
    images = torch.randn(2, 3, 96, 80, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.allclose(network(images), forward(state, images), atol=1e-4, rtol=0)


def test_all_parameters_and_statistics_are_loaded_by_name(tmp_path):
    state = random_state(4)
    network = build_network("resnet18", verify(choice(save(tmp_path / "w.pth", state))), seed=0)
    parameters = dict(network.named_parameters())
    statistics = {name for name, _ in network.named_buffers() if not name.endswith("num_batches_tracked")}
    assert (len(parameters), len(statistics)) == (62, 40)
    loaded = network.state_dict()
    assert set(loaded) == set(state)
    assert all(torch.equal(loaded[name], state[name]) for name in [*parameters, *statistics])


def test_counters_may_be_absent_as_in_older_files(tmp_path):
    state = random_state(5, counters=False)
    loaded = build_network("resnet18", verify(choice(save(tmp_path / "w.pth", state))), seed=0).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_file_formats(tmp_path, kind):
    state = random_state(6)
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pth")
    if kind == "safetensors":
        save_file(state, path)
    else:
        save(path, state, _use_new_zipfile_serialization=kind == "zip")
    assert all(torch.equal(value, state[name]) for name, value in read_state(path).items())


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("part", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_refused(tmp_path, kind, part):
    state = {"conv1.weight": torch.randn(64, 3, 7, 7)}
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pth")
    if kind == "safetensors":
        save_file(state, path)
    else:
        save(path, state, _use_new_zipfile_serialization=kind == "zip")
    content = path.read_bytes()
    whole = file_digest(path)
    path.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(WeightsError, match="truncated"):
        read_state(path)
    with pytest.raises(WeightsError, match="wrong digest"):
        verify(choice(path, sha256=whole))


def test_a_wrong_digest_is_refused_and_both_are_named(tmp_path):
    path = save(tmp_path / "w.pth", {"a": torch.zeros(1)})
    with pytest.raises(WeightsError) as refusal:
        verify(choice(path, sha256="0" * 64))
    assert "0" * 64 in str(refusal.value)
    assert file_digest(path) in str(refusal.value)


def test_a_resnet50_file_is_refused_for_a_resnet18(tmp_path):
    path = save(tmp_path / "w.pth", random_state(7, bottleneck=True))
    with pytest.raises(WeightsError, match=r"holds resnet50.*\n.*train.backbone to resnet50"):
        build_network("resnet18", verify(choice(path)), seed=0)


class _Payload:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return os.mkdir, (str(self.canary),)


@pytest.mark.parametrize("kind", ["zip", "legacy", "bare pickle"])
def test_a_pickle_payload_is_refused_and_not_run(tmp_path, kind):
    canary, path = tmp_path / "canary", tmp_path / "w.pth"
    content = {"conv1.weight": torch.zeros(1), "extra": _Payload(canary)}
    if kind == "bare pickle":
        path.write_bytes(pickle.dumps({"extra": _Payload(canary)}))
    else:
        save(path, content, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(WeightsError, match=r"nothing of it was executed|truncated or damaged"):
        build_network("resnet18", verify(choice(path)), seed=0)
    assert not canary.exists()
    pickle.loads(pickle.dumps(_Payload(canary)))  # the payload is a live one: outside the loader it runs
    assert canary.exists()


def test_missing_unexpected_and_reshaped_names_are_all_named():
    network = BACKBONES["resnet18"].build(1000)
    state = random_state(8)
    state["fc.weight"] = torch.zeros(10, 512)
    state["extra.weight"] = torch.zeros(1)
    del state["bn1.bias"]
    with pytest.raises(WeightsError) as refusal:
        load_strictly(network, state, where="w.pth", backbone="resnet18")
    text = str(refusal.value)
    assert "1 missing (bn1.bias)" in text
    assert "1 unexpected (extra.weight)" in text
    assert "1 of another shape (fc.weight)" in text


def test_folded_batch_normalisation_is_refused():
    network = BACKBONES["resnet18"].build(1000)
    state = random_state(9)
    for name in state:
        if name.endswith("running_mean"):
            state[name] = torch.zeros_like(state[name])
        if name.endswith("running_var"):
            state[name] = torch.ones_like(state[name])
    with pytest.raises(WeightsError, match="20 batch normalisations hold mean 0 and variance 1"):
        load_strictly(network, state, where="w.pth", backbone="resnet18")


def test_values_that_are_not_finite_are_refused():
    network = BACKBONES["resnet18"].build(1000)
    state = random_state(10)
    state["layer4.0.conv1.weight"][0, 0, 0, 0] = float("nan")
    with pytest.raises(WeightsError, match=r"layer4\.0\.conv1\.weight"):
        load_strictly(network, state, where="w.pth", backbone="resnet18")


def test_content_that_is_no_state_dict_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="holds list"):
        read_state(save(tmp_path / "w.pth", [torch.zeros(1)]))


def test_published_files_are_searched_in_the_folder_then_in_the_hub_cache(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    wanted = WeightsChoice(source="imagenet", backbone="resnet18")
    with pytest.raises(WeightsError, match=r"resnet18-f37072fd.pth[\s\S]*fetch https://"):
        verify(wanted)
    cached = tmp_path / "home/hub/checkpoints/resnet18-f37072fd.pth"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"not the published file")
    with pytest.raises(WeightsError, match=r"wrong digest: expected SHA-256 f37072fd\.\.\."):
        verify(wanted)
    # A file of one's own does not become ImageNet's by naming its digest.
    with pytest.raises(WeightsError, match=r"wrong digest: expected SHA-256 f37072fd\.\.\."):
        verify(WeightsChoice(source="imagenet", backbone="resnet18", file=cached, sha256=file_digest(cached)))


@pytest.mark.parametrize(("backbone", "make"), OTHER_HEADS)
@pytest.mark.parametrize("classes", [3, 0])
def test_a_file_of_ones_own_may_have_any_head_or_none(tmp_path, backbone, make, classes):
    """Its head is replaced in any case; everything else is taken, and nothing but the head may be another."""
    state, head = make()
    for name in list(state):
        if name.startswith(head):
            value = state.pop(name)
            if classes:
                state[name] = value[:classes] + 1
    weights = verify(choice(save(tmp_path / "w.pth", state), backbone=backbone))
    network = build_network(backbone, weights, seed=0)
    rename, loaded = BACKBONES[backbone].rename, network.state_dict()
    assert head_of(network).out_features == (classes or 2)
    assert all(torch.equal(loaded[rename(name)], value) for name, value in state.items())


@pytest.mark.parametrize("name", ["fc.weight", "fc.bias"])
def test_half_a_head_is_refused(tmp_path, name):
    state = random_state(1)
    del state[name]
    with pytest.raises(WeightsError, match=r"1 missing \(fc.bias\)|1 unexpected \(fc.bias\)"):
        build_network("resnet18", verify(choice(save(tmp_path / "w.pth", state))), seed=0)


def test_a_file_is_normalised_as_it_is_said_and_otherwise_as_imagenet(tmp_path):
    path = save(tmp_path / "w.pth", random_state(2))
    said = Normalisation((0.5, 0.4, 0.3), (0.25, 0.2, 0.1))
    assert verify(choice(path)).normalisation == IMAGENET_NORMALISATION
    assert verify(choice(path, normalisation=said)).normalisation == said


def test_random_weights_depend_on_the_seed_only():
    first = build_network("resnet18", RANDOM, seed=1).state_dict()
    torch.manual_seed(99)
    again = build_network("resnet18", RANDOM, seed=1).state_dict()
    other = build_network("resnet18", RANDOM, seed=2).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])


@pytest.mark.real_data
def test_the_imagenet_file_gives_the_logits_of_an_independent_forward_pass(imagenet_resnet18):
    weights = verify(choice(imagenet_resnet18))
    network = build_network("resnet18", weights, seed=0).eval()
    state = torch.load(imagenet_resnet18, weights_only=True)
    images = torch.randn(4, 3, 224, 224, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        difference = (network(images) - forward(state, images)).abs().max()
    assert difference < 1e-4
    assert isinstance(weights, VerifiedWeights)
