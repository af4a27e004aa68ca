"""Gradients of a batch, in pieces where it does not fit into memory at once."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from pipeline.core.errors import TrainingError
from pipeline.core.progress import say
from pipeline.learning.criteria import AnyCriterion
from pipeline.learning.inputs.devices import Placement
from pipeline.learning.inputs.pieces import empty_cache, is_out_of_memory

if TYPE_CHECKING:
    from torch import Tensor, nn


class Differentiated(NamedTuple):
    """The loss of a batch, detached and on the device, and in how many pieces it was computed in the end."""

    loss: "Tensor"
    pieces: int


def differentiate(
    network: "nn.Module",
    images: "Tensor",
    truth: "Tensor",
    criterion: AnyCriterion,
    placement: Placement,
    *,
    pieces: int,
    smallest: int,
    forward: "Callable[[Tensor], Tensor] | None" = None,
    weight: "Tensor | None" = None,
) -> Differentiated:
    """Compute the gradients of a batch's loss; out of memory, with pieces of half the size.

    The loss of a piece is divided by the weights of the whole batch, so that the gradients add up to those of
    the whole batch. Where batch normalisation learns its statistics, each piece has its own, and the sum is an
    approximation.

    Parameters
    ----------
    network
        Its gradients are replaced.
    images, truth
        The batch: inputs of shape (batch, ...), class indices of shape (batch,) or states of findings.
    criterion
        The loss.
    placement
        Device and precision.
    pieces
        In how many pieces to begin with.
    smallest
        Fewest images of a piece.
    forward
        Computes the network's logits, for example faster; None: the network itself does.
    weight
        Of the whole batch, if the images are a part of one: loss and gradients are then shares of the batch's.

    Raises
    ------
    TrainingError
        If not even the smallest pieces fit.
    """
    while True:
        for parameter in network.parameters():
            parameter.grad = None
        try:
            loss = _add_up(forward or network, images, truth, criterion, placement, pieces, weight)
            return Differentiated(loss, pieces)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        # Beyond the except clause, because the exception holds the tensors of the failed pass.
        pieces = _twice(pieces, len(images), smallest)


def _add_up(
    forward: "Callable[[Tensor], Tensor]",
    images: "Tensor",
    truth: "Tensor",
    criterion: AnyCriterion,
    placement: Placement,
    pieces: int,
    weight: "Tensor | None",
) -> "Tensor":
    import torch

    if pieces == 1 and weight is None:
        with placement.autocast():
            logits = forward(images)
        loss = criterion.mean(logits.float(), truth)
        torch.autograd.backward(loss)
        return loss.detach()
    weight = criterion.weight_of(truth) if weight is None else weight
    total = torch.zeros((), device=images.device)
    for part, classes in zip(images.tensor_split(pieces), truth.tensor_split(pieces), strict=True):
        with placement.autocast():
            logits = forward(part)
        loss = criterion.sum(logits.float(), classes) / weight
        torch.autograd.backward(loss)
        total += loss.detach()
    return total


def _twice(pieces: int, images: int, smallest: int) -> int:
    if images // (2 * pieces) < smallest:
        what = f"out of memory with {images // pieces} images at a time"
        remedy = "choose a smaller preprocess.size or train.backbone, or fewer trained blocks"
        raise TrainingError(what, where="train.batch_size", remedy=remedy)
    empty_cache()
    say(f"out of memory: batches of {images} go on in {2 * pieces} pieces; a step still counts all their images")
    return 2 * pieces
