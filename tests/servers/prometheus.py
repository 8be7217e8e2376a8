"""A real Prometheus on loopback, which scrapes what it is told to and can be asked."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.servers.programs import free_port, program, running

__all__ = ["Prometheus", "prometheus"]


class Prometheus:
    """A server.

    Attributes:
        url: Where it answers.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def query(self, expression: str) -> list[dict[str, Any]]:
        """An instant query: its samples.

        Raises:
            ValueError: It does not understand it.
        """
        body = urllib.parse.urlencode({"query": expression}).encode()
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/query", body) as answer:
                told = json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                raise ValueError(f"{expression}: {error.read().decode()}") from error
        return list(told["data"]["result"])

    def get(self, path: str) -> Any:
        """An answer of its API."""
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}") as answer:
            return json.load(answer)["data"]


@contextmanager
def prometheus(config: Path, folder: Path) -> Iterator[Prometheus]:
    """A server for the time of the block; what it stores and says is in ``folder``."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        try:
            with urllib.request.urlopen(f"{url}/-/ready") as answer:
                return answer.status == 200
        except OSError:
            return False

    command = [
        program("prometheus", package="prometheus"),
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with running(command, answers, log=folder / "prometheus.log"):
        yield Prometheus(url)
