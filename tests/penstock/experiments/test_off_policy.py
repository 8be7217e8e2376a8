"""Intervals cover what a policy is really worth, in worlds where that is known."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

from penstock.errors import PenstockError
from penstock.experiments.off_policy import (
    Log,
    _logistic,
    _ridge,
    doubly_robust,
    fitted_rewards,
    ips,
    on_policy,
    overlap,
    snips,
)

ARMS = 4


class World:
    """Users with two features; who is shown what is clicked with a probability that depends on both."""

    def __init__(self, seed: int, n: int = 1500) -> None:
        rng = np.random.default_rng(seed)
        self.x = rng.normal(0, 1, (n, 2))
        taste = np.random.default_rng(99).normal(0, 0.8, (2, ARMS))
        self.clicks = 1 / (1 + np.exp(1.5 - self.x @ taste))
        self.logging = _softmax(-0.5 * self.x @ taste)  # what runs is bad at it, and not uniform
        self.target = _softmax(1.5 * self.x @ taste)
        self.actions = (self.logging.cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)
        rows = np.arange(n)
        self.rewards = (rng.random(n) < self.clicks[rows, self.actions]).astype(float)
        self.log = Log(self.rewards, self.logging[rows, self.actions], self.target[rows, self.actions])


def _softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z)
    return e / e.sum(axis=1, keepdims=True)


def _truth() -> float:
    world = World(12345, 200_000)
    return float((world.target * world.clicks).sum(axis=1).mean())


TRUTH = _truth()


@pytest.mark.parametrize("method", ["ips", "ips-bernstein", "snips", "snips-bootstrap", "dr", "dr-logistic"])
def test_intervals_cover_the_value_of_the_target_nineteen_times_in_twenty(method: str) -> None:
    def estimate(world: World):
        if method == "ips":
            return ips(world.log, interval="normal")
        if method == "ips-bernstein":
            return ips(world.log, interval="bernstein")
        if method.startswith("snips"):
            return snips(world.log, interval="bootstrap" if "bootstrap" in method else "normal")
        model = "logistic" if "logistic" in method else "ridge"
        q = fitted_rewards(world.log, world.x, world.actions, world.target, model=model)
        return doubly_robust(world.log, *q, interval="normal")

    found = [estimate(World(seed)) for seed in range(30 if "bootstrap" in method else 150)]
    covered = np.mean([item.covers(TRUTH) for item in found])
    assert covered >= (1.0 if "bernstein" in method else 0.9)
    error = np.std([item.value for item in found]) / math.sqrt(len(found))
    assert np.mean([item.value for item in found]) == pytest.approx(TRUTH, abs=4 * error)
    # And it is another one than that of the policy that ran: there was something to estimate.
    assert not any(item.covers(TRUTH) for item in (on_policy(World(seed).rewards) for seed in range(20)))


def test_a_model_makes_the_estimate_sharper_and_a_wrong_one_does_not_make_it_wrong() -> None:
    plain, robust, wrong = [], [], []
    for seed in range(100):
        world = World(seed)
        plain.append(ips(world.log, interval="normal").value)
        rows = np.arange(len(world.rewards))
        expected = (world.target * world.clicks).sum(axis=1)
        robust.append(
            doubly_robust(world.log, world.clicks[rows, world.actions], expected, interval="normal").value
        )
        nonsense = np.full_like(world.clicks, 0.9)
        wrong.append(doubly_robust(world.log, nonsense[:, 0], nonsense[:, 0], interval="normal").value)
    assert np.std(robust) < 0.9 * np.std(plain)
    assert np.mean(wrong) == pytest.approx(TRUTH, abs=4 * np.std(wrong) / 10)


def test_a_right_model_mends_wrong_propensities() -> None:
    world = World(1, 20_000)
    rows = np.arange(len(world.rewards))
    # All propensities are said to be higher than they were.
    lying = Log(world.rewards, np.minimum(1, 1.5 * world.log.propensities), world.log.targets)
    expected = (world.target * world.clicks).sum(axis=1)
    found = doubly_robust(lying, world.clicks[rows, world.actions], expected, interval="normal")
    assert found.value == pytest.approx(TRUTH, abs=0.02)
    assert abs(ips(lying, interval="normal").value - TRUTH) > 0.05
    assert not overlap(lying).trusted  # which is noticed
    assert overlap(world.log).trusted


def test_the_policy_itself_is_estimated_as_its_mean() -> None:
    world = World(2)
    log = Log(world.rewards, world.log.propensities, world.log.propensities)
    mean = world.rewards.mean()
    assert (ips(log).value, snips(log).value) == pytest.approx((mean, mean))
    assert overlap(log).effective == pytest.approx(len(world.rewards))
    assert overlap(log).z == 0.0


def test_clipping_is_told_and_pulls_down() -> None:
    world = World(3)
    cut = float(np.quantile(world.log.weights(), 0.9))
    found = ips(world.log, clip=cut)
    assert found.clipped == pytest.approx(0.1, abs=0.005)
    assert found.value < ips(world.log).value


def test_a_log_that_never_does_what_the_target_does_is_not_trusted() -> None:
    rng = np.random.default_rng(0)
    propensities = np.where(rng.random(5000) < 0.001, 1e-5, 0.5)
    found = overlap(Log(np.zeros(5000), propensities, np.full(5000, 0.5)))
    assert not found.trusted
    assert found.effective < 20
    assert found.largest == pytest.approx(50_000)
    json.dumps(found.dump())
    with pytest.raises(PenstockError, match="targets: all 0"):
        snips(Log([1.0, 0.0], [0.5, 0.5], [0.0, 0.0]))


@pytest.mark.parametrize("fit", ["ridge", "logistic"])
def test_models_are_those_of_scikit_learn(fit: str) -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(0, 1, (400, 3))
    y = (rng.random(400) < 1 / (1 + np.exp(-x[:, 0]))).astype(float)
    design = np.column_stack([np.ones(400), x])
    if fit == "ridge":
        peer = Ridge(alpha=5.0).fit(x, y)
        assert _ridge(design, y, 5.0) == pytest.approx([peer.intercept_, *peer.coef_])
    else:
        peer = LogisticRegression(C=1 / 5.0, tol=1e-8).fit(x, y)
        assert _logistic(design, y, 5.0) == pytest.approx([*peer.intercept_, *peer.coef_[0]], abs=1e-3)


def test_no_row_is_predicted_by_a_model_that_saw_it() -> None:
    """With rewards of pure noise and a feature for each row, a model that saw them would know them."""
    rng = np.random.default_rng(5)
    n = 200
    log = Log(rng.normal(0, 1, n), np.full(n, 0.5), np.full(n, 0.5))
    predicted, expected = fitted_rewards(
        log, np.eye(n), rng.integers(0, 2, n), np.full((n, 2), 0.5), penalty=0.01
    )
    assert abs(np.corrcoef(predicted, log.rewards)[0, 1]) < 0.25
    assert expected.shape == (n,)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (([1.0, 0.0], [0.5, 0.0], [0.5, 0.5]), "propensities: row 1"),
        (([1.0, 0.0], [0.5, 0.5], [1.5, 0.5]), "targets: row 0"),
        (([1.0, math.nan], [0.5, 0.5], [0.5, 0.5]), "rewards: row 1"),
        (([1.0], [0.5, 0.5], [0.5, 0.5]), "shapes"),
        (([], [], []), "shapes"),
    ],
)
def test_logs_that_cannot_be_are_refused(arguments, told: str) -> None:
    with pytest.raises(PenstockError, match=told):
        Log(*arguments)


def test_policies_and_intervals_that_cannot_be_are_refused() -> None:
    world = World(6, 50)
    with pytest.raises(PenstockError, match="add up to 1"):
        fitted_rewards(world.log, world.x, world.actions, 2 * world.target)
    with pytest.raises(PenstockError, match="rows each"):
        fitted_rewards(world.log, world.x[:10], world.actions, world.target)
    with pytest.raises(PenstockError, match="in \\[0, 1\\]"):
        _logistic(np.ones((2, 1)), np.array([2.0, 0.0]), 1.0)
    with pytest.raises(PenstockError, match="predicted"):
        doubly_robust(world.log, [0.1], [0.1])
