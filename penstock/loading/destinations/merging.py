"""How rows that come meet rows that are there: pure functions of frames, the same for every kind of file.

A row is identified by its keys (null equals null) and is the same as another if all its values but those of lineage are.
Of two rows of one key the later is the one with the larger ``Plan.order`` (a missing one is the smallest), else the one
staged later.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

import polars as pl

from penstock.loading.destinations.interface import VALID_FROM, VALID_TO, Plan
from penstock.loading.state import LINEAGE

__all__ = [
    "ROUND",
    "SEQUENCE",
    "Met",
    "aligned",
    "by_key",
    "closed_by",
    "deduplicated",
    "in_rounds",
    "met",
    "moments",
    "versions",
    "widened",
]

SEQUENCE = "\0sequence"  # in which order rows were staged
File = TypeVar("File")
ROUND = 1_000_000  # rows that come and are dealt with at a time
SAME = "\0same"
THERE = "\0there"
MARK = "\0mark"


def widened(one: pl.DataType, other: pl.DataType) -> pl.DataType:
    """The narrowest type with a place for the values of both: integer → number → text, date → datetime → text."""
    if other in (one, pl.Null()):
        return one
    if one == pl.Null:
        return other
    if one.is_numeric() and other.is_numeric():
        if one.is_integer() and other.is_integer():
            return pl.Int64()
        if isinstance(one, pl.Decimal) and isinstance(other, pl.Decimal):
            return pl.Decimal(38, max(one.scale, other.scale))
        return pl.Float64()
    if {one.base_type(), other.base_type()} <= {pl.Date, pl.Datetime}:
        return pl.Datetime("us", "UTC")
    return pl.String()


def aligned(frame: pl.DataFrame, schema: pl.Schema) -> pl.DataFrame:
    """The frame with all columns of ``schema``, in its order and types; what it lacks is null."""
    casts = []
    for name, kind in schema.items():
        if name not in frame.columns:
            casts.append(pl.lit(None, dtype=kind).alias(name))
        elif frame.schema[name] == kind:
            casts.append(pl.col(name))
        elif frame.schema[name] == pl.Date and isinstance(kind, pl.Datetime):
            casts.append(pl.col(name).cast(pl.Datetime("us")).dt.replace_time_zone(kind.time_zone))
        else:
            casts.append(pl.col(name).cast(kind))
    return frame.select(casts)


def _values(frame: pl.DataFrame, keys: Sequence[str]) -> list[str]:
    """The columns that make two rows of the same keys different ones."""
    ours = {*LINEAGE, *keys, SEQUENCE, VALID_FROM, VALID_TO}
    return [name for name in frame.columns if name not in ours and not name.startswith("\0")]


def deduplicated(incoming: pl.DataFrame, plan: Plan) -> pl.DataFrame:
    """One row for each key: with append the first that was staged, else the latest."""
    if plan.write == "append":
        return incoming.unique(plan.keys, keep="first", maintain_order=True)
    by = [SEQUENCE] if plan.order is None else [plan.order, SEQUENCE]
    return (
        incoming.sort(by, nulls_last=False).unique(plan.keys, keep="last", maintain_order=True).sort(SEQUENCE)
    )


def _older(new: pl.Expr, old: pl.Expr) -> pl.Expr:
    """Whether what comes is not to take the place of what is there."""
    return pl.when(new.is_null()).then(old.is_not_null()).otherwise((new < old).fill_null(value=False))


@dataclass(frozen=True)
class Met:
    """What becomes of rows that are there, and which that come are dealt with.

    Attributes:
        rows: Those that are there, with others in the place of those that are replaced.
        replaced: SEQUENCE of rows that come and have replaced another.
        unchanged: SEQUENCE of rows that come and change nothing: they are there, or an older row is.
    """

    rows: pl.DataFrame
    replaced: pl.Series
    unchanged: pl.Series


def met(there: pl.DataFrame, incoming: pl.DataFrame, plan: Plan, placed: pl.Series | None = None) -> Met:
    """Let rows that come (one for each key) meet those of one file, to merge them.

    A key that is there several times, in a table that was made without keys, is there once afterwards.

    Args:
        there: Rows of the table.
        incoming: Rows that come, with SEQUENCE; of the same schema.
        plan: merge.
        placed: SEQUENCE of rows that are in the place of another already, in a file before.
    """
    keys = list(plan.keys)
    marked = there.with_row_index(MARK)
    both = marked.join(
        incoming, on=keys, how="inner", nulls_equal=True, suffix="\0new", maintain_order="left"
    )
    new = {name: pl.col(f"{name}\0new") for name in _values(there, keys)}
    stays = pl.all_horizontal(
        [pl.lit(value=True), *(pl.col(name).eq_missing(value) for name, value in new.items())]
    )
    if plan.order in new:
        stays |= _older(new[plan.order], pl.col(plan.order))
    pairs = both.select(MARK, SEQUENCE, stays=stays)
    unchanged = pairs.filter("stays").select(SEQUENCE).unique()
    changed = pairs.join(unchanged, on=SEQUENCE, how="anti", maintain_order="left")
    first = changed.unique(SEQUENCE, keep="first", maintain_order=True)
    if placed is not None:
        first = first.join(placed.to_frame(SEQUENCE), on=SEQUENCE, how="anti")
    replacing = incoming.join(first.select(MARK, SEQUENCE), on=SEQUENCE).select(marked.columns)
    rows = pl.concat([marked.join(changed, on=MARK, how="anti"), replacing]).sort(MARK).drop(MARK)
    return Met(rows, first[SEQUENCE], unchanged[SEQUENCE])


def by_key(rows: pl.DataFrame, keys: Sequence[str]) -> Iterator[pl.DataFrame]:
    """In parts of about ROUND rows, those of one key in one part."""
    parts = -(-rows.height // ROUND)
    if parts <= 1:
        yield from [rows] if rows.height else []
        return
    part = rows.select(pl.struct(keys).hash(seed=0) % parts).to_series()
    for number in range(parts):
        yield rows.filter(part == number)


def in_rounds(found: Iterable[tuple[File, pl.DataFrame]]) -> Iterator[list[tuple[File, pl.DataFrame]]]:
    """Files with the rows that come for them, together as long as those are no more than ROUND."""
    group: list[tuple[File, pl.DataFrame]] = []
    rows = 0
    for file, frame in found:
        if group and rows + frame.height > ROUND:
            yield group
            group, rows = [], 0
        group.append((file, frame))
        rows += frame.height
    if group:
        yield group


def closed_by(rows: pl.DataFrame, ending: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    """Rows of which current versions end: ``ending`` has keys and VALID_TO."""
    end = "\0end"
    known = rows.join(
        ending.rename({VALID_TO: end}), on=list(keys), how="left", nulls_equal=True, maintain_order="left"
    )
    return known.with_columns(pl.coalesce(VALID_TO, end).alias(VALID_TO)).select(rows.columns)


def moments(kind: pl.DataType | None) -> bool:
    """Whether a column of this type says when a version begins."""
    return kind is not None and (kind == pl.Date or isinstance(kind, pl.Datetime))


def versions(
    there: pl.DataFrame, incoming: pl.DataFrame, plan: Plan
) -> tuple[pl.DataFrame, pl.DataFrame, int]:
    """Slowly changing dimension, type 2: versions that are current meet those that come.

    Args:
        there: Current versions (VALID_TO is null) of the keys that come, at most one for each.
        incoming: All rows that come, several for a key, with SEQUENCE; without VALID_FROM and VALID_TO.
        plan: scd2.

    Returns:
        Current versions to be closed (keys and VALID_TO), versions to be added (without SEQUENCE), and how many rows
        that come change nothing: they equal the version before, or are not later than it.
    """
    keys = list(plan.keys)
    columns = [name for name in incoming.columns if name != SEQUENCE]
    # In one line for each key: the current version first, then what comes in its order.
    now = there.with_columns(pl.lit(-1, dtype=pl.Int64).alias(SEQUENCE)).select(
        *columns, VALID_FROM, SEQUENCE
    )
    coming = _beginning(incoming.with_columns(pl.col(SEQUENCE).cast(pl.Int64)), now, plan)
    line = pl.concat([now, coming.select(now.columns)]).sort([*keys, *SEQUENCE_ORDER], nulls_last=False)
    # A version that begins at the very moment of another takes its place.
    line = line.unique([*keys, VALID_FROM], keep="last", maintain_order=True)
    if line.height:
        line = line.with_columns(line.select(pl.struct(keys).rle_id()).to_series().alias(MARK))
        values = _values(line, keys)
        before = [pl.col(name).shift(1).over(MARK, order_by=SEQUENCE_ORDER) for name in values]
        first = pl.int_range(pl.len()).over(MARK) == 0
        same = pl.all_horizontal(
            [pl.lit(value=True), *(pl.col(n).eq_missing(b) for n, b in zip(values, before, strict=True))]
        )
        line = line.filter(first | ~same)
        line = line.with_columns(
            pl.col(VALID_FROM).shift(-1).over(MARK, order_by=SEQUENCE_ORDER).alias(VALID_TO)
        ).drop(MARK)
    else:
        line = line.with_columns(pl.lit(None, dtype=line.schema[VALID_FROM]).alias(VALID_TO))
    closed = line.filter((pl.col(SEQUENCE) < 0) & pl.col(VALID_TO).is_not_null()).select(*keys, VALID_TO)
    added = line.filter(pl.col(SEQUENCE) >= 0).drop(SEQUENCE)
    return closed, added, incoming.height - added.height


SEQUENCE_ORDER = [VALID_FROM, SEQUENCE]


def _beginning(incoming: pl.DataFrame, now: pl.DataFrame, plan: Plan) -> pl.DataFrame:
    """Rows that are later than the current version, and when each begins.

    By the column that orders them if it is a time, or else when they were loaded; then the last of each key alone was so.
    """
    utc = pl.Datetime("us", "UTC")
    kind = None if plan.order is None else incoming.schema[plan.order]
    moment = plan.moment if isinstance(plan.moment, datetime) else datetime.now(UTC)
    loaded = pl.lit(moment.astimezone(UTC)).cast(utc)
    before = [pl.col(VALID_FROM).alias(THERE)]
    if plan.order is not None:
        before.append(pl.col(plan.order).alias(SAME))
    if plan.order is None or not moments(kind):
        incoming = deduplicated(incoming, plan)
    met_now = incoming.join(
        now.select(*plan.keys, *before),
        on=list(plan.keys),
        how="left",
        nulls_equal=True,
        maintain_order="left",
    )
    if plan.order is None or not moments(kind):
        if plan.order is not None:
            met_now = met_now.filter(~_older(pl.col(plan.order), pl.col(SAME)))
        # The version before may have begun in a commit of the same load, or by a clock that was set back since.
        next_ = pl.col(THERE) + pl.duration(microseconds=1)
        return met_now.with_columns(pl.max_horizontal(loaded, next_).alias(VALID_FROM))
    begins = pl.col(plan.order)
    if kind == pl.Date:
        begins = begins.cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    elif getattr(kind, "time_zone", None) is None:
        begins = begins.dt.replace_time_zone("UTC")
    met_now = met_now.with_columns(begins.cast(utc).fill_null(loaded).alias(VALID_FROM))
    # What is not later than the current version is history that was told before, or told late.
    return met_now.filter(pl.col(THERE).is_null() | (pl.col(VALID_FROM) > pl.col(THERE)))
