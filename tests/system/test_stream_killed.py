"""Nothing lost, nothing twice: readings are pushed while everything on their way is killed and started again.

Phones push to the gateway and push again whatever was not acknowledged; gateway, indexer, log and store are ended by
``kill -9`` at random. Then every reading of every acknowledged message is in the store once, and of the others once at most;
the same in the lake; and windows say what they would say of all readings at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from penstock.config import RecordingsSource
from penstock.signals import names, resampled, summarised
from penstock.sources.recordings import recordings
from penstock.stream.messages import identity
from penstock.stream.replay import Plan, Sent, replay
from tests.penstock.stream.gateways import ROOT
from tests.servers.elasticsearch import elasticsearch
from tests.servers.kafka import kafka_node
from tests.servers.programs import free_port, until

SEED = 20_261_124
DEVICES = 50
READINGS = 1_000_000
KILLS = 20
ALL = (
    "gateway.limits.device_bytes_per_second=1000000000",
    "gateway.limits.device_burst_bytes=1000000000",
    "lake.file_age=PT3S",
    "indexer.windows.idle=PT60S",  # longer than anything is away
    "indexer.windows.sensors=[totalacceleration,gyroscope]",
    "indexer.activity=null",
)
LAGS = tuple(f"penstock_indexer_{of}lag_records" for of in ("", "windows_", "lake_"))
WAITING = ("penstock_indexer_queued_bytes", "penstock_indexer_lake_waiting_readings")
PATIENCE = 120.0  # seconds in which the indexer must have come nearer to the end, once it is left in peace


@dataclass
class Process:
    """A part of the path, as `penstock stream` runs it."""

    name: str
    command: list[str]
    out: Path
    port: int
    process: subprocess.Popen[bytes] | None = field(default=None)

    def start(self) -> None:
        with self.out.open("ab") as out:
            self.process = subprocess.Popen(self.command, stdout=out, stderr=out, cwd=ROOT)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()


@dataclass
class Path_:
    """A whole path: what can be killed, and how its store is counted."""

    url: str
    parts: dict[str, tuple[Callable[[], None], Callable[[], None]]]
    ids: Callable[[], dict[str, int]]
    windows: Callable[[], list[dict[str, Any]]]
    lake: Path
    processes: list[Process]


def part(name: str, folder: Path, stream: str, overrides: list[str], port: int) -> Process:
    command = [sys.executable, "-m", "penstock.cli", "stream", name, stream, *overrides]
    return Process(name, command, folder / f"{name}.out", port)


def answers(port: int) -> Callable[[], bool]:
    import socket

    def asked() -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
        return False

    return asked


@contextlib.contextmanager
def embedded(folder: Path) -> Iterator[Path_]:
    import duckdb

    gate, metrics = free_port(), free_port()
    overrides = [
        f"gateway.port={gate}",
        f"indexer.metrics_port={metrics}",
        f"log.folder={folder}/log",
        f"store.path={folder}/readings.duckdb",
        *ALL,
        f"lake.path={folder}/lake",
    ]
    processes = [
        part("gateway", folder, "embedded", overrides, gate),
        part("indexer", folder, "embedded", overrides, metrics),
    ]

    def kill_log() -> None:
        about = json.loads((folder / "log/server.json").read_text())
        with contextlib.suppress(ProcessLookupError):
            os.kill(about["pid"], signal.SIGKILL)

    def ids() -> dict[str, int]:
        # The store is one process's: it is looked into when that has ended.
        processes[1].stop()
        with duckdb.connect(f"{folder}/readings.duckdb", read_only=True) as store:
            return dict(store.execute("SELECT id, count(*) FROM readings GROUP BY id").fetchall())

    def windows() -> list[dict[str, Any]]:
        with duckdb.connect(f"{folder}/readings.duckdb", read_only=True) as store:
            return [json.loads(row[0]) for row in store.execute("SELECT body FROM windows").fetchall()]

    parts = {p.name: (p.kill, p.start) for p in processes}
    parts["log"] = (kill_log, lambda: None)  # who uses it starts it again
    yield Path_(f"http://127.0.0.1:{gate}", parts, ids, windows, folder / "lake", processes)


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[Path_]:
    from elasticsearch import Elasticsearch as Client
    from elasticsearch.helpers import scan

    gate, metrics = free_port(), free_port()
    with kafka_node() as broker, elasticsearch() as node:
        overrides = [
            f"log.brokers={broker.address}",
            f"store.hosts=[{node.url}]",
            "store.replicas=0",
            "gateway.workers=1",
            "gateway.keys=null",
            f"gateway.port={gate}",
            f"indexer.metrics_port={metrics}",
            *ALL,
            f"lake.path={folder}/lake",
        ]
        processes = [
            part("gateway", folder, "cluster", overrides, gate),
            part("indexer", folder, "cluster", overrides, metrics),
        ]
        made = [sys.executable, "-m", "penstock.cli", "stream", "create", "cluster", *overrides]
        subprocess.run(made, check=True, cwd=ROOT, capture_output=True)

        def ids() -> dict[str, int]:
            found: dict[str, int] = {}
            with Client(node.url, request_timeout=60) as client:
                client.indices.refresh(index="readings")
                for hit in scan(client, index="readings", _source=False, size=10_000):
                    found[hit["_id"]] = found.get(hit["_id"], 0) + 1
            return found

        def windows() -> list[dict[str, Any]]:
            with Client(node.url, request_timeout=60) as client:
                client.indices.refresh(index="windows")
                return [hit["_source"] for hit in scan(client, index="windows", size=10_000)]

        parts = {p.name: (p.kill, p.start) for p in processes}
        parts["log"] = (broker.kill, broker.start)
        parts["store"] = (node.kill, node.start)
        yield Path_(f"http://127.0.0.1:{gate}", parts, ids, windows, folder / "lake", processes)


def source() -> RecordingsSource:
    import yaml

    return RecordingsSource.model_validate(yaml.safe_load((ROOT / "conf/source/recordings.yaml").read_text()))


def expected(sent: Sent, readings: int) -> set[str]:
    return {
        f"{identity(device, session, number)}-{index}"
        for device, session, number in sent.acknowledged
        for index in range(readings)
    }


# The speed keeps the phones pushing while all is killed: a cluster's servers take longer to start.
@pytest.mark.parametrize(("path", "speed"), [(embedded, 5.0), (cluster, 1.6)])
def test_every_acknowledged_reading_is_stored_once(tmp_path, path, speed):
    readings = READINGS
    chance = random.Random(SEED)
    # A message of a second has 50 readings of each of two sensors.
    plan = Plan(DEVICES, speed, readings / DEVICES / 100, 1.0, 0.05, 0.02, 0.0, SEED)
    killed: dict[str, int] = {}
    amid = [0]  # kills while phones were pushing

    pushed = asyncio.Event()

    async def killing(found: Path_) -> None:
        """Kill one part after another, the whole time through, each as often as any; what starts anew holds up no other's end."""
        names = [name for name in sorted(found.parts) for _ in range(-(-KILLS // len(found.parts)))]
        chance.shuffle(names)
        starting: dict[str, asyncio.Task[None]] = {}
        for name in names:
            if name in starting:
                await starting[name]
            await asyncio.sleep(chance.uniform(0.2, 1.5))  # when it hits is left to chance
            kill, start = found.parts[name]
            await asyncio.to_thread(kill)
            killed[name] = killed.get(name, 0) + 1
            amid[0] += not pushed.is_set()
            starting[name] = asyncio.create_task(asyncio.to_thread(start))
        await asyncio.gather(*starting.values())

    async def push(found: Path_) -> Sent:
        kill = asyncio.create_task(killing(found))
        sent = await replay(found.url, recordings(source()), plan)
        pushed.set()
        await kill
        return sent

    with path(tmp_path) as found:
        try:
            for process in found.processes:
                process.start()
                until(answers(process.port), process.name, process.process)
            sent = asyncio.run(push(found))
            assert sum(killed.values()) >= KILLS
            assert amid[0] >= KILLS // 2, f"phones were done too soon: {amid[0]} kills amid"
            wanted = expected(sent, 100)
            assert len(wanted) >= readings * 0.99
            settle(found, len(wanted))
            stored, windows = found.ids(), found.windows()
        finally:
            for process in found.processes:
                process.stop()
    assert sent.lost == 0
    assert max(stored.values()) == 1
    assert not wanted - set(stored)
    # Everything was acknowledged in the end, so nothing else can be there.
    assert set(stored) == wanted
    laid = pl.scan_parquet(f"{found.lake}/**/*.parquet").collect()
    assert laid.height == len(wanted)
    assert set(laid["id"]) == wanted
    told = {(w["device"], w["sensor"], moment(w["start"])): w for w in windows}
    assert len(told) == len(windows)
    all_at_once = told_at_once(laid)
    assert set(told) == set(all_at_once)
    differ = [k for k, w in told.items() if (w["readings"], w["features"]) != all_at_once[k]]
    assert not differ


def moment(start: int | str) -> int:
    """As the store has it: nanoseconds, or text."""
    if isinstance(start, int):
        return start
    whole, _, rest = start.rstrip("Z").partition(".")
    return int(datetime.fromisoformat(f"{whole}+00:00").timestamp()) * 10**9 + int(rest or 0)


def told_at_once(laid: pl.DataFrame) -> dict[tuple[str, str, int], tuple[int, dict[str, float]]]:
    """Windows of all readings, without a stream."""
    width, step = 4 * 10**9, 2 * 10**9
    told = {}
    for (device, sensor), rows in laid.sort("time").group_by("device", "sensor"):
        time, values = rows["time"].to_physical().to_numpy(), rows.select("x", "y", "z").to_numpy()
        for start in range((int(time[0]) - width) // step * step, int(time[-1]) + step, step):
            grid = resampled(time, values, start, width, 200)
            inside = int(((time >= start) & (time < start + width)).sum())
            if grid is not None and inside:
                features = dict(zip(names(("x", "y", "z")), summarised(grid, 50.0).tolist(), strict=True))
                told[str(device), str(sensor), start] = (inside, features)
    return told


def settle(found: Path_, wanted: int) -> None:
    """Wait until the indexer has nothing left."""
    import urllib.request

    indexer = found.processes[1]
    seen, least, ends = (-1.0, 0), float("inf"), time.monotonic() + PATIENCE
    while time.monotonic() < ends:
        with contextlib.suppress(OSError):
            text = urllib.request.urlopen(f"http://127.0.0.1:{indexer.port}/metrics").read().decode()
            figures = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
            lags = [[float(v) for name, v in figures if name.startswith(f"{of}{{")] for of in LAGS]
            queued = [float(v) for name, v in figures if name in WAITING]
            if all(lags) and not sum(sum(of) for of in lags) and not sum(queued):
                if seen[1] >= 3:
                    return
                seen = (0.0, seen[1] + 1)
            else:
                seen = (sum(sum(of) for of in lags), 0)
            if all(lags) and seen[0] < least:
                least, ends = seen[0], time.monotonic() + PATIENCE
        time.sleep(0.7)
    raise AssertionError(f"the indexer is not done: lag {seen[0]:.0f}, {(indexer.out).read_text()[-1500:]}")
