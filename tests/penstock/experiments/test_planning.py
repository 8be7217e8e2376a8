"""Plans are kept: an effect of the planned size is found as often as was planned."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.stats.power import TTestIndPower
from statsmodels.stats.proportion import power_proportions_2indep

from penstock.errors import PenstockError
from penstock.experiments.counts import Moments, Proportion
from penstock.experiments.horizon import two_proportions, welch
from penstock.experiments.planning import (
    detectable_mean,
    detectable_proportion,
    duration,
    plan_means,
    plan_proportions,
    power_means,
    power_proportions,
)

EFFECTS = 2000


@pytest.mark.parametrize(
    ("baseline", "effect", "power", "shares"),
    [
        (0.1, 0.02, 0.8, (0.5, 0.5)),
        (0.02, 0.01, 0.9, (0.5, 0.5)),
        (0.3, -0.05, 0.8, (0.8, 0.2)),
        (0.6, 0.1, 0.7, (0.5, 0.5)),
    ],
)
def test_power_for_proportions_is_as_planned(baseline: float, effect: float, power: float, shares) -> None:
    plan = plan_proportions(baseline, effect, power=power, shares=shares)
    rng = np.random.default_rng(11)
    a = rng.binomial(plan.units[0], baseline, EFFECTS)
    b = rng.binomial(plan.units[1], baseline + effect, EFFECTS)
    found = [
        two_proportions(Proportion(plan.units[0], int(x)), Proportion(plan.units[1], int(y))).significant
        for x, y in zip(a, b, strict=True)
    ]
    assert np.mean(found) == pytest.approx(power, abs=0.03)


@pytest.mark.parametrize(
    ("deviation", "effect", "power", "shares"),
    [(10.0, 3.0, 0.8, (0.5, 0.5)), (1.0, 1.5, 0.9, (0.5, 0.5)), (5.0, 2.0, 0.8, (0.7, 0.3))],
)
def test_power_for_means_is_as_planned(deviation: float, effect: float, power: float, shares) -> None:
    plan = plan_means(deviation, effect, power=power, shares=shares)
    rng = np.random.default_rng(12)
    a = rng.normal(50, deviation, (EFFECTS, plan.units[0]))
    b = rng.normal(50 + effect, deviation, (EFFECTS, plan.units[1]))
    found = [welch(Moments.of(x), Moments.of(y)).significant for x, y in zip(a, b, strict=True)]
    assert np.mean(found) == pytest.approx(power, abs=0.03)


def test_power_is_that_of_statsmodels() -> None:
    assert power_means(2.0, 5.0, 60, 90) == pytest.approx(TTestIndPower().power(0.4, 60, 0.05, ratio=1.5))
    ours = power_proportions(0.1, 0.03, 2000, 2000)
    assert ours == pytest.approx(power_proportions_2indep(0.03, 0.1, 2000).power, abs=1e-3)
    # Where the normal distribution takes over from t, nothing jumps.
    assert power_means(0.05, 1.0, 5000, 5001) == pytest.approx(power_means(0.05, 1.0, 5001, 5002), abs=2e-4)
    assert power_means(9.0, 1.0, 1000, 1000) == 1.0


def test_a_plan_is_the_least_that_has_the_power() -> None:
    plan = plan_means(5.0, 2.0)
    assert (
        power_means(2.0, 5.0, *plan.units)
        >= 0.8
        > power_means(2.0, 5.0, plan.units[0] - 1, plan.units[1] - 1)
    )
    assert plan_proportions(0.1, 0.02).units == (3841, 3841)


def test_more_arms_take_more_units_each() -> None:
    two, four = plan_proportions(0.1, 0.02), plan_proportions(0.1, 0.02, shares=(1, 1, 1, 1))
    assert four.units[0] > two.units[0]
    assert four.total == sum(four.units)


def test_the_least_detectable_effect_is_the_planned_one() -> None:
    plan = plan_proportions(0.1, 0.02)
    assert detectable_proportion(0.1, *plan.units) == pytest.approx(0.02, rel=1e-3)
    mean = plan_means(5.0, 2.0)
    assert detectable_mean(5.0, *mean.units) == pytest.approx(2.0, rel=1e-2)
    assert np.isnan(detectable_proportion(0.9, 5, 5))


def test_days_are_whole_weeks() -> None:
    assert duration(7800, 1000) == 14
    assert duration(7800, 1000, whole_weeks=False) == 8
    assert duration(7800, 1000, traffic=0.1, whole_weeks=False) == 78
    with pytest.raises(PenstockError, match="per_day"):
        duration(7800, 0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: plan_proportions(0.1, 0.95),
        lambda: plan_proportions(0.0, 0.01),
        lambda: plan_means(1.0, 0.0),
        lambda: plan_means(0.0, 1.0),
        lambda: plan_means(1.0, 1.0, power=1.0),
        lambda: plan_means(1.0, 1.0, shares=(1.0,)),
    ],
)
def test_plans_that_cannot_be_are_refused(make) -> None:
    with pytest.raises(PenstockError):
        make()
