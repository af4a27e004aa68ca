import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.config import BankSettings
from pipeline.core.artefacts import read_table, write_table
from pipeline.core.errors import ArtefactError, CohortError, LeakageError, TrainingError, WeightsError
from pipeline.core.records import EpochLog, FoldRole, Image, Prediction, TrainingSummary
from pipeline.learning.loop.checkpoints import locked, read_checkpoint, write_checkpoint
from pipeline.learning.weights.files import file_digest, read_facts
from pipeline.stages.bank import bank
from pipeline.stages.train import train
from pipeline.train_settings import TrainSettings, WeightsSettings
from tests.learning.plain_resnet import random_state

pytestmark = pytest.mark.slow
CLASSES = ("normal", "lesion")
QUICK = TrainSettings.model_validate(
    {"weights": "random", "epochs": 4, "batch_size": 8, "device": "cpu", "precision": "float32", "compare": ["probe"]}
)
# State is written after every epoch, so that a kill in the middle has something to go on from.
EAGER = (
    "import sys, pipeline.learning.loop.checkpoints as c; c.SECONDS_BETWEEN_STATES = 0.0;"
    "from pipeline.cli import main; raise SystemExit(main(sys.argv[1:]))"
)


def make_inputs(folder: Path, **changes: str) -> dict[str, Path]:
    """Write a small study of 30 patients as the stages before leave it."""
    generator = np.random.default_rng(0)
    truth = np.arange(30) % 2
    pixels = generator.integers(60, 120, size=(30, 32, 32), dtype=np.uint8)
    pixels[truth == 1, 8:24, 8:24] += 100
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "pixels.npy", pixels)
    images = [
        Image(
            image_id=f"i{row}",
            row=row,
            patient=f"P{row}",
            study_uid=f"2.25.{row}",
            series_uid=f"2.25.{row}",
            modality="CR",
            source_rows=32,
            source_columns=32,
            intensity_low=0,
            intensity_high=255,
            pixel_sha256=hashlib.sha256(bytes([row])).hexdigest(),
            **changes,
        )
        for row in range(30)
    ]
    names = ["test"] * 10 + ["validation"] * 6 + ["train"] * 14
    roles = [
        FoldRole(
            fold=k, image_id=f"i{row}", row=row, patient=f"P{row}", group=f"G{row}", label=CLASSES[kind], role=role
        )
        for k, names in enumerate((names, names[10:] + names[:10], names[20:] + names[:20]))
        for row, (kind, role) in enumerate(zip(truth, names, strict=True))
    ]
    write_table(folder / "images.tsv", Image, images)
    write_table(folder / "folds.tsv", FoldRole, roles)
    names = {"images": "images.tsv", "pixels": "pixels.npy", "folds": "folds.tsv", "bank": "bank.json"}
    return {key: folder / name for key, name in names.items()}


def outputs(folder: Path) -> dict[str, Path]:
    return {
        "state": folder / "state",
        "checkpoint": folder / "checkpoint.safetensors",
        "history": folder / "history.tsv",
        "predictions": folder / "predictions.tsv",
        "training": folder / "training.tsv",
    }


def options(settings: TrainSettings, inputs: dict[str, Path], made: dict[str, Path]) -> list[str]:
    paths = [word for name, path in {**inputs, **made}.items() for word in (f"--{name}", str(path))]
    words = ["train", "--settings", settings.model_dump_json(), "--seed", "3", "--classes", *CLASSES, "--fold", "1"]
    return [*words, *paths, "--threads", "2"]


def test_a_fold_writes_everything_about_every_strategy(tmp_path):
    made = outputs(tmp_path / "out")
    train(settings=QUICK, seed=3, classes=CLASSES, fold=1, threads=2, **make_inputs(tmp_path), **made)
    predictions = read_table(made["predictions"], Prediction)
    assert {(row.strategy, row.fold) for row in predictions} == {("full", 1), ("probe", 1)}
    assert len(predictions) == 2 * 16
    assert {log.strategy for log in read_table(made["history"], EpochLog)} == {"full"}
    summaries = read_table(made["training"], TrainingSummary)
    assert [row.strategy for row in summaries] == ["full", "probe"]
    assert (summaries[0].train_images, summaries[0].validation_images, summaries[0].test_images) == (14, 6, 10)
    saved = read_checkpoint(made["checkpoint"])
    assert saved.facts["strategy"] == "full"
    assert saved.facts["classes"] == list(CLASSES)
    assert saved.tensors["fc.weight"].shape == (2, 512)
    assert saved.facts["normalisation"]["mean"] == [0.485, 0.456, 0.406]


def as_findings(inputs: dict[str, Path], folder: Path) -> dict[str, Path]:
    """Ask for the second class as a finding, and for another one that is unknown now and then."""
    rows = read_table(inputs["folds"], FoldRole)
    other = {row.image_id: "?" if row.row % 7 == 3 else str(row.row // 2 % 2) for row in rows}
    told = {"normal": 0, "lesion": 1}
    changed = [
        row.model_copy(update={"label": f"lesion={told[row.label]};other={other[row.image_id]}"}) for row in rows
    ]
    folder.mkdir()
    write_table(folder / "folds.tsv", FoldRole, changed)
    return {**inputs, "folds": folder / "folds.tsv"}


def test_the_probe_of_a_finding_is_that_of_two_classes(tmp_path):
    inputs, binary, several = make_inputs(tmp_path), outputs(tmp_path / "binary"), outputs(tmp_path / "several")
    probe = QUICK.model_copy(update={"strategy": "probe", "compare": ("full",), "epochs": 1})
    train(settings=probe, seed=3, classes=CLASSES, fold=1, threads=2, **inputs, **binary)
    asked = {"classes": ("lesion", "other"), "kind": "findings"}
    train(settings=probe, seed=3, **asked, fold=1, threads=2, **as_findings(inputs, tmp_path / "asked"), **several)
    rows = [row for row in read_table(several["predictions"], Prediction) if row.strategy == "probe"]
    expected = [row for row in read_table(binary["predictions"], Prediction) if row.strategy == "probe"]
    assert [row.image_id for row in rows] == [row.image_id for row in expected]
    wanted = [row.logits[1] - row.logits[0] for row in expected]
    np.testing.assert_allclose([row.logits[0] for row in rows], wanted, rtol=1e-3, atol=1e-4)
    assert {len(row.logits) for row in rows} == {2}
    summaries = read_table(several["training"], TrainingSummary)
    assert [(row.kind, row.classes) for row in summaries] == [("findings", ("lesion", "other"))] * 2
    saved = read_checkpoint(several["checkpoint"])
    assert saved.facts["kind"] == "findings"
    assert saved.tensors["fc.weight"].shape == (2, 512)
    logs = read_table(several["history"], EpochLog)
    assert all(np.isfinite(log.train_loss) and log.validation_auroc is not None for log in logs)


def test_findings_are_not_trained_as_classes(tmp_path):
    inputs = make_inputs(tmp_path)
    with pytest.raises(ArtefactError, match="no list of findings"):
        train(settings=QUICK, seed=3, classes=CLASSES, fold=1, kind="findings", **inputs, **outputs(tmp_path / "a"))
    asked = as_findings(inputs, tmp_path / "asked")
    with pytest.raises(ArtefactError, match="labels of the train part are none of the study's classes"):
        train(settings=QUICK, seed=3, classes=("lesion", "other"), fold=1, **asked, **outputs(tmp_path / "b"))


def test_a_checkpoint_is_a_source_for_the_next_task(tmp_path, capfd):
    inputs, first, second = make_inputs(tmp_path), outputs(tmp_path / "first"), outputs(tmp_path / "second")
    short = QUICK.model_copy(update={"epochs": 1, "compare": ()})
    train(settings=short, seed=3, classes=CLASSES, fold=0, **inputs, **first)
    weights = WeightsSettings(source="run", file=first["checkpoint"])
    probe = short.model_copy(update={"strategy": "probe", "weights": weights})
    made = {"state": tmp_path / "bank", "manifest": inputs["bank"]}
    bank(settings=BankSettings(), train=probe, seed=4, images=inputs["images"], pixels=inputs["pixels"], **made)
    train(settings=probe, seed=4, classes=CLASSES, fold=0, **inputs, **second)
    assert "weights run (random)" in capfd.readouterr().err
    before, after = read_checkpoint(first["checkpoint"]), read_checkpoint(second["checkpoint"])
    changed = {name for name, value in before.tensors.items() if not value.equal(after.tensors[name])}
    assert changed == {"fc.weight", "fc.bias"}  # the head is new, all else is the first study's
    assert after.facts["weights_sha256"] == file_digest(first["checkpoint"])
    assert (after.facts["weights_licence"], after.facts["ancestry"]) == ("own", "random")
    assert after.facts["normalisation"] == before.facts["normalisation"]


def test_a_probe_of_other_blocks_is_a_source_without_its_head(tmp_path):
    inputs, first, second = make_inputs(tmp_path), outputs(tmp_path / "first"), outputs(tmp_path / "second")
    short = QUICK.model_copy(update={"epochs": 1, "compare": ()})
    train(settings=short, seed=3, classes=CLASSES, fold=0, **inputs, **first)
    tensors, facts = read_checkpoint(first["checkpoint"])
    other = {**tensors, "fc.weight": torch.zeros(2, 768), "fc.bias": torch.zeros(2)}
    write_checkpoint(tmp_path / "probe.safetensors", other, {**facts, "head_blocks": ["layer3", "layer4"]})
    weights = WeightsSettings(source="run", file=tmp_path / "probe.safetensors")
    again = short.model_copy(update={"strategy": "last_block", "weights": weights})
    made = {"state": tmp_path / "bank", "manifest": inputs["bank"]}
    bank(settings=BankSettings(), train=again, seed=4, images=inputs["images"], pixels=inputs["pixels"], **made)
    train(settings=again, seed=4, classes=CLASSES, fold=0, **inputs, **second)
    after = read_checkpoint(second["checkpoint"])
    assert after.tensors["fc.weight"].shape == (2, 512)
    assert after.tensors["layer3.0.conv1.weight"].equal(tensors["layer3.0.conv1.weight"])


def test_an_ensemble_keeps_its_networks_and_is_no_source(tmp_path):
    inputs, made = make_inputs(tmp_path), outputs(tmp_path / "out")
    changes = {"epochs": 1, "compare": (), "seeds": 2, "views": 1, "loss": "focal", "ema_decay": 0.9}
    several = QUICK.model_copy(update={**changes, "strategy": "gradual"})
    train(settings=several, seed=3, classes=CLASSES, fold=0, **inputs, **made)
    (summary,) = read_table(made["training"], TrainingSummary)
    assert (summary.networks, summary.epochs, summary.trained_parameters) == (2, 1, 2 * 512 + 2)
    tensors = read_checkpoint(made["checkpoint"]).tensors
    assert {name.partition("/")[0] for name in tensors} == {"network1", "network2"}
    assert not tensors["network1/fc.weight"].equal(tensors["network2/fc.weight"])
    assert len(read_table(made["history"], EpochLog)) == 1
    weights = WeightsSettings(source="run", file=made["checkpoint"])
    with pytest.raises(WeightsError, match="ensemble of 2 networks"):
        train(
            settings=several.model_copy(update={"weights": weights}),
            seed=3,
            classes=CLASSES,
            fold=0,
            **inputs,
            **outputs(tmp_path / "next"),
        )


def test_sigterm_saves_the_state_and_ends_with_an_error(tmp_path):
    inputs, made = make_inputs(tmp_path), outputs(tmp_path / "out")
    settings = QUICK.model_copy(update={"epochs": 500, "patience": 500})
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", *options(settings, inputs, made)], stderr=subprocess.PIPE, text=True
    )
    lines = []
    for line in process.stderr:
        lines.append(line)
        if "epoch 2/" in line:
            break
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    rest = process.stderr.read()
    assert process.wait(timeout=30) == 2, "".join(lines) + rest
    assert time.monotonic() - began < 30
    assert "interrupted by SIGTERM" in rest
    assert list(made["state"].glob("full/epoch-*"))
    assert not made["predictions"].exists()
    process.stderr.close()


def test_a_run_killed_in_the_middle_ends_with_the_same_bytes(tmp_path):
    inputs = make_inputs(tmp_path)
    settings = QUICK.model_copy(update={"epochs": 12, "patience": 12})
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    whole, killed = outputs(tmp_path / "whole"), outputs(tmp_path / "killed")
    command = [sys.executable, "-c", EAGER]
    subprocess.run([*command, *options(settings, inputs, whole)], check=True, env=environment, capture_output=True)

    process = subprocess.Popen(
        [*command, *options(settings, inputs, killed)], env=environment, stderr=subprocess.PIPE, text=True
    )
    lines = []
    for line in process.stderr:
        lines.append(line)
        if "epoch 5/" in line:
            break
    time.sleep(0.05)  # into the next epoch
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    assert "epoch 5/" in lines[-1], "".join(lines)
    assert not killed["predictions"].exists()

    again = subprocess.run(
        [*command, *options(settings, inputs, killed)], check=True, env=environment, capture_output=True, text=True
    )
    assert "resumed after epoch" in again.stderr
    for name in ("checkpoint", "predictions"):
        assert killed[name].read_bytes() == whole[name].read_bytes(), name


def test_patients_on_two_sides_stop_the_training(tmp_path):
    inputs = make_inputs(tmp_path)
    roles = read_table(inputs["folds"], FoldRole)
    leaking = [role.model_copy(update={"patient": "P0", "group": "G0"}) if role.row == 29 else role for role in roles]
    write_table(inputs["folds"], FoldRole, leaking)
    with pytest.raises(LeakageError):
        train(settings=QUICK, seed=3, classes=CLASSES, fold=0, **inputs, **outputs(tmp_path / "out"))


def test_images_prepared_anew_in_another_order_stop_the_training(tmp_path):
    inputs = make_inputs(tmp_path)
    index = read_table(inputs["images"], Image)
    turned = [image.model_copy(update={"row": len(index) - 1 - image.row}) for image in index]
    write_table(inputs["images"], Image, turned)
    with pytest.raises(ArtefactError, match="do not point at their image"):
        train(settings=QUICK, seed=3, classes=CLASSES, fold=0, **inputs, **outputs(tmp_path / "out"))


def test_a_run_that_goes_on_from_another_knows_which_test_images_that_one_had(tmp_path):
    """The second study tests in its fold 1 what the first trained or chose on in its fold 0, or not."""
    inputs, first = make_inputs(tmp_path), outputs(tmp_path / "first")
    train(settings=QUICK, seed=3, classes=CLASSES, fold=0, **inputs, **first)
    path = first["checkpoint"]
    weights = {"source": "run", "file": str(path), "sha256": file_digest(path)}
    chosen = QUICK.model_copy(update={"weights": WeightsSettings.model_validate(weights), "compare": ("scratch",)})
    for fold in (0, 1):
        again = outputs(tmp_path / str(fold))
        train(settings=chosen, seed=3, classes=CLASSES, fold=fold, **inputs, **again)
        own, scratch = read_table(again["training"], TrainingSummary)
        assert scratch.tested_before == 0
        assert own.tested_before == (0 if fold == 0 else own.test_images)
    seen = read_facts(again["checkpoint"])["seen"]
    assert len(seen) == len({image.pixel_sha256 for image in read_table(inputs["images"], Image)})


@pytest.mark.parametrize("head", ["last", "joined"])
def test_two_processes_give_the_predictions_of_one(tmp_path, head):
    """Sums of parts round otherwise than sums of the whole."""
    inputs, found = make_inputs(tmp_path), {}
    torch.save(random_state(1), tmp_path / "w.pth")
    weights = {"source": "file", "file": str(tmp_path / "w.pth"), "sha256": file_digest(tmp_path / "w.pth")}
    changes = {"weights": WeightsSettings.model_validate(weights), "head": head, "epochs": 2, "compare": ()}
    for devices in (1, 2):
        made = outputs(tmp_path / str(devices))
        chosen = QUICK.model_copy(update={**changes, "devices": devices})
        train(settings=chosen, seed=3, classes=CLASSES, fold=1, threads=2, **inputs, **made)
        (summary,) = read_table(made["training"], TrainingSummary)
        assert summary.device.startswith("2 x ") == (devices == 2)
        assert len(summary.head_blocks) == (5 if head == "joined" else 1)
        rows = read_table(made["predictions"], Prediction)
        assert {row.role for row in rows} == {"validation", "test"}
        found[devices] = np.array([row.logits for row in rows])
    assert np.allclose(found[1], found[2], rtol=1e-2, atol=1e-2 * found[1].std())
    assert found[1].std() > 0


def test_images_beside_volumes_are_refused_with_advice(tmp_path):
    inputs = make_inputs(tmp_path)
    index = read_table(inputs["images"], Image)
    index[3] = index[3].model_copy(update={"volume_file": "v.nii"})
    write_table(inputs["images"], Image, index)
    with pytest.raises(CohortError, match="29 images and 1 volumes, and a network takes one of the two"):
        train(settings=QUICK, seed=3, classes=CLASSES, fold=0, **inputs, **outputs(tmp_path / "out"))


def test_volumes_of_an_earlier_version_ask_for_their_preparation(tmp_path):
    """It stored none."""
    inputs = make_inputs(tmp_path, volume_file="v.nii")
    np.save(inputs["pixels"], np.zeros((0, 32, 32), np.uint8))
    with pytest.raises(ArtefactError, match="run `preprocess` again"):
        train(settings=QUICK, seed=3, classes=CLASSES, fold=0, **inputs, **outputs(tmp_path / "out"))


def test_a_second_job_on_the_same_fold_is_refused(tmp_path):
    inputs, made = make_inputs(tmp_path), outputs(tmp_path / "out")
    with locked(made["state"]), pytest.raises(TrainingError, match="another process"):
        train(settings=QUICK, seed=3, classes=CLASSES, fold=0, **inputs, **made)
    assert not made["predictions"].exists()


# --- volumes

ROADS = ("slices_as_channels", "attention", "inflation")


def make_volumes(folder: Path, depth: int = 5) -> dict[str, Path]:
    """Make volumes of the study's images: in those of class 1, one slice is brighter in the middle."""
    inputs = make_inputs(folder, volume_file="v.nii")
    generator = np.random.default_rng(1)
    volumes = generator.integers(60, 120, size=(30, depth, 32, 32), dtype=np.uint8)
    for row in range(1, 30, 2):
        volumes[row, generator.integers(depth), 8:24, 8:24] += 130
    np.save(inputs["pixels"], volumes)
    return inputs


def on_road(name: str, **changes: object) -> TrainSettings:
    quick = {"epochs": 2, "batch_size": 8, "device": "cpu", "precision": "float32", "weights": "random", "views": 1}
    return TrainSettings.model_validate({**quick, "volumes": {"road": name}, **changes})


@pytest.mark.parametrize("name", ROADS)
def test_volumes_are_trained_on_by_every_road(tmp_path, name):
    inputs, made = make_volumes(tmp_path), outputs(tmp_path / "out")
    train(settings=on_road(name), seed=3, classes=CLASSES, fold=1, threads=2, **inputs, **made)
    predictions = read_table(made["predictions"], Prediction)
    assert len({row.image_id for row in predictions}) == len(predictions) == 16  # one for each volume
    (summary,) = read_table(made["training"], TrainingSummary)
    assert (summary.road, summary.slices) == (name, 2 if name == "slices_as_channels" else 5)
    assert summary.image_size == 32
    saved = read_checkpoint(made["checkpoint"])
    form = {"inflation": "mean", "stem_depth": 3, "stem_stride": 1, "shortcut": "projection"}
    built = {"form": form} if name == "inflation" else {}
    assert saved.facts["volumes"] == {"road": name, "slices": summary.slices, **built}
    assert ("slices.gate.weight" in saved.tensors) == (name == "attention")
    assert saved.tensors["conv1.weight"].shape == ((64, 2, 3, 7, 7) if name == "inflation" else (64, 3, 7, 7))


def test_attention_counts_as_trained_only_where_it_was(tmp_path):
    inputs, attention = make_volumes(tmp_path), 2 * (512 * 128 + 128) + 128
    head = 512 * len(CLASSES) + len(CLASSES)
    counted = {}
    for name in ("probe", "full"):
        made = outputs(tmp_path / name)
        settings = on_road("attention", strategy=name, epochs=1)
        train(settings=settings, seed=3, classes=CLASSES, fold=0, **inputs, **made)
        (counted[name],) = read_table(made["training"], TrainingSummary)
    assert counted["probe"].trained_parameters == head
    assert counted["full"].trained_parameters == 11_176_512 + head + attention
    assert counted["probe"].frozen_parameters == 11_176_512 + attention


def test_a_network_over_slices_is_a_source_for_images_and_an_inflated_one_for_volumes_on_its_road(tmp_path):
    volumes, images = make_volumes(tmp_path / "v"), make_inputs(tmp_path / "i")
    for name in ("attention", "inflation"):
        made = outputs(tmp_path / name)
        train(settings=on_road(name, epochs=1), seed=3, classes=CLASSES, fold=0, **volumes, **made)

    def settings(source: str, road: str) -> TrainSettings:
        path = str(tmp_path / source / "checkpoint.safetensors")
        return on_road(road, epochs=1, weights={"source": "run", "file": path})

    for kind, inputs, road in (
        ("images", images, "attention"),
        ("volumes", volumes, "attention"),
        ("volumes", volumes, "inflation"),
    ):
        made = outputs(tmp_path / kind / road)
        train(settings=settings(road, road), seed=3, classes=CLASSES, fold=0, **inputs, **made)
        assert read_table(made["training"], TrainingSummary)[0].weights_source == "run"
    refused = {"seed": 3, "classes": CLASSES, "fold": 0, **outputs(tmp_path / "x")}
    with pytest.raises(WeightsError, match="network for whole volumes, and this study looks at images or slices"):
        train(settings=settings("inflation", "attention"), **images, **refused)
    with pytest.raises(WeightsError, match="networks for whole volumes, and this one is to take images"):
        train(settings=settings("inflation", "inflation"), **images, **refused)
