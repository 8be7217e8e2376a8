"""The real-time path, against the one that one would write in an afternoon, side by side, with a real Kafka and Elasticsearch.

    python benchmarks/stream.py [--seconds 20] [--soak MINUTES] [--only PART …]

Parts: `ratio` (readings stored a second by the whole path, by both builds), `gateway` (the gateway alone), `whole` (the whole
path, also with the embedded log and store), `latency` (from a push to its answer and to when a search finds it, at half of
the top load), `partitions` (1, 2 and 4 of them). Whatever serves has two cores, all together; phones have the others, if there are any.
A phone sends a message of 66 KB each second: 6.6 seconds of two sensors, 660 readings. Run from the root of the repository:
the servers are those of the tests.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.servers.elasticsearch import elasticsearch
from tests.servers.kafka import kafka_node
from tests.servers.programs import free_port, until

ROOT = Path(__file__).parents[1]
BATCH = 6.6  # seconds of recorded time in a message
READINGS = 660
PHONE = 66_000  # bytes a second
WARM = 15.0  # seconds before anything is counted
CORES = sorted(os.sched_getaffinity(0))
SERVING = CORES[:2]
SENDING = CORES[2:] or CORES
TOP = 48  # phones that push as fast as they are answered
OPEN = ["gateway.limits.device_bytes_per_second=1000000000", "gateway.limits.device_burst_bytes=1000000000"]
# What the obvious build does not do is measured beside what it does.
BARE = ["indexer.windows=null", "indexer.activity=null", "lake=null"]


# --- phones -----------------------------------------------------------------------------------------


def phones(url: str, devices: int, seconds: float, speed: float, name: int) -> None:
    """In a process of its own: push, and tell as JSON what came of it."""
    import uvloop
    import yaml

    from penstock.config import RecordingsSource
    from penstock.sources.recordings import recordings
    from penstock.stream.replay import Plan, Sent, replay

    os.sched_setaffinity(0, SENDING)
    source = RecordingsSource.model_validate(
        yaml.safe_load((ROOT / "conf/source/recordings.yaml").read_text())
    )
    plan = Plan(devices, speed * BATCH, 10**6, BATCH, 0.0, 0.0, 0.0, name)

    async def run() -> Sent:
        stop = asyncio.Event()
        asyncio.get_running_loop().call_later(seconds, stop.set)
        start = time.time_ns() - 4 * 3600 * 10**9
        return await replay(url, recordings(source), plan, stop=stop, start=start)

    sent = uvloop.run(run())
    took = sorted(sent.seconds)
    several = [took[len(took) * at // 1000] for at in range(1000)] if took else []
    print(
        json.dumps({"readings": sent.readings, "bytes": sent.bytes, "refused": sent.refused, "took": several})
    )


@dataclass
class Pushed:
    """What phones were answered."""

    seconds: float
    readings: int = 0
    bytes: int = 0
    took: list[float] = field(default_factory=list)
    refused: int = 0

    @property
    def phones(self) -> float:
        return self.bytes / self.seconds / PHONE


@contextlib.contextmanager
def pushing(url: str, devices: int, seconds: float, speed: float) -> Iterator[Callable[[], Pushed]]:
    """Phones for so long; what came of it once they are done."""
    processes = []
    several = min(len(SENDING), 2)
    for number in range(several):
        many = devices // several + (number < devices % several)
        if many:
            command = [
                sys.executable,
                __file__,
                "--phones",
                url,
                str(many),
                str(seconds),
                str(speed),
                str(number),
            ]
            processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT))

    def done() -> Pushed:
        pushed = Pushed(seconds)
        for process in processes:
            out, _ = process.communicate()
            found = json.loads(out)
            pushed.readings += found["readings"]
            pushed.bytes += found["bytes"]
            pushed.took += found["took"]
            pushed.refused += sum(found["refused"].values())
        pushed.took.sort()
        return pushed

    try:
        yield done
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()


# --- what serves ------------------------------------------------------------------------------------


@dataclass
class Part:
    """A process that serves."""

    process: subprocess.Popen[bytes]
    port: int

    def memory(self) -> float:
        """Resident, MiB, with its children."""
        total, todo = 0.0, [self.process.pid]
        while todo:
            pid = todo.pop()
            with contextlib.suppress(OSError):
                todo += [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
                pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
                total += pages * os.sysconf("SC_PAGESIZE") / 2**20
        return total


def connects(port: int) -> bool:
    import socket

    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@contextlib.contextmanager
def running(*commands: tuple[list[str], int]) -> Iterator[list[Part]]:
    """Processes, from when their ports answer (0: at once)."""
    parts = []
    try:
        for command, port in commands:
            process = subprocess.Popen([sys.executable, *command], cwd=ROOT, stderr=subprocess.DEVNULL)
            parts.append(Part(process, port))
            if port:
                until(lambda port=port: connects(port), command[0], process)
        yield parts
    finally:
        for part in parts:
            part.process.terminate()
        for part in parts:
            try:
                part.process.wait(30)
            except subprocess.TimeoutExpired:
                part.process.kill()
                part.process.wait()


def ours(*arguments: str) -> list[str]:
    return ["-m", "penstock.cli", "stream", *arguments]


def made(brokers: str, name: str, partitions: int) -> None:
    from confluent_kafka.admin import AdminClient, NewTopic

    admin = AdminClient({"bootstrap.servers": brokers})
    settings = {"max.message.bytes": "4300000"}
    admin.create_topics([NewTopic(name, partitions, 1, config=settings)])[name].result(20)


def asked(url: str, method: str = "GET", body: dict[str, Any] | None = None) -> Any:
    request = urllib.request.Request(
        url,
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


def stored(url: str, index: str) -> int:
    """Documents that a search finds."""
    try:
        asked(f"{url}/{index}/_refresh", "POST")
        return int(asked(f"{url}/{index}/_count")["count"])
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return 0
        raise


def rate(count: Callable[[], int], seconds: float) -> float:
    """By how much a count grows a second."""
    begun, before = time.perf_counter(), count()
    time.sleep(seconds)
    after = count()
    return (after - before) / (time.perf_counter() - begun)


class Cluster:
    """A Kafka and an Elasticsearch; each run has its own topic and indices."""

    def __init__(self, brokers: str, url: str) -> None:
        self.brokers, self.url, self.runs = brokers, url, 0

    @contextlib.contextmanager
    def path(
        self, *, partitions: int = 4, indexers: int = 1, workers: int = 1, bare: bool = True
    ) -> Iterator[tuple[str, str, list[Part]]]:
        """Our gateway and indexers: the gateway's address, the index, and the processes."""
        self.runs += 1
        name, gate = f"readings{self.runs}", free_port()
        metrics = [free_port() for _ in range(indexers)]
        made(self.brokers, f"{name}-dead", 1)
        made(self.brokers, name, partitions)
        with tempfile.TemporaryDirectory() as folder:
            overrides = [
                f"log.brokers={self.brokers}",
                f"log.readings.name={name}",
                f"log.readings.partitions={partitions}",
                f"log.dead.name={name}-dead",
                f"store.hosts=[{self.url}]",
                f"store.readings={name}",
                f"store.windows=w{name}",
                "store.replicas=0",
                f"gateway.workers={workers}",
                "gateway.keys=null",
                f"gateway.port={gate}",
                f"indexer.group=g{self.runs}",
                *([] if bare else [f"lake.path={folder}"]),
                *(BARE if bare else []),
                *OPEN,
            ]
            commands = [(ours("gateway", "cluster", *overrides), gate)]
            commands += [
                (ours("indexer", "cluster", *overrides, f"indexer.metrics_port={port}"), port)
                for port in metrics
            ]
            with running(*commands) as parts:
                yield f"http://127.0.0.1:{gate}", name, parts
        for index in (name, f"w{name}"):
            for found in asked(f"{self.url}/_cat/indices/{index}-*?format=json&h=index"):
                asked(f"{self.url}/{found['index']}", "DELETE")

    @contextlib.contextmanager
    def obvious(self, partitions: int = 4) -> Iterator[str]:
        made(self.brokers, "readings", partitions)
        gate, script = free_port(), str(ROOT / "benchmarks/obvious_stream.py")
        with running(
            ([script, "gateway", self.brokers, str(gate)], gate),
            ([script, "consumer", self.brokers, self.url], 0),
        ):
            yield f"http://127.0.0.1:{gate}"


@contextlib.contextmanager
def cluster() -> Iterator[Cluster]:
    with kafka_node() as broker, elasticsearch() as node:
        yield Cluster(broker.address, node.url)


@contextlib.contextmanager
def embedded(*, bare: bool) -> Iterator[tuple[str, Callable[[], int], list[Part]]]:
    """The same with what a machine without them has; stored readings are counted by the indexer's metrics."""
    with tempfile.TemporaryDirectory() as folder:
        gate, metrics = free_port(), free_port()
        overrides = [
            f"gateway.port={gate}",
            f"indexer.metrics_port={metrics}",
            f"log.folder={folder}/log",
            f"store.path={folder}/readings.duckdb",
            *([] if bare else [f"lake.path={folder}/lake"]),
            *(BARE if bare else []),
            *OPEN,
        ]
        with running(
            (ours("gateway", "embedded", *overrides), gate),
            (ours("indexer", "embedded", *overrides), metrics),
        ) as parts:
            yield f"http://127.0.0.1:{gate}", lambda: counted(metrics, "documents_total"), parts


def counted(port: int, name: str) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    return int(
        sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"penstock_indexer_{name}"))
    )


# --- what is measured -------------------------------------------------------------------------------


def ratio(found: Cluster, seconds: float) -> float:
    """Ours and theirs, the top load."""
    with found.obvious() as url, pushing(url, TOP, WARM + seconds + 2, 0):
        time.sleep(WARM)
        theirs = rate(lambda: stored(found.url, "obvious"), seconds)
    with found.path() as (url, index, _), pushing(url, TOP, WARM + seconds + 2, 0):
        time.sleep(WARM)
        mine = rate(lambda: stored(found.url, index), seconds)
    print(
        f"whole path, readings stored a second: {mine:,.0f}; the obvious build: {theirs:,.0f}; {mine / theirs:.0f}x"
    )
    return mine


def gateway(found: Cluster, seconds: float) -> None:
    """The gateway alone, with either log."""
    for workers in (1, 2):
        with found.path(indexers=0, workers=workers) as (url, _, _), pushing(url, TOP, seconds, 0) as done:
            told("gateway alone, Kafka", done(), f"{workers} process{'es' if workers > 1 else ''}")
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        command = ours("gateway", "embedded", f"gateway.port={port}", f"log.folder={folder}", *OPEN)
        with running((command, port)), pushing(f"http://127.0.0.1:{port}", TOP, seconds, 0) as done:
            told("gateway alone, embedded log", done(), "1 process, each message synced to the disk")


def told(what: str, pushed: Pushed, how: str) -> None:
    print(
        f"{what} ({how}): {pushed.bytes / pushed.seconds / 1e6:.1f} MB/s, {pushed.phones:.0f} phones, "
        f"{pushed.readings / pushed.seconds:,.0f} readings/s, p50 {quantile(pushed.took, 0.5):.1f} ms, "
        f"p99 {quantile(pushed.took, 0.99):.1f} ms"
        + (f", refused {pushed.refused}" if pushed.refused else "")
    )


def quantile(took: list[float], share: float) -> float:
    return 1000 * took[min(len(took) - 1, int(len(took) * share))] if took else float("nan")


def whole(found: Cluster, seconds: float) -> None:
    """Stored in the end, with all that is done beside."""
    for bare, words in ((True, "readings alone"), (False, "with windows, activities and lake")):
        with found.path(bare=bare) as (url, index, _), pushing(url, TOP, WARM + seconds + 2, 0):
            time.sleep(WARM)
            speed = rate(lambda index=index: stored(found.url, index), seconds)
        print(
            f"whole path, Kafka and Elasticsearch, {words}: {speed:,.0f} readings/s, {speed / READINGS:.0f} phones"
        )
        with embedded(bare=bare) as (url, count, _), pushing(url, TOP, WARM + seconds + 2, 0):
            time.sleep(WARM)
            speed = rate(count, seconds)
        print(f"whole path, embedded, {words}: {speed:,.0f} readings/s, {speed / READINGS:.0f} phones")


def latency(found: Cluster, seconds: float, top: float) -> None:
    """At half of the top load."""
    many = max(1, int(top / READINGS / 2))
    with found.path() as (url, index, _), pushing(url, many, WARM + seconds, 1) as done:
        time.sleep(WARM / 2)
        searched = sorted(probes(url, found.url, index, seconds))
        pushed = done()
    told(f"half of the top load, {many} phones", pushed, "Kafka and Elasticsearch")
    print(
        f"from a push to when a search finds it: p50 {quantile(searched, 0.5):.0f} ms, "
        f"p99 {quantile(searched, 0.99):.0f} ms, of {len(searched)} probes"
    )


def probes(url: str, store: str, index: str, seconds: float) -> list[float]:
    """Push a message now and then, and search until it is found."""
    took = []
    ends = time.monotonic() + seconds
    number = 0
    while time.monotonic() < ends:
        number += 1
        reading = {"name": "barometer", "time": time.time_ns(), "values": {"pressure": 1013.25}}
        message = {"messageId": number, "sessionId": "s", "deviceId": f"probe-{number}", "payload": [reading]}
        begun = time.perf_counter()
        asked(f"{url}/v1/readings", "POST", message)
        query = {"query": {"term": {"device": f"probe-{number}"}}, "size": 0, "track_total_hits": True}
        while not asked(f"{store}/{index}/_search", "POST", query)["hits"]["total"]["value"]:
            time.sleep(0.01)
        took.append(time.perf_counter() - begun)
    return took


def partitions(found: Cluster, seconds: float) -> None:
    """How it grows."""
    for several, indexers in ((1, 1), (2, 2), (4, 2)):
        with (
            found.path(partitions=several, indexers=indexers) as (url, index, _),
            pushing(url, TOP, WARM + seconds + 2, 0),
        ):
            time.sleep(WARM)
            speed = rate(lambda index=index: stored(found.url, index), seconds)
        print(f"{several} partitions, {indexers} indexers: {speed:,.0f} readings/s")


def soak(found: Cluster, minutes: float, top: float) -> None:
    """Half of the top load for a while, and what grows by it."""
    many = max(1, int(top / READINGS / 2))
    samples: list[tuple[float, float, float]] = []
    with found.path(bare=False) as (url, _, parts), pushing(url, many, minutes * 60, 1) as done:
        ends = time.monotonic() + minutes * 60
        while time.monotonic() < ends:
            time.sleep(5)
            lag = float("nan")
            with contextlib.suppress(OSError):
                lag = counted(parts[1].port, "lag_records")
            samples.append((parts[0].memory(), parts[1].memory(), lag))
        pushed = done()
    told(f"{minutes:.0f} minutes of {many} phones", pushed, "Kafka and Elasticsearch, windows and lake")
    quarter = max(1, len(samples) // 4)
    # The first quarter is for buffers to fill.
    for label, part in (
        ("second quarter", samples[quarter : 2 * quarter]),
        ("last quarter", samples[-quarter:]),
    ):
        gate, index, lag = (statistics.median(column) for column in zip(*part, strict=True))
        print(f"{label}: gateway {gate:.0f} MiB, indexer {index:.0f} MiB, lag {lag:.0f} messages (medians)")


def main() -> int:
    if sys.argv[1:2] == ["--phones"]:
        url, devices, seconds, speed, name = sys.argv[2:]
        phones(url, int(devices), float(seconds), float(speed), int(name))
        return 0
    parser = argparse.ArgumentParser(description="The real-time path, measured.")
    every = ("ratio", "gateway", "whole", "latency", "partitions")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement, after warming up")
    parser.add_argument(
        "--soak", type=float, metavar="MINUTES", help="and then half of the top load for so long"
    )
    parser.add_argument("--only", nargs="*", choices=every, default=list(every))
    given = parser.parse_args()
    os.sched_setaffinity(0, SERVING)
    with cluster() as found:
        top = 0.0
        if "ratio" in given.only:
            top = ratio(found, given.seconds)
        if not top and ({"latency"} & set(given.only) or given.soak):
            with found.path() as (url, index, _), pushing(url, TOP, WARM + given.seconds + 2, 0):
                time.sleep(WARM)
                top = rate(lambda: stored(found.url, index), given.seconds)
        for part in given.only:
            if part == "latency":
                latency(found, given.seconds, top)
            elif part != "ratio":
                {"gateway": gateway, "whole": whole, "partitions": partitions}[part](found, given.seconds)
        if given.soak:
            soak(found, given.soak, top)
    return 0


if __name__ == "__main__":
    sys.exit(main())
