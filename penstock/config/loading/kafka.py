"""Kafka topics, read in batches that end."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, model_validator

from penstock.config.base import View
from penstock.config.loading.spans import duration

__all__ = ["KafkaSource", "Registry", "Security"]

Duration = Annotated[timedelta, BeforeValidator(duration)]


class Registry(View):
    """A schema registry that speaks Confluent's protocol."""

    url: str
    user: str | None = None
    password: str | None = None  # ${secret:NAME}


class Security(View):
    """How the brokers are to be spoken to."""

    protocol: Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"] = "plaintext"
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    user: str | None = None
    password: str | None = None  # ${secret:NAME}
    ca: str | None = None  # a file of certificates


class KafkaSource(View):
    """A topic, from where the last load ended up to its end as it is when the load begins."""

    kind: Literal["kafka"]
    brokers: str  # host:port, several with commas
    topic: str
    value: Literal["json", "avro", "protobuf", "text"] = (
        "json"  # avro by a registry; json and protobuf with its mark of five bytes or without
    )
    key: Literal["none", "text", "json", "avro"] = (
        "none"  # none leaves it out; else kafka_key, or kafka_key__… of an object
    )
    registry: Registry | None = None
    descriptors: str | None = (
        None  # protobuf: a file that `protoc --include_imports --descriptor_set_out` wrote
    )
    message: str | None = None  # protobuf: the full name of the message
    metadata: bool = False  # columns kafka_partition, kafka_offset, kafka_timestamp, kafka_headers (JSON)
    start: Literal["earliest", "latest"] = "earliest"  # of a first load, and of partitions that are new
    tombstones: Literal["skip", "quarantine"] = "quarantine"  # messages without a value
    on_gone: Literal["fail", "earliest"] = "fail"  # offsets that retention has removed before they were read
    security: Security = Security()
    options: dict[str, str] = {}  # further ones of librdkafka; secrets as ${secret:NAME}
    connect: Duration = timedelta(seconds=15)
    patience: Duration = timedelta(seconds=60)  # for the next message, where the topic says that there is one

    @model_validator(mode="after")
    def _schemas_come_from_somewhere(self) -> Self:
        if self.registry is None and "avro" in {self.value, self.key}:
            raise ValueError("avro needs `registry`, which has the schemas")
        if self.value == "protobuf" and (self.descriptors is None or self.message is None):
            raise ValueError("protobuf needs `descriptors`, a file of protoc, and `message`, a name in it")
        return self
