"""A real gateway in a process of its own, and what is pushed to it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.servers.programs import free_port, until

ROOT = Path(__file__).parents[3]


def message(number: int = 0, device: str = "phone", readings: int = 2, **changes) -> dict:
    now = time.time_ns()
    return {
        "messageId": number,
        "sessionId": "s-1",
        "deviceId": device,
        "payload": [
            {
                "name": "accelerometer",
                "time": now + i,
                "values": {"x": 0.1, "y": -2, "z": 9.81},
                "accuracy": 3,
            }
            for i in range(readings)
        ],
    } | changes


class Gateway:
    """A gateway that runs.

    Attributes:
        url: Where.
        folder: Of its log.
    """

    def __init__(self, folder: Path, *overrides: str) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.overrides = [f"gateway.port={self.port}", f"log.folder={folder}/log", *overrides]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "penstock.cli", "stream", "gateway", "embedded", *self.overrides]
        with (self.folder / "gateway.out").open("ab") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=out, cwd=ROOT)
        until(self.ready, "the gateway", self.process)

    def ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health/ready", timeout=2).status_code == 200
        except httpx.TransportError:
            return False

    def stop(self) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def memory(self) -> int:
        """Resident bytes."""
        assert self.process is not None
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric over what else it is divided by."""
        text = urllib.request.urlopen(f"{self.url}/metrics").read().decode()
        total = 0.0
        for line in text.splitlines():
            if line.startswith((f"{name} ", f"{name}{{")) and all(
                f'{key}="{value}"' in line for key, value in labels.items()
            ):
                total += float(line.rsplit(" ", 1)[1])
        return total


@contextmanager
def gateway(folder: Path, *overrides: str) -> Iterator[Gateway]:
    running = Gateway(folder, *overrides)
    running.start()
    try:
        yield running
    finally:
        running.stop()


def body(**changes) -> bytes:
    return json.dumps(message(**changes)).encode()
