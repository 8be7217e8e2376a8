"""Every step does what it says; a query says the same; chunks do not matter; what is wrong is named."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from pydantic import TypeAdapter

from penstock.config.loading.steps import Input, Step
from penstock.errors import PenstockError
from penstock.examples.data import ratings
from penstock.loading.steps import Transformation

STEPS = TypeAdapter(list[Step])
ROWS = pl.DataFrame({"id": [1, 2, 3, 4], "code": ["a", "b", "z", None], "x": [1.5, None, 3.0, 4.0]})


def made(*steps, inputs=None):
    return Transformation(STEPS.validate_python(list(steps)), inputs or {})


def whole(frame, *steps, folder, inputs=None, chunk=3):
    transformation = made(*steps, inputs=inputs)
    (folder / "spill").mkdir(exist_ok=True)
    for number, start in enumerate(range(0, max(1, frame.height), chunk)):
        part = transformation.apply(frame.slice(start, chunk)).frame
        part.write_parquet(folder / f"spill/{number:08d}.parquet")
    out = []
    transformation.apply_whole(folder / "spill", out.append)
    return pl.concat(out) if out else pl.DataFrame()


@pytest.fixture
def codes(tmp_path):
    path = tmp_path / "codes.csv"
    path.write_text("code,word\na,apple\nb,berry\n")
    return {"codes": Input(path=str(path))}


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (
            {"op": "rename", "columns": {"x": "y"}},
            {"id": [1, 2, 3, 4], "code": ["a", "b", "z", None], "y": [1.5, None, 3.0, 4.0]},
        ),
        ({"op": "drop", "columns": ["x", "code"]}, {"id": [1, 2, 3, 4]}),
        ({"op": "keep", "columns": ["x", "id"]}, {"x": [1.5, None, 3.0, 4.0], "id": [1, 2, 3, 4]}),
        ({"op": "fill", "columns": {"x": 0}}, {"x": [1.5, 0.0, 3.0, 4.0]}),
        ({"op": "filter", "where": "x > 2 AND code IS NOT NULL"}, {"id": [3]}),
        (
            {"op": "derive", "columns": {"y": "CASE WHEN x > 2 THEN upper(code) ELSE 'no' END"}},
            {"y": ["no", "no", "Z", None]},
        ),
        (
            {"op": "map", "column": "code", "codes": {"a": "A"}, "unmapped": "keep"},
            {"code": ["A", "b", "z", None]},
        ),
        (
            {"op": "map", "column": "code", "codes": {"a": "A"}, "unmapped": "null"},
            {"code": ["A", None, None, None]},
        ),
        (
            {
                "op": "map",
                "column": "code",
                "codes": {"a": 1, "b": 2},
                "unmapped": "default",
                "default": 0,
                "into": "n",
            },
            {"n": [1, 2, 0, None], "code": ["a", "b", "z", None]},
        ),
        ({"op": "cast", "columns": {"x": "integer"}, "on_error": "null"}, {"x": [None, None, 3, 4]}),
        (
            {"op": "join", "input": "codes", "on": ["code"]},
            {"word": ["apple", "berry", None, None], "id": [1, 2, 3, 4]},
        ),
        (
            {"op": "join", "input": "codes", "on": {"code": "code"}, "how": "inner", "columns": ["word"]},
            {"id": [1, 2]},
        ),
        ({"op": "join", "input": "codes", "on": ["code"], "how": "anti"}, {"id": [3, 4]}),
    ],
)
def test_row_by_row(step, expected, codes):
    frame = made(step, inputs=codes).apply(ROWS).frame
    assert {name: frame[name].to_list() for name in expected} == expected


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        ({"op": "deduplicate", "keys": ["g"]}, {"i": [0, 1]}),
        ({"op": "deduplicate", "keys": ["g"], "keep": "last"}, {"i": [4, 5]}),
        ({"op": "deduplicate", "keys": ["g"], "order_by": "v"}, {"i": [0, 5]}),
        (
            {"op": "aggregate", "by": ["g"], "columns": {"n": "count(*)", "top": "max(v)"}},
            {"g": ["a", "b"], "n": [3, 3], "top": [9, 5]},
        ),
        ({"op": "aggregate", "columns": {"sum": "sum(v)"}}, {"sum": [28]}),
        (
            {
                "op": "window",
                "partition_by": ["g"],
                "order_by": ["i"],
                "columns": {
                    "n": {"function": "row_number"},
                    "before": {"function": "lag", "column": "v"},
                    "total": {"function": "cumulative_sum", "column": "v"},
                    "mean": {"function": "rolling_mean", "column": "v", "rows": 2},
                },
            },
            {
                "n": [1, 1, 2, 2, 3, 3],
                "before": [None, None, 9, 1, 4, 3],
                "total": [9, 1, 13, 4, 19, 9],
                "mean": [9.0, 1.0, 6.5, 2.0, 5.0, 4.0],
            },
        ),
        (
            {
                "op": "pivot",
                "by": ["g"],
                "column": "k",
                "values": {"x": "v_x", "y": "v_y"},
                "of": "v",
                "aggregate": "sum",
            },
            {"g": ["a", "b"], "v_x": [15, None], "v_y": [4, 9]},
        ),
        (
            {"op": "unpivot", "columns": ["v", "i"], "value": "number"},
            {"number": [9, 0, 1, 1, 4, 2, 3, 3, 6, 4, 5, 5]},
        ),
        ({"op": "union", "input": "codes"}, {"code": [None] * 6 + ["a", "b"]}),
        (
            {"op": "sql", "query": "SELECT g, median(v) AS m FROM rows GROUP BY g ORDER BY g"},
            {"m": [6.0, 3.0]},
        ),
    ],
)
def test_all_rows_at_once(step, expected, codes, tmp_path):
    rows = pl.DataFrame(
        {"i": range(6), "g": ["a", "b"] * 3, "k": ["x", "y", "y", "y", "x", "y"], "v": [9, 1, 4, 3, 6, 5]}
    )
    found = whole(rows, step, folder=tmp_path, inputs=codes)
    assert {name: found[name].to_list() for name in expected} == expected


def test_the_latest_row_that_is_not_later(tmp_path):
    start = datetime(2024, 1, 1, tzinfo=UTC)
    rates = pl.DataFrame(
        {"at": [start, start + timedelta(days=2)], "currency": ["EUR"] * 2, "rate": [1.1, 1.2]}
    )
    rates.write_parquet(tmp_path / "rates.parquet")
    orders = pl.DataFrame(
        {
            "at": [
                start + timedelta(days=3),
                start - timedelta(days=1),
                start + timedelta(days=1),
                start + timedelta(days=9),
            ],
            "currency": ["EUR"] * 4,
        }
    )
    step = {"op": "join", "input": "rates", "on": ["currency", "at"], "how": "asof", "tolerance": "5d"}
    found = made(step, inputs={"rates": Input(path=str(tmp_path / "rates.parquet"))}).apply(orders).frame
    assert found["rate"].to_list() == [1.2, None, 1.1, None]
    assert found["at"].to_list() == orders["at"].to_list()


@settings(max_examples=60, deadline=None)
@given(
    codes=st.lists(st.sampled_from(["a", "b", "?", None]), max_size=30),
    numbers=st.lists(st.sampled_from(["1", "2.5", "x", "", None]), min_size=30, max_size=30),
    chunk=st.integers(1, 31),
)
def test_in_is_out_and_left_out_and_rejected_however_it_is_cut(codes, numbers, chunk):
    frame = pl.DataFrame(
        {
            "code": codes,
            "n": numbers[: len(codes)],
            "_source": ["here"] * len(codes),
            "_position": range(len(codes)),
        },
        schema={"code": pl.String, "n": pl.String, "_source": pl.String, "_position": pl.Int64},
    )
    transformation = made(
        {"op": "map", "column": "code", "codes": {"a": "A", "b": "B"}},
        {"op": "cast", "columns": {"n": "number"}},
        {"op": "filter", "where": "n > 1 OR n IS NULL"},
    )
    parts = [transformation.apply(frame.slice(at, chunk)) for at in range(0, frame.height, chunk)]
    out = sum(part.frame.height for part in parts)
    bad = pl.concat([part.bad for part in parts]) if parts else pl.DataFrame({"position": []})
    assert out + sum(part.filtered for part in parts) + bad.height == frame.height
    for row in frame.iter_rows(named=True):
        wrong = row["code"] == "?" or row["n"] == "x"
        assert (row["_position"] in bad["position"].to_list()) == wrong
    one = transformation.apply(frame)
    if parts:
        assert_frame_equal(pl.concat([part.frame for part in parts]), one.frame)
    assert sum(one.reasons.values()) == bad.height


def test_why_a_row_is_rejected():
    stepped = made({"op": "map", "column": "code", "codes": {"a": "A"}}).apply(
        ROWS.with_columns(_source=pl.lit("f.csv"), _position=pl.col("id") + 10)
    )
    assert stepped.bad.select("source", "position", "reason").rows() == [
        ("f.csv", 12, "code: expected a code that is mapped, found 'b'"),
        ("f.csv", 13, "code: expected a code that is mapped, found 'z'"),
    ]
    assert stepped.reasons == {"code: codes": 2}


def test_steps_and_a_query_say_the_same(tmp_path):
    rows = ratings().head(20_000)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    by_steps = whole(
        rows,
        {"op": "filter", "where": "rating >= 3"},
        {"op": "derive", "columns": {"decade": "year / 10"}},
        {"op": "cast", "columns": {"decade": "number"}},
        {
            "op": "aggregate",
            "by": ["film_id"],
            "columns": {"n": "count(*)", "mean": "avg(rating)", "of": "max(decade)"},
        },
        folder=tmp_path / "a",
        chunk=999,
    )
    by_query = whole(
        rows,
        {
            "op": "sql",
            "query": "SELECT film_id, count(*) AS n, avg(rating) AS mean, max(year / 10) AS of FROM rows "
            "WHERE rating >= 3 GROUP BY film_id ORDER BY film_id",
        },
        folder=tmp_path / "b",
        chunk=20_000,
    )
    assert_frame_equal(by_steps, by_query, check_dtypes=False)


@pytest.mark.parametrize(
    ("step", "says"),
    [
        (
            {"op": "drop", "columns": ["cod"]},
            r"steps\[0\] \(drop\): there is no column 'cod'\n.*did you mean 'code'",
        ),
        ({"op": "filter", "where": "xx > 1"}, r"steps\[0\] \(filter\).*xx"),
        ({"op": "filter", "where": "x >"}, r"steps\[0\] \(filter\): 'x >'"),
        ({"op": "derive", "columns": {"y": "read_csv('/etc/passwd')"}}, "there is no function 'read_csv'"),
        ({"op": "rename", "columns": {"x": "id"}}, "two columns 'id'"),
        (
            {"op": "cast", "columns": {"code": "number"}, "on_error": "fail"},
            "3 rows, the first: code: expected number, found 'a'",
        ),
        ({"op": "join", "input": "codes", "on": ["id"]}, r"the input 'codes': there is no column 'id'"),
    ],
)
def test_what_is_wrong_with_a_step_is_said(step, says, codes):
    with pytest.raises(PenstockError, match=says):
        made(step, inputs=codes).apply(ROWS)


def test_a_join_that_would_double_rows_is_refused(tmp_path):
    path = tmp_path / "twice.csv"
    path.write_text("code,word\na,apple\na,avocado\n")
    inputs = {"twice": Input(path=str(path))}
    step = {"op": "join", "input": "twice", "on": ["code"]}
    with pytest.raises(PenstockError, match="has 2 rows with code 'a', so a row would be doubled"):
        made(step, inputs=inputs).apply(ROWS)
    assert made({**step, "validate_keys": "m:m"}, inputs=inputs).apply(ROWS).frame.height == 5


def test_a_query_sees_no_file(tmp_path):
    (tmp_path / "secret.csv").write_text("a\n1\n")
    for query in (
        f"SELECT * FROM '{tmp_path}/secret.csv'",
        "SET enable_external_access = true",
        "SELECT * FROM nothing",
    ):
        with pytest.raises(PenstockError, match=r"steps\[0\] \(sql\)"):
            whole(ROWS, {"op": "sql", "query": query}, folder=tmp_path)


def test_inputs_that_are_not_there_are_named(tmp_path):
    with pytest.raises(PenstockError, match="there is no input 'x'"):
        made({"op": "union", "input": "x"})
    with pytest.raises(PenstockError, match=r"inputs\.x"):
        made(
            {"op": "join", "input": "x", "on": ["id"]},
            inputs={"x": Input(path=str(tmp_path / "none.parquet"))},
        ).apply(ROWS)


def test_quarantine_needs_an_origin():
    with pytest.raises(PenstockError, match=r"steps\[1\] \(cast\): a row made of many has no origin"):
        made({"op": "deduplicate", "keys": ["id"]}, {"op": "cast", "columns": {"id": "text"}})
