"""Tables of labels as text: decoded, divided into cells, their columns found; no message repeats a cell."""

import csv
import difflib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.core.errors import CohortError

KEYS = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
_DELIMITERS = {".tsv": "\t,;", ".tab": "\t,;"}
_USUAL_DELIMITERS = ",;\t"  # the semicolon is what spreadsheets write where the comma is the decimal sign


@dataclass(frozen=True)
class Cells:
    """The wanted columns of a table.

    Attributes
    ----------
    name
        Where the table stands, for messages.
    rows
        Line number (from 1) and the wanted cells, in the order asked for, of each row with a key.
    problems
        Line number and what is wrong with a row.
    """

    name: str
    rows: tuple[tuple[int, tuple[str, ...]], ...] = field(repr=False)
    problems: tuple[tuple[int, str], ...] = ()


def read_cells(path: Path, key: str, columns: Sequence[str], *, remedy: str) -> Cells:
    """Read some columns of a CSV or TSV file with a header line.

    Comma, semicolon and tab are recognised from the header line. Text is UTF-8, with or without a byte order
    mark. Blanks around values do not count, empty lines are skipped.

    Parameters
    ----------
    path
        The table.
    key
        Name of the column with the key, which comes first in the cells.
    columns
        Names of the other columns wanted.
    remedy
        What to do if a column is not there.

    Raises
    ------
    CohortError
        If the file cannot be read, is not UTF-8 or not a table, lacks a column, or has no rows.
    """
    name = str(path)
    text = _decode(path)
    if not any(line.strip() for line in text.splitlines()):
        raise CohortError("the label table is empty", where=name, remedy="name the file that holds the labels")
    wanted = (key, *columns)
    first = next(line for line in text.splitlines() if line.strip())
    numbered = _split_cells(text, _find_delimiter(first, path.suffix.lower(), wanted), name)
    header_line, header = numbered[0]
    places = _find_columns(header, wanted, f"{name}:{header_line}", remedy)
    rows: list[tuple[int, tuple[str, ...]]] = []
    problems: list[tuple[int, str]] = []
    for line, cells in numbered[1:]:
        if len(cells) != len(header):
            problems.append((line, f"{len(cells)} cells where the header has {len(header)}"))
            continue
        chosen = tuple(cells[place] for place in places)
        if chosen[0]:
            rows.append((line, chosen))
        elif any(chosen):
            problems.append((line, f"a label but nothing in the column `{key}`"))
    if not rows and not problems:
        what = "the label table has a header line but no rows with a key"
        raise CohortError(what, where=name, remedy="name the file that holds the labels")
    return Cells(name, tuple(rows), tuple(problems))


def _decode(path: Path) -> str:
    name = str(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        what = f"the label table cannot be read ({error.strerror})"
        raise CohortError(what, where=name, remedy="check label.table and the file's permissions") from error
    remedy = "save it as UTF-8 (in a spreadsheet program: `CSV UTF-8`)"
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise CohortError("the label table is UTF-16 text, not UTF-8", where=name, remedy=remedy)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        # not chained: the exception holds the whole file
        raise CohortError("the label table is not UTF-8 text", where=f"{name}:{line}", remedy=remedy) from None
    if "\0" in text:
        what = "the label table holds zero bytes: it is not a text file, or not UTF-8"
        raise CohortError(what, where=name, remedy=remedy)
    return text


def _find_delimiter(header: str, suffix: str, wanted: Sequence[str]) -> str:
    """Choose the delimiter that gives most of the wanted columns, then most columns, then the usual one."""

    def quality(delimiter: str) -> tuple[int, int]:
        cells = [cell.strip().strip('"') for cell in header.split(delimiter)]
        return sum(name in cells for name in wanted), len(cells)

    return max(_DELIMITERS.get(suffix, _USUAL_DELIMITERS), key=quality)


def _split_cells(text: str, delimiter: str, name: str) -> list[tuple[int, list[str]]]:
    """Give the line number and the cells of each row that is not blank."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[tuple[int, list[str]]] = []
    line = 1
    try:
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            if any(stripped):
                rows.append((line, stripped))
            line = reader.line_num + 1
    except csv.Error:
        what = "a quotation mark is not closed, or something follows a closing one"
        raise CohortError(what, where=f"{name}:{line}", remedy="mend the quotation marks in that row") from None
    return rows


def _find_columns(header: Sequence[str], wanted: Sequence[str], where: str, remedy: str) -> list[int]:
    problems = [_describe_column(header, name) for name in wanted if header.count(name) != 1]
    if problems:
        raise CohortError("; ".join(problems), where=where, remedy=remedy)
    return [header.index(name) for name in wanted]


def _describe_column(header: Sequence[str], wanted: str) -> str:
    """Say what is wrong with a column; names found are shown only if the line is surely no patient's row."""
    if wanted in header:
        return f"the column `{wanted}` stands {header.count(wanted)} times in the label table"
    what = f"the label table has no column `{wanted}`"
    folded = {_fold(name): name for name in header}
    nearest = difflib.get_close_matches(_fold(wanted), folded, n=1, cutoff=0.8)
    if nearest:
        return f"{what} (did you mean `{folded[nearest[0]]}`?)"
    if any(name in KEYS for name in header):
        return f"{what} (it has {', '.join(header)})"
    return f"{what} (its first line has {len(header)} cells and may not be a header)"


def _fold(name: str) -> str:
    return name.casefold().replace("_", "").replace(" ", "")
