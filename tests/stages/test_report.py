"""The report stage: from an evaluation and a configuration to the declared files."""

import ast
import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.config import DEFAULT_FILE, Config, load
from pipeline.core.artefacts import read_document, write_document, write_table
from pipeline.core.errors import ArtefactError, ReportError
from pipeline.core.records import BlankedRectangle, ReceiptLine
from pipeline.core.section import Section
from pipeline.reporting.document import Report
from pipeline.reporting.render import render
from pipeline.stages.report import report
from tests.reporting.synthetic_evaluation import make_evaluation

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def settings():
    return load(ROOT / DEFAULT_FILE)


@pytest.fixture(scope="module")
def evaluation(settings, tmp_path_factory):
    path = tmp_path_factory.mktemp("results") / "evaluation.json"
    found = make_evaluation(
        study=settings.study, classes=settings.label.classes, strategies=("probe",), weights="random", folds=2
    )
    write_document(path, found)
    return path


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """What de-identification did."""
    folder = tmp_path_factory.mktemp("done")
    line = ReceiptLine(tag="(0010,0010)", keyword="PatientName", action="pseudonym", elements=12)
    place = BlankedRectangle(sop_uid="2.25.1", rule="acme", top=0, left=0, rows=2, columns=3)
    write_table(folder / "receipt.tsv", ReceiptLine, [line])
    write_table(folder / "blanked.tsv", BlankedRectangle, [place])
    return {"receipt": folder / "receipt.tsv", "blanked": folder / "blanked.tsv"}


@pytest.fixture(scope="module")
def output(settings, evaluation, done, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reports") / "study"
    report(settings=settings, evaluation=evaluation, **done, output=folder)
    return folder


def test_every_declared_file_is_written(output):
    names = {path.name for path in output.iterdir()}
    assert names == {"report.json", "report.html", "report.pdf", "model_card.md", "figures", "tables"}
    assert all(path.stat().st_size for path in output.rglob("*") if path.is_file())


def test_the_receipt_is_in_the_report(output):
    done = read_document(output / "report.json", Report).deidentification
    assert [code.value for code in done.codes] == ["113100", "113107", "113108"]
    assert [(line.keyword, line.elements) for line in done.receipt] == [("PatientName", 12)]
    assert [(one.rule, one.images) for one in done.cleaned] == [("acme", 1)]
    page = (output / "report.html").read_text(encoding="utf-8")
    assert "Receipt of de-identification" in page
    assert "2.25.1" not in page


def test_all_files_come_from_the_document_alone_and_twice_the_same(output):
    made = render((output / "report.json").read_bytes())
    written = {
        path.relative_to(output).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in output.rglob("*")
        if path.is_file() and path.name != "report.json"
    }
    assert written == {name: hashlib.sha256(content).hexdigest() for name, content in made.items()}


def test_the_configuration_stands_in_it_in_full_but_for_paths(output, settings):
    found = {item.key: item.value for item in read_document(output / "report.json", Report).text.settings}

    def keys(section, prefix=""):
        for name in type(section).model_fields:
            value = getattr(section, name)
            if isinstance(value, Section):
                yield from keys(value, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}"

    assert list(found) == list(keys(settings))
    assert found["ingest.source"] == found["label.table"] == "(a path, not printed)"
    assert found["train.balance_classes"] == "yes"
    assert found["deidentify.key_file"] == "not set"
    text = (output / "report.json").read_text(encoding="utf-8")
    assert str(settings.ingest.source) not in text
    assert settings.label.table.name not in text


def test_methods_cover_every_stage_before_it(output, settings):
    text = read_document(output / "report.json", Report).text
    assert text.is_synthetic == (settings.phantom is not None)
    headings = [item.heading for item in text.methods]
    assert headings == [
        "Images", "De-identification", "Quality", "Preparation", "Labels", "Folds", "Network", "Optimisation",
        "Augmentation", "Evaluation",
    ]  # fmt: skip
    everything = " ".join(item.text for item in text.methods)
    assert f"at most {settings.train.epochs} epochs" in everything
    assert "None" not in everything


@pytest.mark.parametrize(
    "changes",
    [
        {"preprocess": {"intensity": {"kind": "window", "centre": -600, "width": 1500}}},
        {"label": {"classes": ("a", "b", "c")}, "split": {"unit": "site"}, "phantom": None},
        {"train": {"augmentation": {"flip": True}, "compare": ("scratch",), "weights": {"source": "imagenet"}}},
    ],
)
def test_other_configurations_have_words_too(settings, evaluation, changes):
    from pipeline.stages.report import _text

    values = settings.model_dump()
    for name, change in changes.items():
        values[name] = {**values[name], **change} if change is not None else None
    text = _text(Config.model_validate(values), make_evaluation())
    assert all(item.text.endswith(".") for item in text.methods)
    assert text.is_split_by_site == ("split" in changes)


@pytest.mark.parametrize(("strategy", "compare", "is_said"), [("probe", (), False), ("full", ("probe",), True)])
def test_training_is_described_only_if_there_was_some(settings, strategy, compare, is_said):
    from pipeline.stages.report import _text

    values = settings.model_dump()
    values["train"] |= {"strategy": strategy, "compare": compare, "weights": {"source": "imagenet"}}
    text = {item.heading: item.text for item in _text(Config.model_validate(values), make_evaluation()).methods}
    assert ("AdamW" in text["Optimisation"]) == is_said
    assert ("rotated" in text["Augmentation"]) == is_said
    assert ("“probe”" in text["Optimisation"]) == is_said


def test_results_of_another_study_make_no_report(settings, evaluation, done, tmp_path):
    other = settings.model_copy(update={"study": "another"})
    with pytest.raises(ReportError, match="another study"):
        report(settings=other, evaluation=evaluation, **done, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_results_that_do_not_add_up_make_no_report(settings, evaluation, done, tmp_path):
    found = evaluation.read_text(encoding="utf-8").replace('"code": "DUPLICATE_FILE"', '"code": "NOT_DICOM"')
    broken = tmp_path / "evaluation.json"
    broken.write_text(found.replace('"count": 6', '"count": 5'), encoding="utf-8")
    with pytest.raises(ReportError, match="do not add up"):
        report(settings=settings, evaluation=broken, **done, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_evaluation_is_named(settings, done, tmp_path):
    with pytest.raises(ArtefactError, match="absent"):
        report(settings=settings, evaluation=tmp_path / "absent.json", **done, output=tmp_path / "out")


def test_importing_the_stage_loads_no_heavy_library():
    program = (
        "import sys, pipeline.stages.report\n"
        "heavy = {'torch', 'monai', 'sklearn', 'scipy', 'matplotlib', 'typst', 'jinja2', 'numpy'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_the_stage_is_short():
    tree = ast.parse((ROOT / "pipeline/stages/report.py").read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            assert sum(isinstance(item, ast.stmt) for item in ast.walk(node)) <= 41, node.name
