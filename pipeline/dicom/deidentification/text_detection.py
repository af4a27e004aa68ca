"""Text detection: lines of characters that somebody burned into a picture, found without reading them.

Characters are thin, sharp, of one brightness and of one height, and stand in a row. Thin structures are found by
morphological top-hats (brighter or darker than what surrounds them), divided into connected components, chained into
horizontal or vertical lines, and each chain is scored by how much it is like writing. Nothing is recognised: no
character, no word ever exists here. `docs/burned-in-text.md` says how many lines are found, and how often there is none
where one is seen.

References
----------
Epshtein B, Ofek E, Wexler Y. Detecting text in natural scenes with stroke width transform. CVPR 2010.
doi:10.1109/CVPR.2010.5540041 (components of one stroke width, chained by height and distance); Soille P.
Morphological Image Analysis, 2nd ed. Springer 2004, section 4.5 (top-hats).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

_SCALES = (1, 2, 4)  # pixels to a side of a pixel
# Strokes are thinner than this, in pixels of the scale; characters up to five times as high as wide strokes.
_STROKE = 5
_NEIGHBOURHOOD = 9  # in which the strongest contrast decides what is ink
_LOWEST_CONTRAST = 18  # of 255, whatever the noise
_NOISES = 5.0  # contrast in multiples of the usual top-hat of the picture
_SURELY = 0.6  # of the contrast from which something may be ink; and of the strongest contrast near by, half
_BLOCK = 1 << 14  # pixels
_LOWEST, _HIGHEST = 4, 26  # characters, in pixels of the scale
_LOWEST_AT_OTHER_SCALES = 9  # lower ones have been looked for at the scale before
_MOST_COMPONENTS = 400  # in one pass: those of the strongest contrast
_SMALLEST_PICTURE = 16  # rows and columns
_COUNTABLE = tuple(map(np.dtype, ("u1", "i1", "u2", "i2")))  # few enough values to count
_FEWEST_IN_LINE = 3  # characters
# Weights and threshold of a chain: fitted by logistic regression to text burned into phantoms against chains in
# radiographs, MR and CT without text, then rounded (decision 0026).
_MOST_COUNTED = 8
_THRESHOLD = 4.5
_WORST_CLUTTER = 0.35  # contrast of what is around a line, as a fraction of the line's


@dataclass(frozen=True)
class TextLine:
    """Where a line of characters is suspected, in pixels of the picture, and about how many characters it has."""

    top: int
    left: int
    rows: int
    columns: int
    characters: int


class _Components(NamedTuple):
    """One number for each component; lengths in pixels."""

    top: Floats
    bottom: Floats
    left: Floats
    right: Floats
    area: Floats
    peak: Floats  # largest contrast
    ink: Floats  # mean brightness
    spread: Floats  # of the brightness, standard deviation
    step: Floats  # mean change of brightness at its edges
    runs_across: Floats  # strokes that a row crosses, on average
    runs_down: Floats

    def turned(self) -> "_Components":
        """Swap rows and columns."""
        return self._replace(
            top=self.left,
            bottom=self.right,
            left=self.top,
            right=self.bottom,
            runs_across=self.runs_down,
            runs_down=self.runs_across,
        )

    def chosen(self, which: NDArray[Any]) -> "_Components":
        """Take some components."""
        return _Components(*(values[which] for values in self))


def text_lines(picture: NDArray[Any]) -> list[TextLine]:
    """Find lines of text in a grey picture.

    Parameters
    ----------
    picture
        Shape (rows, columns), any numbers; bright or dark text alike.

    Returns
    -------
    list
        From top to bottom. One line may be found in pieces; of lines that mostly cover one another, the longest.
    """
    shown = displayed(picture)
    found = []
    for scale in _SCALES:
        if min(shown.shape) < _SMALLEST_PICTURE:
            break
        for bright in (shown, 255 - shown):
            for line in _lines_of(bright, _LOWEST if scale == 1 else _LOWEST_AT_OTHER_SCALES):
                top, left, rows, columns = (scale * n for n in (line.top, line.left, line.rows, line.columns))
                found.append(TextLine(top, left, rows, columns, line.characters))
        shown = _halved(shown)
    return _without_repetitions(found)


def _without_repetitions(found: list[TextLine]) -> list[TextLine]:
    """Keep one of those that were found several times (at both scales, as the gaps between bright strokes)."""
    kept: list[TextLine] = []
    for line in sorted(found, key=lambda one: (-one.characters, one.top, one.left, one.rows, one.columns)):
        if not any(2 * _overlap(line, other) > line.rows * line.columns for other in kept):
            kept.append(line)
    return sorted(kept, key=lambda one: (one.top, one.left, one.rows, one.columns))


def _overlap(one: TextLine, other: TextLine) -> int:
    rows = min(one.top + one.rows, other.top + other.rows) - max(one.top, other.top)
    columns = min(one.left + one.columns, other.left + other.columns) - max(one.left, other.left)
    return max(rows, 0) * max(columns, 0)


def displayed(picture: NDArray[Any]) -> Bytes:
    """Map a picture to 0 to 255 between the percentiles 0.5 and 99.5 of a sample of its pixels."""
    steps = tuple(max(1, length // 256) for length in picture.shape)
    sample = picture[:: steps[0], :: steps[1]]
    is_countable = picture.dtype in _COUNTABLE
    low, high = _percentiles(sample, (0.5, 99.5)) if is_countable else np.percentile(sample, (0.5, 99.5))
    if high <= low:  # hardly anything but background
        low, high = float(picture.min()), float(picture.max())
    if high <= low:
        return np.zeros(picture.shape, dtype=np.uint8)
    shown = np.empty(picture.shape, dtype=np.uint8)
    rows = max(1, _BLOCK // picture.shape[1])
    for top in range(0, len(picture), rows):  # in blocks that stay in the processor's cache
        values = picture[top : top + rows].astype(np.float32)
        values -= np.float32(low)
        values *= np.float32(255 / (high - low))
        shown[top : top + rows] = np.clip(values, 0, 255, out=values)
    return shown


def _percentiles(values: NDArray[np.integer], percents: tuple[float, ...]) -> list[float]:
    """Give the same as `numpy.percentile`, by counting: fast where there are few different values."""
    low = int(values.min())
    reached = np.cumsum(np.bincount((values.astype(np.intp) - low).ravel()))
    found = []
    for percent in percents:
        place = percent / 100 * (values.size - 1)
        before = int(place)
        first, second = low + np.searchsorted(reached, (before, min(before + 1, values.size - 1)), side="right")
        part = place - before
        # The end that is nearer is what numpy interpolates from.
        found.append(float(first + (second - first) * part if part < 0.5 else second - (second - first) * (1 - part)))
    return found


def _halved(picture: Bytes) -> Bytes:
    rows, columns = (length // 2 * 2 for length in picture.shape)
    even = picture[:rows:2, :columns].astype(np.uint16)
    even += picture[1:rows:2, :columns]
    summed = even[:, ::2] + even[:, 1::2]
    summed += 2
    summed >>= 2
    return summed.astype(np.uint8)


def _lines_of(picture: Bytes, lowest: int) -> Iterator[TextLine]:
    """Find bright lines at one scale."""
    opened = _extreme(_extreme(picture, _STROKE, np.minimum), _STROKE, np.maximum)
    contrast = picture - np.minimum(opened, picture)
    least = _least_contrast(contrast)
    if np.count_nonzero(contrast > least) < _FEWEST_IN_LINE:
        return
    components = _components(picture, contrast, least)
    for is_turned in (False, True):
        plane = contrast.T if is_turned else contrast
        for line in _chains(components.turned() if is_turned else components, plane, lowest):
            yield TextLine(line.left, line.top, line.columns, line.rows, line.characters) if is_turned else line


def _extreme(picture: Bytes, width: int, choose: "np.ufunc") -> Bytes:
    """Take the minimum or maximum in a square window, by doubling its width; borders repeat."""
    before = width // 2
    rows, columns = picture.shape
    found = np.empty((rows + width - 1, columns + width - 1), dtype=picture.dtype)
    found[before : before + rows, before : before + columns] = picture
    found[:before, before : before + columns] = picture[0]
    found[before + rows :, before : before + columns] = picture[-1]
    found[:, :before] = found[:, before, None]
    found[:, before + columns :] = found[:, before + columns - 1, None]
    reach = 1
    while reach < width:
        step = min(reach, width - reach)
        found = choose(found[:-step], found[step:])
        reach += step
    reach = 1
    while reach < width:
        step = min(reach, width - reach)
        found = choose(found[:, :-step], found[:, step:])
        reach += step
    return found


def _least_contrast(contrast: Bytes) -> float:
    """Choose the contrast from which something may be ink, by what is usual in the picture."""
    usual, more = _percentiles(contrast[::3, ::3], (50, 75))
    return max(_LOWEST_CONTRAST, _NOISES * usual, _NOISES * more / 1.6)


def _components(picture: Bytes, contrast: Bytes, least: float) -> _Components:
    """Divide ink into connected components and measure them."""
    from scipy import ndimage

    near = _extreme(contrast, _NEIGHBOURHOOD, np.maximum)
    # Whole numbers against whole numbers: comparing with fractions would make large arrays of fractions.
    ink = contrast >= np.uint8(math.ceil(_SURELY * least))
    ink &= contrast >= near - (near >> 1)
    ink &= near > np.uint8(least)
    labels, count = ndimage.label(ink, np.ones((3, 3), dtype=np.int8))
    places = np.flatnonzero(labels)
    label = labels.ravel()[places] - 1
    order = np.argsort(label, kind="stable")
    places, label = places[order], label[order]
    rows, columns = np.divmod(places, picture.shape[1])
    area = np.bincount(label, minlength=count)
    starts = np.concatenate([[0], np.cumsum(area)[:-1]])
    strength = contrast.ravel()[places].astype(np.float32)
    light = picture.ravel()[places].astype(np.float32)
    weight = np.bincount(label, strength, minlength=count)
    mean = np.bincount(label, strength * light, minlength=count) / weight
    square = np.bincount(label, strength * light * light, minlength=count) / weight
    top, left = np.minimum.reduceat(rows, starts), np.minimum.reduceat(columns, starts)
    bottom, right = np.maximum.reduceat(rows, starts) + 1, np.maximum.reduceat(columns, starts) + 1
    across, step_across = _edges(ink, picture, places, columns > 0, 1)
    down, step_down = _edges(ink, picture, places, rows > 0, picture.shape[1])
    edges = np.bincount(label, across, minlength=count), np.bincount(label, down, minlength=count)
    steps = np.bincount(label, step_across + step_down, minlength=count) / np.maximum(edges[0] + edges[1], 1)
    measured = _Components(
        top=top.astype(np.float32),
        bottom=bottom.astype(np.float32),
        left=left.astype(np.float32),
        right=right.astype(np.float32),
        area=area.astype(np.float32),
        peak=np.maximum.reduceat(strength, starts),
        ink=mean.astype(np.float32),
        spread=np.sqrt(np.maximum(square - mean**2, 0)).astype(np.float32),
        step=steps.astype(np.float32),
        runs_across=(edges[0] / (bottom - top)).astype(np.float32),
        runs_down=(edges[1] / (right - left)).astype(np.float32),
    )
    return measured.chosen(measured.peak > least)


def _edges(
    ink: NDArray[np.bool_], picture: Bytes, places: NDArray[Any], has_before: NDArray[np.bool_], stride: int
) -> tuple[NDArray[np.bool_], Floats]:
    """Tell which pixels of ink begin a stroke in one direction, and how much brighter they are than the one before."""
    before = np.where(has_before, places - stride, places)
    begins = ~ink.ravel()[before] | ~has_before
    step = picture.ravel()[places].astype(np.float32) - picture.ravel()[before]
    return begins, step * begins


def _chains(found: _Components, contrast: Bytes, lowest: int) -> Iterator[TextLine]:
    """Chain components that stand in a row, and give the chains that are like writing."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    chosen = found.chosen(_may_be_characters(found))
    if len(chosen.peak) > _MOST_COMPONENTS:
        chosen = chosen.chosen(np.sort(np.argsort(-chosen.peak, kind="stable")[:_MOST_COMPONENTS]))
    count = len(chosen.peak)
    if count == 0:
        return
    characters = _characters(chosen)
    first, second = _neighbours(chosen)
    links = coo_array((np.ones(len(first), dtype=bool), (first, second)), shape=(count, count))
    chains, chain = connected_components(links, directed=False)
    total = np.bincount(chain, characters, minlength=chains)
    for number in np.flatnonzero(total >= _FEWEST_IN_LINE):
        members = chosen.chosen(chain == number)
        line = _line(members, float(total[number]), contrast)
        if line is not None and np.median(members.bottom - members.top) >= lowest:
            yield line


def _may_be_characters(found: _Components) -> NDArray[np.bool_]:
    """Choose components by their shape: a character, or several that touch one another."""
    height, width = found.bottom - found.top, found.right - found.left
    fill = found.area / (height * width)
    is_one = (fill >= 0.16) & (found.runs_across <= 4) & (found.runs_down <= 4)
    is_word = (
        (found.runs_across >= 0.75 * width / height)
        & (found.runs_down >= 1.15)
        & (found.runs_down <= 4)
        & (width < 40 * height)
    )
    is_of_size = (height >= _LOWEST) & (height <= _HIGHEST) & (found.area >= np.maximum(5, 0.9 * height))
    fits: NDArray[np.bool_] = is_of_size & np.where(_is_single(found), is_one, is_word)
    return fits


def _is_single(found: _Components) -> NDArray[np.bool_]:
    return found.right - found.left <= 1.5 * (found.bottom - found.top) + 1


def _characters(found: _Components) -> Floats:
    """Guess how many characters a component has: they cross a row with about one and a half strokes each."""
    height, width = found.bottom - found.top, found.right - found.left
    guessed = np.maximum(found.runs_across / 1.5, width / (1.1 * height))
    return np.where(_is_single(found), 1, guessed).astype(np.float32)


def _neighbours(found: _Components) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Give the pairs of which the second follows the first in a line."""
    height = found.bottom - found.top
    # Most pairs are too far apart for any height: they are left out by two comparisons.
    reach, rise = height.max() + 1, max(1, 0.22 * height.max())
    gap = found.left - found.right[:, None]
    near = (gap <= reach) & (gap >= -0.25 * reach) & (np.abs(found.bottom - found.bottom[:, None]) <= rise)
    first, second = np.nonzero(near)
    one, other = found.chosen(first), found.chosen(second)
    higher, lower = np.maximum(height[first], height[second]), np.minimum(height[first], height[second])
    gap = other.left - one.right
    peak = np.maximum(one.peak, other.peak)
    linked: NDArray[np.bool_] = (
        (other.left > one.left)
        & (gap >= -0.25 * lower)
        & (gap <= higher + 1)
        & (np.abs(one.bottom - other.bottom) <= np.maximum(1, 0.22 * higher))
        & (higher <= 1.6 * lower + 1)
        & (np.abs(one.peak - other.peak) <= 0.45 * peak)
        & (np.abs(one.ink - other.ink) <= 90)
    )
    return first[linked], second[linked]


def _line(members: _Components, characters: float, contrast: Bytes) -> TextLine | None:
    """Give the line that a chain forms, if it is like writing."""
    top, left = int(members.top.min()), int(members.left.min())
    rows, columns = int(members.bottom.max()) - top, int(members.right.max()) - left
    heights, widths = members.bottom - members.top, members.right - members.left
    height = float(np.median(heights))
    if rows > 1.9 * height + 1 or columns < 1.6 * height or widths.sum() < 0.4 * columns:
        return None
    if not 0.12 <= members.area.sum() / (columns * height) <= 0.8:
        return None
    if members.runs_across.sum() * height < 0.9 * columns:  # fewer strokes than characters have
        return None
    peak = float(np.average(members.peak, weights=widths))
    if _clutter(contrast, top, left, rows, columns, round(height / 2)) > _WORST_CLUTTER * peak:
        return None
    score = (
        min(characters, _MOST_COUNTED)
        - 6 * min(float(np.average(members.spread, weights=members.area)) / peak, 0.5)
        - 4 * min(float(members.ink.std()) / peak, 1)
        - 5 * float(heights.std()) / height
        + 2 * float(np.log(peak / 60))
        + 4 * float(np.average(members.step, weights=members.area)) / peak
    )
    return TextLine(top, left, rows, columns, round(characters)) if score >= _THRESHOLD else None


def _clutter(contrast: Bytes, top: int, left: int, rows: int, columns: int, margin: int) -> float:
    """Measure the contrast of what lies just above and below a line; the clearer side counts."""
    margin = max(margin, 2)
    sides = [contrast[max(0, top - 1 - margin) : max(0, top - 1), left : left + columns]]
    sides.append(contrast[top + rows + 1 : top + rows + 1 + margin, left : left + columns])
    return min((float(np.percentile(side, 90)) for side in sides if side.size), default=0.0)
