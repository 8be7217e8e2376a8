"""What happens by itself: steps, roll-backs, conclusions, learning; over restarts and clocks that jump."""

from __future__ import annotations

import numpy as np
import pytest

from penstock.config.rollout import Rollout
from penstock.rollout import settings as rules
from penstock.rollout.audit import Intent
from penstock.rollout.controller import Controller
from penstock.rollout.decision import as_policy, decide
from penstock.rollout.state import Reward, open_store
from tests.penstock.rollout.routers import declaration

ARMS = {"a": ["http://127.0.0.1:1"], "b": ["http://127.0.0.1:2"], "c": ["http://127.0.0.1:3"]}
CANARY = {
    "kind": "canary",
    "champion": "a",
    "canary": "b",
    "steps": [10, 50],
    "bake": "PT10S",
    "at_least": 200,
}
AB = {
    "kind": "ab", "champion": "a", "shares": {"a": 0.5, "b": 0.5}, "unit": "request",
    "baseline": 0.2, "effect": 0.05,
}  # fmt: skip
CLICKS = {"source": "reward", "kind": "proportion", "absent": "zero"}


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class World:
    """A controller, its clock, and counts as routers would write them."""

    def __init__(self, view: Rollout) -> None:
        self.view, self.clock = view, Clock()
        self.store = open_store(view)
        if self.store.settings() is None:
            self.store.change(None, rules.begun(view.plan(), "x"), Intent("test", "declare", ""))
        self.controller = Controller(view, self.store, self.clock, "test")

    @property
    def settings(self):
        found = self.store.settings()
        assert found is not None
        return found

    def count(self, arm: str, requests: int, errors: int = 0, ms: int = 30, **more: float) -> None:
        stage = self.settings.stage
        counts = {"requests": requests, "errors": errors, f"ms_{ms}": requests - errors, **more}
        self.store.add({(stage, arm, name): float(value) for name, value in counts.items()})

    def pass_time(self, seconds: float, step: float = 0.1):
        report = None
        for _ in range(round(seconds / step)):
            self.clock.now += step
            report = self.controller.look() or report
        return report

    def close(self) -> None:
        self.store.close()


@pytest.fixture
def world(tmp_path):
    made = []

    def make(strategy, **more):
        found = World(declaration(tmp_path, ARMS, strategy, **more))
        made.append(found)
        return found

    yield make
    for one in made:
        one.close()


def test_a_canary_that_does_well_goes_on_step_by_step(world):
    it = world(CANARY)
    it.count("a", 4500, 9)
    it.count("b", 500, 1)
    it.pass_time(9)
    assert it.settings.step == 0, "it bakes"
    it.pass_time(2)
    assert it.settings.step == 1
    it.pass_time(30)
    assert it.settings.step == 1, "it has answered nobody in this step"
    it.count("a", 3000, 6)
    it.count("b", 3000, 5)
    it.pass_time(1)
    assert it.settings.plan.strategy.kind == "single"
    assert it.settings.champion == "b"
    assert [entry.what for entry in it.store.history()] == ["declare", "promote", "promote"]
    assert {entry.who for entry in it.store.history()[1:]} == {"controller"}


@pytest.mark.parametrize(
    ("harm", "guardrails", "words"),
    [
        ({"errors": 60}, {}, "errors 12.00%"),
        ({"ms": 90}, {"latency": {"slower": 0.5}}, "slower"),
        ({"kpi_n": 500, "kpi_total": 20}, {"kpi": 0.01}, "metric"),
        ({"memory_restarts": 2}, {}, "outgrew its memory 2 times"),
    ],
)
def test_a_canary_that_does_harm_goes_back_at_once(world, harm, guardrails, words):
    it = world(CANARY, kpi=CLICKS, guardrails=guardrails)
    it.count("a", 4500, 5, kpi_n=4500, kpi_total=900)
    it.count("b", 500, **({"kpi_n": 500, "kpi_total": 100} | harm))
    it.pass_time(0.1)
    assert it.settings.shares() == {"a": 1.0}
    last = it.store.history()[-1]
    assert (last.who, last.what) == ("controller", "rollback")
    assert words in last.why
    it.pass_time(30)
    assert len(it.store.history()) == 2, "and stays there"


def test_a_bake_is_neither_shortened_nor_prolonged_by_restarts_and_jumps(world, tmp_path):
    it = world(CANARY)
    it.count("a", 4500)
    it.count("b", 500)
    it.pass_time(6)
    # The machine slept for an hour: that is no baking.
    it.clock.now += 3600
    it.pass_time(2)
    assert it.settings.step == 0
    # A new controller, with a monotonic clock that begins anew: what was baked counts.
    again = Controller(it.view, it.store, it.clock, "test")
    it.clock.now = 3.0
    it.controller = again
    it.pass_time(3)
    assert it.settings.step == 1


def test_a_pause_holds_steps_and_not_guardrails(world):
    it = world(CANARY)
    it.store.change(it.settings, rules.paused(it.settings), Intent("me", "pause", ""))
    it.count("a", 4500)
    it.count("b", 500)
    it.pass_time(20)
    assert it.settings.step == 0
    it.count("b", 100, 100)
    it.pass_time(0.1)
    assert it.settings.shares() == {"a": 1.0}


def test_of_two_controllers_one_acts(world):
    it = world(CANARY)
    other = Controller(it.view, it.store, it.clock, "other")
    assert it.controller.look() is not None
    assert other.look() is None


def test_an_arm_of_a_test_that_does_harm_is_taken_out(world):
    it = world(AB, kpi=CLICKS)
    it.count("a", 500, 1, kpi_n=500, kpi_total=100)
    it.count("b", 500, 100, kpi_n=500, kpi_total=100)
    it.pass_time(0.1)
    assert "errors" in it.settings.off["b"]
    assert it.settings.shares() == {"a": 1.0}
    assert it.settings.plan.strategy.kind == "ab", "what is known of it stays to be looked at"


def test_a_test_is_concluded_as_declared(world):
    it = world(AB | {"conclude": "sequential"}, kpi=CLICKS)
    it.count("a", 400, kpi_n=400, kpi_total=80)
    it.count("b", 400, kpi_n=400, kpi_total=90)
    report = it.pass_time(0.1)
    assert "not decided" in report.verdict
    assert report.about["planned"]["total"] > 2000
    it.count("a", 6000, kpi_n=6000, kpi_total=1200)
    it.count("b", 6000, kpi_n=6000, kpi_total=1600)
    it.pass_time(0.1)
    assert it.settings.champion == "b"
    assert "b is better" in it.store.history()[-1].why


def test_the_horizon_is_looked_at_once(world):
    it = world(AB, kpi=CLICKS)
    it.count("a", 1500, kpi_n=1500, kpi_total=300)
    it.count("b", 1500, kpi_n=1500, kpi_total=312)
    it.pass_time(1)
    it.count("b", 10, kpi_n=10, kpi_total=2)
    it.pass_time(1)
    found = [entry for entry in it.store.history() if entry.what == "horizon"]
    assert len(found) == 1
    assert "no difference" in found[0].why
    assert it.settings.plan.strategy.kind == "ab", "conclude: never leaves it to a person"


def test_assignment_that_is_off_is_not_believed(world):
    it = world(AB | {"conclude": "sequential"}, kpi=CLICKS)
    it.count("a", 6000, kpi_n=6000, kpi_total=1200)
    it.count("b", 4500, kpi_n=4500, kpi_total=1400)
    report = it.pass_time(0.1)
    assert report.about["srm"]["off"]
    assert "do not trust this" in report.verdict
    assert it.settings.is_paused
    assert it.settings.champion == "a"


def test_a_user_who_comes_often_is_no_harm(world):
    """Where users are assigned, requests are not: their shares may be far from those declared."""
    it = world(AB | {"unit": "user", "without_user": "champion"}, kpi=CLICKS)
    it.count("a", 9000, 180, kpi_n=500, kpi_total=100, users=500)
    it.count("b", 4000, 80, kpi_n=500, kpi_total=100, users=500)
    report = it.pass_time(0.1)
    assert report.harms == {}
    assert it.settings.off == {}
    assert not report.about["srm"]["off"], "users came as declared"


@pytest.mark.parametrize("policy", ["thompson", "ucb", "epsilon_greedy"])
def test_a_bandit_learns_from_rewards_that_come_late_and_keeps_its_floor(world, policy):
    bandit = {
        "kind": "bandit", "champion": "a", "candidates": ["a", "b", "c"], "policy": policy, "floor": 0.05,
        "exploration": 0.3, "refresh": "PT1S",
    }  # fmt: skip
    it = world(bandit, kpi={"source": "reward", "kind": "proportion"})
    rng = np.random.default_rng(1)
    truth = {"a": 0.1, "b": 0.3, "c": 0.2}
    asked = {"a": 0, "b": 0, "c": 0}
    late: list[tuple[str, str, str]] = []
    for turn in range(60):
        it.pass_time(1.1, 1.1)
        stored = it.store.policy()
        assert stored is not None
        found = as_policy(stored)
        assert sum(found.shares.values()) == pytest.approx(1.0)
        assert min(found.shares.values()) >= 0.05 - 1e-9
        for number in range(40):
            request = f"{turn}-{number}"
            decision = decide(it.settings, "salt", request, None, found)
            assert decision.propensity == found.shares[decision.arm]
            asked[decision.arm] += 1
            late.append((request, decision.arm, decision.stage))
        # What was answered three turns ago turns out now.
        due, late = late[:-120], late[-120:]
        for request, arm, stage in due:
            reward = float(rng.random() < truth[arm])
            assert it.store.settle(request, 0, [Reward(stage, arm, None, reward, "any")])
    assert asked["b"] > 2 * asked["a"]
    assert asked["b"] > asked["c"]
    assert it.store.policy()["shares"]["b"] > 0.5


def test_a_contextual_bandit_learns_for_whom_an_arm_is_good(world):
    bandit = {
        "kind": "bandit", "champion": "a", "candidates": ["a", "b"], "policy": "linucb", "floor": 0.05,
        "context": {"x": {}}, "refresh": "PT1S", "exploration": 0.5,
    }  # fmt: skip
    it = world(bandit, kpi={"source": "reward", "kind": "proportion"})
    rng = np.random.default_rng(2)
    right = []
    for number in range(800):
        if number % 40 == 0:
            it.pass_time(1.1, 1.1)
        x = float(rng.choice([-1.0, 1.0]))
        best = "b" if x > 0 else "a"
        decision = decide(it.settings, "salt", str(number), None, as_policy(it.store.policy()), [1.0, x])
        right.append(decision.arm == best)
        reward = float(rng.random() < (0.7 if decision.arm == best else 0.2))
        it.store.settle(
            str(number), 0, [Reward(decision.stage, decision.arm, None, reward, "any", context=[1.0, x])]
        )
    assert np.mean(right[400:]) > 0.85
    assert decision.propensity in (pytest.approx(0.95), pytest.approx(0.05))


def test_a_policy_of_another_stage_is_not_used(world):
    bandit = {"kind": "bandit", "champion": "a", "candidates": ["a", "b"]}
    it = world(bandit, kpi={"source": "reward", "kind": "proportion"})
    old = as_policy({"stage": "0.0", "shares": {"a": 0.0, "b": 1.0}})
    found = {decide(it.settings, "salt", str(n), None, old).propensity for n in range(50)}
    assert found == {0.5}
