"""A team: the processes that train one network together, each with its part of every batch on its own device.

All have the same weights and take the same steps, because each sums up the gradients of all. Only the first one speaks
and writes. What a process computes alone (the plan, the rates, the judgement of an epoch) is the same in all.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.core.errors import TrainingError
from pipeline.core.progress import say
from pipeline.learning.inputs.batches import Part

if TYPE_CHECKING:
    from torch import Tensor, nn


class TeamError(TrainingError):
    """A process of the team does not answer any more."""


@dataclass(frozen=True)
class Team:
    """The place of a process among those that train one network; the others are reached by ``torch.distributed``.

    Attributes
    ----------
    number
        Of this process, from 0.
    size
        How many there are; one alone exchanges nothing.
    """

    number: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Tell whether this is the process that speaks and writes."""
        return self.number == 0

    @property
    def part(self) -> Part:
        """Which part of each batch is this process's."""
        return Part(self.number, self.size)

    def say(self, line: str) -> None:
        """Print a line once."""
        if self.is_first:
            say(line)

    def add_up(self, network: "nn.Module", loss: "Tensor") -> "Tensor":
        """Sum the gradients of all processes in place, and give the sum of their losses; waits for no GPU.

        The sums are the same bits in all processes.

        Raises
        ------
        TeamError
            If a process is gone.
        """
        if self.size == 1:
            return loss
        import torch
        import torch.distributed as dist

        gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
        everything = torch.cat([loss.reshape(1), *(one.flatten() for one in gradients)])
        with _answering():
            dist.all_reduce(everything)
        parts = torch.split(everything[1:], [one.numel() for one in gradients])
        torch._foreach_copy_(gradients, [part.view(one.shape) for part, one in zip(parts, gradients, strict=True)])
        return everything[0].clone()

    def spread(self, network: "nn.Module") -> None:
        """Give the weights and buffers of the first process to all.

        Raises
        ------
        TeamError
            If a process is gone.
        """
        if self.size == 1:
            return
        import torch.distributed as dist

        for value in network.state_dict().values():
            plain = value.detach().flatten().clone()  # whatever the order in memory is
            with _answering():
                dist.broadcast(plain, 0)
            value.copy_(plain.view(value.shape))

    def gather(self, value: Any) -> list[Any]:
        """Give what each process has, in their order, to all.

        Raises
        ------
        TeamError
            If a process is gone.
        """
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        found = [None] * self.size
        with _answering():
            dist.all_gather_object(found, value)
        return found

    def require_equal(self, value: object, what: str) -> None:
        """Stop if the processes differ in something.

        Raises
        ------
        TrainingError
            Naming `what`.
        """
        found = self.gather(value)
        if any(other != found[0] for other in found):
            message = f"the processes of the training found different {what}: {found}"
            raise TrainingError(
                message, where="train.devices", remedy="run it again on one machine with one file system"
            )


ALONE = Team()


@contextmanager
def _answering() -> Iterator[None]:
    """Turn what the communication raises into an error for people."""
    try:
        yield
    except RuntimeError as error:
        line = (str(error).strip().splitlines() or [""])[0][:160]
        what = f"a process of the training does not answer ({line})"
        raise TeamError(what, where="train.devices", remedy="run the same command again: it goes on") from error
