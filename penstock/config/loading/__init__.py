"""What can be chosen for a load: conf/load/NAME.yaml, checked.

One module for each question, as one folder of conf/ for each: where rows come from, where they go, what is
made of them on the way, and when somebody is told.
"""

from __future__ import annotations

from penstock.config.loading.database import DatabaseSource
from penstock.config.loading.destinations import (
    DeltaDestination,
    Destination,
    DuckDBDestination,
    ParquetDestination,
    PostgresDestination,
)
from penstock.config.loading.files import FilesSource
from penstock.config.loading.kafka import KafkaSource
from penstock.config.loading.load import Evolution, Incremental, Load, LoadSource, Policy
from penstock.config.loading.monitoring import Monitor
from penstock.config.loading.rest import RestSource
from penstock.config.loading.steps import AfterStep, Input, Step

__all__ = [
    "AfterStep",
    "DatabaseSource",
    "DeltaDestination",
    "Destination",
    "DuckDBDestination",
    "Evolution",
    "FilesSource",
    "Incremental",
    "Input",
    "KafkaSource",
    "Load",
    "LoadSource",
    "Monitor",
    "ParquetDestination",
    "Policy",
    "PostgresDestination",
    "RestSource",
    "Step",
]
