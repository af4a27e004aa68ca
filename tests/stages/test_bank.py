"""The stage: one bank for all folds; strategies with it predict what they predict without it."""

import dataclasses
from collections import namedtuple

import numpy as np
import pytest
import torch

from pipeline.config import BankSettings
from pipeline.core.artefacts import read_document, read_table, write_document
from pipeline.core.errors import ArtefactError, TrainingError
from pipeline.core.records import Prediction
from pipeline.learning.bank import files as bank_files
from pipeline.learning.bank.files import BankManifest
from pipeline.learning.bank.use import cut_for_blocks
from pipeline.learning.inputs.augmentation import Augmentation
from pipeline.learning.loop.checkpoints import read_checkpoint
from pipeline.learning.networks.backbones import BACKBONES
from pipeline.learning.strategies import STRATEGIES, banked
from pipeline.learning.weights.files import file_digest
from pipeline.stages.bank import bank, freeze_boundary
from pipeline.stages.train import train
from pipeline.train_settings import TrainSettings
from tests.learning.plain_resnet import random_state
from tests.stages.test_train import CLASSES, make_inputs, outputs

pytestmark = pytest.mark.slow


def settings(folder, **changes):
    path = folder / "w.pth"
    if not path.exists():
        torch.save(random_state(1), path)
    weights = {"source": "file", "file": str(path), "sha256": file_digest(path)}
    quick = {"epochs": 2, "batch_size": 8, "device": "cpu", "precision": "float32", "weights": weights}
    return TrainSettings.model_validate({"strategy": "last_block", "compare": ["probe"], **quick, **changes})


def fill(folder, inputs, chosen, views=2):
    bank(
        settings=BankSettings(views=views),
        train=chosen,
        seed=3,
        images=inputs["images"],
        pixels=inputs["pixels"],
        state=folder / "state" / "bank",
        manifest=inputs["bank"],
        threads=2,
    )
    return read_document(inputs["bank"], BankManifest)


def test_one_bank_serves_all_folds_and_both_strategies(tmp_path, capfd):
    inputs, chosen = make_inputs(tmp_path), settings(tmp_path)
    manifest = fill(tmp_path, inputs, chosen)
    assert (manifest.boundary, manifest.views, manifest.images) == ("layer4", 2, 30)
    for fold in (0, 1):
        made = outputs(tmp_path / str(fold))
        train(settings=chosen, seed=3, classes=CLASSES, fold=fold, threads=2, **inputs, **made)
        rows = read_table(made["predictions"], Prediction)
        assert {row.strategy for row in rows} == {"last_block", "probe"}
        assert all(np.isfinite(row.logits).all() for row in rows)
        saved = read_checkpoint(made["checkpoint"])
        assert "conv1.weight" in saved.tensors  # the whole network, not the part above the bank
        assert saved.tensors["fc.weight"].shape == (2, 512)
    assert "probe: features after" in capfd.readouterr().err


def test_the_network_of_a_probe_gives_the_predictions_of_the_stage(tmp_path):
    from pipeline.learning.training import Study, train_strategy

    inputs, chosen = make_inputs(tmp_path), settings(tmp_path)
    manifest = fill(tmp_path, inputs, chosen)
    from tests.learning.test_training import study as a_study

    base = a_study()
    pixels = np.load(inputs["pixels"])
    roles = tuple(role for role in base.roles if role.row < 30)
    weights_path = chosen.weights.file
    from pipeline.learning.weights.loading import WeightsChoice, verify

    weights = verify(WeightsChoice(source="file", backbone="resnet18", file=weights_path, sha256=chosen.weights.sha256))
    facts = {field: getattr(base, field) for field in Study.__dataclass_fields__}
    facts |= {"pixels": pixels, "roles": roles, "bank": manifest, "pixels_sha256": manifest.pixels_sha256}
    facts["bank_code"] = manifest.code
    facts |= {"seed": 3, "augmentation": Augmentation(**chosen.augmentation.model_dump())}
    for name in ("probe", "last_block"):
        study = Study(**facts)
        outcome = train_strategy(name, study, weights, tmp_path / name)
        network = outcome.networks[0].eval()
        from pipeline.learning.inputs.batches import PixelSource

        source = PixelSource(pixels, outcome.normalisation, base.placement)
        rows = [int(row.image_id[1:]) for row in outcome.predictions]
        with torch.inference_mode():
            logits = network(source.plain(np.array(rows))).numpy()
        given = np.array([row.logits for row in outcome.predictions])
        assert np.abs(logits - given).max() <= 5e-3 * max(1.0, given.std()), name
    other = facts["augmentation"]
    for changes, named in (
        ({"pixels_sha256": "x"}, "images"),
        ({"seed": 4}, "seed"),
        ({"augmentation": dataclasses.replace(other, noise=0.5)}, "augmentation"),
        ({"placement": base.placement._replace(precision="bfloat16")}, "precision"),
        ({"bank": manifest.model_copy(update={"weights_sha256": "y"})}, "weights"),
    ):
        with pytest.raises(TrainingError, match=rf"made with other settings \({named}\)"):
            train_strategy("last_block", Study(**{**facts, **changes}), weights, tmp_path / "other")


def test_views_of_test_images_are_looked_at_also_where_a_bank_holds_none(tmp_path):
    """They go through the whole network: a bank without views would give the plain image once more."""
    inputs, chosen = make_inputs(tmp_path), settings(tmp_path, strategy="probe", compare=[])
    fill(tmp_path, inputs, chosen, views=0)
    logits = []
    for views in (0, 3):
        made = outputs(tmp_path / str(views))
        settled = chosen.model_copy(update={"views": views})
        train(settings=settled, seed=3, classes=CLASSES, fold=0, **inputs, **made)
        logits.append(np.array([row.logits for row in read_table(made["predictions"], Prediction)]))
    assert np.abs(logits[0] - logits[1]).max() > 1e-3
    made = outputs(tmp_path / "block")
    block = settings(tmp_path, compare=[], epochs=1, views=3)
    manifest = fill(tmp_path, inputs, block, views=0)
    assert manifest.views == 0
    train(settings=block, seed=3, classes=CLASSES, fold=0, **inputs, **made)
    plain = outputs(tmp_path / "plain")
    train(settings=block.model_copy(update={"views": 0}), seed=3, classes=CLASSES, fold=0, **inputs, **plain)
    found = [np.array([row.logits for row in read_table(one["predictions"], Prediction)]) for one in (made, plain)]
    assert np.abs(found[0] - found[1]).max() > 1e-3


def test_a_study_of_probes_needs_no_maps(tmp_path):
    inputs, chosen = make_inputs(tmp_path), settings(tmp_path, strategy="probe", compare=[])
    manifest = fill(tmp_path, inputs, chosen)
    assert (manifest.boundary, manifest.map_shape) == ("", ())
    assert freeze_boundary(chosen) is None


def test_banks_of_earlier_settings_are_removed_and_equal_ones_used(tmp_path, capfd):
    inputs, chosen = make_inputs(tmp_path), settings(tmp_path)
    first = fill(tmp_path, inputs, chosen)
    capfd.readouterr()
    assert fill(tmp_path, inputs, chosen.model_copy(update={"epochs": 9})) == first
    assert "1 of 1 shards are there" in capfd.readouterr().err
    second = fill(tmp_path, inputs, chosen, views=1)
    assert second.key != first.key
    folders = [path.name for path in (tmp_path / "state" / "bank").iterdir() if path.is_dir()]
    assert folders == [second.key[:16]]


def test_nothing_but_banks_is_removed(tmp_path):
    inputs, chosen = make_inputs(tmp_path), settings(tmp_path)
    state = tmp_path / "state" / "bank"
    others = [state / "train" / "epoch-00003.safetensors", state / ("0" * 16) / "notes.txt"]
    for path in others:
        path.parent.mkdir(parents=True)
        path.write_text("of somebody", encoding="utf-8")
    (state / ("1" * 16)).mkdir()
    (state / ("1" * 16) / "shard-00000000.json").write_text("{}", encoding="utf-8")
    fill(tmp_path, inputs, chosen)
    assert all(path.is_file() for path in others)
    assert not (state / ("1" * 16)).exists()


def test_a_bank_of_other_code_or_libraries_is_refused(tmp_path):
    inputs, chosen = make_inputs(tmp_path), settings(tmp_path)
    manifest = fill(tmp_path, inputs, chosen)
    for name, change in (("code", {"code": "older"}), ("software", {"software": (("torch", "1.0"),)})):
        write_document(inputs["bank"], manifest.model_copy(update=change))
        with pytest.raises(TrainingError, match=rf"made with other settings \({name}\)"):
            train(settings=chosen, seed=3, classes=CLASSES, fold=0, **inputs, **outputs(tmp_path / name))


def test_banks_of_earlier_settings_make_room_before_the_new_one_is_filled(tmp_path, monkeypatch):
    """As on a disk that holds one bank and not two."""
    inputs, chosen = make_inputs(tmp_path), settings(tmp_path)
    state = tmp_path / "state" / "bank"
    usage = namedtuple("usage", "total used free")

    def one_bank(_folder):
        used = sum(path.stat().st_size for path in state.rglob("*") if path.is_file())
        return usage(room, used, max(0, room - used))

    room = fill(tmp_path, inputs, chosen).bytes + 10_000
    monkeypatch.setattr(bank_files.shutil, "disk_usage", one_bank)
    second = fill(tmp_path, inputs, chosen, views=1)
    assert [path.name for path in state.iterdir() if path.is_dir()] == [second.key[:16]]


def test_training_without_its_bank_is_a_clear_error(tmp_path):
    inputs, chosen = make_inputs(tmp_path), settings(tmp_path)
    with pytest.raises(ArtefactError, match=r"bank\.json"):
        train(settings=chosen, seed=3, classes=CLASSES, fold=0, **inputs, **outputs(tmp_path / "out"))


def test_who_reads_a_bank():
    assert banked(STRATEGIES, is_random=False) == ("probe", "last_block")
    assert banked(STRATEGIES, is_random=True) == ()


def test_a_bank_at_another_boundary_is_not_used(tmp_path):
    inputs, chosen = make_inputs(tmp_path), settings(tmp_path)
    manifest = fill(tmp_path, inputs, chosen)
    trained = frozenset({"layer3", "layer4", "head"})
    assert cut_for_blocks(BACKBONES["resnet18"].build(2), "resnet18", manifest, None, trained) is None
