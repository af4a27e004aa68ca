"""Whether a network trained on formulas may ship: it has to be better on real images than what needs no training.

The rule, fixed before anything was measured: on the radiographs (AUROC) and on MedNIST (accuracy from ten images a
class), features of the network are compared with those of five random networks, of the same networks with batch
normalisation re-estimated, and with Gabor energies. Each side takes the better of its blocks, 4 or 3, by the mean. The
network is better than a rival if the difference of the means is more than the spread, the root of the sum of both
variances, and if no single network of the rival is as good. It ships only if it is better than all three on both sets.

A variance is that over networks where there are several, else over the divisions into folds (radiographs) or the draws
of the images (MedNIST). That is no sampling error, which with 400 radiographs is about 0.02: the rule says that the
training did something, and not that other images would agree.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import weights_real

from pipeline.learning.inputs.devices import Placement
from pipeline.learning.weights.files import file_digest
from pipeline.learning.weights.loading import VerifiedWeights, WeightsChoice, verify
from pipeline.learning.weights.sources import PHANTOM_NORMALISATION

OWN = "trained on formulas"
RIVALS = ("random networks", "random networks, statistics re-estimated", "Gabor energies, no network")
SETS = ("radiographs", "mednist")
BLOCKS = ("4", "3")

# Of a set and a group: for each of its networks, and each block, the scores of all repetitions.
Scores = Mapping[str, Mapping[str, Sequence[Sequence[Sequence[float]]]]]


class Summary(NamedTuple):
    """Scores of a group in one block: their mean, spread and the best single network's mean."""

    block: str
    mean: float
    spread: float
    best: float


@dataclass(frozen=True)
class Comparison:
    """The network against one rival on one set, each in its better block."""

    set: str
    rival: str
    own: Summary
    other: Summary

    @property
    def wanted(self) -> float:
        """The least difference that counts."""
        return math.hypot(self.own.spread, self.other.spread)

    @property
    def is_better(self) -> bool:
        """Tell whether the network is better by more than the spread, and than each network of the rival."""
        return self.own.mean - self.other.mean > self.wanted and self.own.mean > self.other.best

    def line(self) -> str:
        """Say it in words."""
        verdict = "ok" if self.is_better else "short"
        difference = self.own.mean - self.other.mean
        return (
            f"target fractal_{self.set}_minus_{self.rival.split(',')[0].replace(' ', '_')}"
            f"{'_re-estimated' if 're-estimated' in self.rival else ''} measured {difference:.4f} "
            f"wanted >{self.wanted:.4f} {verdict} (blocks {self.own.block} and {self.other.block})"
        )


def summaries(networks: Sequence[Sequence[Sequence[float]]]) -> list[Summary]:
    """Summarise a group in each block: over its networks if there are several, else over the repetitions."""
    found = []
    for place, block in enumerate(BLOCKS[: len(networks[0])]):
        means = [float(np.mean(one[place])) for one in networks]
        values = means if len(networks) > 1 else list(networks[0][place])
        if len(values) < 2 or not np.isfinite(values).all():
            raise ValueError(f"a spread needs two finite scores or more, there are {len(values)}")
        found.append(Summary(block, float(np.mean(values)), float(np.std(values, ddof=1)), max(means)))
    return found


def better_block(networks: Sequence[Sequence[Sequence[float]]]) -> Summary:
    """Give the block with the higher mean; the best single network is that of any block."""
    found = summaries(networks)
    best = max(found, key=lambda one: one.mean)
    return best._replace(best=max(one.best for one in found))


def compared(scores: Scores) -> list[Comparison]:
    """Compare the network with every rival on every set.

    Raises
    ------
    KeyError
        If a set or a rival was not measured: there is no verdict without it.
    """
    return [
        Comparison(name, rival, better_block(scores[name][OWN]), better_block(scores[name][rival]))
        for name in SETS
        for rival in RIVALS
    ]


def ships(found: Sequence[Comparison]) -> bool:
    """Apply the rule."""
    return len(found) == len(SETS) * len(RIVALS) and all(one.is_better for one in found)


def verified(file: Path) -> VerifiedWeights:
    """Read a file that `fractal_gpu.py` wrote as a source of weights."""
    return verify(
        WeightsChoice(
            source="file",
            backbone="resnet18",
            file=file,
            sha256=file_digest(file),
            normalisation=PHANTOM_NORMALISATION,
        )
    )


def measure(
    file: Path, folders: Mapping[str, Path], size: int, placement: Placement, say: Callable[[str], None] = print
) -> dict[str, dict[str, list[list[list[float]]]]]:
    """Score frozen features of the file's network and of its rivals, on the processor.

    Parameters
    ----------
    file
        The network.
    folders
        Of the sets that are at hand, by the names of `SETS`.
    size
        Rows and columns in pixels to which the real images are brought.
    placement
        The processor, and its threads.
    say
        Takes a line for each row.
    """
    read = {"radiographs": weights_real.radiographs, "mednist": weights_real.mednist}
    scored = {"radiographs": weights_real.auroc, "mednist": weights_real.few_shot}
    sets = {name: read[name](folder, size) for name, folder in folders.items()}
    own = verified(file)
    scores: dict[str, dict[str, list[list[list[float]]]]] = {name: {} for name in sets}
    for kind in weights_real.kinds(None, own):
        group = OWN if kind.sha256 == own.sha256 else kind.group
        for name, real in sets.items():
            blocks = [scored[name](one, real) for one in kind.features(real.pixels, placement)]
            scores[name].setdefault(group, []).append(blocks)
            means = ", ".join(f"block {b} {np.mean(s):.3f}" for b, s in zip(BLOCKS, blocks, strict=False))
            say(f"{name}, {kind.name if group != OWN else OWN}: {means}")
    return scores


def table(scores: Scores) -> str:
    """Print every group in every block: mean and spread."""
    lines = [f"{'frozen features':<44}" + "".join(f"{f'{name}, {block}':>18}" for name in scores for block in BLOCKS)]
    for group in (OWN, *RIVALS):
        cells = []
        for name in scores:
            found = {one.block: one for one in summaries(scores[name][group])}
            cells += [
                f"{found[block].mean:.3f} ± {found[block].spread:.3f}" if block in found else "-" for block in BLOCKS
            ]
        lines.append(f"{group:<44}" + "".join(f"{cell:>18}" for cell in cells))
    return "\n".join(lines)
