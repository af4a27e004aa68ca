"""Curves: their areas are the estimates', their bands hold them, their ends are where they belong."""

import numpy as np
import pytest

from pipeline.evaluation.curves import check_calibration, draw_precision_recall, draw_roc
from pipeline.evaluation.estimates import Resampling, judge
from pipeline.evaluation.out_of_fold import calibrate
from pipeline.evaluation.thresholds import Rule
from tests.evaluation.synthetic import BINARY, THREE, Plan, make_tables

RESAMPLING = Resampling(seed=1, replicates=200, confidence=0.95)


@pytest.fixture(scope="module", params=[BINARY, THREE], ids=["two", "three"])
def study(request):
    tables = make_tables(Plan(classes=request.param, patients=120, signals=(1.0,)))
    fits, rows = calibrate(
        tables.predictions, strategies=["full"], classes=request.param, rule=Rule("youden"), aggregation="mean"
    )
    return judge(rows, request.param, RESAMPLING)["full", "patient"], fits


def test_roc_curves_rise_from_corner_to_corner_within_their_band(study):
    one, _ = study
    curves = draw_roc(one.scores, one.ranked, one.roc_replicates, 0.95)
    assert [curve.class_name for curve in curves] == [one.scores.classes[c] for c in one.scores.evaluated_classes]
    for curve, label in zip(curves, one.scores.evaluated_classes, strict=True):
        rates = np.array(curve.true_positive_rate)
        assert len(curve.false_positive_rate) == len(rates) == len(curve.low) == len(curve.high) == 101
        assert (np.diff(rates) >= 0).all()
        assert (rates[-1], curve.low[-1], curve.high[-1]) == pytest.approx((1, 1, 1))
        assert (np.array(curve.low) <= rates + 1e-9).mean() > 0.95
        assert (np.array(curve.high) >= rates - 1e-9).mean() > 0.95
        name = one.scores.classes[label]
        area = one.values["auroc" if one.scores.is_binary else f"auroc:{name}", None]
        assert np.mean((rates[1:] + rates[:-1]) / 2) == pytest.approx(area, abs=0.02)


def test_area_below_precision_recall_is_the_average_precision(study):
    one, _ = study
    for curve in draw_precision_recall(one.scores, one.ranked):
        name = curve.class_name
        area = one.values["auprc" if one.scores.is_binary else f"auprc:{name}", None]
        precision = np.array(curve.precision)
        assert len(precision) <= 200
        assert np.mean((precision[1:] + precision[:-1]) / 2) == pytest.approx(area, abs=0.02)
        # Reaching every positive unit cannot be less precise than calling everybody positive.
        assert precision[-1] >= curve.prevalence - 0.02
        is_class = one.scores.labels == one.scores.classes.index(name)
        assert curve.prevalence == pytest.approx(is_class.mean(), abs=0.03)


def test_calibration_is_checked_for_each_evaluated_class(study):
    one, fits = study
    found = check_calibration(one.scores, fits, 0.95)
    assert len(found) == len(one.scores.evaluated_classes)
    for item in found:
        assert sum(part.patients for part in item.bins) == one.scores.labels.size
        assert item.slope_interval[0] < item.slope < item.slope_interval[1]
        assert item.intercept_interval[0] < item.intercept < item.intercept_interval[1]
        assert item.fold_temperatures == tuple(fit.calibrator.temperature for fit in fits)
        assert len(item.fold_offsets) == len(fits)
        probabilities = one.scores.probabilities[:, one.scores.classes.index(item.class_name)]
        outcomes = one.scores.labels == one.scores.classes.index(item.class_name)
        assert item.brier == pytest.approx(np.mean((probabilities - outcomes) ** 2))
