"""Compilation: a network's forward and backward pass as fused kernels, on a GPU, where it pays and a compiler is there.

Each size of batch is compiled for itself and nothing is tried out at run time: what is computed depends neither on
the order in which sizes came nor on the clock, and a training that was killed goes on with the same bits.
"""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from pipeline.core.progress import say
from pipeline.learning.inputs.devices import Placement

if TYPE_CHECKING:
    from torch import Tensor, nn

# Two sizes of batch take about a minute to compile, and a step saves a few milliseconds. Never measured on a GPU yet:
# benchmarks/learning_gpu.py prints after how many steps compiling has paid.
STEPS_WORTH_COMPILING = 20_000


def compiles(wish: Literal["auto", "off"], placement: Placement, steps: int) -> bool:
    """Tell whether a training of so many steps is compiled; say why not where it would pay.

    It depends on nothing that differs between a run and its resumption on the same machine.
    """
    if wish == "off" or placement.device != "cuda" or steps < STEPS_WORTH_COMPILING:
        return False
    lack = missing_compiler(placement.device)
    if lack:
        say(f"train: not compiled, as the compiler does not work here ({lack}); the results are as good")
    return not lack


@functools.cache
def missing_compiler(device: str) -> str:
    """Compile something small with its gradient: empty if that works, else the reason in a few words.

    Needed are Triton, for a GPU, and a C compiler; what is lacking shows only when something is compiled.
    """
    import torch

    def trial(values: "Tensor") -> "Tensor":
        return (values * 2).relu().sum()

    values = torch.ones(8, device=device, requires_grad=True)
    try:
        torch.autograd.backward(_compiled(trial)(values))
    except Exception as error:  # noqa: BLE001  whatever it is, training goes on without
        return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:120]}"
    return ""


def compiled(network: "nn.Module") -> "Callable[[Tensor], Tensor]":
    """Give a network's forward pass, compiled when first called with a size of batch.

    Only what is the same in every step may be compiled: all blocks that are trained are open. The network itself
    stays as it is; weights, modes and hooks are those that it has when called. If its compilation fails, it runs as
    it is, and that is said.
    """
    import torch

    # Entries of other networks of this class would count towards the limit of recompilations.
    torch.compiler.reset()
    return _Compiled(network, _compiled(network))


class _Compiled:
    """A compiled forward pass with the plain one behind it."""

    def __init__(self, network: "nn.Module", fast: "Callable[[Tensor], Tensor]") -> None:
        self._network = network
        self._fast: Callable[[Tensor], Tensor] | None = fast

    def __call__(self, images: "Tensor") -> "Tensor":
        if self._fast is not None:
            try:
                return self._fast(images)
            except Exception as error:
                if not _is_of_compiler(error):
                    raise
                say(f"train: the network cannot be compiled ({type(error).__name__}); it runs as it is")
                self._fast = None
        logits: Tensor = self._network(images)
        return logits


def _compiled(function: "Callable[[Tensor], Tensor]") -> "Callable[[Tensor], Tensor]":
    import torch
    from torch._dynamo import config as tracing
    from torch._inductor import config as kernels

    # Beyond its limit of recompilations Dynamo would go on uncompiled and say so in a warning only.
    if hasattr(tracing, "fail_on_recompile_limit_hit"):
        tracing.fail_on_recompile_limit_hit = True
    # No kernel is chosen by its measured time, where PyTorch knows this option (2.10 and later).
    options: dict[str, str | int | bool | Callable[..., Any]]
    options = {"deterministic": True} if hasattr(kernels, "deterministic") else {}
    fast: Callable[[Tensor], Tensor] = torch.compile(function, dynamic=False, options=options)
    return fast


def _is_of_compiler(error: Exception) -> bool:
    """Tell a failed compilation from a failure of the network itself, a lack of memory among them."""
    import torch

    return type(error).__module__.startswith(("torch._dynamo", "torch._inductor")) and not isinstance(
        error.__cause__, torch.OutOfMemoryError
    )
