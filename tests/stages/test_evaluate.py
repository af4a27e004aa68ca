"""The evaluate stage: reads what the stages before wrote, writes three tables, refuses leakage."""

import json

import pytest

from pipeline.cli import main
from pipeline.config import EvaluateSettings, SpecificityRule, YoudenRule
from pipeline.core.artefacts import read_document, read_table, write_table
from pipeline.core.errors import LeakageError, ReportError
from pipeline.core.records import CalibratedPrediction, Estimate, FoldRole, Image, Prediction
from pipeline.core.results import Evaluation
from pipeline.evaluation.estimates import recompute
from pipeline.stages.evaluate import evaluate
from tests.evaluation.synthetic import BINARY, Plan, make_tables, write_tables

SETTINGS = EvaluateSettings(bootstrap_replicates=100)


@pytest.fixture
def paths(tmp_path):
    return write_tables(make_tables(Plan()), tmp_path)


def run(paths, settings=SETTINGS):
    evaluate(settings=settings, study="study", seed=7, classes=BINARY, **paths)
    return read_document(paths["evaluation"], Evaluation)


def test_writes_predictions_estimates_and_evaluation(paths):
    evaluation = run(paths)
    rows = read_table(paths["calibrated"], CalibratedPrediction)
    estimates = read_table(paths["estimates"], Estimate)
    assert tuple(estimates) == tuple(item for result in evaluation.strategies for item in result.estimates)
    again = recompute(rows, BINARY)
    assert {(row.strategy, row.level, row.metric, row.fold) for row in estimates} == set(again)
    for row in estimates:
        assert row.value == pytest.approx(again[row.strategy, row.level, row.metric, row.fold], rel=1e-9)
    assert [step.stage for step in evaluation.flow][-1] == "split"
    assert evaluation.warnings


def test_the_same_inputs_give_the_same_bytes(paths, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    names = ("calibrated", "estimates", "evaluation")
    assert run(paths).created == "2023-11-14T22:13:20Z"
    first = [paths[name].read_bytes() for name in names]
    run(paths)
    assert [paths[name].read_bytes() for name in names] == first


def test_the_time_is_now_if_none_is_given(paths, monkeypatch):
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    assert run(paths).created > "2025"


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (SpecificityRule(kind="specificity", at_least=0.7), "specificity at least 0.7"),
        (YoudenRule(kind="youden"), "sum"),
    ],
)
def test_settings_reach_the_numbers(paths, rule, words):
    evaluation = run(
        paths, SETTINGS.model_copy(update={"operating_point": rule, "confidence": 0.8, "aggregation": "max"})
    )
    own = evaluation.strategies[0]
    assert words in own.operating_point.rule
    assert evaluation.aggregation.startswith("largest")
    assert {item.confidence for item in own.estimates} == {0.8}
    assert len(own.operating_point.predictive_values) == len(SETTINGS.prevalences)


def test_an_image_tested_twice_stops_the_stage(paths):
    rows = read_table(paths["folds"], FoldRole)
    tested = {row.image_id for row in rows if row.fold == 0 and row.role == "test"}
    leaky = [
        row.model_copy(update={"role": "test"}) if row.fold == 1 and row.image_id in tested else row for row in rows
    ]
    write_table(paths["folds"], FoldRole, leaky)
    with pytest.raises(LeakageError):
        run(paths)
    assert not paths["evaluation"].exists()


def test_the_same_picture_on_two_sides_stops_the_stage(paths):
    images = read_table(paths["images"], Image)
    roles = {row.image_id: row.role for row in read_table(paths["folds"], FoldRole) if row.fold == 0}
    tested = next(image for image in images if roles[image.image_id] == "test")
    trained = next(image for image in images if roles[image.image_id] == "train")
    copy = trained.model_copy(update={"pixel_sha256": tested.pixel_sha256})
    write_table(paths["images"], Image, [copy if image is trained else image for image in images])
    with pytest.raises(LeakageError, match="picture"):
        run(paths)


def test_a_foreign_prediction_stops_the_stage(paths):
    rows = read_table(paths["predictions"][1], Prediction)
    write_table(paths["predictions"][1], Prediction, [*rows[1:], rows[0].model_copy(update={"label": "maybe"})])
    with pytest.raises(ReportError, match="another patient, group or label"):
        run(paths)
    assert not paths["calibrated"].exists()


def test_from_the_command_line(paths, capfd):
    words = [
        "evaluate",
        "--settings",
        SETTINGS.model_dump_json(),
        "--study",
        "study",
        "--seed",
        "7",
        "--classes",
        *BINARY,
    ]
    for name, value in paths.items():
        words += [f"--{name}", *map(str, value if isinstance(value, tuple) else (value,))]
    assert main(words) == 0
    document = json.loads(paths["evaluation"].read_text())
    assert document["study"] == "study"
    assert "evaluate: full: AUROC by patient 0." in capfd.readouterr().err
