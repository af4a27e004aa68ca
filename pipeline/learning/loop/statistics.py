"""Statistics of batch normalisation over all parts of a batch that several processes share."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pipeline.learning.loop.team import Team

if TYPE_CHECKING:
    from torch import Tensor, nn


@contextmanager
def shared_statistics(network: "nn.Module", team: Team) -> "Iterator[None]":
    """Let batch normalisation that learns its statistics see the whole batch, for a while.

    On GPUs PyTorch's own ``SyncBatchNorm`` takes the place of each module, elsewhere (which it refuses) one that
    computes the same. Weights and buffers are shared with the modules that were there, and these come back.
    """
    from torch.nn.modules.batchnorm import _BatchNorm

    before = {name: module for name, module in network.named_modules() if isinstance(module, _BatchNorm)}
    if team.size == 1:
        before = {}
    for name, module in before.items():
        network.set_submodule(name, _twin(module))
    try:
        yield
    finally:
        for name, module in before.items():
            module.train(network.get_submodule(name).training)
            network.set_submodule(name, module)


def _twin(module: Any) -> "nn.Module":
    import torch

    is_on_gpu = next(iter(module.buffers())).is_cuda
    kind: Any = torch.nn.SyncBatchNorm if is_on_gpu else _shared_class()
    twin: nn.Module = kind(module.num_features, eps=module.eps, momentum=module.momentum)
    for name, value in (*module.named_parameters(), *module.named_buffers()):
        setattr(twin, name, value)
    twin.train(module.training)
    return twin


@functools.cache
def _shared_class() -> "type[nn.Module]":
    import torch
    import torch.distributed as dist
    from torch.nn.modules.batchnorm import _BatchNorm

    class Sum(torch.autograd.Function):
        """The sum over all processes; each one's loss depends on what all have given to it."""

        @staticmethod
        def forward(_context: Any, values: "Tensor") -> "Tensor":
            summed = values.clone()
            dist.all_reduce(summed)
            return summed

        @staticmethod
        def backward(_context: Any, gradient: "Tensor") -> "Tensor":
            summed = gradient.clone()
            dist.all_reduce(summed)
            return summed

    total: Callable[[Tensor], Tensor] = Sum.apply

    class SharedBatchNorm(_BatchNorm):
        """Batch normalisation over the whole batch: mean first, then squared deviations, both summed over all."""

        running_mean: "Tensor"
        running_var: "Tensor"
        num_batches_tracked: "Tensor"
        momentum: float

        def _check_input_dim(self, input: "Tensor") -> None:  # noqa: A002  PyTorch's name
            """Take inputs with any number of axes."""

        def forward(self, input: "Tensor") -> "Tensor":  # noqa: A002  PyTorch's name
            if not self.training:
                result: Tensor = super().forward(input)
                return result
            wide = input.float()
            axes = [0, *range(2, wide.ndim)]
            shape = [1, -1, *[1] * (wide.ndim - 2)]
            count = wide.new_full((1,), wide.numel() / wide.shape[1])
            sums = total(torch.cat([wide.sum(axes), count]))
            images = sums[-1].detach()
            mean = sums[:-1] / images
            centred = wide - mean.view(shape)
            variance = total(centred.square().sum(axes)) / images
            with torch.no_grad():
                self.num_batches_tracked.add_(1)
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(variance * images / (images - 1), self.momentum)
            scale = self.weight.view(shape) * torch.rsqrt(variance + self.eps).view(shape)
            output: Tensor = (centred * scale + self.bias.view(shape)).to(input.dtype)
            return output

    return SharedBatchNorm
