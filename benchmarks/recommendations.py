"""`penstock recommend up` under a mix of interactions and recommendations at a steady rate, and beside it the bare model.

Half of the requests are interactions, half ask for a list; after each interaction the same user asks, by another connection, and
the list must not have the item. A request is sent when it is due, whether or not those before it are answered, and its time
counts from when it was due: a server that falls behind is not spared by a client that waits for it (no coordinated omission).
The client shares the machine. In the same run, side by side: one run of the model alone, and a route that answers a constant.

    python benchmarks/recommendations.py [--model models/ratings] [--rate 200] [--seconds 30] [--workers 2] [--store sqlite|redis]
                                         [--sync full|normal] [--diversity 0]
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from penstock.artifact.recommender_model import RecommenderModel, load  # noqa: E402
from tests.servers.programs import free_port, until  # noqa: E402

CONNECTIONS = 32
USERS = 500
PAST = 60  # interactions that each has at the start


@contextmanager
def server(folder: Path, arguments: argparse.Namespace, store: str) -> Iterator[int]:
    """The recommender, ready; its port."""
    port = free_port()
    overrides = [
        *(f"model={arguments.model}", f"port={port}", f"workers={arguments.workers}", store),
        *(f"requests={{kind: files, folder: {folder}/log}}", "exploration.share=0.1"),
    ]
    command = [sys.executable, "-m", "penstock.cli", "recommend", "up", *overrides]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=ROOT, env=environment)
    try:

        def ready() -> bool:
            try:
                return bool(urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=5))
            except OSError:
                return False

        until(ready, "the recommender", process)
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


class Connection:
    """HTTP/1.1 by hand: a client that costs little beside what is measured."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, method: str, path: str, content: Any = None) -> tuple[int, bytes]:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = self._streams
        body = b"" if content is None else json.dumps(content).encode()
        kind = "content-type: application/json\r\n" if body else ""
        head = f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n{kind}content-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line[15:]) for line in answer.lower().split(b"\r\n") if line.startswith(b"content-length:")
        )
        return int(answer[9:12]), await reader.readexactly(length)


class Load:
    """Requests at a rate.

    Attributes:
        times: Milliseconds from when a request was due to its answer, by what was asked.
        stale: Lists that had an item which had been acknowledged before.
        failed: Answers that were not 200.
    """

    def __init__(self, port: int, model: RecommenderModel, diversity: float) -> None:
        self.pool: asyncio.Queue[Connection] = asyncio.Queue()
        for _ in range(CONNECTIONS):
            self.pool.put_nowait(Connection(port))
        self.ids, self.diversity = list(model.items), diversity
        self.times: dict[str, list[float]] = {"interaction": [], "list": []}
        self.stale = self.failed = self.checked = 0
        self.draws = random.Random(1)

    async def fill(self) -> None:
        """Everyone has a past."""

        async def past(user: int) -> None:
            sent = [
                {"user": f"u{user}", "item": item, "rating": 4} for item in self.draws.sample(self.ids, PAST)
            ]
            connection = await self.pool.get()
            await connection.ask("POST", "/v1/interactions", sent)
            self.pool.put_nowait(connection)

        for start in range(0, USERS, 16):
            await asyncio.gather(*(past(user) for user in range(start, min(start + 16, USERS))))

    async def run(self, rate: float, seconds: float) -> None:
        """An interaction and then a list, by two connections, each pair due at its time."""
        loop = asyncio.get_running_loop()
        began, tasks = loop.time() + 0.1, []
        for number in range(int(rate * seconds / 2)):
            due = began + 2 * number / rate
            await asyncio.sleep(max(0.0, due - loop.time()))
            tasks.append(loop.create_task(self._pair(due)))
        await asyncio.gather(*tasks)

    async def _pair(self, due: float) -> None:
        loop = asyncio.get_running_loop()
        user, item = f"u{self.draws.randrange(USERS)}", self.draws.choice(self.ids)
        writing, reading = await self.pool.get(), await self.pool.get()
        try:
            status, _ = await writing.ask(
                "POST", "/v1/interactions", {"user": user, "item": item, "rating": 4}
            )
            now = loop.time()
            self.times["interaction"].append((now - due) * 1000)
            path = f"/v1/recommendations/{user}?k=10&explain=true&diversity={self.diversity}"
            listed, body = await reading.ask("GET", path)
            self.times["list"].append((loop.time() - now) * 1000)
            self.failed += (status != 200) + (listed != 200)
            if status == listed == 200:
                self.checked += 1
                self.stale += item in [each["item"] for each in json.loads(body)["items"]]
        finally:
            self.pool.put_nowait(writing)
            self.pool.put_nowait(reading)

    async def constant(self, rate: float, seconds: float) -> list[float]:
        """Milliseconds of a route that does nothing, at the same rate."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        times: list[float] = []

        async def one(due: float) -> None:
            connection = await self.pool.get()
            await connection.ask("GET", "/health/live")
            times.append((loop.time() - due) * 1000)
            self.pool.put_nowait(connection)

        tasks = []
        for number in range(int(rate * seconds)):
            due = began + number / rate
            await asyncio.sleep(max(0.0, due - loop.time()))
            tasks.append(loop.create_task(one(due)))
        await asyncio.gather(*tasks)
        return times


def line(what: str, times: list[float]) -> None:
    cuts = statistics.quantiles(times, n=1000, method="inclusive")
    print(
        f"{what:<34} {len(times):>7,} requests   p50 {cuts[499]:7.2f} ms   p90 {cuts[899]:7.2f} ms   "
        f"p99 {cuts[989]:7.2f} ms   p99.9 {cuts[998]:7.2f} ms",
        flush=True,
    )


def alone(model: RecommenderModel, diversity: float) -> list[float]:
    """Milliseconds of the model without anything around it."""
    draws, ids, times = random.Random(2), list(model.items), []
    for _ in range(300):
        history = draws.sample(ids, PAST)
        began = time.perf_counter()
        model.recommend([history], k=10, diversity=diversity)
        times.append((time.perf_counter() - began) * 1000)
    return times


def stored(stack: ExitStack, folder: Path, arguments: argparse.Namespace) -> str:
    """What declares the store, which is started if it is a server."""
    if arguments.store == "sqlite":
        return f"store={{path: {folder}/state.sqlite, sync: {arguments.sync}}}"
    from tests.penstock.serving.recommender.recommenders import redis_server

    port, _ = stack.enter_context(redis_server(folder))
    return f"store={{kind: redis, url: 'redis://127.0.0.1:{port}/0'}}"


async def measured(port: int, model: RecommenderModel, arguments: argparse.Namespace) -> Load:
    found = Load(port, model, arguments.diversity)
    await found.fill()
    await found.run(arguments.rate, min(3.0, arguments.seconds))  # to warm up
    for times in found.times.values():
        times.clear()
    line("a route that answers a constant", await found.constant(arguments.rate, min(5.0, arguments.seconds)))
    await found.run(arguments.rate, arguments.seconds)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=ROOT / "models/ratings")
    parser.add_argument("--rate", type=float, default=200.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--store", choices=["sqlite", "redis"], default="sqlite")
    parser.add_argument("--sync", choices=["full", "normal"], default="normal")
    parser.add_argument("--diversity", type=float, default=0.0)
    arguments = parser.parse_args()
    model = load(arguments.model)
    print(
        f"{len(model.items):,} items, {arguments.rate:.0f} requests/s, {arguments.workers} workers, {arguments.store}"
    )
    line("the model alone", alone(model, arguments.diversity))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="penstock-bench-")))
        port = stack.enter_context(server(folder, arguments, stored(stack, folder, arguments)))
        found = asyncio.run(measured(port, model, arguments))
    for what, times in found.times.items():
        line(what, times)
    line("both", list(itertools.chain(*found.times.values())))
    print(
        f"{found.stale} of {found.checked:,} lists had what was acknowledged before; {found.failed} requests failed"
    )
    return 1 if found.stale or found.failed else 0


if __name__ == "__main__":
    sys.exit(main())
