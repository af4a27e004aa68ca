"""Association of the class with something else than the image's content: a scanner, a site, a view."""

from collections.abc import Hashable, Sequence

import numpy as np


def cramers_v(first: Sequence[Hashable], second: Sequence[Hashable]) -> float | None:
    """Strength of association of two nominal variables, from 0 (none) to 1, corrected for chance.

    Cramér's V with Bergsma's bias correction (2013, doi:10.1016/j.jkss.2012.10.002).

    Parameters
    ----------
    first, second
        Values of the same units.

    Returns
    -------
    float or None
        None if either has fewer than two values, or there are too few units for a corrected value.

    Examples
    --------
    >>> cramers_v(["A", "B"] * 50, ["no", "yes"] * 50)
    1.0
    >>> cramers_v(["A", "A", "B", "B"] * 50, ["no", "yes"] * 100)
    0.0
    """
    rows = {value: number for number, value in enumerate(dict.fromkeys(first))}
    columns = {value: number for number, value in enumerate(dict.fromkeys(second))}
    units = len(first)
    if len(rows) < 2 or len(columns) < 2:
        return None
    table = np.zeros((len(rows), len(columns)))
    for one, other in zip(first, second, strict=True):
        table[rows[one], columns[other]] += 1
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / units
    freedom = (len(rows) - 1) * (len(columns) - 1)
    excess = max(0.0, float(((table - expected) ** 2 / expected).sum()) / units - freedom / (units - 1))
    corrected = min(size - (size - 1) ** 2 / (units - 1) - 1 for size in table.shape)
    return min(1.0, float(np.sqrt(excess / corrected))) if corrected > 0 else None
