"""Optimisers: what is moved at which rate, by block."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pipeline.learning.networks.backbones import SLICES, block_of
from pipeline.learning.recipes import Recipe
from pipeline.learning.strategies import BlockPlan

if TYPE_CHECKING:
    import torch
    from torch import nn

# A pre-trained network needs small steps, a random one large steps, for the same optimiser (AdamW).
RANDOM_START_FACTOR = 10.0


def adamw(
    network: "nn.Module",
    trained: list[str],
    recipe: Recipe,
    plan: Iterable[BlockPlan],
    backbone: str,
    *,
    is_pretrained: bool,
) -> tuple["torch.optim.AdamW", list[str]]:
    """AdamW with two groups for each block, and the names of its parameters in their order.

    Biases and normalisation do not decay: their size carries meaning of its own. All groups are there from the
    start, so that a block that is opened later changes nothing for the others; its moments begin with its first
    gradient.
    """
    import torch

    parameters = dict(network.named_parameters())
    groups, names = [], []
    for block in plan:
        of_block = [name for name in trained if block_of(name, backbone) == block.name]
        for is_matrix, is_new in ((True, False), (False, False), (True, True), (False, True)):
            kind = (is_matrix, is_new)
            members = [name for name in of_block if (parameters[name].ndim > 1, name.startswith(SLICES)) == kind]
            if members:
                names += members
                # The pooling of slices is in no source: it learns as fast as a network from random weights.
                share = RANDOM_START_FACTOR if is_new and is_pretrained else 1.0
                facts = {"rate": share * block.rate, "first_epoch": block.first_epoch}
                decay = recipe.weight_decay if is_matrix else 0.0
                groups.append({"params": [parameters[name] for name in members], "weight_decay": decay, **facts})
    # Fused: one pass over memory for each parameter instead of six, also on processors.
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=True), names
