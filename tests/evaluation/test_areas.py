"""Areas: means over folds, pooled areas, and intervals where a bootstrap has nothing to say."""

import numpy as np
import pytest

from pipeline.evaluation.areas import ACROSS_FOLDS, POOLED, area_interval, fold_notes, rank_folds
from pipeline.evaluation.estimates import Resampling, judge
from pipeline.evaluation.metrics import METRICS
from pipeline.evaluation.ranking import equal_weights
from tests.evaluation.synthetic import BINARY, THREE, Plan, make_rows, simple_rows

RESAMPLING = Resampling(seed=1, replicates=200, confidence=0.95)


def judged(rows, level="patient", classes=BINARY):
    return judge(rows, classes, RESAMPLING)["full", level]


def study(size=60, folds=3, signal=1.0, seed=0, positives=0.4):
    generator = np.random.default_rng(seed)
    labels = (np.arange(size) // folds % 10 < 10 * positives).astype(int)
    scores = 1 / (1 + np.exp(-generator.normal(size=size) - signal * labels))
    return scores, labels, np.arange(size) % folds


@pytest.mark.parametrize(("level", "classes"), [("patient", BINARY), ("image", BINARY), ("patient", THREE)])
def test_values_are_means_of_folds_and_pooled(level, classes):
    one = judged(make_rows(Plan(classes=classes, patients=90)), level, classes)
    for metric in ("auroc", "auprc"):
        by_fold = []
        for fold in (0, 1, 2):
            part = one.scores.select(one.scores.folds == fold)
            by_fold.append(METRICS[metric].function(part.labels, part.probabilities))
            assert one.values[metric, fold] == pytest.approx(by_fold[-1], abs=1e-12)
        assert one.values[metric, None] == pytest.approx(np.mean(by_fold), abs=1e-12)
    pooled = METRICS["auroc"].function(one.scores.labels, one.scores.probabilities)
    assert one.values[POOLED, None] == pytest.approx(pooled, abs=1e-12)


def test_classes_have_areas_of_their_own_when_there_are_several():
    one = judged(make_rows(Plan(classes=THREE, patients=90)), classes=THREE)
    of_classes = [one.values[f"auroc:{name}", None] for name in THREE]
    assert np.mean(of_classes) == pytest.approx(one.values["auroc", None])
    assert not [metric for metric, _ in judged(make_rows()).values if ":" in metric]


def test_replicates_lie_around_the_value():
    one = judged(make_rows())
    for key, replicates in one.replicates.items():
        assert replicates.shape == (200,)
        assert replicates.min() <= one.values[key] <= replicates.max()


def test_pooled_area_of_single_patients_is_judged_by_delong():
    scores, labels, folds = study()
    one = judged(simple_rows(scores, labels, folds, np.arange(60)))
    interval = area_interval(one.scores, (POOLED, None), one.values, one.replicates, 0.95)
    assert interval.method == "DeLong, logit scale"
    clustered = judged(simple_rows(scores, labels, folds, np.arange(60) // 6 * 3 + folds))
    interval = area_interval(clustered.scores, (POOLED, None), clustered.values, clustered.replicates, 0.95)
    assert interval.method.startswith("patient-cluster bootstrap")


def test_delong_and_bootstrap_agree():
    scores, labels, folds = study(size=300, folds=1)
    many = Resampling(seed=1, replicates=1500, confidence=0.95)
    one = judge(simple_rows(scores, labels, folds, np.arange(300)), BINARY, many)["full", "patient"]
    delong, bootstrap = (
        area_interval(one.scores, (name, None), one.values, one.replicates, 0.95) for name in (POOLED, "auroc")
    )
    assert one.values[POOLED, None] == one.values["auroc", None]
    assert (bootstrap.low, bootstrap.high) == pytest.approx((delong.low, delong.high), abs=0.01)


@pytest.mark.parametrize(("sign", "value"), [(1, 1.0), (-1, 0.0)])
def test_complete_separation_has_an_interval(sign, value):
    _, labels, folds = study()
    scores = 0.5 + sign * (labels - 0.5) * np.linspace(0.2, 0.8, 60)
    one = judged(simple_rows(scores, labels, folds, np.arange(60)))
    interval = area_interval(one.scores, ("auroc", None), one.values, one.replicates, 0.95)
    assert one.values["auroc", None] == value
    bound = 0.025 ** (1 / int(labels.sum()))
    assert (interval.low, interval.high) == pytest.approx((bound, 1) if value else (0, 1 - bound))
    assert "complete separation" in interval.method


def test_a_fold_with_one_class_is_left_out_and_named():
    scores, labels, folds = study()
    labels[folds == 2] = 0
    one = judged(simple_rows(scores, labels, folds, np.arange(60)))
    assert ("auroc", 2) not in one.values
    assert one.values["auroc", None] == pytest.approx((one.values["auroc", 0] + one.values["auroc", 1]) / 2)
    assert fold_notes(one.scores, one.ranked).startswith("fold 3: not every class occurs")


def test_a_lone_patient_is_named_and_gives_its_fold_no_interval():
    scores, labels, folds = study()
    labels[folds == 1] = 0
    labels[1] = 1
    scores[1] = np.median(scores[folds == 1]) + 1e-9
    one = judged(simple_rows(scores, labels, folds, np.arange(60)))
    assert "fold 2: a class has a single patient" in fold_notes(one.scores, one.ranked)
    interval = area_interval(one.scores, ("auroc", 1), one.values, one.replicates, 0.95)
    assert (interval.low, interval.note) == (None, "a class has a single patient: no interval can be made")


def test_interval_across_folds_stays_in_range():
    one = judged(make_rows())
    interval = area_interval(one.scores, (ACROSS_FOLDS, None), one.values, one.replicates, 0.95)
    assert 0 <= interval.low < one.values["auroc", None] < interval.high <= 1


def test_equal_weights_are_the_study_itself():
    one = judged(make_rows())
    values = rank_folds(one.scores).values(equal_weights(int(one.scores.clusters.max()) + 1))
    assert {key: float(value[0]) for key, value in values.items()} == dict(one.values)
