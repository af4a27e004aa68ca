import re
from typing import get_args

import pytest

from pipeline.learning.networks.backbones import BACKBONES
from pipeline.learning.strategies import STRATEGIES
from pipeline.learning.weights.sources import SOURCES, entries, entry
from pipeline.train_settings import StrategyName, TrainSettings, WeightsSettings


def test_the_configuration_names_exactly_the_registered_values():
    assert set(get_args(StrategyName)) == set(STRATEGIES)
    assert set(get_args(TrainSettings.model_fields["backbone"].annotation)) == set(BACKBONES)
    assert set(get_args(WeightsSettings.model_fields["source"].annotation)) == {
        *SOURCES,
        "run",
        "random",
        "file",
    }


@pytest.mark.parametrize("backbone", BACKBONES)
def test_strategies_train_blocks_from_the_head_backwards(backbone):
    blocks = BACKBONES[backbone].blocks
    for strategy in STRATEGIES.values():
        trained = strategy.trained_blocks(blocks)
        assert trained == set(blocks if strategy.depth is None else blocks[len(blocks) - strategy.depth :])
        assert (strategy.head == "gradient") == ("head" in trained)
    assert STRATEGIES["full"]._replace(depth=2).trained_blocks(blocks) == {blocks[-2], "head"}


def test_imagenet_has_a_file_for_every_backbone_and_sources_name_known_ones():
    assert set(SOURCES["imagenet"].files) == set(BACKBONES)
    assert all(set(source.files) <= set(BACKBONES) for source in SOURCES.values())


@pytest.mark.parametrize(("source", "backbone"), entries())
def test_registered_files_can_be_told_apart_and_trusted(source, backbone):
    facts = SOURCES[source]
    file = facts.files[backbone]
    assert re.fullmatch(r"[0-9a-f]{64}|[0-9a-f]{8}|", file.sha256)
    # What can be fetched can be checked, and so can what comes with the software.
    assert bool(file.sha256) == (bool(file.url) or source == "phantom")
    assert not file.url or file.url.startswith("https://")
    if "download.pytorch.org" in file.url:
        assert file.name.endswith(f"-{file.sha256[:8]}.pth")
        assert file.url.endswith(file.name)
    assert len(facts.normalisation.mean) == len(facts.normalisation.deviation) == (3 if facts.dimensions == 2 else 1)
    assert entry(file.name) == entry(f"{source}/{backbone}") == (source, backbone)


def test_gradual_opens_one_block_after_the_other_from_the_head():
    blocks = BACKBONES["resnet18"].blocks
    plan = STRATEGIES["gradual"].plan(blocks, epochs=20, unfreeze_every=2)
    assert [(one.name, one.first_epoch) for one in reversed(plan)] == list(
        zip(reversed(blocks), range(1, 12, 2), strict=True)
    )
    short = STRATEGIES["gradual"].plan(blocks, epochs=4, unfreeze_every=2)
    assert [one.name for one in short] == ["layer4", "head"]


def test_rates_fall_from_the_head_to_the_stem_unless_the_start_is_random():
    blocks = ("stem", "layer1", "head")
    rates = [one.rate for one in STRATEGIES["full"].plan(blocks, epochs=1, block_rate_factor=0.5)]
    assert rates == [0.25, 0.5, 1.0]
    assert {one.rate for one in STRATEGIES["scratch"].plan(blocks, epochs=1, block_rate_factor=0.5)} == {1.0}
    assert {one.rate for one in STRATEGIES["full"].plan(blocks, epochs=1)} == {1.0}
    plans = [
        STRATEGIES[name].plan(blocks, epochs=3, block_rate_factor=0.5, is_random=True) for name in ("full", "gradual")
    ]
    assert {one.rate for plan in plans for one in plan} == {1.0}
    assert STRATEGIES["probe"].plan(blocks, epochs=1) == ()
