"""Two hundred kills: a load that is killed anywhere, and started again, gives the table of one that never was.

Fifty for each kind of source, each into another kind of table, at moments drawn from SEED. A process that has imported
everything forks the loads, so that kills fall into loads and not into imports.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
from contextlib import ExitStack, closing
from pathlib import Path

import polars as pl
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from penstock.config.loading import Load
from penstock.loading.destinations import open_table
from penstock.loading.load import Folders
from tests.servers.kafka import kafka
from tests.servers.postgres import postgres
from tests.servers.unruly import unruly

SEED = 20250117
KILLS = 50  # for each kind of source
ROWS = 4000
BAD = {17, 900, 901, 3999}  # have a word where a number should be
ROOT = Path(__file__).parents[2]

FORKS = """
import os, sys, traceback
from pathlib import Path
import penstock.loading.load as engine
import penstock.loading.destinations.parquet, penstock.loading.destinations.delta
import penstock.loading.destinations.duckdb, penstock.loading.destinations.postgres
import penstock.sources.database, penstock.sources.database_sqlite, penstock.sources.kafka, penstock.sources.rest
import penstock.sources.streamed_files, penstock.sources.streamed_csv
from penstock.config.loading import Load

print("ready", flush=True)
for line in sys.stdin:
    path, root = line.rstrip("\\n").split("\\t")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            load = Load.model_validate_json(Path(path).read_text())
            engine.run("orders", load, engine.Folders.of("orders", Path(root)))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    print(child, flush=True)
    _, status = os.waitpid(child, 0)
    print(status, flush=True)
"""


@pytest.fixture
def forks():
    """Starts loads: takes a file of settings and a root, returns the process id; then ``ended`` its status."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", FORKS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    yield process
    process.stdin.close()
    process.wait(30)
    process.stdout.close()


def records():
    for number in range(ROWS):
        yield {
            "id": number,
            "amount": "none" if number in BAD else number / 4,
            "at": f"2024-01-01T00:{number % 60:02d}:00",
        }


CONTRACT = {
    "max_quarantine_share": 0.1,
    "columns": {"id": {"type": "integer"}, "amount": {"type": "number"}, "at": {"type": "datetime"}},
}


def settings(source, destination, **others):
    return Load.model_validate(
        {
            "source": source,
            "destination": destination,
            "contract": CONTRACT,
            "batch_rows": 100,
            "commit_rows": 300,
            **others,
        }
    )


def files(stack, folder):
    for part in range(4):
        rows = [row for row in records() if row["id"] % 4 == part]
        (folder / f"{part}.csv").write_text(
            pl.DataFrame(rows, strict=False, schema_overrides={"amount": pl.String}).write_csv()
        )
    source = {"kind": "files", "path": f"{folder}/*.csv"}
    return lambda place: settings(source, {"kind": "parquet", "path": f"{place}/lake", "file_rows": 700})


def database(stack, folder):
    with closing(sqlite3.connect(folder / "orders.sqlite")) as made:
        made.execute("CREATE TABLE orders (id INTEGER, amount, at TEXT)")
        made.executemany("INSERT INTO orders VALUES (:id, :amount, :at)", records())
        made.commit()
    source = {"kind": "database", "url": f"sqlite:///{folder}/orders.sqlite", "table": "orders"}
    return lambda place: settings(
        source,
        {"kind": "duckdb", "path": f"{place}/w.duckdb", "table": "orders"},
        incremental={"cursor": "at"},
        keys=["id"],
        write="merge",
    )


def rest(stack, folder):
    server = stack.enter_context(unruly(list(records()), most=90))
    source = {
        "kind": "rest",
        "url": f"{server.url}/items",
        "select": "items",
        "pages": {"by": "offset", "limit": 90},
        "ordered": True,
    }
    at = stack.enter_context(postgres())
    os.environ["PENSTOCK_TEST_PASSWORD"] = str(at["password"])
    stack.callback(os.environ.pop, "PENSTOCK_TEST_PASSWORD")
    url = f"postgresql://{at['user']}:${{secret:PENSTOCK_TEST_PASSWORD}}@{at['host']}:{at['port']}/{at['dbname']}"
    return lambda place: settings(
        source,
        {"kind": "postgres", "url": url, "table": f"{place.name}.orders"},
        incremental={"cursor": "id"},
        keys=["id"],
        write="append",
    )


def topic(stack, folder):
    brokers = stack.enter_context(kafka())
    admin = AdminClient({"bootstrap.servers": brokers})
    for future in admin.create_topics([NewTopic("orders", 3, 1)]).values():
        future.result()
    producer = Producer({"bootstrap.servers": brokers})
    for row in records():
        producer.produce("orders", json.dumps(row).encode(), partition=row["id"] % 3)
    producer.flush()
    source = {"kind": "kafka", "brokers": brokers, "topic": "orders"}
    return lambda place: settings(source, {"kind": "delta", "path": f"{place}/lake"})


@pytest.mark.parametrize("kind", [files, database, rest, topic])
def test_killed_anywhere_no_row_is_lost_and_none_comes_twice(request, tmp_path, kind):
    dice = random.Random(SEED)
    kills = lives = 0
    with ExitStack() as stack:
        (tmp_path / "source").mkdir()
        load_into = kind(stack, tmp_path / "source")
        # After the servers are up, for what they put into the environment.
        forks = request.getfixturevalue("forks")
        longest = 0.3
        while kills < KILLS:
            lives += 1
            place = tmp_path / f"life{lives}"
            place.mkdir()
            load = load_into(place)
            (place / "load.json").write_text(load.model_dump_json())
            for _ in range(1000):
                status, seconds = _run(forks, place, dice.uniform(0, longest) if kills < KILLS else None)
                if os.WIFEXITED(status):
                    assert os.WEXITSTATUS(status) == 0
                    longest = max(longest, 1.2 * seconds)
                    break
                kills += 1
            _check(load, place)
    assert kills >= KILLS


def _run(forks, place, after):
    """One load, killed after some seconds if it has not ended by then; its status, and how long it took."""
    import time

    forks.stdin.write(f"{place}/load.json\t{place}\n")
    forks.stdin.flush()
    child = int(forks.stdout.readline())
    began = time.monotonic()
    if after is not None:
        # The moment of a kill is a time and no condition.
        import select

        ended, _, _ = select.select([forks.stdout], [], [], after)
        if not ended:
            os.kill(child, signal.SIGKILL)
    status = int(forks.stdout.readline())
    return status, time.monotonic() - began


def _check(load, place):
    with open_table(load.destination) as table:
        rows = table.scan().collect()
        assert table.state.finished
    assert rows["id"].sort().to_list() == [number for number in range(ROWS) if number not in BAD]
    assert rows.filter(pl.col("amount") != pl.col("id") / 4).is_empty()
    quarantine = sorted(Folders.of("orders", place).quarantine.glob("*.parquet"))
    bad = pl.concat([pl.read_parquet(path) for path in quarantine])
    found = [json.loads(row)["id"] for row in bad["row"]]
    assert sorted({int(number) for number in found}) == sorted(BAD)
    if load.incremental is None:
        # With a cursor rows at its boundary are read again, and rejected again.
        assert len(found) == len(BAD)
