"""Estimates: properties of the intervals, paired comparisons, and every value again from the stored predictions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.artefacts import read_table, write_table
from pipeline.core.records import CalibratedPrediction
from pipeline.evaluation.estimates import Resampling, compare, estimate, judge, recompute
from pipeline.evaluation.metrics import METRICS, Metric
from tests.evaluation.synthetic import BINARY, THREE, Plan, make_rows, simple_rows
from tests.evaluation.test_scores import renamed

FEW = Resampling(seed=1, replicates=200, confidence=0.95)


def estimates(rows, classes=BINARY, resampling=FEW, strategy="full"):
    found = estimate(judge(rows, classes, resampling), strategy, resampling)
    return {(item.level, item.metric, item.fold): item for item in found}


def numbers(found):
    return {name: (item.value, item.low, item.high) for name, item in found.items()}


def simple_study(size, *, folds=2, signal=1.0, seed=0, images=1, spread=0.0):
    """Rows of `size` patients with `images` images each; `spread` is the standard deviation between patients."""
    generator = np.random.default_rng(seed)
    patient = np.repeat(np.arange(size), images)
    labels = (np.arange(size) // folds % 2)[patient]
    scores = generator.normal(size=size * images) * np.sqrt(1 - spread**2)
    scores = scores + spread * generator.normal(size=size)[patient] + signal * labels
    return simple_rows(1 / (1 + np.exp(-scores)), labels, patient % folds, patient)


@pytest.mark.parametrize("classes", [BINARY, THREE])
def test_intervals_hold_their_estimates(classes):
    found = estimates(make_rows(Plan(classes=classes, patients=90)), classes)
    assert {"auroc", "auprc", "accuracy", "balanced_accuracy", "brier", "log_loss"} <= {name[1] for name in found}
    for item in found.values():
        assert item.low < item.value < item.high or item.value in {0, 1}
        assert item.low <= item.value <= item.high
        assert item.method


def test_the_list_of_estimates_of_two_classes():
    found = estimates(make_rows())
    whole = {"auroc", "auprc", "auroc_pooled", "brier", "log_loss", "sensitivity", "specificity", "ppv", "npv"}
    whole |= {"accuracy", "balanced_accuracy"}
    assert {metric for level, metric, fold in found if (level, fold) == ("image", None)} == whole
    assert {metric for level, metric, fold in found if (level, fold) == ("patient", None)} == whole | {
        "auroc_across_folds"
    }
    for fold in range(3):
        of_fold = {metric for level, metric, number in found if (level, number) == ("patient", fold)}
        assert of_fold == {"auroc", "auprc", "sensitivity", "specificity"}
    assert not [name for name in found if name[0] == "image" and name[2] is not None]


def test_counts_of_patients_and_images():
    found = estimates(make_rows(Plan(patients=60, images_each=2, folds=3)))
    of_patients = {fold: found["patient", "auroc", fold] for fold in (None, 0)}
    assert [(item.patients, item.images) for item in of_patients.values()] == [(60, 120), (20, 40)]
    assert (found["image", "auroc", None].patients, found["image", "auroc", None].images) == (60, 120)


def test_patients_with_several_classes_count_once():
    found = estimates(make_rows(Plan(classes=THREE, patients=90, mixed=6)), THREE)
    assert found["patient", "auroc", None].patients == 90


@settings(max_examples=4)
@given(seed=st.integers(0, 10**6))
def test_the_order_of_rows_changes_nothing(seed):
    rows = make_rows()
    order = np.random.default_rng(seed).permutation(len(rows))
    # The first strategy stays the first: it is the study's own.
    shuffled = sorted((rows[i] for i in order), key=lambda row: row.strategy != "full")
    expected, found = numbers(estimates(rows)), numbers(estimates(shuffled))
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, abs=1e-12)


def test_pseudonyms_change_nothing():
    rows = make_rows()
    assert numbers(estimates(renamed(rows))) == numbers(estimates(rows))


def test_a_further_strategy_changes_nothing():
    rows = make_rows()
    assert numbers(estimates([row for row in rows if row.strategy == "full"])) == numbers(estimates(rows))


def test_one_image_a_patient_gives_the_same_at_both_levels():
    found = numbers(estimates(simple_study(60)))
    shared = [name for name in found if name[0] == "image"]
    assert shared
    for level, metric, fold in shared:
        if metric == "auroc_pooled":  # there the level of single patients has DeLong's interval
            continue
        assert found["patient", metric, fold] == pytest.approx(found[level, metric, fold])


def test_more_patients_narrower_intervals():
    widths = []
    for size in (40, 160, 640):
        item = estimates(simple_study(size))["patient", "auroc", None]
        widths.append(item.high - item.low)
    assert widths[0] > 1.5 * widths[1] > 2.25 * widths[2]


def test_more_confidence_wider_intervals():
    rows = simple_study(60)
    narrow, wide = (estimates(rows, resampling=Resampling(1, 200, level)) for level in (0.8, 0.99))
    for name, item in narrow.items():
        assert wide[name].low < item.low < item.high < wide[name].high
        assert item.confidence == 0.8


def test_images_of_one_patient_do_not_narrow_intervals():
    # Ten copies of each image tell nothing new about patients.
    single = estimates(simple_study(60, images=1))["patient", "auroc", None]
    copied = [row.model_copy(update={"unit_id": f"{row.unit_id}-{i}"}) for row in simple_study(60) for i in range(10)]
    found = estimates(copied)["image", "auroc", None]
    assert (found.low, found.high) == pytest.approx((single.low, single.high), abs=1e-9)


def test_random_labels_give_one_half_within_the_interval():
    inside = [
        item.low <= 0.5 <= item.high
        for seed in range(40)
        for item in [estimates(simple_study(80, signal=0, images=2, seed=seed))["image", "auroc", None]]
    ]
    assert sum(inside) >= 34  # of 40 at a nominal 0.95: fewer has a probability below 1 in 1000


@pytest.mark.parametrize("classes", [BINARY, THREE])
def test_recomputed_from_the_stored_table(tmp_path, classes):
    rows = make_rows(Plan(classes=classes, patients=90, mixed=5))
    write_table(tmp_path / "predictions.tsv", CalibratedPrediction, rows)
    stored = read_table(tmp_path / "predictions.tsv", CalibratedPrediction)
    again = recompute(stored, classes)
    for strategy in ("full", "scratch"):
        for (level, metric, fold), item in estimates(rows, classes, strategy=strategy).items():
            assert again.pop((strategy, level, metric, fold)) == item.value
    assert not again


def test_intervals_repeat_from_the_stored_table(tmp_path):
    rows = make_rows()
    write_table(tmp_path / "predictions.tsv", CalibratedPrediction, rows)
    assert estimates(read_table(tmp_path / "predictions.tsv", CalibratedPrediction)) == estimates(rows)


def test_an_undefined_metric_is_none_with_a_reason():
    rows = [row.model_copy(update={"decision": "no"}) for row in make_rows()]
    item = estimates(rows)["patient", "ppv", None]
    assert (item.value, item.low, item.high) == (None, None, None)
    assert "not defined" in item.note


def test_comparison_is_paired_and_signed():
    rows = make_rows(Plan(patients=90, signals=(2.0, 0.3)))
    judged = judge(rows, BINARY, FEW)
    found = {(item.level, item.metric): item for item in compare(judged, FEW)}
    assert set(found) == {(level, metric) for level in ("patient", "image") for metric in ("auroc", "auprc")} | {
        ("patient", "auroc_across_folds")
    }
    item = found["patient", "auroc"]
    values = [judged[name, "patient"].values["auroc", None] for name in ("full", "scratch")]
    assert (item.strategy, item.reference) == ("full", "scratch")
    assert item.difference == pytest.approx(values[0] - values[1])
    assert 0 < item.low < item.difference < item.high
    assert item.method.startswith("paired patient-cluster bootstrap")


def test_pairing_narrows_the_difference_of_like_strategies():
    rows = simple_study(100)
    generator = np.random.default_rng(1)

    def nudged(row):
        score = min(0.999, max(0.001, row.probabilities[1] + 0.02 * generator.normal()))
        return row.model_copy(update={"strategy": "probe", "probabilities": (1 - score, score)})

    judged = judge([*rows, *map(nudged, rows)], BINARY, FEW)
    found = next(item for item in compare(judged, FEW) if (item.level, item.metric) == ("patient", "auroc"))
    single = estimates(rows)["patient", "auroc", None]
    assert found.high - found.low < 0.5 * (single.high - single.low)


def test_a_strategy_against_itself_does_not_differ():
    rows = make_rows()
    own = [row for row in rows if row.strategy == "full"]
    copy = [row.model_copy(update={"strategy": "probe"}) for row in own]
    for item in compare(judge([*own, *copy], BINARY, FEW), FEW):
        assert item.difference == 0
        assert item.low in {None, 0.0}


@pytest.mark.slow
def test_coverage_of_the_patient_cluster_bootstrap():
    """Of 300 studies with 60 patients and 8 images each, about 95 % of the intervals hold the true area.

    The area of two normal distributions a distance of 1.2 standard deviations apart is 0.8019.
    """
    resampling = Resampling(seed=1, replicates=300, confidence=0.95)
    held, too_narrow = [], []
    for seed in range(300):
        rows = simple_study(60, folds=3, signal=1.2, seed=seed, images=8, spread=0.7)
        item = estimates(rows, resampling=resampling)["image", "auroc", None]
        held.append(item.low <= 0.8019 <= item.high)
        if seed < 80:  # the same images as if each were a patient of its own
            loose = [
                row.model_copy(update={"patient": f"P{i}", "group": f"P{i}"})
                for i, row in enumerate(rows[: len(rows) // 2])
            ]
            loose += [row.model_copy(update={"level": "patient"}) for row in loose]
            item = estimates(loose, resampling=resampling)["image", "auroc", None]
            too_narrow.append(item.low <= 0.8019 <= item.high)
    assert 0.92 <= np.mean(held) <= 0.985
    assert np.mean(too_narrow) < 0.85


def test_a_new_metric_needs_one_function_and_one_line(monkeypatch):
    """The recipe of CONTRIBUTING: Matthews' correlation appears at both levels with an interval."""
    from sklearn.metrics import matthews_corrcoef

    entry = Metric(
        "Matthews correlation", "decisions", "any", -1, 1, True, "10.1016/0005-2795(75)90109-9", matthews_corrcoef
    )
    monkeypatch.setitem(METRICS, "mcc", entry)
    for classes in (BINARY, THREE):
        rows = make_rows(Plan(classes=classes, patients=90))
        found = estimates(rows, classes)
        for level in ("patient", "image"):
            item = found[level, "mcc", None]
            assert -1 <= item.low < item.value < item.high <= 1
            assert item.method.startswith("jackknife")
        assert recompute(rows, classes)["full", "patient", "mcc", None] == found["patient", "mcc", None].value
