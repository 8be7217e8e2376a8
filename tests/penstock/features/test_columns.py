"""What a model may see, and how the target is coded."""

from __future__ import annotations

import datetime as dt

import polars as pl
import pytest

from penstock.config import Task
from penstock.errors import PenstockError
from penstock.features.columns import as_features, describe, encode_target

TASK = Task(kind="binary", target="left", positive="yes", ids=("id",), group="house", exclude=("leak",))
RAW = pl.DataFrame(
    {
        "id": [1, 2, 3],
        "house": ["a", "a", "b"],
        "age": [30, None, 50],
        "vip": [True, False, None],
        "plan": ["x", None, "y"],
        "since": [dt.date(1970, 1, 2), None, dt.date(2000, 1, 1)],
        "seen": [dt.datetime(1970, 1, 1, 12, tzinfo=dt.UTC)] * 3,
        "leak": [0.0, 1.0, 0.0],
        "note": ["some words", "", None],
        "left": ["no", "yes", "no"],
    }
)


def columns_of(task: Task = TASK, raw: pl.DataFrame = RAW):
    return describe(as_features(raw, [], task), raw[task.target], task, text=frozenset({"note"}))


def test_every_type_has_its_form():
    features = as_features(RAW, [], TASK)
    assert features.to_dict(as_series=False) == {
        "age": [30.0, None, 50.0],
        "vip": [1.0, 0.0, None],
        "plan": ["x", "", "y"],
        "since": [1.0, None, 10957.0],
        "seen": [0.5, 0.5, 0.5],
        "note": ["some words", "", ""],
    }
    assert set(features.schema.values()) == {pl.Float32, pl.String}


def test_no_model_sees_target_ids_groups_leaks_or_free_text():
    assert columns_of().features == ("age", "vip", "since", "seen", "plan")


def test_the_target_need_not_be_there():
    assert as_features(RAW.drop("left"), [], TASK).equals(as_features(RAW, [], TASK))


def test_not_a_number_is_missing():
    raw = pl.DataFrame({"x": [1.0, float("nan")], "left": ["yes", "no"], "id": [1, 2], "house": ["a", "b"]})
    assert as_features(raw, [], TASK)["x"].to_list() == [1.0, None]


@pytest.mark.parametrize("positive", ["yes", "no"])
def test_the_positive_class_has_code_one(positive):
    task = TASK.model_copy(update={"positive": positive})
    columns = columns_of(task)
    assert columns.classes[1] == positive
    assert encode_target(RAW, columns).tolist() == [int(value == positive) for value in RAW["left"]]


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (["no", "no", "no"], r"one class only: \['no'\]"),
        (["no", "yes", "maybe"], "3 classes"),
        (["no", "Yes", "no"], r"task.positive is 'yes'.*\n.*did you mean 'Yes'\?"),
    ],
)
def test_a_target_that_does_not_fit_the_task(labels, says):
    with pytest.raises(PenstockError, match=says):
        columns_of(raw=RAW.with_columns(left=pl.Series(labels)))


def test_a_number_is_needed_for_regression():
    task = Task(kind="regression", target="plan")
    with pytest.raises(PenstockError, match="regression needs a number"):
        describe(as_features(RAW, [], task), RAW["plan"], task, text=frozenset())


def test_a_table_of_ids_alone_has_no_features():
    task = Task(kind="binary", target="left", positive="yes", ids=("id",))
    raw = RAW.select("id", "left")
    with pytest.raises(PenstockError, match="no feature column is left"):
        describe(as_features(raw, [], task), raw["left"], task, text=frozenset())


def test_a_class_that_training_lacks_is_named():
    with pytest.raises(PenstockError, match=r"classes that the training part lacks: \['perhaps'\]"):
        encode_target(pl.DataFrame({"left": ["yes", "perhaps"]}), columns_of())
