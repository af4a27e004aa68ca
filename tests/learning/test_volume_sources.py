"""Whole volumes: runs as sources, and random weights in the very network that a source's would be in."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.core.errors import WeightsError
from pipeline.learning.bank.filling import BankOrder
from pipeline.learning.inputs.batches import PixelSource
from pipeline.learning.inputs.devices import choose_placement
from pipeline.learning.loop.checkpoints import read_checkpoint, write_checkpoint
from pipeline.learning.networks.backbones import BACKBONES, head_of
from pipeline.learning.networks.forms import form_from
from pipeline.learning.training import Outcome, Study, train_strategy
from pipeline.learning.volumes.networks import build_form, medicalnet_form
from pipeline.learning.volumes.roads import choose_road, form_for, network_for, normalisation_for
from pipeline.learning.weights.files import file_digest
from pipeline.learning.weights.loading import RANDOM, VerifiedWeights, WeightsChoice, verify
from pipeline.learning.weights.sources import IMAGENET_NORMALISATION, SOURCES, Normalisation
from pipeline.stages.train import _write_networks
from tests.learning.test_volume_training import RECIPE, make_study, narrow

pytestmark = pytest.mark.slow
KINDS = ["mean", "centre", "medicalnet", "run by mean", "run by centre", "run of medicalnet"]
PIXELS = np.random.default_rng(1).integers(1, 255, size=(22, 6, 32, 32), dtype=np.uint8)
TINTED = Normalisation((0.5, 0.4, 0.3), (0.3, 0.25, 0.2))


@pytest.fixture(autouse=True)
def _narrow_network(monkeypatch):
    narrow(monkeypatch)


def random_state(network: torch.nn.Module, seed: int) -> dict[str, torch.Tensor]:
    """Give values that look trained: statistics are not 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    state = network.state_dict()
    for value in state.values():
        if value.ndim > 1:
            value.normal_(0, 0.1, generator=generator)
        elif value.is_floating_point():
            value.uniform_(0.5, 1.0, generator=generator)
    return state


def study_on(manner: str = "mean", **changes: object) -> Study:
    road = choose_road(PIXELS, road="inflation", slices=None, inflation=manner)
    short = replace(RECIPE, epochs=1, batch_size=4)
    return replace(make_study(PIXELS, "inflation", recipe=short), **{"road": road, **changes})


def of_images(folder: Path) -> VerifiedWeights:
    """Give a file of a network for images that was trained on other values than ImageNet's."""
    path = folder / "flat.pth"
    torch.save(random_state(BACKBONES["resnet18"].build(1000), 1), path)
    choice = WeightsChoice(
        source="file", backbone="resnet18", file=path, sha256=file_digest(path), dimensions=3, normalisation=TINTED
    )
    return verify(choice)


def of_medicalnet(folder: Path) -> VerifiedWeights:
    path = folder / "medical.pth"
    built = build_form(medicalnet_form("resnet18"), "resnet18", 2, IMAGENET_NORMALISATION, seed=2)
    torch.save({name: value for name, value in random_state(built, 2).items() if not name.startswith("fc.")}, path)
    return VerifiedWeights(
        source="medicalnet",
        path=path,
        sha256=file_digest(path),
        licence="MIT",
        normalisation=SOURCES["medicalnet"].normalisation,
        output_classes=0,
        dimensions=3,
    )


def written(folder: Path, study: Study, weights: VerifiedWeights, strategy: str = "full") -> tuple[Path, Outcome]:
    """Train and write the checkpoint as the stage does."""
    outcome = train_strategy(strategy, study, weights, folder / "states")
    path = folder / "checkpoint.safetensors"
    _write_networks(path, outcome, study, weights, {role.image_id: role.image_id for role in study.roles})
    return path, outcome


def as_run(path: Path, manner: str = "mean", **changes: object) -> VerifiedWeights:
    choice = WeightsChoice(source="run", backbone="resnet18", file=path, dimensions=3, inflation=manner)
    return verify(replace(choice, **changes))


def make(kind: str, folder: Path) -> tuple[VerifiedWeights, str]:
    """Give a source and how its study inflates."""
    manner = "centre" if "centre" in kind else "mean"
    first = of_medicalnet(folder) if "medicalnet" in kind else of_images(folder)
    if not kind.startswith("run"):
        return first, manner
    path, _ = written(folder, study_on(manner), first)
    return as_run(path, manner), manner


@pytest.mark.parametrize("kind", KINDS)
def test_scratch_is_the_network_of_its_source_with_other_weights(tmp_path, kind):
    weights, manner = make(kind, tmp_path)
    road = study_on(manner).road
    trained = network_for(road, "resnet18", weights, 3, seed=1, head_seed=2).eval()
    scratch = network_for(road, "resnet18", weights.untrained(), 3, seed=1, head_seed=2).eval()
    own, other = trained.state_dict(), scratch.state_dict()
    assert {name: value.shape for name, value in own.items()} == {name: value.shape for name, value in other.items()}
    same = [name for name, value in own.items() if name.endswith("weight") and value.equal(other[name])]
    assert same == ["fc.weight"]  # which is drawn for both
    assert normalisation_for(road, weights.normalisation) == normalisation_for(road, weights.untrained().normalisation)
    # With the same weights, the same function: strides, padding and shortcuts are in no name and no shape.
    shared = {name: value.clone() for name, value in random_state(scratch, 9).items()}
    trained.load_state_dict(shared)
    volumes = torch.randn(2, 1, 6, 32, 32, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        assert torch.allclose(scratch(volumes), trained(volumes), rtol=1e-4, atol=1e-5)
    # Which is a test only if another build is another network.
    another = replace(weights.untrained(), dimensions=2, form=None)
    plain = replace(road, inflation="centre" if manner == "mean" else "mean")
    built = network_for(plain, "resnet18", another, 3, seed=1, head_seed=2).eval()
    if "medicalnet" in kind:
        assert {name: value.shape for name, value in built.state_dict().items()} != {n: v.shape for n, v in own.items()}
    else:
        built.load_state_dict(shared)
        with torch.no_grad():
            assert (built(volumes) - trained(volumes)).abs().max() > 1e-3


@pytest.mark.parametrize("slices", [1, 5, 6, 7, 8, 12])
def test_gradients_of_medicalnets_first_convolution_are_right_for_few_slices(slices):
    """Beside double precision, which has other kernels; what is read of unwritten memory would show."""
    built = build_form(medicalnet_form("resnet18"), "resnet18", 2, IMAGENET_NORMALISATION, seed=2)
    volumes = torch.randn(3, 1, slices, 16, 16, generator=torch.Generator().manual_seed(1))
    wide = built.conv1.weight.detach().double().requires_grad_()
    outer = torch.nn.functional.conv3d(volumes.double(), wide, None, 2, 3)
    factors = torch.randn(outer.shape, generator=torch.Generator().manual_seed(2))
    (wanted,) = torch.autograd.grad((outer * factors).sum(), wide)
    for _ in range(4):
        filled = [torch.full((size,), 1e9) for size in (1000, 5000, 20_000, 100_000, 400_000)]
        del filled
        found = built.conv1(volumes)
        assert torch.allclose(found.double(), outer, atol=1e-5)
        (gradient,) = torch.autograd.grad((found * factors).sum(), built.conv1.weight)
        assert (gradient - wanted).abs().max() < 1e-4 * wanted.abs().max()


@pytest.mark.parametrize("kind", ["mean", "medicalnet"])
def test_a_study_trains_scratch_in_the_network_and_on_the_values_of_its_source(tmp_path, kind):
    weights, manner = make(kind, tmp_path)
    full, scratch = (train_strategy(name, study_on(manner), weights, tmp_path / name) for name in ("full", "scratch"))
    assert scratch.normalisation == full.normalisation
    assert scratch.form == full.form
    assert scratch.summary.weights_source == "random"
    shapes = [{n: v.shape for n, v in one.networks[0].state_dict().items()} for one in (full, scratch)]
    assert shapes[0] == shapes[1]


def test_scratch_on_images_is_normalised_as_its_source(tmp_path):
    flat = make_study(PIXELS[:, 3], "attention", recipe=replace(RECIPE, epochs=1, batch_size=4))
    outcome = train_strategy("scratch", flat, of_images(tmp_path), tmp_path)
    assert outcome.normalisation == TINTED


def test_random_weights_of_a_form_depend_on_the_seed_only(tmp_path):
    weights, road = of_images(tmp_path).untrained(), study_on().road
    first, again, other = (
        network_for(road, "resnet18", weights, 2, seed=seed, head_seed=2).state_dict() for seed in (1, 1, 2)
    )
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not torch.equal(first["layer1.0.conv1.weight"], other["layer1.0.conv1.weight"])
    depths = first["layer1.0.conv1.weight"]
    assert not torch.equal(depths[:, :, 0], depths[:, :, 1])  # no kernel for images spread over depth


@pytest.mark.parametrize("kind", ["mean", "centre", "medicalnet"])
def test_a_run_on_whole_volumes_is_a_source_with_its_build_and_values(tmp_path, kind):
    weights, manner = make(kind, tmp_path)
    study = study_on(manner)
    path, outcome = written(tmp_path, study, weights)
    run = as_run(path, manner)
    assert run.form == outcome.form == form_for(study.road, "resnet18", weights)
    assert run.normalisation == outcome.normalisation
    assert run.normalisation.of == ("volume" if kind == "medicalnet" else "range")
    fewer = choose_road(PIXELS, road="inflation", slices=4, inflation=manner)
    for road in (study.road, fewer):
        network = network_for(road, "resnet18", run, 3, seed=1, head_seed=2).eval()
        own, wanted = network.state_dict(), outcome.networks[0].state_dict()
        assert all(torch.equal(value, wanted[name]) for name, value in own.items() if not name.startswith("fc."))
        assert head_of(network).out_features == 3
    # The features are those of the network that was written, not of one that is built otherwise.
    trained = outcome.networks[0].eval()
    network = network_for(study.road, "resnet18", run, 2, seed=1, head_seed=2).eval()
    network.load_state_dict({**network.state_dict(), "fc.weight": trained.fc.weight, "fc.bias": trained.fc.bias})
    volumes = PixelSource(
        PIXELS, normalisation_for(study.road, run.normalisation), choose_placement("cpu", "float32", 1), road=study.road
    ).plain(np.arange(3))
    with torch.no_grad():
        assert torch.allclose(network(volumes), trained(volumes), rtol=1e-4, atol=1e-5)  # memory lies otherwise
    again = train_strategy("full", study, run, tmp_path / "again")
    assert again.summary.weights_sha256 == file_digest(path)
    assert np.isfinite([row.logits for row in again.predictions]).all()


def facts_of(path: Path, **changes: object) -> Path:
    """Write a checkpoint with other facts beside it."""
    made = read_checkpoint(path)
    other = path.with_name("other.safetensors")
    write_checkpoint(other, made.tensors, {**made.facts, **changes})
    return other


def test_a_run_that_goes_another_road_is_refused(tmp_path):
    path, _ = written(tmp_path, study_on(), of_images(tmp_path), "probe")
    with pytest.raises(WeightsError, match=r"this study looks at images or slices\n.*road to inflation"):
        as_run(path, dimensions=2)
    with pytest.raises(WeightsError, match=r"inflated by mean, and this study says centre\n.*inflation to mean"):
        as_run(path, "centre")
    with pytest.raises(WeightsError, match="does not say how it is built"):
        as_run(facts_of(path, volumes={"road": "inflation", "slices": 6}))
    nonsense = {"inflation": "sideways", "stem_depth": 3, "stem_stride": 1, "shortcut": "projection"}
    with pytest.raises(WeightsError, match="does not say what it was made from"):
        as_run(facts_of(path, volumes={"road": "inflation", "form": nonsense}))
    images = np.ascontiguousarray(PIXELS[:, 0])
    flat = make_study(images, "attention")
    assert flat.road is None
    with pytest.raises(WeightsError, match="run holds networks for whole volumes, and this one is to take images"):
        train_strategy("full", flat, as_run(path), tmp_path / "flat")


def test_a_run_on_slices_is_inflated_like_a_network_for_images(tmp_path):
    study = study_on(road=choose_road(PIXELS, road="attention", slices=None, inflation="mean"))
    path, outcome = written(tmp_path, study, of_images(tmp_path), "probe")
    assert outcome.form is None
    run = as_run(path)
    assert run.dimensions == 2
    network = network_for(study_on().road, "resnet18", run, 2, seed=1, head_seed=2)
    flat = outcome.networks[0].state_dict()["layer1.0.conv1.weight"]
    assert torch.allclose(network.state_dict()["layer1.0.conv1.weight"].sum(dim=2), flat, atol=1e-6)


@pytest.mark.parametrize("member", [1, 2])
def test_one_network_of_an_ensemble_is_a_source(tmp_path, member, capsys):
    path, outcome = written(tmp_path, study_on(networks=2), of_images(tmp_path))
    run = as_run(path, member=member)
    network = network_for(study_on().road, "resnet18", run, 2, seed=1, head_seed=2)
    wanted = [one.state_dict() for one in outcome.networks]
    own = network.state_dict()
    for number, state in enumerate(wanted, start=1):
        is_same = all(torch.equal(value, state[name]) for name, value in own.items() if not name.startswith("fc."))
        assert is_same == (number == member)
    assert run.name == f"checkpoint.safetensors, network {member}"
    train_strategy("last_block", study_on(), as_run(path, member=member), tmp_path / "states of both")
    capsys.readouterr()
    again = train_strategy("last_block", study_on(), as_run(path, member=3 - member), tmp_path / "states of both")
    assert "resumed" not in capsys.readouterr().err
    assert again.summary.weights_file == f"checkpoint.safetensors, network {3 - member}"


def test_banks_of_two_networks_of_an_ensemble_are_two(tmp_path):
    weights = replace(RANDOM, sha256="a" * 64)
    source = PixelSource(PIXELS, IMAGENET_NORMALISATION, choose_placement("cpu", "float32", 1))
    keys = {
        BankOrder(
            network=torch.nn.Identity(),
            backbone="resnet18",
            source=source,
            weights=replace(weights, member=member),
            pixels_sha256="p",
            boundary=None,
            views=0,
            seed=1,
            code="c",
        ).key()
        for member in (None, 1, 2)
    }
    assert len(keys) == 3


@pytest.mark.parametrize(
    ("networks", "member", "told"),
    [
        (
            2,
            None,
            r"an ensemble of 2 networks, and a network starts from one\n.*set train.weights.member to one of 1 to 2",
        ),
        (2, 3, "there is no network 3"),
        (1, 2, r"one network; there is no network 2\n.*leave train.weights.member out"),
    ],
)
def test_an_unnamed_or_absent_network_of_an_ensemble_is_refused(tmp_path, networks, member, told):
    path, _ = written(tmp_path, study_on(), of_images(tmp_path), "probe")
    with pytest.raises(WeightsError, match=told):
        as_run(facts_of(path, networks=networks), member=member)
    assert as_run(path, member=1).member is None


@pytest.mark.parametrize("missing", ["inflation", "stem_depth", "stem_stride", "shortcut"])
def test_forms_are_read_whole_or_not_at_all(missing):
    facts = {"inflation": "mean", "stem_depth": 3, "stem_stride": 1, "shortcut": "projection"}
    assert vars(form_from(facts)) == facts
    del facts[missing]
    with pytest.raises(KeyError, match=missing):
        form_from(facts)
