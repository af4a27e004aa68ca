"""Labels: a table of keys and classes, checked as a whole, and joined with the images of a study.

The table's keys are identifiers. They are turned into pseudonyms right after reading (by the caller, through
`LabelTable.with_keys`), and no message repeats a cell: problems are told by line number.

Labels are kept in long format, one row for each image and class, so that several classes for one image need no
other table.
"""

import csv
import difflib
import io
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from pipeline.core.errors import CohortError
from pipeline.core.records import Finding, Image, Label

KeyColumn = Literal["PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"]
OnProblem = Literal["error", "exclude"]

_STAGE = "label"
_DELIMITERS = {".tsv": "\t,;", ".tab": "\t,;"}
_USUAL_DELIMITERS = ",;\t"  # the semicolon is what spreadsheets write where the comma is the decimal sign
_MOST_PROBLEMS_SHOWN = 20
_MOST_LINES_SHOWN = 5
_KEY_OF: Mapping[KeyColumn, Callable[[Image], str]] = {
    "PatientID": lambda image: image.patient,
    "StudyInstanceUID": lambda image: image.study_uid,
    "SeriesInstanceUID": lambda image: image.series_uid,
    "SOPInstanceUID": lambda image: image.sop_uid,
}


@dataclass(frozen=True)
class LabelRow:
    """One row of the table; its representation shows the line only."""

    line: int
    key: str = field(repr=False)
    label: str = field(repr=False)  # empty: the row says nothing


@dataclass(frozen=True)
class LabelTable:
    """The rows that could be read, and what is wrong with the others.

    Attributes
    ----------
    name
        Where the table stands, for messages.
    rows
        In the order of the table.
    problems
        Line number (from 1) and description.
    """

    name: str
    rows: tuple[LabelRow, ...]
    problems: tuple[tuple[int, str], ...] = ()

    def with_keys(self, translate: Callable[[str], str]) -> "LabelTable":
        """Replace every key, for example an identifier by its pseudonym."""
        return replace(self, rows=tuple(replace(row, key=translate(row.key)) for row in self.rows))


@dataclass(frozen=True)
class KeyedLabels:
    """What the table says about each key.

    Attributes
    ----------
    name
        Where the table stands, for messages.
    labels
        Class of each key that has exactly one known class.
    refused
        Reason code of each key whose images must be left out.
    repeated
        Number of surplus rows of each key with identical rows.
    """

    name: str
    labels: Mapping[str, str] = field(repr=False)
    refused: Mapping[str, str] = field(repr=False)
    repeated: Mapping[str, int] = field(repr=False)


@dataclass(frozen=True)
class LabelledCohort:
    """The images that stay, with their classes, and everything counted on the way."""

    labels: tuple[Label, ...]
    findings: tuple[Finding, ...]


def read_label_table(path: Path, *, key: str, column: str) -> LabelTable:
    """Read keys and labels from a CSV or TSV file with a header line.

    Comma, semicolon and tab are recognised from the header line. Text is UTF-8, with or without a byte order
    mark. Blanks around values do not count, empty lines are skipped.

    Parameters
    ----------
    path
        The table.
    key, column
        Names of the columns with the key and with the class.

    Raises
    ------
    CohortError
        If the file cannot be read, is not UTF-8 or not a table, lacks a column, or has no rows.
    """
    name = str(path)
    text = _decode(path)
    lines = text.splitlines()
    if not any(line.strip() for line in lines):
        raise CohortError("the label table is empty", where=name, remedy="name the file that holds the labels")
    delimiter = _find_delimiter(next(line for line in lines if line.strip()), path.suffix.lower(), (key, column))
    numbered = _split_cells(text, delimiter, name)
    header_line, header = numbered[0]
    key_index, label_index = _find_columns(header, (key, column), f"{name}:{header_line}")
    rows: list[LabelRow] = []
    problems: list[tuple[int, str]] = []
    for line, cells in numbered[1:]:
        if len(cells) != len(header):
            problems.append((line, f"{len(cells)} cells where the header has {len(header)}"))
        elif cells[key_index]:
            rows.append(LabelRow(line, cells[key_index], cells[label_index]))
        elif cells[label_index]:
            problems.append((line, f"a label but nothing in the column `{key}`"))
    if not rows and not problems:
        what = "the label table has a header line but no rows with a key"
        raise CohortError(what, where=name, remedy="name the file that holds the labels")
    return LabelTable(name, tuple(rows), tuple(problems))


def resolve_labels(
    table: LabelTable,
    *,
    classes: Sequence[str],
    on_contradiction: OnProblem = "error",
    on_unknown_class: OnProblem = "error",
) -> KeyedLabels:
    """Decide the class of each key.

    Rows with an empty label say nothing. Identical rows count once. A key with an unknown class in any of its
    rows is refused as a whole, as is one with several classes.

    Parameters
    ----------
    table
        As read.
    classes
        All classes, as they stand in the table.
    on_contradiction, on_unknown_class
        Stop, or leave the key's images out.

    Raises
    ------
    CohortError
        Naming every problem of the table at once, by line.
    """
    found: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for row in table.rows:
        if row.label:
            found[row.key][row.label].append(row.line)
    known = frozenset(classes)
    problems = list(table.problems)
    labels: dict[str, str] = {}
    refused: dict[str, str] = {}
    for key, lines_of in found.items():
        unknown = sorted(line for label, lines in lines_of.items() if label not in known for line in lines)
        if unknown:
            refused[key] = "UNKNOWN_LABEL"
            if on_unknown_class == "error":
                problems += [(line, "the class is not one of those configured") for line in unknown]
        elif len(lines_of) > 1:
            refused[key] = "CONTRADICTORY_LABELS"
            if on_contradiction == "error":
                lines = sorted(line for lines in lines_of.values() for line in lines)
                problems.append((lines[0], f"{_name_lines(lines)} give one key {len(lines_of)} classes"))
        else:
            labels[key] = next(iter(lines_of))
    if problems:
        raise _table_error(table, problems, classes)
    repeated = {key: sum(len(lines) - 1 for lines in lines_of.values()) for key, lines_of in found.items()}
    return KeyedLabels(table.name, labels, refused, {key: count for key, count in repeated.items() if count})


def join_labels(
    images: Sequence[Image], keyed: KeyedLabels, *, key: KeyColumn, classes: Sequence[str]
) -> LabelledCohort:
    """Give each image its class.

    Parameters
    ----------
    images
        All images of the study, with pseudonyms.
    keyed
        The table's labels by pseudonym.
    key
        What the pseudonyms stand for.
    classes
        All classes; each must have an image.

    Raises
    ------
    CohortError
        If no image, or no image of some class, has a label.
    """
    key_of = _KEY_OF[key]
    labels: list[Label] = []
    findings: list[Finding] = []
    for image in images:
        name = key_of(image)
        label = keyed.labels.get(name)
        if label is None:
            code = keyed.refused.get(name, "NO_LABEL")
            findings.append(Finding(stage=_STAGE, unit="image", unit_id=image.image_id, code=code, severity="excluded"))
        else:
            labels.append(Label(image_id=image.image_id, patient=image.patient, label=label))
    present = {key_of(image) for image in images}
    _require_match(keyed, present, key, len(images))
    unknown = sum(finding.code == "UNKNOWN_LABEL" for finding in findings)
    _require_all_classes(keyed.name, labels, classes, unknown)
    findings += [_note("label", name, "DUPLICATE_LABEL_ROW", keyed.repeated[name]) for name in sorted(keyed.repeated)]
    named = {*keyed.labels, *keyed.refused}
    findings += [_note("label", name, "LABEL_WITHOUT_IMAGE") for name in sorted(named - present)]
    classes_of = defaultdict(set)
    for row in labels:
        classes_of[row.patient].add(row.label)
    several = sorted(patient for patient, held in classes_of.items() if len(held) > 1)
    findings += [_note("patient", name, "PATIENT_HAS_SEVERAL_CLASSES", len(classes_of[name])) for name in several]
    return LabelledCohort(tuple(labels), tuple(findings))


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


def _find_columns(header: Sequence[str], wanted: Sequence[str], where: str) -> list[int]:
    problems = [_describe_column(header, name) for name in wanted if header.count(name) != 1]
    if problems:
        remedy = "set label.key and label.column to names of the header line, each there once"
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
    if any(name in _KEY_OF for name in header):
        return f"{what} (it has {', '.join(header)})"
    return f"{what} (its first line has {len(header)} cells and may not be a header)"


def _fold(name: str) -> str:
    return name.casefold().replace("_", "").replace(" ", "")


def _name_lines(lines: Sequence[int]) -> str:
    shown = ", ".join(map(str, lines[:_MOST_LINES_SHOWN]))
    return f"lines {shown}" + (f" and {len(lines) - _MOST_LINES_SHOWN} more" if len(lines) > _MOST_LINES_SHOWN else "")


def _table_error(table: LabelTable, problems: Iterable[tuple[int, str]], classes: Sequence[str]) -> CohortError:
    ordered = sorted(problems)
    shown = [f"line {line}: {text}" for line, text in ordered[:_MOST_PROBLEMS_SHOWN]]
    if len(ordered) > _MOST_PROBLEMS_SHOWN:
        shown.append(f"and {len(ordered) - _MOST_PROBLEMS_SHOWN} more")
    what = f"{len(ordered)} problem{'s' if len(ordered) > 1 else ''} in the label table\n    " + "\n    ".join(shown)
    remedy = (
        f"correct the table (the classes are {', '.join(f'`{name}`' for name in classes)}; capitals count), or set "
        "label.on_contradiction or label.on_unknown_class to `exclude`"
    )
    return CohortError(what, where=table.name, remedy=remedy)


def _require_match(keyed: KeyedLabels, present: set[str], key: KeyColumn, images: int) -> None:
    named = {*keyed.labels, *keyed.refused}
    if images == 0:
        raise CohortError("there are no images to label", remedy="see the tables of rejected files and series")
    if present == {""}:
        what = f"the images are volumes of several instances; `{key}` cannot name one"
        raise CohortError(what, where=keyed.name, remedy="set label.key to SeriesInstanceUID")
    if not named & present:
        what = f"none of the {len(named)} labelled keys of the table belongs to one of the {images} images"
        remedy = f"check that the column holds the {key} of the DICOM files; spreadsheets drop leading zeros"
        raise CohortError(what, where=keyed.name, remedy=remedy)


def _require_all_classes(name: str, labels: Sequence[Label], classes: Sequence[str], unknown: int) -> None:
    counts = {label: sum(row.label == label for row in labels) for label in classes}
    if all(counts.values()):
        return
    what = "some classes have no image: " + ", ".join(f"`{label}` {count}" for label, count in counts.items())
    what += f"; {unknown} images have a class that is not configured" if unknown else ""
    raise CohortError(what, where=name, remedy="check label.classes, the table, and the images left out before")


def _note(unit: Literal["label", "patient"], name: str, code: str, value: float | None = None) -> Finding:
    return Finding(stage=_STAGE, unit=unit, unit_id=name, code=code, severity="noted", value=value)
