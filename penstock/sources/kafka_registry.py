"""Schemas of a registry, each asked for once.

confluent-kafka's client knows the protocol, and waits and asks again where a registry is busy.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from penstock.config.loading.kafka import Registry
from penstock.errors import PenstockError
from penstock.sources.kafka_payloads import UnfitError, first_words
from penstock.sources.secrets import hidden, revealed

__all__ = ["Found", "Schemas", "loaded"]

NO_SCHEMA = {40401, 40402, 40403}  # no such subject, version or schema
DEPTH = 50  # references to references; more are a circle


@dataclass(frozen=True)
class Found:
    """A schema.

    Attributes:
        kind: AVRO, PROTOBUF or JSON.
        text: As the registry has it.
        references: Name and text of each that it refers to, those first that others need.
    """

    kind: str
    text: str
    references: Sequence[tuple[str, str]]


class Schemas:
    """What a registry has.

    Args:
        registry: Where it is.
        seconds: How long it may take to answer.
        serialized: Whether schemas are wanted as protobuf's own descriptors rather than as text.

    Raises:
        PenstockError: Its settings make no sense.
    """

    def __init__(self, registry: Registry, seconds: float, *, serialized: bool) -> None:
        from confluent_kafka.schema_registry import SchemaRegistryClient

        self._format = "serialized" if serialized else None
        settings: dict[str, Any] = {
            "url": revealed(registry.url, url=True),
            "timeout": seconds,
            "max.retries": 2,
            "retries.wait.ms": 200,
            "retries.max.wait.ms": 2000,
        }
        if registry.user is not None:
            settings["basic.auth.user.info"] = (
                f"{revealed(registry.user)}:{revealed(registry.password or '')}"
            )
        if registry.ca is not None:
            settings["ssl.ca.location"] = registry.ca
        self._name = hidden(settings["url"])
        try:
            self._client = SchemaRegistryClient(settings)
        except (ValueError, TypeError, OSError) as error:
            raise self._wrong(error, "http://host:port, and ca a file of certificates") from None
        self._known: dict[int, Found | UnfitError] = {}

    def __getitem__(self, number: int) -> Found:
        """A schema by its number.

        Raises:
            UnfitError: There is none.
            PenstockError: The registry does not answer.
        """
        if number not in self._known:
            try:
                self._known[number] = self._asked(number)
            except UnfitError as error:
                self._known[number] = error
        found = self._known[number]
        if isinstance(found, UnfitError):
            raise found
        return found

    def close(self) -> None:
        """Let go of connections."""
        self._client.close()

    def _asked(self, number: int) -> Found:
        from confluent_kafka.schema_registry.error import SchemaRegistryError

        try:
            schema = self._client.get_schema(number, fmt=self._format)
            references = dict(self._references(schema, 0))
        except SchemaRegistryError as error:
            if error.error_code in NO_SCHEMA:
                raise UnfitError(f"the registry has no schema {number}, or lacks what it refers to") from None
            hint = "check source.registry: url, user and password"
            raise self._wrong(error, hint) from None
        except UnfitError:
            raise
        except Exception as error:  # of its HTTP client
            raise self._wrong(error, "is it up, and source.registry.url right?") from None
        return Found(schema.schema_type or "AVRO", schema.schema_str or "", list(references.items()))

    def _references(self, schema: Any, depth: int) -> Iterator[tuple[str, str]]:
        if depth > DEPTH:
            raise UnfitError("its schema refers to itself")
        for reference in schema.references or []:
            found = self._client.get_version(reference.subject, reference.version, fmt=self._format)
            yield from self._references(found.schema, depth + 1)
            yield reference.name, found.schema.schema_str or ""

    def _wrong(self, error: Exception, hint: str) -> PenstockError:
        return PenstockError(f"source.registry: {self._name}: {hidden(first_words(error))}", hint=hint)


def loaded(text: str) -> Any:
    """A schema that is JSON.

    Raises:
        UnfitError: It is none.
    """
    try:
        return json.loads(text)
    except ValueError:
        raise UnfitError("its schema is not JSON") from None
