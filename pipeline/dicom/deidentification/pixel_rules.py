"""Pixel rules: which images may leave although their pixels may identify somebody, once some of them are blanked.

This module stays light: the configuration is made of it.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Literal

from pydantic import Field, model_validator

from pipeline.core.section import Section

_LARGEST = 65_535  # Rows and Columns are 16-bit words (PS3.3, C.7.6.3)


class Rectangle(Section):
    """Pixels of an image in a rectangle; rows and columns are counted from 0 at the upper left."""

    top: int = Field(ge=0, lt=_LARGEST)
    """First row."""
    left: int = Field(ge=0, lt=_LARGEST)
    """First column."""
    rows: int = Field(ge=1, le=_LARGEST)
    """Number of rows."""
    columns: int = Field(ge=1, le=_LARGEST)
    """Number of columns."""


class PixelRule(Section):
    """Which images a rule is for, and which of their pixels are blanked. All that it names must be as it says."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")
    """What the receipt calls the rule."""
    modality: str = Field(pattern=r"^[A-Z][A-Z0-9]{1,15}$")
    """Modality, as the files have it."""
    manufacturer: str = Field(max_length=64)
    """Manufacturer, to the letter; empty for files that name none."""
    model: str = Field(max_length=64)
    """Manufacturer's Model Name, to the letter; empty for files that name none."""
    rows: int = Field(ge=1, le=_LARGEST)
    """Rows of the images."""
    columns: int = Field(ge=1, le=_LARGEST)
    """Columns of the images."""
    photometric: Literal[
        "MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT"
    ]
    """Photometric Interpretation of the files."""
    keep: Literal["everything", "regions"] = "everything"
    """What is kept before `blank` is applied: everything, or only the regions with an image that an ultrasound device
    declares (Sequence of Ultrasound Regions)."""
    blank: tuple[Rectangle, ...] = ()
    """Rectangles that are blanked, in all frames."""
    vouches: bool = False
    """Whether the rule's author says that nothing is left in the pixels by which somebody could be known. Only then it
    covers images that are flagged as bearing text, and says of its images that they bear none."""

    @model_validator(mode="after")
    def _blanks_pixels_of_the_image(self) -> "PixelRule":
        if self.keep == "everything" and not self.blank:
            message = "a rule that keeps everything must blank something"
            raise ValueError(message)
        if self.keep == "regions" and self.modality != "US":
            message = "only ultrasound images (modality US) declare regions"
            raise ValueError(message)
        for number, one in enumerate(self.blank, start=1):
            if one.top + one.rows > self.rows or one.left + one.columns > self.columns:
                message = f"rectangle {number} reaches beyond the {self.rows} rows and {self.columns} columns"
                raise ValueError(message)
            if (one.rows, one.columns) == (self.rows, self.columns):
                message = f"rectangle {number} is the whole image: nothing would be left"
                raise ValueError(message)
        return self

    @property
    def subject(self) -> tuple[str, str, str, int, int, str]:
        """What an image must be like: modality, manufacturer, model, rows, columns, photometric interpretation."""
        return self.modality, self.manufacturer, self.model, self.rows, self.columns, self.photometric


def contradiction(rules: Sequence[PixelRule]) -> str:
    """Say why some rules cannot stand together: two of one name, or for the same images; empty if they can."""
    names = [name for name, count in Counter(rule.name for rule in rules).items() if count > 1]
    if names:
        return f"several rules are called {names[0]}"
    first: dict[object, str] = {}
    for rule in rules:
        if rule.subject in first:
            return f"the rules {first[rule.subject]} and {rule.name} are for the same images"
        first[rule.subject] = rule.name
    return ""
