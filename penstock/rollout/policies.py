"""What a bandit has learned by now, as shares that routers can decide by without asking anybody."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.config.rollout import Bandit, Kpi
from penstock.rollout.settings import Settings

__all__ = ["floored", "learned"]

DRAWS = 20_000
RIDGE = 1.0
Array = NDArray[np.float64]


def learned(settings: Settings, strategy: Bandit, now: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """A policy, as the state keeps it.

    Args:
        settings: In force.
        strategy: Theirs.
        now: Counters of the stage.
    """
    kpi = settings.plan.kpi
    assert kpi is not None
    arms = [arm for arm in strategy.arms if arm not in settings.off]
    counters = [now.get(arm, {}) for arm in arms]
    policy: dict[str, Any] = {"stage": settings.stage, "floor": strategy.floor}
    if len(arms) == 1:
        return policy | {"shares": {arms[0]: 1.0}}
    shares = floored(_shares(strategy, kpi, counters), strategy.floor)
    policy["shares"] = dict(zip(arms, shares.tolist(), strict=True))
    if strategy.policy == "linucb":
        size = 1 + len(strategy.context)
        policy["exploration"] = strategy.exploration
        policy["linear"] = {
            arm: _ridge(found, size, kpi)
            for arm, found in zip(strategy.arms, _all(strategy, now), strict=True)
        }
    return policy


def _all(strategy: Bandit, now: Mapping[str, Mapping[str, float]]) -> list[Mapping[str, float]]:
    return [now.get(arm, {}) for arm in strategy.arms]


def floored(shares: Array, floor: float) -> Array:
    """Shares of which each is at least ``floor``; they still add up to 1."""
    return np.asarray(floor + (1.0 - floor * len(shares)) * shares / shares.sum(), np.float64)


def _shares(strategy: Bandit, kpi: Kpi, counters: list[Mapping[str, float]]) -> Array:
    count = np.array([found.get("kpi_n", 0.0) for found in counters])
    total = np.array([found.get("kpi_total", 0.0) for found in counters])
    squares = np.array([found.get("kpi_squares", 0.0) for found in counters])
    if strategy.policy == "thompson":
        return _thompson(kpi, count, total, squares)
    sign = 1.0 if kpi.goal == "up" else -1.0
    width = kpi.high - kpi.low
    seen = count > 0
    mean = np.where(seen, total / np.maximum(count, 1.0), 0.0)
    if strategy.policy == "ucb":
        # UCB1 (Auer, Cesa-Bianchi & Fischer, 2002), for rewards of that width.
        bonus = width * np.sqrt(2.0 * np.log(max(count.sum(), 1.0)) / np.maximum(count, 1.0))
        return _best(np.where(seen, sign * mean + strategy.exploration * bonus, np.inf))
    if strategy.policy == "epsilon_greedy":
        best = _best(np.where(seen, sign * mean, np.inf))
        return (1.0 - strategy.epsilon) * best + strategy.epsilon / len(count)
    return np.full(
        len(count), 1.0 / len(count)
    )  # LinUCB's are of each request; these, where it has no context


def _best(score: Array) -> Array:
    """All to the best; what is equally good shares."""
    found = (score == score.max()).astype(np.float64)
    return np.asarray(found / found.sum(), np.float64)


def _thompson(kpi: Kpi, count: Array, total: Array, squares: Array) -> Array:
    """The chance of each arm to be the best: Beta posteriors of proportions, normal ones of means."""
    rng = np.random.default_rng([round(count.sum()), round(abs(total.sum()) * 1000)])
    if kpi.kind == "proportion":
        hits = np.clip(total, 0.0, count)
        drawn = rng.beta(1.0 + hits, 1.0 + count - hits, (DRAWS, len(count)))
    else:
        width = kpi.high - kpi.low
        mean = (total + (kpi.low + kpi.high) / 2.0) / (count + 1.0)
        spread = np.maximum(squares / np.maximum(count, 1.0) - (total / np.maximum(count, 1.0)) ** 2, 0.0)
        # One imagined reward of the widest spread keeps few alike ones from looking certain.
        deviation = np.sqrt((count * spread + width**2 / 4.0) / (count + 1.0) / (count + 1.0))
        drawn = rng.normal(mean, deviation, (DRAWS, len(count)))
    best = np.argmax(drawn if kpi.goal == "up" else -drawn, axis=1)
    return np.bincount(best, minlength=len(count)) / DRAWS


def _ridge(counters: Mapping[str, float], size: int, kpi: Kpi) -> list[Any]:
    """Coefficients and inverse Gram matrix of one arm's rewards on the context."""
    gram = RIDGE * np.eye(size)
    moment = np.zeros(size)
    for i in range(size):
        moment[i] = counters.get(f"rx_{i}", 0.0)
        for j in range(i, size):
            value = counters.get(f"xx_{i}_{j}", 0.0)
            gram[i, j] += value
            if i != j:
                gram[j, i] += value
    inverse = np.linalg.inv(gram)
    sign = 1.0 if kpi.goal == "up" else -1.0
    return [(sign * inverse @ moment).tolist(), inverse.tolist()]
