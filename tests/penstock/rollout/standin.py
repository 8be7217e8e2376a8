"""A stand-in for predictors: speaks their protocol, and fails in every way that a real one cannot be made to fail in on demand."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

import httptools

__all__ = ["Predictor"]


@dataclass
class Predictor:
    """One replica, on a port of its own, in the loop of whoever starts it.

    Attributes:
        version: That it says it is.
        mood: ok, hang, crash (breaks the connection), nan, shape, error (500), slow, refuse (422), garbage.
        seconds: That it takes where it is slow.
        key: That it asks for.
        asked: Ids of the requests that came.
        paths: Of all that came.
    """

    version: str = "v1"
    mood: str = "ok"
    seconds: float = 0.05
    key: str | None = None
    probability: float = 0.7
    asked: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    port: int = 0
    server: asyncio.Server | None = None
    connections: set[Any] = field(default_factory=set)

    async def start(self, port: int = 0) -> Predictor:
        loop = asyncio.get_running_loop()
        self.server = await loop.create_server(lambda: _Protocol(self), "127.0.0.1", port or self.port)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        """As if it were killed: its port refuses, and what is open breaks."""
        if self.server is not None:
            self.server.close()
            for connection in list(self.connections):
                connection.transport.abort()
            await self.server.wait_closed()
            self.server = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def answer(self, path: str, told: Any) -> tuple[int, bytes]:
        if path.endswith(("/ready", "/live")):
            return 200, b'{"ready": true}'
        if path.startswith("/v2") and not path.endswith("/infer"):
            return 200, json.dumps({"name": "m", "versions": [self.version]}).encode()
        if self.mood == "error":
            return 500, b'{"error": "broken"}'
        if self.mood == "refuse" or "refuse" in json.dumps(told):
            return 422, b'{"error": "rows.0: no"}'
        if self.mood == "garbage":
            return 200, b"<html>"
        probability = "NaN" if self.mood == "nan" else self.probability
        if path.endswith("/infer"):
            rows = told["inputs"][0]["shape"][0]
            data = ", ".join([str(probability)] * (rows + (self.mood == "shape")))
            tensor = f'{{"name": "value", "datatype": "FP32", "shape": [{rows}, 1], "data": [{data}]}}'
            return 200, f'{{"model_name": "m", "outputs": [{tensor}]}}'.encode()
        count = len(told["rows"]) + (self.mood == "shape")
        row = f'{{"label": "yes", "probability": {probability}, "said_by": "{self.version}"}}'
        return (
            200,
            f'{{"model": "m", "version": "{self.version}", "rows": [{", ".join([row] * count)}]}}'.encode(),
        )


class _Protocol(asyncio.Protocol):
    def __init__(self, of: Predictor) -> None:
        self.of = of

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.of.connections.add(self)
        self._new()

    def _new(self) -> None:
        self.path, self.body, self.id, self.key = "", b"", "", None
        self.parser = httptools.HttpRequestParser(self)

    def connection_lost(self, _: Exception | None) -> None:
        self.of.connections.discard(self)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self.path = url.decode()

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"x-request-id":
            self.id = value.decode()
        if name.lower() == b"authorization":
            self.key = value.decode().removeprefix("Bearer ")

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        path, told = self.path, json.loads(self.body) if self.body else None
        self.of.paths.append(path)
        is_infer = path.endswith(("/predict", "/infer"))
        if is_infer:
            self.of.asked.append(self.id)
        self.body = b""
        if is_infer and self.of.mood == "hang":
            return
        if is_infer and self.of.mood == "crash":
            self.transport.abort()
            return
        if is_infer and self.of.mood == "slow":
            asyncio.get_running_loop().call_later(self.of.seconds, self._say, path, told)
            return
        self._say(path, told)

    def _say(self, path: str, told: Any) -> None:
        status, body = self.of.answer(path, told)
        if self.key != self.of.key and not path.endswith("/live"):
            status, body = 401, b'{"error": "a key is missing"}'
        head = (
            f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
            f"x-model-version: {self.of.version}\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
