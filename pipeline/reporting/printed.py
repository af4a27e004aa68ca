"""The report as PDF/A-3a and PDF/UA-1 through typst, with ``report.json`` attached.

All words reach typst as data (``json()``), never as markup. Fonts are those of matplotlib and of typst itself, the
date is that of the evaluation: the same report gives the same bytes on every machine with the same libraries.
"""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.reporting.document import Report
from pipeline.reporting.figures.style import MISSING_CHARACTER, drawable, font_folder
from pipeline.reporting.formatting import day, moment

if TYPE_CHECKING:
    from pipeline.reporting.figures.style import Picture

_TEMPLATE = Path(__file__).with_name("templates") / "report.typ"
_REPLACED = (
    f"The fonts of this file lack some characters; {MISSING_CHARACTER} stands in their place. report.html shows them."
)
_NOT_DRAWN = frozenset({"alt"})  # read aloud, so no font is needed


def printed(
    report: Report, content: list[dict[str, Any]], pictures: "Mapping[str, Picture]", document: bytes, digest: str
) -> bytes:
    """Set the report as PDF.

    Parameters
    ----------
    report
        For title and date.
    content
        The sections as `layout.lay_out` gives them.
    pictures
        The figures by name.
    document
        The bytes of ``report.json``, attached as they are.
    digest
        Their SHA-256.
    """
    import typst

    created = moment(report.evaluation.created)
    values = {
        "title": report.text.title,
        "study": report.evaluation.study,
        "status": report.status,
        "day": day(report.evaluation.created),
        "date": [created.year, created.month, created.day],
        "code": report.evaluation.code,
        "digest": digest,
        "sections": content,
        "note": "",
        "widths": {name: picture.width for name, picture in pictures.items()},
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "report.json").write_bytes(document)
        shown = _drawable(values)
        if str(shown).count(MISSING_CHARACTER) > str(values).count(MISSING_CHARACTER):
            shown["note"] = _REPLACED
        (folder / "content.json").write_text(json.dumps(shown), encoding="utf-8")
        (folder / "report.typ").write_bytes(_TEMPLATE.read_bytes())
        for stem, picture in pictures.items():
            (folder / f"{stem}.svg").write_bytes(picture.svg)
        made: bytes = typst.compile(
            folder / "report.typ",
            root=folder,
            font_paths=[font_folder()],
            ignore_system_fonts=True,
            format="pdf",
            pdf_standards=["a-3a", "ua-1"],
            timestamp=created,
        )
    return made


def _drawable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: item if key in _NOT_DRAWN else _drawable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_drawable(item) for item in value)
    return drawable(value) if isinstance(value, str) else value
