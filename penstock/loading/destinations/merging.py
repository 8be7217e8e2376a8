"""How rows that come meet rows that are there: pure functions of frames, the same for every kind of file.

A row is identified by its keys (null equals null) and is the same as another if all its values but those of lineage are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import polars as pl

from penstock.loading.destinations.interface import VALID_FROM, VALID_TO, Plan
from penstock.loading.state import LINEAGE

__all__ = ["SEQUENCE", "Met", "aligned", "deduplicated", "met", "versions", "widened"]

SEQUENCE = "\0sequence"  # in which order rows were staged
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
    """One row for each key: with append the first that was staged, else the last by ``plan.order``, then by staging."""
    if plan.write == "append":
        return incoming.unique(plan.keys, keep="first", maintain_order=True)
    by = [SEQUENCE] if plan.order is None else [plan.order, SEQUENCE]
    return (
        incoming.sort(by, nulls_last=False).unique(plan.keys, keep="last", maintain_order=True).sort(SEQUENCE)
    )


@dataclass(frozen=True)
class Met:
    """What becomes of rows that are there, and which that come are dealt with.

    Attributes:
        kept: The rows that are there, less those that are replaced; with ``closed`` ones changed.
        replaced: How many were replaced or closed.
        settled: SEQUENCE of rows that come and need not be added; they are there, or older.
    """

    kept: pl.DataFrame
    replaced: int
    settled: pl.Series


def met(there: pl.DataFrame, incoming: pl.DataFrame, plan: Plan) -> Met | None:
    """Let rows that come (one for each key) meet those of one file. None if no key is in both.

    Args:
        there: Rows of the table.
        incoming: Rows that come, with SEQUENCE; of the same schema.
        plan: append or merge.
    """
    keys = list(plan.keys)
    right = incoming.with_columns(pl.lit(value=True).alias(THERE))
    both = there.with_row_index(MARK).join(
        right, on=keys, how="inner", nulls_equal=True, suffix="\0new", maintain_order="left"
    )
    if both.is_empty():
        return None
    if plan.write == "append":
        return Met(there, 0, both[SEQUENCE])
    new = {name: pl.col(f"{name}\0new") for name in _values(there, keys)}
    same = pl.all_horizontal(
        [pl.lit(value=True), *(pl.col(name).eq_missing(value) for name, value in new.items())]
    )
    older = pl.lit(value=False)
    if plan.order is not None and plan.order in new:
        older = (new[plan.order] < pl.col(plan.order)).fill_null(value=False)
    left = both.select(MARK, SEQUENCE, stays=same | older)
    gone = left.filter(~pl.col("stays"))[MARK]
    kept = there.with_row_index(MARK).filter(~pl.col(MARK).is_in(gone.implode())).drop(MARK)
    return Met(kept, len(gone), left.filter(pl.col("stays"))[SEQUENCE])


def versions(
    there: pl.DataFrame, incoming: pl.DataFrame, plan: Plan
) -> tuple[pl.DataFrame, pl.DataFrame, int]:
    """Slowly changing dimension, type 2: versions that are current meet those that come.

    Args:
        there: Current versions (VALID_TO is null) of the keys that come, at most one for each; with MARK or other columns
            that are not of ``incoming``, which are given back.
        incoming: All rows that come, several for a key, with SEQUENCE; without VALID_FROM and VALID_TO.
        plan: scd2.

    Returns:
        Current versions to be closed (keys and VALID_TO), versions to be added (without SEQUENCE), and how many rows
        that come change nothing: they equal the version before, or are not later than it.
    """
    keys = list(plan.keys)
    begins = _beginning(incoming, plan)
    by = [*keys, VALID_FROM, SEQUENCE]
    # In one line for each key: the current version first, then what comes in its order.
    now = there.drop(VALID_TO).with_columns(pl.lit(-1, dtype=pl.Int64).alias(SEQUENCE))
    line = pl.concat(
        [
            now.select(*[n for n in incoming.columns if n != SEQUENCE], VALID_FROM, SEQUENCE),
            begins.select(
                *[n for n in incoming.columns if n != SEQUENCE], VALID_FROM, pl.col(SEQUENCE).cast(pl.Int64)
            ),
        ],
        how="vertical",
    )
    # What is not later than the current version is history that was told before, or told late.
    current_from = now.select(*keys, pl.col(VALID_FROM).alias(THERE))
    line = line.join(current_from, on=keys, how="left", nulls_equal=True)
    late = (pl.col(SEQUENCE) >= 0) & pl.col(THERE).is_not_null() & (pl.col(VALID_FROM) <= pl.col(THERE))
    # A version that begins at the very moment of another takes its place, unless that one is stored already.
    line = line.filter(~late).drop(THERE).sort(by, nulls_last=False)
    line = line.unique([*keys, VALID_FROM], keep="last", maintain_order=True)
    values = _values(line, keys)
    if line.height:
        rank = line.select(pl.struct(keys).rle_id().alias(MARK)).to_series()
        line = line.with_columns(rank)
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


def _beginning(incoming: pl.DataFrame, plan: Plan) -> pl.DataFrame:
    """When each version begins: by the column that orders them if it is a time, else when it was loaded."""
    utc = pl.Datetime("us", "UTC")
    kind = None if plan.order is None else incoming.schema.get(plan.order)
    moment = plan.moment if isinstance(plan.moment, datetime) else datetime.now(UTC)
    loaded = pl.lit(moment.astimezone(UTC)).cast(utc)
    if plan.order is None or kind is None or not (kind == pl.Date or isinstance(kind, pl.Datetime)):
        # Of several rows of one key in one load, only the last was so when it was loaded.
        last = deduplicated(incoming, plan)
        return last.with_columns(loaded.alias(VALID_FROM))
    begins = pl.col(plan.order)
    if kind == pl.Date:
        begins = begins.cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    elif getattr(kind, "time_zone", None) is None:
        begins = begins.dt.replace_time_zone("UTC")
    return incoming.with_columns(begins.cast(utc).fill_null(loaded).alias(VALID_FROM))
