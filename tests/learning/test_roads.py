"""Roads for volumes: each is what independent code makes of the 2D network, slice by slice."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import TrainingError, WeightsError
from pipeline.learning.bank.filling import BankInputs, BankOrder, fill_bank
from pipeline.learning.inference import pooled_features, predict_logits
from pipeline.learning.inputs.augmentation import NO_CHANGE, Augmentation
from pipeline.learning.inputs.batches import PixelSource
from pipeline.learning.inputs.devices import Placement
from pipeline.learning.networks.backbones import BACKBONES, SLICES, block_of, head_of
from pipeline.learning.networks.blocks import feature_blocks, features_after_blocks, lower, upper
from pipeline.learning.volumes.networks import inflate
from pipeline.learning.volumes.roads import Road, choose_road, network_for, normalisation_for, over_slices
from pipeline.learning.weights.files import file_digest
from pipeline.learning.weights.loading import RANDOM, VerifiedWeights, WeightsChoice, verify
from pipeline.learning.weights.sources import IMAGENET_NORMALISATION, SOURCES, Normalisation
from tests.learning.plain_resnet import random_state
from tests.learning.test_grey import build

PLACEMENT = Placement("cpu", "float32", 2)
CHANGES = Augmentation(
    rotation_degrees=15, translation=0.1, scale=0.1, flip=True, contrast=0.3, brightness=0.2, noise=0.0
)
slow = pytest.mark.slow


def stored(count=3, depth=7, size=32, dtype=np.uint8):
    return np.random.default_rng(5).integers(0, 256, size=(count, depth, size, size), dtype=dtype)


def source(pixels, road, normalisation=IMAGENET_NORMALISATION):
    return PixelSource(pixels, normalisation_for(road, normalisation), PLACEMENT, CHANGES, road=road)


def colours(grey):
    """Normalise three channels in [0, 1] by hand."""
    mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in IMAGENET_NORMALISATION[:2])
    return (grey - mean) / deviation


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "w.pth"
    torch.save(random_state(1), path)
    return verify(WeightsChoice(source="file", backbone="resnet18", file=path, sha256=file_digest(path), dimensions=3))


# --- what is looked at


@given(st.integers(1, 60), st.integers(1, 60))
def test_slices_are_spread_evenly_in_order_and_never_beyond_the_volume(depth, slices):
    slices = min(slices, depth)
    groups = Road(name="attention", depth=depth, slices=slices).groups().ravel()
    assert groups[0] >= 0
    assert groups[-1] < depth
    assert abs(groups[0] - (depth - 1 - groups[-1])) <= 1  # as much is left at either end
    steps = np.diff(groups)
    assert not len(steps) or steps.max() - steps.min() <= 1


@given(st.integers(1, 60))
def test_without_a_number_every_slice_is_looked_at(depth):
    pixels = np.zeros((1, depth, 2, 2), np.uint8)
    for name in ("slices_as_channels", "attention", "inflation"):
        road = choose_road(pixels, road=name, slices=None, inflation="mean")
        assert set(road.groups().ravel().tolist()) == set(range(depth))


def test_groups_are_neighbours_and_the_ends_are_repeated():
    assert Road(name="slices_as_channels", depth=5, slices=5).groups().tolist() == [
        [0, 0, 1],
        [0, 1, 2],
        [1, 2, 3],
        [2, 3, 4],
        [3, 4, 4],
    ]


def test_images_have_no_road_and_too_many_slices_are_an_error():
    assert choose_road(np.zeros((4, 8, 8), np.uint8), road="attention", slices=9, inflation="mean") is None
    with pytest.raises(TrainingError, match="9 slices are to be looked at, and the volumes have 8"):
        choose_road(np.zeros((4, 8, 8, 8), np.uint8), road="attention", slices=9, inflation="mean")


# --- what networks are fed with


@pytest.mark.parametrize("name", ["slices_as_channels", "attention", "inflation"])
def test_inputs_are_the_stored_slices_normalised(name):
    pixels = stored()
    road = Road(name=name, depth=7, slices=3)
    found = source(pixels, road).plain(np.array([2, 0]))
    grey = torch.from_numpy(pixels[[2, 0]]).float() / 255
    middles = [1, 3, 5]
    if name == "attention":
        wanted = torch.stack([torch.stack([colours(one[k].expand(3, -1, -1)) for k in middles]) for one in grey])
    elif name == "slices_as_channels":
        wanted = torch.stack([torch.stack([colours(one[k - 1 : k + 2]) for k in middles]) for one in grey])
    else:
        mean, deviation = (np.mean(values) for values in IMAGENET_NORMALISATION[:2])
        wanted = ((grey[:, middles] - mean) / deviation).unsqueeze(1)
    assert torch.allclose(found, wanted, atol=1e-5)


def test_all_slices_of_a_volume_are_changed_alike():
    """Equal slices stay equal; the slices of another volume are changed otherwise."""
    pixels = np.repeat(stored(2, 1), 7, axis=1)
    pixels[1] = pixels[0]
    found = source(pixels, Road(name="attention", depth=7, slices=7)).train(np.array([0, 1]), 3)
    assert torch.equal(found[:, :1].expand(-1, 7, -1, -1, -1), found)
    assert (found[0] - found[1]).abs().max() > 0.1
    assert (found[0] - source(pixels, Road(name="attention", depth=7, slices=7)).plain(np.array([0]))).abs().max() > 0.1


def test_volumes_on_the_device_give_the_same():
    pixels = stored()
    plain = source(pixels, Road(name="slices_as_channels", depth=7, slices=2))
    resident = replace(plain, resident=torch.from_numpy(pixels))
    rows = np.array([2, 1])
    assert torch.equal(plain.train(rows, 5), resident.train(rows, 5))


def test_medicalnets_volumes_have_mean_0_and_deviation_1_where_there_is_something():
    pixels = stored()
    pixels[:, :, :8] = 0
    road = Road(name="inflation", depth=7, slices=7)
    found = source(pixels, road, SOURCES["medicalnet"].normalisation).plain(np.array([0, 1]))
    for one, raw in zip(found[:, 0], pixels, strict=False):
        inside = one[torch.from_numpy(raw > 0)]
        assert abs(float(inside.mean())) < 1e-4
        assert float(inside.std()) == pytest.approx(1, abs=1e-3)
        assert len(one[torch.from_numpy(raw == 0)].unique()) == 1
    assert torch.isfinite(source(np.zeros_like(pixels), road, SOURCES["medicalnet"].normalisation).plain([0])).all()


TINTS = replace(CHANGES, noise=0.05)
ROD = ((np.indices((7, 32, 32))[1:] - 15.5) ** 2).sum(axis=0) < 100


@pytest.mark.parametrize("seed", range(4))
def test_the_background_of_medicalnets_volumes_stays_what_it_is_in_prediction(seed):
    """Of 0 nothing is made by brightness or noise; the picture keeps its scale, within what was asked for."""
    pixels = np.where(ROD, np.clip(stored() // 2 + 64, 1, 255), 0).astype(np.uint8)
    road, rows = Road(name="inflation", depth=7, slices=7), np.arange(3)
    inputs = replace(source(pixels, road, SOURCES["medicalnet"].normalisation), augmentation=TINTS)
    plain, changed = inputs.plain(rows)[:, 0], inputs.train(rows, seed)[:, 0]
    deviation = torch.from_numpy(np.array([one[ROD].std() / 255 for one in pixels], np.float32))
    for before, after, spread in zip(plain, changed, deviation, strict=True):
        nothing = before[0, 0, 0]
        is_nothing = (after - nothing).abs() < 1e-6
        assert is_nothing[:, 0].all()  # far from the rod
        share = float(is_nothing.float().mean()) / (1 - ROD.mean())
        assert share == pytest.approx(1, abs=0.2)  # the rod was made larger or smaller by up to a tenth
        inside = after[~is_nothing]
        most = (TINTS.brightness + 0.1) / float(spread)  # contrast turns about the mean of the whole volume
        assert abs(float(inside.mean())) < most
        assert 0.5 < float(inside.std()) < 1.6
    assert (changed - plain).abs().max() > 0.1


def test_brightness_alone_moves_medicalnets_picture_and_not_its_background():
    pixels = np.where(ROD, np.clip(stored() // 4 + 96, 1, 255), 0).astype(np.uint8)
    road, rows = Road(name="inflation", depth=7, slices=7), np.arange(3)
    only = replace(NO_CHANGE, brightness=0.2)
    inputs = replace(source(pixels, road, SOURCES["medicalnet"].normalisation), augmentation=only)
    shift = (inputs.train(rows, 1) - inputs.plain(rows))[:, 0]
    inside = shift[:, torch.from_numpy(ROD)]
    assert not shift[:, torch.from_numpy(~ROD)].any()
    assert (inside.amax(dim=1) - inside.amin(dim=1)).max() < 1e-4  # all of a volume alike
    assert inside.abs().max() > 0.1


# --- what networks do


@slow
@pytest.mark.parametrize("backbone", ["resnet18", "densenet121", "efficientnet_b0", "vgg11_bn"])
@pytest.mark.parametrize("name", ["slices_as_channels", "attention"])
def test_logits_are_the_mean_over_slices_of_the_2d_networks(backbone, name):
    """The layer behind the pooling is linear, so that the mean of features gives the mean of logits."""
    flat = build(backbone).eval()
    plain = build(backbone).eval()
    plain.load_state_dict(flat.state_dict())
    road = Road(name=name, depth=7, slices=3)
    network = over_slices(flat, backbone, road, seed=1).eval()
    pixels = stored(2, 7, 48)
    rows = np.array([1, 0])
    grey = torch.from_numpy(pixels[rows]).float() / 255
    with torch.no_grad():
        found = network(source(pixels, road).plain(rows))
        single = [
            plain(colours(grey[:, k - 1 : k + 2] if name == "slices_as_channels" else grey[:, [k, k, k]]))
            for k in (1, 3, 5)
        ]
    wanted = torch.stack(single).mean(dim=0)
    assert (found - wanted).abs().max() < 1e-4 * max(1.0, float(wanted.abs().max()))
    predicted = predict_logits(network, source(pixels, road), rows)
    assert np.abs(predicted - wanted.numpy()).max() < 1e-4 * max(1.0, float(wanted.abs().max()))


@slow
def test_attention_does_not_depend_on_the_order_of_slices_and_weighs_them():
    network = over_slices(build("resnet18"), "resnet18", Road(name="attention", depth=6, slices=6), seed=1).eval()
    with torch.no_grad():
        network.get_submodule(SLICES).weigh.weight.normal_(0, 3, generator=torch.Generator().manual_seed(1))
        bags = torch.randn(2, 6, 3, 32, 32, generator=torch.Generator().manual_seed(2))
        first = network(bags)
        assert torch.allclose(network(bags[:, [3, 5, 0, 1, 4, 2]]), first, atol=1e-5)
        features = torch.randn(2, 6, 512, generator=torch.Generator().manual_seed(3))
        weighed = network.get_submodule(SLICES).weights(features)
    assert torch.allclose(weighed.sum(dim=1), torch.ones(2))
    assert weighed.max() - weighed.min() > 0.1


@slow
def test_attention_is_that_of_the_paper():
    """Equations 8 and 9 of arXiv:1802.04712, written out for one bag."""
    pooling = over_slices(
        build("resnet18"), "resnet18", Road(name="attention", depth=4, slices=4), seed=1
    ).get_submodule(SLICES)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        pooling.weigh.weight.normal_(generator=generator)
        features = torch.randn(1, 4, 512, generator=generator)
        found = pooling(features)[0].double().numpy()
    parts = {name: value.double().numpy() for name, value in pooling.state_dict().items()}
    scores = []
    for slice_features in features[0].double().numpy():
        h = (slice_features - slice_features.mean()) / np.sqrt(slice_features.var() + 1e-5)
        content = np.tanh(parts["content.weight"] @ h + parts["content.bias"])
        gate = 1 / (1 + np.exp(-(parts["gate.weight"] @ h + parts["gate.bias"])))
        scores.append((parts["weigh.weight"] @ (content * gate))[0])
    share = np.exp(scores) / np.exp(scores).sum()
    np.testing.assert_allclose(found, share @ features[0].double().numpy(), atol=1e-5)


@slow
@pytest.mark.parametrize("name", ["slices_as_channels", "attention"])
def test_parts_of_a_network_over_slices_make_the_whole(name):
    road = Road(name=name, depth=4, slices=4)
    network = over_slices(build("resnet18"), "resnet18", road, seed=1).eval()
    bags = torch.randn(2, 4, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        whole = network(bags)
        for boundary in ("layer1", "layer4", "head"):
            maps = lower(network, "resnet18", boundary)(bags)
            assert maps.shape[:2] == (2, 4)
            assert torch.allclose(upper(network, "resnet18", boundary)(maps), whole, atol=1e-5)
        found, kept = features_after_blocks(network, "resnet18", bags, keep="layer4")
        assert [one.shape for one in found] == [(2, width) for width in (64, 64, 128, 256, 512)]
        assert kept.shape == (2, 4, 256, 2, 2)
        assert torch.allclose(found[3], kept.mean(dim=(1, 3, 4)), atol=1e-5)
        assert torch.allclose(head_of(network)(found[-1]), whole, atol=1e-5)


@slow
def test_names_stay_those_of_the_backbone():
    plain = set(dict(build("resnet18").named_parameters()))
    network = over_slices(build("resnet18"), "resnet18", Road(name="attention", depth=4, slices=4), seed=1)
    names = set(dict(network.named_parameters()))
    assert plain <= names
    assert names - plain == {
        f"{SLICES}.{name}" for name in ("content.weight", "content.bias", "gate.weight", "gate.bias", "weigh.weight")
    }
    assert {block_of(name, "resnet18") for name in names - plain} == {"head"}
    assert set(feature_blocks("resnet18")) == {block_of(name, "resnet18") for name in plain} - {"head"}


@slow
@pytest.mark.parametrize("manner", ["centre", "mean"])
def test_one_grey_channel_gives_the_logits_of_three(weights, manner):
    road = Road(name="inflation", depth=6, slices=6, inflation=manner)
    network = network_for(road, "resnet18", weights, 3, seed=1, head_seed=2).eval()
    flat = network_for(None, "resnet18", weights, 3, seed=1, head_seed=2)
    three = inflate(flat, "resnet18", manner, stem_depth=3, stem_stride=1)
    pixels = stored(2, 6, 48)
    grey = torch.from_numpy(pixels).float() / 255
    volumes = torch.stack([colours(grey[:, k : k + 1].expand(-1, 3, -1, -1)) for k in range(6)], dim=2)
    given = source(pixels, road).plain(np.arange(2))
    assert given.shape == (2, 1, 6, 48, 48)
    with torch.no_grad():
        found, wanted = network(given), three(volumes)
    assert (found - wanted).abs().max() < 1e-4 * max(1.0, float(wanted.abs().max()))


@slow
def test_medicalnet_is_taken_as_it_is(tmp_path, monkeypatch):
    from pipeline.learning.volumes import roads

    medical = VerifiedWeights(
        source="medicalnet",
        path=tmp_path / "m.pth",
        sha256="0" * 64,
        licence="MIT",
        normalisation=Normalisation((0.0,), (1.0,), of="volume"),
        output_classes=0,
        dimensions=3,
    )
    seen = []
    monkeypatch.setattr(roads, "build_medicalnet", lambda *given, seed: seen.append((*given, seed)))
    network_for(Road(name="inflation", depth=4, slices=4), "resnet18", medical, 2, seed=1, head_seed=5)
    assert seen == [("resnet18", medical, 2, 5)]
    for road in (None, Road(name="attention", depth=4, slices=4)):
        with pytest.raises(WeightsError, match="medicalnet holds networks for whole volumes"):
            network_for(road, "resnet18", medical, 2, seed=1, head_seed=5)


@slow
def test_volumes_without_weights_get_a_random_network_as_if_inflated():
    road = Road(name="inflation", depth=48, slices=48)
    one, other = (network_for(road, "resnet18", RANDOM, 2, seed=seed, head_seed=5) for seed in (1, 1))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert one.conv1.weight.shape == (64, 2, 3, 7, 7)  # grey, and inside of the volume
    assert one.eval()(torch.rand(1, 1, 8, 32, 32)).shape == (1, 2)
    assert one.conv1.stride == (2, 2, 2)  # many slices are halved at once


@slow
def test_features_of_volumes_do_not_depend_on_who_stands_beside_them(weights):
    road = Road(name="attention", depth=7, slices=7)
    network = network_for(road, "resnet18", weights, 2, seed=1, head_seed=2)
    pixels = stored(20, 7)  # more than one batch of 64 slices
    together = pooled_features(network, source(pixels, road), np.arange(20))
    alone = pooled_features(network, source(pixels, road), np.array([13]))
    assert np.abs(together[13] - alone[0]).max() < 1e-4
    assert BACKBONES["resnet18"].features == together.shape[1]


@slow
def test_rows_of_a_bank_are_as_much_work_as_volumes_without_one(tmp_path, weights):
    """Batches of inference would otherwise hold 64 volumes with all their slices."""
    pixels = stored(3, 7)
    road = Road(name="attention", depth=7, slices=7)
    order = BankOrder(
        network=network_for(road, "resnet18", weights, 2, seed=1, head_seed=2),
        backbone="resnet18",
        source=source(pixels, road),
        weights=weights,
        pixels_sha256="p",
        boundary="layer4",
        views=0,
        seed=3,
        code="c",
    )
    assert BankInputs(fill_bank(order, tmp_path), PLACEMENT).looks == order.source.looks == 7
