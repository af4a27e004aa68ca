from typing import get_args

from pipeline.config import StrategyName, TrainSettings, WeightsSettings
from pipeline.learning.backbones import BACKBONES, BLOCKS
from pipeline.learning.sources import SOURCES
from pipeline.learning.strategies import STRATEGIES


def test_the_configuration_names_exactly_the_registered_values():
    assert set(get_args(StrategyName)) == set(STRATEGIES)
    assert set(get_args(TrainSettings.model_fields["backbone"].annotation)) == set(BACKBONES)
    assert set(get_args(WeightsSettings.model_fields["source"].annotation)) == {*SOURCES, "random", "file"}


def test_strategies_train_known_blocks():
    for strategy in STRATEGIES.values():
        assert strategy.trained_blocks <= set(BLOCKS)
        assert (strategy.head == "gradient") == ("head" in strategy.trained_blocks)


def test_every_source_has_a_file_for_every_backbone_with_the_digest_in_its_name():
    for source in SOURCES.values():
        assert set(source.files) == set(BACKBONES)
        for file in source.files.values():
            assert file.name.endswith(f"-{file.digest_prefix}.pth")
            assert len(file.digest_prefix) == 8
            assert file.url.endswith(file.name)
