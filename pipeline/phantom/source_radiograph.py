"""Source radiographs: an endless stream of labelled pictures to pre-train on, none of them of the built-in study.

A picture is named by the stream's seed, its index and a variant. Seed and index decide what is in it (one ground, any
number of findings), the variant everything else: two variants of an index share their labels and nothing more. The
streams of generators bear the word ``source`` where those of the built-in study bear ``phantom``, so that no seed of
the one is a seed of the other (`pipeline.core.seeding`).
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pipeline.core.seeding import derive_seed
from pipeline.phantom.anatomy import Field, single
from pipeline.phantom.source_anatomy import ANATOMIES, MADE_UP, place
from pipeline.phantom.source_findings import FINDINGS, add_finding
from pipeline.phantom.textures import TEXTURES, NoiseBank

Picture = npt.NDArray[np.uint8]
GROUNDS = (*ANATOMIES, *TEXTURES)
ANY = "any finding"
LABELS = (ANY, *FINDINGS, *GROUNDS)
_MADE_UP_SHARE = 0.4  # of the pictures with an anatomy show a made-up one, so that many grounds are seen
_CLEAN_SHARE = 0.4  # of the pictures show no finding; the others one to three
_TEXTURE_SHARE = 0.2  # of the pictures have a texture as ground
# Sizes in half fields of view and attenuations; wide, so that many are plain and some hardly show.
_DIAMETER, _DIAMETER_SPREAD, _DIAMETERS = 0.6, 0.40, (0.2, 1.3)
_CONTRAST, _CONTRAST_SPREAD, _CONTRASTS = 0.5, 0.45, (0.12, 1.2)
_CLUTTER = 0.3  # of the pictures have shadows across them that mean nothing
_TRIES = 6  # to place a finding on the body
_PERCENTILES = (0.005, 0.995)  # as the pipeline's own preprocessing


@dataclass(frozen=True)
class SourceScanner:
    """How a detector sees: ranges of blur (in 1/100 of the side), noise, sharpening and latitude; frame and pattern."""

    name: str
    blur: tuple[float, float]
    noise: tuple[float, float]
    sharpening: float
    latitude: tuple[float, float]
    has_round_field: bool = False
    has_grid: bool = False
    is_film: bool = False


SCANNERS: tuple[SourceScanner, ...] = (
    SourceScanner("film and screen", (0.5, 0.9), (0.01, 0.04), 0.0, (0.25, 0.40), is_film=True),
    SourceScanner("flat panel", (0.2, 0.5), (0.005, 0.03), 0.9, (0.35, 0.60)),
    SourceScanner("image intensifier", (0.6, 1.1), (0.02, 0.07), 0.4, (0.40, 0.70), has_round_field=True),
    SourceScanner("mobile unit with a grid", (0.4, 0.8), (0.02, 0.06), 0.2, (0.30, 0.50), has_grid=True),
    SourceScanner("soft-tissue unit", (0.2, 0.4), (0.005, 0.02), 0.5, (0.18, 0.28)),
)


@dataclass(frozen=True)
class SourceStream:
    """All pictures of one seed.

    Attributes
    ----------
    seed
        Of the stream.
    size
        Rows and columns in pixels.
    """

    seed: int
    size: int
    _bank: NoiseBank = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_bank", NoiseBank(self.seed))

    def labels(self, index: int) -> npt.NDArray[np.int64]:
        """Tell what picture `index` shows: 1 or 0 for each of `LABELS`, of which exactly one is a ground."""
        rng = np.random.default_rng(derive_seed(self.seed, "source", "labels", index))
        found = np.zeros(len(LABELS), np.int64)
        if rng.random() >= _CLEAN_SHARE:
            shown = rng.permutation(len(FINDINGS))[: int(rng.integers(1, 4))]
            found[0] = 1
            found[1 + shown] = 1
        ground = str(rng.choice([name for name in ANATOMIES if name != MADE_UP]))
        if rng.random() < _MADE_UP_SHARE:
            ground = MADE_UP
        if rng.random() < _TEXTURE_SHARE:
            ground = str(rng.choice(list(TEXTURES)))
        found[LABELS.index(ground)] = 1
        return found

    def picture(self, index: int, variant: int) -> Picture:
        """Draw a picture, shape (size, size), values 0 to 255; the same arguments give the same picture."""
        rng = np.random.default_rng(derive_seed(self.seed, "source", "picture", index, variant))
        shown = [name for name, present in zip(LABELS, self.labels(index), strict=True) if present]
        total = self._ground(rng, shown[-1])
        if rng.random() < _CLUTTER:
            _add_clutter(total, rng)
        for name in shown[1:-1]:
            diameter = _lognormal(rng, _DIAMETER, _DIAMETER_SPREAD, _DIAMETERS)
            contrast = _lognormal(rng, _CONTRAST, _CONTRAST_SPREAD, _CONTRASTS)
            add_finding(total, name, rng, _spot(rng, total), diameter, contrast, self._bank)
        return self._expose(rng, total)

    def _ground(self, rng: np.random.Generator, name: str) -> Field:
        """Attenuation without findings."""
        if name in TEXTURES:
            strength = np.float32(rng.uniform(0.3, 1.0))
            return 0.7 + strength * TEXTURES[name](rng, self.size, self._bank)
        x, y = place(rng, self.size)
        body = ANATOMIES[name](rng, x, y)
        inside = np.clip(body * 3, 0, 1)
        for strength in rng.uniform(0.0, 0.05, 2):
            body = body + np.float32(strength) * inside * self._bank.piece(rng, self.size)
        return single(body)

    def _expose(self, rng: np.random.Generator, attenuation: Field) -> Picture:
        """Take a picture with one of the scanners."""
        from scipy.ndimage import gaussian_filter

        scanner = SCANNERS[int(rng.integers(len(SCANNERS)))]
        line = np.linspace(-1, 1, self.size, dtype=np.float32)
        seen = gaussian_filter(attenuation, rng.uniform(*scanner.blur) * self.size / 100, truncate=3)
        grain = rng.standard_normal(seen.shape, dtype=np.float32)
        if scanner.is_film:
            grain = 0.6 * grain + 0.4 * self._bank.piece(rng, self.size, 0)
        seen = seen + np.float32(rng.uniform(*scanner.noise)) * np.exp(np.float32(0.4) * seen) * grain
        slope = rng.normal(0, 0.05, 2)
        seen += np.float32(slope[0]) * line[:, None] + np.float32(slope[1]) * line[None, :]
        if scanner.has_grid:
            seen += np.float32(0.02) * np.sin(line * np.float32(np.pi * rng.uniform(15, 35)))[:, None]
        if scanner.sharpening:
            seen += np.float32(scanner.sharpening) * (seen - gaussian_filter(seen, 0.012 * self.size, truncate=3))
        middle = np.float32(np.median(seen[::4, ::4]) + rng.normal(0, 0.12))
        value = 1 / (1 + np.exp((middle - seen) / np.float32(rng.uniform(*scanner.latitude))))
        if scanner.has_round_field:
            value[line[:, None] ** 2 + line[None, :] ** 2 > rng.uniform(1.0, 1.3)] = 0.02
        elif rng.random() < 0.3:
            _collimate(value, rng)
        return _stretched(value)


def _add_clutter(total: Field, rng: np.random.Generator) -> None:
    """Lay straight and bent shadows over a picture, in place: tubes, folds, edges of a table."""
    size = len(total)
    line = single((np.arange(size) + 0.5) / size * 2 - 1)
    for _ in range(int(rng.integers(1, 6))):
        turn, offset, bend = rng.uniform(0, np.pi), rng.uniform(-0.8, 0.8), rng.normal(0, 0.3)
        along = np.float32(np.cos(turn)) * line[None, :] + np.float32(np.sin(turn)) * line[:, None]
        across = np.float32(np.cos(turn)) * line[:, None] - np.float32(np.sin(turn)) * line[None, :]
        ratio = (
            (across - np.float32(offset) - np.float32(bend) * along * along) / np.float32(rng.uniform(0.02, 0.12))
        ) ** 2
        bar = np.sqrt(np.maximum(1 - ratio, 0))
        if rng.random() < 0.6:
            bar -= np.float32(0.6) * np.sqrt(np.maximum(np.float32(0.6) - ratio, 0))
        total += np.float32(rng.uniform(0.08, 0.3)) * bar


def _spot(rng: np.random.Generator, total: Field) -> tuple[float, float]:
    """Draw the centre of a finding, if possible where there is something in the beam's way."""
    size = len(total)
    x, y = 0.0, 0.0
    for _ in range(_TRIES):
        x, y = (float(at) for at in rng.uniform(-0.8, 0.8, 2))
        if total[int((y + 1) / 2 * size), int((x + 1) / 2 * size)] > 0.2:
            break
    return x, y


def _collimate(value: Field, rng: np.random.Generator) -> None:
    """Darken the borders, in place."""
    size = len(value)
    top, bottom, left, right = (int(edge) for edge in np.abs(rng.normal(0, 0.04, 4)) * size)
    for covered in (value[:top], value[size - bottom :], value[:, :left], value[:, size - right :]):
        covered[...] = 0.02


def _stretched(value: Field) -> Picture:
    """Spread the values between two percentiles over 0 to 255."""
    flat = value.ravel()
    places = [int(share * (flat.size - 1)) for share in _PERCENTILES]
    low, high = np.partition(flat, places)[places]
    scaled = (value - low) * np.float32(255 / max(float(high - low), 1e-6))
    return np.asarray(np.clip(np.rint(scaled), 0, 255), np.uint8)


def _lognormal(rng: np.random.Generator, median: float, spread: float, limits: tuple[float, float]) -> float:
    return float(np.clip(rng.lognormal(np.log(median), spread), *limits))
