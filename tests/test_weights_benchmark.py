"""What measures the embedded source: its folds, its differences, and tables that hold everything or are left alone."""

import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))  # as when a script there is run
import weights_pages
import weights_target
from weights_target import COHORTS, SIZES

COHORT = weights_target.Cohort(
    pixels=np.zeros((60, 2, 2), np.uint8),
    patients=tuple(row // 2 for row in range(60)),  # two images of each
    labels=tuple(row % 3 == 0 and row < 40 for row in range(60)),
)


def test_folds_keep_patients_together_and_test_each_once():
    tested = Counter()
    for fold in range(5):
        roles = weights_target.fold_roles(COHORT, fold, 5, 0.2, seed=3)
        sides = {}
        for role in roles:
            sides.setdefault(role.patient, set()).add(role.role)
            assert role.fold == fold
            assert role.label == weights_target.CLASSES[COHORT.labels[role.row]]
        assert all(len(found) == 1 for found in sides.values())
        tested.update(patient for patient, found in sides.items() if found == {"test"})
        assert {"train", "validation"} <= set.union(*sides.values())
    assert set(tested.values()) == {1}
    assert len(tested) == 30


def test_a_curve_tests_none_of_the_patients_it_trains_on():
    roles = weights_target.roles_for(COHORT, COHORT, 3)
    people = {side: {role.patient for role in roles if (role.role == "test") == side} for side in (True, False)}
    assert not people[True] & people[False]
    assert {role.row for role in roles} == set(range(120))


def test_scores_of_a_patient_are_the_mean_over_the_images_that_were_tested():
    def image(patient, role, label, *logits):
        return SimpleNamespace(patient=patient, role=role, label=label, logits=logits)

    predictions = [
        image("b", "test", "normal", 1.0, 0.0),
        image("a", "test", "normal", 0.0, 2.0),
        image("a", "test", "lesion", 0.0, 4.0),
        image("c", "validation", "lesion", 0.0, 9.0),
    ]
    truth, scores = weights_target.by_patient(SimpleNamespace(predictions=predictions))
    assert truth.tolist() == [True, False]
    assert scores.tolist() == [3.0, -1.0]


@pytest.mark.slow
def test_the_paired_interval_is_that_of_a_bootstrap_over_patients():
    rng = np.random.default_rng(5)
    truths, first, second = [], [], []
    for _ in range(3):
        truth = rng.random(150) < 0.4
        shared = rng.normal(size=150)
        truths.append(truth)
        first.append(truth * 1.5 + shared + 0.5 * rng.normal(size=150))
        second.append(truth * 0.8 + shared + 0.5 * rng.normal(size=150))
    value, low, high = weights_target.mean_paired(truths, first, second)

    def difference(parts):
        return np.mean([roc_auc_score(t, a) - roc_auc_score(t, b) for t, a, b in parts])

    drawn = []
    for _ in range(400):
        picked = [rng.integers(0, 150, 150) for _ in truths]
        drawn.append(difference([(t[p], a[p], b[p]) for t, a, b, p in zip(truths, first, second, picked, strict=True)]))
    assert value == pytest.approx(difference(list(zip(truths, first, second, strict=True))))
    assert (high - low) / (2 * 1.96) == pytest.approx(np.std(drawn), rel=0.15)


def test_the_interval_over_cohorts_is_students():
    mean, low, high = weights_target.across_cohorts([0.1, 0.2, 0.3])
    assert mean == pytest.approx(0.2)
    assert high - mean == pytest.approx(mean - low) == pytest.approx(4.302653 * 0.1 / np.sqrt(3))


def test_epochs_to_the_same_score_are_taken_over_the_folds_in_which_it_is_reached():
    validation = {
        "full": [[0.7, 0.9, 0.95], [0.5, 0.6, 0.7], [0.8, 0.8, 0.9]],
        "scratch": [[0.6, 0.9, 0.8], [0.5, 0.6, 0.8], [None, 0.9, 0.9]],
    }
    assert weights_pages.epochs_to_same(validation) == ("2.5 (2 of 3 folds)", "2.0")
    assert weights_pages.epochs_to_same({"full": [[0.1]], "scratch": [[0.2]]}) == ("never", "-")


def rows():
    interval = (0.1, 0.05, 0.15)
    runs = dict.fromkeys(weights_target.RUNS, 0.8)
    ends = {f"{name}{end}": interval for name in ("difference", "over trainings") for end in weights_target.ENDS}
    validation = {run: [[0.5, 0.6]] for run in weights_target.RUNS}
    one = {**runs, **ends, "validation": validation, "epochs": [10, 30], "steps": 60}
    real = {"size": 128, "scores": [[0.8, 0.9], [0.7, 0.8]]}
    return {
        **{f"study {seed}": one for seed in COHORTS},
        **{f"curve {patients} {seed}": one for patients in SIZES for seed in COHORTS},
        **{f"real {name} {kind}": {**real, "set": name, "group": kind} for name in SETS for kind in ("ImageNet", "x")},
    }


SETS = ("radiographs", "mednist")


@pytest.mark.parametrize(
    ("table", "missing"),
    [
        (weights_pages.study_table, "study 3"),
        (weights_pages.curve_table, "curve 40 5"),
        (weights_pages.real_table, "real mednist ImageNet"),
    ],
)
def test_a_table_that_lacks_a_row_is_not_written(table, missing):
    whole = rows()
    assert table(whole).count("\n") > 3
    del whole[missing]
    assert table(whole) == ""


def test_pages_keep_what_stands_around_a_table(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- x: made by benchmarks/weights.py -->\nold\n<!-- end of x -->\nb\n", encoding="utf-8")
    weights_pages.put(page, "x", "new")
    expected = "a\n<!-- x: made by benchmarks/weights.py -->\nnew\n<!-- end of x -->\nb\n"
    assert page.read_text(encoding="utf-8") == expected
    weights_pages.put(page, "y", "other")
    assert page.read_text(encoding="utf-8") == expected
