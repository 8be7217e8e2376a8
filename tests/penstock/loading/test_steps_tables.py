"""Steps that need all rows, against plain Python over lists."""

from __future__ import annotations

import statistics
from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import PenstockError
from tests.penstock.loading.stepping import of_chunks, traced, transformed

rows_of = st.lists(
    st.tuples(
        st.one_of(st.none(), st.sampled_from(["a", "b", "c"])),
        st.one_of(st.none(), st.integers(0, 9)),
        st.one_of(st.none(), st.integers(-50, 50).map(lambda x: x / 4)),
    ),
    min_size=1,
    max_size=25,
)
size = st.integers(1, 30)


def table(rows: list[tuple[str | None, int | None, float | None]]) -> pl.DataFrame:
    frame = pl.DataFrame(rows, schema={"g": pl.String, "t": pl.Int64, "x": pl.Float64}, orient="row")
    return traced(frame).with_row_index("n").cast({"n": pl.Int64})


def by_group(rows, key=lambda row: row[0]):
    groups: dict[object, list[tuple[int, tuple[str | None, int | None, float | None]]]] = {}
    for number, row in enumerate(rows):
        groups.setdefault(key(row), []).append((number, row))
    return groups


@settings(max_examples=40, deadline=None)
@given(rows=rows_of, size=size)
def test_an_aggregate_is_what_it_says(rows, size, tmp_path_factory):
    made = transformed(
        table(rows),
        tmp_path_factory.mktemp("a"),
        {
            "op": "aggregate",
            "by": ["g"],
            "columns": {
                "rows": "count(*)",
                "there": "count(x)",
                "distinct": "count(DISTINCT t)",
                "sum": "sum(x)",
                "mean": "avg(x)",
                "median": "median(x)",
                "upper": "quantile_cont(x, 1)",
                "least": "min(t)",
                "most": "max(t)",
                "std": "stddev(x)",
                "first": "first(n)",
                "last": "last(x)",
                "late": "count(*) FILTER (WHERE t > 5)",
                "weighted": "sum(x * t) / sum(t)",
            },
        },
        rows=size,
    )
    groups = by_group(rows)
    assert made["g"].to_list() == sorted(groups, key=lambda name: (name is not None, name))
    for found in made.iter_rows(named=True):
        group = groups[found["g"]]
        times = [t for _, (_, t, _) in group if t is not None]
        values = [x for _, (_, _, x) in group if x is not None]
        assert found["rows"] == len(group)
        assert found["there"] == len(values)
        assert found["distinct"] == len(set(times))
        assert found["sum"] == (sum(values) if values else None)
        assert found["mean"] == (pytest.approx(sum(values) / len(values)) if values else None)
        assert found["median"] == (statistics.median(values) if values else None)
        assert found["upper"] == (max(values) if values else None)
        assert (found["least"], found["most"]) == ((min(times), max(times)) if times else (None, None))
        assert found["std"] == (pytest.approx(statistics.stdev(values)) if len(values) > 1 else None)
        assert found["first"] == group[0][0]
        assert found["last"] == group[-1][1][2]
        assert found["late"] == sum(t > 5 for t in times)
        if sum(times) == 0:
            assert found["weighted"] is None


@settings(max_examples=60, deadline=None)
@given(
    rows=rows_of,
    size=size,
    descending=st.booleans(),
    grouped=st.booleans(),
    far=st.integers(1, 4),
)
def test_a_window_is_what_it_says(rows, size, descending, grouped, far, tmp_path_factory):
    columns = {
        "number": {"function": "row_number"},
        "rank": {"function": "rank"},
        "lag": {"function": "lag", "column": "x", "rows": far},
        "lead": {"function": "lead", "column": "x", "rows": far},
        "so_far": {"function": "cumulative_sum", "column": "x"},
        "sum": {"function": "rolling_sum", "column": "x", "rows": far},
        "mean": {"function": "rolling_mean", "column": "x", "rows": far},
        "most": {"function": "rolling_max", "column": "x", "rows": far},
    }
    step = {"op": "window", "order_by": ["t"], "descending": descending, "columns": columns}
    if grouped:
        step["partition_by"] = ["g"]
    made = transformed(table(rows), tmp_path_factory.mktemp("w"), step, rows=size)
    found = {row["n"]: row for row in made.iter_rows(named=True)}
    assert sorted(found) == list(range(len(rows)))
    for group in by_group(rows, lambda row: row[0] if grouped else 0).values():
        # Missing times are the smallest; equal ones keep the order in which rows came.
        ordered = sorted(group, key=lambda pair: -1 if pair[1][1] is None else pair[1][1], reverse=descending)
        if descending:
            ordered = sorted(group, key=lambda pair: 1 if pair[1][1] is None else -pair[1][1])
        values = [x for _, (_, _, x) in ordered]
        times = [t for _, (_, t, _) in ordered]
        for at, (number, _) in enumerate(ordered):
            row = found[number]
            window = [x for x in values[max(0, at - far + 1) : at + 1] if x is not None]
            before = [x for x in values[: at + 1] if x is not None]
            assert row["number"] == at + 1
            assert row["rank"] == times.index(times[at]) + 1
            assert row["lag"] == (values[at - far] if at >= far else None)
            assert row["lead"] == (values[at + far] if at + far < len(values) else None)
            assert row["so_far"] == (pytest.approx(sum(before)) if before else None)
            assert row["sum"] == (pytest.approx(sum(window)) if window else None)
            assert row["mean"] == (pytest.approx(sum(window) / len(window)) if window else None)
            assert row["most"] == (max(window) if window else None)


@settings(max_examples=40, deadline=None)
@given(rows=rows_of, size=size, span=st.integers(1, 5), timed=st.booleans())
def test_a_window_over_time_has_both_its_ends(rows, size, span, timed, tmp_path_factory):
    rows = [row for row in rows if row[1] is not None] or [("a", 1, 1.0)]
    frame = table(rows)
    if timed:
        start = datetime(2024, 1, 1, tzinfo=UTC)
        moments = [start + timedelta(hours=t) for _, t, _ in rows]
        frame = frame.with_columns(pl.Series("t", moments, dtype=pl.Datetime("us", "UTC")))
    columns = {
        name: {"function": f"rolling_{name}", "column": "x", "within": f"{span}h" if timed else span}
        for name in ("sum", "mean", "min", "max")
    }
    step = {"op": "window", "partition_by": ["g"], "order_by": ["t"], "columns": columns}
    made = transformed(frame, tmp_path_factory.mktemp("w"), step, rows=size)
    for row in made.iter_rows(named=True):
        name, time, _ = rows[row["n"]]
        inside = [x for g, t, x in rows if g == name and time - span <= t <= time and x is not None]
        assert row["sum"] == (pytest.approx(sum(inside)) if inside else None)
        assert row["mean"] == (pytest.approx(sum(inside) / len(inside)) if inside else None)
        assert (row["min"], row["max"]) == ((min(inside), max(inside)) if inside else (None, None))


@settings(max_examples=40, deadline=None)
@given(rows=rows_of, size=size, order=st.booleans(), keep=st.sampled_from(["first", "last", None]))
def test_of_repeated_keys_one_row_is_kept(rows, size, order, keep, tmp_path_factory):
    step = {"op": "deduplicate", "keys": ["g"], "keep": keep}
    if order:
        step["order_by"] = "t"
    made = transformed(table(rows), tmp_path_factory.mktemp("d"), step, rows=size)
    expected = []
    for group in by_group(rows).values():
        if order:
            group = sorted(group, key=lambda pair: -1 if pair[1][1] is None else pair[1][1])  # noqa: PLW2901
        last = keep == "last" or (keep is None and order)
        expected.append(group[-1 if last else 0][0])
    assert made["n"].to_list() == sorted(expected)


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_the_order_of_rows_does_not_hang_on_chunks(rows, tmp_path):
    frame = traced(pl.DataFrame({"k": [3, 1, 2, 3, 1, 2, 9], "x": [1, 2, 3, 4, 5, 6, 7], "y": [1.5] * 7}))
    made = transformed(frame, tmp_path, {"op": "unpivot", "columns": ["x", "y"]}, rows=rows)
    assert made["k"].to_list() == [k for k in frame["k"] for _ in range(2)]
    assert made["name"].to_list() == ["x", "y"] * 7
    assert made["value"].to_list()[:4] == [1.0, 1.5, 2.0, 1.5]


@pytest.mark.parametrize(
    ("aggregate", "expected"),
    [
        ("sum", [[3, None], [None, 4], [None, None]]),
        ("count", [[2, 0], [0, 1], [0, 0]]),
        ("first", [[1, None], [None, 4], [None, None]]),
        ("max", [[2, None], [None, 4], [None, None]]),
        ("mean", [[1.5, None], [None, 4.0], [None, None]]),
    ],
)
def test_a_pivot_has_the_columns_that_are_declared(aggregate, expected, tmp_path):
    frame = traced(pl.DataFrame({"k": ["a", "a", "b", "c"], "code": [1.0, 1.0, 2.0, 3.0], "x": [1, 2, 4, 8]}))
    step = {
        "op": "pivot",
        "by": ["k"],
        "column": "code",
        "values": {1: "one", 2: "two"},
        "of": "x",
        "aggregate": aggregate,
    }
    made = transformed(frame, tmp_path, step)
    assert made.rows() == [(key, *values) for key, values in zip("abc", expected, strict=True)]


def test_an_aggregate_without_groups_is_one_row(tmp_path):
    made = transformed(
        table([("a", 1, 2.0), ("b", 3, None)]),
        tmp_path,
        {"op": "aggregate", "columns": {"n": "count(*)", "x": "sum(x)"}},
    )
    assert made.rows() == [(2, 2.0)]


def test_columns_that_come_later_and_types_that_widen_are_kept(tmp_path):
    chunks = [
        traced(pl.DataFrame({"k": [1, 2], "v": [1, 2], "d": [date(2024, 1, 1)] * 2})),
        traced(
            pl.DataFrame({"k": [3], "v": [2.5], "new": ["x"], "d": [datetime(2024, 1, 2, 5, tzinfo=UTC)]})
        ).with_columns(pl.col("d").cast(pl.Datetime("us", "UTC"))),
        traced(pl.DataFrame({"k": [4], "v": ["text"], "new": ["y"]})),
    ]
    made = of_chunks(chunks, tmp_path, {"op": "deduplicate", "keys": ["k"]})
    assert made["k"].to_list() == [1, 2, 3, 4]
    assert made["v"].to_list() == ["1", "2", "2.5", "text"]
    assert made["new"].to_list() == [None, None, "x", "y"]
    assert made.schema["d"] == pl.Datetime("us", "UTC")
    assert made["d"][0] == datetime(2024, 1, 1, tzinfo=UTC)


def test_lineage_ends_where_rows_are_made_of_many(tmp_path):
    made = transformed(table([("a", 1, 2.0)]), tmp_path, {"op": "deduplicate", "keys": ["g"]})
    assert made.columns == ["n", "g", "t", "x"]


@pytest.mark.parametrize(
    ("steps", "told", "hint"),
    [
        ([{"op": "aggregate", "by": ["h"], "columns": {"n": "count(*)"}}], "there is no column 'h'", "there are: n, g, t, x"),
        ([{"op": "aggregate", "by": ["g"], "columns": {"n": "sum(xx)"}}], "n: 'sum(xx)': there is no column 'xx'", "'x'"),
        ([{"op": "aggregate", "by": ["g"], "columns": {"n": "x"}}], "'x' has no single value for a group", "max(x)"),
        ([{"op": "aggregate", "by": ["g"], "columns": {"n": "x + sum(x)"}}], "many values for a group", ""),
        ([{"op": "aggregate", "by": ["g"], "columns": {"g": "sum(x)"}}], "two columns 'g'", ""),
        ([{"op": "aggregate", "columns": {"n": "x - sum(x)"}}], "many values for a group", ""),
        ([{"op": "aggregate", "columns": {"n": "sum(g)"}}], "sum", ""),
        ([{"op": "window", "order_by": ["t"], "columns": {"n": {"function": "rolling_sum", "column": "g", "rows": 2}}}], "'g' is text", "of numbers"),
        ([{"op": "window", "order_by": ["g"], "columns": {"n": {"function": "rolling_sum", "column": "x", "within": "1h"}}}], "'g' is text", "along a time"),
        ([{"op": "window", "order_by": ["t"], "columns": {"n": {"function": "rolling_sum", "column": "x", "within": "1h"}}}], "`within: 1:00:00` is not", ""),
        ([{"op": "deduplicate", "keys": ["g"], "order_by": "tt"}], "there is no column 'tt'", "'t'"),
        ([{"op": "pivot", "by": ["n"], "column": "g", "values": {"a": "n"}, "of": "x"}], "two columns 'n'", ""),
        ([{"op": "pivot", "by": ["n"], "column": "t", "values": {1: "one"}, "of": "g", "aggregate": "sum"}], "'g' is text", "sum is of numbers"),
        ([{"op": "unpivot", "columns": ["x", "t"], "name": "g"}], "two columns 'g'", ""),
        ([{"op": "union", "input": "other"}], "'g' is text, and integer in the input 'other'", "cast it"),
        ([{"op": "deduplicate", "keys": ["g"]}, {"op": "derive", "columns": {"y": "CAST(g AS BIGINT)"}}, {"op": "drop", "columns": ["x"]}], "steps[1] (derive): conversion from", "TRY_CAST"),
        ([{"op": "derive", "columns": {"h": "g"}}, {"op": "deduplicate", "keys": ["g"]}, {"op": "derive", "columns": {"y": "CAST(h AS BIGINT)"}}, {"op": "sql", "query": "SELECT y FROM rows"}], "steps[2] (derive): conversion from", "TRY_CAST"),
    ],
)  # fmt: skip
def test_an_error_names_the_step(steps, told, hint, tmp_path):
    pl.DataFrame({"g": [1]}).write_parquet(tmp_path / "other.parquet")
    with pytest.raises(PenstockError, match=r"^steps\[\d\] ") as error:
        transformed(
            table([("a", 1, 2.0), ("b", None, None)]),
            tmp_path,
            *steps,
            inputs={"other": tmp_path / "other.parquet"},
        )
    assert told in error.value.message
    assert hint in error.value.hint
