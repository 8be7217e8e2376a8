"""When the shape of a source changes: what is done about it, by column, and what is told.

What a table's columns are is settled by the contract, by what was found in the first rows, and from then on by what
the table remembers. A chunk is brought into that shape before its rows are checked one by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import polars as pl

from penstock import contract
from penstock.config import Column, Contract
from penstock.config.loading import Evolution, Policy
from penstock.errors import PenstockError
from penstock.loading.report import Change
from penstock.loading.state import LINEAGE

__all__ = ["Settled", "absent", "kept", "retyped", "settle"]

# What a type may become so that every value it had still has a place; in this order.
WIDER: dict[str, tuple[str, ...]] = {
    "boolean": ("text",),
    "integer": ("number", "text"),
    "number": ("text",),
    "date": ("datetime", "text"),
    "datetime": ("text",),
    "category": ("text",),
    "text": (),
}


@dataclass(frozen=True)
class Settled:
    """A chunk in the shape of the table.

    Attributes:
        frame: All columns of ``columns``, not cast yet.
        columns: What they are, those that are new included.
        changes: What changed about the source, in this chunk.
        discarded: How many values were left out.
        unwanted: True for rows that have a value in a column they must not have; shape (n_rows,).
        reasons: Of each such row, its reason, else null; shape (n_rows,).
    """

    frame: pl.DataFrame
    columns: dict[str, Column]
    changes: tuple[Change, ...] = ()
    discarded: int = 0
    unwanted: pl.Series = field(default_factory=lambda: pl.Series([], dtype=pl.Boolean))
    reasons: pl.Series = field(default_factory=lambda: pl.Series([], dtype=pl.String))


def settle(
    frame: pl.DataFrame, known: Mapping[str, Column], declared: Contract, evolution: Evolution, *, source: str
) -> Settled:
    """Bring a chunk into the shape of the table.

    Args:
        frame: As the source gave it; flat.
        known: The table's columns so far; empty for the first chunk of the first load.
        declared: The contract as configured.
        evolution: What to do about what differs.
        source: What to call it in an error.

    Raises:
        PenstockError: It differs where nothing may; or a column bears a name that loads need for themselves.
    """
    reserved = [name for name in frame.columns if name in LINEAGE]
    if reserved:
        raise PenstockError(
            f"{source}: the name {reserved[0]!r} is taken by what a load notes about each row",
            hint="rename it at the source, in a query",
        )
    frame = _plain(frame)
    columns = dict(known) or dict(declared.columns)
    changes: list[Change] = []
    first = not known
    frame, unwanted, reasons, dropped = _new_columns(
        frame, columns, declared, evolution, changes, first=first, source=source
    )
    frame = _missing_columns(frame, columns, evolution, source=source)
    return Settled(frame.select(*columns), columns, tuple(changes), dropped, unwanted, reasons)


def kept(settled: Settled, rows: pl.Series) -> Settled:
    """Only some of the rows, by a mask of shape (n_rows,)."""
    return replace(settled, frame=settled.frame.filter(rows))


def absent(
    known: Mapping[str, Column], seen: set[str], before: tuple[str, ...], *, source: str
) -> tuple[tuple[str, ...], tuple[Change, ...]]:
    """Columns that no chunk of a run had, and what changed about that since the last run.

    Args:
        known: The table's columns.
        seen: Columns of any chunk.
        before: Columns that were absent from the last run.
        source: What to call it in an error.

    Raises:
        PenstockError: One of them must have values.
    """
    now = tuple(sorted(name for name in known if name not in seen))
    for name in now:
        # In some rows alone it would be missing values; in none at all it is another table.
        if not known[name].nullable:
            raise _not_there(name, sorted(seen), source)
    gone = [
        Change(column=name, what="missing", was=known[name].type, policy="evolve")
        for name in now
        if name not in before
    ]
    back = [
        Change(column=name, what="back", found=known[name].type, policy="evolve")
        for name in before
        if name in seen
    ]
    return now, (*gone, *back)


def _plain(frame: pl.DataFrame) -> pl.DataFrame:
    """What a contract has no word for, in words that it has, with nothing lost."""
    casts = []
    for name, kind in frame.schema.items():
        column = pl.col(name)
        if kind == pl.Null:
            casts.append(column.cast(pl.String))
        elif kind == pl.Binary:
            casts.append(column.bin.encode("base64"))
        elif kind == pl.Time:
            casts.append(column.dt.to_string("%H:%M:%S%.f"))
        elif isinstance(kind, pl.Duration):
            casts.append((column.dt.total_microseconds() / 1e6).alias(name))
        elif (isinstance(kind, pl.Decimal) and not kind.scale) or kind == pl.UInt64:
            casts.append(_whole(frame[name]))
        elif kind.is_nested():
            casts.append(pl.col(name).map_elements(str, return_dtype=pl.String))
    return frame.with_columns(casts) if casts else frame


def _whole(column: pl.Series) -> pl.Expr:
    # What is beyond 64 bits stays as it is written, as text: a number would round it.
    fits = column.cast(pl.Int64, strict=False).null_count() == column.null_count()
    return pl.col(column.name).cast(pl.Int64 if fits else pl.String)


# --- columns that come and go -----------------------------------------------------------------------


def _new_columns(
    frame: pl.DataFrame,
    columns: dict[str, Column],
    declared: Contract,
    evolution: Evolution,
    changes: list[Change],
    *,
    first: bool,
    source: str,
) -> tuple[pl.DataFrame, pl.Series, pl.Series, int]:
    """Add what is new to ``columns``, or leave it out; which rows must not have it, and how many values are lost."""
    unwanted = pl.repeat(False, frame.height, dtype=pl.Boolean, eager=True)
    reasons = pl.repeat(None, frame.height, dtype=pl.String, eager=True)
    dropped = 0
    for name in [name for name in frame.columns if name not in columns]:
        policy = _of_new(name, declared, evolution, first=first)
        if policy == "evolve":
            columns[name] = declared.default or _found(frame[name])
            if not first:
                changes.append(Change(column=name, what="new", found=columns[name].type, policy=policy))
            continue
        if policy == "freeze":
            raise PenstockError(
                f"{source}: the column {name!r} is new, and evolution.new_column says freeze",
                hint=f"name it in contract.columns, or allow it: evolution.columns: {{{name}: evolve}}",
            )
        present = frame[name].is_not_null()
        changes.append(Change(column=name, what="new", found=_found(frame[name]).type, policy=policy))
        if policy == "discard_row":
            unwanted |= present
            told = pl.Series([f"{name}: expected no such column"]).new_from_index(0, frame.height)
            reasons = reasons.zip_with(~(present & reasons.is_null()), told)
        else:
            dropped += int(present.sum())
        frame = frame.drop(name)
    return frame, unwanted, reasons, dropped


def _of_new(name: str, declared: Contract, evolution: Evolution, *, first: bool) -> Policy:
    if name in evolution.columns:
        return evolution.columns[name]
    if declared.default is None and declared.others == "forbid":
        return "freeze"
    return "evolve" if first else evolution.new_column


def _found(values: pl.Series) -> Column:
    if values.null_count() == len(values) and values.dtype == pl.String:
        # Text has room for whatever the column turns out to hold.
        return Column(type="text", nullable=True)
    return Column(type=contract.kind_of(values), nullable=True)


def _missing_columns(
    frame: pl.DataFrame, columns: dict[str, Column], evolution: Evolution, *, source: str
) -> pl.DataFrame:
    missing = [name for name in columns if name not in frame.columns]
    for name in missing:
        if evolution.columns.get(name, evolution.missing_column) == "freeze":
            raise _not_there(name, frame.columns, source)
    return frame.with_columns(
        pl.lit(None, dtype=contract.POLARS_TYPES[columns[name].type]).alias(name) for name in missing
    )


def _not_there(name: str, there: Iterable[str], source: str) -> PenstockError:
    return PenstockError(
        f"{source}: the column {name!r} is not there",
        hint=f"there are: {', '.join(list(there)[:12])}. If it may be missing: nullable: true in "
        f"contract.columns, and evolution.missing_column: evolve",
    )


# --- types that change ------------------------------------------------------------------------------


def retyped(
    settled: Settled, broken: Mapping[str, int], declared: Contract, evolution: Evolution, *, source: str
) -> Settled | None:
    """What the chunk is once values that are not of their column's type are dealt with; None to leave them to quarantine.

    Args:
        settled: As it was checked.
        broken: How many rows broke each "column: rule" of the contract.
        declared: The contract as configured.
        evolution: What to do about it.
        source: What to call it in an error.

    Raises:
        PenstockError: A value does not fit where evolution says freeze.
    """
    frame, columns, discarded = settled.frame, dict(settled.columns), settled.discarded
    changes: list[Change] = []
    for name, column in settled.columns.items():
        count = broken.get(f"{name}: {column.type}", 0)
        if not count:
            continue
        found = contract.kind_of(frame[name])
        policy = evolution.columns.get(name, evolution.type_change)
        if policy == "auto":
            # A whole number that is followed by fractions was a guess; a word among numbers is a mistake.
            widens = name not in declared.columns and (column.type, found) == ("integer", "number")
            policy = "evolve" if widens else "discard_row"
        changes.append(Change(column=name, what="type", was=column.type, found=found, policy=policy))
        if policy == "evolve":
            columns[name] = _wider(frame, name, column)
        elif policy == "freeze":
            raise PenstockError(
                f"{source}: {count} values of {name!r} are no {column.type}, such as {_example(frame, name, column)!r}",
                hint=f"mend them, or say what is to become of them: evolution.columns: {{{name}: discard_row}}",
            )
        elif policy == "discard_value":
            frame = frame.with_columns(contract.typed(name, column.type, frame.schema[name]).alias(name))
            discarded += count
    if not changes:
        return None
    return replace(
        settled, frame=frame, columns=columns, discarded=discarded, changes=(*settled.changes, *changes)
    )


def _wider(frame: pl.DataFrame, name: str, column: Column) -> Column:
    for kind in WIDER[column.type]:
        # Bounds and codes were those of the narrower type.
        wider = column.model_copy(update={"type": kind, "values": None, "min": None, "max": None})
        if not _unfit(frame, name, wider).any():
            return wider
    return column


def _unfit(frame: pl.DataFrame, name: str, column: Column) -> pl.Series:
    kind = frame.schema[name]
    fits = contract.typed(name, column.type, kind)
    return frame.select(fits.is_null() & ~contract.missing(pl.col(name), column.type, kind)).to_series()


def _example(frame: pl.DataFrame, name: str, column: Column) -> str:
    return str(frame[name].filter(_unfit(frame, name, column))[0])[:60]
