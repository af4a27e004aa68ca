import re
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from pipeline.config import check, load
from pipeline.core.errors import ConfigError
from pipeline.label_settings import LabelSettings

ROOT = Path(__file__).resolve().parents[1]
PLAIN = {"table": "labels.csv", "key": "PatientID"}
LIST = {"style": "list", "names": ["Effusion", "Mass"]}


def test_a_study_asks_for_classes_or_findings():
    classes = LabelSettings.model_validate({**PLAIN, "classes": ["no", "yes"]})
    assert (classes.kind, classes.outputs) == ("classes", ("no", "yes"))
    findings = LabelSettings.model_validate({**PLAIN, "findings": LIST})
    assert (findings.kind, findings.outputs) == ("findings", ("Effusion", "Mass"))
    single = LabelSettings.model_validate({**PLAIN, "findings": {"style": "columns", "names": ["Mass"]}})
    assert single.outputs == ("Mass",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "either the `classes`"),
        ({"classes": ["no", "yes"], "findings": LIST}, "either the `classes`"),
        ({"classes": ["yes"]}, "at least two classes"),
        ({"classes": ["yes", "yes"]}, "listed twice"),
        ({"findings": {**LIST, "names": ["Mass", "Mass"]}}, "listed twice"),
        ({"findings": {**LIST, "others": ["Mass"]}}, "two meanings"),
        ({"findings": {**LIST, "none": ["Mass"]}}, "two meanings"),
        ({"findings": {"style": "columns", "names": ["Mass"], "absent": ["0", ""]}}, "two meanings"),
        ({"findings": {**LIST, "names": ["a=1"]}}, "without = or ;"),
        ({"findings": {**LIST, "names": ["a;b"]}}, "without = or ;"),
        ({"findings": {**LIST, "names": [" a"]}}, "without blanks"),
        ({"findings": {**LIST, "names": [""]}}, "without blanks"),
        ({"findings": {**LIST, "names": []}}, "at least 1"),
        ({"findings": {"names": ["Mass"]}}, "style"),
    ],
)
def test_labels_that_could_be_misread_are_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        LabelSettings.model_validate({**PLAIN, **changes})


def test_an_unknown_key_among_the_findings_is_told_with_the_nearest():
    values = {"study": "a", "ingest": {"source": "x"}, "label": {**PLAIN, "findings": {**LIST, "seperator": ","}}}
    with pytest.raises(ConfigError, match=r"label\.findings\.seperator.*did you mean `separator`"):
        check(values, {}, "study.yaml")


def test_the_example_and_the_page_on_labels_hold():
    example = load(ROOT / "config/examples/cxr14_findings.yaml")
    assert len(example.label.outputs) == 8
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/labels.md").read_text(encoding="utf-8"), re.DOTALL)
    kinds = [LabelSettings.model_validate(yaml.safe_load(block)["label"]).findings.style for block in blocks]
    assert kinds == ["list", "columns"]
