"""The request log and the truth as rows that can be judged, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl

from penstock.artifact.manifest import Manifest
from penstock.errors import PenstockError
from penstock.monitoring.judged import GUESS, LABEL, SCORE, TRUTH
from penstock.request_reading import files, scan, scan_truths

__all__ = [
    "LATENCY",
    "STATUS",
    "TIME",
    "VERSION",
    "Span",
    "answers_of",
    "batches",
    "spans",
    "truth_counts",
    "truths",
]

LATENCY, STATUS, TIME, VERSION = "@latency", "@status", "@time", "@version"
BATCH = 131_072
Span = tuple[datetime, datetime]


def answers_of(answers: pl.DataFrame, manifest: Manifest, truth: pl.Series | None = None) -> pl.DataFrame:
    """SCORE, LABEL and, where several classes have their truth, GUESS.

    Args:
        answers: As ``penstock.artifact.model.Model.predict`` gives them, or the log's ``outputs`` with
            ``probabilities`` as one column each.
        manifest: Of the artefact.
        truth: Of the rows.
    """
    if manifest.task == "regression":
        return answers.select(_number("value", answers).alias(SCORE))
    label = (
        answers["label"].cast(pl.String) if "label" in answers.columns else pl.Series([None] * answers.height)
    )
    if manifest.task == "binary":
        return answers.select(_number("probability", answers).alias(SCORE)).with_columns(label.alias(LABEL))
    names = [name for name in answers.columns if name.startswith("probability_")]
    best = answers.select(
        pl.max_horizontal(names).cast(pl.Float64).alias(SCORE) if names else pl.lit(None).alias(SCORE)
    )
    found = best.with_columns(label.alias(LABEL))
    if truth is not None and names:
        text = truth.cast(pl.String)
        chosen = pl.coalesce(
            [pl.when(text == name.removeprefix("probability_")).then(pl.col(name)) for name in names]
        )
        found = found.with_columns(answers.select(chosen.cast(pl.Float64).alias(GUESS)).to_series())
    return found


def _number(name: str, frame: pl.DataFrame) -> pl.Expr:
    return pl.col(name).cast(pl.Float64, strict=False) if name in frame.columns else pl.lit(None, pl.Float64)


def spans(
    folder: Path, model: str, every: timedelta, least: int, *, since: datetime | None, until: datetime
) -> list[Span]:
    """Windows with enough rows each; one that has too few is joined to those after it.

    Args:
        folder: Of the request log.
        model: Its name there.
        every: Length of a window; windows begin at multiples of it since 1970.
        least: Rows of a window.
        since: Where the first one begins; None: at the first record.
        until: No window ends later.
    """
    if not files(folder, model, since=since, until=until):
        return []
    step = int(every.total_seconds() * 1e9)
    counted = (
        scan(folder, model, since=since, until=until)
        .filter(pl.col("role") == "answer")
        .group_by((pl.col("time") // step).alias("slot"))
        .agg(pl.len().alias("rows"))
        .sort("slot")
        .collect()
    )
    found: list[Span] = []
    first, rows = None, 0
    for slot, count in counted.iter_rows():
        end = _moment((slot + 1) * step)
        if end > until:
            break
        begins = _moment(slot * step)
        first = first or (max(begins, since) if since is not None else begins)
        rows += count
        if rows >= least:
            found.append((first, end))
            first, rows = None, 0
    return found


def _moment(nanoseconds: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=nanoseconds // 1000)


def truths(folder: Path, model: str, *, since: datetime) -> pl.DataFrame:
    """What came true: request, row and truth, the latest word of each.

    Args:
        folder: Of the log of truths.
        model: Its name there.
        since: Earlier ones are not looked at.
    """
    empty = pl.DataFrame(schema={"request": pl.String, "row": pl.Int32, "truth": pl.String})
    if not files(folder, model, since=since):
        return empty
    found = scan_truths(folder, model, since=since).sort("time").select("request", "row", "truth").collect()
    return found.filter(pl.col("truth").is_not_null()).unique(
        ["request", "row"], keep="last", maintain_order=True
    )


def truth_counts(folder: Path, model: str, windows: Sequence[Span], known: pl.DataFrame) -> list[int]:
    """How many rows of each window have their truth."""
    if not windows or not known.height:
        return [0] * len(windows)
    first, last = min(start for start, _ in windows), max(end for _, end in windows)
    if not files(folder, model, since=first, until=last):
        return [0] * len(windows)
    times = (
        scan(folder, model, since=first, until=last)
        .filter(pl.col("role") == "answer")
        .select("time", "request", "row")
        .join(known.lazy().select("request", "row"), on=["request", "row"], how="semi")
        .select("time")
        .collect()["time"]
    )
    return [
        int(((times >= _nanoseconds(start)) & (times < _nanoseconds(end))).sum()) for start, end in windows
    ]


def _nanoseconds(moment: datetime) -> int:
    return int((moment - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(microseconds=1)) * 1000


def batches(
    folder: Path, manifest: Manifest, model: str, span: Span, known: pl.DataFrame, *, arms: Sequence[str] = ()
) -> Iterator[pl.DataFrame]:
    """Rows of a window: inputs by their names, and beside them SCORE, LABEL, TRUTH, LATENCY, STATUS, TIME, VERSION.

    Args:
        folder: Of the request log.
        manifest: Of the artefact.
        model: Its name in the log.
        span: The window.
        known: As ``truths`` gives it.
        arms: Of a rollout; none: all that answered.

    Raises:
        PenstockError: The log cannot be read.
    """
    wanted = pl.col("role") == "answer"
    if arms:
        wanted &= pl.col("arm").is_in(list(arms))
    rows = scan(folder, model, since=span[0], until=span[1]).filter(wanted)
    rows = rows.join(known.lazy(), on=["request", "row"], how="left", maintain_order="left")
    try:
        for batch in rows.collect_batches(chunk_size=BATCH, maintain_order=True):
            if batch.height:
                yield _flat(batch, manifest)
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise PenstockError(
            f"{folder / model}: the log cannot be read ({reason})", hint="is a file cut short? Move it away"
        ) from error


def _flat(batch: pl.DataFrame, manifest: Manifest) -> pl.DataFrame:
    inputs = (
        batch["inputs"].struct.unnest() if isinstance(batch.schema["inputs"], pl.Struct) else pl.DataFrame()
    )
    answers = _answers(batch, manifest)
    beside = batch.select(
        pl.col("truth").alias(TRUTH),
        pl.col("latency_ms").alias(LATENCY),
        pl.col("status").alias(STATUS),
        pl.col("version").alias(VERSION),
        pl.col("time").alias(TIME),
    )
    return pl.concat([inputs, answers, beside], how="horizontal")


def _answers(batch: pl.DataFrame, manifest: Manifest) -> pl.DataFrame:
    if not isinstance(batch.schema.get("outputs"), pl.Struct):
        answers = pl.DataFrame({"value": [None] * batch.height})
    else:
        answers = batch["outputs"].struct.unnest()
    if isinstance(answers.schema.get("probabilities"), pl.Struct):
        each = answers["probabilities"].struct.unnest()
        answers = answers.drop("probabilities").hstack(each.rename(lambda name: f"probability_{name}"))
    return answers_of(answers, manifest, batch["truth"])
