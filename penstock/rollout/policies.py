"""What a bandit has learned by now, as routers decide by it without asking anybody."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from penstock.config.rollout import Bandit, Kpi
from penstock.experiments.bandits import EpsilonGreedy, GaussianThompson, Thompson, Ucb
from penstock.experiments.contextual import Linear, LinearBandit
from penstock.experiments.counts import Moments
from penstock.rollout.settings import Settings

__all__ = ["learned"]

Counters = Mapping[str, Mapping[str, float]]


def learned(settings: Settings, strategy: Bandit, now: Counters) -> dict[str, Any]:
    """A policy, as the state keeps it.

    Args:
        settings: In force.
        strategy: Theirs.
        now: Counters of the stage.
    """
    kpi = settings.plan.kpi
    assert kpi is not None
    arms = [arm for arm in strategy.arms if arm not in settings.off]
    found: dict[str, Any] = {"stage": settings.stage}
    if strategy.policy == "linucb":
        found["shares"] = dict.fromkeys(arms, 1.0 / len(arms))  # where a request has no context
        found["linear"] = _linear(strategy, kpi, arms, now).dump()
    else:
        moments = {arm: _scaled(kpi, now.get(arm, {})) for arm in arms}
        found["shares"] = _policy(strategy, kpi).probabilities(moments)
    return found


def _policy(strategy: Bandit, kpi: Kpi) -> Ucb | EpsilonGreedy | Thompson | GaussianThompson:
    floor = strategy.floor
    if strategy.policy == "ucb":
        return Ucb(floor, scale=2.0 * strategy.exploration)
    if strategy.policy == "epsilon_greedy":
        return EpsilonGreedy(strategy.epsilon, floor)
    return Thompson(floor) if kpi.kind == "proportion" else GaussianThompson(floor, mean=0.5, deviation=0.5)


def _scaled(kpi: Kpi, counters: Mapping[str, float]) -> Moments:
    """Rewards brought to [0, 1], more being better."""
    n = counters.get("kpi_n", 0.0)
    total, squares = counters.get("kpi_total", 0.0), counters.get("kpi_squares", 0.0)
    low, width = kpi.low, kpi.high - kpi.low
    ones = (total - n * low) / width
    twos = (squares - 2 * low * total + n * low * low) / width**2
    if kpi.goal == "down":
        ones, twos = n - ones, n - 2 * ones + twos
    return Moments(round(n), min(n, max(0.0, ones)), min(n, max(0.0, twos)))


def _linear(strategy: Bandit, kpi: Kpi, arms: list[str], now: Counters) -> LinearBandit:
    features = 1 + len(strategy.context)  # one that is always 1
    bandit = LinearBandit(arms, features, scale=strategy.exploration, floor=strategy.floor)
    bandit.merge({arm: _sums(now.get(arm, {}), features, kpi) for arm in arms})
    return bandit


def _sums(counters: Mapping[str, float], features: int, kpi: Kpi) -> Linear:
    xx, xr = np.zeros((features, features)), np.zeros(features)
    for i in range(features):
        xr[i] = counters.get(f"rx_{i}", 0.0) * (1.0 if kpi.goal == "up" else -1.0)
        for j in range(i, features):
            xx[i, j] = xx[j, i] = counters.get(f"xx_{i}_{j}", 0.0)
    return Linear(round(xx[0, 0]), xx, xr)
