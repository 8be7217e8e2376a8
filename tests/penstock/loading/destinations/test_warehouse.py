"""DuckDB and PostgreSQL: one transaction for rows, columns and state; what is made inside; mistakes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path

import duckdb
import polars as pl
import psycopg
import pytest

from penstock.config.loading import AfterStep, DuckDBDestination, PostgresDestination
from penstock.errors import PenstockError
from penstock.loading.destinations import open_table
from tests.penstock.loading.destinations.conftest import MOMENT, plan_of, rows_of, shown, state_of
from tests.servers.postgres import postgres

APPEND = plan_of("append", (), None, MOMENT)
MERGE = plan_of("merge", ("id",), "at", MOMENT)
ROOT = Path(__file__).parents[4]


@pytest.fixture(scope="module")
def server():
    with postgres() as at:
        yield at


@pytest.fixture(params=["duckdb", "postgres"])
def destination(request, tmp_path, monkeypatch):
    if request.param == "duckdb":
        return DuckDBDestination(kind="duckdb", path=str(tmp_path / "w.duckdb"), table="orders")
    at = request.getfixturevalue("server")
    monkeypatch.setenv("PG_PASSWORD", at["password"])
    name = "".join(letter for letter in request.node.name if letter.isalnum())[:40]
    with psycopg.connect(**at, autocommit=True) as database:
        database.execute(f'DROP DATABASE IF EXISTS "{name}"')
        database.execute(f'CREATE DATABASE "{name}"')
    url = f"postgresql://{at['user']}:${{secret:PG_PASSWORD}}@{at['host']}:{at['port']}/{name}"
    return PostgresDestination(kind="postgres", url=url, table="orders")


def test_values_come_back_as_they_were(destination):
    frame = pl.DataFrame(
        {
            "n": [1, -(2**63), None],
            "x": [0.1, -1e300, None],
            "b": [True, False, None],
            "t": ['a "quoted", line\nand \\N', "", None],
            "d": [date(2024, 2, 29), date(1900, 1, 1), None],
            "m": [
                datetime(2024, 1, 1, 12, 30, 1, 123456, tzinfo=UTC),
                datetime(1970, 1, 1, tzinfo=UTC),
                None,
            ],
            "money": [Decimal("12345678901234567.89"), Decimal("-0.01"), None],
            "raw": [b"\x00\xff,\n", b"", None],
            "clock": [time(23, 59, 59, 999999), time(0), None],
        },
        schema_overrides={"m": pl.Datetime("us", "UTC"), "money": pl.Decimal(30, 2)},
    )
    with open_table(destination) as table:
        table.stage(frame)
        table.commit(state_of(1), APPEND)
    with open_table(destination) as table:
        back = table.scan().collect()
    assert sorted(map(repr, back.rows())) == sorted(
        map(repr, frame.cast({"money": pl.Decimal(38, 2)}).rows())
    )


def test_awkward_names_are_names(destination):
    names = ["select", 'has "quotes"', "Upper Case", "ümlaut", "semi;colon", "per%cent"]
    with open_table(destination) as table:
        table.stage(pl.DataFrame({name: [1] for name in names}))
        table.commit(state_of(1), plan_of("merge", (names[1],), names[5], MOMENT))
        assert table.scan().collect().columns == names


def test_columns_are_added_and_widened(destination):
    with open_table(destination) as table:
        for number, frame in enumerate(
            [
                pl.DataFrame({"id": [1], "at": [date(2024, 1, 1)]}),
                pl.DataFrame({"id": [2.5], "word": ["new"], "at": [None]}, schema_overrides={"at": pl.Date}),
                pl.DataFrame({"id": ["x"], "at": [datetime(2024, 1, 2, 3, tzinfo=UTC)]}),
            ],
            start=1,
        ):
            table.stage(frame)
            table.commit(state_of(number), APPEND)
        rows = table.scan().collect()
    assert rows["id"].str.replace(r"\.0$", "").sort().to_list() == ["1", "2.5", "x"]
    assert rows["word"].drop_nulls().to_list() == ["new"]
    assert rows["at"].drop_nulls().sort().to_list() == [
        datetime(2024, 1, 1, tzinfo=UTC),
        datetime(2024, 1, 2, 3, tzinfo=UTC),
    ]


def test_frames_of_one_commit_may_differ(destination):
    with open_table(destination) as table:
        table.stage(pl.DataFrame({"id": [1], "a": [1]}))
        table.stage(pl.DataFrame({"id": [2], "b": ["x"]}))
        table.stage(pl.DataFrame({"a": [0.5], "id": [3]}))
        table.commit(state_of(1), APPEND)
        rows = table.scan().collect().sort("id").select("id", "a", "b").rows()
    assert rows == [(1, 1.0, None), (2, None, "x"), (3, 0.5, None)]


def test_a_commit_that_fails_changes_nothing(destination):
    with open_table(destination) as table:
        table.stage(rows_of([(1, "a", 1.0, 0)], 1))
        table.commit(state_of(1), MERGE)
        before = shown(table.scan().collect().to_dicts())
        table.stage(rows_of([(1, "a", 2.0, 1)], 2).with_columns(extra=pl.lit(1)))
        with pytest.raises(PenstockError):
            table.commit(state_of(2), plan_of("merge", ("no such",), None, MOMENT))
        table.rollback()
    with open_table(destination) as table:
        assert table.state.load == 1
        found = table.scan().collect()
        assert shown(found.to_dicts()) == before
        assert "extra" not in found.columns
        table.stage(rows_of([(1, "a", 2.0, 1)], 2).with_columns(extra=pl.lit(1)))
        assert table.commit(state_of(2), MERGE).updated == 1


CHILD = """
import sys
from penstock.config.loading import Load
from penstock.loading.destinations import open_table
from pydantic import TypeAdapter
from penstock.config.loading import Destination
from tests.penstock.loading.destinations.conftest import rows_of, state_of
from tests.penstock.loading.destinations.test_warehouse import MERGE
destination = TypeAdapter(Destination).validate_json(sys.argv[1])
with open_table(destination) as table:
    print("ready", flush=True)
    for number in range(table.state.load + 1, 500):
        table.stage(rows_of([(key + number, "a", float(number), 0) for key in range(50)], number))
        table.commit(state_of(number), MERGE)
        print(number, flush=True)
"""


def test_a_killed_process_leaves_rows_and_state_of_one_commit(destination):
    for commits in (1, 2, 4, 7):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, destination.model_dump_json()],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        said = [int(child.stdout.readline()) for _ in range(commits)]
        child.send_signal(signal.SIGKILL)
        said += map(int, child.stdout.read().split())
        child.wait()
        child.stdout.close()
        with _opened_once_the_server_has_noticed(destination) as table:
            load = table.state.load
            rows = table.scan().collect()
        assert load in {said[-1], said[-1] + 1}
        assert rows["id"].sort().to_list() == [*range(1, 50 + load)]


def _opened_once_the_server_has_noticed(destination):
    # PostgreSQL ends a dead client's session, and with it the lock, a moment after the client.
    for _ in range(10_000):
        try:
            return open_table(destination)
        except PenstockError as error:
            if "another place" not in str(error):
                raise
    raise AssertionError("the lock of a dead client stays")


def test_a_table_is_made_inside_the_warehouse_and_made_anew(destination):
    daily = AfterStep(
        table="marts.daily", query="SELECT part, sum(value) AS value FROM orders GROUP BY part;"
    )
    view = AfterStep(table="big", query="SELECT * FROM orders WHERE value > 1", kind="view")
    with open_table(destination) as table:
        table.stage(rows_of([(1, "a", 1.0, 0), (2, "b", 2.0, 0)], 1))
        table.commit(state_of(1), MERGE)
        assert (table.after(daily), table.after(view)) == (2, 1)
        table.stage(rows_of([(3, "c", 3.0, 0)], 2))
        table.commit(state_of(2), MERGE)
        assert (table.after(daily), table.after(view)) == (3, 2)
        with pytest.raises(PenstockError, match=r"marts\.daily"):
            table.after(AfterStep(table="marts.daily", query="SELECT nothing FROM orders"))
        with pytest.raises(PenstockError, match="is the table that is loaded"):
            table.after(AfterStep(table="orders", query="SELECT 1"))
        # The one that could not be made anew is the one that was there.
        assert table._execute("SELECT count(*) FROM marts.daily") == [(3,)]


def test_a_table_of_others_is_left_alone(destination):
    if isinstance(destination, DuckDBDestination):
        with duckdb.connect(destination.path) as database:
            database.execute("CREATE TABLE orders (x INTEGER)")
    else:
        with open_table(destination.model_copy(update={"table": "other"})) as table:
            table._execute("CREATE TABLE orders (x INTEGER)")
    with pytest.raises(PenstockError, match="is there already, and no load made it"):
        open_table(destination)


def test_two_loads_of_one_table_at_once_are_refused(destination, server, tmp_path):
    code = "import sys; from tests.penstock.loading.destinations.test_warehouse import opened; opened(sys.argv[1])"
    with open_table(destination):
        done = subprocess.run(
            [sys.executable, "-c", code, destination.model_dump_json()],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    assert "refused" in done.stdout, done.stderr


def opened(text):
    from pydantic import TypeAdapter

    from penstock.config.loading import Destination

    try:
        open_table(TypeAdapter(Destination).validate_json(text))
    except PenstockError as error:
        print("refused", error)


def test_a_password_is_in_no_error(server, monkeypatch):
    monkeypatch.setenv("PG_PASSWORD", "wrong horse/@")
    url = f"postgresql://penstock:${{secret:PG_PASSWORD}}@{server['host']}:{server['port']}/postgres"
    with pytest.raises(PenstockError) as caught:
        open_table(PostgresDestination(kind="postgres", url=url, table="orders"))
    assert "password authentication failed" in str(caught.value)
    assert "horse" not in str(caught.value)


def test_a_name_that_postgres_would_cut_off_is_refused(destination):
    if isinstance(destination, DuckDBDestination):
        return
    with open_table(destination) as table, pytest.raises(PenstockError, match="more than 63 bytes"):
        table.stage(pl.DataFrame({"ü" * 40: [1]}))


def test_a_file_that_is_no_warehouse_is_named(tmp_path):
    (tmp_path / "w.duckdb").write_text("not a database, and long enough to be looked into\n" * 1000)
    with pytest.raises(PenstockError, match=r"w\.duckdb"):
        open_table(DuckDBDestination(kind="duckdb", path=str(tmp_path / "w.duckdb"), table="orders"))
