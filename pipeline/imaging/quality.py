"""Quality of one image: measured quantities and the reason codes that follow from them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

# The spread is measured between these percentiles, so that markers and dead pixels do not count.
_SPREAD_PERCENTILES = (5.0, 95.0)
# Pixels of radiographs are square or nearly so; a header that says otherwise by far is a mistake.
_LONGEST_PIXEL = 4.0


@dataclass(frozen=True)
class Limits:
    """What an image must keep to."""

    min_size: int  # pixels, rows and columns
    min_contrast: float  # fraction of the range used, 0 to 1
    max_saturated_fraction: float  # fraction of pixels, 0 to 1


@dataclass(frozen=True)
class Shortcoming:
    """A limit that was not kept: the reason code, the measured value, and whether the image is left out."""

    code: str
    severity: Literal["excluded", "noted"]
    value: float | None = None


def contrast(values: NDArray[Any]) -> float:
    """Measure the spread from the 5th to the 95th percentile as a fraction of the range used.

    Parameters
    ----------
    values
        Modality values of any shape, padding left out.

    Returns
    -------
    float
        0 (one value, or hardly more) to 1.
    """
    lowest, highest = float(values.min()), float(values.max())
    if lowest == highest:
        return 0.0
    # Differences of neighbours are taken in the type of the values: a narrow one would go round.
    wide = values.astype(np.int64) if np.issubdtype(values.dtype, np.integer) else values
    low, high = (float(value) for value in np.percentile(wide, _SPREAD_PERCENTILES))
    return (high - low) / (highest - lowest)


def saturated_fraction(values: NDArray[Any]) -> float:
    """Measure the fraction of pixels that stand at the lowest or at the highest value, whichever are more."""
    at_ends = max(np.count_nonzero(values == end) for end in (values.min(), values.max()))
    return at_ends / values.size


def check_matrix(shape: tuple[int, int], limits: Limits) -> list[Shortcoming]:
    """Check rows and columns; the value is the smaller of the two."""
    smaller = min(shape)
    return [Shortcoming("SMALL_MATRIX", "excluded", smaller)] if smaller < limits.min_size else []


def check_pixel_shape(spacing: tuple[float, float] | None) -> list[Shortcoming]:
    """Check the height and width of a pixel; the value is the larger one divided by the smaller."""
    ratio = max(spacing) / min(spacing) if spacing else 1.0
    return [Shortcoming("UNEVEN_PIXELS", "excluded", ratio)] if ratio > _LONGEST_PIXEL else []


def check_values(values: Iterable[NDArray[Any]], limits: Limits) -> list[Shortcoming]:
    """Check the values of an image, or of the slices of a volume.

    Parameters
    ----------
    values
        One array for each slice (one for an image), padding left out. Each is looked at once, so that a
        generator keeps only one slice in memory.
    limits
        What the values must keep to.

    Notes
    -----
    A volume counts as flat if its slice with the most contrast is flat (slices of air may be), and as
    saturated if its slices are on average.
    """
    contrasts, fractions = [], []
    for plane in values:
        contrasts.append(contrast(plane))
        fractions.append(saturated_fraction(plane))
    found = []
    if max(contrasts) < limits.min_contrast:
        found.append(Shortcoming("LOW_CONTRAST", "excluded", max(contrasts)))
    fraction = sum(fractions) / len(fractions)
    if fraction > limits.max_saturated_fraction:
        found.append(Shortcoming("SATURATED", "noted", fraction))
    return found
