"""Sources beside torchvision's classifiers: detectors, numbered layers, volumes, and runs of this pipeline."""

import json

import pytest
import torch
from safetensors.torch import save_file

from pipeline.core.errors import WeightsError
from pipeline.learning.inference import _pool
from pipeline.learning.inputs.devices import choose_placement
from pipeline.learning.loop.checkpoints import write_checkpoint
from pipeline.learning.networks.backbones import BACKBONES, head_of
from pipeline.learning.networks.layouts import layout_of, unwrap, with_usual_epsilon
from pipeline.learning.volumes.networks import build_medicalnet, build_volume_network
from pipeline.learning.weights.files import file_digest, read_facts, require_statistics
from pipeline.learning.weights.loading import WeightsChoice, build_network, verify
from pipeline.learning.weights.sources import IMAGENET_NORMALISATION, SOURCES, Normalisation
from tests.learning import plain_networks
from tests.learning.plain_resnet import random_state

pytestmark = pytest.mark.slow
NUMBERS = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}
FACTS = {
    "head_blocks": ["layer4"],
    "backbone": "resnet18",
    "classes": ["a", "b", "c"],
    "weights_source": "imagenet",
    "weights_sha256": "f" * 64,
    "weights_licence": "CC BY-NC 4.0",
    "normalisation": {"mean": [0.5, 0.5, 0.5], "deviation": [0.25, 0.25, 0.25], "of": "range"},
}


@pytest.fixture(autouse=True)
def _no_registered_digests(monkeypatch):
    """Files of these tests are generated: the registered digests, which stand above a study's, are not theirs."""
    for name, facts in SOURCES.items():
        files = {backbone: file._replace(sha256="") for backbone, file in facts.files.items()}
        monkeypatch.setitem(SOURCES, name, facts._replace(files=files))


def choice(path, source, **changes):
    return WeightsChoice(
        **{"source": source, "backbone": "resnet50", "file": path, "sha256": file_digest(path), **changes}
    )


def features(network, images):
    with torch.no_grad():
        return _pool(network.eval(), images, choose_placement("cpu", "float32", 2))


@pytest.fixture(scope="module")
def resnet50():
    """A ResNet-50 without head and counters; some channels vary so little that the constant of the norm tells."""
    state = random_state(11, bottleneck=True, counters=False)
    state = {name: value for name, value in state.items() if not name.startswith("fc.")}
    state["bn1.running_var"][:8] = 1e-5
    return state


@pytest.fixture(scope="module")
def images():
    return torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(12))


@pytest.mark.parametrize("source", ["coco", "coco_masks"])
def test_a_detectors_backbone_is_taken_out_and_computes_the_same(tmp_path, resnet50, images, source):
    path = tmp_path / "detector.pth"
    others = {"backbone.fpn.inner_blocks.0.weight": torch.ones(2), "rpn.head.conv.weight": torch.ones(2)}
    torch.save({**{f"backbone.body.{name}": value for name, value in resnet50.items()}, **others}, path)
    network = build_network("resnet50", verify(choice(path, source)), seed=0)
    wanted = plain_networks.resnet50_features(resnet50, images, eps=0.0)
    scale = wanted.abs().max()
    assert (features(network, images) - wanted).abs().max() < 1e-4 * scale
    untold = plain_networks.resnet50_features(resnet50, images, eps=1e-5)
    assert (untold - wanted).abs().max() > 1e-3 * scale  # without regard to the constant it would be another function


def test_the_usual_constant_changes_nothing(resnet50):
    same = with_usual_epsilon(resnet50, 1e-5)
    assert all(torch.equal(same[name], value) for name, value in resnet50.items())


def test_a_head_where_none_is_expected_is_refused(tmp_path, resnet50):
    path = tmp_path / "detector.pth"
    state = {**resnet50, "fc.weight": torch.zeros(2, 2048), "fc.bias": torch.zeros(2)}
    torch.save({f"backbone.body.{name}": value for name, value in state.items()}, path)
    with pytest.raises(WeightsError, match=r"2 unexpected \(fc.weight, fc.bias\)"):
        build_network("resnet50", verify(choice(path, "coco")), seed=0)


def test_numbered_children_of_a_resnet(tmp_path, resnet50, images):
    path = tmp_path / "ResNet50.pt"
    torch.save({f"backbone.{_numbered(name)}": value for name, value in resnet50.items()}, path)
    with pytest.raises(WeightsError, match=f"no digest is published[\\s\\S]*sha256: {file_digest(path)}"):
        verify(choice(path, "radimagenet", sha256=None))
    weights = verify(choice(path, "radimagenet", licence="by request"))
    assert weights.licence == "by request"
    assert weights.normalisation.mean == (0.5, 0.5, 0.5)
    found = features(build_network("resnet50", weights, seed=0), images)
    wanted = plain_networks.resnet50_features(resnet50, images, eps=1e-5)
    assert (found - wanted).abs().max() < 1e-5 * wanted.abs().max()


def _numbered(name):
    first, rest = name.split(".", maxsplit=1)
    return f"{NUMBERS[first]}.{rest}"


def test_numbered_children_of_a_densenet(tmp_path):
    shapes = plain_networks.densenet121_shapes()
    state = plain_networks.random_values(shapes, 13)
    path = tmp_path / "DenseNet121.pt"
    torch.save(
        {name.replace("features.", "backbone.0."): v for name, v in state.items() if not name.startswith("classifier")},
        path,
    )
    network = build_network("densenet121", verify(choice(path, "radimagenet", backbone="densenet121")), seed=0)
    own = network.state_dict()
    assert torch.equal(
        own["features.denseblock2.denselayer3.layers.conv2.weight"],
        state["features.denseblock2.denselayer3.conv.2.weight"],
    )


@pytest.mark.parametrize(
    ("names", "layout"),
    [(["conv1.weight"], "plain"), (["backbone.body.conv1.weight"], "detection"), (["backbone.0.weight"], "sequential")],
)
def test_layouts_are_told_by_their_names(names, layout):
    assert layout_of(dict.fromkeys(names)) == layout
    assert list(unwrap(dict.fromkeys(names), layout)) == ["conv1.weight"]


@pytest.mark.parametrize(
    ("backbone", "layers", "bottleneck"), [("resnet18", (2, 2, 2, 2), False), ("resnet50", (3, 4, 6, 3), True)]
)
def test_medicalnet_files_fit_the_network_for_volumes(tmp_path, backbone, layers, bottleneck):
    state = plain_networks.random_values(plain_networks.medicalnet_shapes(layers, bottleneck=bottleneck), 14)
    path = tmp_path / "resnet.pth"
    torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}}, path)
    asked = choice(path, "medicalnet", backbone=backbone, dimensions=3)
    network = build_medicalnet(backbone, verify(asked), 5, seed=1)
    own = network.state_dict()
    assert all(torch.equal(own[name], value) for name, value in state.items())
    again = build_medicalnet(backbone, verify(asked), 5, seed=1)
    assert torch.equal(head_of(network).weight, head_of(again).weight)
    with torch.no_grad():
        assert network.eval()(torch.rand(1, 1, 16, 32, 32)).shape == (1, 5)


def test_medicalnet_is_refused_for_images(tmp_path):
    path = tmp_path / "resnet.pth"
    torch.save({}, path)
    with pytest.raises(WeightsError, match="volumes, and this study has images"):
        verify(choice(path, "medicalnet"))
    with pytest.raises(WeightsError, match="medicalnet has no file for vgg11_bn"):
        verify(choice(path, "medicalnet", backbone="vgg11_bn", dimensions=3))


def test_the_padding_shortcut_is_monais_and_lets_gradients_through():
    """MONAI's own detaches its input, so that early layers would learn by the main path alone."""
    from monai.networks import nets

    ours = build_volume_network("resnet18", 2, shortcut="padding").eval()
    theirs = nets.resnet18(
        spatial_dims=3, n_input_channels=1, conv1_t_stride=2, shortcut_type="A", bias_downsample=True, num_classes=2
    ).eval()
    theirs.load_state_dict(ours.state_dict())
    volume = torch.rand(1, 1, 16, 32, 32)
    with torch.no_grad():
        assert torch.equal(ours(volume), theirs(volume))
    values = torch.rand(1, 64, 4, 4, 4, requires_grad=True)
    torch.autograd.backward(ours.layer2[0].downsample(values).sum())
    assert float(values.grad.sum()) == 64 * 8
    assert not theirs.layer2[0].downsample(values).requires_grad


def test_a_run_is_a_source_with_its_normalisation_and_licence(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    state = random_state(15)
    state |= {"fc.weight": torch.randn(3, 512), "fc.bias": torch.zeros(3)}
    write_checkpoint(path, state, FACTS)
    weights = verify(choice(path, "run", backbone="resnet18", sha256=None))
    assert weights.normalisation == Normalisation((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    assert weights.licence == "CC BY-NC 4.0"
    assert weights.ancestry == f"imagenet (SHA-256 {'f' * 64})"
    assert weights.sha256 == file_digest(path)
    own = build_network("resnet18", weights, seed=0).state_dict()
    assert all(torch.equal(own[name], value) for name, value in state.items())


def test_a_run_of_a_run_names_both_ancestors(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    write_checkpoint(path, {}, {**FACTS, "weights_source": "run", "ancestry": "imagenet (SHA-256 0)"})
    weights = verify(choice(path, "run", backbone="resnet18"))
    assert weights.ancestry == f"run (SHA-256 {'f' * 64}), which started from imagenet (SHA-256 0)"


def test_a_run_from_random_weights_is_ones_own(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    write_checkpoint(path, {}, {**FACTS, "weights_source": "random", "weights_sha256": "", "weights_licence": ""})
    weights = verify(choice(path, "run", backbone="resnet18"))
    assert (weights.licence, weights.ancestry) == ("own", "random")


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({**FACTS, "backbone": "resnet50"}, "holds resnet50, and the study asks for resnet18"),
        ({name: fact for name, fact in FACTS.items() if name != "normalisation"}, "how its inputs were normalised"),
        ({**FACTS, "classes": None}, "does not say"),
        (None, "no facts about itself"),
    ],
)
def test_a_run_that_does_not_fit_is_refused(tmp_path, facts, told):
    path = tmp_path / "checkpoint.safetensors"
    if facts is None:
        save_file({}, path, metadata={"facts": "[]"})
    else:
        write_checkpoint(path, {}, facts)
    with pytest.raises(WeightsError, match=told):
        verify(choice(path, "run", backbone="resnet18"))


@pytest.mark.parametrize("content", [b"", b"\xff" * 40, b"\x08" + b"\x00" * 7 + b"{}      ", b"PK\x03\x04 torch"])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path, content):
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="no checkpoint of a run"):
        read_facts(path)


def test_facts_are_read_as_written(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    write_checkpoint(path, {"a": torch.zeros(3)}, FACTS)
    found = read_facts(path)
    assert len(found.pop("tensors_sha256")) == 64
    assert found == json.loads(json.dumps(FACTS))


def test_one_folded_layer_is_enough_to_refuse(resnet50):
    name = "layer2.0.bn1"
    folded = {**resnet50, f"{name}.running_mean": torch.zeros(128), f"{name}.running_var": torch.ones(128)}
    require_statistics(resnet50, "w.pth")
    with pytest.raises(WeightsError, match="1 of 53 batch normalisations hold mean 0 and variance 1"):
        require_statistics(folded, "w.pth")


def test_every_source_for_images_takes_three_channels():
    assert SOURCES["imagenet"].normalisation == IMAGENET_NORMALISATION
    assert {len(source.normalisation.mean) for source in SOURCES.values() if source.dimensions == 2} == {3}
    assert set(BACKBONES) >= {backbone for source in SOURCES.values() for backbone in source.files}
