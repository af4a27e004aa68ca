"""Recipes: the numbers of a fine-tuning, and the learning rates that follow from them."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The numbers of a fine-tuning; their meanings are those of the configuration's section ``train``."""

    epochs: int
    patience: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    warmup_fraction: float
    label_smoothing: float
    balance_classes: bool
    loss: Literal["cross_entropy", "focal"] = "cross_entropy"
    focal_gamma: float = 2.0
    ema_decay: float = 0.0
    unfreeze_every: int = 1
    block_rate_factor: float = 1.0


def learning_rate_at(step: int, steps: int, recipe: Recipe) -> float:
    """Learning rate of a step, counted from 0: a linear rise, then half a cosine down to 0 (Loshchilov, 2017).

    References
    ----------
    arXiv:1608.03983
    """
    rising = recipe.warmup_fraction * steps
    if step < rising:
        return recipe.learning_rate * (step + 1) / (rising + 1)
    share = (step - rising) / max(1.0, steps - rising)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * share))


def opening_share(step: int, first_step: int, steps: int, recipe: Recipe) -> float:
    """Give the share of its rate that a block opened at `first_step` has at a step.

    A block opened later rises over as many steps as the whole network did at the start: AdamW's first steps have
    full size whatever the gradient. Blocks there from the start rise with the network: their share is 1.
    """
    if first_step == 0:
        return 1.0
    return min(1.0, (step - first_step + 1) / (recipe.warmup_fraction * steps + 1))
