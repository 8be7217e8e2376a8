"""Samplers even out the classes of what they are given, and make up nothing impossible."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from penstock.config import Sampler
from penstock.errors import PenstockError
from penstock.features.columns import Columns
from penstock.validation import samplers

COLUMNS = Columns(
    numeric=("a", "b"),
    categorical=("c",),
    cardinality={"c": 3},
    target="y",
    task="binary",
    classes=("n", "p"),
)
MATRIX = ("smote", "borderline_smote", "svm_smote", "adasyn", "smote_tomek", "smote_enn")


def rows(n: int = 200, rare: int = 30) -> tuple[pl.DataFrame, np.ndarray]:
    draws = np.random.default_rng(0)
    y = np.array([1] * rare + [0] * (n - rare))
    frame = pl.DataFrame(
        {
            "a": (draws.normal(size=n) + y).astype(np.float32),
            "b": [None if i % 7 == 0 else float(i) for i in range(n)],
            "c": draws.choice(["", "x", "y"], n),
        },
        schema_overrides={"b": pl.Float32},
    )
    return frame, y


@pytest.mark.parametrize("name", ["random_over", "random_under", "smote_nc"])
def test_row_samplers_even_out_and_keep_the_schema(name: str) -> None:
    frame, y = rows()
    made, classes = samplers.resample_rows(frame, y, COLUMNS, Sampler(name=name, ratio=0.5), seed=1)
    counts = np.bincount(classes)
    assert counts[1] / counts[0] == pytest.approx(0.5, abs=0.01)
    assert made.schema == frame.schema
    assert made.height == len(classes)
    assert set(made["c"]) <= set(frame["c"])
    again, _ = samplers.resample_rows(frame, y, COLUMNS, Sampler(name=name, ratio=0.5), seed=1)
    assert made.equals(again)


def test_smote_nc_keeps_the_gaps_of_the_rows_that_were_there() -> None:
    frame, y = rows()
    made, _ = samplers.resample_rows(frame, y, COLUMNS, Sampler(name="smote_nc"), seed=1)
    assert made[: frame.height].equals(frame)
    assert made[frame.height :].null_count().row(0) == (0, 0, 0)


@pytest.mark.parametrize("name", MATRIX)
def test_matrix_samplers_bring_the_classes_closer(name: str) -> None:
    frame, y = rows()
    x = frame.select("a", pl.col("b").fill_null(0.0)).to_numpy().astype(np.float32)
    made, classes = samplers.resample_matrix(x, y, Sampler(name=name), seed=1)
    counts = np.bincount(classes)
    assert min(counts) / max(counts) > 0.5
    assert made.dtype == np.float32
    assert len(made) == len(classes)


def test_neighbours_are_as_many_as_there_are() -> None:
    x = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
    y = np.array([1] * 3 + [0] * 17)
    _, classes = samplers.resample_matrix(x, y, Sampler(name="smote", neighbours=5), seed=0)
    assert np.bincount(classes).tolist() == [17, 17]


def test_a_class_of_one_row_is_refused() -> None:
    x = np.zeros((5, 1), dtype=np.float32)
    with pytest.raises(PenstockError, match="a class has 1 row"):
        samplers.resample_matrix(x, np.array([0, 0, 0, 0, 1]), Sampler(name="smote"), seed=0)


def test_what_is_even_enough_is_left_alone() -> None:
    frame, y = rows(rare=100)
    made, classes = samplers.resample_rows(frame, y, COLUMNS, Sampler(name="random_over", ratio=0.5), seed=0)
    assert made.equals(frame)
    assert np.array_equal(classes, y)


def test_smote_nc_without_categories_is_refused() -> None:
    frame, y = rows()
    only = Columns(
        numeric=("a", "b"), categorical=(), cardinality={}, target="y", task="binary", classes=("n", "p")
    )
    with pytest.raises(PenstockError, match="numeric and categorical"):
        samplers.resample_rows(frame, y, only, Sampler(name="smote_nc"), seed=0)


def test_class_weights_make_the_classes_weigh_as_asked() -> None:
    y = np.array([0] * 90 + [1] * 10)
    weights = samplers.class_weights(y, Sampler(name="class_weight", ratio=0.5))
    assert weights is not None
    assert weights.mean() == pytest.approx(1.0)
    assert weights[y == 1].sum() / weights[y == 0].sum() == pytest.approx(0.5)
    assert samplers.class_weights(y, Sampler(name="smote")) is None


def test_three_classes_are_all_raised_to_the_largest() -> None:
    y = np.array([0] * 30 + [1] * 20 + [2] * 10)
    x = np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32)
    _, classes = samplers.resample_matrix(x, y, Sampler(name="smote"), seed=0)
    assert np.bincount(classes).tolist() == [30, 30, 30]
