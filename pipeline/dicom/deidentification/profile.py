"""Profile: what the standard wants done with each attribute, by the options chosen and the kind of object.

The tables stand beside this file as data; ``docs/confidentiality_tables.py`` makes them and says where they come from.

References
----------
DICOM PS3.15 2026d, tables E.1-1 (attributes), E.1-1a (action codes), E.3.4-1 (content items), E.3.10-1 (safe
private attributes); PS3.3, section A (modules of an object), PS3.5, section 7.4 (types).
"""

import csv
from collections import defaultdict
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

from pydicom.datadict import dictionary_has_tag, keyword_for_tag

CURVES = "50xxxxxx"
PRIVATE = "PRIVATE"
EDITION = "2026d"
_FOLDER = Path(__file__).parent
# Where several options name one attribute, the first of these wins.
_STRONGEST_FIRST = ("K", "C")
_STRICTEST_FIRST = ("1", "1C", "2", "2C", "3")


class Row(NamedTuple):
    """One attribute of table E.1-1: its action by the basic profile, and those by options."""

    tag: str  # eight hexadecimal digits, or a group of them
    name: str
    basic: str
    options: Mapping[str, str]

    def action(self, options: frozenset[str]) -> str:
        """Give the action code that holds under some options; conditional codes are not resolved yet."""
        found = {code for word, code in self.options.items() if word in options}
        return next((code for code in _STRONGEST_FIRST if code in found), self.basic)


def read_rows(name: str) -> list[dict[str, str]]:
    """Read one of the tables beside this file."""
    with (_FOLDER / name).open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))


@cache
def attributes() -> dict[str, Row]:
    """Read table E.1-1, by tag."""
    rows = read_rows("confidentiality_profile.tsv")
    return {row["tag"]: Row(row["tag"], row["name"], row["basic"], _options(row)) for row in rows}


@cache
def content_items() -> dict[tuple[str, str, str], Row]:
    """Read table E.3.4-1, by coding scheme and code of the concept name, and value type."""
    rows = read_rows("structured_content.tsv")
    return {
        (row["scheme"], row["code"], row["value_type"]): Row("", row["meaning"], row["basic"], _options(row))
        for row in rows
    }


@cache
def safe_private() -> dict[tuple[int, int, str], str]:
    """Read table E.3.10-1: representation by group, element within the block, and private creator."""
    rows = read_rows("safe_private.tsv")
    return {(int(row["group"], 16), int(row["element"], 16), row["creator"]): row["vr"] for row in rows}


@cache
def defined_terms() -> dict[str, frozenset[str]]:
    """Read the terms of attributes of which all terms are known."""
    return {row["attribute"]: frozenset(row["terms"].split("|")) for row in read_rows("defined_terms.tsv")}


def row_of(tag: int) -> Row | None:
    """Find an attribute's row of table E.1-1; None if the table does not name it."""
    group, element = tag >> 16, tag & 0xFFFF
    if group % 2:
        return attributes()[PRIVATE]
    if group & 0xFF00 == 0x5000:
        return attributes()[CURVES]
    if group & 0xFF00 == 0x6000:
        return attributes().get(f"60xx{element:04X}")
    return attributes().get(f"{tag:08X}")


def resolved(action: str, sop_class: str, parent: str, tag: int) -> str:
    """Choose among the parts of a conditional action by the attribute's type.

    Parameters
    ----------
    action
        A code of table E.1-1a, such as ``X/Z/D``.
    sop_class
        UID of the object's storage class.
    parent
        Keyword of the sequence that holds the attribute; empty at the top.
    tag
        The attribute.

    Returns
    -------
    str
        ``X``, ``Z``, ``D``, ``U``, ``K`` or ``C``. For a class that no table knows, the part that harms no object.
        References (``X/Z/U*``) are always kept with new UIDs: they are what links objects.
    """
    if "/" not in action:
        return action
    if "U" in action:
        return "U"
    parts = action.split("/")
    kind = attribute_type(sop_class, parent, keyword_for_tag(tag)) if dictionary_has_tag(tag) else "3"
    if kind is None:
        return parts[-1]
    wanted = {"1": "D", "2": "Z", "3": "X"}[kind[0]]
    if wanted in parts:
        return wanted
    return parts[-1] if wanted == "Z" else parts[0]  # a value serves where an empty one would


def attribute_type(sop_class: str, parent: str, keyword: str) -> str | None:
    """Give the strictest type of an attribute in the modules of a class: 1, 1C, 2, 2C or 3; None: unknown class."""
    modules = _modules().get(sop_class)
    if modules is None:
        return None
    found = [kind for module, kind in _types().get((parent, keyword), {}).items() if module in modules]
    return min(found, key=_STRICTEST_FIRST.index, default="3")


@cache
def _modules() -> dict[str, frozenset[str]]:
    return {row["sop_class"]: frozenset(row["modules"].split()) for row in read_rows("object_modules.tsv")}


@cache
def _types() -> dict[tuple[str, str], dict[str, str]]:
    found: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for row in read_rows("attribute_types.tsv"):
        found[row["parent"], row["keyword"]][row["module"]] = row["type"]
    return found


def _options(row: Mapping[str, str]) -> dict[str, str]:
    return {word: code for word, code in row.items() if code and word.startswith(("retain_", "clean_"))}
