"""The hold-out is apart, alike, repeatable, and nothing goes without being counted."""

from __future__ import annotations

import datetime as dt

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.config import Prepare, Task
from penstock.errors import PenstockError
from penstock.preparation import clean, is_holdout, target_summary

BINARY = Task(kind="binary", target="y", positive="yes", group="house", time="day")
NUMBER = Task(kind="regression", target="y")


def labelled(yes: int, no: int) -> pl.DataFrame:
    return pl.DataFrame({"y": ["yes"] * yes + ["no"] * no}).with_row_index("row")


def apart(frame: pl.DataFrame, task: Task = BINARY, *, seed: int = 0, **keys) -> np.ndarray:
    return is_holdout(frame, task, Prepare.model_validate(keys), seed)


# --- cleaning ---------------------------------------------------------------------------------------

DIRTY = pl.DataFrame({"y": ["yes", None, "yes", "no", "yes"], "x": [" a", "a", "a ", "b", "c"]})


def test_cleaning_counts_what_it_takes_out():
    cleaned = clean(DIRTY, BINARY, Prepare(drop_duplicates=True))
    assert cleaned.frame.rows() == [("yes", "a"), ("no", "b"), ("yes", "c")]
    assert (cleaned.duplicates_removed, cleaned.missing_target_removed) == (1, 1)


def test_duplicates_stay_unless_asked_for():
    cleaned = clean(DIRTY, BINARY, Prepare())
    assert cleaned.frame["x"].to_list() == ["a", "a", "b", "c"]
    assert cleaned.duplicates_removed == 0


def test_rows_without_a_target_are_refused_if_they_may_not_be_dropped():
    with pytest.raises(PenstockError, match=r"1 of 5 rows have no 'y'"):
        clean(DIRTY, BINARY, Prepare(drop_missing_target=False))


def test_a_table_without_any_target_is_refused():
    with pytest.raises(PenstockError, match="no row with a 'y' is left"):
        clean(pl.DataFrame({"y": [None]}, schema={"y": pl.String}), BINARY, Prepare())


def test_a_target_that_is_not_there_is_named():
    with pytest.raises(PenstockError, match=r"task\.target: there is no column 'y'"):
        clean(pl.DataFrame({"x": [1]}), BINARY, Prepare())


# --- dividing ---------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 60), st.integers(2, 60), st.floats(0.05, 0.95), st.integers(0, 2**32 - 1))
def test_classes_keep_their_shares_and_are_in_both_parts(yes, no, holdout, seed):
    frame = labelled(yes, no)
    mask = apart(frame, holdout=holdout, seed=seed)
    for label, count in (("yes", yes), ("no", no)):
        drawn = int(mask[(frame["y"] == label).to_numpy()].sum())
        assert 1 <= drawn <= count - 1
        assert abs(drawn - count * holdout) <= 1


@pytest.mark.parametrize("labels", [[0, 1], [False, True], ["a", "b"]])
def test_labels_may_be_of_any_type(labels):
    mask = apart(pl.DataFrame({"y": labels * 10}))
    assert [int(mask[0::2].sum()), int(mask[1::2].sum())] == [2, 2]


def test_quantiles_of_a_number_keep_their_shares():
    values = np.random.default_rng(1).lognormal(size=1000)
    mask = apart(pl.DataFrame({"y": values}), NUMBER, quantiles=10)
    deciles = np.argsort(np.argsort(values)) // 100
    assert np.bincount(deciles[mask]).tolist() == [20] * 10


def test_few_numbers_are_divided_though_they_fill_no_ten_quantiles():
    mask = apart(pl.DataFrame({"y": [5.0, 1.0, 2.0, 9.0, 4.0, 7.0]}), NUMBER, holdout=0.34)
    assert mask.sum() == 2


def test_random_takes_the_share_of_all():
    assert apart(labelled(1, 99), split="random", holdout=0.3).sum() == 30


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=25), st.integers(0, 99))
def test_a_group_is_never_divided(counts, seed):
    house = [f"h{i}" for i, count in enumerate(counts) for _ in range(count)]
    frame = pl.DataFrame({"house": house, "y": ["yes", *["no"] * (len(house) - 1)]}).sample(
        fraction=1, shuffle=True, seed=seed
    )
    mask = apart(frame, split="grouped", seed=seed)
    assert not set(frame["house"].filter(mask)) & set(frame["house"].filter(~mask))
    assert mask.any()
    assert not mask.all()
    # As near to the share as whole groups allow.
    assert abs(mask.sum() - 0.2 * len(house)) <= max(counts)


def test_the_latest_rows_are_set_apart_whatever_their_order():
    days = [dt.date(2024, 1, 1) + dt.timedelta(days=day) for day in (9, 3, 0, 8, 1, 2, 4, 7, 5, 6)]
    frame = pl.DataFrame({"day": days, "y": ["yes", "no"] * 5})
    assert np.flatnonzero(apart(frame, split="time", holdout=0.3)).tolist() == [0, 3, 7]


def test_rows_of_one_moment_stay_together():
    frame = pl.DataFrame({"day": [1, 1, 1, 2, 2, 2, 2, 3, 3, 3], "y": ["yes", "no"] * 5})
    assert apart(frame, split="time", holdout=0.2).tolist() == [False] * 7 + [True] * 3


@pytest.mark.parametrize("split", ["stratified", "random", "grouped"])
def test_the_seed_decides(split):
    frame = labelled(50, 50).with_columns(house=pl.col("row") // 2)
    first = apart(frame, split=split, seed=1)
    assert np.array_equal(first, apart(frame, split=split, seed=1))
    assert not np.array_equal(first, apart(frame, split=split, seed=2))


@pytest.mark.parametrize(
    ("frame", "keys", "says"),
    [
        (labelled(5, 0), {}, r"'y' has one class only: 'yes'"),
        (labelled(5, 0), {"split": "random"}, r"one class only"),
        (labelled(1, 9), {}, r"the class 'yes' of 'y' has one row"),
        (labelled(2, 2).with_columns(house=pl.lit("a")), {"split": "grouped"}, r"too few for a grouped hold-out"),
        (labelled(2, 2).with_columns(house=pl.Series(["a", None, "b", "b"])), {"split": "grouped"}, r"task\.group: 1 rows have no 'house'"),
        (labelled(2, 2), {"split": "grouped"}, r"task\.group: there is no column 'house'"),
        (labelled(2, 2).with_columns(day=1), {"split": "time"}, r"too few for a time hold-out"),
        (labelled(2, 2).with_columns(day=pl.Series([1, None, 2, 3])), {"split": "time"}, r"task\.time: 1 rows have no 'day'"),
    ],
)  # fmt: skip
def test_what_cannot_be_divided_is_refused(frame, keys, says):
    with pytest.raises(PenstockError, match=says):
        apart(frame, **keys)


def test_one_row_cannot_be_divided():
    with pytest.raises(PenstockError, match="1 rows are too few for a stratified hold-out of 20%"):
        apart(pl.DataFrame({"y": [1.0]}), NUMBER)


def test_the_target_is_summed_up_for_its_kind():
    assert target_summary(pl.Series("y", ["b", "a", "b", "b"]), BINARY) == {"a": 0.25, "b": 0.75}
    assert target_summary(pl.Series("y", [1.0, 3.0]), NUMBER) == {
        "mean": 2.0,
        "std": pytest.approx(2**0.5),
        "min": 1.0,
        "max": 3.0,
    }
