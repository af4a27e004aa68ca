"""Reason codes: spelt alike, explained, and used."""

import re
from pathlib import Path

import pytest

from pipeline.core.reasons import REASONS

PACKAGE = Path(__file__).resolve().parents[2] / "pipeline"
SOURCES = {path: path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py") if path.name != "reasons.py"}


@pytest.mark.parametrize("code", REASONS)
def test_a_reason_is_explained_in_sentences(code):
    assert re.fullmatch(r"[A-Z]+(_[A-Z]+)*", code)
    for sentence in REASONS[code]:
        assert sentence[0].isupper()
        assert sentence.endswith(".")


@pytest.mark.parametrize("code", REASONS)
def test_every_code_is_given_somewhere(code):
    assert any(f'"{code}"' in text for text in SOURCES.values()), "a code that nothing gives: remove it"
