"""Kafka topics, read in batches that end."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, model_validator

from penstock.config.base import View
from penstock.config.loading.spans import duration

__all__ = ["KafkaSource", "Registry", "Security"]

Duration = Annotated[timedelta, BeforeValidator(duration)]

SCHEMATIC = {"avro", "protobuf"}
# What a read that ends, and keeps its place beside the rows, depends on.
OURS = {
    "auto.offset.reset": "`start` and `on_gone` say it",
    "bootstrap.servers": "`brokers` says it",
    "enable.auto.commit": "a load keeps its place with its rows",
    "enable.auto.offset.store": "a load keeps its place with its rows",
    "enable.partition.eof": "a load ends where the topic does",
    "isolation.level": "only what is committed is read",
    "metadata.broker.list": "`brokers` says it",
}


class Registry(View):
    """A schema registry that speaks Confluent's protocol."""

    url: str  # secrets as ${secret:NAME}
    user: str | None = None
    password: str | None = None  # ${secret:NAME}
    ca: str | None = None  # a file of certificates


class Security(View):
    """How the brokers are to be spoken to."""

    protocol: Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"] = "plaintext"
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER", "GSSAPI"] | None = None
    user: str | None = None
    password: str | None = None  # ${secret:NAME}
    ca: str | None = None  # a file of certificates
    certificate: str | None = None  # a file: the client's own
    key: str | None = None  # a file: that certificate's private key
    key_password: str | None = None  # ${secret:NAME}

    @model_validator(mode="after")
    def _of_one_kind(self) -> Self:
        sasl = self.protocol.startswith("sasl")
        if sasl and self.mechanism is None:
            raise ValueError(f"`protocol: {self.protocol}` needs a `mechanism`, such as PLAIN")
        if not sasl and (self.mechanism or self.user or self.password):
            raise ValueError("`mechanism`, `user` and `password` need `protocol: sasl_ssl` or sasl_plaintext")
        if not self.protocol.endswith("ssl") and (self.ca or self.certificate or self.key):
            raise ValueError("`ca`, `certificate` and `key` need `protocol: ssl` or sasl_ssl")
        return self


class KafkaSource(View):
    """A topic, from where the last load ended up to its end as it is when the load begins."""

    kind: Literal["kafka"]
    brokers: str  # host:port, several with commas
    topic: str
    # json: an object; text is UTF-8; bytes become base64 text. json, avro and protobuf may be marked by a registry.
    value: Literal["json", "avro", "protobuf", "text", "bytes"] = "json"
    # none leaves it out; else kafka_key, or kafka_key__… for each field of an object
    key: Literal["none", "json", "avro", "protobuf", "text", "bytes"] = "none"
    registry: Registry | None = None  # of avro and protobuf whose messages say which schema is theirs
    # Without a registry. avro: a file of a schema; protobuf: what `protoc --include_imports --descriptor_set_out` wrote,
    # and the full name of the message.
    value_schema: str | None = None
    value_message: str | None = None
    key_schema: str | None = None
    key_message: str | None = None
    metadata: bool = False  # columns kafka_timestamp, kafka_partition, kafka_offset
    headers: bool = (
        False  # column kafka_headers: JSON, name → text, or a list of texts for a name that comes again
    )
    # Of a first load. Partitions that a topic gets later are read from their beginning.
    start: Literal["earliest", "latest"] | datetime = "earliest"
    # Messages without a value: their key was deleted. row: a row of key and metadata, and kafka_tombstone says which.
    tombstones: Literal["skip", "quarantine", "row"] = "quarantine"
    # Offsets that are removed before they were read. earliest: go on with what is there; the gap is noted in quarantine.
    on_gone: Literal["fail", "earliest"] = "fail"
    security: Security = Security()
    options: dict[str, str | int | float | bool] = {}  # further ones of librdkafka; secrets as ${secret:NAME}
    connect: Duration = timedelta(seconds=15)
    patience: Duration = timedelta(seconds=60)  # for the next message, where the topic says that there is one

    @model_validator(mode="after")
    def _schemas_come_from_somewhere(self) -> Self:
        for name, form, schema, message in (
            ("value", self.value, self.value_schema, self.value_message),
            ("key", self.key, self.key_schema, self.key_message),
        ):
            if schema is not None and form not in SCHEMATIC:
                raise ValueError(f"`{name}_schema` goes with `{name}: avro` or protobuf")
            if form in SCHEMATIC and schema is None and self.registry is None:
                raise ValueError(
                    f"`{name}: {form}` needs `registry`, which has the schemas, or `{name}_schema`, a file"
                )
            if (message is not None) != (form == "protobuf" and schema is not None):
                raise ValueError(
                    f"`{name}_message` goes with `{name}_schema` of protobuf: a name in that file"
                )
        return self

    @model_validator(mode="after")
    def _nothing_contradicts(self) -> Self:
        if self.tombstones == "row" and self.key == "none":
            raise ValueError("`tombstones: row` needs `key`, which says what was deleted")
        if min(self.connect, self.patience) <= timedelta(0):
            raise ValueError("`connect` and `patience` must be longer than nothing")
        for name in self.options:
            if name in OURS:
                raise ValueError(f"`options` cannot have {name}: {OURS[name]}")
        return self
