"""Strategies: how to fine-tune, as frozen values; one loop serves them all (DESIGN, D3)."""

from typing import Literal, NamedTuple


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
    """

    uses_source: bool
    depth: int | None
    head: Literal["gradient", "logistic"]
    in_words: str

    def trained_blocks(self, blocks: tuple[str, ...]) -> frozenset[str]:
        """Name the trained ones of a backbone's blocks, which are in order from the input to the head."""
        return frozenset(blocks if self.depth is None else blocks[len(blocks) - self.depth :])


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
        in_words="the network was kept as it was and a logistic regression was fitted to its pooled features, "
        "with the strength of its penalty chosen on the inner validation part",
    ),
    "scratch": Strategy(
        uses_source=False,
        depth=None,
        head="gradient",
        in_words="all layers were trained from a random initialisation, with a learning rate ten times as high",
    ),
}
