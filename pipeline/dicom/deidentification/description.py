"""Description: the rules of a de-identification in words, made from the same data that the rules are made from."""

import textwrap
from collections import defaultdict
from collections.abc import Collection, Iterator

from pydicom.datadict import dictionary_has_tag, keyword_for_tag

from pipeline.dicom.deidentification.decisions import ACTIONS, Place, decision
from pipeline.dicom.deidentification.options import OPTIONS, WORDS, method_codes, temporal_information
from pipeline.dicom.deidentification.profile import EDITION, Row, attributes, content_items, safe_private
from pipeline.dicom.deidentification.words import vocabulary

_CONDITIONAL = {
    "X/Z": "removed, or emptied where objects of the kind must have it (type 2)",
    "X/D": "removed, or replaced by a dummy where objects of the kind must have a value (type 1)",
    "X/Z/D": "removed, emptied (type 2) or replaced by a dummy (type 1), as objects of the kind need it",
    "Z/D": "emptied, or replaced by a dummy where objects of the kind must have a value (type 1)",
    "X/Z/U*": "kept, with keyed UIDs: they link objects",
}
_GROUPS = {
    "50xxxxxx": "curves",
    "60xx3000": "overlay data",
    "60xx4000": "overlay comments",
    "PRIVATE": "private elements",
}
_WIDTH = 118
# What is done to attributes that the table does not name, by representation.
_UNLISTED = (
    ("numbers (DS, IS)", "number"),
    ("numbers that give pixels their meaning or place", "vital"),
    ("numbers in binary form (US, SS, UL, SL, FL, FD, AT), and known arrays of them (palettes, waveforms)", "binary"),
    ("other bytes (OB, OW, OF and the like: profiles of colours, keys, documents)", "remove"),
    ("coded strings (CS) of which all terms are known", "terms"),
    ("other coded strings (CS)", "term"),
    ("texts (LO, SH, ST, LT, UC, UT)", "words"),
    ("codes", "code"),
    ("meanings of codes", "meaning"),
    ("maker and model", "device"),
    ("names of people (PN)", "empty"),
    ("application entities (AE), addresses (UR), unknown representations (UN)", "remove"),
    ("sequences (SQ), to a depth of 32", "sequence"),
)


def description(options: Collection[str]) -> str:
    """Say in words (Markdown) what happens to a file under some options."""
    chosen = frozenset(options)
    return "\n".join([*_head(chosen), *_listed(chosen), *_unlisted(chosen), *_rest()])


def _head(options: frozenset[str]) -> Iterator[str]:
    yield from _wrapped(
        f"Basic Application Level Confidentiality Profile of DICOM PS3.15, annex E, edition {EDITION}: "
        f"{len(attributes())} entries."
    )
    yield ""
    yield "Options in use:"
    yield ""
    for word in OPTIONS:
        if word in options:
            yield f"- `{word}`: {WORDS[word]}"
    if not options:
        yield "- none"
    yield ""
    codes = "; ".join(f"{code.value} {code.meaning}" for code in method_codes(options))
    yield from _wrapped(
        "Every file says so: (0012,0062) Patient Identity Removed is YES, (0028,0303) Longitudinal Temporal Information"
        f" Modified is {temporal_information(options)}, (0012,0063) De-identification Method names this program, and "
        f"(0012,0064) De-identification Method Code Sequence holds {codes}."
    )
    yield ""
    yield from _wrapped(
        "Preamble and file meta information are written anew; files bear the name of their new UID. Patient name and "
        "patient ID become one pseudonym. Everything behind the pixel data is left behind. Within compressed frames "
        "comments, EXIF data, colour profiles and thumbnails are overwritten with zeros; the picture and all lengths "
        "stay. Frames whose encoding cannot be followed to its end keep the file out."
    )
    yield ""


def _listed(options: frozenset[str]) -> Iterator[str]:
    """Group the table's attributes by what is done to them."""
    groups: dict[str, list[str]] = defaultdict(list)
    for row in attributes().values():
        groups[_words(row, options)].append(_name(row))
    yield "## Attributes that the table names"
    yield ""
    for words in sorted(groups, key=lambda one: (-len(groups[one]), one)):
        yield f"**{words[0].upper()}{words[1:]}** ({len(groups[words])}):"
        yield from _wrapped(", ".join(sorted(groups[words], key=str.lower)) + ".")
        yield ""


def _words(row: Row, options: frozenset[str]) -> str:
    code = row.action(options)
    if row.tag == "PRIVATE":
        return ACTIONS["safe_private" if "retain_safe_private" in options else "remove"]
    if row.tag.startswith("60xx"):
        return ACTIONS["overlay" if "clean_graphics" in options and row.tag == "60xx3000" else "remove"]
    if row.tag in _GROUPS:
        return ACTIONS["remove"]
    found = decision(int(row.tag, 16), Place(options, "")).action
    return _CONDITIONAL[code] if code in _CONDITIONAL and found != "pseudonym" else ACTIONS[found]


def _name(row: Row) -> str:
    if row.tag in _GROUPS:
        return _GROUPS[row.tag]
    tag = int(row.tag, 16)
    return (keyword_for_tag(tag) if dictionary_has_tag(tag) else "") or row.name


def _unlisted(options: frozenset[str]) -> Iterator[str]:
    yield "## Attributes of the standard that the table does not name"
    yield ""
    yield "| what | action |"
    yield "|---|---|"
    for what, action in _UNLISTED:
        yield f"| {what} | {ACTIONS[action]} |"
    uid = "retained_uid" if "retain_uids" in options else "known_uid"
    dates = {"MODIFIED": "date", "UNMODIFIED": "full_date", "REMOVED": "remove"}[temporal_information(options)]
    yield f"| UIDs (UI) | {ACTIONS[uid]} |"
    yield f"| dates and times (DA, DT, TM) | {ACTIONS[dates]} |"
    yield "| attributes unknown to the standard | removed |"
    yield ""


def _rest() -> Iterator[str]:
    yield "## Words that may stay"
    yield ""
    yield from _wrapped(
        f"The vocabulary holds {len(vocabulary())} words: those in the names of DICOM attributes and those of "
        "`vocabulary.tsv`. Numbers of up to three digits and codes of up to two letters and three digits stay beside "
        "them; longer numbers, several numbers in a row or joined by signs, words with other letters than A to Z, what "
        "follows a title (Mrs, Dr), and every word of the patient's, physicians' and operators' names go. What is "
        "about to be written is then searched for these words once more, and a file in which one is found is kept out."
    )
    yield ""
    yield from _wrapped(
        f"Tables beside the code: {len(content_items())} concepts of report content (E.3.4-1) and "
        f"{len(safe_private())} safe private attributes (E.3.10-1; those that are bytes or sequences go all the same, "
        "as nobody can look into them)."
    )


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, break_long_words=False, break_on_hyphens=False)
