"""Discrimination, decisions and calibration as figures."""

from typing import TYPE_CHECKING

from pipeline.core.results import Calibration, OperatingPoint, PrecisionRecallCurve, RocCurve
from pipeline.reporting.figures.style import (
    BLUE,
    HALF_WIDTH,
    INK,
    MUTED,
    drawable,
    panel,
    pen,
    unit_square,
)
from pipeline.reporting.formatting import count, percent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

MOST_BANDS = 3  # curves in one figure whose bands can still be told apart
_SQUARE = 3.35  # height of a half-width figure with square axes, inches


def draw_roc(curves: "Sequence[RocCurve]", names: "Sequence[str]", operating: tuple[float, float] | None) -> "Figure":
    """Draw receiver operating characteristics with their bands.

    Parameters
    ----------
    curves
        One for each class or strategy.
    names
        Their legends; a single curve needs none.
    operating
        False and true positive rate of the operating point, or None.
    """
    figure, axes = panel(HALF_WIDTH, _SQUARE)
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
    axes.text(0.60, 0.535, "guessing", color=MUTED, fontsize=7, rotation=45, ha="center", va="center")
    for index, (curve, name) in enumerate(zip(curves, names, strict=True)):
        line = pen(index)
        if curve.low and len(curves) <= MOST_BANDS:
            opacity = 0.18 if len(curves) == 1 else 0.10
            axes.fill_between(
                curve.false_positive_rate, curve.low, curve.high, color=line.colour, alpha=opacity, linewidth=0
            )
        axes.plot(
            curve.false_positive_rate, curve.true_positive_rate,
            color=line.colour, linestyle=line.line, label=drawable(name),
        )  # fmt: skip
    if operating is not None:
        axes.plot(*operating, marker="o", color="white", markeredgecolor=INK, markersize=7, markeredgewidth=1.4)
        axes.annotate(
            "operating point", operating, (operating[0] + 0.05, operating[1] - 0.08), color=INK, fontsize=7,
            ha="left", va="center",
        )  # fmt: skip
    unit_square(axes, "1 − specificity", "Sensitivity")
    if len(curves) > 1:
        axes.legend(loc="lower right")
    return figure


def draw_precision_recall(curves: "Sequence[PrecisionRecallCurve]", names: "Sequence[str]") -> "Figure":
    """Draw precision over recall with the level of guessing."""
    figure, axes = panel(HALF_WIDTH, _SQUARE)
    for index, (curve, name) in enumerate(zip(curves, names, strict=True)):
        line = pen(index)
        colour = MUTED if len(curves) == 1 else line.colour
        axes.axhline(curve.prevalence, color=colour, linewidth=0.8, linestyle=(0, (2, 2)))
        axes.plot(curve.recall, curve.precision, color=line.colour, linestyle=line.line, label=drawable(name))
    if len(curves) == 1:
        above = curves[0].prevalence < 0.85
        axes.text(
            0.0, curves[0].prevalence + (0.02 if above else -0.02), "guessing", color=MUTED, fontsize=7,
            va="bottom" if above else "top",
        )  # fmt: skip
    else:
        axes.legend(loc="lower left")
    unit_square(axes, "Recall (sensitivity)", "Precision (positive predictive value)")
    return figure


def draw_confusion(point: OperatingPoint, classes: "Sequence[str]") -> "Figure":
    """Draw the confusion matrix; the depth of a field is the share of its row."""
    from matplotlib.colors import LinearSegmentedColormap

    size = len(classes)
    side = min(HALF_WIDTH + 0.75 * max(0, size - 3), 6.9)
    figure, axes = panel(side, side * 0.86)
    colours = LinearSegmentedColormap.from_list("share", ["#f3f7fa", BLUE])
    for i, row in enumerate(point.confusion):
        for j, number in enumerate(row):
            _draw_field(axes, i, j, number, sum(row), colours)
    names = [_shortened(drawable(name)) for name in classes]
    axes.set_xticks(range(size), names, rotation=30 if size > 3 else 0, ha="right" if size > 3 else "center")
    axes.set_yticks(range(size), names, rotation=90 if size <= 3 else 0, va="center")
    axes.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5), xlabel="Called by the network", ylabel="Truth")
    axes.grid(visible=False)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure


def _draw_field(axes: "Axes", i: int, j: int, number: int, total: int, colours: "Colormap") -> None:
    from matplotlib.patches import Rectangle

    fraction = number / total if total else 0.0
    axes.add_patch(
        Rectangle((j - 0.5, i - 0.5), 1, 1, facecolor=colours(0.9 * fraction), edgecolor="white", linewidth=2.5)
    )
    ink = "white" if fraction > 0.55 else INK
    axes.text(j, i - 0.06, count(number), ha="center", va="center", fontsize=12, color=ink, fontweight="bold")
    axes.text(j, i + 0.2, percent(fraction, 0) if total else "", ha="center", va="center", fontsize=7.5, color=ink)


def draw_calibration(calibration: Calibration) -> "Figure":
    """Draw observed over predicted frequency, with intervals and the number of patients in each bin."""
    figure, axes = panel(HALF_WIDTH, _SQUARE)
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
    x = [item.predicted_mean for item in calibration.bins]
    y = [item.observed_fraction for item in calibration.bins]
    for item in calibration.bins:
        axes.plot([item.predicted_mean] * 2, [item.low, item.high], color=BLUE, linewidth=1.1, alpha=0.75)
    axes.plot(x, y, color=BLUE, marker="o", linewidth=1.2)
    unit_square(axes, "Predicted probability", "Observed frequency")
    return figure


def _shortened(text: str, longest: int = 22) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
