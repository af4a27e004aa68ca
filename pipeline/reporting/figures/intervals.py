"""Values with their intervals below each other (a forest plot)."""

from typing import TYPE_CHECKING, NamedTuple

from pipeline.reporting.figures.style import BLUE, HALF_WIDTH, INK, MUTED, drawable, panel, pen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure


class Row(NamedTuple):
    """A value and its interval; either may be missing."""

    name: str
    value: float | None
    low: float | None
    high: float | None
    is_summary: bool = False


def draw_intervals(
    rows: "Sequence[Row]", label: str, *, reference: float | None, width: float = HALF_WIDTH, colour_each: bool = False
) -> "Figure":
    """Draw rows from top to bottom; summaries stand out as diamonds.

    Parameters
    ----------
    rows
        What to draw; a row without a value keeps its line and says so.
    label
        Of the horizontal axis.
    reference
        Where a dotted line stands (guessing, no difference), or None.
    width
        Of the figure in inches.
    colour_each
        Give each row the pen of its number, as in the figure of curves beside it.
    """
    figure, axes = panel(width, max(1.5, 0.62 + 0.3 * len(rows)))
    if reference is not None:
        axes.axvline(reference, color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
    for position, row in enumerate(rows):
        colour, marker, size = (BLUE, "D", 6.0) if row.is_summary else (MUTED, "o", 5.0)
        if colour_each:
            colour, marker = pen(position).colour, pen(position).marker
        if row.value is None:
            axes.text(0.5, position, "not available", transform=axes.get_yaxis_transform(), ha="center", va="center")
            continue
        if row.low is not None and row.high is not None:
            axes.plot([row.low, row.high], [position, position], color=colour, linewidth=1.8)
        axes.plot([row.value], [position], color=colour, marker=marker, markersize=size, linestyle="none")
    axes.set_yticks(range(len(rows)), [drawable(row.name) for row in rows])
    for tick, row in zip(axes.get_yticklabels(), rows, strict=True):
        tick.set(color=INK, fontweight="bold" if row.is_summary else "normal")
    axes.set(ylim=(len(rows) - 0.4, -0.6), xlabel=label)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    return figure
