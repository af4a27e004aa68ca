"""A study of several findings through all stages, as a user runs it: the built-in cohort lists them in a column."""

import csv
import json

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from pipeline.core.artefacts import read_document, read_table
from pipeline.core.records import CalibratedPrediction, Estimate, FindingPrediction, FoldRole, Label, Prediction
from pipeline.core.results import Evaluation
from pipeline.core.states import read_states
from pipeline.evaluation.findings import recompute_findings
from tests.small_study import SMALL, run

pytestmark = pytest.mark.slow
NAMES = ("large", "small")
STUDY = {
    **SMALL,
    "phantom": {"patients": 40, "size": 96, "prevalence": 0.6},
    "label": {
        "table": "data/phantom/labels.csv",
        "key": "StudyInstanceUID",
        "column": "finding",
        "findings": {"style": "list", "names": list(NAMES), "none": ["none"]},
        "on_contradiction": "exclude",
    },
    "split": {"folds": 2},
    "train": {**SMALL["train"], "epochs": 1, "seeds": 2},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("findings")
    done = run(folder, STUDY)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_image_has_the_states_that_the_table_lists(folder):
    labels = read_table(folder / "results/small/labels.tsv", Label)
    counted = np.array([read_states(row.label, NAMES) for row in labels])
    with (folder / "data/phantom/labels.csv").open(encoding="utf-8", newline="") as stream:
        listed = {row["finding"] for row in csv.DictReader(stream)}
    assert {"none", *NAMES} <= listed
    assert (counted >= 0).all()
    assert (counted.sum(axis=0) > 3).all()
    assert (counted.sum(axis=1) == 0).sum() > 3  # images without any finding
    for fold in range(2):
        for role in ("train", "validation", "test"):
            rows = read_table(folder / "results/small/folds.tsv", FoldRole)
            states = [read_states(row.label, NAMES) for row in rows if (row.fold, row.role) == (fold, role)]
            assert all({0, 1} == set(column) for column in zip(*states, strict=True))


def test_numbers_are_those_of_the_predictions(folder):
    results = folder / "results/small"
    evaluation = read_document(results / "evaluation.json", Evaluation)
    assert (evaluation.kind, evaluation.classes) == ("findings", NAMES)
    rows = read_table(results / "predictions.tsv", FindingPrediction)
    again = recompute_findings(rows, NAMES)
    for item in read_table(results / "estimates.tsv", Estimate):
        assert item.value == pytest.approx(again[item.strategy, item.level, item.metric, item.fold], rel=1e-9)
    raw = [row for fold in range(2) for row in read_table(results / f"folds/{fold}/predictions.tsv", Prediction)]
    areas = []
    for fold in range(2):  # calibration of a fold moves no image past another
        tested = [row for row in raw if (row.fold, row.role, row.strategy) == (fold, "test", "full")]
        truth = np.array([read_states(row.label, NAMES) for row in tested])
        areas.append([roc_auc_score(truth[:, n], [row.logits[n] for row in tested]) for n in range(2)])
    for place, name in enumerate(NAMES):
        found = evaluation.estimate("full", "image", f"auroc:{name}")
        assert found.value == pytest.approx(np.mean(areas, axis=0)[place], rel=1e-9)
    assert not issubclass(CalibratedPrediction, FindingPrediction)


def test_the_report_names_the_findings_and_nobody(folder):
    report = folder / "reports/small"
    page = (report / "report.html").read_text(encoding="utf-8")
    assert "Mean of the findings" in page
    assert all(f">{name}<" in page for name in NAMES)
    assert "sigmoid" in (report / "model_card.md").read_text(encoding="utf-8")
    assert json.loads((report / "report.json").read_bytes())["evaluation"]["kind"] == "findings"
    with (folder / "data/phantom/labels.csv").open(encoding="utf-8", newline="") as stream:
        people = {row["PatientID"] for row in csv.DictReader(stream)}
    text = (folder / "terminal.txt").read_text(encoding="utf-8") + page
    assert not [name for name in people if name in text]
