"""Inputs of any kind, and what joins with them give."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import duckdb
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from penstock.config.loading import ParquetDestination
from penstock.errors import PenstockError
from penstock.loading.destinations import Plan, open_table
from penstock.loading.state import State
from tests.penstock.loading.stepping import stepped, traced, transformed

CODES = pl.DataFrame({"code": ["007", "a", "b"], "word": ["agent", "apple", None], "rate": [1.5, 2.0, 3.0]})
ROWS = traced(pl.DataFrame({"id": [1, 2, 3, 4], "code": ["a", "007", None, "zz"]}))
FOUND = ["apple", "agent", None, None]


def _csv(folder: Path) -> dict[str, object]:
    CODES.write_csv(folder / "codes.csv")
    return {"path": str(folder / "codes.csv")}


def _gzipped_lines(folder: Path) -> dict[str, object]:
    import gzip

    (folder / "codes.jsonl.gz").write_bytes(gzip.compress(CODES.write_ndjson().encode()))
    return {"path": str(folder / "codes.jsonl.gz")}


def _globbed(folder: Path) -> dict[str, object]:
    for number in range(3):
        CODES.slice(number, 1).write_csv(folder / f"codes{number}.csv")
    return {"path": str(folder / "codes*.csv")}


def _parquet(folder: Path) -> dict[str, object]:
    CODES.with_columns(pl.col("code").cast(pl.Categorical)).write_parquet(folder / "codes.parquet")
    return {"path": str(folder / "codes.parquet")}


def _lake(folder: Path) -> dict[str, object]:
    with open_table(
        ParquetDestination(kind="parquet", path=str(folder / "lake"), partition_by=("code",))
    ) as table:
        table.stage(traced(CODES))
        table.commit(State(name="codes", load=1), Plan("append"))
    # What waits for a commit is no part of a table.
    staging = folder / "lake/_penstock/staging"
    staging.mkdir(parents=True, exist_ok=True)
    traced(CODES).write_parquet(staging / "waiting.parquet")
    return {"path": str(folder / "lake")}


def _hive(folder: Path) -> dict[str, object]:
    for (word,), rows in CODES.with_columns(pl.col("word").fill_null("none")).group_by("word"):
        (folder / f"hive/word={word}").mkdir(parents=True)
        rows.drop("word").write_parquet(folder / f"hive/word={word}/part.parquet")
    return {"path": str(folder / "hive")}


def _delta(folder: Path) -> dict[str, object]:
    CODES.write_delta(folder / "delta")
    return {"path": str(folder / "delta")}


def _duckdb(folder: Path) -> dict[str, object]:
    with duckdb.connect(folder / "a.duckdb") as database:
        database.execute("CREATE SCHEMA raw")
        database.register("given", CODES.to_arrow())
        database.execute("CREATE TABLE raw.codes AS FROM given")
    return {"path": str(folder / "a.duckdb"), "table": "raw.codes"}


def _sqlite(folder: Path) -> dict[str, object]:
    with closing(sqlite3.connect(folder / "a.db")) as database, database:
        database.execute("CREATE TABLE codes (code TEXT, word TEXT, rate REAL)")
        database.executemany("INSERT INTO codes VALUES (?, ?, ?)", CODES.rows())
    return {"path": str(folder / "a.db"), "table": "codes"}


@pytest.mark.parametrize(
    "made",
    [_csv, _gzipped_lines, _globbed, _parquet, _lake, _hive, _delta, _duckdb, _sqlite],
    ids=lambda f: f.__name__,
)
def test_an_input_of_any_kind_is_joined(made, tmp_path):
    found = stepped(
        ROWS, {"op": "join", "input": "codes", "on": ["code"]}, inputs={"codes": made(tmp_path)}
    ).frame
    assert found["word"].to_list() == FOUND
    assert found["rate"].to_list() == [2.0, 1.5, None, None]
    assert set(found.columns) == {*ROWS.columns, "word", "rate"}
    assert found["_position"].to_list() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"path": "none.csv"}, "none.csv: there is no such file"),
        ({"path": "none*.parquet"}, "no file matches"),
        ({"path": "empty"}, "there is no Parquet file in it"),
        ({"path": "broken.csv"}, r"row \d+ of .*broken.csv"),
        ({"path": "torn.parquet"}, "torn.parquet"),
        ({"path": "torn.parquet", "table": "codes"}, "is no DuckDB or SQLite file"),
        ({"path": "none.db", "table": "codes"}, "there is no such file"),
        ({"path": "a.db", "table": "cods"}, "cods"),
    ],
)
def test_an_input_that_cannot_be_read_is_named(given, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.csv").write_text("code,word\na,b\nc\n")
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 and no more of it")
    _sqlite(tmp_path)
    with pytest.raises(PenstockError, match=r"^inputs\.codes: ") as error:
        stepped(ROWS, {"op": "join", "input": "codes", "on": ["code"]}, inputs={"codes": given})
    assert error.match(told)


@pytest.fixture
def codes(tmp_path):
    CODES.write_parquet(tmp_path / "codes.parquet")
    return {"codes": tmp_path / "codes.parquet"}


@pytest.mark.parametrize(
    ("step", "told", "hint"),
    [
        ({"input": "cods", "on": ["code"]}, "there is no input 'cods'", "did you mean 'codes'?"),
        ({"input": "codes", "on": ["cod"]}, "there is no column 'cod'", "did you mean 'code'?"),
        ({"input": "codes", "on": {"code": "cod"}}, "the input 'codes': there is no column 'cod'", "'code'"),
        ({"input": "codes", "on": ["code"], "columns": ["wort"]}, "the input 'codes': there is no column 'wort'", "'word'"),
        ({"input": "codes", "on": {"id": "code"}}, "'id' is integer and 'code' of the input is text", "columns: {id: text}"),
        ({"input": "codes", "on": {"id": "rate"}, "how": "asof", "tolerance": "1h"}, "the tolerance 1:00:00 is not", ""),
        ({"input": "codes", "on": ["code"], "how": "asof"}, "'code' is text", "a time or a number"),
        ({"input": "clash", "on": ["code"]}, "there would be two columns 'id_right'", "suffix"),
        ({"input": "nested", "on": ["code"]}, "the input 'nested': 'many' is list", ""),
    ],
)  # fmt: skip
def test_an_error_of_a_join_names_what_is_wrong(codes, step, told, hint, tmp_path):
    CODES.with_columns(id=pl.lit(1), id_right=pl.lit(2)).write_parquet(tmp_path / "clash.parquet")
    CODES.with_columns(many=pl.lit([1])).write_parquet(tmp_path / "nested.parquet")
    inputs = {**codes, **{name: tmp_path / f"{name}.parquet" for name in ("clash", "nested")}}
    with pytest.raises(PenstockError, match=r"steps\[0\] \(join\): ") as error:
        stepped(ROWS, {"op": "join", **step}, inputs=inputs)
    assert told in error.value.message
    assert hint in error.value.hint


def test_rows_are_not_doubled_unless_it_is_meant(tmp_path):
    pl.concat([CODES, CODES.filter(code="a").with_columns(word=pl.lit("again"))]).write_parquet(
        tmp_path / "c.parquet"
    )
    step = {"op": "join", "input": "c", "on": ["code"]}
    inputs = {"c": tmp_path / "c.parquet"}
    with pytest.raises(
        PenstockError, match=r"the input 'c' has 2 rows with code 'a', so a row would be doubled"
    ) as error:
        stepped(ROWS, step, inputs=inputs)
    assert "validate_keys: m:m" in error.value.hint
    # Keys that are missing are not equal, and no matter for an anti join.
    assert stepped(ROWS, {**step, "how": "anti"}, inputs=inputs).frame["id"].to_list() == [3, 4]
    left = stepped(ROWS, {**step, "validate_keys": "m:m"}, inputs=inputs)
    assert (sorted(left.frame["id"].to_list()), left.filtered) == ([1, 1, 2, 3, 4], 0)
    inner = stepped(ROWS, {**step, "validate_keys": "m:m", "how": "inner"}, inputs=inputs)
    assert (sorted(inner.frame["id"].to_list()), inner.filtered) == ([1, 1, 2], 2)


def test_a_missing_key_finds_nothing(tmp_path):
    pl.DataFrame({"code": [None, None, "a"], "word": ["never", "ever", "apple"]}).write_parquet(
        tmp_path / "c.parquet"
    )
    inputs = {"c": tmp_path / "c.parquet"}
    found = stepped(ROWS, {"op": "join", "input": "c", "on": ["code"]}, inputs=inputs).frame
    assert found["word"].to_list() == ["apple", None, None, None]


def test_names_that_are_there_get_a_suffix_and_keys_that_are_named_are_kept(codes):
    rows = ROWS.with_columns(word=pl.lit("mine"))
    step = {"op": "join", "input": "codes", "on": ["code"], "columns": ["code", "word"], "suffix": "_found"}
    found = stepped(rows, step, inputs=codes).frame
    assert found["word"].unique().to_list() == ["mine"]
    assert found["word_found"].to_list() == FOUND
    assert found["code_found"].to_list() == ["a", "007", None, None]


@pytest.mark.parametrize(
    ("ours", "theirs", "found"),
    [
        ([1, 2], [2.0, 2.5], [None, "x"]),
        ([1.0, 2.5], [1, 2], ["x", None]),
        ([datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 1, 1, tzinfo=UTC)], [date(2024, 1, 1), date(2024, 1, 2)], ["x", None]),
    ],
)  # fmt: skip
def test_numbers_meet_numbers_and_days_meet_moments(ours, theirs, found, tmp_path):
    pl.DataFrame({"key": theirs, "word": ["x", "y"]}).write_parquet(tmp_path / "c.parquet")
    rows = traced(pl.DataFrame({"k": ours}))
    made = stepped(
        rows, {"op": "join", "input": "c", "on": {"k": "key"}}, inputs={"c": tmp_path / "c.parquet"}
    )
    assert made.frame["word"].to_list() == found


# --- as of ------------------------------------------------------------------------------------------

start = datetime(2024, 1, 1, tzinfo=UTC)
hours = st.one_of(st.none(), st.integers(0, 20))
group = st.one_of(st.none(), st.sampled_from(["a", "b"]))


@settings(deadline=None)
@given(
    ours=st.lists(st.tuples(group, hours), max_size=15),
    theirs=st.lists(st.tuples(group, hours), max_size=15, unique=True),
    tolerance=st.one_of(st.none(), st.integers(1, 10)),
    rows=st.integers(1, 6),
)
def test_as_of_finds_the_latest_that_is_not_after(ours, theirs, tolerance, rows, tmp_path_factory):
    def frame(pairs: list[tuple[str | None, int | None]], time: str) -> pl.DataFrame:
        moments = [None if hour is None else start + timedelta(hours=hour) for _, hour in pairs]
        return pl.DataFrame(
            {"g": [name for name, _ in pairs], time: moments},
            schema={"g": pl.String, time: pl.Datetime("us", "UTC")},
        )

    folder = tmp_path_factory.mktemp("asof")
    frame(theirs, "since").with_row_index("number").write_parquet(folder / "c.parquet")
    step = {"op": "join", "how": "asof", "input": "c", "on": {"g": "g", "at": "since"}, "columns": ["number"]}
    if tolerance is not None:
        step["tolerance"] = f"{tolerance}h"
    table = traced(frame(ours, "at"))
    expected = []
    for name, hour in ours:
        fit = [
            (other, number)
            for number, (theirs_name, other) in enumerate(theirs)
            if None not in (name, hour, other) and name == theirs_name and other <= hour
        ]
        fit = [pair for pair in fit if tolerance is None or hour - pair[0] <= tolerance]
        expected.append(max(fit)[1] if fit else None)
    inputs = {"c": folder / "c.parquet"}
    whole = stepped(table, step, inputs=inputs)
    assert whole.frame["number"].to_list() == expected
    assert whole.frame["_position"].to_list() == list(range(len(ours)))
    parts = [stepped(table.slice(at, rows), step, inputs=inputs).frame for at in range(0, len(ours), rows)]
    if parts:
        assert_frame_equal(pl.concat(parts), whole.frame)


def test_an_input_is_read_once_for_all_chunks(codes, tmp_path):
    from tests.penstock.loading.stepping import transformation

    whole = transformation([{"op": "join", "input": "codes", "on": ["code"]}], codes)
    assert whole.apply(ROWS).frame["word"].to_list() == FOUND
    (tmp_path / "codes.parquet").unlink()
    assert whole.apply(ROWS).frame["word"].to_list() == FOUND


def test_a_join_after_a_step_that_needs_all_rows_gives_the_same(codes, tmp_path):
    join = {"op": "join", "input": "codes", "on": ["code"]}
    each = transformed(ROWS, tmp_path / "each", join, inputs=codes).drop("_source", "_position", "_load")
    whole = transformed(ROWS, tmp_path / "whole", {"op": "deduplicate", "keys": ["id"]}, join, inputs=codes)
    assert_frame_equal(whole, each)
