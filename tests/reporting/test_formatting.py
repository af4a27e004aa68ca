"""Numbers as text."""

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.reporting import blocks, formatting, model_card
from pipeline.reporting.figures import style


@pytest.mark.parametrize("module", [formatting, blocks, model_card, style])
def test_examples(module):
    results = doctest.testmod(module)
    assert results.attempted > 0
    assert results.failed == 0


@given(st.floats(-1e6, 1e6), st.integers(0, 4))
def test_a_decimal_reads_back_as_the_rounded_number(value, places):
    text = formatting.decimal(value, places).replace("\N{MINUS SIGN}", "-")
    assert float(text) == float(f"{value:.{places}f}")
    assert not text.startswith("-") or float(text) < 0


@given(st.floats(-1, 1))
def test_a_difference_shows_its_sign_unless_it_rounds_to_zero(value):
    text = formatting.signed(value)
    rounded = float(f"{value:.3f}")
    assert text[0] == ("+" if rounded > 0 else "\N{MINUS SIGN}" if rounded < 0 else "0")


@given(st.integers(0, 10**12))
def test_a_count_loses_no_digit(number):
    assert int(formatting.count(number).replace(formatting.SPACE, "")) == number


def test_nothing_is_a_dash():
    assert formatting.decimal(None) == formatting.MISSING
    assert formatting.percent(None) == formatting.MISSING
    assert formatting.interval(None, 0.5) == formatting.MISSING
    assert formatting.signed_interval(0.1, None) == formatting.MISSING
    assert formatting.significant(None) == formatting.MISSING


def test_a_moment_without_zone_is_utc():
    assert formatting.moment("2026-11-21T03:20:00") == formatting.moment("2026-11-21T03:20:00Z")
