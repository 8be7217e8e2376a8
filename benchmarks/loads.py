"""A whole load, `penstock ingest` and all that it keeps, from a CSV file or PostgreSQL into a Parquet lake.

    python benchmarks/loads.py [ROWS]

Time against polars' own streaming of the same file (no contract, no lineage, no state), and peak memory from one million
rows to ten. Each run is a process of its own.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import polars as pl

sys.path.insert(0, str(Path(__file__).parents[1]))

from penstock.config.loading import Load
from penstock.examples.data import flights
from penstock.loading.load import Folders, run
from tests.servers.postgres import postgres

ROWS = 3_000_000
MEMORY = (1_000_000, 10_000_000)
RUNS = 3
FLAT = 0.2


def write(path: Path, rows: int) -> None:
    """Flights from New York, repeated."""
    frame = flights().with_row_index("id")
    with path.open("wb") as file:
        done = 0
        while done < rows:
            part = frame.head(rows - done).with_columns(pl.col("id") + done)
            part.write_csv(file, include_header=not done)
            done += part.height


def once(way: str, source: str, folder: str) -> None:
    """One run, in this process; prints its figures."""
    began = time.perf_counter()
    if way == "polars":
        pl.scan_csv(source, infer_schema_length=10_000).sink_parquet(
            f"{folder}/polars.parquet", compression="zstd"
        )
    else:
        given = {"kind": "files", "path": source}
        others = {}
        if way == "postgres":
            given = {"kind": "database", "url": source, "table": "flights"}
            others = {"incremental": {"cursor": "id", "strictly_increasing": True}}
        load = Load.model_validate(
            {"source": given, "destination": {"kind": "parquet", "path": f"{folder}/lake"}, **others}
        )
        run("flights", load, Folders.of("flights", Path(folder)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": time.perf_counter() - began, "mib": peak}))


def measured(way: str, source: str) -> dict[str, float]:
    """One run in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, way, source, folder]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return figures


def main(rows: int) -> None:
    """Measure by turns."""
    with tempfile.TemporaryDirectory() as folder:
        csv = Path(folder) / "flights.csv"
        write(csv, rows)
        took: dict[str, list[float]] = {"polars": [], "files": []}
        for _ in range(RUNS):
            for way, seconds in took.items():
                seconds.append(measured(way, str(csv))["seconds"])
        one, other = statistics.median(took["files"]), statistics.median(took["polars"])
        print(
            f"{rows:,} rows of CSV into a lake: polars alone {other:.2f} s, a load {one:.2f} s: {one / other:.2f} ×"
        )
        peaks: dict[str, list[float]] = {"files": [], "postgres": []}
        with postgres("max_wal_size=8GB") as at:
            url = (
                f"postgresql://{at['user']}:open%20sesame%2F%40%3A1@{at['host']}:{at['port']}/{at['dbname']}"
            )
            import psycopg

            for size in MEMORY:
                write(csv, size)
                peaks["files"].append(measured("files", str(csv))["mib"])
                with psycopg.connect(**at, autocommit=True) as database:
                    names = pl.scan_csv(csv).collect_schema()
                    kinds = ", ".join(
                        f'"{name}" {"bigint" if kind.is_integer() else "double precision" if kind.is_float() else "text"}'
                        for name, kind in pl.scan_csv(csv, infer_schema_length=100_000)
                        .collect_schema()
                        .items()
                    )
                    database.execute("DROP TABLE IF EXISTS flights")
                    database.execute(f"CREATE TABLE flights ({kinds})")
                    with (
                        csv.open("rb") as file,
                        database.cursor().copy(
                            f"COPY flights ({', '.join(names)}) FROM STDIN (FORMAT csv, HEADER)"
                        ) as copy,
                    ):
                        while block := file.read(1 << 20):
                            copy.write(block)
                    database.execute("CREATE INDEX ON flights (id)")
                peaks["postgres"].append(measured("postgres", url)["mib"])
        for way, (small, large) in peaks.items():
            print(
                f"{way}: peak {small:.0f} MiB at {MEMORY[0]:,} rows, {large:.0f} at {MEMORY[1]:,}: {large / small - 1:+.0%} (aim: ± {FLAT:.0%})"
            )


if __name__ == "__main__":
    if len(sys.argv) == 4:
        once(*sys.argv[1:])
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else ROWS)
