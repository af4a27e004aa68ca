"""The model card: valid header, escaped words, the evaluation's numbers."""

import yaml

from pipeline.reporting.model_card import escape_markdown
from tests.reporting.conftest import HOSTILE


def test_the_header_is_yaml(hostile_files, hostile_report):
    header = hostile_files["model_card.md"].decode().split("---\n")[1]
    values = yaml.safe_load(header)
    assert values["code"] == hostile_report.evaluation.code == HOSTILE[0]
    assert "research-use-only" in values["tags"]


def test_it_has_the_numbers(files, report):
    text = files["model_card.md"].decode()
    auroc = report.evaluation.estimate("full", "patient", "auroc")
    assert f"| {auroc.value:.3f} | {auroc.low:.3f} to {auroc.high:.3f} |" in text
    assert report.evaluation.strategies[0].training[0].weights_sha256 in text
    assert "Not a medical device" in text


def test_hostile_words_are_no_markup(hostile_files):
    body = hostile_files["model_card.md"].decode().split("---\n", 2)[2]
    assert "<script" not in body
    assert "](" not in body.replace("\\](", "")
    assert "\n=" not in body


def test_a_word_stays_on_its_line():
    assert "\n" not in escape_markdown("one\n\n# two\r\n- three")
    assert escape_markdown("a|b") == r"a\|b"
