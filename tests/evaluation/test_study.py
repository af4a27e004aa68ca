"""Study: from tables to an evaluation, two classes and three, and that the report can rely on it."""

import numpy as np
import pytest

from pipeline.core.errors import ReportError
from pipeline.core.results import Evaluation
from pipeline.evaluation.estimates import recompute
from pipeline.evaluation.study import evaluate_study
from tests.evaluation.synthetic import BINARY, THREE, Plan, make_protocol, make_tables

MODULE = "pipeline.stages.evaluate"


def run(plan, **protocol):
    tables = make_tables(plan)
    made = make_protocol(plan.classes, **protocol)
    return evaluate_study("study", tables, made, created="2026-01-01T00:00:00Z", module=MODULE)


@pytest.fixture(scope="module", params=[BINARY, THREE], ids=["two", "three"])
def done(request):
    return run(Plan(classes=request.param, patients=90, mixed=3, signals=(1.5, 0.7, 0.2)))


def test_says_what_was_evaluated(done):
    evaluation, _ = done
    assert [result.strategy for result in evaluation.strategies] == ["full", "scratch", "probe"]
    assert evaluation.positive_class == ("yes" if len(evaluation.classes) == 2 else None)
    assert (evaluation.folds, evaluation.seed, evaluation.bootstrap_replicates) == (3, 7, 200)
    assert len(evaluation.code) == 12
    assert {row.reference for row in evaluation.comparisons} == {"scratch", "probe"}
    assert all(row.strategy == "full" for row in evaluation.comparisons)
    for result in evaluation.strategies:
        assert [(row.strategy, row.fold) for row in result.training] == [(result.strategy, fold) for fold in range(3)]
        assert len(result.history) == 9


def test_confusion_counts_every_patient_unit_once(done):
    evaluation, rows = done
    for result in evaluation.strategies:
        counts = np.array(result.operating_point.confusion)
        patients = [row for row in rows if (row.strategy, row.level) == (result.strategy, "patient")]
        assert counts.sum() == len(patients)
        for i, truth in enumerate(evaluation.classes):
            for j, decided in enumerate(evaluation.classes):
                assert counts[i, j] == sum((row.label, row.decision) == (truth, decided) for row in patients)
        is_binary = len(evaluation.classes) == 2
        assert len(result.operating_point.thresholds) == (3 if is_binary else 0)
        assert len(result.operating_point.predictive_values) == (2 if is_binary else 0)
        assert len(result.roc) == len(result.precision_recall) == len(result.calibration) == (1 if is_binary else 3)


def test_headline_numbers_follow_from_the_predictions(done):
    evaluation, rows = done
    again = recompute(rows, evaluation.classes)
    for result in evaluation.strategies:
        for item in result.estimates:
            value = again[result.strategy, item.level, item.metric, item.fold]
            assert item.value == pytest.approx(value, rel=1e-9)


def test_written_and_read_it_is_the_same(done):
    evaluation, _ = done
    assert Evaluation.model_validate_json(evaluation.model_dump_json()) == evaluation


def test_the_same_tables_give_the_same_bytes(done):
    evaluation, rows = done
    plan = Plan(classes=evaluation.classes, patients=90, mixed=3, signals=(1.5, 0.7, 0.2))
    again, same_rows = run(plan)
    assert again.model_dump_json() == evaluation.model_dump_json()
    assert same_rows == rows


def test_the_order_of_tables_and_rows_changes_nothing():
    plan = Plan(patients=60)
    tables, protocol = make_tables(plan), make_protocol()
    shuffle = np.random.default_rng(1).permutation
    mixed = type(tables)(
        **{
            name: [value[i] for i in shuffle(len(value))] if name not in {"training", "history"} else value
            for name, value in vars(tables).items()
        }
    )
    first, _ = evaluate_study("study", tables, protocol, created="", module=MODULE)
    second, _ = evaluate_study("study", mixed, protocol, created="", module=MODULE)
    assert second.model_dump_json() == first.model_dump_json()


def test_a_stronger_signal_is_seen():
    evaluation, _ = run(Plan(patients=90, signals=(2.0, 0.0)))
    strong, none = (evaluation.estimate(name, "patient", "auroc") for name in ("full", "scratch"))
    assert strong.low > 0.8
    assert none.low < 0.5 < none.high
    difference = next(row for row in evaluation.comparisons if (row.level, row.metric) == ("patient", "auroc"))
    assert difference.low > 0


def test_nothing_is_computed_from_tables_that_disagree():
    tables = make_tables()
    broken = type(tables)(**(vars(tables) | {"labels": tables.labels[1:]}))
    with pytest.raises(ReportError, match="label counts 120"):
        evaluate_study("study", broken, make_protocol(), created="", module=MODULE)
