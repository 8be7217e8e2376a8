"""2,000 experiments without an effect, looked at 100 times each, and as many with one.

Counts are drawn for all experiments at once; that the arrays say what the functions say is a test of its own.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from penstock.errors import PenstockError
from penstock.experiments.counts import Moments, Proportion
from penstock.experiments.estimates import Alternative
from penstock.experiments.planning import plan_proportions
from penstock.experiments.sequential import (
    Segment,
    _grid,
    always_valid,
    always_valid_arms,
    exact_proportions,
    mixture_evidence,
    mixture_reach,
    tuning,
)

EXPERIMENTS, LOOKS = 2000, 100
Counts = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _drawn(
    p: float, q: float, units: int, *, share: float = 0.5, seed: int = 0, experiments: int = EXPERIMENTS
) -> Counts:
    """Units and successes of control and treatment at each look, shape (experiments, looks)."""
    rng = np.random.default_rng(seed)
    treatment = rng.binomial(units // LOOKS, share, (experiments, LOOKS))
    control = units // LOOKS - treatment
    successes = rng.binomial(control, p), rng.binomial(treatment, q)
    n_c, s_c, n_t, s_t = (x.cumsum(axis=1) for x in (control, successes[0], treatment, successes[1]))
    return n_c, s_c, n_t, s_t


def _mixture(
    counts: Counts, planned: int, alternative: Alternative = "two-sided", alpha: float = 0.05
) -> np.ndarray:
    n_c, s_c, n_t, s_t = counts
    shares = (s_c + 1) / (n_c + 2), (s_t + 1) / (n_t + 2)
    variance = shares[0] * (1 - shares[0]) / n_c + shares[1] * (1 - shares[1]) / n_t
    z = (s_t / n_t - s_c / n_c) / np.sqrt(variance)
    ratio = tuning(alpha) * n_c * n_t / (n_c + n_t) / (planned / 4)
    evidence = mixture_evidence(z, ratio, alternative)
    return np.where(np.minimum(n_c, n_t) < 50, 0.0, evidence)


def _exact(counts: Counts, alternative: Alternative, share: float = 0.5) -> np.ndarray:
    of_control, of_treatment = _grid(alternative)
    pooled = (1 - share) * of_control + share * of_treatment
    logs = [np.log(of_control / pooled), np.log((1 - of_control) / (1 - pooled))]
    logs += [np.log(of_treatment / pooled), np.log((1 - of_treatment) / (1 - pooled))]
    n_c, s_c, n_t, s_t = counts
    rows, back = np.unique(
        np.stack([s_c, n_c - s_c, s_t, n_t - s_t], -1).reshape(-1, 4), axis=0, return_inverse=True
    )
    found = np.empty(len(rows))
    for start in range(0, len(rows), 5000):
        products = rows[start : start + 5000] @ np.stack(logs)
        top = products.max(axis=1)
        found[start : start + 5000] = top + np.log(np.exp(products - top[:, None]).mean(axis=1))
    return found[back].reshape(n_c.shape)


def _ever(evidence: np.ndarray, alpha: float = 0.05) -> float:
    return float((evidence >= -math.log(alpha)).any(axis=1).mean())


@pytest.mark.parametrize(("p", "units"), [(0.5, 5_000), (0.1, 15_000), (0.02, 60_000), (0.002, 200_000)])
def test_looking_all_the_time_finds_nothing_where_there_is_nothing(p: float, units: int) -> None:
    counts = _drawn(p, p, units)
    assert _ever(_mixture(counts, units)) <= 0.05
    assert _ever(_mixture(counts, units, "greater")) <= 0.05
    n_c, s_c, n_t, s_t = counts
    pooled = (s_c + s_t) / (n_c + n_t)
    with np.errstate(invalid="ignore", divide="ignore"):
        z = (s_t / n_t - s_c / n_c) / np.sqrt(pooled * (1 - pooled) * (1 / n_c + 1 / n_t))
    assert (np.abs(z) > 1.96).any(axis=1).mean() > 0.25  # what the test for one look would do


@pytest.mark.parametrize("share", [0.5, 0.1])
@pytest.mark.parametrize("planned", [2_000, 100_000])
def test_neither_unequal_shares_nor_a_wrong_plan_break_the_promise(share: float, planned: int) -> None:
    assert _ever(_mixture(_drawn(0.1, 0.1, 20_000, share=share, seed=1), planned)) <= 0.05


def test_heavy_tails_do_not_break_the_promise() -> None:
    rng = np.random.default_rng(4)
    control, treatment = rng.lognormal(0.0, 1.0, (2, EXPERIMENTS, LOOKS, 20))
    found = []
    sums = []
    for arm in (control, treatment):
        n = np.arange(1, LOOKS + 1) * 20
        total, squares = arm.sum(-1).cumsum(1), (arm**2).sum(-1).cumsum(1)
        sums.append((n, total / n, (squares - total**2 / n) / (n - 1) / n))
    (n, one, v), (_, other, w) = sums
    found = mixture_evidence((other - one) / np.sqrt(v + w), tuning(0.05) * n / 2 / (2000 / 4))
    assert _ever(found[:, 3:]) <= 0.05


@pytest.mark.parametrize(
    ("p", "share", "units"), [(0.002, 0.5, 5_000), (0.05, 0.05, 10_000), (0.3, 0.5, 500)]
)
def test_the_exact_test_holds_for_rare_events_and_from_the_first_unit_on(
    p: float, share: float, units: int
) -> None:
    assert _ever(_exact(_drawn(p, p, units, share=share, seed=2), "greater", share)) <= 0.05


def test_the_exact_test_does_not_mind_a_level_that_drifts() -> None:
    rng = np.random.default_rng(9)
    p = 0.02 + 0.06 * np.sin(np.linspace(0, 6, LOOKS)) ** 2
    treatment = rng.binomial(50, 0.2, (EXPERIMENTS, LOOKS))
    s_t, s_c = rng.binomial(treatment, p), rng.binomial(50 - treatment, p)
    counts = tuple(x.cumsum(axis=1) for x in (50 - treatment, s_c, treatment, s_t))
    assert _ever(_exact(counts, "greater", 0.2)) <= 0.05


def test_the_planned_power_is_reached_and_large_effects_end_early() -> None:
    plan = plan_proportions(0.1, 0.02)
    evidence = _mixture(_drawn(0.1, 0.12, plan.sequential), plan.sequential)
    assert 0.8 <= _ever(evidence) < 0.93
    double = _mixture(_drawn(0.1, 0.14, plan.sequential), plan.sequential) >= -math.log(0.05)
    assert double.any(axis=1).mean() > 0.99
    stopped = np.where(double.any(axis=1), double.argmax(axis=1) + 1, LOOKS) / LOOKS * plan.sequential
    assert stopped.mean() < 0.6 * plan.total


def test_the_exact_test_finds_a_broken_canary_soon() -> None:
    counts = _drawn(0.001, 0.03, 4_000, share=0.1, experiments=300)
    found = _exact(counts, "greater", 0.1) >= -math.log(0.05)
    assert found.any(axis=1).mean() > 0.95
    assert np.median(np.where(found.any(axis=1), found.argmax(axis=1), LOOKS)) < LOOKS / 2


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
def test_the_functions_say_what_the_arrays_say(alternative: Alternative) -> None:
    counts = _drawn(0.1, 0.13, 2_000, experiments=3)
    mixture, exact = _mixture(counts, 4_000, alternative), _exact(counts, alternative)
    for row, look in [(0, 99), (1, 20), (2, 60)]:
        n_c, s_c, n_t, s_t = (int(x[row, look]) for x in counts)
        control, treatment = Proportion(n_c, s_c), Proportion(n_t, s_t)
        found = always_valid(control, treatment, planned=4_000, alternative=alternative)
        assert found.p == pytest.approx(min(1.0, math.exp(-mixture[row, look])))
        same = exact_proportions(Segment(control, treatment), alternative=alternative)
        assert same.p == pytest.approx(min(1.0, math.exp(-exact[row, look])))


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
@pytest.mark.parametrize("ratio", [0.01, 1.0, 8.8, 300.0])
def test_the_interval_ends_where_the_test_begins_to_reject(alternative: Alternative, ratio: float) -> None:
    reach = mixture_reach(ratio, 0.05, alternative)
    at = -reach if alternative == "less" else reach
    assert float(mixture_evidence(at, ratio, alternative)) == pytest.approx(-math.log(0.05), abs=1e-6)


def test_the_interval_always_covers_the_truth() -> None:
    rng = np.random.default_rng(5)
    misses = 0
    for _ in range(200):
        a, b = rng.normal(0, 1, 1500), rng.normal(0.1, 2, 1500)
        looks = [
            always_valid(Moments.of(a[:n]), Moments.of(b[:n]), planned=3000) for n in range(60, 1501, 60)
        ]
        misses += any(not look.low < 0.1 < look.high for look in looks)
    assert misses <= 200 * 0.05 + 5


def test_counts_of_different_shares_add_up_as_evidence() -> None:
    """Ten per cent, then half: pooled counts would show a difference that only the hour made."""
    before = Segment(Proportion(9_000, 900), Proportion(1_000, 100), 0.1)
    after = Segment(Proportion(5_000, 100), Proportion(5_000, 100), 0.5)
    assert exact_proportions([before, after]).p == 1.0
    pooled = Segment(before.control + after.control, before.treatment + after.treatment, 0.3)
    assert exact_proportions(pooled).p < 0.001


def test_several_arms_share_the_level() -> None:
    control = Proportion(4000, 400)
    arms = {"b": Proportion(4000, 530), "c": Proportion(4000, 410)}
    found = always_valid_arms(control, arms, planned=8000)
    assert found["b"].significant
    assert not found["c"].significant
    assert found["b"].p >= always_valid(control, arms["b"], planned=8000).p


def test_nothing_is_said_of_a_few_units_and_a_share_is_checked() -> None:
    found = always_valid(Proportion(49, 0), Proportion(10_000, 9_000), planned=1000)
    assert (found.p, found.low, found.high) == (1.0, -math.inf, math.inf)
    with pytest.raises(PenstockError, match="share"):
        exact_proportions(Segment(Proportion(1, 0), Proportion(1, 1), 1.0))


def test_a_small_arm_of_a_skewed_metric_does_not_break_the_promise() -> None:
    """Revenue: one user in fifty buys, for a log-normal amount. With each arm's own variance a fifth of these find a difference."""
    rng = np.random.default_rng(6)
    experiments, looks = 400, 50
    sums = []
    for units in (72, 8):
        values = (rng.random((experiments, looks * units)) < 0.02) * rng.lognormal(
            3, 1.2, (experiments, looks * units)
        )
        total, squares = values.cumsum(1)[:, units - 1 :: units], (values**2).cumsum(1)[:, units - 1 :: units]
        sums.append((np.arange(1, looks + 1) * units, total, squares))
    found, naive = 0, 0
    for row in range(experiments):
        pairs = [
            [
                Moments(int(n[look]), float(total[row, look]), float(squares[row, look]))
                for n, total, squares in sums
            ]
            for look in range(6, looks)
        ]
        found += any(always_valid(*pair, planned=2000).significant for pair in pairs)
        naive += any(
            mixture_evidence(
                (b.mean - a.mean) / math.sqrt(a.variance / a.count + b.variance / b.count + 1e-300),
                tuning(0.05) * a.count * b.count / (a.count + b.count) / 500,
            )
            >= -math.log(0.05)
            for a, b in pairs
        )
    assert found <= experiments * 0.05
    assert naive > experiments * 0.1
