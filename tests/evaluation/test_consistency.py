"""Consistency: predictions that are not those of the folds are refused, each with its own message."""

import pytest

from pipeline.core.errors import LeakageError, ReportError
from pipeline.evaluation.consistency import arrange_predictions, check_folds, check_history, order_strategies
from tests.evaluation.synthetic import BINARY, Plan, make_tables

STRATEGIES = ["full", "scratch"]


@pytest.fixture(scope="module")
def tables():
    return make_tables(Plan())


def with_change(rows, chosen, **values):
    """Change the first row that is chosen."""
    position = next(number for number, row in enumerate(rows) if chosen(row))
    return [*rows[:position], rows[position].model_copy(update=values), *rows[position + 1 :]]


def test_a_sound_study_passes(tables):
    check_folds(tables.folds, tables.images, tables.labels)
    check_history(tables.history, STRATEGIES, range(3))
    assert order_strategies(tables.training, BINARY, range(3)) == STRATEGIES


def test_predictions_come_in_the_order_of_the_images(tables):
    ordered = arrange_predictions(tables.predictions[::-1], tables.folds, STRATEGIES, BINARY)
    assert sorted(map(repr, ordered)) == sorted(map(repr, tables.predictions))
    rows = {row.image_id: row.row for row in tables.folds}
    keys = [(STRATEGIES.index(row.strategy), row.fold, rows[row.image_id]) for row in ordered]
    assert keys == sorted(keys)


def test_an_image_tested_twice(tables):
    tested = next(row for row in tables.folds if row.role == "test" and row.fold == 0)
    folds = with_change(tables.folds, lambda row: row.fold == 1 and row.image_id == tested.image_id, role="test")
    with pytest.raises(LeakageError, match="1 images are tested more than once"):
        check_folds(folds, tables.images, tables.labels)


def test_a_patient_on_two_sides(tables):
    folds = with_change(tables.folds, lambda row: row.role == "train", role="validation")
    with pytest.raises(LeakageError, match="a patient has two roles in fold 0"):
        check_folds(folds, tables.images, tables.labels)


def test_a_group_on_two_sides(tables):
    train = next(row for row in tables.folds if row.role == "train" and row.patient == row.group)
    inner = next(row for row in tables.folds if row.role == "validation" and row.fold == train.fold)
    folds = [
        row.model_copy(update={"group": inner.group}) if row.patient == train.patient else row for row in tables.folds
    ]
    with pytest.raises(LeakageError, match=r"a group has two roles|a group is tested in two folds"):
        check_folds(folds, tables.images, tables.labels)


def test_a_patient_tested_in_two_folds(tables):
    # Both images of a patient move with their roles; the second is tested in another fold.
    second = next(row for row in tables.folds if row.role == "test" and row.fold == 0)
    others = [row for row in tables.folds if row.image_id == second.image_id]
    moved = {(others[0].fold): "train", others[1].fold: "test"}
    folds = [
        row.model_copy(update={"role": moved.get(row.fold, row.role)}) if row.image_id == second.image_id else row
        for row in tables.folds
    ]
    with pytest.raises(LeakageError, match="a patient has two roles"):
        check_folds(folds, tables.images, tables.labels)


@pytest.mark.parametrize("values", [{"label": "yes"}, {"patient": "P9999"}])
def test_tables_that_disagree(tables, values):
    image = next(row.image_id for row in tables.folds if row.label == "no")
    folds = [row.model_copy(update=values) if row.image_id == image else row for row in tables.folds]
    with pytest.raises((ReportError, LeakageError)):
        check_folds(folds, tables.images, tables.labels)


def test_an_image_that_is_never_tested(tables):
    image = tables.folds[0].image_id
    folds = [row for row in tables.folds if (row.fold, row.image_id) != (0, image)]
    with pytest.raises(ReportError, match="do not list every image"):
        check_folds(folds, tables.images, tables.labels)


@pytest.mark.parametrize(
    ("error", "message", "values"),
    [
        (LeakageError, "predicted as test, but its role in the fold is validation", {"role": "test"}),
        (ReportError, "another patient, group or label", {"label": "yes"}),
        (ReportError, "another patient, group or label", {"group": "P9999"}),
        (ReportError, "3 logits for 2 classes", {"logits": (0.0, 1.0, 2.0)}),
        (ReportError, "does not have", {"image_id": "2.25.99999"}),
        (ReportError, "does not have", {"strategy": "probe"}),
        (ReportError, "does not have", {"fold": 7}),
    ],
)
def test_predictions_that_disagree_with_the_folds(tables, error, message, values):
    rows = with_change(tables.predictions, lambda row: row.role == "validation" and row.label == "no", **values)
    with pytest.raises(error, match=message):
        arrange_predictions(rows, tables.folds, STRATEGIES, BINARY)


def test_predictions_missing_or_twice(tables):
    with pytest.raises(ReportError, match=r"1 of \d+ predictions are missing"):
        arrange_predictions(tables.predictions[1:], tables.folds, STRATEGIES, BINARY)
    with pytest.raises(ReportError, match="predicted twice"):
        arrange_predictions([*tables.predictions, tables.predictions[0]], tables.folds, STRATEGIES, BINARY)


def test_training_that_does_not_fit(tables):
    for rows in (tables.training[1:], [*tables.training, tables.training[0]], []):
        with pytest.raises(ReportError, match="exactly once"):
            order_strategies(rows, BINARY, range(3))
    with pytest.raises(ReportError, match="other classes"):
        order_strategies(tables.training, BINARY[::-1], range(3))


@pytest.mark.parametrize("values", [{"epoch": 7}, {"fold": 9}, {"strategy": "probe"}])
def test_training_curves_that_do_not_fit(tables, values):
    with pytest.raises(ReportError, match="training curve"):
        check_history(with_change(tables.history, lambda row: row.epoch == 2, **values), STRATEGIES, range(3))


def test_messages_name_nobody(tables):
    rows = with_change(tables.predictions, lambda row: True, label="?")
    with pytest.raises(ReportError) as caught:
        arrange_predictions(rows, tables.folds, STRATEGIES, BINARY)
    assert tables.predictions[0].patient not in str(caught.value)
    assert tables.predictions[0].image_id not in str(caught.value)
