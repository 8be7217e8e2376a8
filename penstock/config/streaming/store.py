"""Where readings are looked for: Elasticsearch, or DuckDB on this machine; and the lake beside it."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from penstock.config.base import View
from penstock.config.loading.spans import duration

__all__ = ["ElasticsearchStore", "EmbeddedStore", "LakeStore", "StreamStore"]

Duration = Annotated[timedelta, BeforeValidator(duration)]
Count = Annotated[int, Field(ge=1)]


class ElasticsearchStore(View):
    """Daily indices of an Elasticsearch cluster."""

    kind: Literal["elasticsearch"]
    hosts: tuple[str, ...]  # https://host:9200; secrets as ${secret:NAME}
    api_key: str | None = None  # ${secret:NAME}
    user: str | None = None
    password: str | None = None  # ${secret:NAME}
    ca: str | None = None  # a file of certificates
    readings: str = "readings"  # names of aliases, and of indices before their day
    windows: str = "windows"
    shards: Count = 1
    replicas: Annotated[int, Field(ge=0)] = 1
    retention: Duration = timedelta(days=30)
    refresh: Duration = timedelta(seconds=1)  # until what was written is found
    timeout: Duration = timedelta(seconds=30)


class EmbeddedStore(View):
    """One DuckDB file."""

    kind: Literal["duckdb"]
    path: str = ".penstock/stream/readings.duckdb"
    retention: Duration | None = timedelta(days=30)


class LakeStore(View):
    """Parquet, a folder for each partition of the log, and in it one for each hour."""

    path: str = "data/lake/readings"  # or s3://bucket/readings
    file_rows: Count = 500_000  # in a file at most; and so many are laid down at once
    file_age: Duration = timedelta(minutes=1)  # until what came is laid down, however little
    options: dict[str, str | int | bool] = {}  # for fsspec; secrets as ${secret:NAME}


StreamStore = Annotated[ElasticsearchStore | EmbeddedStore, Field(discriminator="kind")]
