"""Findings: a table that says of each key which findings are present, absent or unknown, joined with the images.

Two kinds of tables are in use. In one, a cell lists the findings that are present (``Effusion|Infiltration``, or a word
for none); in the other, every finding has a column of its own. Nothing is guessed: a word that the configuration does
not name stops the study or leaves the key out, and what is not said is unknown, never absent.

As in `pipeline.cohort.labels`, keys become pseudonyms right after reading and no message repeats a cell.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.cohort.labels import (
    KeyColumn,
    KeyedLabels,
    LabelledCohort,
    OnProblem,
    match_images,
    name_lines,
    table_error,
)
from pipeline.cohort.tables import read_cells
from pipeline.core.errors import CohortError
from pipeline.core.records import Image, Label
from pipeline.core.states import ABSENT, PRESENT, UNKNOWN, read_states, write_states

_States = tuple[int, ...]


@dataclass(frozen=True)
class FindingRow:
    """One row of the table; its representation shows the line only.

    Attributes
    ----------
    states
        Of each finding, in the study's order; all unknown if the row says nothing.
    fault
        Reason code of a row that cannot be used; empty if it can.
    """

    line: int
    key: str = field(repr=False)
    states: _States = field(repr=False)
    fault: str = ""


@dataclass(frozen=True)
class FindingTable:
    """The rows that could be read, and what is wrong with the others.

    Attributes
    ----------
    name
        Where the table stands, for messages.
    names
        The study's findings.
    problems
        Line number (from 1) and description.
    """

    name: str
    names: tuple[str, ...]
    rows: tuple[FindingRow, ...]
    problems: tuple[tuple[int, str], ...] = ()

    def with_keys(self, translate: Callable[[str], str]) -> "FindingTable":
        """Replace every key, for example an identifier by its pseudonym."""
        return replace(self, rows=tuple(replace(row, key=translate(row.key)) for row in self.rows))


@dataclass(frozen=True)
class Listing:
    """A cell that lists the findings that are present.

    Attributes
    ----------
    names
        The study's findings.
    separator
        Between two of them.
    none
        Words for "no finding": such a cell holds nothing else, and all findings are absent.
    others
        Findings that the table lists and the study does not ask for.
    """

    names: tuple[str, ...]
    separator: str
    none: tuple[str, ...]
    others: tuple[str, ...]

    def read(self, cells: tuple[str, ...]) -> tuple[_States, str]:
        """Give the states and, if the cell cannot be used, the reason code; an empty cell says nothing."""
        nothing = (UNKNOWN,) * len(self.names)
        (cell,) = cells
        if not cell:
            return nothing, ""
        words = {word.strip() for word in cell.split(self.separator)}
        if not words <= {*self.names, *self.none, *self.others}:
            return nothing, "UNKNOWN_LABEL"
        if words & set(self.none) and len(words) > 1:
            return nothing, "CONTRADICTORY_LABELS"
        return tuple(PRESENT if name in words else ABSENT for name in self.names), ""


@dataclass(frozen=True)
class Columns:
    """A column for each finding.

    Attributes
    ----------
    names
        The study's findings, which are the names of the columns.
    present, absent, unknown
        What a cell may hold; the empty text is an empty cell.
    """

    names: tuple[str, ...]
    present: tuple[str, ...]
    absent: tuple[str, ...]
    unknown: tuple[str, ...]

    def read(self, cells: tuple[str, ...]) -> tuple[_States, str]:
        """Give the states and, if a cell cannot be used, the reason code."""
        state_of = {
            **dict.fromkeys(self.present, PRESENT),
            **dict.fromkeys(self.absent, ABSENT),
            **dict.fromkeys(self.unknown, UNKNOWN),
        }
        if any(cell not in state_of for cell in cells):
            return (UNKNOWN,) * len(self.names), "UNKNOWN_LABEL"
        return tuple(state_of[cell] for cell in cells), ""


def read_finding_table(path: Path, *, key: str, column: str, layout: Listing | Columns) -> FindingTable:
    """Read keys and findings from a CSV or TSV file with a header line (`pipeline.cohort.tables.read_cells`).

    Parameters
    ----------
    path
        The table.
    key
        Name of the column with the key.
    column
        Name of the column with the list of findings; not looked at if each finding has its own.
    layout
        How findings are written.

    Raises
    ------
    CohortError
        If the file cannot be read, is not UTF-8 or not a table, lacks a column, or has no rows.
    """
    is_list = isinstance(layout, Listing)
    where = "label.column" if is_list else "label.findings.names"
    remedy = f"set label.key and {where} to names of the header line, each there once"
    found = read_cells(path, key, (column,) if is_list else layout.names, remedy=remedy)
    rows = tuple(FindingRow(line, cells[0], *layout.read(cells[1:])) for line, cells in found.rows)
    return FindingTable(found.name, layout.names, rows, found.problems)


def resolve_findings(
    table: FindingTable, *, on_contradiction: OnProblem = "error", on_unknown_class: OnProblem = "error"
) -> KeyedLabels:
    """Decide the states of each key's findings; the labels are texts as `write_states` gives them.

    Rows of one key complete each other: what one leaves unknown another may know. A finding that is present in one and
    absent in another is a contradiction, and the key is refused as a whole, as is one with a word that is not
    configured. A key of which nothing is known has no label.

    Raises
    ------
    CohortError
        Naming every problem of the table at once, by line.
    """
    of_key: dict[str, list[FindingRow]] = defaultdict(list)
    for row in table.rows:
        if row.fault or set(row.states) != {UNKNOWN}:
            of_key[row.key].append(row)
    policy = {"UNKNOWN_LABEL": on_unknown_class, "CONTRADICTORY_LABELS": on_contradiction}
    problems = list(table.problems)
    labels: dict[str, str] = {}
    refused: dict[str, str] = {}
    repeated: dict[str, int] = {}
    for key, rows in of_key.items():
        states, faults = _combined(rows, table.names)
        if faults:
            refused[key] = min(code for code, _, _ in faults)
            problems += [(line, text) for code, line, text in faults if policy[code] == "error"]
        else:
            labels[key] = write_states(table.names, states)
        surplus = len(rows) - len({row.states for row in rows})
        if surplus:
            repeated[key] = surplus
    if problems:
        raise table_error(table.name, problems, table.names, "findings")
    return KeyedLabels(table.name, labels, refused, repeated)


def join_findings(
    images: Sequence[Image], keyed: KeyedLabels, *, key: KeyColumn, names: Sequence[str]
) -> LabelledCohort:
    """Give each image the states of its findings.

    Raises
    ------
    CohortError
        If no image has a label, or some finding is not present in one image and absent in another.
    """
    labels, findings = match_images(images, keyed, key)
    counts = count_states(labels, names)
    lacking = [
        f"`{name}` present in {found[PRESENT]}, absent in {found[ABSENT]}, unknown in {found[UNKNOWN]}"
        for name, found in counts.items()
        if not (found[PRESENT] and found[ABSENT])
    ]
    if lacking:
        what = f"not every finding is present in some images and absent in others: {'; '.join(lacking)}"
        remedy = "check label.findings, the table, and the images left out before; or take the finding out"
        raise CohortError(what, where=keyed.name, remedy=remedy)
    return LabelledCohort(tuple(labels), tuple(findings))


def count_states(labels: Sequence[Label], names: Sequence[str]) -> Mapping[str, Counter[int]]:
    """Count in how many images each finding is present, absent and unknown."""
    counts: dict[str, Counter[int]] = {name: Counter() for name in names}
    for text, number in Counter(row.label for row in labels).items():
        for name, state in zip(names, read_states(text, names), strict=True):
            counts[name][state] += number
    return counts


def _combined(rows: Sequence[FindingRow], names: Sequence[str]) -> tuple[_States, list[tuple[str, int, str]]]:
    """Join the rows of one key: the states, or the reason code, line and description of every fault."""
    told = {
        "UNKNOWN_LABEL": "a word that is not configured",
        "CONTRADICTORY_LABELS": "a finding together with a word for none",
    }
    faults = [(row.fault, row.line, told[row.fault]) for row in rows if row.fault]
    states = []
    for place, name in enumerate(names):
        known = {row.states[place] for row in rows} - {UNKNOWN}
        if len(known) > 1:
            lines = sorted(row.line for row in rows if row.states[place] != UNKNOWN)
            text = f"{name_lines(lines)} say of one key that `{name}` is present and that it is absent"
            faults.append(("CONTRADICTORY_LABELS", lines[0], text))
        states.append(known.pop() if len(known) == 1 else UNKNOWN)
    return tuple(states), faults
