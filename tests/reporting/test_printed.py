"""The PDF: compiled as PDF/A-3a and PDF/UA-1, with report.json attached."""

import re
import zlib

import pytest

from pipeline.reporting.document import Report
from pipeline.reporting.layout import lay_out
from pipeline.reporting.printed import printed
from pipeline.reporting.sections.order import sections


def streams(pdf):
    """All streams of a PDF, decompressed where they are compressed."""
    for found in re.finditer(rb"stream\r?\n(.*?)\r?\nendstream", pdf, re.DOTALL):
        try:
            yield zlib.decompress(found[1])
        except zlib.error:
            yield found[1]


def test_the_attached_document_is_the_document(files, document):
    assert document in list(streams(files["report.pdf"]))
    assert b"/AFRelationship/Data" in files["report.pdf"].replace(b" ", b"")


def test_it_claims_archive_and_accessibility(files):
    metadata = b"".join(files["report.pdf"].split()) + b"".join(b"".join(streams(files["report.pdf"])).split())
    assert b"<pdfaid:part>3</pdfaid:part>" in metadata
    assert b"<pdfaid:conformance>A</pdfaid:conformance>" in metadata
    assert b"<pdfuaid:part>1</pdfuaid:part>" in metadata


def test_it_says_when_the_evaluation_was_made_and_not_when_it_was_printed(files):
    everything = files["report.pdf"] + b"".join(streams(files["report.pdf"]))
    dates = set(re.findall(rb"D:(\d{8})", everything)) | set(re.findall(rb"(\d{4}-\d\d-\d\d)T\d\d:", everything))
    assert dates == {b"20261121", b"2026-11-21"}


def test_hostile_words_do_not_compile_as_markup(hostile_files):
    assert hostile_files["report.pdf"].startswith(b"%PDF-1.7")


def test_a_figure_without_alternative_text_does_not_compile(document):
    report = Report.model_validate_json(document)
    laid = lay_out(sections(report)[:5])[4:]
    from pipeline.reporting.figures.style import Picture

    drawing = b'<svg xmlns="http://www.w3.org/2000/svg" width="10" height="10"><rect width="5" height="5"/></svg>'
    names = [figure["name"] for block in laid[0]["blocks"] for figure in block.get("figures", ())]
    pictures = {name: Picture(drawing, b"", 10, 10) for name in names}
    assert printed(report, laid, pictures, document, "0" * 64).startswith(b"%PDF")
    for block in laid[0]["blocks"]:
        for figure in block.get("figures", ()):
            figure["alt"] = None
    with pytest.raises(RuntimeError, match="alt"):
        printed(report, laid, pictures, document, "0" * 64)
