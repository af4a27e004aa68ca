"""The flow of files, series and images through the study, as boxes."""

from typing import TYPE_CHECKING, NamedTuple

from pipeline.core.results import Evaluation
from pipeline.reporting import vocabulary
from pipeline.reporting.figures.style import BLUE, INK, MUTED, PALE, RULE, drawable
from pipeline.reporting.formatting import count, counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Points (1/72 inch).
_WIDTH = 420.0
_MAIN_LEFT, _MAIN_WIDTH, _MAIN_HEIGHT = 2.0, 176.0, 31.0
_SIDE_LEFT, _SIDE_WIDTH = 222.0, 196.0
_LINE, _PADDING, _GAP = 10.5, 6.0, 7.0
_MOST_REASONS = 4
_WIDEST_TEXT = 32  # characters of the main boxes' full size that fit


class Exclusion(NamedTuple):
    """What a step left out: the heading of its box and a line for each reason."""

    title: str
    reasons: tuple[str, ...]


def main_boxes(evaluation: Evaluation) -> list[tuple[str, str]]:
    """Give the title and the count of every box, from what was found to what was analysed."""
    first = evaluation.flow[0]
    boxes = [("Found", f"{count(first.entered)} {vocabulary.unit(first.unit, first.entered)}")]
    for step in evaluation.flow:
        text = f"{count(step.left)} {vocabulary.unit(step.unit, step.left)}"
        if step.produced_unit != step.unit:
            text += f", {count(step.produced)} {vocabulary.unit(step.produced_unit, step.produced)}"
        boxes.append((vocabulary.stage(step.stage).outcome, text))
    whole = next(row for row in evaluation.cohort if row.fold is None and row.label is None)
    title, text = boxes[-1]
    boxes[-1] = (title, f"{text}, {count(whole.patients)} {vocabulary.unit('patient', whole.patients)}")
    return boxes


def exclusions(evaluation: Evaluation) -> list[Exclusion | None]:
    """Give what each step left out, or None if nothing; the most frequent reasons stand first."""
    found: list[Exclusion | None] = []
    for step in evaluation.flow:
        items = [item for item in evaluation.findings if item.stage == step.stage and item.severity == "excluded"]
        items.sort(key=lambda item: (-item.count, item.code))
        lines = [f"{count(item.count)}  {vocabulary.reason(item.code)}" for item in items[:_MOST_REASONS]]
        rest = items[_MOST_REASONS:]
        if rest:
            lines.append(f"{count(sum(item.count for item in rest))}  {counted(len(rest), 'other reason')}")
        title = f"{count(step.excluded)} {vocabulary.unit(step.unit, step.excluded)} left out"
        found.append(Exclusion(title, tuple(lines)) if step.excluded else None)
    return found


def draw_flow(evaluation: Evaluation) -> "Figure":
    """Draw the boxes from top to bottom, what was left out at their right."""
    from matplotlib.figure import Figure

    boxes, sides = main_boxes(evaluation), exclusions(evaluation)
    gaps = [2.4 * _GAP if side is None else _side_height(side) + 2 * _GAP for side in sides]
    height = len(boxes) * _MAIN_HEIGHT + sum(gaps) + 2 * _PADDING
    figure = Figure(figsize=(_WIDTH / 72, height / 72))
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, _WIDTH), ylim=(height, 0))
    axes.set_axis_off()
    top = _PADDING
    for index, (title, text) in enumerate(boxes):
        is_last = index == len(boxes) - 1
        _draw_main(axes, top, title, text, is_last=is_last)
        if not is_last:
            below = top + _MAIN_HEIGHT
            _draw_step(axes, below, gaps[index], sides[index])
            top = below + gaps[index]
    return figure


def _side_height(side: Exclusion) -> float:
    return _LINE * (1 + len(side.reasons)) + 2 * _PADDING - 2


def _draw_main(axes: "Axes", top: float, title: str, text: str, *, is_last: bool) -> None:
    face, edge, ink = (BLUE, BLUE, "white") if is_last else ("white", BLUE, INK)
    _box(axes, _MAIN_LEFT, top, _MAIN_WIDTH, _MAIN_HEIGHT, face=face, edge=edge)
    middle = _MAIN_LEFT + _MAIN_WIDTH / 2
    axes.text(middle, top + 10, title, ha="center", va="center", color=ink, fontsize=7.5)
    size = min(8.0, 8.0 * _WIDEST_TEXT / len(text))
    axes.text(middle, top + 21.5, text, ha="center", va="center", color=ink, fontsize=size, fontweight="bold")


def _draw_step(axes: "Axes", top: float, gap: float, side: Exclusion | None) -> None:
    middle = _MAIN_LEFT + _MAIN_WIDTH / 2
    arrow = {"arrowstyle": "-|>,head_length=0.35,head_width=0.18", "color": MUTED, "linewidth": 0.9, "shrinkA": 0}
    axes.annotate("", (middle, top + gap), (middle, top), arrowprops={**arrow, "shrinkB": 0})
    if side is None:
        return
    axes.annotate("", (_SIDE_LEFT, top + gap / 2), (middle, top + gap / 2), arrowprops={**arrow, "shrinkB": 0})
    upper = top + _GAP
    _box(axes, _SIDE_LEFT, upper, _SIDE_WIDTH, _side_height(side), face=PALE, edge=RULE)
    for number, line in enumerate((side.title, *side.reasons)):
        y = upper + _PADDING + _LINE * (number + 0.45)
        weight, colour = ("bold", INK) if number == 0 else ("normal", MUTED)
        axes.text(
            _SIDE_LEFT + 9, y, drawable(line), ha="left", va="center", color=colour, fontsize=7.5, fontweight=weight
        )


def _box(axes: "Axes", left: float, top: float, width: float, height: float, *, face: str, edge: str) -> None:
    from matplotlib.patches import FancyBboxPatch

    shape = FancyBboxPatch(
        (left, top), width, height, boxstyle="round,pad=0,rounding_size=4", facecolor=face, edgecolor=edge, linewidth=1
    )
    axes.add_patch(shape)
