"""Cramér's V: equal to the textbook formula, corrected for chance."""

import numpy as np
import pytest

from pipeline.evaluation.association import cramers_v


def test_equals_the_formula_from_scipys_chi_square():
    from scipy.stats import chi2_contingency

    table = np.array([[20, 5, 10], [4, 30, 11]])
    first = [row for row in range(2) for column in range(3) for _ in range(table[row, column])]
    second = [column for row in range(2) for column in range(3) for _ in range(table[row, column])]
    total = table.sum()
    phi = chi2_contingency(table, correction=False).statistic / total - 2 / (total - 1)
    smaller = min(2 - 1 / (total - 1), 3 - 4 / (total - 1)) - 1
    assert cramers_v(first, second) == pytest.approx(np.sqrt(phi / smaller))


def test_chance_with_many_values_is_near_zero():
    generator = np.random.default_rng(0)
    values = [
        cramers_v(generator.integers(0, 8, 60).tolist(), generator.integers(0, 2, 60).tolist()) for _ in range(50)
    ]
    # Without the correction the mean would be 0.34.
    assert np.mean(values) < 0.15


@pytest.mark.parametrize(("first", "second"), [(["a"] * 5, [0, 1, 0, 1, 0]), ([], []), (["a", "b"], ["x", "x"])])
def test_one_value_is_no_variable(first, second):
    assert cramers_v(first, second) is None
