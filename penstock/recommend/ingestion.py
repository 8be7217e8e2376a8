"""From rows of any table to interactions: one user, one item, one moment each. What does not fit is told why."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from penstock import contract as contracts
from penstock.config import Column, Contract, InteractionTask
from penstock.errors import PenstockError
from penstock.sources.files import Table

__all__ = ["COLUMNS", "Ingested", "contract_of", "ingest", "item_of_text"]

# Of a column's values, from which it is of a type; the rest are mistakes, and are told one by one.
MOSTLY = 0.9
SINCE_1970 = {"s": 1_000_000, "ms": 1_000, "us": 1}  # microseconds

COLUMNS: dict[str, pl.DataType] = {
    "user": pl.String(),
    "item": pl.Int64(),
    "key": pl.String(),
    "time": pl.Datetime("us", "UTC"),
    "rating": pl.Float64(),
    "title": pl.String(),
    "genres": pl.List(pl.String()),
    "year": pl.Int64(),
}


@dataclass(frozen=True)
class Ingested:
    """Interactions, and what could not be one.

    Attributes:
        columns: The contract, with every column's type resolved.
        interactions: As ``COLUMNS``, sorted by user and time.
        bad: Rows for the quarantine, as ``contract.QUARANTINE_SCHEMA``.
        reasons: How many rows broke each rule.
    """

    columns: dict[str, Column]
    interactions: pl.DataFrame
    bad: pl.DataFrame
    reasons: dict[str, int]


def contract_of(contract: Contract, task: InteractionTask, frame: pl.DataFrame) -> Contract:
    """The contract with the columns that the task names, typed by their part in it where nothing else is said.

    Columns that play no part are left out.

    Raises:
        PenstockError: There is no such column.
    """
    for role in ("user", "item", "time", "rating", "title", "genres", "year"):
        name = getattr(task, role)
        if name is not None and name not in frame.columns:
            raise PenstockError(
                f"task.{role}: there is no column {name!r} in the source",
                hint=f"there are: {', '.join(map(repr, frame.columns[:12]))}",
            )
    derived: dict[str, Column] = {
        task.user: Column(type="category"),
        task.item: _numbers(frame[task.item]) or Column(type="category"),
        task.time: _numbers(frame[task.time]) or Column(type="datetime"),
    }
    optional: dict[str | None, Column] = {
        task.rating: Column(type="number", nullable=True),
        task.title: Column(type="text", nullable=True),
        task.genres: Column(type="text", nullable=True),
        task.year: Column(type="integer", nullable=True),
    }
    derived |= {name: column for name, column in optional.items() if name is not None}
    if contract.others == "infer":
        return contract.model_copy(update={"columns": derived | contract.columns})
    return contract


def _numbers(values: pl.Series) -> Column | None:
    """A column of whole numbers, if that is what most values are."""
    if values.dtype.is_temporal() or not len(values):
        return None
    there = values.drop_nulls()
    whole = there.to_frame().select(contracts.typed(values.name, "integer", values.dtype)).to_series()
    enough = len(there) - whole.null_count() >= MOSTLY * len(there) and len(there) > 0
    return Column(type="integer", min=0) if enough else None


def ingest(table: Table, contract: Contract, task: InteractionTask) -> Ingested:
    """Check rows against the contract, and make interactions of the good ones.

    The first of several rows of one user, item and moment is kept.

    Raises:
        PenstockError: A column is missing or of a type that its part cannot have, or two keys have one id.
    """
    used = [name for name in table.frame.columns if name in _used(task) or name in contract.columns]
    frame = table.frame if contract.others == "forbid" else table.frame.select(used)
    whole = contract_of(contract, task, table.frame)
    columns = contracts.complete(whole, frame, source=table.name)
    _require_types(columns, task)
    identity = tuple(dict.fromkeys((*contract.unique, task.user, task.item, task.time)))
    checked = contracts.check(
        frame, columns, source=table.source, position=table.position, unique=contract.unique or identity
    )
    bad = pl.concat([table.broken, checked.bad]).sort("source", "position")
    made = _interactions(checked.good, columns, task)
    return Ingested(columns, made, bad, table.reasons | checked.reasons)


def _used(task: InteractionTask) -> set[str | None]:
    return {task.user, task.item, task.time, task.rating, task.title, task.genres, task.year}


def _require_types(columns: Mapping[str, Column], task: InteractionTask) -> None:
    allowed = {
        "user": ("category", "text", "integer"),
        "item": ("category", "text", "integer"),
        "time": ("integer", "datetime", "date"),
        "rating": ("integer", "number"),
        "year": ("integer",),
    }
    for role, types in allowed.items():
        name = getattr(task, role)
        if name is None:
            continue
        if name not in columns:
            raise PenstockError(
                f"contract.columns: {name!r}, the {role}, is not among them",
                hint="describe it there, or set contract.others: infer",
            )
        if columns[name].type not in types:
            raise PenstockError(
                f"contract.columns.{name}: a {role} is {' or '.join(types)}, not {columns[name].type}",
                hint="name another column in task, or mend its type",
            )
        if role in {"user", "item", "time"} and columns[name].nullable:
            raise PenstockError(
                f"contract.columns.{name}: without a {role} a row is no interaction",
                hint="take `nullable` away: such rows go to quarantine",
            )


def _interactions(good: pl.DataFrame, columns: Mapping[str, Column], task: InteractionTask) -> pl.DataFrame:
    if columns[task.item].type == "integer":
        item, key = pl.col(task.item), pl.lit(None, pl.String)
    else:
        ids = _ids(good[task.item])
        item = pl.col(task.item).replace_strict(ids, return_dtype=pl.Int64)
        key = pl.col(task.item).cast(pl.String)
    genres = pl.lit(None, COLUMNS["genres"])
    if task.genres is not None:
        parts = pl.col(task.genres).cast(pl.String).str.split(task.genre_separator)
        parts = parts.list.eval(pl.element().str.strip_chars()).list.eval(
            pl.element().filter(pl.element() != "")
        )
        genres = parts
    made = good.select(
        user=pl.col(task.user).cast(pl.String),
        item=item,
        key=key,
        time=_moment(task, columns[task.time]),
        rating=_or_nothing(task.rating, "rating"),
        title=_or_nothing(task.title, "title"),
        genres=genres,
        year=_or_nothing(task.year, "year"),
    )
    return made.sort("user", "time", "item")


def _or_nothing(name: str | None, role: str) -> pl.Expr:
    return (pl.lit(None) if name is None else pl.col(name)).cast(COLUMNS[role])


def _moment(task: InteractionTask, column: Column) -> pl.Expr:
    moment = pl.col(task.time)
    if column.type == "integer":
        if task.time_unit == "ns":
            moment = moment // 1_000
        else:
            moment = moment * SINCE_1970[task.time_unit]
        return moment.cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    if column.type == "date":
        return moment.cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    return moment


def item_of_text(key: str) -> int:
    """The id of an item that the data call by a text: the same wherever and whenever it is computed."""
    return (
        int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 11
    )  # exact in a double, for JSON


def _ids(keys: pl.Series) -> dict[str, int]:
    ids = {key: item_of_text(key) for key in keys.cast(pl.String).unique().sort().to_list()}
    if len(set(ids.values())) < len(ids):
        raise PenstockError(
            "two items have one id by their hash", hint="give items whole numbers instead of texts"
        )
    return ids
