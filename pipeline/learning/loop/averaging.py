"""Averaging: a moving average of the trained weights, which is what is validated, kept and predicted with."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn


class WeightAverage:
    """Exponential moving average of parameters.

    After update t the decay is min(`decay`, (1 + t) / (10 + t)), so that the first weights are soon forgotten
    (the rule of TensorFlow's ``ExponentialMovingAverage``). Buffers are not averaged but used as they are:
    running statistics of batch normalisation are moving averages already.

    Parameters
    ----------
    network
        Its parameters are averaged from what they are now.
    names
        The parameters concerned; those of frozen blocks need none.
    decay
        In (0, 1); the average reaches back over about 1 / (1 - decay) steps.
    """

    def __init__(self, network: "nn.Module", names: list[str], decay: float) -> None:
        parameters = dict(network.named_parameters())
        self.decay = decay
        self.updates = 0
        self.values: dict[str, Tensor] = {name: parameters[name].detach().clone() for name in names}
        self._parameters = {name: parameters[name] for name in names}

    def update(self) -> None:
        """Move the average towards the parameters, after a step of the optimiser."""
        import torch

        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        with torch.no_grad():
            torch._foreach_lerp_(list(self.values.values()), self._now(), 1 - decay)

    def restore(self, values: "dict[str, Tensor]", updates: int) -> None:
        """Go on from a saved average."""
        for name, value in self.values.items():
            value.copy_(values[name])
        self.updates = updates

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the network hold the average for a while; it gets its own weights back whatever happens."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _now(self) -> "list[Tensor]":
        return [parameter.detach() for parameter in self._parameters.values()]

    def _exchange(self) -> None:
        for name, parameter in self._parameters.items():
            parameter.data, self.values[name] = self.values[name], parameter.data
