"""The report as one self-contained HTML page: no script, no request, every text escaped."""

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.reporting.document import Report
from pipeline.reporting.formatting import day

if TYPE_CHECKING:
    from jinja2 import Environment

    from pipeline.reporting.figures.style import Picture

_PIXELS = 1.7  # for one point of a figure: its text is then as large as the page's
TEMPLATES = Path(__file__).with_name("templates")


def web_page(report: Report, content: list[dict[str, Any]], pictures: "Mapping[str, Picture]", digest: str) -> bytes:
    """Set the report as HTML.

    Parameters
    ----------
    report
        For title and date.
    content
        The sections as `layout.lay_out` gives them.
    pictures
        The figures by name; they are embedded as images, so that nothing in them can act on the page.
    digest
        SHA-256 of ``report.json``.
    """
    from markupsafe import Markup

    style = (TEMPLATES / "report.css").read_text(encoding="utf-8")
    images = {
        name: {
            "source": f"data:image/svg+xml;base64,{base64.b64encode(picture.svg).decode()}",
            "width": round(picture.width * _PIXELS),
            "height": round(picture.height * _PIXELS),
        }
        for name, picture in pictures.items()
    }
    page = _environment().get_template("report.html.jinja")
    text = page.render(
        report=report,
        sections=content,
        images=images,
        digest=digest,
        date=day(report.evaluation.created),
        style=Markup(style),
        policy=content_policy(style),
    )
    return text.encode()


def content_policy(style: str) -> str:
    """Allow this page's own style and embedded images, and nothing else."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"


def _environment() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
