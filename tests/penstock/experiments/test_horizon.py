"""The same numbers as statsmodels and SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import confint_proportions_2indep, proportions_ztest

from penstock.errors import PenstockError
from penstock.experiments.counts import Joint, Moments, Proportion
from penstock.experiments.estimates import ratio
from penstock.experiments.horizon import (
    compare,
    compare_adjusted,
    compare_arms,
    compare_ratios,
    holm,
    two_proportions,
    welch,
)

SIDES = {"two-sided": "two-sided", "greater": "larger", "less": "smaller"}


@pytest.mark.parametrize("alternative", SIDES)
@pytest.mark.parametrize(
    ("a", "b"), [((1000, 100), (900, 120)), ((5000, 20), (5000, 41)), ((300, 290), (310, 280))]
)
def test_two_proportions(alternative, a: tuple[int, int], b: tuple[int, int]) -> None:
    found = two_proportions(Proportion(*a), Proportion(*b), alternative=alternative)
    p = proportions_ztest([b[1], a[1]], [b[0], a[0]], alternative=SIDES[alternative])[1]
    assert found.p == pytest.approx(p)
    level = 0.05 if alternative == "two-sided" else 0.1
    low, high = confint_proportions_2indep(b[1], b[0], a[1], a[0], method="newcomb", alpha=level)
    wanted = (low if alternative != "less" else -math.inf, high if alternative != "greater" else math.inf)
    assert (found.low, found.high) == pytest.approx(wanted)


def test_few_events_are_counted_exactly() -> None:
    found = two_proportions(Proportion(50, 1), Proportion(52, 6))
    assert found.method == "Fisher's exact test"
    assert found.p == pytest.approx(stats.fisher_exact([[6, 46], [1, 49]]).pvalue)


@pytest.mark.parametrize("alternative", SIDES)
def test_welch(alternative) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(10, 3, 80), rng.normal(11, 6, 45)
    found = welch(Moments.of(a), Moments.of(b), alternative=alternative)
    wanted = stats.ttest_ind(b, a, equal_var=False, alternative=alternative)
    interval = wanted.confidence_interval(0.95)
    assert (found.p, found.low, found.high) == pytest.approx((wanted.pvalue, interval.low, interval.high))


def test_holm_and_several_arms() -> None:
    p = [0.01, 0.04, 0.03, 0.005, 0.9]
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1].tolist())
    control = Proportion(2000, 200)
    arms = {"b": Proportion(2000, 260), "c": Proportion(2000, 205), "d": Proportion(2000, 240)}
    found = compare_arms(control, arms)
    alone = [compare(control, arm).p for arm in arms.values()]
    assert [item.p for item in found.values()] == pytest.approx(
        multipletests(alone, method="holm")[1].tolist()
    )
    assert found["b"].significant
    assert not found["c"].significant
    assert (
        found["b"].high - found["b"].low > compare(control, arms["b"]).high - compare(control, arms["b"]).low
    )


def _clicks(rng: np.random.Generator, users: int, rate: float) -> tuple[np.ndarray, np.ndarray]:
    """Users differ in views and in taste: views of one user are not independent."""
    views = rng.geometric(0.2, users)
    return rng.binomial(views, rng.beta(1, 1 / rate - 1, users)), views


def test_ratios_of_users_hold_their_level_where_counting_views_does_not() -> None:
    rng = np.random.default_rng(5)
    ours, naive = [], []
    for _ in range(600):
        a, b = _clicks(rng, 400, 0.2), _clicks(rng, 400, 0.2)
        ours.append(compare_ratios(Joint.of(*a), Joint.of(*b)).p)
        naive.append(
            two_proportions(Proportion(a[1].sum(), a[0].sum()), Proportion(b[1].sum(), b[0].sum())).p
        )
    assert 0.03 <= np.mean(np.array(ours) < 0.05) <= 0.075
    assert np.mean(np.array(naive) < 0.05) > 0.15


def test_the_variance_of_a_ratio_is_that_of_the_bootstrap() -> None:
    rng = np.random.default_rng(6)
    y, x = _clicks(rng, 1000, 0.3)
    rows = rng.integers(0, 1000, (3000, 1000))
    found = ratio(Joint.of(y, x))
    assert found.value == pytest.approx(y.sum() / x.sum())
    assert math.sqrt(found.variance) == pytest.approx((y[rows].sum(1) / x[rows].sum(1)).std(), rel=0.05)


def test_what_was_known_before_narrows_the_interval_by_its_correlation() -> None:
    rng = np.random.default_rng(7)
    before = rng.normal(0, 1, (2, 5000))
    after = 0.9 * before + rng.normal(0, math.sqrt(1 - 0.81), (2, 5000))
    after[1] += 0.05
    arms = [Joint.of(y, x) for y, x in zip(after, before, strict=True)]
    found, plain = compare_adjusted(*arms), welch(*(Moments.of(y) for y in after))
    shrunk = (found.high - found.low) / (plain.high - plain.low)
    assert shrunk == pytest.approx(math.sqrt(1 - 0.81), rel=0.05)
    assert found.low < 0.05 < found.high
    assert found.significant


def test_an_adjusted_mean_without_a_varying_covariate_is_the_mean() -> None:
    rng = np.random.default_rng(8)
    a, b = rng.normal(0, 1, (2, 3000))
    found = compare_adjusted(Joint.of(a, np.ones(3000)), Joint.of(b, np.ones(3000)))
    assert found.p == pytest.approx(welch(Moments.of(a), Moments.of(b)).p, rel=1e-2)


@pytest.mark.parametrize(
    "pair",
    [
        (Proportion(), Proportion(5, 2)),
        (Moments(), Moments.of([1.0, 2.0])),
        (Moments.of([1.0]), Moments.of([2.0, 3.0])),
    ],
)
def test_too_few_units_say_nothing(pair) -> None:
    found = compare(*pair)
    assert (found.p, found.low, found.high) == (1.0, -math.inf, math.inf)
    assert found.dump()["low"] is None


def test_units_that_are_all_alike_do_not_divide_by_zero() -> None:
    assert compare(Moments.of([1.0] * 5), Moments.of([1.0] * 5)).p == 1.0
    assert compare(Moments.of([1.0] * 5), Moments.of([2.0] * 5)).p == 0.0
    assert compare(Proportion(100, 0), Proportion(100, 0)).p == 1.0


def test_a_share_is_not_compared_with_a_mean() -> None:
    with pytest.raises(PenstockError, match="proportion"):
        compare(Proportion(5, 2), Moments.of([1.0, 2.0]))
