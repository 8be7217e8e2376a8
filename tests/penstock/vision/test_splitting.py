"""Pictures that look the same share a group, a group shares a part, and every class is in every part."""

from __future__ import annotations

import itertools

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.config import ImagePrepare
from penstock.errors import PenstockError
from penstock.vision.splitting import PARTS, SPLIT_SCHEMA, near_duplicates, split

WORD = st.integers(0, 2**64 - 1)


def words(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.uint64)


def apart(count: int, seed: int = 0) -> np.ndarray:
    """Hashes as strangers have them."""
    return np.random.default_rng(seed).integers(0, 2**64, count, dtype=np.uint64)


def prepare(**changes: float) -> ImagePrepare:
    return ImagePrepare.model_validate(
        {"holdout": 0.25, "validation": 0.2, "near_duplicate_bits": 3} | changes
    )


def test_groups_are_numbered_by_their_first_picture() -> None:
    far = (1 << 40) - 1
    assert near_duplicates(words(far, 0, far, 1, far ^ 7), 3).tolist() == [0, 1, 0, 1, 0]
    assert near_duplicates(words(5, 5, 4), 0).tolist() == [0, 0, 1]
    assert near_duplicates(words(9), 3).tolist() == [0]


def test_likeness_is_passed_on() -> None:
    # The first and the last differ in six bits, but both are like the one between.
    assert near_duplicates(words(0, 0b111, 0b111111), 3).tolist() == [0, 0, 0]
    assert near_duplicates(words(0, 0b1111, 0b11111111), 3).tolist() == [0, 1, 2]


@settings(max_examples=60)
@given(
    base=st.lists(WORD, min_size=1, max_size=6),
    masks=st.lists(st.lists(st.integers(0, 63), max_size=5), min_size=1, max_size=8),
    bits=st.integers(0, 6),
)
def test_every_pair_within_reach_is_found_and_no_other(
    base: list[int], masks: list[list[int]], bits: int
) -> None:
    values = [word ^ sum({1 << bit for bit in mask}) for word in base for mask in masks]
    groups = near_duplicates(words(*values), bits)
    # Plain reachability, the other way round: grow each group from one picture.
    for start in range(len(values)):
        reached, edge = {start}, [start]
        while edge:
            at = edge.pop()
            near = {i for i, value in enumerate(values) if (value ^ values[at]).bit_count() <= bits}
            edge += near - reached
            reached |= near
        assert {i for i in range(len(values)) if groups[i] == groups[start]} == reached


def test_the_parts_have_their_shares_of_every_class() -> None:
    labels = pl.Series(["a"] * 400 + ["b"] * 100)
    done = split(labels, apart(500), prepare(), seed=1)
    assert done.counts == {
        "train": {"a": 240, "b": 60},
        "validation": {"a": 60, "b": 15},
        "holdout": {"a": 100, "b": 25},
    }
    assert done.frame.schema == SPLIT_SCHEMA
    assert done.frame["row"].to_list() == list(range(500))
    assert done.frame["label"].to_list() == labels.to_list()
    assert done.summary()["pictures"] == {"train": 300, "validation": 75, "holdout": 125}
    assert done.summary()["near_duplicates"]["groups"] == 0


def test_the_seed_alone_decides() -> None:
    labels, hashes = pl.Series(["a", "b"] * 50), apart(100)
    assert split(labels, hashes, prepare(), seed=1).frame.equals(
        split(labels, hashes, prepare(), seed=1).frame
    )
    assert not split(labels, hashes, prepare(), seed=1).frame.equals(
        split(labels, hashes, prepare(), seed=2).frame
    )


@settings(max_examples=60)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=8, max_size=40),
    seed=st.integers(0, 1000),
    holdout=st.floats(0.05, 0.9),
    validation=st.floats(0.05, 0.9),
)
def test_no_group_straddles_and_no_class_is_missing(
    sizes: list[int], seed: int, holdout: float, validation: float
) -> None:
    hashes = np.repeat(apart(len(sizes), seed), sizes)
    labels = pl.Series(np.repeat([("a", "b")[at % 2] for at in range(len(sizes))], sizes).tolist())
    done = split(labels, hashes, prepare(holdout=holdout, validation=validation), seed=seed)
    parts = done.frame.group_by("group").agg(pl.col("part").n_unique())
    assert parts["part"].max() == 1
    assert all(done.counts[part][label] > 0 for part, label in itertools.product(PARTS, "ab"))
    assert sum(sum(classes.values()) for classes in done.counts.values()) == len(labels)
    assert done.largest == max(sizes)
    assert done.grouped == sum(size for size in sizes if size > 1)


def test_pictures_alike_of_two_classes_stay_together_and_are_counted() -> None:
    hashes = apart(40)
    hashes[20] = hashes[0]
    done = split(pl.Series(["a"] * 20 + ["b"] * 20), hashes, prepare(), seed=0)
    assert (done.groups, done.grouped, done.largest, done.across_classes) == (1, 2, 2, 1)
    assert done.frame["part"][0] == done.frame["part"][20]


def test_a_class_of_three_pictures_is_in_each_part() -> None:
    done = split(pl.Series(["a"] * 40 + ["b"] * 3), apart(43), prepare(), seed=0)
    assert [done.counts[part]["b"] for part in PARTS] == [1, 1, 1]


def test_a_class_of_one_picture_many_times_over_is_refused() -> None:
    hashes = np.concatenate([apart(20), words(0, 1, 2, 3, (1 << 50) - 1)])
    with pytest.raises(
        PenstockError, match=r"'b' has 5 pictures, of which 2 differ(?s:.*)near_duplicate_bits"
    ):
        split(pl.Series(["a"] * 20 + ["b"] * 5), hashes, prepare(), seed=0)
