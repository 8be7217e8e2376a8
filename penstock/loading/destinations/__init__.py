"""Where tables live. Each kind stores rows and state in one act, or neither.

Modules of the kinds are imported when one is opened: a load into Parquet needs no database client.
"""

from __future__ import annotations

from penstock.config.loading import DeltaDestination, Destination, DuckDBDestination, ParquetDestination
from penstock.loading.destinations.interface import Committed, Plan, Table

__all__ = ["Committed", "Plan", "Table", "open_table"]


def open_table(destination: Destination) -> Table:
    """Connect to a table, and finish or undo what a killed load left there.

    Raises:
        PenstockError: It cannot be reached, or what is there was not made by loads.
    """
    if isinstance(destination, ParquetDestination):
        from penstock.loading.destinations.parquet import ParquetTable

        return ParquetTable(destination)
    if isinstance(destination, DeltaDestination):
        from penstock.loading.destinations.delta import DeltaTable

        return DeltaTable(destination)
    if isinstance(destination, DuckDBDestination):
        from penstock.loading.destinations.duckdb import DuckDBTable

        return DuckDBTable(destination)
    from penstock.loading.destinations.postgres import PostgresTable

    return PostgresTable(destination)
