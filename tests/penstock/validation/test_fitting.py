"""A candidate is fitted on its training rows alone, and shortcuts change nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest

from penstock.config import Candidate, Features, Sampler, Task
from penstock.errors import PenstockError
from penstock.features.columns import Columns
from penstock.validation import fitting
from penstock.validation.fitting import Table

TRAIN, TEST = np.arange(160), np.arange(160, 240)
MakeTable = Callable[..., Table]


@pytest.mark.parametrize("model", ["lightgbm", "gradient_boosting"])
@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression"])
def test_fewer_rounds_read_from_one_fit_equal_a_fit_of_fewer_rounds(
    make_table: MakeTable, model: Any, kind: str
) -> None:
    table = make_table(kind)
    matrices = fitting.prepare(table, TRAIN, TEST, Features(), Sampler())
    candidate = Candidate(model=model, log_target=kind == "regression" and model == "lightgbm")
    settings = [{"max_depth": depth, "n_estimators": n} for depth in (1, 2) for n in (4, 9, 2)]
    together = fitting.predictions(candidate, settings, matrices, kind, 0)
    alone = [fitting.predictions(candidate, [setting], matrices, kind, 0)[0] for setting in settings]
    assert all(np.array_equal(x, y) for x, y in zip(together, alone, strict=True))
    assert not np.array_equal(together[0], together[1])


def test_the_test_rows_have_no_say_in_the_encoding(make_table: MakeTable) -> None:
    table = make_table()
    spoilt = Table(
        pl.concat([table.frame[TRAIN], table.frame[TEST].with_columns(pl.col("a") * 1e6, c=pl.lit("new"))]),
        table.y,
        table.columns,
        None,
        None,
        0,
    )
    for recipe in (
        Features(clip="quantile"),
        Features(encode="target"),
        Features(reduce="pca", components=2),
    ):
        first, second = (fitting.prepare(each, TRAIN, TEST, recipe, Sampler()) for each in (table, spoilt))
        assert np.array_equal(first.train, second.train)


def test_the_sampler_touches_training_rows_alone(make_table: MakeTable) -> None:
    table = make_table(strength=1.0)
    for name in ("random_over", "smote_nc", "smote"):
        matrices = fitting.prepare(table, TRAIN, TEST, Features(), Sampler(name=name))
        counts = np.bincount(matrices.y)
        assert counts[0] == counts[1]
        assert len(matrices.test) == len(TEST)


def test_a_class_that_a_fold_lacks_has_probability_zero(make_table: MakeTable) -> None:
    table = make_table("multiclass")
    rows = np.flatnonzero(table.y != 1)
    matrices = fitting.prepare(table, rows, TEST, Features(), Sampler())
    found = fitting.predictions(Candidate(model="logistic"), [{}], matrices, "multiclass", 0)[0]
    assert found.shape == (80, 3)
    assert (found[:, 1] == 0).all()
    assert found.sum(axis=1) == pytest.approx(np.ones(80))


def test_one_class_only_is_refused(make_table: MakeTable) -> None:
    table = make_table()
    with pytest.raises(PenstockError, match="one class only"):
        fitting.prepare(table, np.flatnonzero(table.y == 0), TEST, Features(), Sampler())


def test_weights_that_a_model_does_not_know_are_refused(make_table: MakeTable) -> None:
    matrices = fitting.prepare(make_table(), TRAIN, TEST, Features(), Sampler(name="class_weight"))
    with pytest.raises(PenstockError, match="knn knows no weights"):
        fitting.fit(Candidate(model="knn"), {}, matrices, "binary", 0)


@pytest.mark.parametrize(
    ("model", "params"),
    [("logistic", {"C": -1.0}), ("lightgbm", {"num_leaves": 1}), ("knn", {"n_neighbors": 0})],
)
def test_a_value_that_the_model_refuses_is_named(
    make_table: MakeTable, model: Any, params: dict[str, Any]
) -> None:
    matrices = fitting.prepare(make_table(), TRAIN, TEST, Features(), Sampler())
    with pytest.raises(PenstockError) as caught:
        fitting.fit(Candidate(model=model, params=params), {}, matrices, "binary", 0)
    assert f"the model {model} cannot be fitted with {params}" in str(caught.value)


def test_too_many_components_are_refused(make_table: MakeTable) -> None:
    with pytest.raises(PenstockError, match="features: "):
        fitting.prepare(make_table(), TRAIN, TEST, Features(reduce="pca", components=99), Sampler())


def test_groups_and_times_become_codes() -> None:
    columns = Columns(
        numeric=("a",), categorical=(), cardinality={}, target="y", task="regression", classes=None
    )
    frame = pl.DataFrame(
        {"a": [1.0, 2.0, 3.0], "y": [1.0, 2.0, 3.0], "g": ["v", "u", "v"], "t": ["2020", "2022", "2021"]}
    ).with_columns(pl.col("t").str.to_date("%Y"))
    table = fitting.tabulate(frame, columns, Task(kind="regression", target="y", group="g", time="t"), seed=0)
    assert table.frame.columns == ["a"]
    assert table.groups is not None
    assert table.groups.tolist() == [2, 1, 2]
    assert table.times is not None
    assert table.times.tolist() == [1, 3, 2]
    with pytest.raises(PenstockError, match="'h'"):
        fitting.tabulate(frame, columns, Task(kind="regression", target="y", group="h"), seed=0)
