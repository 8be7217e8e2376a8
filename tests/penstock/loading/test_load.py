"""One run after another: what is new and nothing else, whatever changes about the source meanwhile."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from penstock.config.loading import Load
from penstock.errors import PenstockError
from penstock.loading.load import Bounds, Folders, run

NOW = datetime(2025, 1, 1, tzinfo=UTC)


class Place:
    """A load over a file of JSON lines, or a table, that tests change between runs."""

    def __init__(self, folder):
        self.folder = folder
        self.inbox = folder / "inbox"
        self.inbox.mkdir()
        self.count = 0

    def put(self, *rows, name=None):
        self.count += 1
        path = self.inbox / (name or f"{self.count:03d}.jsonl")
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def load(self, **others):
        return Load.model_validate(
            {
                "source": {"kind": "files", "path": f"{self.inbox}/*.jsonl"},
                "destination": {"kind": "parquet", "path": f"{self.folder}/lake"},
                "tolerated_rejects": 100,
                **others,
            }
        )

    def run(self, bounds=Bounds(), **others):  # noqa: B008  (frozen)
        return run(
            "orders", self.load(**others), Folders.of("orders", self.folder), bounds=bounds, now=lambda: NOW
        )

    def rows(self):
        return pl.read_parquet(f"{self.folder}/lake/**/*.parquet", hive_partitioning=False)

    def rejected(self):
        paths = sorted((self.folder / "data/quarantine/loads/orders").glob("*.parquet"))
        return pl.concat([pl.read_parquet(path) for path in paths]) if paths else pl.DataFrame()


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def test_a_load_reads_what_is_new_and_says_where_each_row_is_from(place):
    place.put({"id": 1}, {"id": 2})
    assert (place.run().added, place.run().read) == (2, 0)
    place.put({"id": 3})
    report = place.run()
    assert (report.read, report.added, report.rows, report.load) == (1, 1, 3, 2)
    lineage = place.rows().sort("id").select("_source", "_position", "_load").rows()
    assert lineage == [
        (f"{place.inbox}/001.jsonl", 0, 1),
        (f"{place.inbox}/001.jsonl", 1, 1),
        (f"{place.inbox}/002.jsonl", 0, 2),
    ]


def test_nothing_new_changes_no_byte(place):
    place.put({"id": 1})
    place.run()
    before = {path: path.read_bytes() for path in (place.folder / "lake").rglob("*") if path.is_file()}
    assert place.run().commits == 0
    assert {
        path: path.read_bytes() for path in (place.folder / "lake").rglob("*") if path.is_file()
    } == before


def test_in_is_loaded_and_quarantined(place):
    place.put({"id": 1, "n": 1}, {"id": "x", "n": 2}, {"id": 3, "n": None}, {"id": None, "n": 4})
    contract = {"columns": {"id": {"type": "integer", "min": 1}, "n": {"type": "integer"}}}
    report = place.run(contract=contract)
    assert (report.read, report.added, report.quarantined) == (4, 1, 3)
    assert report.reasons == {"id: integer": 1, "n: missing": 1, "id: missing": 1}
    bad = place.rejected()
    assert bad["position"].to_list() == [1, 2, 3]
    assert bad["reason"][0] == "id: expected integer, found 'x'"


def test_too_many_bad_rows_leave_the_table_as_it_was_and_lie_where_they_can_be_seen(place):
    place.put(*[{"id": number} for number in range(10)])
    place.run()
    place.put(*[{"id": "x"} for _ in range(5)], *[{"id": 9} for _ in range(5)])
    with pytest.raises(PenstockError, match=r"5 of 10 rows \(50\.00%\)[\s\S]*refused\.parquet"):
        place.run(tolerated_rejects=0)
    assert place.rows().height == 10
    refused = place.folder / "data/quarantine/loads/orders/refused.parquet"
    assert pl.read_parquet(refused)["reason"].to_list() == ["id: expected integer, found 'x'"] * 5
    # Mended, the same rows are read again.
    assert place.run().added == 5


# --- the shape of the source ------------------------------------------------------------------------


def test_a_new_column_by_every_policy(tmp_path):
    for policy, rows in (("evolve", 3), ("discard_value", 3), ("discard_row", 2)):
        (tmp_path / policy).mkdir()
        place = Place(tmp_path / policy)
        place.put({"id": 1})
        place.run()
        place.put({"id": 2, "extra": "x"}, {"id": 3, "extra": None})
        report = place.run(evolution={"new_column": policy})
        assert place.rows().height == rows
        assert ("extra" in place.rows().columns) == (policy == "evolve")
        assert [(change.column, change.what, change.policy) for change in report.changes] == [
            ("extra", "new", policy)
        ]
        assert report.discarded_values == (policy == "discard_value")
        assert report.quarantined == (policy == "discard_row")
        if policy == "discard_row":
            assert place.rejected()["reason"].to_list() == ["extra: expected no such column"]
    place = Place(tmp_path)
    place.put({"id": 1})
    place.run()
    place.put({"id": 2, "extra": "x"})
    with pytest.raises(PenstockError, match="'extra' is new, and evolution\\.new_column"):
        place.run(evolution={"new_column": "freeze"})
    assert place.run(evolution={"new_column": "freeze", "columns": {"extra": "evolve"}}).added == 1


def test_a_type_that_changes_by_every_policy(tmp_path):
    cases = {
        "auto": ([1.0, 2.0, 3.5], 1),
        "evolve": (["1", "2", "3.5", "x"], 0),
        "discard_row": ([1, 2], 2),
        "discard_value": ([None, None, 1, 2], 0),
    }
    for policy, (values, rejected) in cases.items():
        (tmp_path / policy).mkdir()
        place = Place(tmp_path / policy)
        place.put({"n": 1}, {"n": 2})
        place.run()
        place.put({"n": 3.5})
        place.run(evolution={"type_change": policy})
        place.put({"n": "x"})
        place.run(evolution={"type_change": policy})
        found = place.rows()["n"].to_list()
        if policy == "evolve":
            found = [value.removesuffix(".0") for value in found]
        assert sorted(found, key=lambda value: (value is not None, str(value))) == values
        assert place.rejected().height == rejected
    place = Place(tmp_path)
    place.put({"n": 1})
    place.run()
    place.put({"n": "x"})
    with pytest.raises(PenstockError, match="1 values of 'n' are no integer, such as 'x'"):
        place.run(evolution={"type_change": "freeze"})


def test_a_declared_type_does_not_change_by_itself(place):
    place.put({"n": 1})
    contract = {"columns": {"n": {"type": "integer"}}}
    place.run(contract=contract)
    place.put({"n": 1.5})
    assert place.run(contract=contract).reasons == {"n: integer": 1}


def test_a_column_that_goes_and_comes_back_is_told_once_each_time(place):
    told = []
    for row in ({"id": 1, "note": "x"}, {"id": 2}, {"id": 3}, {"id": 4, "note": "y"}):
        place.put(row)
        told.append([(change.column, change.what) for change in place.run().changes])
    assert told == [[], [("note", "missing")], [], [("note", "back")]]
    assert place.rows().sort("id")["note"].to_list() == ["x", None, None, "y"]


def test_a_column_that_must_be_there_is_missed(place):
    place.put({"id": 1})
    with pytest.raises(PenstockError, match="the column 'price' is not there"):
        place.run(contract={"columns": {"price": {"type": "number"}}})


def test_a_name_that_loads_need_is_refused(place):
    place.put({"id": 1, "_load": 7})
    with pytest.raises(PenstockError, match="'_load' is taken"):
        place.run()


# --- by a cursor ------------------------------------------------------------------------------------


@pytest.fixture
def shop(tmp_path):
    """A table whose rows are changed between loads, and a run of a load over it."""

    class Shop:
        def __init__(self):
            self.path = tmp_path / "shop.sqlite"
            with closing(sqlite3.connect(self.path)) as made:
                made.execute("CREATE TABLE orders (id INTEGER, at TEXT, price REAL)")
                made.commit()

        def put(self, *rows):
            with closing(sqlite3.connect(self.path)) as made:
                made.executemany("INSERT INTO orders VALUES (?, ?, ?)", rows)
                made.commit()

        def run(self, bounds=Bounds(), now=NOW, **others):  # noqa: B008  (frozen)
            load = Load.model_validate(
                {
                    "source": {"kind": "database", "url": f"sqlite:///{self.path}", "table": "orders"},
                    "destination": {"kind": "duckdb", "path": f"{tmp_path}/w.duckdb", "table": "orders"},
                    "incremental": {"cursor": "at"},
                    "contract": {"columns": {"at": {"type": "datetime"}}},
                    "keys": ["id"],
                    "write": "merge",
                    **others,
                }
            )
            self.made = load
            return run("orders", load, Folders.of("orders", tmp_path), bounds=bounds, now=lambda: now)

        def rows(self, names="id, price"):
            import duckdb

            with duckdb.connect(tmp_path / "w.duckdb", read_only=True) as made:
                return sorted(made.sql(f"SELECT {names} FROM orders").pl().rows(), key=repr)

    return Shop()


def day(number, hour=0):
    return f"2024-01-{number:02d}T{hour:02d}:00:00"


def test_rows_at_the_boundary_are_read_again_and_stored_once(shop):
    shop.put((1, day(1), 1.0), (2, day(2), 2.0))
    assert shop.run().cursor == "2024-01-02T00:00:00+00:00"
    shop.put((3, day(2), 3.0))  # at the very time of the last one
    report = shop.run()
    assert (report.read, report.added, report.unchanged) == (2, 1, 1)
    assert shop.rows() == [(1, 1.0), (2, 2.0), (3, 3.0)]


def test_late_rows_are_found_within_the_lag_and_not_beyond(shop):
    shop.put((1, day(20), 1.0))
    shop.run(incremental={"cursor": "at", "lag": "5d"})
    shop.put((2, day(16), 2.0), (3, day(10), 3.0))
    shop.run(incremental={"cursor": "at", "lag": "5d"})
    assert shop.rows() == [(1, 1.0), (2, 2.0)]
    shop.run(Bounds(since="2024-01-09", until="2024-01-11"))
    assert shop.rows() == [(1, 1.0), (2, 2.0), (3, 3.0)]


def test_a_backfill_does_not_move_the_cursor_back(shop):
    shop.put((1, day(1), 1.0), (2, day(20), 2.0))
    shop.run(incremental={"cursor": "at", "initial": "2024-01-15"})
    assert shop.rows() == [(2, 2.0)]
    report = shop.run(Bounds(until="2024-01-10", full=True))
    assert report.cursor == "2024-01-20T00:00:00+00:00"
    assert shop.rows() == [(1, 1.0), (2, 2.0)]


def test_versions_of_a_row_begin_where_the_ones_before_end(shop):
    shop.put((1, day(1), 1.0))
    shop.run(write="scd2")
    shop.put((1, day(3), 2.0), (1, day(2), 1.5))
    report = shop.run(write="scd2")
    assert (report.added, report.updated) == (2, 1)
    versions = shop.rows("price, _valid_from, _valid_to")
    assert [price for price, _, _ in versions] == [1.0, 1.5, 2.0]
    assert [end for _, _, end in versions[:2]] == [begin for _, begin, _ in versions[1:]]
    assert versions[-1][2] is None


def test_rows_without_a_cursor_fail_no_load_and_are_kept(shop):
    shop.put((1, day(1), 1.0), *[(number, None, 0.0) for number in range(100, 130)])
    report = shop.run()
    assert (report.added, report.quarantined) == (1, 30)


def test_reading_again_where_rows_would_be_doubled_is_refused(place):
    place.put({"id": 1})
    with pytest.raises(PenstockError, match="would be stored twice"):
        place.run(Bounds(full=True))
    place.run(keys=["id"])
    report = place.run(Bounds(full=True), keys=["id"])
    assert (report.read, report.added, report.unchanged) == (1, 0, 1)


@pytest.mark.parametrize(
    ("others", "says"),
    [
        ({"write": "merge"}, "needs `keys`"),
        ({"incremental": {"cursor": "id"}}, "strictly_increasing"),
        ({"incremental": {"cursor": "id"}, "keys": ["id"], "write": "replace"}, "reads everything each time"),
        ({"contract": {"unique": ["id"]}}, "name the columns in `keys`"),
        ({"incremental": {"cursor": "id", "lag": "1x"}, "keys": ["id"]}, "no time span"),
    ],
)
def test_settings_that_would_lose_or_double_rows_are_refused(place, others, says):
    with pytest.raises(ValueError, match=says):
        place.load(**others)


# --- replacing, stopping, and whose table it is -----------------------------------------------------


def test_replacing_replaces_all_of_it_or_nothing(place):
    place.put({"id": 1}, {"id": 2}, name="all.jsonl")
    place.run(write="replace")
    place.put({"id": 3}, name="all.jsonl")
    assert place.run(write="replace").rows == 1
    place.put({"id": "x"}, {"id": "y"}, name="all.jsonl")
    with pytest.raises(PenstockError):
        place.run(write="replace", tolerated_rejects=0)
    assert place.rows()["id"].to_list() == [3]


def test_a_run_that_is_asked_to_stop_stops_after_a_commit_and_goes_on_later(place):
    for number in range(5):
        place.put(*[{"id": 10 * number + at} for at in range(10)])
    load = place.load(batch_rows=10, commit_rows=10)
    folders = Folders.of("orders", place.folder)
    first = run("orders", load, folders, stopped=lambda: True)
    assert first.rows == 10
    assert run("orders", load, folders).rows == 50
    assert place.rows()["id"].sort().to_list() == list(range(50))


def test_a_table_belongs_to_one_load(place):
    place.put({"id": 1})
    place.run()
    with pytest.raises(PenstockError, match="is written by the load 'orders'"):
        run("others", place.load(), Folders.of("others", place.folder))


def test_two_runs_at_once_are_refused(place):
    place.put({"id": 1})
    folders = Folders.of("orders", place.folder)
    seen = []

    def told(report):
        if not seen:
            seen.append(report)
            with pytest.raises(PenstockError, match="is being loaded by another process"):
                run("orders", place.load(), folders)

    run("orders", place.load(), folders, told=told)
    assert seen


def test_steps_that_need_all_rows_see_all_of_them(place):
    place.put(*[{"id": number, "kind": "ab"[number % 2]} for number in range(100)])
    report = place.run(
        batch_rows=7,
        steps=[
            {"op": "filter", "where": "id >= 10"},
            {"op": "aggregate", "by": ["kind"], "columns": {"n": "count(*)", "sum": "sum(id)"}},
            {"op": "sql", "query": "SELECT *, sum / n AS mean FROM rows"},
        ],
        write="replace",
    )
    assert report.filtered == 10
    assert place.rows().select("kind", "n", "mean").sort("kind").rows() == [("a", 45, 54.0), ("b", 45, 55.0)]


def test_the_time_of_a_version_is_that_of_the_run_without_a_time_to_go_by(place):
    place.put({"id": 1, "x": 1})
    place.run(write="scd2", keys=["id"])
    place.put({"id": 1, "x": 2})
    run(
        "orders",
        place.load(write="scd2", keys=["id"]),
        Folders.of("orders", place.folder),
        now=lambda: NOW + timedelta(days=1),
    )
    ends = place.rows().sort("_valid_from")["_valid_to"].to_list()
    assert ends == [NOW + timedelta(days=1), None]
