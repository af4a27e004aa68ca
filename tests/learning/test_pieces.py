"""Out of memory where nothing is learned: smaller pieces, the same values, one line, and an end at one image."""

import numpy as np
import pytest
import torch

from pipeline.core.errors import TrainingError
from pipeline.learning.bank.files import open_maps, read_features
from pipeline.learning.bank.filling import fill_bank
from pipeline.learning.inference import pooled_features, predict_logits
from pipeline.learning.loop.finetuning import _begin, _forecast
from tests.learning.test_bank import order
from tests.learning.test_finetuning import fold_data, network, recipe, task
from tests.learning.test_gradients import GPU_FULL, PROCESSOR_FULL

pytestmark = pytest.mark.slow


def leave_room(made: torch.nn.Module, images: int, error: Exception = GPU_FULL) -> list[int]:
    """Let a network take so many images at a time, and list how many it was given."""
    given: list[int] = []

    def refuse(_module: torch.nn.Module, arguments: tuple[torch.Tensor]) -> None:
        given.append(len(arguments[0]))
        if given[-1] > images:
            raise error

    next(made.children()).register_forward_pre_hook(refuse)
    return given


@pytest.mark.parametrize("error", [GPU_FULL, PROCESSOR_FULL])
def test_inference_goes_on_in_pieces_with_the_same_values_and_says_so_once(error, capsys):
    made, data = network(), fold_data()
    rows = data.train_rows
    logits, features = predict_logits(made, data.inputs, rows), pooled_features(made, data.inputs, rows)
    given = leave_room(made, 3, error)
    assert np.allclose(predict_logits(made, data.inputs, rows), logits, atol=1e-5)
    assert np.allclose(pooled_features(made, data.inputs, rows), features, atol=1e-5)
    assert capsys.readouterr().err.count("out of memory") == 1
    assert sum(size > 3 for size in given[given.index(min(given)) :]) == 0  # what fits is remembered


def test_a_bank_is_filled_in_pieces_with_the_same_values(tmp_path, capsys):
    whole = fill_bank(order(), tmp_path / "whole")
    less = order()
    given = leave_room(less.network, 3)
    found = fill_bank(less, tmp_path / "pieces")
    assert max(given) == 10
    assert capsys.readouterr().err.count("out of memory") == 1
    assert np.allclose(read_features(found), read_features(whole), atol=1e-5)
    for ours, theirs in zip(open_maps(found), open_maps(whole), strict=True):
        assert np.allclose(ours, theirs, rtol=2**-10, atol=1e-4)


def test_where_one_image_does_not_fit_it_is_said_and_other_faults_are_not_hidden():
    made, data = network(), fold_data()
    leave_room(made, 0)
    with pytest.raises(TrainingError, match=r"one image at a time[\s\S]*smaller preprocess.size"):
        predict_logits(made, data.inputs, data.train_rows)
    other = network()
    leave_room(other, 0, RuntimeError("shapes do not fit"))
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        predict_logits(other, data.inputs, data.train_rows)


def test_the_forecast_is_that_of_the_largest_batch(capsys):
    """Batches are nearly equal: of 20 images, in batches of about 14, there is one, of 20."""
    data = fold_data()
    few, size = len(data.train_rows), 14
    assert few == 20
    made = network()
    run = _begin(made, data, recipe(batch_size=size), task())
    _forecast(run, data, recipe(batch_size=size), task())
    assert f"memory for {few} images" in capsys.readouterr().err
