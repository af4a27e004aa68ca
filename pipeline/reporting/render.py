"""From ``report.json`` to every other file of the report, without any other input."""

import csv
import hashlib
import io
import re
from collections.abc import Mapping
from pathlib import Path

from pipeline.core.artefacts import replacing
from pipeline.reporting.blocks import Table
from pipeline.reporting.document import Report
from pipeline.reporting.figures.style import paint
from pipeline.reporting.layout import figures_of, lay_out, tables_of
from pipeline.reporting.model_card import model_card
from pipeline.reporting.printed import printed
from pipeline.reporting.sections.order import sections
from pipeline.reporting.web_page import web_page

DOCUMENT = "report.json"
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
_NUMBER = re.compile(r"[+-]?[0-9][0-9.]*( to [+-]?[0-9][0-9.]*)?")


def render(document: bytes) -> dict[str, bytes]:
    """Make all files of a report.

    Parameters
    ----------
    document
        The bytes of ``report.json``.

    Returns
    -------
    dict
        Path below the report's folder, with forward slashes, to the bytes of the file: HTML page, PDF, model card,
        figures (SVG and PNG) and tables (TSV). The same document gives the same bytes.
    """
    report = Report.model_validate_json(document)
    digest = hashlib.sha256(document).hexdigest()
    made = sections(report)
    content = lay_out(made)
    pictures = {figure.name: paint(figure.draw) for figure in figures_of(made)}
    files = {
        "report.html": web_page(report, content, pictures, digest),
        "report.pdf": printed(report, content, pictures, document, digest),
        "model_card.md": model_card(report, digest),
    }
    for name, picture in pictures.items():
        files[f"figures/{name}.svg"] = picture.svg
        files[f"figures/{name}.png"] = picture.png
    for table in tables_of(made):
        files[f"tables/{table.name}.tsv"] = table_file(table)
    return files


def replace_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write all files of a report, each whole or not at all, and remove figures and tables of an earlier one."""
    for name in sorted(files):
        with replacing(folder / name) as temporary:
            temporary.write_bytes(files[name])
    for kind in ("figures", "tables"):
        for path in (folder / kind).iterdir():
            if f"{kind}/{path.name}" not in files:
                path.unlink()


def table_file(table: Table) -> bytes:
    """Write a table as printed, in TSV; numbers to compute with stand in ``report.json``.

    Cells that a spreadsheet program would take for a formula start with an apostrophe (OWASP, "CSV injection").
    """
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter="\t", lineterminator="\n")
    writer.writerow([_cell(column.title) for column in table.columns])
    writer.writerows([_cell(cell) for cell in row] for row in table.rows)
    return stream.getvalue().encode()


def _cell(text: str) -> str:
    plain = text.replace("\N{MINUS SIGN}", "-").replace("\N{NO-BREAK SPACE}", " ").replace("\n", " ")
    is_formula = plain.startswith(_FORMULA_STARTS) and not _NUMBER.fullmatch(plain)
    return f"'{plain}" if is_formula else plain
