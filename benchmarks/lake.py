"""Loads into Parquet and Delta tables: time and memory of each way of writing, as the table grows.

    python benchmarks/lake.py [ROWS]

A table of ROWS orders is made in commits of a million; then each act runs in a process of its own on a copy, so that its
peak memory is its own (polars, pyarrow and deltalake themselves, imported: about 150 MB). Beside it what one would write by
hand: polars reads the table, joins and writes all of it; ``DeltaTable.merge`` alone.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import TypeAdapter

from penstock.config.loading import Destination
from penstock.config.loading.load import WriteMode
from penstock.loading.destinations import Plan, open_table
from penstock.loading.state import State

ROWS = 10_000_000
BATCH = 100_000
COMMIT = 1_000_000
FEW = 100_000
KINDS = ("parquet", "delta")


def orders(first: int, rows: int, load: int, *, step: int = 1) -> pl.DataFrame:
    """Orders of which the key counts up by ``step``; values change with ``load``."""
    number = pl.int_range(first, first + rows * step, step, eager=True).alias("id")
    return number.to_frame().with_columns(
        (pl.col("id") * 7919 % 100_003).alias("customer"),
        (pl.col("id") % 997 / 10 + load).alias("amount"),
        pl.format("order of {} things", pl.col("id") % 50).alias("note"),
        (pl.lit(datetime(2024, 1, 1, tzinfo=UTC)) + pl.duration(seconds=pl.col("id"))).alias("at"),
        pl.lit("orders.csv").alias("_source"),
        pl.col("id").alias("_position"),
        pl.lit(load, dtype=pl.Int64).alias("_load"),
    )


def store(
    destination: dict[str, Any], write: WriteMode, keys: tuple[str, ...], first: int, rows: int, step: int
) -> str:
    """One commit, in batches."""
    with open_table(TypeAdapter(Destination).validate_python(destination)) as table:
        load = table.state.load + 1
        for start in range(0, rows, BATCH):
            table.stage(orders(first + start * step, min(BATCH, rows - start), load, step=step))
        done = table.commit(State(name="orders", load=load), Plan(write, keys, None, datetime.now(UTC)))
    return f"+{done.added} ~{done.updated} ={done.unchanged}"


def by_hand(destination: dict[str, Any], first: int, rows: int, step: int) -> str:
    """A merge with no care for memory, nor for being killed."""
    coming = orders(first, rows, 99, step=step)
    if destination["kind"] == "delta":
        import deltalake

        found = deltalake.DeltaTable(destination["path"])
        merge = found.merge(coming.to_arrow(), "s.id = t.id", source_alias="s", target_alias="t")
        merge.when_matched_update_all().when_not_matched_insert_all().execute()
    else:
        there = pl.read_parquet(f"{destination['path']}/**/*.parquet")
        both = pl.concat([there.join(coming, on="id", how="anti"), coming])
        both.write_parquet(f"{destination['path']}/whole.parquet", compression="zstd")
    return ""


def acts(rows: int) -> dict[str, tuple[Any, ...]]:
    """What is measured: function and arguments."""
    return {
        "append a million": (store, "append", (), rows, COMMIT, 1),
        "append a million, half of it there": (store, "append", ("id",), rows - COMMIT // 2, COMMIT, 1),
        "merge 100,000 of the last": (store, "merge", ("id",), rows - FEW // 2, FEW, 1),
        "merge 100,000 from everywhere": (store, "merge", ("id",), 0, FEW, rows // FEW),
        "  by hand": (by_hand, 0, FEW, rows // FEW),
        "merge as many as there are": (store, "merge", ("id",), rows // 2, rows, 1),
        "replace all": (store, "replace", (), 0, rows, 1),
    }


def apart(work: str, destination: dict[str, Any], rows: int) -> tuple[float, float, str]:
    """Seconds, peak MB and what was done, in a process of its own."""
    said = subprocess.run(
        [sys.executable, __file__, "act", json.dumps([work, destination, rows])],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    seconds, megabytes, done = json.loads(said.stdout)
    return seconds, megabytes, done


def act(work: str, destination: dict[str, Any], rows: int) -> None:
    """What that process does."""
    function, *arguments = acts(rows)[work]
    todo: Callable[..., str] = function
    start = time.perf_counter()
    done = todo(destination, *arguments)
    took = time.perf_counter() - start
    # Not ru_maxrss, which begins with what the process had that started this one.
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert peak is not None
    print(json.dumps([took, int(peak[1]) / 1024, done]))


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else ROWS
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as folder:
            whole = {"kind": kind, "path": f"{folder}/whole"}
            for first in range(0, rows, COMMIT):
                store(whole, "merge", ("id",), first, min(COMMIT, rows - first), 1)
            print(f"{kind}, {rows:,} rows")
            for work in acts(rows):
                copy = {"kind": kind, "path": f"{folder}/copy"}
                shutil.copytree(whole["path"], copy["path"])
                seconds, megabytes, done = apart(work, copy, rows)
                print(f"  {work:<38} {seconds:7.2f} s {megabytes:7.0f} MB   {done}", flush=True)
                shutil.rmtree(copy["path"])


if __name__ == "__main__":
    if sys.argv[1:2] == ["act"]:
        act(*json.loads(sys.argv[2]))
    else:
        main()
