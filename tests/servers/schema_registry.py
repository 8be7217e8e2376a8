"""A stand-in for a schema registry, of which no build comes with the packages used here.

It speaks the REST protocol of Confluent's over real HTTP (subjects, versions, schemas by their numbers, references,
descriptors), so that any client of that protocol talks to it. It does not know what schemas mean: it
compares none for compatibility, and stores what it is given, protobuf as the descriptors that a client registers.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any
from urllib.parse import unquote, urlsplit

__all__ = ["PASSWORD", "USER", "SchemaRegistry", "schema_registry"]

USER = "penstock"
PASSWORD = "open sesame/@:1"  # as awkward in an address as they come
KIND = "application/vnd.schemaregistry.v1+json"


class _NotFoundError(Exception):
    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass
class SchemaRegistry:
    """Schemas, and where they are to be had.

    Attributes:
        url: Of the server.
        asked: The paths that were asked for, in order.
        as_text: Whether it gives protobuf as text, whatever was asked for, as some registries do.
    """

    url: str = ""
    asked: list[str] = field(default_factory=list)
    as_text: bool = False
    _schemas: list[dict[str, Any]] = field(default_factory=list)
    _versions: dict[str, list[int]] = field(default_factory=dict)  # numbers of schemas, by subject
    _lock: Lock = field(default_factory=Lock)

    def add(
        self, subject: str, schema: str, kind: str = "AVRO", references: list[dict[str, Any]] | None = None
    ) -> int:
        """Register a schema; its number."""
        entry = {"schema": schema, "schemaType": kind, "references": references or []}
        with self._lock:
            if entry not in self._schemas:
                self._schemas.append(entry)
            number = 1 + self._schemas.index(entry)
            versions = self._versions.setdefault(subject, [])
            if number not in versions:
                versions.append(number)
        return number

    def _by_number(self, number: int) -> dict[str, Any]:
        if not 1 <= number <= len(self._schemas):
            raise _NotFoundError(40403, "Schema not found")
        found = self._schemas[number - 1]
        if self.as_text and found["schemaType"] == "PROTOBUF":
            return {**found, "schema": 'syntax = "proto3";'}
        return found

    def _by_version(self, subject: str, version: str) -> dict[str, Any]:
        versions = self._versions.get(subject)
        if versions is None:
            raise _NotFoundError(40401, "Subject not found")
        at = len(versions) if version == "latest" else int(version)
        if not 1 <= at <= len(versions):
            raise _NotFoundError(40402, "Version not found")
        number = versions[at - 1]
        return {"subject": subject, "version": at, "id": number, **self._by_number(number)}

    def answer(self, method: str, path: str, body: Any) -> Any:
        """What a request has for an answer."""
        self.asked.append(path)
        match [unquote(part) for part in urlsplit(path).path.strip("/").split("/")]:
            case ["subjects"]:
                return sorted(self._versions)
            case ["subjects", subject] if method == "POST":
                return self._by_version(
                    subject, str(1 + self._versions[subject].index(self._add(subject, body)))
                )
            case ["subjects", subject, "versions"] if method == "POST":
                return {"id": self._add(subject, body)}
            case ["subjects", subject, "versions"]:
                return list(range(1, 1 + len(self._versions.get(subject, []))))
            case ["subjects", subject, "versions", version]:
                return self._by_version(subject, version)
            case ["schemas", "ids", number]:
                return self._by_number(int(number))
            case _:
                raise _NotFoundError(404, "HTTP 404 Not Found")

    def _add(self, subject: str, body: Any) -> int:
        return self.add(subject, body["schema"], body.get("schemaType", "AVRO"), body.get("references"))


@contextmanager
def schema_registry(*, guarded: bool = False) -> Iterator[SchemaRegistry]:
    """A registry without schemas, for the time of the block.

    Args:
        guarded: Whether it answers USER with PASSWORD alone.
    """
    registry = SchemaRegistry()
    login = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(None)

        def do_POST(self) -> None:
            self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _answer(self, body: Any) -> None:
            if guarded and self.headers.get("Authorization") != login:
                self._send(401, {"error_code": 401, "message": "Unauthorized"})
                return
            try:
                self._send(200, registry.answer(self.command, self.path, body))
            except _NotFoundError as error:
                self._send(404, {"error_code": error.code, "message": str(error)})

        def _send(self, status: int, content: Any) -> None:
            sent = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", KIND)
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    registry.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield registry
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
