import numpy as np
import pytest
import torch
from scipy.special import softmax

from pipeline.core.seeding import derive_seed
from pipeline.learning.inference import INFERENCE_BATCH, mean_probability_logits, pooled_features, predict_logits
from pipeline.learning.inputs.augmentation import Augmentation
from pipeline.learning.inputs.batches import PixelSource
from pipeline.learning.inputs.devices import choose_placement
from pipeline.learning.networks.backbones import head_of
from pipeline.learning.weights.loading import RANDOM, build_network
from pipeline.learning.weights.sources import IMAGENET_NORMALISATION

pytestmark = pytest.mark.slow

IMAGES = INFERENCE_BATCH + 9  # more than one batch, the last one not full


def source(precision: str) -> PixelSource:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 255, size=(IMAGES, 80, 80), dtype=np.uint8)
    return PixelSource(pixels, IMAGENET_NORMALISATION, choose_placement("cpu", precision, 2))


@pytest.fixture(scope="module")
def network():
    return build_network("resnet18", RANDOM, seed=1)


def test_logits_are_those_of_the_whole_network(network):
    images = source("float32")
    network.eval()
    with torch.inference_mode():
        expected = network(images.prepare(images.grey(np.arange(IMAGES)))).double().numpy()
    assert np.allclose(predict_logits(network, images, np.arange(IMAGES)), expected, atol=1e-5)


def test_features_are_what_the_head_takes(network):
    images = source("float32")
    features = pooled_features(network, images, np.arange(IMAGES))
    head = head_of(network)
    expected = features @ head.weight.detach().double().numpy().T + head.bias.detach().double().numpy()
    assert features.shape == (IMAGES, 512)
    assert np.allclose(predict_logits(network, images, np.arange(IMAGES)), expected, atol=1e-5)


def test_bfloat16_rounds_neither_features_nor_logits(network):
    """A value of bfloat16 ends in 16 zero bits; images that differ must not share a logit."""
    images = source("bfloat16")
    for values in (
        pooled_features(network, images, np.arange(IMAGES)),
        predict_logits(network, images, np.arange(IMAGES)),
    ):
        bits = values.astype(np.float32).view(np.uint32)
        assert np.mean(bits & 0xFFFF == 0) < 0.2  # sums of few values can be round; rounded ones always are
    logits = predict_logits(network, images, np.arange(IMAGES))
    assert len(np.unique(logits[:, 0])) == IMAGES
    plain = predict_logits(network, source("float32"), np.arange(IMAGES))
    assert np.abs(logits - plain).max() < 0.05 * np.abs(plain).max()


def test_order_is_that_of_the_rows_and_no_hook_stays(network):
    images = source("float32")
    rows = np.array([5, 2, 70])
    found = predict_logits(network, images, rows)
    assert np.allclose(found, predict_logits(network, images, np.arange(IMAGES))[rows], atol=1e-5)
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_views_are_seeded_and_averaged_with_the_plain_look(network):
    changes = Augmentation(
        rotation_degrees=9, translation=0.1, scale=0.1, flip=True, contrast=0.2, brightness=0.1, noise=0.05
    )
    plain = source("float32")
    images = PixelSource(plain.pixels, plain.normalisation, plain.placement, changes)
    rows = np.arange(5)
    found = predict_logits(network, images, rows, views=3, seed=1)
    assert np.array_equal(found, predict_logits(network, images, rows, views=3, seed=1))
    assert not np.array_equal(found, predict_logits(network, images, rows, views=3, seed=2))
    alone = predict_logits(network, plain, rows)
    assert np.array_equal(predict_logits(network, images, rows), alone)
    assert np.allclose(predict_logits(network, plain, rows, views=3, seed=1), alone, atol=1e-5)  # views without change


def test_the_logits_of_views_are_the_mean_of_the_plain_image_and_of_each_view(network):
    changes = Augmentation(
        rotation_degrees=9, translation=0.1, scale=0.1, flip=True, contrast=0.2, brightness=0.1, noise=0.05
    )
    plain = source("float32")
    images = PixelSource(plain.pixels, plain.normalisation, plain.placement, changes)
    rows = np.array([4, 0, 7])
    variants = [images.train(rows, derive_seed(derive_seed(1, "view", view), 0)) for view in range(2)]
    network.eval()
    with torch.inference_mode():
        looks = [network(one).double().numpy() for one in (images.plain(rows), *variants)]
    wanted = (looks[0] + looks[1] + looks[2]) / 3
    spread = max(np.abs(one - wanted).max() for one in looks)
    found = predict_logits(network, images, rows, views=2, seed=1)
    assert np.abs(found - wanted).max() < 1e-3 * spread  # no look counts more, and none is left out


def test_joined_logits_have_the_mean_probability():
    looks = [np.random.default_rng(seed).normal(size=(4, 3)) * 3 for seed in range(3)]
    expected = np.mean([softmax(one, axis=1) for one in looks], axis=0)
    assert np.allclose(softmax(mean_probability_logits(looks), axis=1), expected, atol=1e-12)
    assert mean_probability_logits(looks[:1]) is looks[0]
