"""Reading the log of requests and of truths back: the files that ``penstock.requests`` writes, of both formats, as one table."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from penstock.errors import PenstockError

__all__ = ["files", "scan", "scan_truths"]

REQUESTS = {
    "time": pl.Int64(),
    "request": pl.String(),
    "row": pl.Int32(),
    "model": pl.String(),
    "version": pl.String(),
    "arm": pl.String(),
    "role": pl.String(),
    "propensity": pl.Float64(),
    "user": pl.String(),
    "latency_ms": pl.Float64(),
    "status": pl.String(),
}
TRUTHS = {"request": pl.String(), "row": pl.Int32(), "time": pl.Int64(), "reward": pl.Float64()}
SUFFIXES = (".parquet", ".jsonl.gz")


def files(
    folder: Path, model: str, *, since: datetime | None = None, until: datetime | None = None
) -> list[Path]:
    """The files of a model's records, in the order of their hours.

    Args:
        folder: As the log is declared: data/requests or data/truths.
        model: Its name.
        since: Hours that end before it are left out; without a zone, UTC.
        until: Hours that begin at it or later are left out.
    """
    hours = sorted((folder / model).glob("hour=*"))
    first = "" if since is None else _hour(since)
    last = "~" if until is None else _hour(until)
    return [
        path
        for hour in hours
        if first <= hour.name <= last
        for path in sorted(hour.iterdir())
        if path.name.endswith(SUFFIXES) and not path.name.startswith(".")
    ]


def _hour(moment: datetime) -> str:
    zoned = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    return zoned.strftime("hour=%Y-%m-%dT%H")


def scan(
    folder: Path, model: str, *, since: datetime | None = None, until: datetime | None = None
) -> pl.LazyFrame:
    """The request log of a model.

    Columns are those of the schema in ``penstock.requests``; ``inputs`` and ``outputs`` are structs with the columns that any
    file has, null where a file has not.

    Args:
        folder: As the log is declared.
        model: Its name.
        since: Earlier records are left out; without a zone, UTC.
        until: Records from then on are left out.

    Raises:
        PenstockError: There is no record.
    """
    return _between(
        _scanned(files(folder, model, since=since, until=until), REQUESTS, folder / model), since, until
    )


def scan_truths(
    folder: Path, model: str, *, since: datetime | None = None, until: datetime | None = None
) -> pl.LazyFrame:
    """What came true of a model's predictions: request, row, time, truth (text or a number), reward.

    Raises:
        PenstockError: There is no record.
    """
    return _between(
        _scanned(files(folder, model, since=since, until=until), TRUTHS, folder / model), since, until
    )


def _scanned(paths: Sequence[Path], schema: dict[str, pl.DataType], folder: Path) -> pl.LazyFrame:
    if not paths:
        raise PenstockError(
            f"{folder}: there are no records", hint="are requests logged? conf/serve/: requests"
        )
    frames = []
    for path in paths:
        if path.name.endswith(".parquet"):
            frame = pl.scan_parquet(path)
        else:
            frame = pl.read_ndjson(path, infer_schema_length=None).lazy()
        known = [name for name in frame.collect_schema().names() if name in schema]
        frames.append(frame.with_columns(pl.col(name).cast(schema[name]) for name in known))
    return pl.concat(frames, how="diagonal_relaxed")


def _between(frame: pl.LazyFrame, since: datetime | None, until: datetime | None) -> pl.LazyFrame:
    for moment, wanted in ((since, True), (until, False)):
        if moment is not None:
            zoned = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
            later = pl.col("time") >= int(zoned.timestamp() * 1_000_000) * 1000
            frame = frame.filter(later if wanted else ~later)
    return frame
