"""The corrected test believes less than the plain one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from penstock.validation.significance import compare

A = [0.90, 0.88, 0.91, 0.89, 0.92]
B = [0.89, 0.87, 0.89, 0.89, 0.90]


def test_the_statistic_is_that_of_nadeau_and_bengio() -> None:
    found = compare(("a", A), ("b", B), test_to_train=0.25, confidence=0.95)
    d = np.subtract(A, B)
    t = d.mean() / math.sqrt((1 / 5 + 0.25) * d.var(ddof=1))
    assert (found.difference, found.t, found.p) == pytest.approx((d.mean(), t, 2 * stats.t.sf(t, 4)))


def test_sharing_training_rows_weakens_the_evidence() -> None:
    plain = stats.ttest_rel(A, B).pvalue
    corrected = compare(("a", A), ("b", B), test_to_train=0.25, confidence=0.95)
    assert plain < 0.05 < corrected.p
    assert "chance alone may explain" in corrected.verdict
    assert compare(("a", A), ("b", B), test_to_train=0.0, confidence=0.95).p == pytest.approx(plain)


def test_a_large_difference_is_beyond_chance() -> None:
    found = compare(("a", A), ("b", [x - 0.3 for x in B]), test_to_train=0.25, confidence=0.95)
    assert found.verdict.startswith("a is better than b beyond chance")


@pytest.mark.parametrize(("second", "p"), [(A, 1.0), ([x - 0.5 for x in [1.0] * 5], None)])
def test_folds_that_do_not_vary_give_no_division_by_zero(second: list[float], p: float | None) -> None:
    first = A if p == 1.0 else [1.0] * 5
    found = compare(("a", first), ("b", second), test_to_train=0.25, confidence=0.95)
    assert math.isnan(found.t)
    assert found.p == (1.0 if p == 1.0 else 0.0)


def test_one_fold_tells_nothing() -> None:
    assert "too few folds" in compare(("a", [1.0]), ("b", [0.5]), test_to_train=0.25, confidence=0.95).verdict
