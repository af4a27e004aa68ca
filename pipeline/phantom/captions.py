"""Captions: text written into pictures as devices do it, of known size, contrast and place, to measure detectors by."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter, ImageFont

_MARGIN = 2  # pixels around the letters
_FIRST_GUESS = 100  # points, to find out how high a font's letters are


class Box(NamedTuple):
    """Pixels of a picture: the first row and column, and those behind the last."""

    top: int
    left: int
    bottom: int
    right: int


@dataclass(frozen=True)
class Caption:
    """A text and how it is written.

    Attributes
    ----------
    text
        Lines are divided by line feeds.
    height
        Of a capital letter, in pixels.
    contrast
        Difference from the mean of what is below, as a fraction of the picture's range (percentiles 0.5 to 99.5).
    is_bright
        Brighter than what is below, or darker. What would leave the range by far is written the other way.
    place
        Where its upper left corner lies, as fractions of the room there is for it (0 to 1).
    blur
        Standard deviation of a Gaussian, in pixels.
    is_turned
        Whether it runs upwards.
    font
        A font file; None for the one that Pillow brings with it.
    """

    text: str
    height: int
    contrast: float
    is_bright: bool = True
    place: tuple[float, float] = (0.0, 0.0)
    blur: float = 0.0
    is_turned: bool = False
    font: Path | None = None


def written(picture: npt.NDArray[Any], caption: Caption) -> tuple[npt.NDArray[np.uint16], Box]:
    """Write a caption into a grey picture.

    Parameters
    ----------
    picture
        Shape (rows, columns); it is not changed.
    caption
        Cut off where the picture ends.

    Returns
    -------
    tuple
        The picture with 12 bits, in which its range takes up the middle 2500 of 4096 values, and where the text is.
    """
    low, high = np.percentile(picture, (0.5, 99.5))
    plain = np.clip((picture.astype(np.float64) - low) / max(high - low, 1e-9), 0, 1)
    ink = _ink(caption)[: plain.shape[0], : plain.shape[1]]
    top, left = (
        round(at * (room - need)) for at, room, need in zip(caption.place, plain.shape, ink.shape, strict=True)
    )
    box = Box(top, left, top + ink.shape[0], left + ink.shape[1])
    below = plain[box.top : box.bottom, box.left : box.right]
    sign = 1 if caption.is_bright else -1
    level = below.mean() + sign * caption.contrast
    if not -0.2 <= level <= 1.2:  # beyond what a display shows
        level = below.mean() - sign * caption.contrast
    plain[box.top : box.bottom, box.left : box.right] = below * (1 - ink) + level * ink
    return np.clip(np.round((plain + 0.32) * 2500), 0, 4095).astype(np.uint16), box


def _ink(caption: Caption) -> npt.NDArray[np.float64]:
    """Draw the text alone: 0 where there is none, 1 where there is nothing else."""
    letter = _font(caption.font, _FIRST_GUESS).getbbox("H")
    font = _font(caption.font, max(1.0, caption.height * _FIRST_GUESS / (letter[3] - letter[1])))
    spacing = max(1, round(caption.height / 3))
    page = ImageDraw.Draw(Image.new("L", (1, 1)))
    left, top, right, bottom = page.multiline_textbbox((0, 0), caption.text, font=font, spacing=spacing)
    size = int(right - left) + 2 * _MARGIN + 1, int(bottom - top) + 2 * _MARGIN + 1
    image = Image.new("L", size)
    ImageDraw.Draw(image).multiline_text(
        (_MARGIN - left, _MARGIN - top), caption.text, fill=255, font=font, spacing=spacing
    )
    if caption.blur:
        image = image.filter(ImageFilter.GaussianBlur(caption.blur))
    ink = np.asarray(image, dtype=np.float64) / 255
    return np.rot90(ink) if caption.is_turned else ink


def _font(file: Path | None, points: float) -> Any:
    return ImageFont.truetype(str(file), points) if file else ImageFont.load_default(points)
