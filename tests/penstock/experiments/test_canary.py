"""A bad canary goes back soon, a good one goes on, and looking all the time sends few good ones back."""

from __future__ import annotations

import json

import numpy as np
import pytest

from penstock.experiments.canary import Health, Rules, Step, judge
from penstock.experiments.counts import Moments, Proportion
from penstock.experiments.histogram import Histogram


def _latency(rng: np.random.Generator, n: int, factor: float = 1.0) -> Histogram:
    found = Histogram()
    for value in factor * rng.lognormal(2, 0.5, n):
        found.add(float(value))
    return found


def _health(rng, n: int, *, errors: float = 0.002, factor: float = 1.0, mean: float | None = None) -> Health:
    metric = None if mean is None else Moments.of(rng.normal(mean, 1, n))
    return Health(Proportion(n, int(rng.binomial(n, errors))), _latency(rng, n, factor), metric)


def _step(seed: int = 0, n: int = 20_000, share: float = 0.1, champion=None, **canary: float) -> Step:
    rng = np.random.default_rng(seed)
    mean = 5.0 if "mean" in canary else None
    of_champion = _health(rng, round(n * (1 - share)), mean=mean, **(champion or {}))
    return Step(of_champion, _health(rng, round(n * share), **canary), share)


def test_a_good_canary_is_promoted_when_it_has_baked() -> None:
    step = _step(mean=5.0)
    rules = Rules(metric_margin=0.2)
    assert judge([step], rules, baked=False).action == "hold"
    found = judge([step], rules, baked=True)
    assert found.action == "promote"
    assert [check.status for check in found.checks] == ["fine"] * 3
    assert json.loads(json.dumps(found.dump()))["checks"][0]["name"] == "errors"


@pytest.mark.parametrize(
    ("bad", "which"), [({"errors": 0.03}, "errors"), ({"factor": 1.8}, "latency"), ({"mean": 4.0}, "metric")]
)
def test_a_bad_canary_goes_back_before_it_has_baked(bad: dict[str, float], which: str) -> None:
    found = judge([_step(**bad)], Rules(), baked=False)
    assert found.action == "roll back"
    assert [check.name for check in found.checks if check.status == "worse"] == [which]
    assert found.reason.startswith({"errors": "errors 3.", "latency": "p95 ", "metric": "metric 3.9"}[which])


def test_a_canary_that_answers_nothing_right_goes_back_within_a_few_requests() -> None:
    # At 1 % of traffic, 6 requests of the canary, all failed.
    step = Step(Health(Proportion(594, 1)), Health(Proportion(6, 6)), 0.01)
    assert judge([step], Rules(), baked=False).action == "roll back"


@pytest.mark.parametrize(("n", "reason"), [(3000, "300 of 500 requests"), (6000, "is not ruled out")])
def test_too_little_is_known(n: int, reason: str) -> None:
    found = judge([_step(n=n)], Rules(errors=0.0005 if n > 5000 else 0.01), baked=True)
    assert found.action == "hold"
    assert reason in found.reason


def test_nothing_at_all_is_known() -> None:
    assert judge([], Rules(), baked=True).action == "hold"
    assert judge([Step(Health(), Health(), 0.01)], Rules(), baked=True).action == "hold"


def test_a_bad_hour_for_both_is_not_the_canarys_fault() -> None:
    """1 % of a quiet hour, half of one in which a database was down: pooled, 9 % of errors beside 4 %."""
    quiet = _step(seed=1, n=20_000, share=0.01)
    bad = _step(
        seed=2, n=20_000, share=0.5, champion={"errors": 0.09, "factor": 3.0}, errors=0.09, factor=3.0
    )
    found = judge([quiet, bad], Rules(), baked=True)
    assert found.action != "roll back"
    pooled = Step(
        Health(quiet.champion.errors + bad.champion.errors),
        Health(quiet.canary.errors + bad.canary.errors),
        0.25,
    )
    assert judge([pooled], Rules(), baked=True).action == "roll back"


def test_a_metric_that_moves_with_the_hour_is_compared_within_it() -> None:
    rng = np.random.default_rng(4)

    def step(mean: float, share: float) -> Step:
        arms = [
            Health(Proportion(n, 0), _latency(rng, 200), Moments.of(rng.normal(mean, 1, n)))
            for n in (round(20_000 * (1 - share)), round(20_000 * share))
        ]
        return Step(*arms, share)

    assert judge([step(5.0, 0.05), step(3.0, 0.5)], Rules(), baked=True).action == "promote"


def test_few_good_canaries_are_sent_back() -> None:
    rng = np.random.default_rng(8)
    share, looks, back = 0.1, 25, 0
    for _ in range(120):
        champion, canary = Health(), Health()
        for _ in range(looks):
            n = int(rng.binomial(400, share))
            champion = _sum(champion, _health(rng, 400 - n, errors=0.01))
            canary = _sum(canary, _health(rng, n, errors=0.01))
            # No slack at all: at least as slow is what is tested.
            if (
                judge([Step(champion, canary, share)], Rules(alpha=0.05, slower=0.0), baked=False).action
                == "roll back"
            ):
                back += 1
                break
    assert back <= 120 * 0.05 + 4


def _sum(one: Health, other: Health) -> Health:
    return Health(one.errors + other.errors, one.latency + other.latency)
