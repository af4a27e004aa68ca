"""All files: pure functions of report.json."""

import csv
import hashlib
import io
import os
import subprocess
import sys

import pytest

from pipeline.reporting.blocks import Column, Table
from pipeline.reporting.document import Report
from pipeline.reporting.layout import figures_of, tables_of
from pipeline.reporting.render import render, replace_files, table_file
from pipeline.reporting.sections.order import sections

PROGRAM = """
import hashlib, pathlib, sys
from pipeline.reporting.render import render
for name, content in sorted(render(pathlib.Path(sys.argv[1]).read_bytes()).items()):
    print(hashlib.sha256(content).hexdigest(), name)
"""


def test_every_figure_and_table_is_a_file(files, document):
    made = sections(Report.model_validate_json(document))
    figures = {f"figures/{figure.name}.{kind}" for figure in figures_of(made) for kind in ("svg", "png")}
    tables = {f"tables/{table.name}.tsv" for table in tables_of(made)}
    assert set(files) == {"report.html", "report.pdf", "model_card.md"} | figures | tables


def test_documents_name_the_digest_of_the_document(files, document):
    digest = hashlib.sha256(document).hexdigest()
    assert digest in files["report.html"].decode()
    assert digest in files["model_card.md"].decode()


def test_figures_carry_no_date_and_no_version(files):
    for name, content in files.items():
        if name.startswith("figures/"):
            assert b"atplotlib v" not in content, name
            assert b"matplotlib.org" not in content, name
            assert b"<dc:" not in content, name
            assert b"tEXt" not in content, name


def test_tables_hold_what_is_printed(files, report):
    for table in tables_of(sections(report)):
        rows = list(csv.reader(io.StringIO(files[f"tables/{table.name}.tsv"].decode()), delimiter="\t"))
        assert rows[0] == [column.title.replace("\N{NO-BREAK SPACE}", " ") for column in table.columns]
        assert len(rows) == 1 + len(table.rows)


def test_no_cell_is_a_formula():
    cells = ("=1+1", "@x", "-2+3", "\N{MINUS SIGN}0.12", "+0.1 to +0.2", "+cmd|x", "plain\nline")
    table = Table(name="x", caption="x", columns=(Column(title="a"),), rows=tuple((cell,) for cell in cells))
    rows = [row[0] for row in csv.reader(io.StringIO(table_file(table).decode()), delimiter="\t")]
    assert rows == ["a", "'=1+1", "'@x", "'-2+3", "-0.12", "+0.1 to +0.2", "'+cmd|x", "plain line"]


def test_files_of_an_earlier_report_go(tmp_path):
    replace_files(tmp_path, {"a": b"1", "figures/x.svg": b"1", "tables/x.tsv": b"1"})
    replace_files(tmp_path, {"a": b"2", "figures/y.svg": b"2", "tables/x.tsv": b"2"})
    found = {str(path.relative_to(tmp_path)): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {"a": b"2", "figures/y.svg": b"2", "tables/x.tsv": b"2"}


@pytest.mark.slow
def test_another_process_gives_the_same_bytes(files, document, tmp_path):
    path = tmp_path / "report.json"
    path.write_bytes(document)
    surroundings = {"PYTHONHASHSEED": "12345", "TZ": "Pacific/Auckland", "LC_ALL": "C", "MPLCONFIGDIR": str(tmp_path)}
    (tmp_path / "matplotlibrc").write_text("font.size: 30\nxtick.major.size: 30\nsvg.fonttype: none\n")
    made = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path)],
        cwd=tmp_path, env={**os.environ, **surroundings}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    expected = [f"{hashlib.sha256(content).hexdigest()} {name}" for name, content in sorted(files.items())]
    assert made.stdout.splitlines() == expected


def test_only_a_report_is_rendered():
    with pytest.raises(ValueError, match="validation error"):
        render(b'{"format": "report 2"}')
