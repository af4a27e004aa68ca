"""No step of a training reads a number from the device: each reading would make the processor wait for a GPU."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.learning.loop import finetuning
from pipeline.learning.loop.checkpoints import StateFolder
from pipeline.learning.loop.finetuning import FoldData
from tests.learning.test_feeding import resident
from tests.learning.test_finetuning import fold_data, network, recipe, task

pytestmark = pytest.mark.slow
# Their results, or the sizes of their results, have to be known to the processor.
WAITING = {
    "_local_scalar_dense",
    "nonzero",
    "nonzero_static",
    "masked_select",
    "equal",
    "is_nonzero",
    "item",
    "unique_consecutive",
    "_unique2",
    "repeat_interleave",
    "bincount",
}
READING = ("numpy", "tolist", "item", "cpu", "__array__", "__bool__", "__float__", "__int__", "__index__")


class NoWaiting(TorchDispatchMode):
    """Refuses what would wait for a GPU, were the tensors there."""

    def __torch_dispatch__(self, function, _types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        is_mask = name in {"index", "index_put", "index_put_", "_index_put_impl_"} and any(
            one is not None and one.dtype in (torch.bool, torch.uint8) for one in args[1]
        )
        if name in WAITING or is_mask:
            raise AssertionError(f"{function} waits for the device")
        return function(*args, **(kwargs or {}))


@pytest.fixture
def no_waiting(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise AssertionError("a tensor is read by the processor")

    for name in READING:
        monkeypatch.setattr(torch.Tensor, name, refuse)
    with NoWaiting():
        yield


def begun(monkeypatch, numbers, data, blocks):
    # As on a GPU: the other kinds of AdamW count their steps on the processor.
    plain = torch.optim.AdamW
    monkeypatch.setattr(torch.optim, "AdamW", lambda groups, **more: plain(groups, **{**more, "fused": True}))
    return finetuning._begin(network(), data, numbers, blocks)


@pytest.mark.parametrize("changes", [{}, {"loss": "focal", "ema_decay": 0.9}, {"pieces": 2}])
@pytest.mark.parametrize("is_pretrained", [True, False])
def test_no_step_reads_from_the_device(tmp_path, monkeypatch, changes, is_pretrained, request):
    pieces = changes.get("pieces", 1)
    numbers = recipe(**{key: value for key, value in changes.items() if key != "pieces"})
    data = fold_data()
    data = FoldData(**{**vars(data), "inputs": resident(data.inputs)})
    blocks = task(is_pretrained=is_pretrained)
    run = begun(monkeypatch, numbers, data, blocks)
    run.pieces = pieces
    request.getfixturevalue("no_waiting")
    finetuning._steps(run, data, numbers, blocks, StateFolder(tmp_path, "k"))
    assert run.step == 2


@pytest.mark.parametrize(
    "read",
    [
        float,
        bool,
        int,
        lambda loss: loss.item(),
        lambda loss: loss.detach().cpu(),
        lambda loss: loss.detach().numpy(),
        lambda loss: loss.tolist(),
        lambda loss: loss[loss > 0],
        torch.nonzero,
        lambda loss: 1 if loss > 0 else 0,
    ],
)
def test_a_step_that_did_would_be_found(tmp_path, monkeypatch, read, request):
    data = fold_data()
    numbers, blocks = recipe(), task()
    run = begun(monkeypatch, numbers, data, blocks)
    plain = finetuning.differentiate

    def reading(*args, **kwargs):
        done = plain(*args, **kwargs)
        read(done.loss)
        return done

    monkeypatch.setattr(finetuning, "differentiate", reading)
    request.getfixturevalue("no_waiting")
    with pytest.raises(AssertionError, match=r"waits for the device|read by the processor"):
        finetuning._steps(run, data, numbers, blocks, StateFolder(tmp_path, "k"))
