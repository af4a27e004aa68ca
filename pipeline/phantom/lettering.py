"""Lettering: a small bitmap font for side markers and for text burned into pixels."""

import numpy as np
import numpy.typing as npt

# Seven rows of five dots, top to bottom; the font holds only what the phantom writes.
_FONT: dict[str, str] = {
    "A": "01110 10001 10001 11111 10001 10001 10001",
    "C": "01111 10000 10000 10000 10000 10000 01111",
    "L": "10000 10000 10000 10000 10000 10000 11111",
    "N": "10001 11001 10101 10101 10011 10001 10001",
    "R": "11110 10001 10001 11110 10100 10010 10001",
    "Y": "10001 10001 01010 00100 00100 00100 00100",
    "0": "01110 10001 10011 10101 11001 10001 01110",
    "1": "00100 01100 00100 00100 00100 00100 01110",
    "2": "01110 10001 00001 00110 01000 10000 11111",
    "3": "11110 00001 00001 01110 00001 00001 11110",
    "4": "00010 00110 01010 10010 11111 00010 00010",
    "5": "11111 10000 11110 00001 00001 10001 01110",
    "6": "01110 10000 11110 10001 10001 10001 01110",
    "7": "11111 00001 00010 00100 01000 01000 01000",
    "8": "01110 10001 10001 01110 10001 10001 01110",
    "9": "01110 10001 10001 01111 00001 00001 01110",
    " ": "00000 00000 00000 00000 00000 00000 00000",
}


def letters(text: str) -> npt.NDArray[np.bool_]:
    """Draw a text, one dot a pixel.

    Returns
    -------
    numpy.ndarray
        Shape (7, 6 * length - 1), true where there is ink.

    Raises
    ------
    KeyError
        For a character the font does not hold.

    Examples
    --------
    >>> letters("L").sum()
    np.int64(11)
    """
    glyphs = []
    for character in text:
        rows = [[dot == "1" for dot in row] + [False] for row in _FONT[character].split()]
        glyphs.append(np.array(rows))
    return np.concatenate(glyphs, axis=1)[:, :-1]
