"""Where rows go."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from penstock.config.base import View

__all__ = [
    "DeltaDestination",
    "Destination",
    "DuckDBDestination",
    "ParquetDestination",
    "PostgresDestination",
]


class ParquetDestination(View):
    """A folder of Parquet files, here or in an object store."""

    kind: Literal["parquet"]
    path: str  # data/lake/orders, s3://bucket/lake/orders
    partition_by: tuple[str, ...] = ()  # Hive style folders, column=value/
    file_rows: Annotated[int, Field(ge=1)] = 1_000_000  # at most in one file
    options: dict[str, str | int | bool] = {}  # for fsspec; secrets as ${secret:NAME}


class DeltaDestination(View):
    """A Delta Lake table: every load is a version to go back to."""

    kind: Literal["delta"]
    path: str
    partition_by: tuple[str, ...] = ()
    options: dict[str, str] = {}  # of deltalake, for an object store; secrets as ${secret:NAME}
    fsspec: dict[str, str | int | bool] = {}  # and the same in fsspec's words


class DuckDBDestination(View):
    """A table in an embedded DuckDB warehouse."""

    kind: Literal["duckdb"]
    path: str = "data/warehouse.duckdb"
    table: str  # name, or schema.name


class PostgresDestination(View):
    """A table in PostgreSQL."""

    kind: Literal["postgres"]
    url: str  # secrets as ${secret:NAME}
    table: str  # name, or schema.name


Destination = Annotated[
    ParquetDestination | DeltaDestination | DuckDBDestination | PostgresDestination,
    Field(discriminator="kind"),
]
