"""Several findings at once: one small panel for each."""

import math
from typing import TYPE_CHECKING

from pipeline.core.results import Calibration, RocCurve
from pipeline.reporting.figures.style import BLUE, FULL_WIDTH, INK, MUTED, drawable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_PANELS = 24
_IN_A_ROW = 4
_SIDE = 1.8  # height of a panel with its title, inches
_LONGEST_TITLE = 24


def draw_roc_panels(curves: "Sequence[RocCurve]", points: "Sequence[tuple[float, float] | None]") -> "Figure":
    """Draw a receiver operating characteristic with its band for each finding.

    Parameters
    ----------
    curves
        One for each finding.
    points
        False and true positive rate at the operating point of each, or None.
    """
    figure, panels = _grid(len(curves), "1 − specificity", "Sensitivity")
    for axes, curve, point in zip(panels, curves, points, strict=True):
        _set_up(axes, curve.class_name)
        if curve.low:
            axes.fill_between(
                curve.false_positive_rate, curve.low, curve.high, color=BLUE, alpha=0.18, linewidth=0
            )  # fmt: skip
        axes.plot(curve.false_positive_rate, curve.true_positive_rate, color=BLUE, linewidth=1.3)
        if point is not None:
            axes.plot(*point, marker="o", color="white", markeredgecolor=INK, markersize=5, markeredgewidth=1.1)
    return figure


def draw_calibration_panels(found: "Sequence[Calibration]") -> "Figure":
    """Draw observed over predicted frequency, with intervals, for each finding."""
    figure, panels = _grid(len(found), "Predicted probability", "Observed frequency")
    for axes, item in zip(panels, found, strict=True):
        _set_up(axes, item.class_name)
        for part in item.bins:
            axes.plot([part.predicted_mean] * 2, [part.low, part.high], color=BLUE, linewidth=0.9, alpha=0.75)
        x, y = [part.predicted_mean for part in item.bins], [part.observed_fraction for part in item.bins]
        axes.plot(x, y, color=BLUE, marker="o", markersize=3, linewidth=1.0)
    return figure


def _grid(number: int, x_label: str, y_label: str) -> "tuple[Figure, list[Axes]]":
    from matplotlib.figure import Figure

    columns = min(_IN_A_ROW, number)
    rows = math.ceil(number / columns)
    figure = Figure(figsize=(FULL_WIDTH * max(columns, 2) / _IN_A_ROW, _SIDE * rows + 0.25))
    panels = [figure.add_subplot(rows, columns, place + 1) for place in range(number)]
    for place, axes in enumerate(panels):
        axes.tick_params(labelleft=place % columns == 0, labelbottom=place + columns >= number)
    figure.supxlabel(x_label, fontsize=8)
    figure.supylabel(y_label, fontsize=8)
    return figure, panels


def _set_up(axes: "Axes", title: str) -> None:
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.7, linestyle=(0, (2, 2)))
    shown = drawable(title)
    axes.set_title(shown if len(shown) <= _LONGEST_TITLE else f"{shown[: _LONGEST_TITLE - 1]}…", fontsize=7.5)
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
    axes.set_xticks([0, 0.5, 1])
    axes.set_yticks([0, 0.5, 1])
