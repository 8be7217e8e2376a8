"""Hash outputs as they really are: uniform, independent, sticky, and moving no more users than they must."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from penstock.errors import PenstockError
from penstock.experiments.assignment import Assignment, Layer, Slot, position

UNITS = [f"user-{n}" for n in range(20_000)]


def test_a_unit_stays_where_it_is_whoever_asks() -> None:
    # Written down: another release, or another router, must not shuffle the users of a running experiment.
    assert [Assignment("checkout", {"a": 1, "b": 1})(f"user-{n}") for n in range(12)] == list("aabbabbbabab")
    assert position("checkout", "user-1") == pytest.approx(0.667815855565, abs=1e-12)


def test_positions_are_uniform() -> None:
    found = [position("s", unit) for unit in UNITS]
    assert stats.kstest(found, "uniform").pvalue > 0.001
    assert stats.kstest([position(str(n), "u") for n in range(5000)], "uniform").pvalue > 0.001


@pytest.mark.parametrize(
    "weights", [{"a": 1, "b": 1}, {"a": 90, "b": 10}, {"a": 0.2, "b": 0.3, "c": 0.5, "d": 0.0}]
)
def test_arms_get_their_shares(weights: dict[str, float]) -> None:
    assignment = Assignment("shares", weights)
    arms = [assignment(unit) for unit in UNITS]
    live = [arm for arm, weight in weights.items() if weight]
    assert set(arms) == set(live)
    wanted = [assignment.propensity(arm) * len(UNITS) for arm in live]
    assert stats.chisquare([arms.count(arm) for arm in live], wanted).pvalue > 0.001


def test_experiments_of_different_salts_are_independent() -> None:
    weights = {"a": 0.5, "b": 0.3, "c": 0.2}
    arms = [[Assignment(salt, weights)(unit) for unit in UNITS] for salt in ("one", "two", "three")]
    for left, right in itertools.combinations(arms, 2):
        table = [
            [sum(x == i and y == j for x, y in zip(left, right, strict=True)) for j in "abc"] for i in "abc"
        ]
        assert stats.chi2_contingency(table).pvalue > 0.001


def test_who_is_in_a_ramp_stays_in_it() -> None:
    before: set[str] = set()
    for share in (0.01, 0.05, 0.25, 0.5, 1.0):
        assignment = Assignment("ramp", {"champion": 1 - share, "canary": share})
        now = {unit for unit in UNITS if assignment(unit) == "canary"}
        assert before <= now
        before = now
    assert len(before) == len(UNITS)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0.05, 1), min_size=2, max_size=4), st.floats(0.05, 20))
def test_changing_one_arm_moves_users_of_that_arm_alone(weights: list[float], factor: float) -> None:
    old = {f"arm-{n}": weight for n, weight in enumerate(weights)}
    new = {**old, "arm-0": old["arm-0"] * factor}
    one, other = Assignment("s", old), Assignment("s", new)
    pairs = {(one(unit), other(unit)) for unit in UNITS[:1500]}
    moved = {(left, right) for left, right in pairs if left != right}
    assert all((right if factor > 1 else left) == "arm-0" for left, right in moved)


def test_any_change_moves_little_more_than_it_must() -> None:
    one, other = Assignment("s", {"a": 5, "b": 3, "c": 2}), Assignment("s", {"a": 3, "b": 3, "c": 4})
    least = sum(abs(one.propensity(arm) - other.propensity(arm)) for arm in "abc") / 2
    moved = np.mean([one(unit) != other(unit) for unit in UNITS])
    assert least - 0.01 < moved < 2 * least / (1 + least) + 0.01


def test_the_order_and_the_scale_of_weights_do_not_matter() -> None:
    one, other = Assignment("s", {"a": 1, "b": 3}), Assignment("s", {"b": 0.75, "a": 0.25})
    assert all(one(unit) == other(unit) for unit in UNITS[:2000])


def test_names_do_not_run_into_each_other() -> None:
    assert position("ab", "c") != position("a", "bc")


def test_a_layer_gives_a_user_to_one_experiment_at_most() -> None:
    layer = Layer("search", (Slot("ranking", 0.0, 0.3), Slot("layout", 0.5, 1.0)))
    found = [layer.experiment(unit) for unit in UNITS]
    counts = [found.count("ranking"), found.count("layout"), found.count(None)]
    assert stats.chisquare(counts, [0.3 * len(UNITS), 0.5 * len(UNITS), 0.2 * len(UNITS)]).pvalue > 0.001
    # Which users an experiment has tells nothing of their arms in it, nor of another layer.
    inside = [unit for unit, which in zip(UNITS, found, strict=True) if which == "ranking"]
    arms = [Assignment("search", {"a": 1, "b": 1})(unit) for unit in inside]
    assert stats.binomtest(arms.count("a"), len(arms)).pvalue > 0.001


@pytest.mark.parametrize("slots", [[("x", 0.0, 0.6), ("y", 0.5, 1.0)], [("x", 0.2, 0.1)], [("x", 0.0, 1.5)]])
def test_slots_that_cannot_be_are_refused(slots: list[tuple[str, float, float]]) -> None:
    with pytest.raises(PenstockError, match="layer checkout"):
        Layer("checkout", tuple(Slot(*slot) for slot in slots))


@pytest.mark.parametrize("weights", [{}, {"a": 0.0}, {"a": -1.0, "b": 2.0}, {"a": float("nan")}])
def test_weights_that_cannot_be_are_refused(weights: dict[str, float]) -> None:
    with pytest.raises(PenstockError, match="weights"):
        Assignment("s", weights)
