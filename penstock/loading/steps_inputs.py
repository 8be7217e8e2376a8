"""Tables that rows are joined with.

Files are read by what reads the files of a load, and tables of a database file by what reads databases, so that an input
may be of any kind that a source may; Parquet on this machine and Delta are scanned, so that a big one need not be in memory.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from penstock import contract
from penstock.config.loading import DatabaseSource, FilesSource
from penstock.config.loading.steps import Input, Join
from penstock.errors import PenstockError
from penstock.loading.state import LINEAGE
from penstock.loading.steps_columns import columns, known, settled, word
from penstock.loading.steps_expressions import StepError, first_line
from penstock.sources.chunks import Window
from penstock.sources.reading import chunks

__all__ = ["Inputs", "key_name"]

BATCH_ROWS = 500_000
PARQUET = {".parquet", ".pq"}


class Inputs:
    """The inputs of a load, each read when it is first needed."""

    def __init__(self, declared: Mapping[str, Input]) -> None:
        self.declared = declared
        self._scanned: dict[str, pl.LazyFrame] = {}
        self._sides: dict[tuple[int, str, bool], pl.LazyFrame] = {}

    def scan(self, name: str) -> pl.LazyFrame:
        """An input's rows, without their lineage: it is that of another table.

        Raises:
            PenstockError: It cannot be read.
        """
        if name not in self._scanned:
            given = self.declared[name]
            try:
                found = _scan(given).drop(LINEAGE, strict=False)
                found.collect_schema()
                self._scanned[name] = found
            except PenstockError as error:
                raise PenstockError(f"inputs.{name}: {error.message}", hint=error.hint) from error
            except (pl.exceptions.PolarsError, OSError) as error:
                raise PenstockError(
                    f"inputs.{name}: {given.path}: {first_line(error)}",
                    hint="is it whole, and of one schema?",
                ) from error
        return self._scanned[name]

    def right_side(self, at: int, step: Join, *, streamed: bool) -> pl.LazyFrame:
        """What a join finds: keys as ``key_name(0)`` and so on, and the columns that it adds.

        Args:
            at: Number of the step.
            step: The join.
            streamed: Whether it is asked for once only, and may be read on the way; else it is in memory from now on.

        Raises:
            StepError: A column is not there, is of no type of a table, or the keys are not unique and have to be.
        """
        asked = (at, step.how, streamed)
        if asked not in self._sides:
            side = self._right_side(step)
            self._sides[asked] = side if streamed else side.collect().lazy()
        return self._sides[asked]

    def _right_side(self, step: Join) -> pl.LazyFrame:
        rows, of = self.scan(step.input), f"the input {step.input!r}: "
        keys = list(step.on.values()) if isinstance(step.on, dict) else list(step.on)
        known(rows, [*keys, *step.columns], of)
        if step.how in {"semi", "anti"}:
            added: list[str] = []
        else:
            added = list(step.columns) or [name for name in columns(rows) if name not in keys]
        rows = settled(rows.select({*keys, *added}), of=of)
        named = [pl.col(key).alias(key_name(number)) for number, key in enumerate(keys)]
        side = rows.select(*named, *added).drop_nulls([key_name(number) for number in range(len(keys))])
        if step.validate_keys == "m:1" and step.how in {"left", "inner"}:
            _unique(side, keys, step.input)
        return side


def key_name(number: int) -> str:
    """What the key of that number is called in a right side: no column of anybody's."""
    return f"\0key{number}"


def _unique(side: pl.LazyFrame, keys: list[str], name: str) -> None:
    hidden = [key_name(number) for number in range(len(keys))]
    repeated = side.group_by(hidden).len().filter(pl.col("len") > 1).sort(hidden).head(1).collect()
    if repeated.height:
        *values, count = repeated.row(0)
        shown = ", ".join(f"{key} {value!r}" for key, value in zip(keys, values, strict=True))
        raise StepError(
            f"the input {name!r} has {count} rows with {shown}, so a row would be doubled",
            "make its keys unique, join by more of them, or say that it is meant: validate_keys: m:m",
        )


def agreed(kind: pl.DataType, ours: str, key: str, found: pl.DataType, theirs: str) -> pl.Expr:
    """The input's key in the type of ours.

    Raises:
        StepError: They are not of one kind.
    """
    column = pl.col(key)
    if kind == found:
        return column
    if kind.is_float() and found.is_integer():
        return column.cast(pl.Float64)
    if kind.is_integer() and found.is_float():
        # What is no whole number equals none.
        return contract.typed(key, "integer", found)
    if isinstance(kind, pl.Datetime) and found == pl.Date:
        return contract.typed(key, "datetime", found)
    raise StepError(
        f"{ours!r} is {word(kind)} and {theirs!r} of the input is {word(found)}",
        f"cast it before: {{op: cast, columns: {{{ours}: {word(found)}}}}}",
    )


# --- reading ----------------------------------------------------------------------------------------


def _scan(given: Input) -> pl.LazyFrame:
    path = Path(given.path)
    if given.table is not None:
        return _collected(
            DatabaseSource(kind="database", url=f"{_database(path)}:///{path.absolute()}", table=given.table),
            found_types=False,
        )
    if (path / "_delta_log").is_dir():
        return pl.scan_delta(str(path))
    local = _local(given.path)
    if local and all(file.suffix in PARQUET for file in local):
        return pl.scan_parquet(local, hive_partitioning=_hive(local))
    if path.is_dir():
        raise PenstockError(
            f"{given.path}: there is no Parquet file in it",
            hint="name files, or a folder of Parquet or Delta",
        )
    return _collected(FilesSource(kind="files", path=given.path, options=given.options), found_types=True)


def _local(pattern: str) -> list[Path]:
    """Files of a folder or a glob; without those that a table keeps for itself, such as what waits for a commit."""
    folder = Path(pattern)
    if folder.is_dir():
        files = [
            file
            for file in folder.rglob("*.parquet")
            if not any(part.startswith(("_", ".")) for part in file.relative_to(folder).parts)
        ]
    elif glob.has_magic(pattern):
        files = [Path(name) for name in glob.glob(pattern, recursive=True)]  # noqa: PTH207  (absolute ones too)
    else:
        files = [folder]
    return sorted(file for file in files if file.is_file())


def _hive(files: list[Path]) -> bool:
    """Whether columns are in the names of folders, and only there."""
    keys = re.findall(r"([^/=]+)=[^/]*/", files[0].as_posix())
    return bool(keys) and not set(keys) <= set(pl.read_parquet_schema(files[0]))


def _database(path: Path) -> str:
    if not path.is_file():
        raise PenstockError(f"{path}: there is no such file", hint="`table` is of a DuckDB or SQLite file")
    with path.open("rb") as file:
        start = file.read(16)
    if start.startswith(b"SQLite format 3"):
        return "sqlite"
    if start[8:12] == b"DUCK":
        return "duckdb"
    raise PenstockError(f"{path}: is no DuckDB or SQLite file", hint="leave `table` out for files of rows")


def _collected(source: FilesSource | DatabaseSource, *, found_types: bool) -> pl.LazyFrame:
    """All rows of a source in memory, text in the types that it stands for."""
    frames: list[pl.DataFrame] = []
    for chunk in chunks(source, Window(batch_rows=BATCH_ROWS)):
        if chunk.broken.height:
            first = chunk.broken.row(0, named=True)
            raise PenstockError(
                f"row {first['position']} of {first['source']}: {first['reason']}",
                hint="mend it: an input is read whole",
            )
        frames.append(chunk.frame)
    frame = pl.concat([one for one in frames if one.width] or [pl.DataFrame()], how="diagonal_relaxed")
    if not found_types:
        return frame.lazy()
    casts: list[Any] = []
    for name, kind in frame.schema.items():
        if kind == pl.String and frame[name].null_count() < frame.height:
            casts.append(contract.typed(name, contract.kind_of(frame[name]), kind))
    return frame.with_columns(casts).lazy()
