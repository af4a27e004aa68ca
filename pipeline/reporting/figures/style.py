"""The look of all figures, and how a figure becomes bytes that are the same each time."""

import io
import unicodedata
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by people with any common colour vision (https://jfly.uni-koeln.de/color/),
# without yellow, which is too faint on white.
BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION, BLACK = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000",
)  # fmt: skip
INK, MUTED, RULE, PALE = "#1d2a36", "#5b6875", "#cdd5dc", "#f3f6f8"
HALF_WIDTH, FULL_WIDTH = 3.35, 6.9  # inches
MISSING_CHARACTER = "□"
_PNG_DPI = 200
_STYLE: dict[str, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 8,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.labelsize": 8,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e6ebef",
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7.5,
    "legend.frameon": True,
    "legend.facecolor": "white",
    "legend.edgecolor": "none",
    "legend.framealpha": 0.85,
    "legend.handlelength": 2.2,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "text.parse_math": False,  # a dollar sign in a class name is a dollar sign
    "svg.fonttype": "path",  # looks the same where the font is absent
    "svg.hashsalt": "report",  # names of clip paths, otherwise random
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
}


class Pen(NamedTuple):
    """Colour, marker and line of one series of values: never told apart by colour alone."""

    colour: str
    marker: str
    line: Any


PENS = (
    Pen(BLUE, "o", "-"),
    Pen(VERMILION, "s", (0, (5, 1.5))),
    Pen(GREEN, "^", (0, (3, 1, 1, 1))),
    Pen(PURPLE, "D", (0, (1, 1))),
    Pen(ORANGE, "v", (0, (7, 1.5, 1, 1.5))),
    Pen(SKY, "P", (0, (4, 1, 1, 1, 1, 1))),
    Pen(BLACK, "X", (0, (2, 1))),
)


class Picture(NamedTuple):
    """A figure as bytes, and its size in points (1/72 inch)."""

    svg: bytes
    png: bytes
    width: float
    height: float


def pen(index: int) -> Pen:
    """Give the pen of a series; they repeat after seven."""
    return PENS[index % len(PENS)]


def font_folder() -> Path:
    """Folder with the fonts that come with matplotlib, so that all documents look alike everywhere."""
    import matplotlib as mpl

    return Path(mpl.get_data_path()) / "fonts" / "ttf"


def drawable(text: str) -> str:
    """Replace characters that the fonts at hand lack, as the PDF and the figures cannot show them.

    Examples
    --------
    >>> drawable("Lungenentzündung ≥ 1"), drawable("肺炎")
    ('Lungenentzündung ≥ 1', '□□')
    """
    known = _characters()
    return "".join(
        c if ord(c) in known or c in "\n\t" else MISSING_CHARACTER for c in unicodedata.normalize("NFC", text)
    )


def paint(draw: Callable[[], "Figure"]) -> Picture:
    """Draw a figure in the style of the report, as SVG and PNG without dates and versions."""
    from matplotlib import rc_context, rcdefaults, rcParams

    with rc_context():
        rcdefaults()  # a reader's own matplotlibrc must not change the report
        rcParams.update(_STYLE)
        figure = draw()
        svg, png = io.BytesIO(), io.BytesIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(svg, format="svg", metadata=nothing)
        figure.savefig(png, format="png", dpi=_PNG_DPI, metadata={"Software": None})
        width, height = (72 * float(side) for side in figure.get_size_inches())
    return Picture(svg.getvalue(), png.getvalue(), width, height)


def panel(width: float, height: float) -> "tuple[Figure, Axes]":
    """Make a figure with one pair of axes; sizes in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    return figure, figure.add_subplot()


def unit_square(axes: "Axes", x_label: str, y_label: str) -> None:
    """Set up axes from 0 to 1 in both directions."""
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal", xlabel=x_label, ylabel=y_label)
    ticks = [0, 0.2, 0.4, 0.6, 0.8, 1]
    axes.set_xticks(ticks)
    axes.set_yticks(ticks)


@cache
def _characters() -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    found = FT2Font(str(font_folder() / "DejaVuSans.ttf")).get_charmap()
    # PDF/A allows no character without a meaning of its own (private use, unassigned).
    return frozenset(code for code in found if unicodedata.category(chr(code)) not in {"Co", "Cn", "Cs", "Cc"})
