"""The fitted transformer: every switch does what its name says, on training rows alone."""

from __future__ import annotations

import itertools

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.config import Features
from penstock.features.columns import Columns
from penstock.features.recipe import build
from penstock.features.transformers import OutlierClipper

ROWS = 200


def columns(task: str = "binary", cardinality: int = 4) -> Columns:
    classes = None if task == "regression" else (0, 1)
    return Columns(
        numeric=("a", "b"),
        categorical=("c", "d"),
        cardinality={"c": cardinality, "d": 2},
        target="y",
        task=task,
        classes=classes,
    )


def table(seed: int = 0, rows: int = ROWS) -> tuple[pl.DataFrame, np.ndarray]:
    random = np.random.default_rng(seed)
    a = random.normal(100, 10, rows).astype(np.float32)
    b = random.exponential(size=rows).astype(np.float32)
    frame = pl.DataFrame(
        {
            "a": a,
            "b": pl.Series(b).set(pl.Series(random.random(rows) < 0.2), None),
            "c": random.choice(["p", "q", "r", ""], rows, p=[0.5, 0.3, 0.19, 0.01]),
            "d": random.choice(["u", "v"], rows),
        }
    )
    return frame, random.integers(0, 2, rows)


def fit(features: Features, **kwargs):
    frame, y = table()
    pipeline = build(features, columns(**kwargs), seed=1)
    return pipeline, pipeline.fit_transform(frame, y), frame


@pytest.mark.parametrize(
    ("clip", "impute", "scale", "encode", "reduce"),
    list(
        itertools.product(
            ["none", "quantile", "iqr"],
            ["median", "constant"],
            ["none", "standard", "minmax", "robust"],
            ["one_hot", "ordinal", "target"],
            ["none", "pca", "svd", "select"],
        )
    ),
)
def test_every_combination_gives_finite_single_precision(clip, impute, scale, encode, reduce):
    features = Features(clip=clip, impute=impute, scale=scale, encode=encode, reduce=reduce, components=3)
    pipeline, matrix, frame = fit(features)
    again = pipeline.transform(frame)
    assert matrix.dtype == again.dtype == np.float32
    assert np.isfinite(again).all()
    assert (matrix.shape[1] == 3) == (reduce != "none")


def test_standard_scaling_has_mean_zero_and_deviation_one():
    _, matrix, _ = fit(Features(scale="standard", indicators=False))
    assert np.allclose(matrix[:, :2].mean(axis=0), 0, atol=1e-5)
    assert np.allclose(matrix[:, :2].std(axis=0), 1, atol=1e-5)


def test_minmax_scaling_ends_at_zero_and_one():
    _, matrix, _ = fit(Features(scale="minmax", indicators=False))
    assert np.allclose(matrix[:, :2].min(axis=0), 0)
    assert np.allclose(matrix[:, :2].max(axis=0), 1)


def test_missing_numbers_are_marked():
    _, matrix, frame = fit(Features(scale="none", indicators=True))
    assert matrix[:, 2].tolist() == frame["b"].is_null().cast(pl.Float32).to_list()


def test_an_unknown_category_joins_the_rare_ones():
    pipeline, _, frame = fit(Features(rare=0.05, indicators=False))
    width = pipeline.transform(frame).shape[1]
    assert width == 2 + 4 + 2  # a, b; p, q, r and the rest; u, v
    strange = pipeline.transform(frame.head(1).with_columns(c=pl.lit("never seen")))
    assert strange[0, 2:6].tolist() == [0, 0, 0, 1]


def test_an_unknown_category_is_all_zero_where_none_is_rare():
    pipeline, _, frame = fit(Features(rare=0.0, indicators=False))
    strange = pipeline.transform(frame.head(1).with_columns(d=pl.lit("never seen")))
    assert strange[0, -2:].tolist() == [0, 0]


def test_many_categories_are_target_encoded():
    pipeline, matrix, _ = fit(Features(target_above=10), cardinality=11)
    names = [name for name, *_ in pipeline.named_steps["encode"].transformers_]
    assert names == ["numeric", "one_hot", "target"]
    assert matrix.shape[1] == 3 + 2 + 1


def test_target_encoding_of_the_training_rows_is_out_of_fold():
    # A category of its own for every row: encoded by its own target it would give the answer away.
    random = np.random.default_rng(0)
    y = random.integers(0, 2, ROWS)
    frame, _ = table()
    frame = frame.with_columns(c=pl.Series([str(i) for i in range(ROWS)]))
    pipeline = build(
        Features(encode="target", scale="none", indicators=False, target_smoothing=0.0), columns(), seed=1
    )
    inside = pipeline.fit_transform(frame, y)[:, 2]
    assert abs(np.corrcoef(inside, y)[0, 1]) < 0.25
    assert np.corrcoef(pipeline.transform(frame)[:, 2], y)[0, 1] > 0.99


@given(st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_rows_do_not_depend_on_each_other(seed):
    pipeline, _, _ = fit(Features(clip="iqr", scale="robust"))
    frame, _ = table(seed, rows=7)
    alone = np.vstack([pipeline.transform(frame[i]) for i in range(7)])
    assert np.array_equal(alone, pipeline.transform(frame))


def test_a_column_without_any_value_still_gives_its_columns():
    frame, y = table()
    empty = frame.with_columns(b=pl.lit(None, pl.Float32))
    pipeline = build(Features(clip="iqr"), columns(), seed=1).fit(empty, y)
    assert np.isfinite(pipeline.transform(frame)).all()


def test_fences_clip_outliers_and_spare_a_column_of_mostly_one_value():
    values = np.array([[1, 0], [2, 0], [3, 0], [4, 0], [1000, 9]], dtype=np.float32)
    clipped = OutlierClipper(method="iqr", iqr=3.0).fit_transform(values)
    assert clipped[:, 0].tolist() == [1, 2, 3, 4, 10]  # the quartiles are 2 and 4: 4 + 3 · 2
    assert clipped[:, 1].tolist() == [0, 0, 0, 0, 9]


def test_clipping_keeps_missing_values():
    values = np.array([[1.0], [np.nan], [3.0]], dtype=np.float32)
    assert np.isnan(OutlierClipper().fit_transform(values)[1, 0])
