"""A split by time lets nothing of the future in, whatever the interactions are."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from penstock.config import InteractionPrepare, ItemCatalogue
from penstock.errors import PenstockError
from penstock.recommend import judging
from penstock.recommend.ingestion import COLUMNS
from penstock.recommend.splitting import in_order, split
from penstock.recommend.training import problem

START = datetime(2020, 1, 1, tzinfo=UTC)


def interactions(rows: list[tuple[str, int, int]], ratings: list[float] | None = None) -> pl.DataFrame:
    """From (user, item, hour) to what ingest stores."""
    columns = {name: [None] * len(rows) for name in COLUMNS}
    columns |= {
        "user": [user for user, _, _ in rows],
        "item": [item for _, item, _ in rows],
        "time": [START + timedelta(hours=hour) for *_, hour in rows],
        "rating": ratings or [None] * len(rows),
    }
    return pl.DataFrame(columns, schema=COLUMNS).sort("user", "time", "item")


ROWS = st.lists(
    st.tuples(st.sampled_from("abcde"), st.integers(1, 12), st.integers(0, 8)), min_size=3, max_size=60
)


@settings(max_examples=150, deadline=None)
@given(rows=ROWS, seed=st.integers(0, 5))
def test_the_last_one_judges_and_nothing_later_of_its_user_is_learnt_from(rows, seed):
    frame = interactions(rows)
    try:
        parted = split(frame, InteractionPrepare(), seed).frame
    except PenstockError:
        # Nobody has three.
        assert frame.unique(("user", "item")).group_by("user").len()["len"].max() < 3
        return
    assert parted.height == frame.unique(("user", "item")).height
    for (_user,), own in parted.group_by("user"):
        times = {part: own.filter(part=part)["time"].to_list() for part in ("train", "validation", "holdout")}
        items = {part: set(own.filter(part=part)["item"]) for part in times}
        assert [len(times["validation"]), len(times["holdout"])] == ([1, 1] if own.height >= 3 else [0, 0])
        if times["holdout"]:
            assert max(times["train"]) <= times["validation"][0] <= times["holdout"][0]
            assert not items["holdout"] & (items["train"] | items["validation"])
            assert not items["validation"] & items["train"]


@settings(max_examples=100, deadline=None)
@given(rows=ROWS)
def test_one_moment_for_all_divides_past_and_future(rows):
    frame = interactions(rows)
    try:
        parted = split(frame, InteractionPrepare(split="time", holdout=0.3, validation=0.3), 1).frame
    except PenstockError:
        assume(False)
    times = {part: parted.filter(part=part)["time"] for part in ("train", "validation", "holdout")}
    assert times["train"].max() < times["validation"].min()
    assert times["validation"].max() < times["holdout"].min()


@settings(max_examples=60, deadline=None)
@given(rows=ROWS)
def test_who_is_judged_is_judged_by_what_is_not_in_the_history_that_is_shown(rows):
    try:
        parted = split(interactions(rows), InteractionPrepare(), 1).frame
        posed = problem(parted, ItemCatalogue(min_support=1), judged_by="holdout")
    except PenstockError:
        assume(False)
    people = judging.asked(parted)
    last = {
        user: rows["item"].to_list()[-1] for (user,), rows in parted.group_by("user", maintain_order=True)
    }
    for user, past, wanted in zip(people.users, people.pasts, people.wanted, strict=True):
        assert wanted.tolist() == [last[user]]
        assert not set(past.tolist()) & set(wanted.tolist())
    for code, wanted in zip(posed.cases.users, posed.cases.wanted, strict=True):
        seen = posed.items.ids[posed.past.of(int(code))]
        assert not set(seen.tolist()) & set(wanted.tolist())
    # Nothing of the hold-out has been counted.
    assert (
        posed.items.counts.sum()
        == len(posed.past.places)
        == parted.filter(pl.col("part") != "holdout").height
    )


def test_what_happened_at_one_moment_has_an_order_that_no_id_tells():
    rows = [(f"u{user}", item, 0) for user in range(200) for item in (1, 2)]
    ordered = in_order(interactions(rows), seed=1)
    lasts = ordered.group_by("user", maintain_order=True).last()["item"]
    assert 0.35 < (lasts == 2).mean() < 0.65
    shuffled = in_order(interactions(rows).sample(fraction=1.0, shuffle=True, seed=3), seed=1)
    assert ordered.equals(shuffled)
    assert not ordered.equals(in_order(interactions(rows), seed=2))


def test_an_item_taken_up_again_counts_where_it_was_first():
    rows = [("a", 1, 0), ("a", 2, 1), ("a", 3, 2), ("a", 1, 3)]
    done = split(interactions(rows), InteractionPrepare(), 1)
    assert done.frame.select("item", "part").rows() == [(1, "train"), (2, "validation"), (3, "holdout")]
    assert done.left_out == {"rated_lower": 0, "taken_up_again": 1}


def test_what_is_rated_lower_is_no_sign_of_liking():
    rows = [("a", item, item) for item in range(1, 6)]
    done = split(interactions(rows, [5.0, 2.0, 4.0, 3.5, 1.0]), InteractionPrepare(min_rating=3.5), 1)
    assert done.frame["item"].to_list() == [1, 3, 4]
    assert done.left_out["rated_lower"] == 2


def test_users_with_too_few_are_learnt_from_and_not_judged():
    rows = [("a", item, item) for item in range(4)] + [("b", 1, 0), ("b", 2, 1)] + [("c", 1, 0)]
    parted = split(interactions(rows), InteractionPrepare(), 1).frame
    assert set(parted.filter(pl.col("part") != "train")["user"]) == {"a"}
    assert parted.filter(user="c")["part"].to_list() == ["train"]


def test_nobody_to_judge_is_told():
    with pytest.raises(PenstockError, match="nothing is left for the validation part of 2 interactions"):
        split(interactions([("a", 1, 0), ("b", 1, 0)]), InteractionPrepare(), 1)


def test_the_catalogue_is_by_popularity_then_id_and_leaves_out_the_rare():
    rows = [(user, item, at) for user in "abc" for at, item in enumerate((7, 5, 9))] + [
        ("a", 1, 5),
        ("b", 3, 5),
    ]
    rows += [("c", 11, 6), ("a", 2, 7), ("b", 2, 8), ("c", 2, 9), ("a", 4, 10), ("b", 4, 11), ("c", 6, 12)]
    posed = problem(
        split(interactions(rows), InteractionPrepare(), 1).frame,
        ItemCatalogue(min_support=3),
        judged_by="holdout",
    )
    assert posed.items.ids.tolist() == [2, 5, 7, 9]
    np.testing.assert_array_equal(posed.past.matrix().toarray().sum(axis=0), posed.items.counts)
