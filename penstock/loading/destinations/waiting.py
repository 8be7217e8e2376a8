"""Rows on their way into a table of files: on disk, unseen, as many as come between two commits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from penstock.errors import PenstockError
from penstock.loading.destinations.interface import Plan
from penstock.loading.destinations.merging import SEQUENCE, aligned, widened
from penstock.loading.destinations.places import Place

__all__ = ["STAGING", "Part", "Waiting"]

STAGING = "_penstock/staging"
# No file here ends in .parquet: a reader that goes by `**/*.parquet` finds what is committed and nothing else.
SUFFIX = ".rows"
BYTES = 64 << 20  # of rows that become a file, and of rows that need not be read again: keeps memory flat


@dataclass(frozen=True)
class Part:
    """A file of rows that wait; ``start`` is the place of its first row among all that wait."""

    name: str
    start: int
    rows: int
    schema: pl.Schema


class Waiting:
    """Staged rows.

    Args:
        place: Of the table.
        file_rows: At most in one file.
        called: What the names of its files begin with.
    """

    def __init__(self, place: Place, file_rows: int, called: str = "incoming") -> None:
        self.place, self.file_rows, self.called = place, file_rows, called
        self.parts: list[Part] = []
        self.rows = 0
        self._open: list[pl.DataFrame] = []
        self._held: dict[str, pl.DataFrame] = {}
        self._held_bytes = 0

    def add(self, frame: pl.DataFrame) -> None:
        """Put rows behind those that wait."""
        if not frame.height:
            return
        if self._open and self._open[-1].schema != frame.schema:
            self.flush()
        self._open.append(frame)
        rows = sum(part.height for part in self._open)
        if rows >= self.file_rows or sum(part.estimated_size() for part in self._open) >= BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what is in memory."""
        if not self._open:
            return
        frame = pl.concat(self._open, rechunk=False)
        self._open = []
        for start in range(0, frame.height, self.file_rows):
            rows = frame.slice(start, self.file_rows)
            part = Part(
                f"{STAGING}/{self.called}-{len(self.parts):06d}{SUFFIX}", self.rows, rows.height, rows.schema
            )
            self.place.write_parquet(part.name, rows)
            self.parts.append(part)
            self.rows += rows.height
            size = int(rows.estimated_size())
            if self._held_bytes + size <= BYTES:
                self._held[part.name] = rows
                self._held_bytes += size

    def forget(self) -> None:
        """Nothing waits any more. The files are left to whoever removes ``STAGING``."""
        self.parts, self.rows, self._open, self._held, self._held_bytes = [], 0, [], {}, 0

    # --- what waits ---------------------------------------------------------------------------------

    def schema(self, there: Mapping[str, pl.DataType]) -> pl.Schema:
        """With room for what is there, which comes first, and what waits."""
        schema = dict(there)
        for part in self.parts:
            for name, kind in part.schema.items():
                schema[name] = widened(schema[name], kind) if name in schema else kind
        return pl.Schema(schema)

    def require(self, schema: pl.Schema, plan: Plan) -> None:
        """Make sure that the columns which rows are known by are there.

        Raises:
            PenstockError: One is not.
        """
        needed = [("keys", name) for name in plan.keys]
        if plan.order is not None and plan.write in {"merge", "scd2"}:
            needed.append(("incremental.cursor", plan.order))
        for key, name in needed:
            if self.rows and name not in schema:
                raise PenstockError(
                    f"{key}: there is no column {name!r} in what is to be stored",
                    hint=f"there are: {', '.join(schema)}; did a step drop or rename it?",
                )

    def columns(self, names: Sequence[str], schema: Mapping[str, pl.DataType]) -> pl.DataFrame:
        """Some columns of all rows, with SEQUENCE."""
        kinds = pl.Schema({name: schema[name] for name in names})
        frames = []
        for part in self.parts:
            if part.name in self._held:
                frames.append(aligned(self._held[part.name], kinds))
            else:
                found = self.place.read_parquet(part.name, [name for name in names if name in part.schema])
                frames.append(_tall(found, part.rows, kinds))
        return pl.concat([pl.DataFrame(schema=kinds), *frames]).with_columns(
            pl.int_range(pl.len(), dtype=pl.Int64).alias(SEQUENCE)
        )

    def take(self, sequence: pl.Series, schema: Mapping[str, pl.DataType]) -> pl.DataFrame:
        """Some rows, with SEQUENCE, in their order."""
        empty = pl.DataFrame(schema={**schema, SEQUENCE: pl.Int64})
        return pl.concat([empty, *self.taken(sequence, schema)])

    def taken(self, sequence: pl.Series, schema: Mapping[str, pl.DataType]) -> Iterator[pl.DataFrame]:
        """Some rows, a file at a time."""
        wanted = sequence.to_frame(SEQUENCE)
        for part in self.parts:
            if sequence.is_between(part.start, part.start + part.rows, closed="left").any():
                yield self.frame(part, schema).join(wanted, on=SEQUENCE, how="semi", maintain_order="left")

    def frame(self, part: Part, schema: Mapping[str, pl.DataType]) -> pl.DataFrame:
        """The rows of a file, with SEQUENCE."""
        frame = self._held[part.name] if part.name in self._held else self.place.read_parquet(part.name)
        return aligned(frame, pl.Schema(schema)).with_columns(
            pl.int_range(part.start, part.start + part.rows, dtype=pl.Int64).alias(SEQUENCE)
        )


def _tall(frame: pl.DataFrame, rows: int, schema: pl.Schema) -> pl.DataFrame:
    """Aligned; rows of which no column is there are rows nevertheless."""
    if frame.width:
        return aligned(frame, schema)
    return pl.DataFrame(
        {name: pl.Series([None], dtype=kind).new_from_index(0, rows) for name, kind in schema.items()}
    )
