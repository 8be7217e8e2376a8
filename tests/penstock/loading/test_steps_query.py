"""Queries: what they see, what they do not, and what becomes of their result."""

from __future__ import annotations

from datetime import UTC, date, datetime

import polars as pl
import pytest

from penstock.errors import PenstockError
from penstock.loading import steps_query
from tests.penstock.loading.stepping import traced, transformed

ROWS = traced(
    pl.DataFrame(
        {
            "id": [1, 2, 3],
            "s": ["a", "b", None],
            "moment": [datetime(2024, 1, 1, hour, tzinfo=UTC) for hour in (22, 23, 0)],
        },
        schema_overrides={"moment": pl.Datetime("us", "UTC")},
    )
)


def queried(query: str, folder, **inputs) -> pl.DataFrame:
    return transformed(ROWS, folder, {"op": "sql", "query": query}, inputs=inputs)


def test_a_result_is_of_types_of_a_contract(tmp_path):
    made = queried(
        """SELECT sum(id) AS huge, 1::TINYINT AS tiny, 1.5::DECIMAL(9, 2) AS price, 1.5::FLOAT AS single, NULL AS nothing,
        'a'::ENUM ('a', 'b') AS word, TIMESTAMP '2024-01-01 05:00:00' AS given, max(moment) AS latest,
        date_trunc('month', max(moment))::DATE AS month, 'inf'::DOUBLE AS infinite, hour(max(moment)) AS hour FROM rows""",
        tmp_path,
    )
    assert made.row(0, named=True) == {
        "huge": 6, "tiny": 1, "price": 1.5, "single": 1.5, "nothing": None, "word": "a",
        "given": datetime(2024, 1, 1, 5, tzinfo=UTC), "latest": datetime(2024, 1, 1, 23, tzinfo=UTC),
        "month": date(2024, 1, 1), "infinite": None, "hour": 23,
    }  # fmt: skip
    assert made.schema["huge"] == made.schema["tiny"] == pl.Int64
    assert made.schema["given"] == made.schema["latest"] == pl.Datetime("us", "UTC")


def test_rows_may_be_read_twice_and_inputs_are_tables(tmp_path):
    pl.DataFrame({"id": [1, 2], "n": [10, 20]}).write_csv(tmp_path / "more.csv")
    made = queried(
        'SELECT a.id, n, c FROM rows a JOIN "my more" USING (id), (SELECT count(*) AS c FROM rows) ORDER BY id',
        tmp_path,
        **{"my more": tmp_path / "more.csv"},
    )
    assert made.rows() == [(1, 10, 3), (2, 20, 3)]


def test_an_input_that_a_query_does_not_name_is_not_read(tmp_path):
    assert queried("SELECT count(*) AS n FROM rows", tmp_path, absent=tmp_path / "absent.csv").item() == 3


def test_a_query_may_give_nothing(tmp_path):
    steps = [
        {"op": "sql", "query": "SELECT id FROM rows WHERE false"},
        {"op": "aggregate", "columns": {"n": "count(*)"}},
    ]
    assert transformed(ROWS, tmp_path, *steps).item() == 0


def test_a_query_follows_another(tmp_path):
    steps = [{"op": "sql", "query": f"SELECT id + {n} AS id FROM rows"} for n in (1, 10)]
    assert sorted(transformed(ROWS, tmp_path, *steps)["id"]) == [12, 13, 14]


def test_what_is_in_memory_is_limited(tmp_path, monkeypatch):
    monkeypatch.setattr(steps_query, "MEMORY_LIMIT", "150MB")
    monkeypatch.setattr(steps_query, "THREADS", 1)
    long = pl.format("{} {}", "id", pl.lit("a rather long text, again and again " * 8))
    many = traced(pl.DataFrame({"id": range(900_000)}).with_columns(long.alias("s")))
    step = {"op": "sql", "query": "SELECT * FROM rows ORDER BY hash(s)"}
    made = transformed(many, tmp_path, step, rows=300_000)
    assert made.estimated_size("mb") > 200
    assert made["id"].n_unique() == 900_000


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM '{path}'",
        "SELECT * FROM read_csv('{path}')",
        "SELECT * FROM read_text('{path}')",
        "SELECT * FROM glob('{folder}/*')",
        "SELECT * FROM read_parquet('{folder}/spill/../secret.parquet')",
        "SELECT content FROM rows, read_blob('{path}')",
        "FROM sniff_csv('{path}')",
        "SELECT * FROM sqlite_scan('{path}', 't')",
        "SELECT * FROM frame",
        "SELECT * FROM SECRET",
        "SELECT getvariable('x') FROM absent",
        "COPY (SELECT 1) TO '{folder}/out.csv'",
        "COPY rows TO '{folder}/out.csv'",
        "ATTACH '{folder}/other.duckdb'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "SET allowed_paths = ['{path}']",
        "EXPORT DATABASE '{folder}/all'",
        "PRAGMA database_list",
        "CREATE TABLE t AS SELECT 1",
        "DROP VIEW rows",
        "SELECT 1; SELECT 2",
        "WITH x AS (SELECT 1) SELECT * FROM x; COPY rows TO '{folder}/out.csv'",
        "",
    ],
)
def test_a_query_reaches_nothing_else(query, tmp_path):
    SECRET = frame = pl.DataFrame({"secret": [1]})  # noqa: F841  (what DuckDB would find by its name)
    (tmp_path / "secret.csv").write_text("secret\n1\n")
    frame.write_parquet(tmp_path / "secret.parquet")
    text = query.format(path=tmp_path / "secret.csv", folder=tmp_path)
    before = {path.name for path in tmp_path.iterdir()} | {"spill"}
    with pytest.raises(PenstockError, match=r"^steps\[0\] \(sql\): "):
        queried(text, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("query", "told", "hint"),
    [
        ("SELECT idd FROM rows", "there is no column 'idd'", "did you mean 'id'?"),
        ("SELECT id FROM row", "there is no table 'row'", "did you mean 'rows'?"),
        ("SELECT moment - moment AS span FROM rows", "'span' is interval", "epoch"),
        ("SELECT [id] AS many FROM rows", "'many' is bigint[]", "CAST(many AS VARCHAR)"),
        ("SELECT CAST(s AS INTEGER) AS n FROM rows", "Could not convert string 'a'", ""),
        ("SELEC id FROM rows", "SELEC", ""),
        ("SELECT * FROM read_csv('/etc/hostname')", "disabled", "declare the file in `inputs`"),
        ("INSERT INTO rows SELECT 1", "it must be one query", "after"),
    ],
)
def test_an_error_of_a_query_is_told(query, told, hint, tmp_path):
    with pytest.raises(PenstockError, match=r"^steps\[0\] \(sql\): ") as error:
        queried(query, tmp_path)
    assert told in error.value.message
    assert hint in error.value.hint
