"""The verbs that compare boundaries and sources, on a small study as the stages before leave it."""

import numpy as np
import pytest
import torch
import yaml

from pipeline.cli import main
from pipeline.core.artefacts import read_table, write_table
from pipeline.core.errors import ArtefactError, TrainingError
from pipeline.core.records import Estimate, FoldRole
from pipeline.core.states import ABSENT, PRESENT, UNKNOWN, write_states
from pipeline.freeze_sweep import BoundaryScore, score_fold
from pipeline.learning.networks.backbones import BACKBONES
from pipeline.learning.probing.sweep import candidates
from pipeline.learning.weights.files import file_digest
from pipeline.rank_sources import SourceScore, in_words, score_source
from tests.learning.plain_resnet import random_state
from tests.stages.test_train import CLASSES, make_inputs

pytestmark = pytest.mark.slow


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results = tmp_path / "results" / "small"
    inputs = make_inputs(results)
    (results / "images").mkdir()
    inputs["pixels"].rename(results / "images" / "pixels.npy")
    torch.save(random_state(1), tmp_path / "w.pth")
    weights = {"source": "file", "file": "w.pth", "sha256": file_digest(tmp_path / "w.pth")}
    label = {"table": "labels.csv", "key": "PatientID", "classes": list(CLASSES)}
    train = {"weights": weights, "device": "cpu", "precision": "float32"}
    values = {"study": "small", "ingest": {"source": "data"}, "label": label, "train": train}
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def test_the_sweep_scores_every_boundary_in_every_fold(study, capfd):
    assert main(["freeze_sweep", str(study)]) == 0
    rows = read_table(study.parent / "results/small/freeze_sweep.tsv", BoundaryScore)
    names = {row.blocks for row in rows}
    assert names == {*map(" + ".join, candidates(BACKBONES["resnet18"].blocks[:-1])), "chosen"}
    assert len(rows) == 10 * 3
    assert np.mean([row.patient_auroc for row in rows if row.blocks == "chosen"]) > 0.8  # bright squares
    shown = capfd.readouterr().err
    assert "layer3 + layer4" in shown
    assert "only `chosen` was chosen without the test parts" in shown


def test_sources_are_never_ranked_without_a_word_on_agreement(study, capfd):
    assert main(["rank_sources", str(study), "--fine-tuned", "file=0.9"]) == 0
    rows = read_table(study.parent / "results/small/sources.tsv", SourceScore)
    assert rows[0].source == "file"
    assert rows[0].fine_tuned_auroc == 0.9
    roles = read_table(study.parent / "results/small/folds.tsv", FoldRole)
    wanted = {fold: sum(role.fold == fold and role.role != "test" for role in roles) for fold in range(3)}
    assert {row.fold: row.images for row in rows} == wanted
    for source in ("file", "phantom"):  # the second comes with the software
        blocks = [row.block for row in rows if (row.source, row.fold) == (source, 0)]
        assert blocks == ["stem", "layer1", "layer2", "layer3", "layer4"]
    shown = capfd.readouterr().err
    assert "do not choose a source by them alone" in shown
    assert "means of 3 folds, each scored on its training and validation part" in shown
    assert main(["rank_sources", str(study), "--fine-tuned", "file"]) == 2
    assert main(["rank_sources", str(study), "--sources", "nowhere"]) == 2
    capfd.readouterr()
    for given, named in (("imagnet=0.9", "not compared"), ("file=nan", "no AUROC"), ("file=1.2", "no AUROC")):
        assert main(["rank_sources", str(study), "--fine-tuned", given]) == 2
        assert named in capfd.readouterr().err


def test_what_a_fine_tuning_gave_is_read_from_its_estimates(study):
    plain = {"strategy": "full", "value": 0.5, "patients": 9, "images": 9}
    rows = [
        Estimate(**{**plain, "level": level, "metric": metric, "fold": fold, "value": value})
        for level, metric, fold, value in (
            ("image", "auroc", None, 0.1),
            ("patient", "auroc", 0, 0.2),
            ("patient", "auprc", None, 0.3),
            ("patient", "auroc", None, 0.87),
            ("patient", "auroc", None, 0.4),
        )
    ]
    write_table(study.parent / "estimates.tsv", Estimate, rows)
    assert main(["rank_sources", str(study), "--fine-tuned", "file=estimates.tsv"]) == 0
    found = read_table(study.parent / "results/small/sources.tsv", SourceScore)
    assert {(row.source, row.fine_tuned_auroc) for row in found} == {("file", 0.87), ("phantom", None)}
    write_table(study.parent / "estimates.tsv", Estimate, rows[:3])
    assert main(["rank_sources", str(study), "--fine-tuned", "file=estimates.tsv"]) == 2


def a_fold(labels):
    parts = ["train", "validation", "test", "train"] * 6
    return [
        FoldRole(fold=0, image_id=f"i{row}", row=row, patient=f"p{row}", group=f"G{row}", label=label, role=part)
        for row, (label, part) in enumerate(zip(labels, parts, strict=True))
    ]


def test_a_source_is_scored_without_the_test_part():
    """Other labels and other features of the test images change nothing; those of the training images do."""
    labels = [CLASSES[int(bit)] for bit in np.random.default_rng(0).integers(0, 2, 24)]
    features = np.random.default_rng(1).normal(size=(24, 5))
    score = score_source("s", "layer4", features, a_fold(labels), CLASSES, seed=1)
    swapped = [CLASSES[1 - CLASSES.index(one)] for one in labels]
    mixed = [swapped[row] if row % 4 == 2 else labels[row] for row in range(24)]
    changed = features + 9.0 * (np.arange(24) % 4 == 2)[:, None]
    assert score_source("s", "layer4", changed, a_fold(mixed), CLASSES, seed=1) == score
    mixed = [swapped[row] if row % 8 == 0 else labels[row] for row in range(24)]
    assert score_source("s", "layer4", features, a_fold(mixed), CLASSES, seed=1) != score


def test_the_sweep_weights_classes_as_training_does():
    labels = [CLASSES[row % 8 in (0, 1, 2)] for row in range(24)]
    roles, features = a_fold(labels), {"stem": np.random.default_rng(1).normal(size=(24, 5))}
    losses = {}
    for balance in (True, False):
        losses[balance] = [one.validation_loss for one in score_fold(features, roles, CLASSES, balance=balance)]
    assert losses[True] != losses[False]


def test_a_label_that_is_no_class_is_told_by_both_verbs():
    features, strange = np.zeros((24, 2)), a_fold(["elsewhere", *[CLASSES[row % 2] for row in range(23)]])
    with pytest.raises(ArtefactError, match="1 different labels of the train part are none"):
        score_fold({"stem": features}, strange, CLASSES, balance=True)
    with pytest.raises(ArtefactError, match="1 different labels of the train and validation part are none"):
        score_source("s", "stem", features, strange, CLASSES, seed=1)


FINDINGS = ("Effusion", "Mass")


def findings_fold(*columns):
    return a_fold([write_states(FINDINGS[: len(columns)], states) for states in zip(*columns, strict=True)])


def test_of_findings_each_is_a_question_about_the_images_of_which_it_is_known():
    """One finding with all images known scores as the same classes do; two give the mean of their own scores."""
    generator = np.random.default_rng(2)
    features = generator.normal(size=(24, 5))
    first, second = (generator.integers(0, 2, 24).tolist() for _ in range(2))
    plain = score_source("s", "layer4", features, a_fold([CLASSES[one] for one in first]), CLASSES, seed=1)
    assert score_source("s", "layer4", features, findings_fold(first), FINDINGS[:1], seed=1, kind="findings") == plain
    partly = [UNKNOWN if row % 6 == 0 else state for row, state in enumerate(second)]
    kept = [role for row, role in enumerate(a_fold([CLASSES[one] for one in second])) if row % 6]
    other = score_source("s", "layer4", features, kept, CLASSES, seed=1)
    both = score_source("s", "layer4", features, findings_fold(first, partly), FINDINGS, seed=1, kind="findings")
    assert both.logme == pytest.approx((plain.logme + other.logme) / 2)
    assert both.probe_auroc == pytest.approx((plain.probe_auroc + other.probe_auroc) / 2)
    assert both.nleep == pytest.approx((plain.nleep + other.nleep) / 2)


def test_findings_that_are_always_absent_have_no_score_and_alone_stop():
    features = np.random.default_rng(2).normal(size=(24, 5))
    first, absent = [row % 2 for row in range(24)], [ABSENT] * 24
    both = score_source("s", "layer4", features, findings_fold(first, absent), FINDINGS, seed=1, kind="findings")
    assert both == score_source("s", "layer4", features, a_fold([CLASSES[one] for one in first]), CLASSES, seed=1)
    with pytest.raises(TrainingError, match="no finding is both present and absent"):
        score_source("s", "layer4", features, findings_fold(absent), FINDINGS[:1], seed=1, kind="findings")


def test_the_sweep_of_findings_is_the_mean_of_sweeps_of_each():
    generator = np.random.default_rng(4)
    columns = [(generator.permutation(np.arange(24) % 2)).tolist() for _ in FINDINGS]
    truth = np.array(columns).T
    features = {"stem": (truth @ generator.normal(size=(2, 6)) + generator.normal(size=(24, 6))).astype(np.float32)}
    both = score_fold(features, findings_fold(*columns), FINDINGS, balance=True, kind="findings")
    alone = [
        score_fold(features, a_fold([CLASSES[one] for one in column]), CLASSES, balance=True)[0].patient_auroc
        for column in columns
    ]
    assert [one.blocks for one in both] == ["stem", "chosen"]
    assert both[0].patient_auroc == pytest.approx(np.mean(alone))
    assert max(alone) > 0.5
    never = findings_fold(columns[0], [PRESENT] * 24)
    with pytest.raises(TrainingError, match="`Mass` is not both present and absent"):
        score_fold(features, never, FINDINGS, balance=True, kind="findings")


def test_agreement_with_fine_tunings_is_printed_for_each_estimate():
    rows = [
        SourceScore(
            source=name,
            block=block,
            fold=0,
            images=9,
            logme=k if block == "layer3" else -9.0,  # a source counts by its best block
            nleep=-k,
            neighbour_auroc=None,
            probe_auroc=0.5,
            fine_tuned_auroc=k / 9,
        )
        for k, name in enumerate(("a", "b", "c"), start=1)
        for block in ("layer3", "layer4")
    ]
    text = "\n".join(in_words(rows))
    assert "agreement of logme with 3 fine-tunings (Kendall's tau): +1.00" in text
    assert "agreement of nleep with 3 fine-tunings (Kendall's tau): -1.00" in text
    assert "agreement of neighbour_auroc with 0 fine-tunings (Kendall's tau): cannot be computed" in text
    assert "agreement of probe_auroc with 3 fine-tunings (Kendall's tau): cannot be computed" in text


def test_random_weights_have_nothing_to_compare(study, capfd):
    values = yaml.safe_load(study.read_text(encoding="utf-8"))
    values["train"]["weights"] = "random"
    study.write_text(yaml.safe_dump(values), encoding="utf-8")
    assert main(["freeze_sweep", str(study)]) == 2
    assert "nothing is transferred" in capfd.readouterr().err
