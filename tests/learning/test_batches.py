import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.learning.inputs.batches import PixelSource, plain_batches, shuffled_batches
from pipeline.learning.inputs.devices import Placement
from pipeline.learning.weights.sources import IMAGENET_NORMALISATION


@given(count=st.integers(1, 300), size=st.integers(2, 64), seed=st.integers(0, 5))
def test_batches_hold_every_row_once_and_are_of_nearly_equal_size(count, size, seed):
    rows = np.arange(count) * 3
    batches = shuffled_batches(rows, size, seed, 0, 1)
    assert sorted(np.concatenate(batches).tolist()) == rows.tolist()
    lengths = [len(batch) for batch in batches]
    assert max(lengths) - min(lengths) <= 1
    assert count == 1 or min(lengths) > 1


def test_the_order_depends_on_the_names():
    rows = np.arange(50)
    assert [b.tolist() for b in shuffled_batches(rows, 8, 1, 0, 1)] == [
        b.tolist() for b in shuffled_batches(rows, 8, 1, 0, 1)
    ]
    assert (
        np.concatenate(shuffled_batches(rows, 8, 1, 0, 1)).tolist()
        != np.concatenate(shuffled_batches(rows, 8, 1, 0, 2)).tolist()
    )


def test_plain_batches_keep_the_order():
    assert np.concatenate(plain_batches(np.arange(10), 4)).tolist() == list(range(10))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["uint8", "float16"])
def test_stored_values_are_normalised_as_imagenet_wants_them(dtype):
    values = np.linspace(0, 1, 2 * 5 * 4).reshape(2, 5, 4)
    stored = np.round(values * 255).astype("uint8") if dtype == "uint8" else values.astype("float16")
    source = PixelSource(stored, IMAGENET_NORMALISATION, Placement("cpu", "float32", 1))
    ready = source.prepare(source.grey(np.array([1, 0])))
    assert ready.shape == (2, 3, 5, 4)
    assert ready.is_contiguous(memory_format=torch.channels_last)
    for channel, (mean, deviation) in enumerate(zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)):
        expected = (values[[1, 0]] - mean) / deviation
        assert np.abs(ready[:, channel].numpy() - expected).max() < 0.5 / 255 / deviation + 1e-3
