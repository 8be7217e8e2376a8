"""A query over all rows, in a DuckDB that can reach nothing but what it is given."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from penstock.loading.steps_columns import known, settled
from penstock.loading.steps_expressions import StepError, first_line, near

if TYPE_CHECKING:
    import duckdb

__all__ = ["MEMORY_LIMIT", "queried"]

BATCH_ROWS = 100_000
MEMORY_LIMIT = "2GB"  # from there on DuckDB works on disk
THREADS = 8  # at most: each needs its part of the memory before it can
ROW_GROUP = 122_880
# DuckDB's types that a table of a load has a place for.
FLAT = re.compile(
    r'("?null"?|boolean|u?(tiny|small|big|huge)?int(eger)?|float|double|decimal|varchar|enum|date|timestamp.*)$'
)


def queried(rows: pl.LazyFrame, query: str, inputs: Mapping[str, pl.LazyFrame], folder: Path) -> pl.LazyFrame:
    """Run one SELECT over ``rows`` and the inputs.

    Rows pass through files: a query may read them more than once, and neither they nor its result need be in memory.
    DuckDB reads the files of its tables by itself; that it is let into no other file, nor the network, is settled before
    the query is looked at and cannot be unsettled by it.

    Args:
        rows: All rows.
        query: In DuckDB's SQL.
        inputs: By name; those that the query does not name are not read.
        folder: For the files; emptied first.

    Raises:
        StepError: The query is wrong, not a query, or reaches for what it must not.
    """
    import duckdb

    shutil.rmtree(folder, ignore_errors=True)
    (folder / "out").mkdir(parents=True)
    tables = {"rows": rows} | {
        name: settled(table, of=f"the input {name!r}: ")
        for name, table in inputs.items()
        if re.search(rf"\b{re.escape(name)}\b", query)
    }
    files = {name: str((folder / f"{number}.parquet").absolute()) for number, name in enumerate(tables)}
    for name, table in tables.items():
        table.sink_parquet(files[name], compression="lz4", row_group_size=ROW_GROUP)
    with duckdb.connect(config=_settings(folder)) as database:
        database.execute("SET TimeZone = 'UTC'")
        for name, file in files.items():
            quoted = name.replace('"', '""')
            database.execute(
                f"CREATE VIEW \"{quoted}\" AS FROM read_parquet('{file.replace(chr(39), chr(39) * 2)}')"
            )
        database.execute("SET allowed_paths = $1", [list(files.values())])
        database.execute("SET enable_external_access = false")
        database.execute("SET lock_configuration = true")
        try:
            return _result(database, query, folder / "out")
        # What goes wrong while rows come is Arrow's to tell.
        except (duckdb.Error, OSError) as error:
            raise _explained(error, rows, files) from error


def _settings(folder: Path) -> dict[str, Any]:
    return {
        "temp_directory": str(folder / "spill"),
        "memory_limit": MEMORY_LIMIT,
        "threads": min(THREADS, os.cpu_count() or 1),
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        # Variables of this program are no tables.
        "python_enable_replacements": False,
    }


def _result(database: duckdb.DuckDBPyConnection, query: str, folder: Path) -> pl.LazyFrame:
    import duckdb

    statements = database.extract_statements(query)
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise StepError("it must be one query: SELECT …", "make tables in `after`, and settings in no step")
    result = database.sql(query)
    for name, kind in zip(result.columns, result.types, strict=True):
        if not FLAT.match(str(kind.id)):
            raise StepError(
                f"{name!r} is {str(kind).lower()}, which no column of a table can be",
                f"as text: CAST({name} AS VARCHAR); a span of time as seconds: epoch(…)",
            )
        if result.columns.count(name) > 1:
            raise StepError(f"there would be two columns {name!r}", "name one of them with AS")
    reader: Any = result.to_arrow_reader(BATCH_ROWS)
    # A query without a result still has columns.
    pl.DataFrame(reader.schema.empty_table()).write_parquet(folder / "00000000.parquet")
    for number, batch in enumerate(reader, start=1):
        pl.DataFrame(batch).write_parquet(folder / f"{number:08d}.parquet", compression="lz4")
    return settled(pl.scan_parquet(folder / "*.parquet"))


def _explained(error: Exception, rows: pl.LazyFrame, tables: Iterable[str]) -> StepError:
    text, first = str(error).strip(), first_line(error)
    column = re.search(r'Referenced column "([^"]+)" not found', text)
    if column is not None:
        known(rows, [column[1]])
    table = re.search(r"Table with name (.+) does not exist", first)
    if table is not None:
        there = list(tables)
        return StepError(
            f"there is no table {table[1]!r}",
            near(table[1], there) or f"there are: {', '.join(there)}; others are declared in inputs",
        )
    if "disabled by configuration" in first:
        return StepError(first, "a query sees `rows` and the inputs; declare the file in `inputs`")
    if first.startswith("Out of Memory"):
        return StepError(
            first, "make it of fewer rows at a time, or in `after`, with the memory of the warehouse"
        )
    return StepError(first)
