"""Contexts tell which arm is best; state adds up; propensities are those drawn with."""

from __future__ import annotations

import json

import numpy as np
import pytest

from penstock.errors import PenstockError
from penstock.experiments.assignment import position
from penstock.experiments.contextual import LinearBandit

THETA = np.array([[0.1, 0.4, 0.0], [0.3, -0.2, 0.1], [0.2, 0.0, -0.4]])


def _contexts(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.column_stack([np.ones(n), rng.uniform(-1, 1, (n, 2))])


@pytest.mark.parametrize(("method", "scale"), [("linucb", 0.5), ("thompson", 0.3)])
def test_it_learns_whom_each_arm_is_for(method, scale: float) -> None:
    rng = np.random.default_rng(0)
    bandit = LinearBandit("abc", 3, method=method, scale=scale)
    regrets, waiting = [], []
    for n, x in enumerate(_contexts(rng, 3000)):
        means = THETA @ x
        choice = bandit.choose(x, position("s", str(n)))
        regrets.append(means.max() - means["abc".index(choice.arm)])
        waiting.append((choice.arm, x, means["abc".index(choice.arm)] + rng.normal(0, 0.3)))
        if len(waiting) == 50:  # rewards come late, in batches
            bandit.update(waiting)
            waiting = []
    best_single = (THETA @ _contexts(rng, 20_000).T).mean(axis=1).argmax()
    gaps = (THETA @ _contexts(rng, 20_000).T).T
    alone = (gaps.max(axis=1) - gaps[:, best_single]).mean()
    assert np.mean(regrets[1500:]) < alone / 5
    assert np.mean(regrets[1500:]) < np.mean(regrets[:300])


def test_linucb_is_algorithm_1_of_the_paper() -> None:
    rng = np.random.default_rng(1)
    bandit = LinearBandit("ab", 3, scale=1.3, ridge=1.0)
    rows = [(str("ab"[n % 2]), x, float(rng.normal())) for n, x in enumerate(_contexts(rng, 40))]
    bandit.update(rows)
    x = np.array([1.0, 0.2, -0.5])
    upper = []
    for arm in "ab":
        a = np.eye(3) + sum(np.outer(c, c) for which, c, _ in rows if which == arm)
        b = sum(r * c for which, c, r in rows if which == arm)
        upper.append(np.linalg.solve(a, b) @ x + 1.3 * np.sqrt(x @ np.linalg.solve(a, x)))
    assert bandit.probabilities(x)["ab"[int(np.argmax(upper))]] == 1.0


def test_linear_thompson_has_the_probabilities_of_its_posterior() -> None:
    rng = np.random.default_rng(2)
    bandit = LinearBandit("abc", 3, method="thompson", scale=0.4, floor=0.02)
    bandit.update([(str("abc"[n % 3]), x, float(THETA[n % 3] @ x)) for n, x in enumerate(_contexts(rng, 30))])
    x = np.array([1.0, 0.3, 0.1])
    draws = []
    for arm in bandit.arms.values():
        a = arm.xx + np.eye(3)
        draws.append(
            rng.multivariate_normal(np.linalg.solve(a, arm.xr), 0.16 * np.linalg.inv(a), 200_000) @ x
        )
    wanted = 0.02 + 0.94 * np.bincount(np.argmax(draws, axis=0), minlength=3) / 200_000
    assert list(bandit.probabilities(x).values()) == pytest.approx(wanted, abs=0.005)


def test_state_adds_up_and_survives_json() -> None:
    rng = np.random.default_rng(3)
    rows = [(str("ab"[n % 2]), x, float(rng.normal())) for n, x in enumerate(_contexts(rng, 60))]
    both, one, other = (LinearBandit("ab", 3, method="thompson", floor=0.1) for _ in range(3))
    both.update(rows[::-1])
    one.update(rows[:20])
    other.update(rows[20:])
    one.merge(other.arms)
    kept = LinearBandit.load(json.loads(json.dumps(one.dump())))
    x = [1.0, 0.5, -0.5]
    assert kept.probabilities(x) == one.probabilities(x)
    assert one.probabilities(x) == pytest.approx(both.probabilities(x))
    assert [arm.count for arm in kept.arms.values()] == [30, 30]


@pytest.mark.parametrize("context", [[1.0, 2.0], [1.0, float("nan"), 0.0]])
def test_contexts_that_cannot_be_are_refused(context: list[float]) -> None:
    bandit = LinearBandit("ab", 3)
    with pytest.raises(PenstockError, match="context"):
        bandit.probabilities(context)
    with pytest.raises(PenstockError, match="context"):
        bandit.update([("a", context, 1.0)])


@pytest.mark.parametrize("settings", [{"method": "magic"}, {"ridge": 0.0}, {"floor": 0.6}])
def test_settings_that_cannot_be_are_refused(settings) -> None:
    with pytest.raises(PenstockError):
        LinearBandit("ab", 3, **settings)
