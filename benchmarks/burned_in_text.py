"""How much burned-in text is seen, by size and contrast; how often text is seen where there is none; and the cost.

``python benchmarks/burned_in_text.py [--data DIR ...] [--pictures FILE.png]`` writes invented names and numbers into
phantoms of radiographs and CT slices, at random places over the anatomy, bright and dark, sharp and blurred, across
and upwards, in three fonts. ``--data`` counts what is seen in real files; ``--pictures`` draws it, because only a
person can tell lettering from a mistake.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib import get_data_path
from PIL import Image
from scipy.ndimage import zoom

from pipeline.dicom.decoding.pixels import PixelReadError, read_pixels
from pipeline.dicom.deidentification.burned_in import FEWEST_CHARACTERS, Screen
from pipeline.dicom.deidentification.text_detection import TextLine, displayed, text_lines
from pipeline.phantom.captions import Box, Caption, written
from pipeline.phantom.cohort import Order, write_cohort

HEIGHTS = (6, 8, 10, 12, 16, 20, 24, 32, 40)
CONTRASTS = (0.1, 0.2, 0.3, 0.5, 0.8)
BLURS = (0.0, 0.0, 0.5, 1.0)
NAMES = ("MILLER", "Okafor", "GARCIA", "Nguyen", "SCHMIDT", "Kowalski", "ROSSI", "Haddad")
FONTS = (
    None,
    *(Path(get_data_path()) / "fonts" / "ttf" / name for name in ("DejaVuSans-Bold.ttf", "DejaVuSansMono.ttf")),
)
TOLERATED = Screen().tolerated_characters
SIDE = 512


def main() -> None:
    """Print the tables and one line for each target."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, nargs="*", default=[], help="folders of DICOM files")
    parser.add_argument("--pictures", type=Path, help="where to draw what is seen in them")
    parser.add_argument("--repeats", type=int, default=32, help="texts for each size and contrast")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="text-benchmark-") as folder:
        radiographs = list(_phantoms(Path(folder) / "r", "radiograph", SIDE))
        slices = [zoom(one, 4, order=1) for one in _phantoms(Path(folder) / "v", "volume", 256)]
    print(f"{len(radiographs)} phantom radiographs of {SIDE} x {SIDE} pixels, {len(slices)} phantom slices")
    chosen = [one for pair in zip(radiographs[:12], slices[:: max(1, len(slices) // 12)], strict=False) for one in pair]
    trials = list(_trials(chosen, options.repeats))
    _print_tables(trials)
    _target("text_recall_readable", _readable(trials), 0.95, at_least=True)
    seen = [_characters(text_lines(one)) for one in (*radiographs, *slices)]
    mistaken = sum(one >= FEWEST_CHARACTERS for one in seen) / len(seen)
    _target("text_false_positives_per_image", mistaken, 0.02, at_least=False)
    _target("text_milliseconds_512", _milliseconds(radiographs), 30, at_least=False)
    for data in options.data:
        _real(data, options.pictures)


def _phantoms(folder: Path, kind: str, size: int) -> Iterator[np.ndarray]:
    manifest = write_cohort(Order(kind, patients=20, prevalence=0.3, size=size, seed=7), folder)
    for file in manifest.accepted()[:: 1 if kind == "radiograph" else 9]:
        yield read_pixels(folder / "dicom" / file.path).values


class Trial(NamedTuple):
    """A text that was written into a picture, and how many characters were seen of it: of one line, and of two."""

    caption: Caption
    number: int
    one_line: int
    two_lines: int

    @property
    def is_seen(self) -> bool:
        """Whether one line is text to the detector."""
        return self.one_line >= FEWEST_CHARACTERS

    @property
    def is_long(self) -> bool:
        """Whether two lines are more than is tolerated."""
        return self.two_lines > TOLERATED


def _trials(pictures: Sequence[np.ndarray], repeats: int) -> Iterator[Trial]:
    for height, contrast, number in product(HEIGHTS, CONTRASTS, range(repeats)):
        caption = _caption(height, contrast, number)
        longer = replace(caption, text=f"{caption.text}\n{71_000_000 + 977 * number} F 19480229")
        picture = pictures[number % len(pictures)]
        yield Trial(caption, number, _found(picture, caption), _found(picture, longer))


def _print_tables(trials: Sequence[Trial]) -> None:
    for name, attribute in (("one line, seen", "is_seen"), ("two lines, seen to be long", "is_long")):
        print(f"\n| {name}: height | " + " | ".join(f"contrast {one}" for one in CONTRASTS) + " |")
        print("|---" * (len(CONTRASTS) + 1) + "|")
        for height in HEIGHTS:
            cells = [
                np.mean(
                    [getattr(t, attribute) for t in trials if (t.caption.height, t.caption.contrast) == (height, c)]
                )
                for c in CONTRASTS
            ]
            print(f"| {height} px | " + " | ".join(f"{value:.2f}" for value in cells) + " |")
    parts: dict[str, list[bool]] = {}
    for trial in trials:
        if trial.caption.height >= 8 and trial.caption.contrast >= 0.2:
            for part in _parts(trial.caption, trial.number):
                parts.setdefault(part, []).append(trial.is_seen)
    print("\n| one line of 8 px or more and a contrast of 0.2 or more | seen |\n|---|---|")
    for part, values in sorted(parts.items()):
        print(f"| {part} | {np.mean(values):.2f} |")


def _readable(trials: Sequence[Trial]) -> float:
    """Give the recall of sharp text of 10 pixels or more and a contrast of 0.5 or more.

    Over anatomy a text of less contrast vanishes in places, for the eye too.
    """
    chosen = [t for t in trials if t.caption.blur == 0 and t.caption.height >= 10 and t.caption.contrast >= 0.5]
    return float(np.mean([trial.is_seen for trial in chosen]))


def _caption(height: int, contrast: float, number: int) -> Caption:
    random = np.random.default_rng([height, round(100 * contrast), number])
    return Caption(
        text=f"{NAMES[number % len(NAMES)]} {random.integers(10_000, 99_999)} M",
        height=height,
        contrast=contrast,
        is_bright=number % 2 == 0,
        place=(float(random.random()), float(random.random())),
        blur=BLURS[number // 2 % len(BLURS)],
        is_turned=number % 3 == 2,
        font=FONTS[number // 3 % len(FONTS)],
    )


def _parts(caption: Caption, number: int) -> Iterator[str]:
    yield f"blur {caption.blur} px"
    yield "upwards" if caption.is_turned else "across"
    yield "bright" if caption.is_bright else "dark"
    yield "over a radiograph" if number % 2 == 0 else "over a slice"


def _found(picture: np.ndarray, caption: Caption) -> int:
    """Count the characters seen where a caption was written."""
    with_text, box = written(picture, caption)
    return _characters([line for line in text_lines(with_text) if _meets(line, box)])


def _meets(line: TextLine, box: Box) -> bool:
    return (
        line.top < box.bottom
        and line.left < box.right
        and line.top + line.rows > box.top
        and line.left + line.columns > box.left
    )


def _characters(lines: Sequence[TextLine]) -> int:
    return sum(line.characters for line in lines)


def _milliseconds(pictures: Sequence[np.ndarray]) -> float:
    """Measure processor time for one picture, the median."""
    text_lines(pictures[0])
    spent = []
    for picture in pictures:
        start = time.process_time()
        text_lines(picture)
        spent.append(1000 * (time.process_time() - start))
    return float(np.median(spent))


def _real(folder: Path, pictures: Path | None) -> None:
    """Count what is seen in the files of a folder, and draw it."""
    counts, tiles = [], []
    for path in sorted(one for one in folder.rglob("*") if one.is_file()):
        try:
            values = read_pixels(path).values
        except PixelReadError:
            continue
        lines = text_lines(values)
        counts.append(_characters(lines))
        if counts[-1] >= FEWEST_CHARACTERS and pictures:
            tiles.append(_tile(values, max(lines, key=lambda line: line.characters)))
    noted = sum(FEWEST_CHARACTERS <= one <= TOLERATED for one in counts)
    print(f"{folder.name}: {len(counts)} images, {noted} noted, {sum(one > TOLERATED for one in counts)} kept out")
    if tiles and pictures:
        tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % 8)
        sheet = np.vstack([np.hstack(tiles[at : at + 8]) for at in range(0, len(tiles), 8)])
        Image.fromarray(sheet).save(pictures.with_stem(f"{pictures.stem}-{folder.name}"))


def _tile(values: np.ndarray, line: TextLine) -> np.ndarray:
    side = max(line.rows, line.columns) + 8
    shown = np.pad(displayed(values), side)
    top, left = line.top + side + line.rows // 2 - side // 2, line.left + side + line.columns // 2 - side // 2
    return np.asarray(
        Image.fromarray(shown[top : top + side, left : left + side]).resize((150, 150), Image.Resampling.NEAREST)
    )


def _target(name: str, measured: float, wanted: float, *, at_least: bool) -> None:
    is_met = measured >= wanted if at_least else measured <= wanted
    wish = f"{'>=' if at_least else '<='}{wanted}"
    print(f"target {name} measured {measured:.3f} wanted {wish} {'ok' if is_met else 'short'}")


if __name__ == "__main__":
    main()
