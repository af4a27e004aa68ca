"""The bank: the same maps as without it, whole shards only, room asked for before any work."""

import dataclasses
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.core.errors import ArtefactError, TrainingError
from pipeline.learning.bank import files as bank_files
from pipeline.learning.bank.files import BankManifest, Forecast
from pipeline.learning.bank.filling import (
    BankInputs,
    BankOrder,
    LowerInputs,
    choose_views,
    features_of_blocks,
    fill_bank,
)
from pipeline.learning.inference import pooled_features, predict_logits
from pipeline.learning.inputs.augmentation import Augmentation
from pipeline.learning.inputs.batches import PixelSource
from pipeline.learning.inputs.devices import choose_placement
from pipeline.learning.loop.checkpoints import StateFolder
from pipeline.learning.loop.finetuning import FoldData, Task, fine_tune
from pipeline.learning.networks.backbones import BACKBONES, replace_head
from pipeline.learning.networks.blocks import upper
from pipeline.learning.recipes import Recipe
from pipeline.learning.strategies import STRATEGIES
from pipeline.learning.weights.loading import RANDOM, build_network
from pipeline.learning.weights.sources import IMAGENET_NORMALISATION

pytestmark = pytest.mark.slow
RECIPE = Recipe(
    epochs=4,
    patience=4,
    batch_size=4,
    learning_rate=1e-4,
    weight_decay=0.01,
    warmup_fraction=0.1,
    label_smoothing=0.05,
    balance_classes=True,
)
# Training multiplies the rounding of float16: Adam's first steps have one size, however small a gradient is. Measured
# 0.018 of the logits' spread, 0.0026 nats, and a tenth of the way that the weights went.
TRAINED_TOLERANCE = 5e-2
LOSS_TOLERANCE = 1e-2
AUGMENTATION = Augmentation(
    rotation_degrees=10, translation=0.05, scale=0.1, flip=True, contrast=0.2, brightness=0.1, noise=0.02
)


def order(boundary: str | None = "layer4", views: int = 2, images: int = 10, **changes: object) -> BankOrder:
    pixels = np.random.default_rng(0).integers(0, 256, size=(images, 48, 48), dtype=np.uint8)
    network = build_network("resnet18", RANDOM, seed=1)
    replace_head(network, 2, 1)
    source = PixelSource(pixels, IMAGENET_NORMALISATION, choose_placement("cpu", "float32", 2), AUGMENTATION)
    values = {
        "network": network,
        "backbone": "resnet18",
        "source": source,
        "weights": dataclasses.replace(RANDOM, sha256="w"),
        "pixels_sha256": "p",
        "boundary": boundary,
        "views": views,
        "seed": 3,
        "code": "c",
    }
    return BankOrder(**{**values, **changes})


def placement_of(one: BankOrder):
    return one.source.placement


def without_bank(one: BankOrder) -> LowerInputs:
    return LowerInputs(
        one.network, one.backbone, one.source, boundary=one.boundary or "", views=one.views, seed=one.seed
    )


@pytest.mark.parametrize("boundary", ["layer4", "layer2"])
def test_with_and_without_a_bank_the_same_views_give_the_same_predictions(tmp_path, boundary):
    one = order(boundary)
    inputs, afresh = BankInputs(fill_bank(one, tmp_path, shard_images=4), placement_of(one)), without_bank(one)
    rows = np.array([7, 0, 3, 9, 4])
    top = upper(one.network, "resnet18", boundary).eval()
    with torch.inference_mode():
        for read, computed in (
            (inputs.plain(rows), afresh.plain(rows)),
            *((inputs.train(rows, seed), afresh.train(rows, seed)) for seed in (1, 2)),
        ):
            # float16 keeps 11 significant bits, so that each value is within 2**-11 of itself; sums of random
            # errors grow more slowly than sums of values.
            assert read.dtype == torch.float32
            assert torch.allclose(read, computed, rtol=2**-11, atol=1e-4)
            ours, theirs = top(read), top(computed)
            assert float((ours - theirs).abs().max()) <= BankInputs.TOLERANCE * float(theirs.std())
    assert not torch.equal(inputs.train(rows, 1), inputs.train(rows, 2))
    assert torch.equal(inputs.train(rows, 1), inputs.train(rows, 1))


def test_training_the_last_block_from_a_bank_is_training_it_without(tmp_path):
    """Two trainings that differ by the rounding of float16 only: the same views in the same steps."""
    truth = np.arange(24) % 2
    found = {}
    for name in ("bank", "afresh"):
        one = order(images=24)
        one.source.pixels[truth == 1, 16:32, 16:32] //= 2  # harder than to tell at once
        inputs = BankInputs(fill_bank(one, tmp_path), placement_of(one)) if name == "bank" else without_bank(one)
        part = upper(one.network, "resnet18", "layer4")
        parts = {"train_rows": np.arange(16), "train_classes": truth[:16]}
        parts |= {"validation_rows": np.arange(16, 24), "validation_classes": truth[16:]}
        data = FoldData(inputs=inputs, **parts, class_weights=np.ones(2))
        plan = STRATEGIES["last_block"].plan(BACKBONES["resnet18"].blocks, epochs=4)
        task = Task(strategy="last_block", fold=0, seed=7, backbone="resnet18", plan=plan, is_pretrained=True)
        before = {key: value.clone() for key, value in part.state_dict().items()}
        tuned = fine_tune(part, data, RECIPE, task, StateFolder(tmp_path / name, name))
        change = {key: value - before[key] for key, value in part.state_dict().items() if value.is_floating_point()}
        found[name] = tuned, change, predict_logits(part, inputs, np.arange(24))
    (ours, ours_moved, read), (theirs, theirs_moved, computed) = found["bank"], found["afresh"]
    assert ours.best_epoch == theirs.best_epoch > 0
    losses = [[[log.train_loss, log.validation_loss] for log in tuned.history] for tuned in (ours, theirs)]
    assert np.allclose(*losses, atol=LOSS_TOLERANCE)
    assert np.abs(read - computed).max() <= TRAINED_TOLERANCE * computed.std()
    assert not np.array_equal(*losses)  # one of them did read float16
    apart = sum(float((ours_moved[key] - theirs_moved[key]).square().sum()) for key in ours_moved) ** 0.5
    assert apart < 0.3 * sum(float(one.square().sum()) for one in theirs_moved.values()) ** 0.5


def test_features_are_those_of_the_network_and_need_no_maps(tmp_path):
    one = order(None, views=5)
    manifest = fill_bank(one, tmp_path, shard_images=4)
    found = features_of_blocks(manifest)
    assert list(found) == ["stem", "layer1", "layer2", "layer3", "layer4"]
    assert [values.shape[1] for values in found.values()] == [64, 64, 128, 256, 512]
    assert np.allclose(found["layer4"], pooled_features(one.network, one.source, np.arange(10)), atol=1e-5)
    assert (manifest.map_shape, manifest.views) == ((), 0)
    with pytest.raises(TrainingError, match="no maps"):
        BankInputs(manifest, placement_of(one))


def test_views_do_not_depend_on_shards_or_batches(tmp_path):
    rows = np.arange(10)
    one = order()
    first, second = (
        BankInputs(fill_bank(one, tmp_path / str(size), shard_images=size), placement_of(one)) for size in (3, 10)
    )
    assert torch.allclose(first.train(rows, 5), second.train(rows, 5), rtol=2**-10, atol=1e-4)


def test_only_missing_and_damaged_shards_are_made_anew(tmp_path):
    one = order()
    manifest = fill_bank(one, tmp_path, shard_images=3)
    folder = Path(manifest.folder)
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.glob("*.npy")}
    (folder / "maps-00000003.npy").write_bytes(before["maps-00000003.npy"][0][:-7])  # truncated
    flipped = bytearray(before["features-00000006.npy"][0])
    flipped[-1] ^= 1
    (folder / "features-00000006.npy").write_bytes(flipped)  # of the right size
    (folder / "maps-00000009.npy").unlink()
    with pytest.raises(ArtefactError, match="bytes where"):
        BankInputs(manifest, placement_of(one))
    assert fill_bank(one, tmp_path, shard_images=3) == manifest
    after = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.glob("*.npy")}
    assert {name: content for name, (content, _) in after.items()} == {name: was for name, (was, _) in before.items()}
    kept = {name for name in before if after[name][1] == before[name][1]}
    assert kept == {"maps-00000000.npy", "features-00000000.npy"}


def test_a_shard_of_another_digest_is_made_anew(tmp_path):
    one, other = order(), order(weights=dataclasses.replace(RANDOM, sha256="other"))
    manifest = fill_bank(one, tmp_path, shard_images=5)
    place = tmp_path / other.key()[:16]
    Path(manifest.folder).rename(place)  # as if somebody had copied it
    again = fill_bank(other, tmp_path, shard_images=5)
    assert again.folder == str(place)
    assert {shard.key for shard in again.shards} == {other.key()}


@pytest.mark.parametrize(
    "change",
    [
        {"weights": dataclasses.replace(RANDOM, sha256="x")},
        {"pixels_sha256": "x"},
        {"boundary": "layer3"},
        {"views": 3},
        {"seed": 4},
        {"code": "x"},
    ],
)
def test_the_key_covers_what_the_values_depend_on(change):
    assert order().key() != order(**change).key()


def test_the_number_of_threads_and_unused_settings_are_not_in_the_key():
    plain = order(None)
    assert plain.key() == order(None, views=7, seed=9).key()
    threads = dataclasses.replace(plain.source, placement=plain.source.placement._replace(threads=9))
    assert plain.key() == dataclasses.replace(plain, source=threads).key()


def test_a_killed_bank_goes_on_with_the_missing_shards(tmp_path):
    program = (
        "import sys; from pathlib import Path; from tests.learning.test_bank import order, fill_bank;"
        "import time, pipeline.learning.bank.filling as b; write = b.write_shard\n"
        "def slow(*values):\n    found = write(*values); time.sleep(0.2); return found\n"
        "b.write_shard = slow; fill_bank(order(), Path(sys.argv[1]), shard_images=1)"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stderr=subprocess.PIPE)
    until = time.monotonic() + 60
    while len(list(tmp_path.glob("*/shard-*.json"))) < 3 and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    made = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/shard-*.json")}
    assert 3 <= len(made) < 10
    manifest = fill_bank(order(), tmp_path, shard_images=1)
    assert all(path.stat().st_mtime_ns == when for path, when in made.items())
    whole = fill_bank(order(), tmp_path / "whole", shard_images=1)
    assert [shard.maps_sha256 for shard in manifest.shards] == [shard.maps_sha256 for shard in whole.shards]


def test_too_small_a_disk_is_told_before_the_first_batch(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(bank_files.shutil, "disk_usage", lambda _: usage(10**6, 10**6 - 1000, 1000))
    with pytest.raises(TrainingError, match=r"(?s)the bank needs .* MB, and the disk has 0.0 MB.*bank.views lower"):
        fill_bank(order(), tmp_path)
    assert not list(tmp_path.glob("*/*.npy"))


def test_the_forecast_says_what_would_take_less():
    words = Forecast(10_000, 8, "layer4", 100_352, 4096).in_words()
    assert "10000 images x (8 views + 1) at the boundary layer4 are 9.1 GB" in words
    assert "4 views would be 5.1 GB" in words
    assert "the strategy probe without last_block would take 41.0 MB" in words


def test_the_forecast_is_what_the_files_take(tmp_path, capfd):
    manifest = fill_bank(order(), tmp_path)
    values = 10 * (3 * int(np.prod(manifest.map_shape)) * 2 + sum(manifest.widths) * 4)
    assert values < manifest.bytes < values + 1000
    assert "10 images x (2 views + 1) at the boundary layer4" in capfd.readouterr().err


def test_activations_beyond_float16_are_an_error(tmp_path):
    one = order()
    with torch.no_grad():
        one.network.get_submodule("layer3.1.bn2").weight.fill_(1e6)
    with pytest.raises(TrainingError, match="beyond the range of float16"):
        fill_bank(one, tmp_path)


def test_views_are_chosen_by_the_seed():
    rows = np.arange(1000)
    chosen = choose_views(rows, 4, 1)
    assert set(chosen) == {1, 2, 3, 4}
    assert set(choose_views(rows, 0, 1)) == {0}
    assert not np.array_equal(chosen, choose_views(rows, 4, 2))


def test_every_backbone_has_features_after_every_block():
    assert all(len(facts.steps) == len(facts.blocks) for facts in BACKBONES.values())


def test_the_manifest_is_a_plain_document(tmp_path):
    manifest = fill_bank(order(), tmp_path)
    assert BankManifest.model_validate_json(manifest.model_dump_json()) == manifest
