"""Every key that other packages use has its words."""

from typing import get_args

from pipeline.evaluation.areas import ACROSS_FOLDS, POOLED
from pipeline.evaluation.flow import ORDER
from pipeline.evaluation.metrics import METRICS
from pipeline.reporting import vocabulary
from pipeline.train_settings import StrategyName, WeightsSettings
from tests.reporting.synthetic_evaluation import make_evaluation


def test_metrics_have_words():
    assert {*METRICS, POOLED, ACROSS_FOLDS} <= set(vocabulary.METRICS)


def test_stages_have_words():
    assert set(ORDER) <= set(vocabulary.STAGES)


def test_strategies_have_words():
    names = set(get_args(StrategyName))
    assert names <= set(vocabulary.STRATEGIES)
    assert names <= set(vocabulary.RANDOM_STRATEGIES)


def test_sources_of_weights_have_words():
    assert set(get_args(WeightsSettings.model_fields["source"].annotation)) <= set(vocabulary.WEIGHTS)


def test_unknown_keys_are_written_as_they_are():
    assert vocabulary.metric("new_metric").title == "New metric"
    assert vocabulary.stage("new_stage").action == "New stage"
    assert vocabulary.weights("elsewhere") == "elsewhere"


def test_a_metric_of_a_class_names_the_class():
    assert vocabulary.metric("auroc:a:b").title == "AUROC, a:b"


def test_nothing_that_starts_from_random_numbers_is_called_fine_tuned():
    evaluation = make_evaluation(strategies=("full", "scratch"), weights="random")
    assert "ine-tuned" not in vocabulary.strategy(evaluation, "full")
    assert "ine-tuned" in vocabulary.strategy(make_evaluation(), "full")


def test_differences_of_shares_are_percentage_points():
    assert vocabulary.difference_of("sensitivity", 0.031, 0.01, 0.052) == ("+3.1 points", "+1.0 to +5.2 points")
    assert vocabulary.difference_of("auroc", 0.031, None, None) == ("+0.031", "–")
