"""The parts that sections are made of: plain values that every renderer knows how to set.

Blocks hold plain text only, never markup, so nothing in them can be taken for HTML, typst or Markdown.
"""

from collections.abc import Callable
from typing import Any, Literal

from pydantic import Field, model_validator

from pipeline.core.records import Record

NOT_EVALUATED = "This was not evaluated"
Tone = Literal["note", "warning", "result"]


class Heading(Record):
    """A heading within a section."""

    kind: Literal["heading"] = "heading"
    text: str


class Paragraph(Record):
    """Running text, with an optional run-in heading."""

    kind: Literal["paragraph"] = "paragraph"
    text: str
    lead: str = ""


class Bullets(Record):
    """A list of short statements."""

    kind: Literal["bullets"] = "bullets"
    items: tuple[str, ...] = Field(min_length=1)


class Callout(Record):
    """A statement that must not be overlooked."""

    kind: Literal["callout"] = "callout"
    tone: Tone
    title: str  # may be empty
    text: tuple[str, ...]  # paragraphs


class Tile(Record):
    """One headline number."""

    label: str
    value: str
    detail: str


class Tiles(Record):
    """The headline numbers, side by side."""

    kind: Literal["tiles"] = "tiles"
    tiles: tuple[Tile, ...]


class Facts(Record):
    """Terms and what they are, as a list."""

    kind: Literal["facts"] = "facts"
    rows: tuple[tuple[str, str], ...] = Field(min_length=1)


class Column(Record):
    """A column of a table; numbers stand at the right, and wide columns take the room that is left."""

    title: str
    align: Literal["left", "right"] = "left"
    is_wide: bool = False
    is_code: bool = False


class Table(Record):
    """A table of texts as printed; the first cell of each row names it."""

    kind: Literal["table"] = "table"
    name: str = Field(pattern=r"^[a-z0-9-]+$")  # of the file under tables/
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...] = Field(min_length=1)
    strong_rows: tuple[int, ...] = ()  # totals
    notes: tuple[str, ...] = ()  # below it

    @model_validator(mode="after")
    def _is_rectangular(self) -> "Table":
        if any(len(row) != len(self.columns) for row in self.rows):
            message = f"{self.name}: a row has not {len(self.columns)} cells"
            raise ValueError(message)
        return self


class Figure(Record):
    """A drawing with its caption, and an alternative text that gives its numbers."""

    name: str = Field(pattern=r"^[a-z0-9-]+$")  # of the files under figures/
    caption: str
    alt: str = Field(min_length=20)
    draw: Callable[[], Any] = Field(exclude=True, repr=False)  # gives a matplotlib Figure


class Figures(Record):
    """One figure, or two of half the width side by side."""

    kind: Literal["figures"] = "figures"
    figures: tuple[Figure, ...] = Field(min_length=1, max_length=2)
    is_wide: bool = False  # a single figure over the whole width


class Footnotes:
    """Letters for texts that many rows of a table share."""

    def __init__(self) -> None:
        self._letters: dict[str, str] = {}

    def mark(self, *texts: str) -> str:
        """Give the letters of the texts that are not empty; equal texts share a letter.

        Examples
        --------
        >>> notes = Footnotes()
        >>> notes.mark("Wilson", "few"), notes.mark("Wilson"), notes.mark("")
        ('a, b', 'a', '')
        >>> notes.text()
        'a: Wilson. b: few.'
        """
        found = []
        for text in filter(None, texts):
            number = len(self._letters)
            letter = chr(ord("a") + number % 26) * (1 + number // 26)
            found.append(self._letters.setdefault(text, letter))
        return ", ".join(found)

    def text(self) -> str:
        """Give the letters and their texts."""
        return " ".join(f"{letter}: {text}." for text, letter in self._letters.items())


Block = Heading | Paragraph | Bullets | Callout | Tiles | Facts | Table | Figures


class Section(Record):
    """A numbered section of the report."""

    name: str = Field(pattern=r"^[a-z-]+$")  # anchor
    title: str
    lead: str = ""  # how to read it, in a sentence or two
    blocks: tuple[Block, ...] = Field(min_length=1)


def not_evaluated(reason: str) -> Callout:
    """Say that something was not evaluated, and why: a section is never left out silently."""
    return Callout(tone="note", title="", text=(f"{NOT_EVALUATED}: {reason}",))
