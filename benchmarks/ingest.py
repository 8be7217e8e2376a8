"""Ingest (source → contract → Parquet) against polars' own read and write of the same file, side by side.

    python benchmarks/ingest.py [ROWS]

The file is the churn table repeated, as CSV; the contract is that of conf/. Both write Parquet of the same
compression; ingest flushes to disk as every output is, the plain way does not.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl

from penstock import config, contract, sources
from penstock.config import FileSource, PackageSource
from penstock.storage import write_parquet

ROWS = 1_000_000
RUNS = 9
AIM = 2.0


def ingest(csv: Path, rules: config.Contract, out: Path) -> int:
    table = sources.read(FileSource(kind="file", path=str(csv), watch=str(csv)))
    columns = contract.complete(rules, table.frame, source=table.name)
    checked = contract.check(table.frame, columns, source=table.source, position=table.position)
    write_parquet(out / "quarantine.parquet", pl.concat([table.broken, checked.bad]))
    write_parquet(out / "raw.parquet", checked.good)
    return table.broken.height + checked.bad.height


def plain(csv: Path, out: Path) -> None:
    pl.read_csv(csv).write_parquet(out / "plain.parquet", compression="zstd")


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compare(label: str, ours: Callable[[], object], theirs: Callable[[], object]) -> float:
    """Median times of either, the order changing from run to run."""
    times: dict[str, list[float]] = {"ours": [], "theirs": []}
    for run in range(RUNS + 1):
        pair = [("ours", ours), ("theirs", theirs)]
        for name, work in pair if run % 2 else reversed(pair):
            took = seconds(work)
            if run:  # the first is for the file cache and the allocator
                times[name].append(took)
    mine, other = (statistics.median(times[name]) for name in ("ours", "theirs"))
    print(f"{label:<34} ingest {mine:.3f} s   plain polars {other:.3f} s   ratio {mine / other:.2f}")
    return mine / other


def with_errors(frame: pl.DataFrame) -> pl.DataFrame:
    """One row in a thousand has a tenure that is no number."""
    wrong = pl.int_range(pl.len()) % 1000 == 0
    return frame.with_columns(
        tenure=pl.when(wrong).then(pl.lit("?")).otherwise(pl.col("tenure").cast(pl.String))
    )


def main() -> int:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else ROWS
    churn = config.load_view(config.IngestView, "churn")
    assert isinstance(churn.source, PackageSource)
    table = sources.read(churn.source).frame
    many = pl.concat([table] * (rows // table.height + 1)).head(rows)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        clean, dirty = out / "clean.csv", out / "dirty.csv"
        many.write_csv(clean)
        with_errors(many).write_csv(dirty)
        size = clean.stat().st_size / 1e6
        print(
            f"{rows:,} rows × {many.width} columns, {size:.0f} MB of CSV, {pl.thread_pool_size()} threads, median of {RUNS}"
        )
        ratio = compare("clean", lambda: ingest(clean, churn.contract, out), lambda: plain(clean, out))
        compare(
            "0.1 % of the rows in quarantine",
            lambda: ingest(dirty, churn.contract, out),
            lambda: plain(dirty, out),
        )
        compare(
            "nothing in the contract",
            lambda: ingest(clean, config.Contract(), out),
            lambda: plain(clean, out),
        )
    print(
        f"ingest / plain polars = {ratio:.2f} (aim: at most {AIM:g}): {'met' if ratio <= AIM else 'MISSED'}"
    )
    return int(ratio > AIM)


if __name__ == "__main__":
    sys.exit(main())
