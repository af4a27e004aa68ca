"""Resumption: all that changes in the course of a training, and how it is put into a state and taken out again."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.core.records import EpochLog
from pipeline.learning.loop.averaging import WeightAverage
from pipeline.learning.loop.checkpoints import Checkpoint, StateFolder
from pipeline.learning.loop.team import ALONE, Team

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


@dataclass
class Run:
    """A training in its course.

    Attributes
    ----------
    network, optimiser
        As they are now.
    names
        The trained parameters in the order of the optimiser's groups.
    average
        Moving average of the weights, if there is one.
    epoch
        Whole epochs done.
    step
        Steps done of the epoch after them.
    loss_sum
        Sum of the losses of its images so far; on the device, because reading it would wait for a GPU.
    team
        The processes that take these steps together.
    forward
        The network's forward pass compiled, if it is.
    pieces
        In how many pieces a batch is computed (more than one after a lack of memory).
    best_epoch, best_loss, best
        The epoch kept (0: the start), its validation loss, and its weights on the processor.
    history
        A log for each epoch done.
    earlier
        Time and processor time, in seconds, that processes before this one have spent on the training.
    """

    network: "nn.Module"
    optimiser: "torch.optim.AdamW"
    names: list[str]
    average: WeightAverage | None
    loss_sum: "Tensor"
    team: Team = ALONE
    forward: "Callable[[Tensor], Tensor] | None" = None
    epoch: int = 0
    step: int = 0
    pieces: int = 1
    best_epoch: int = 0
    best_loss: float = math.inf
    best: dict[str, "Tensor"] = field(default_factory=dict)
    history: list[EpochLog] = field(default_factory=list)
    earlier: tuple[float, float] = (0.0, 0.0)
    _begun: tuple[float, float] = field(default_factory=lambda: (time.monotonic(), time.process_time()))

    @contextmanager
    def judged(self) -> Iterator["nn.Module"]:
        """Give the network as it is validated and kept: with averaged weights, if there are any."""
        if self.average is None:
            yield self.network
            return
        with self.average.in_place():
            yield self.network

    def checksum(self) -> int:
        """Sum up the bits of all weights, in an order that does not matter; 0 where no other process could differ."""
        import torch

        if self.team.size == 1:
            return 0
        values = [*self.network.state_dict().values(), *(self.average.values.values() if self.average else ())]
        return int(sum(one.detach().flatten().view(torch.int32).sum(dtype=torch.int64) for one in values))

    def keep(self, network: "nn.Module", loss: float) -> None:
        """Remember the network of this epoch as the best so far."""
        self.best_loss, self.best_epoch = loss, self.epoch
        self.best = {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}

    def save(self, states: StateFolder) -> None:
        """Write everything into a state."""
        tensors = {f"network/{name}": value for name, value in self.network.state_dict().items()}
        tensors |= {f"best/{name}": value for name, value in self.best.items()}
        tensors["run/loss_sum"] = self.loss_sum
        for index, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser/{self.names[index]}/{key}": value for key, value in state.items()}
        if self.average is not None:
            tensors |= {f"average/{name}": value for name, value in self.average.values.items()}
        facts: dict[str, object] = {
            "epoch": self.epoch,
            "step": self.step,
            "pieces": self.pieces,
            "updates": self.average.updates if self.average else 0,
            "best_epoch": self.best_epoch,
            "best_loss": self.best_loss,
            "spent": [
                self.earlier[0] + time.monotonic() - self._begun[0],
                self.earlier[1] + time.process_time() - self._begun[1],
            ],
            "history": [log.model_dump(mode="json") for log in self.history],
        }
        states.save(self.epoch, tensors, facts, self.step)

    def restore(self, saved: Checkpoint) -> None:
        """Go on from a state of the same training."""
        import torch

        parts: dict[str, dict[str, Tensor]] = {"network": {}, "best": {}, "run": {}, "optimiser": {}, "average": {}}
        for name, value in saved.tensors.items():
            part, rest = name.split("/", maxsplit=1)
            parts[part][rest] = value
        self.network.load_state_dict(parts["network"])
        self.best = parts["best"]
        self.loss_sum.copy_(parts["run"]["loss_sum"])
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in parts["optimiser"].items():
            parameter_name, key = name.split("/")
            moments.setdefault(self.names.index(parameter_name), {})[key] = value
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": moments})
        for parameter, state in self.optimiser.state.items():
            for key, value in state.items():
                if value.shape == parameter.shape:  # files hold plain order; fused optimisers want the parameter's own
                    state[key] = torch.empty_like(parameter).copy_(value)
        facts = saved.facts
        self.earlier = (float(facts["spent"][0]), float(facts["spent"][1]))
        if self.average is not None:
            self.average.restore(parts["average"], int(facts["updates"]))
        self.epoch, self.step, self.pieces = int(facts["epoch"]), int(facts["step"]), int(facts["pieces"])
        self.best_epoch, self.best_loss = int(facts["best_epoch"]), float(facts["best_loss"])
        self.history = [EpochLog.model_validate(row) for row in facts["history"]]
