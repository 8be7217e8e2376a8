"""Metrics of lists against their definitions, written out one user and one place at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.config import InteractionScoring
from penstock.recommend import judging
from penstock.recommend.metrics import METRICS, Known, beyond_accuracy, hits, per_user


def naive(name: str, items: list[int], wanted: set[int], k: int) -> float:
    top = [item for item in items[:k] if item >= 0]
    places = [place for place, item in enumerate(items[:k], start=1) if item in wanted and item >= 0]
    if name == "hit_rate":
        return float(any(item in wanted for item in top))
    if name == "recall":
        return len(places) / len(wanted)
    if name == "mrr":
        return 1 / places[0] if places else 0.0
    ideal = sum(1 / math.log2(1 + place) for place in range(1, min(k, len(wanted)) + 1))
    return sum(1 / math.log2(1 + place) for place in places) / ideal


LISTS = st.lists(
    st.tuples(
        st.lists(st.integers(0, 30), min_size=8, max_size=8, unique=True),
        st.integers(0, 8),
        st.sets(st.integers(0, 30), min_size=1, max_size=12),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=200, deadline=None)
@given(cases=LISTS, k=st.integers(1, 8))
def test_metrics_are_what_their_definitions_say(cases, k):
    lists = np.array([items[:count] + [-1] * (8 - count) for items, count, _ in cases])
    wanted = [np.array(sorted(targets)) for *_, targets in cases]
    judged = hits(lists, wanted)
    for name in METRICS:
        expected = [
            naive(name, row.tolist(), set(targets.tolist()), k)
            for row, targets in zip(lists, wanted, strict=True)
        ]
        np.testing.assert_allclose(per_user(name, judged, k), expected, atol=1e-12)


def test_a_metric_that_is_none_is_an_error():
    with pytest.raises(ValueError, match="precision"):
        per_user("precision", hits(np.array([[1]]), [np.array([1])]), 1)


def test_beyond_accuracy_by_hand():
    known = Known(
        counts={1: 4, 2: 2, 3: 1, 4: 1},
        genres={1: frozenset("ab"), 2: frozenset("b"), 3: frozenset("c")},
        users=4,
    )
    lists = np.array([[1, 2], [1, 3], [1, -1]])
    pasts = [np.array([4]), np.array([1, 4]), np.array([], dtype=np.int64)]
    found = beyond_accuracy(lists, pasts, known)
    assert found["coverage"] == 3 / 4
    # Shown 3, 1 and 1 times.
    assert found["gini"] == pytest.approx((2 * (3 * 1 + 1 * 0) - 2 * 1) / (3 * 5))
    assert found["novelty"] == pytest.approx(np.mean([(0 + 1) / 2, (0 + 2) / 2, 0]))
    assert found["popularity_lift"] == pytest.approx(np.mean([3 / 1, 2.5 / 2.5]))
    assert found["diversity"] == pytest.approx(np.mean([1 - 1 / 2, 1.0]))
    assert beyond_accuracy(lists, pasts, Known(known.counts, {}, 4))["diversity"] is None


def evaluated(own, other, wanted, **scoring):
    people = judging.Asked(
        [f"u{n}" for n in range(len(own))], [np.array([90 + n]) for n in range(len(own))], wanted
    )
    known = Known(dict.fromkeys(range(100), 1), {}, len(own))
    return judging.evaluate(
        lambda k, _: (own[:, :k], own[:, :k]),
        "mine",
        {"theirs": other},
        people,
        known,
        scoring=InteractionScoring(k=2, depth=4, resamples=500, diversities=(0.0, 1.0), **scoring),
        seed=1,
    )


def test_models_that_are_alike_are_not_told_apart_and_a_better_one_is():
    draws = np.random.default_rng(0)
    wanted = [np.array([item]) for item in draws.integers(0, 40, 80)]
    good = np.array(
        [[targets[0], 50, 51, 52] if at % 2 else [53, 50, 51, 52] for at, targets in enumerate(wanted)]
    )
    poor = np.array([[54, 55, 56, 57]] * 80)
    same = evaluated(good, good.copy(), wanted).tables["tests"]
    assert same["p"].to_list() == [1.0] * 4
    assert same["difference"].to_list() == [0.0] * 4
    better = evaluated(good, poor, wanted)
    told = better.tables["tests"].filter(metric="hit_rate").row(0, named=True)
    assert told["difference"] == 0.5
    assert 0.3 < told["low"] < 0.5 < told["high"] < 0.7
    assert told["p"] == pytest.approx(1 / 501)
    assert better.metrics["mine"]["hit_rate"] == 0.5
    assert better.metrics["theirs"]["hit_rate"] == 0.0
    board = better.tables["leaderboard"].filter(model="mine", metric="hit_rate").row(0, named=True)
    # The binomial interval of 40 in 80 is 0.39 to 0.61.
    assert board["low"] == pytest.approx(0.39, abs=0.02)
    assert board["high"] == pytest.approx(0.61, abs=0.02)
    wide = better.tables["hit_rate"]
    assert wide["mine"].to_list() == [0.5] * 4
    # Half of the examples have a hit, and none has a name.
    assert sum(one["wanted"][0] in one["items"] for one in better.examples) == 3
    assert all("user" not in one for one in better.examples)
    assert better.tables["activity"]["users"].sum() == 160
