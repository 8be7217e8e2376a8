"""What the data are like, against figures worked out another way; and what is worth a warning."""

from __future__ import annotations

import datetime as dt

import numpy as np
import polars as pl
import pytest
from sklearn.feature_selection import mutual_info_classif
from sklearn.metrics import roc_auc_score

from penstock.config import Column, Profile, Task
from penstock.errors import PenstockError
from penstock.profiling import profile

BINARY = Task(kind="binary", target="y", positive="yes")
NUMBER = Task(kind="regression", target="y")
KINDS = {
    pl.Int64: "integer",
    pl.Float64: "number",
    pl.Boolean: "boolean",
    pl.String: "category",
    pl.Date: "date",
}


def profiled(frame: pl.DataFrame, task: Task = BINARY, types: dict[str, str] | None = None, **keys) -> dict:
    columns = {
        name: Column(type=(types or {}).get(name, KINDS[dtype.base_type()]), nullable=True)
        for name, dtype in frame.schema.items()
    }
    return profile(frame, columns, task, Profile.model_validate(keys))


def random_table(rows: int = 1000) -> pl.DataFrame:
    random = np.random.default_rng(0)
    x = random.normal(size=rows)
    return pl.DataFrame(
        {
            "x": x,
            "noise": random.normal(size=rows),
            "code": random.choice(["a", "b", "c"], rows),
            "y": np.where(x + random.normal(size=rows) > 1, "yes", "no"),
        }
    )


def test_a_number_is_described():
    values = [0.0, 1.0, 1.0, 4.0, None]
    found = profiled(pl.DataFrame({"x": values, "y": ["yes", "no", "yes", "no", "no"]}))["columns"]["x"]
    known = np.array(values[:4])
    histogram = found.pop("histogram")
    scores = (found.pop("mutual_information"), found.pop("alone"))
    assert found == {
        "type": "number",
        "role": "feature",
        "count": 4,
        "missing": 1,
        "distinct": 3,
        "min": 0.0,
        "max": 4.0,
        "mean": 1.5,
        "std": pytest.approx(known.std(ddof=1)),
        "p05": pytest.approx(np.quantile(known, 0.05)),
        "p25": 0.75,
        "median": 1.0,
        "p75": 1.75,
        "p95": pytest.approx(np.quantile(known, 0.95)),
        "skew": pytest.approx(((known - 1.5) ** 3).mean() / known.std() ** 3),
        "zeros": 1,
    }
    assert (histogram["low"], histogram["high"], sum(histogram["counts"])) == (0.0, 4.0, 4)
    assert scores[0] >= 0
    assert 0 <= scores[1] <= 1


def test_integers_of_a_small_range_have_a_bar_each():
    found = profiled(pl.DataFrame({"x": [1, 1, 3], "y": ["yes", "no", "no"]}))["columns"]["x"]
    assert found["histogram"] == {"low": 0.5, "high": 3.5, "counts": [2, 0, 1]}


def test_codes_are_counted_and_the_rest_summed():
    frame = pl.DataFrame({"x": ["b", "a", "b", "a", "ccc", "d", None], "y": ["yes", "no"] * 3 + ["no"]})
    found = profiled(frame, max_categories=2)["columns"]["x"]
    assert found["top"] == [["a", 2], ["b", 2]]
    assert found["other"] == 2
    assert (found["count"], found["missing"], found["distinct"]) == (6, 1, 4)
    assert found["length"] == {"min": 1, "mean": pytest.approx(8 / 6), "max": 3}


def test_dates_booleans_and_columns_without_values():
    frame = pl.DataFrame(
        {
            "day": [dt.date(2024, 1, 2), dt.date(2024, 1, 1), None],
            "flag": [True, False, True],
            "empty": pl.Series([None] * 3, dtype=pl.Float64),
            "y": ["yes", "no", "no"],
        }
    )
    found = profiled(frame)["columns"]
    assert (found["day"]["min"], found["day"]["max"]) == ("2024-01-01", "2024-01-02")
    assert found["flag"]["top"] == [["true", 2], ["false", 1]]
    assert found["empty"]["count"] == 0
    assert profiled(frame)["constant"] == ["empty"]


def test_columns_that_no_model_sees_are_described_but_not_judged():
    task = Task(
        kind="binary", target="y", positive="yes", ids=("id",), group="g", time="t", exclude=("leak",)
    )
    frame = pl.DataFrame({name: range(4) for name in ("id", "g", "t", "leak", "x")}).with_columns(
        note=pl.lit("some words"), y=pl.Series(["yes", "no"] * 2)
    )
    found = profiled(frame, task, types={"note": "text"})["columns"]
    assert {name: entry["role"] for name, entry in found.items()} == {
        "id": "id", "g": "group", "t": "time", "leak": "excluded", "x": "feature", "note": "text", "y": "target",
    }  # fmt: skip
    assert [name for name, entry in found.items() if "alone" in entry] == ["x"]


def test_the_target_is_summed_up_with_its_missing_rows():
    found = profiled(pl.DataFrame({"x": [1, 2, 3, 4], "y": ["yes", "no", "no", None]}))
    assert found["target"] == {
        "name": "y",
        "kind": "binary",
        "missing": 1,
        "classes": {
            "no": {"count": 2, "share": pytest.approx(2 / 3)},
            "yes": {"count": 1, "share": pytest.approx(1 / 3)},
        },
    }
    assert "1 of 4 rows have no y; they can teach nothing." in found["warnings"]


def test_a_target_of_one_class_is_a_warning_and_no_crash():
    found = profiled(pl.DataFrame({"x": [1, 2], "y": ["yes", "yes"]}))
    assert "y has one class only: yes." in found["warnings"]
    assert "alone" not in found["columns"]["x"]


def test_a_target_that_is_not_there_is_named():
    with pytest.raises(PenstockError, match="no column 'y'"):
        profiled(pl.DataFrame({"x": [1]}))


# --- towards the target -----------------------------------------------------------------------------


def test_a_numbers_score_is_its_auc_either_way_round():
    frame = random_table()
    expected = roc_auc_score((frame["y"] == "yes").to_numpy(), frame["x"].to_numpy())
    assert profiled(frame)["columns"]["x"]["alone"] == pytest.approx(expected)
    turned = profiled(frame.with_columns(x=-pl.col("x")))["columns"]["x"]["alone"]
    assert turned == pytest.approx(expected)


def test_mutual_information_of_codes_is_scikit_learns_less_its_bias():
    frame = random_table().with_columns(code=pl.when(pl.col("x") > 0.5).then(pl.lit("a")).otherwise("code"))
    codes = frame["code"].rank("dense").to_numpy()[:, None]
    expected = mutual_info_classif(codes, frame["y"].to_numpy(), discrete_features=True)[0]
    assert profiled(frame)["columns"]["code"]["mutual_information"] == pytest.approx(expected - 2 / 2000)


def test_what_tells_nothing_scores_like_chance():
    found = profiled(random_table(4000))["columns"]
    assert found["noise"]["alone"] < 0.56
    assert found["noise"]["mutual_information"] < 0.005
    assert found["code"]["alone"] < 0.56


LEAKS = {
    "a copy": pl.col("y"),
    "another code for it": pl.when(pl.col("y") == "yes").then(1).otherwise(0).cast(pl.Int64),
    "filled in afterwards": pl.when(pl.col("y") == "yes").then(pl.lit("moved")),
    "a number that only the others have": pl.when(pl.col("y") == "no").then("noise"),
    "neither high nor low": pl.when(pl.col("y") == "yes").then(0.0).otherwise(pl.col("noise").sign() * 5),
}


@pytest.mark.parametrize("leak", LEAKS)
def test_a_column_that_alone_foretells_the_class_is_a_suspect(leak):
    found = profiled(random_table().with_columns(LEAKS[leak].alias("leak")))
    assert found["leak_suspects"] == ["leak"]
    assert any(line.startswith("leak alone foretells y with AUC") for line in found["warnings"])


def test_a_column_of_many_values_is_no_suspect_for_having_many():
    frame = random_table().with_columns(ticket=pl.int_range(pl.len()).cast(pl.String))
    found = profiled(frame)
    assert found["leak_suspects"] == []
    assert found["columns"]["ticket"]["alone"] < 0.56
    assert found["id_like"] == ["ticket"]
    assert "ticket has another value in every row, as an id has: name it in task.ids." in found["warnings"]


@pytest.mark.parametrize("leak", [pl.col("y") * 3 - 1, -pl.col("y"), pl.col("y").log(), pl.col("y").exp()])
def test_a_copy_of_a_number_on_another_scale_is_a_suspect(leak):
    frame = random_table().with_columns(y=pl.col("noise").abs() + 0.1).with_columns(leak.alias("leak"))
    assert profiled(frame.drop("noise"), NUMBER)["leak_suspects"] == ["leak"]


def test_the_score_towards_a_number_is_the_share_explained():
    frame = random_table(5000).with_columns(
        y=pl.when(pl.col("code") == "a").then(10.0).otherwise(0.0) + pl.col("noise")
    )
    found = profiled(frame.drop("noise"), NUMBER)["columns"]
    explained = 1 - 1 / frame["y"].var(ddof=0)
    assert found["code"]["alone"] == pytest.approx(explained, abs=0.01)
    assert found["x"]["alone"] < 0.01


def test_several_classes_are_scored_one_against_the_rest():
    task = Task(kind="multiclass", target="y")
    frame = (
        random_table(900)
        .with_columns(y=pl.col("code"), half=(pl.col("code") == "a").cast(pl.Int64))
        .drop("code")
    )
    found = profiled(frame, task)["columns"]
    # a is told from b and c for certain, b and c from each other not at all: AUC 1, ¾, ¾.
    assert found["half"]["alone"] == pytest.approx((1 + 0.75 + 0.75) / 3, abs=0.02)


# --- in pairs ---------------------------------------------------------------------------------------


def test_correlations_are_over_the_rows_that_have_both():
    frame = random_table().with_columns(
        z=pl.when(pl.int_range(pl.len()) % 3 != 0).then(pl.col("x") * 2 + pl.col("noise") * 0.1 + 1e6),
        one=pl.lit(1.0),
    )
    found = profiled(frame)["correlations"]
    both = frame.drop_nulls()
    expected = np.corrcoef(both["x"].to_numpy(), both["z"].to_numpy())[0, 1]
    matrix = np.array(found["matrix"])
    at = found["names"].index
    assert matrix[at("x"), at("z")] == pytest.approx(expected, abs=1e-6)
    assert matrix[at("x"), at("x")] == pytest.approx(1)
    assert np.isnan(matrix[at("x"), at("one")])
    assert found["pairs"] == [{"left": "x", "right": "z", "pearson": pytest.approx(expected, abs=1e-6)}]


def test_a_matrix_too_large_to_read_is_left_out():
    frame = pl.DataFrame({f"x{i}": np.random.default_rng(i).normal(size=30) for i in range(41)})
    found = profiled(frame.with_columns(y=pl.Series(["yes", "no"] * 15), copy="x7"))["correlations"]
    assert found == {
        "pairs": [{"left": "x7", "right": "copy", "pearson": pytest.approx(1)}],
        "names": [],
        "matrix": [],
    }


# --- in words ---------------------------------------------------------------------------------------


def test_what_is_found_is_said():
    frame = random_table(100).with_columns(
        one=pl.lit("same"),
        gone=pl.when(pl.int_range(pl.len()) < 10).then(1.5),
        twin=pl.col("x") * 2,
        y=pl.when(pl.int_range(pl.len()) % 20 == 7).then(pl.lit("yes")).otherwise(pl.lit("no")),
    )
    found = profiled(pl.concat([frame, frame.head(1)]), max_categories=2)
    assert found["duplicate_rows"] == 1
    assert found["constant"] == ["one"]
    assert found["warnings"] == [
        "Rare classes of y: yes (5.0%). Accuracy says little here; compare_samplers may help.",
        "Rows that repeat an earlier one in every column: 1 (prepare.drop_duplicates takes them out).",
        "one has the same value in every row.",
        "code has 3 categories: features.target_above would encode it in one column.",
        "gone is missing in 89% of the rows.",
        "x and twin say nearly the same: r = 1.000.",
    ]


def test_a_sound_table_has_no_warnings():
    assert profiled(random_table(200).with_columns(y=pl.Series(["yes", "no"] * 100)))["warnings"] == []


def test_many_pairs_are_counted_rather_than_listed():
    frame = pl.DataFrame({f"x{i}": np.arange(50.0) for i in range(6)}).with_columns(
        y=pl.Series(["yes", "no"] * 25)
    )
    warnings = profiled(frame)["warnings"]
    assert sum("say nearly the same" in line for line in warnings) == 10
    assert warnings[-1] == "5 more pairs of columns are correlated at 0.95 or more."
