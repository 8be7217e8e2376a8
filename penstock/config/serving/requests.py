"""Where records of what was asked and answered go."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from penstock.config.base import Share, View
from penstock.config.loading.spans import duration

__all__ = ["FileLog", "KafkaLog", "RequestLog"]

Duration = Annotated[timedelta, BeforeValidator(duration)]
Count = Annotated[int, Field(ge=1)]


class _Log(View):
    sample: Share = 1.0  # of requests; all rows of a request are logged, or none
    pii: tuple[str, ...] = ()  # columns whose values are hashed
    hash_key: str = "PENSTOCK_HASH_KEY"  # the environment variable with the key of the hash; needed for `pii`
    pending: Count = 100_000  # records in memory; what comes on top is dropped, and counted


class FileLog(_Log):
    """Files by hour: Parquet where polars is installed, gzipped JSON lines elsewhere."""

    kind: Literal["files"]
    folder: str = "data/requests"
    rows: Count = 100_000  # of one file
    every: Duration = timedelta(seconds=60)  # until what was logged is in a file


class KafkaLog(_Log):
    """A topic, one JSON record a message; confluent-kafka is to be installed."""

    kind: Literal["kafka"]
    bootstrap: str
    topic: str = "requests"
    settings: dict[str, str] = {}  # librdkafka's, such as sasl.password: ${secret:NAME}


RequestLog = Annotated[FileLog | KafkaLog, Field(discriminator="kind")]
