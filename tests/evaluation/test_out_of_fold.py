"""Out-of-fold predictions: nothing of a fold's test part reaches what is applied to it."""

import numpy as np
import pytest

from pipeline.core.records import Prediction
from pipeline.evaluation.out_of_fold import calibrate, calibrate_fold, decide
from pipeline.evaluation.thresholds import Rule, Threshold
from tests.evaluation.synthetic import BINARY, THREE, Plan, make_tables

RULE = Rule("sensitivity", 0.8)


def parts(plan, fold=0, strategy="full"):
    rows = [row for row in make_tables(plan).predictions if (row.fold, row.strategy) == (fold, strategy)]
    return [row for row in rows if row.role == "validation"], [row for row in rows if row.role == "test"]


def flipped(rows):
    return [row.model_copy(update={"label": BINARY[1 - BINARY.index(row.label)]}) for row in rows]


def fit(validation, test, classes=BINARY, aggregation="mean"):
    return calibrate_fold(validation, test, classes=classes, rule=RULE, aggregation=aggregation)


def test_test_labels_change_neither_fit_nor_decisions():
    validation, test = parts(Plan(mixed=0))
    one, rows = fit(validation, test)
    other, flipped_rows = fit(validation, flipped(test))
    assert one == other
    assert [row.decision for row in rows] == [row.decision for row in flipped_rows]
    assert [row.probabilities for row in rows] == [row.probabilities for row in flipped_rows]
    assert [row.label for row in rows] != [row.label for row in flipped_rows]


def test_test_logits_do_not_change_the_fit():
    validation, test = parts(Plan())
    shifted = [row.model_copy(update={"logits": (row.logits[0] + 3, row.logits[1])}) for row in test]
    assert fit(validation, test)[0] == fit(validation, shifted)[0]


def test_validation_labels_do():
    validation, test = parts(Plan())
    assert fit(validation, test)[0] != fit(flipped(validation), test)[0]


def test_a_fold_does_not_see_the_others():
    tables = make_tables(Plan())
    arguments = {"strategies": ["full", "scratch"], "classes": BINARY, "rule": RULE, "aggregation": "mean"}
    fits, _ = calibrate(tables.predictions, **arguments)
    changed = [row if row.fold == 1 else flipped([row])[0] for row in tables.predictions]
    again, _ = calibrate(changed, **arguments)
    assert [one == other for one, other in zip(fits, again, strict=True)] == [False, True, False] * 2
    assert [(one.strategy, one.fold) for one in fits] == [(s, f) for s in ("full", "scratch") for f in range(3)]


def test_decisions_follow_the_threshold_at_both_levels():
    validation, test = parts(Plan())
    found, rows = fit(validation, test)
    assert {row.level for row in rows} == {"image", "patient"}
    for row in rows:
        assert row.decision == BINARY[int(row.probabilities[1] >= found.threshold.value)]


def test_the_threshold_is_chosen_on_patients():
    # One validation patient with ten positive images of low score must not outvote two with one image each.
    def row(patient, number, label, logit, role="validation"):
        return Prediction(
            strategy="full", fold=0, role=role, image_id=f"{patient}-{number}", patient=patient, group=patient,
            label=label, logits=(0.0, logit),
        )  # fmt: skip

    validation = [row("a", n, "yes", -2.0) for n in range(10)]
    validation += [row("b", 0, "yes", 2.0), row("c", 0, "yes", 3.0), row("d", 0, "no", 0.0), row("e", 0, "no", -3.0)]
    test = [row("f", 0, "yes", 1.0, "test")]
    found, _ = calibrate_fold(validation, test, classes=BINARY, rule=Rule("sensitivity", 0.6), aggregation="mean")
    of_d, of_b = found.calibrator.probabilities(np.array([[0.0, 0.0], [0.0, 2.0]]))[:, 1]
    assert found.threshold.value == pytest.approx((of_d + of_b) / 2)
    assert found.validation_patients == (2, 3)


def test_one_class_in_validation_is_noted_and_usable():
    validation, test = parts(Plan(mixed=0))
    found, rows = fit([row for row in validation if row.label == "no"], test)
    assert "one class" in found.threshold.note
    assert found.threshold.value == 0.5
    assert "not calibrated" in found.calibrator.note
    assert len(rows) > len(test)


def test_several_classes_have_no_threshold():
    plan = Plan(classes=THREE, patients=90)
    validation, test = parts(plan)
    found, rows = fit(validation, test, classes=THREE)
    assert found.threshold is None
    assert all(row.decision == THREE[int(np.argmax(row.probabilities))] for row in rows)


def test_of_equal_probabilities_the_first_class_is_decided():
    assert decide(np.array([[0.4, 0.4, 0.2]]), None).tolist() == [0]
    assert decide(np.array([[0.4, 0.6]]), Threshold(0.6)).tolist() == [1]
