"""Compiled steps: when, to what effect, and what happens without a compiler. Tracing is real, kernels are not made."""

import pytest
import torch

from pipeline.learning.inputs.devices import Placement, choose_placement
from pipeline.learning.inputs.feeding import feed
from pipeline.learning.loop import compiling
from pipeline.learning.loop.checkpoints import StateFolder
from pipeline.learning.loop.compiling import STEPS_WORTH_COMPILING, compiled, compiles, missing_compiler
from pipeline.learning.loop.finetuning import fine_tune
from pipeline.learning.networks.blocks import joined_network
from pipeline.learning.strategies import BlockPlan
from tests.learning.test_finetuning import ALL, fold_data, network, recipe, task

pytestmark = pytest.mark.slow
GPU = Placement("cuda", "bfloat16", 2)
CPU = Placement("cpu", "float32", 2)


@pytest.fixture
def traced(monkeypatch):
    """Count what is traced; PyTorch's own operators compute what was traced."""
    seen = []

    def keep(graph, _examples):
        seen.append(graph)
        return graph.forward

    plain = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda function, *, dynamic, options: plain(function, dynamic=dynamic, backend=keep)
    )
    torch.compiler.reset()
    missing_compiler.cache_clear()
    yield seen
    torch.compiler.reset()
    missing_compiler.cache_clear()


@pytest.mark.parametrize(
    ("wish", "placement", "steps", "expected"),
    [
        ("auto", GPU, STEPS_WORTH_COMPILING, True),
        ("auto", GPU, STEPS_WORTH_COMPILING - 1, False),
        ("off", GPU, 10**9, False),
        ("auto", CPU, 10**9, False),
    ],
)
def test_long_trainings_on_a_gpu_are_compiled(monkeypatch, wish, placement, steps, expected):
    monkeypatch.setattr(compiling, "missing_compiler", lambda device: "")
    assert compiles(wish, placement, steps) is expected


def test_without_a_compiler_it_is_said_and_nothing_is_compiled(monkeypatch, capsys):
    def refuse(function, **_):
        def call(*_):
            raise RuntimeError("Cannot find a working triton installation\nlong explanation")

        return call

    missing_compiler.cache_clear()
    monkeypatch.setattr(torch, "compile", refuse)
    monkeypatch.setattr(compiling, "missing_compiler", lambda device: missing_compiler("cpu"))
    assert compiles("auto", GPU, 10**6) is False
    shown = capsys.readouterr().err
    assert "the compiler does not work here (RuntimeError: Cannot find a working triton installation)" in shown
    missing_compiler.cache_clear()


def test_the_trial_works_where_a_compiler_works(traced):
    assert missing_compiler("cpu") == ""
    assert len(traced) == 1


def test_a_joined_head_is_one_graph_for_each_size(traced):
    whole = joined_network(network(), "resnet18", torch.rand(1, 3, 32, 32), seed=1)
    run = compiled(whole)
    for size in (4, 4, 3, 4, 3):
        torch.autograd.backward(run(torch.rand(size, 3, 32, 32)).sum())
    assert len(traced) == 2


def test_each_size_of_batch_is_compiled_once_whatever_opens(traced, tmp_path, monkeypatch):
    """20 images in batches of 8 give sizes 10; of 6, sizes 7 and 6. Blocks open one after the other."""
    plan = tuple(BlockPlan(name, 1 + max(0, 3 - index)) for index, name in enumerate(ALL))
    blocks = task(plan=plan, is_pretrained=True)
    blocks = blocks.__class__(**{**vars(blocks), "is_compiled": True})
    fine_tune(network(), fold_data(), recipe(epochs=7, patience=7, batch_size=6), blocks, StateFolder(tmp_path, "k"))
    assert len(traced) == 2


@pytest.mark.parametrize("is_pretrained", [True, False])
def test_compiled_steps_compute_what_the_others_do(traced, tmp_path, is_pretrained):
    found = []
    for is_compiled in (False, True):
        blocks = task(is_pretrained=is_pretrained)
        blocks = blocks.__class__(**{**vars(blocks), "is_compiled": is_compiled})
        trained = network()
        fine_tune(trained, fold_data(), recipe(epochs=2), blocks, StateFolder(tmp_path / str(is_compiled), "k"))
        found.append(trained.state_dict())
    assert traced
    for name, value in found[0].items():
        assert torch.allclose(value.float(), found[1][name].float(), atol=1e-5), name


def test_a_network_that_cannot_be_compiled_runs_as_it_is(monkeypatch, capsys):
    def fail(_graph, _examples):
        raise NotImplementedError("no such kernel")

    plain = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda function, *, dynamic, options: plain(function, dynamic=dynamic, backend=fail)
    )
    made = network().eval()
    images = next(feed(fold_data().inputs, [range(4)]))
    assert compiled(made)(images).equal(made(images))
    assert "the network cannot be compiled" in capsys.readouterr().err


def test_other_failures_are_not_taken_for_the_compilers(traced):
    made = network().eval()

    def fail(_module, _arguments):
        raise torch.OutOfMemoryError("CUDA out of memory")

    forward = compiling._Compiled(made, lambda images: fail(made, images))
    with pytest.raises(torch.OutOfMemoryError):
        forward(torch.zeros(1, 3, 32, 32))


@pytest.mark.gpu
def test_a_compiled_training_repeats_its_bits_on_a_gpu(tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("no GPU on this machine")
    if lack := missing_compiler("cuda"):
        pytest.skip(f"no compiler for the GPU: {lack}")
    found = []
    for turn in ("first", "second"):
        data = fold_data()
        source = data.inputs.__class__(**{**vars(data.inputs), "placement": choose_placement("cuda", "bfloat16", 2)})
        data = data.__class__(**{**vars(data), "inputs": source})
        blocks = task(is_pretrained=True)
        blocks = blocks.__class__(**{**vars(blocks), "is_compiled": True})
        trained = network()
        fine_tune(trained, data, recipe(epochs=2, batch_size=6), blocks, StateFolder(tmp_path / turn, "k"))
        found.append(trained.state_dict())
    assert all(value.equal(found[1][name]) for name, value in found[0].items())
