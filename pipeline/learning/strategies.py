"""Strategies: how to fine-tune, as frozen values; one loop serves them all (decision 0020)."""

from collections.abc import Iterable
from typing import Literal, NamedTuple


class BlockPlan(NamedTuple):
    """When and how fast one block of a network is trained.

    Attributes
    ----------
    name
        One of the backbone's blocks.
    first_epoch
        The epoch, counted from 1, from which on it is trained; before, it is frozen with its normalisation.
    rate
        Its learning rate as a share of the recipe's.
    """

    name: str
    first_epoch: int = 1
    rate: float = 1.0


Head = Literal["last", "joined"]
"""What a trained head looks at: the pooled features of the last block, or those of all blocks joined."""


class Strategy(NamedTuple):
    """Which weights a network starts from and which of its blocks are trained.

    Attributes
    ----------
    uses_source
        Start from the study's weights; otherwise from a random initialisation.
    depth
        How many blocks are trained, counted from the head; None: all of them. Batch normalisation of the others
        stays in evaluation mode, so that their running statistics remain those of the source.
    head
        ``gradient``: the head is trained with the blocks. ``logistic``: nothing is trained by gradient; the
        head is a regularised logistic regression on the frozen features.
    in_words
        For the methods section of the report.
    is_gradual
        Blocks are opened one after the other from the head downwards.
    """

    uses_source: bool
    depth: int | None
    head: Literal["gradient", "logistic"]
    in_words: str
    is_gradual: bool = False

    def trained_blocks(self, blocks: tuple[str, ...]) -> frozenset[str]:
        """Name the trained ones of a backbone's blocks, which are in order from the input to the head."""
        return frozenset(blocks if self.depth is None else blocks[len(blocks) - self.depth :])

    def can_join(self) -> bool:
        """Tell whether its head may look at all blocks: a probe chooses, and a bank holds maps of one boundary."""
        return self.head == "gradient" and self.depth is None

    def plan(
        self,
        blocks: tuple[str, ...],
        *,
        epochs: int,
        unfreeze_every: int = 1,
        block_rate_factor: float = 1.0,
        is_random: bool = False,
    ) -> tuple[BlockPlan, ...]:
        """Give a plan for each block that is trained within the epochs, from the input to the head.

        Parameters
        ----------
        blocks
            All blocks of the backbone, from the input to the head.
        epochs
            Most epochs; a block that would be opened later stays frozen and is not named.
        unfreeze_every
            Epochs between the opening of two blocks, for a gradual strategy.
        block_rate_factor
            Learning rate of a block as a share of that of the next one towards the head. From random weights
            all blocks have as much to learn, and the factor is not used.
        is_random
            The study has no source, so that every strategy starts from random weights.

        References
        ----------
        Howard and Ruder (2018), arXiv:1801.06146: gradual unfreezing, and rates that differ by layer.

        Examples
        --------
        >>> STRATEGIES["gradual"].plan(("stem", "layer", "head"), epochs=9, unfreeze_every=2, block_rate_factor=0.5)[0]
        BlockPlan(name='stem', first_epoch=5, rate=0.25)
        """
        trained = self.trained_blocks(blocks)
        factor = block_rate_factor if self.uses_source and not is_random else 1.0
        plans = []
        for index, name in enumerate(blocks):
            above = len(blocks) - 1 - index
            first = 1 + above * unfreeze_every if self.is_gradual else 1
            if name in trained and first <= epochs:
                plans.append(BlockPlan(name, first, factor**above))
        return tuple(plans)


STRATEGIES: dict[str, Strategy] = {
    "full": Strategy(
        uses_source=True,
        depth=None,
        head="gradient",
        in_words="a logistic regression was fitted as head, then all layers were fine-tuned from the source weights, "
        "batch normalisation keeping the statistics of the source",
    ),
    "probe": Strategy(
        uses_source=True,
        depth=0,
        head="logistic",
        in_words="the network was kept as it was and a logistic regression was fitted to its pooled features; the "
        "strength of its penalty and, with weights from a source, the block after which features are taken were chosen "
        "on the inner validation part",
    ),
    "last_block": Strategy(
        uses_source=True,
        depth=2,
        head="gradient",
        in_words="the last block of layers and the head were trained, and everything before was kept as it was, "
        "batch normalisation included",
    ),
    "gradual": Strategy(
        uses_source=True,
        depth=None,
        head="gradient",
        in_words="the head was trained first, and the blocks of layers before it joined one after the other, "
        "the last block first",
        is_gradual=True,
    ),
    "scratch": Strategy(
        uses_source=False,
        depth=None,
        head="gradient",
        in_words="all layers were trained from a random initialisation, with a learning rate ten times as high",
    ),
}


def banked(names: Iterable[str], *, is_random: bool) -> tuple[str, ...]:
    """Choose the strategies whose frozen part is the same in every fold and epoch, so that a bank serves them.

    From random weights each fold starts with a network of its own, and nothing can be shared.

    Examples
    --------
    >>> banked(["full", "probe", "last_block", "gradual", "scratch"], is_random=False)
    ('probe', 'last_block')
    """
    if is_random:
        return ()
    chosen = [(name, STRATEGIES[name]) for name in dict.fromkeys(names)]
    return tuple(
        name for name, facts in chosen if facts.uses_source and facts.depth is not None and not facts.is_gradual
    )
