"""A small artefact whose lists can be told by heart, and a real recommender over it in a process of its own."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from penstock.recommend.model import Recommender
from tests.penstock.recommend.toys import write_artefact
from tests.servers.programs import free_port, program, running, until

ROOT = Path(__file__).parents[4]
COUNT = 40
GENRES = ("Drama", "Comedy", "War")


def ring(step: int = 1) -> Recommender:
    """Items 0 to 39, 0 the most popular. Of each item, those that follow it at ``step`` are recommended: next to it the best."""
    ids = np.arange(COUNT)
    distance = np.arange(1, 11)
    return Recommender(
        ids=ids.astype(np.int64),
        popularity=np.linspace(1.0, 0.1, COUNT, dtype=np.float32),
        neighbours=((ids[:, None] + distance * step) % COUNT).astype(np.int32),
        weights=np.tile((1.0 / distance).astype(np.float16).astype(np.float32), (COUNT, 1)),
        vectors=np.eye(COUNT, dtype=np.float32),
        half_life=None,
        floor=0.0,
        max_history=20,
        pool=20,
    )


def genres(item: int) -> list[str]:
    return [GENRES[item % 3]]


def place(folder: Path, step: int = 1) -> str:
    """Put an artefact into a folder as a deployment would, the manifest last; its version."""
    beside = folder.with_name(f"{folder.name}-made-{step}")
    items = {
        "id": list(range(COUNT)),
        "key": [None] * COUNT,
        "title": [f"Film {item}" for item in range(COUNT)],
        "genres": [genres(item) for item in range(COUNT)],
        "year": [1980 + item for item in range(COUNT)],
        "popularity": list(range(COUNT, 0, -1)),
    }
    content = json.dumps(items).encode()
    limits = {"history": 50, "exclude": 60, "k": 40, "batch": 4}
    write_artefact(beside, ring(step), items_sha256=hashlib.sha256(content).hexdigest(), limits=limits)
    (beside / "items.json").write_bytes(content)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("items.json", "model.onnx", "manifest.json"):
        (beside / name).replace(folder / name)
    return str(json.loads((folder / "manifest.json").read_text())["sha256"])[:12]


class Running:
    """A recommender that runs."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder, self.port = folder, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.arguments = [f"port={self.port}", *arguments]
        self.process: subprocess.Popen[bytes] | None = None
        self.client = httpx.Client(base_url=self.url, timeout=30)

    def start(self) -> None:
        command = [sys.executable, "-m", "penstock.cli", "recommend", "up", *self.arguments]
        with (self.folder / "out").open("ab") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=out, cwd=ROOT)
        until(self.ready, "the recommender", self.process)

    def ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health/ready", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def workers(self) -> list[int]:
        assert self.process is not None
        text = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in text.split()]

    def said(self) -> str:
        return (self.folder / "out").read_text()

    def stop(self) -> int:
        assert self.process is not None
        self.client.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def add(self, user: str, *items: int, **more: Any) -> httpx.Response:
        return self.client.post(
            "/v1/interactions", json=[{"user": user, "item": item} | more for item in items]
        )

    def list(self, user: str, **query: Any) -> dict[str, Any]:
        answer = self.client.get(f"/v1/recommendations/{user}", params=query)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def items(self, user: str, **query: Any) -> list[int]:
        return [item["item"] for item in self.list(user, **query)["items"]]

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric over what else it is divided by."""
        total = 0.0
        for line in self.client.get("/metrics").text.splitlines():
            if line.startswith((f"{name} ", f"{name}{{")) and all(
                f'{key}="{value}"' in line for key, value in labels.items()
            ):
                total += float(line.rsplit(" ", 1)[1])
        return total


@contextmanager
def recommender(folder: Path, *arguments: str) -> Iterator[Running]:
    """One that runs over ``folder/model``, with its state in ``folder`` unless another store is named."""
    if not (folder / "model").is_dir():
        place(folder / "model")
    elsewhere = any(argument.startswith("store") for argument in arguments)
    found = Running(
        folder,
        f"model={folder}/model",
        *([] if elsewhere else [f"store.path={folder}/state.sqlite"]),
        "requests=null",
        "limits.drain_seconds=0s",
        *arguments,
    )
    found.start()
    try:
        yield found
    finally:
        found.stop()


@contextmanager
def redis_server(folder: Path, port: int | None = None) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """A real Redis that keeps everything, on a port of loopback."""
    port = port or free_port()
    command = [
        program("redis-server", package="redis-server"),
        *("--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)),
        *("--appendonly", "yes", "--appendfsync", "always", "--save", ""),
    ]

    def answers() -> bool:
        import socket

        try:
            with socket.create_connection(("127.0.0.1", port), 1) as sock:
                sock.sendall(b"PING\r\n")
                return sock.recv(5) == b"+PONG"
        except OSError:
            return False

    with running(command, answers, log=folder / "redis.log", env=dict(os.environ)) as process:
        yield port, process
