"""Every splitter tests what it has not trained on, and says when rows do not suffice."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.config import Splitter
from penstock.errors import PenstockError
from penstock.validation import splitters

N = 60
Y = np.array([0, 0, 0, 1] * 15)
GROUPS = np.repeat(np.arange(20), 3)
TIMES = np.random.default_rng(0).permutation(N)
NAMES = ["stratified", "kfold", "grouped", "stratified_grouped", "time"]


def outer(
    splitter: Splitter, y: np.ndarray = Y, kind: str = "binary", seed: int = 0
) -> list[splitters.Split]:
    return splitters.outer(splitter, y, kind=kind, groups=GROUPS[: len(y)], times=TIMES[: len(y)], seed=seed)


@given(name=st.sampled_from(NAMES), n_splits=st.integers(2, 6), seed=st.integers(0, 99))
def test_training_and_test_rows_never_meet(name: Any, n_splits: int, seed: int) -> None:
    splits = outer(Splitter(name=name, n_splits=n_splits), seed=seed)
    assert len(splits) == n_splits
    assert all(not set(train) & set(test) for train, test in splits)
    if name != "time":
        assert sorted(np.concatenate([test for _, test in splits]).tolist()) == list(range(N))


@pytest.mark.parametrize("name", ["grouped", "stratified_grouped"])
def test_a_group_is_never_divided(name: Any) -> None:
    for train, test in outer(Splitter(name=name, n_splits=4)):
        assert not set(GROUPS[train]) & set(GROUPS[test])


def test_a_time_split_only_looks_back() -> None:
    for train, test in outer(Splitter(name="time", n_splits=4)):
        assert TIMES[train].max() < TIMES[test].min()


def test_strata_have_their_share_in_every_fold() -> None:
    assert [Y[test].mean() for _, test in outer(Splitter(n_splits=5))] == [0.25] * 5


def test_a_regression_target_is_stratified_by_its_quantiles() -> None:
    y = np.random.default_rng(0).lognormal(size=N)
    means = [np.log(y[test]).mean() for _, test in outer(Splitter(n_splits=5), y, "regression")]
    plain = [np.log(y[test]).mean() for _, test in outer(Splitter(name="kfold", n_splits=5), y, "regression")]
    assert np.std(means) < np.std(plain) / 2


def test_repeats_shuffle_anew() -> None:
    splits = outer(Splitter(n_splits=3, n_repeats=2))
    assert len(splits) == 6
    assert not np.array_equal(splits[0][1], splits[3][1])


def test_inner_rows_come_from_the_outer_training_part() -> None:
    train, test = outer(Splitter())[0]
    folds = splitters.inner(Splitter(), train, Y, kind="binary", groups=GROUPS, times=TIMES, seed=0)
    assert sorted(np.concatenate([part for _, part in folds]).tolist()) == train.tolist()
    assert all(not set(rows) & set(test) for split in folds for rows in split)


@pytest.mark.parametrize(
    ("splitter", "y", "message"),
    [
        (Splitter(n_splits=5), np.array([0, 1, 0]), "n_splits is 5, but there are only 3 rows"),
        (Splitter(n_splits=5), np.array([0] * 30 + [1] * 3), "the smallest class has only 3 rows"),
        (Splitter(name="grouped", n_splits=5), np.zeros(6, dtype=int), "only 2 groups"),
        (Splitter(name="time", n_repeats=2), Y, "n_repeats is 2"),
    ],
)
def test_too_little_to_split_is_named_in_numbers(splitter: Splitter, y: np.ndarray, message: str) -> None:
    with pytest.raises(PenstockError) as caught:
        outer(splitter, y)
    assert message in str(caught.value)
