"""Training curves, one line for each fold."""

from typing import TYPE_CHECKING

from pipeline.reporting.figures.style import HALF_WIDTH, INK, MUTED, panel, pen

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pipeline.core.records import EpochLog

_HEIGHT = 2.6


def draw_losses(history: "Sequence[EpochLog]", best: "Mapping[int, int]") -> "Figure":
    """Draw training loss (thin, dotted) and validation loss (bold) over the epochs.

    Parameters
    ----------
    history
        Epochs of one strategy, all folds.
    best
        For each fold the epoch whose weights are used.
    """
    figure, axes = panel(HALF_WIDTH, _HEIGHT)
    for index, (fold, epochs) in enumerate(_by_fold(history).items()):
        line = pen(index)
        x = [item.epoch for item in epochs]
        axes.plot(x, [item.train_loss for item in epochs], color=line.colour, linewidth=0.9, linestyle=(0, (1, 1.5)))
        axes.plot(x, [item.validation_loss for item in epochs], color=line.colour, label=f"fold {fold + 1}")
        _mark_best(axes, index, x, [item.validation_loss for item in epochs], best.get(fold))
    _finish(axes, "Loss", "upper right", handles=True)
    return figure


def draw_validation_auroc(history: "Sequence[EpochLog]", best: "Mapping[int, int]") -> "Figure":
    """Draw the AUROC on the inner validation part over the epochs."""
    figure, axes = panel(HALF_WIDTH, _HEIGHT)
    for index, (fold, epochs) in enumerate(_by_fold(history).items()):
        known = [(item.epoch, item.validation_auroc) for item in epochs if item.validation_auroc is not None]
        x, y = [epoch for epoch, _ in known], [value for _, value in known]
        axes.plot(x, y, color=pen(index).colour, label=f"fold {fold + 1}")
        _mark_best(axes, index, x, y, best.get(fold))
    axes.axhline(0.5, color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
    _finish(axes, "Validation AUROC", "lower right", handles=False)
    return figure


def _by_fold(history: "Sequence[EpochLog]") -> "dict[int, list[EpochLog]]":
    folds: dict[int, list[EpochLog]] = {}
    for item in sorted(history, key=lambda item: (item.fold, item.epoch)):
        folds.setdefault(item.fold, []).append(item)
    return folds


def _mark_best(axes: "Axes", index: int, x: "Sequence[int]", y: "Sequence[float]", best: int | None) -> None:
    if best is not None and best in x:
        value = y[list(x).index(best)]
        axes.plot(
            [best], [value], marker=pen(index).marker, color=pen(index).colour, markersize=6.5,
            markeredgecolor="white", markeredgewidth=0.8, linestyle="none", zorder=5,
        )  # fmt: skip


def _finish(axes: "Axes", label: str, place: str, *, handles: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    axes.set(xlabel="Epoch", ylabel=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    own = axes.get_legend_handles_labels()
    marks = [
        Line2D([], [], color=pen(index).colour, marker=pen(index).marker, label=name)
        for index, name in enumerate(own[1])
    ]
    kinds = [
        Line2D([], [], color=INK, label="validation"),
        Line2D([], [], color=INK, linewidth=0.9, linestyle=(0, (1, 1.5)), label="training"),
    ]
    shown = [*marks, *kinds] if handles else marks
    axes.legend(handles=shown, loc=place, ncols=2, columnspacing=1.2, fontsize=7)
