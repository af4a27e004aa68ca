"""Labels: a table of keys and classes, checked as a whole, and joined with the images of a study.

The table's keys are identifiers. They are turned into pseudonyms right after reading (by the caller, through
`LabelTable.with_keys`), and no message repeats a cell: problems are told by line number.

Several findings for one image: `pipeline.cohort.findings`.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from pipeline.cohort.tables import read_cells
from pipeline.core.errors import CohortError
from pipeline.core.records import Finding, Image, Label

KeyColumn = Literal["PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"]
OnProblem = Literal["error", "exclude"]

_STAGE = "label"
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

    How the text is read says `pipeline.cohort.tables.read_cells`.

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
    remedy = "set label.key and label.column to names of the header line, each there once"
    found = read_cells(path, key, (column,), remedy=remedy)
    rows = tuple(LabelRow(line, cells[0], cells[1]) for line, cells in found.rows)
    return LabelTable(found.name, rows, found.problems)


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
                problems.append((lines[0], f"{name_lines(lines)} give one key {len(lines_of)} classes"))
        else:
            labels[key] = next(iter(lines_of))
    if problems:
        raise table_error(table.name, problems, classes, "classes")
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
    labels, findings = match_images(images, keyed, key)
    unknown = sum(finding.code == "UNKNOWN_LABEL" for finding in findings)
    _require_all_classes(keyed.name, labels, classes, unknown)
    classes_of = defaultdict(set)
    for row in labels:
        classes_of[row.patient].add(row.label)
    several = sorted(patient for patient, held in classes_of.items() if len(held) > 1)
    findings += [_note("patient", name, "PATIENT_HAS_SEVERAL_CLASSES", len(classes_of[name])) for name in several]
    return LabelledCohort(tuple(labels), tuple(findings))


def match_images(images: Sequence[Image], keyed: KeyedLabels, key: KeyColumn) -> tuple[list[Label], list[Finding]]:
    """Find the label of each image; count images without one, surplus rows, and keys without an image.

    Raises
    ------
    CohortError
        If no image has a label.
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
    findings += [_note("label", name, "DUPLICATE_LABEL_ROW", keyed.repeated[name]) for name in sorted(keyed.repeated)]
    named = {*keyed.labels, *keyed.refused}
    findings += [_note("label", name, "LABEL_WITHOUT_IMAGE") for name in sorted(named - present)]
    return labels, findings


def name_lines(lines: Sequence[int]) -> str:
    """Name some lines of a table, and how many more there are."""
    shown = ", ".join(map(str, lines[:_MOST_LINES_SHOWN]))
    return f"lines {shown}" + (f" and {len(lines) - _MOST_LINES_SHOWN} more" if len(lines) > _MOST_LINES_SHOWN else "")


def table_error(
    name: str, problems: Iterable[tuple[int, str]], known: Sequence[str], what_they_are: str
) -> CohortError:
    """Give one error that names the problems of a table by line, and what the table may hold."""
    ordered = sorted(problems)
    shown = [f"line {line}: {text}" for line, text in ordered[:_MOST_PROBLEMS_SHOWN]]
    if len(ordered) > _MOST_PROBLEMS_SHOWN:
        shown.append(f"and {len(ordered) - _MOST_PROBLEMS_SHOWN} more")
    what = f"{len(ordered)} problem{'s' if len(ordered) > 1 else ''} in the label table\n    " + "\n    ".join(shown)
    remedy = (
        f"correct the table (the {what_they_are} are {', '.join(f'`{name}`' for name in known)}; capitals count), or "
        "set label.on_contradiction or label.on_unknown_class to `exclude`"
    )
    return CohortError(what, where=name, remedy=remedy)


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
