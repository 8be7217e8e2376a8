"""Probabilities that are those of the posterior, state that adds up, and less regret than an A/B test."""

from __future__ import annotations

import json
import math
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import PenstockError
from penstock.experiments.assignment import position
from penstock.experiments.bandits import (
    Bandit,
    Decision,
    EpsilonGreedy,
    GaussianThompson,
    Pending,
    Policy,
    Thompson,
    Ucb,
    best_of_betas,
    best_of_normals,
    choose,
)
from penstock.experiments.counts import Moments
from penstock.experiments.planning import plan_proportions

POLICIES = [Thompson(), GaussianThompson(), Ucb(), EpsilonGreedy()]


# --- probabilities ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ([1, 1], [1, 1]),
        ([121, 101, 90], [881, 901, 880]),
        ([2, 300], [20, 2700]),
        ([1, 1000, 900, 3], [1, 9000, 9100, 40]),
    ],
)
def test_thompsons_probabilities_are_those_of_many_draws(a: list[int], b: list[int]) -> None:
    draws = np.random.default_rng(0).beta(a, b, (400_000, len(a)))
    wanted = np.bincount(draws.argmax(axis=1), minlength=len(a)) / len(draws)
    assert best_of_betas(a, b) == pytest.approx(wanted, abs=0.004)


def _product(f, g, h, x: float) -> float:
    return f(x) * g(x) * h(x)


def test_the_quadrature_is_that_of_a_fine_grid() -> None:
    from scipy import integrate, stats

    a, b = [30, 35, 2], [300, 310, 12]
    for i, found in enumerate(best_of_betas(a, b)):
        one, other = (stats.beta(a[j], b[j]) for j in range(3) if j != i)
        own = stats.beta(a[i], b[i])
        product = partial(_product, own.pdf, one.cdf, other.cdf)
        exact = integrate.quad(product, 0, 1, limit=200, points=[0.1])[0]
        assert found == pytest.approx(exact, abs=1e-4)


def test_two_normals_have_a_closed_form() -> None:
    for gap, one, other in [(0.0, 1.0, 1.0), (1.0, 0.5, 2.0), (-3.0, 1.0, 0.1)]:
        wanted = 0.5 * math.erfc(gap / math.hypot(one, other) / math.sqrt(2))
        assert best_of_normals([gap, 0.0], [one, other])[1] == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize(
    "policy", [Thompson(0.05), GaussianThompson(0.05), Ucb(0.05), EpsilonGreedy(0.1, 0.05)]
)
@given(data=st.lists(st.tuples(st.integers(0, 5000), st.floats(0, 1)), min_size=2, max_size=5))
@settings(max_examples=30, deadline=None)
def test_every_arm_has_its_floor(policy: Policy, data: list[tuple[int, float]]) -> None:
    arms = {str(i): Moments(n, n * mean, n * mean) for i, (n, mean) in enumerate(data)}
    found = policy.probabilities(arms)
    assert sum(found.values()) == pytest.approx(1)
    assert min(found.values()) >= 0.05 - 1e-12


def test_a_floor_that_is_more_than_there_is_is_refused() -> None:
    with pytest.raises(PenstockError, match="floor"):
        Thompson(floor=0.4).probabilities({arm: Moments() for arm in "abc"})


@pytest.mark.parametrize("policy", POLICIES)
def test_the_logged_propensity_is_how_often_an_arm_is_chosen(policy: Policy) -> None:
    bandit = Bandit(
        policy, {"a": Moments(50, 10.0, 10.0), "b": Moments(60, 15.0, 15.0), "c": Moments(40, 9.0, 9.0)}
    )
    choices = [bandit.choose(position("salt", str(n))) for n in range(20_000)]
    for arm, share in bandit.probabilities().items():
        chosen = [choice for choice in choices if choice.arm == arm]
        assert len(chosen) / len(choices) == pytest.approx(share, abs=0.012)
        assert all(choice.propensity == share for choice in chosen)
    assert bandit.choose(position("salt", "7")) == choices[7]


def test_a_draw_ends_at_an_arm_that_has_a_share() -> None:
    assert choose({"a": 0.3, "b": 0.7, "c": 0.0}, 1 - 1e-17).arm == "b"
    assert choose({"a": 0.0, "b": 1.0}, 1e-17).arm == "b"


def test_ucb_is_that_of_the_paper_and_tries_each_arm_first() -> None:
    arms = {"a": Moments(100, 50.0, 50.0), "b": Moments(10, 4.0, 4.0)}
    bound = {arm: kept.mean + math.sqrt(2 * math.log(110) / kept.count) for arm, kept in arms.items()}
    assert Ucb().probabilities(arms) == {"a": 0.0, "b": 1.0}
    assert bound["b"] > bound["a"]
    assert Ucb().probabilities({**arms, "c": Moments(), "d": Moments()}) == {
        "a": 0,
        "b": 0,
        "c": 0.5,
        "d": 0.5,
    }


def test_gaussian_rewards_of_any_size() -> None:
    rng = np.random.default_rng(1)
    bandit = Bandit.new(GaussianThompson(mean=100, deviation=50), ["a", "b"])
    assert bandit.probabilities()["a"] == pytest.approx(0.5)
    bandit.update([("a", x) for x in rng.normal(100, 10, 200)] + [("b", x) for x in rng.normal(103, 10, 200)])
    error = 10 * math.sqrt(2 / 200)
    gap = bandit.arms["b"].mean - bandit.arms["a"].mean
    assert bandit.probabilities()["b"] == pytest.approx(
        0.5 * math.erfc(-gap / error / math.sqrt(2)), abs=0.02
    )


# --- state ------------------------------------------------------------------------------------------

rewards = st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 1).map(float)), max_size=20)


@given(rewards, rewards, st.sampled_from(POLICIES))
@settings(deadline=None)
def test_two_routers_know_together_what_one_would(left, right, policy: Policy) -> None:
    both, one, other = (Bandit.new(policy, "ab") for _ in range(3))
    both.update([*right, *left])
    one.update(left)
    other.update(right)
    assert (one + other).arms == (other + one).arms == both.arms
    kept = Bandit.load(json.loads(json.dumps((one + other).dump())))
    assert kept == one + other
    assert kept.probabilities() == both.probabilities()


def test_an_update_changes_what_is_chosen() -> None:
    bandit = Bandit.new(Thompson(), "ab")
    assert bandit.probabilities()["a"] == pytest.approx(0.5)
    bandit.update([("a", 1.0)] * 20 + [("b", 0.0)] * 20)
    assert bandit.probabilities()["a"] > 0.999


@pytest.mark.parametrize(
    ("policy", "reward"), [(Thompson(), 1.5), (Ucb(), -0.1), (GaussianThompson(), math.nan)]
)
def test_rewards_that_cannot_be_are_refused_and_change_nothing(policy: Policy, reward: float) -> None:
    bandit = Bandit.new(policy, "ab")
    with pytest.raises(PenstockError, match="reward"):
        bandit.update([("a", 1.0), ("b", reward)])
    with pytest.raises(PenstockError, match="arm 'c'"):
        bandit.update([("c", 1.0)])
    assert bandit == Bandit.new(policy, "ab")
    with pytest.raises(PenstockError, match="policy 'magic'"):
        Bandit.load({"policy": {"name": "magic"}, "arms": {}})
    with pytest.raises(PenstockError, match="add up"):
        _ = bandit + Bandit.new(policy, "abc")


def test_a_reward_counts_once_and_none_counts_in_the_end() -> None:
    pending = Pending(wait=10.0, most=3)
    for n in range(3):
        pending.decided(Decision(str(n), "a", 0.5, time=float(n)))
    pending.decided(Decision("0", "b", 0.1, time=99.0))
    assert pending.rewarded("0") == Decision("0", "a", 0.5, time=0.0)
    assert pending.rewarded("0") is None
    again = Pending(wait=10.0, most=3)
    again.restore(json.loads(json.dumps(pending.dump())))
    assert again.over(10.9) == []
    assert [(item.decision, reward) for item, reward in again.over(11.0)] == [("1", 0.0)]
    for n in range(3, 7):
        again.decided(Decision(str(n), "a", 0.5, time=float(n)))
    assert [item.decision for item, _ in again.over(11.0)] == ["2", "3"]
    assert len(again) == 3


# --- regret -----------------------------------------------------------------------------------------


def _bandit(
    policy: Policy, rates: np.ndarray, users: int, seed: int, *, batch: int = 100, delay: int = 0
) -> float:
    """Regret; rewards come in after ``delay`` further batches."""
    rng = np.random.default_rng(seed)
    bandit = Bandit.new(policy, map(str, range(len(rates))))
    waiting, regret = [], 0.0
    for _ in range(users // batch):
        n = rng.multinomial(batch, list(bandit.probabilities().values()))
        successes = rng.binomial(n, rates)
        regret += float((n * (rates.max() - rates)).sum())
        waiting.append((n, successes))
        if len(waiting) > delay:
            n, successes = waiting.pop(0)
            bandit += _learnt(policy, n, successes)
    return regret


def _learnt(policy: Policy, n: np.ndarray, successes: np.ndarray) -> Bandit:
    arms = {
        str(i): Moments(int(k), float(s), float(s)) for i, (k, s) in enumerate(zip(n, successes, strict=True))
    }
    return Bandit(policy, arms)


def _ab(rates: np.ndarray, users: int, planned: int, seed: int) -> float:
    """Uniform to the planned number of users, then the arm that did best."""
    each = min(planned, users) // len(rates)
    best = np.random.default_rng(seed).binomial(each, rates).argmax()
    gaps = rates.max() - rates
    return float(each * gaps.sum() + (users - each * len(rates)) * gaps[best])


@pytest.mark.parametrize(
    ("rates", "effect", "users"),
    [
        ((0.05, 0.07), 0.01, 20_000),
        ((0.1, 0.1, 0.1, 0.13), 0.02, 30_000),
        ((0.04, 0.05, 0.05, 0.06, 0.08), 0.01, 50_000),
    ],
)
def test_thompson_regrets_a_third_of_what_an_ab_test_does(rates, effect: float, users: int) -> None:
    planned = plan_proportions(rates[0], effect, shares=(1,) * len(rates)).total
    known = np.array(rates)
    ours = np.mean([_bandit(Thompson(floor=0.005), known, users, seed) for seed in range(8)])
    theirs = np.mean([_ab(known, users, planned, seed) for seed in range(200)])
    assert theirs > 3 * ours


@pytest.mark.parametrize("policy", [Thompson(), EpsilonGreedy(), GaussianThompson(mean=0.1, deviation=0.3)])
def test_rewards_that_come_late_cost_little(policy: Policy) -> None:
    rates = np.array((0.1, 0.1, 0.1, 0.16))
    late = np.mean([_bandit(policy, rates, 20_000, seed, delay=10) for seed in range(10)])
    uniform = 20_000 * 0.75 * 0.06
    assert late < uniform / 3
