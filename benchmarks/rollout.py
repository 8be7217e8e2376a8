"""What a router in front costs, and whether anything is lost while versions are switched.

    python benchmarks/rollout.py cost                        # predictor alone and behind the router, by turns, in one run
    python benchmarks/rollout.py switch --requests 100000    # blue-green, back and forth, under load
    python benchmarks/rollout.py roll --requests 100000      # replica by replica, under load
    python benchmarks/rollout.py alarms                      # how often an arm as good as the champion is taken back, simulated

The predictors are real ones, of the artefact models/churn; the second version is the same model with another hash. `cost` takes turns of
some seconds between the two, so that what else the machine does falls on both; the median of the turns counts.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import itertools
import json
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import uvloop

from penstock.artifact.manifest import MANIFEST, MODEL, read
from penstock.rollout.smoke import is_ready, sample_row
from penstock.rollout.upstream import BrokenError, Pool

CHURN = Path("models/churn")
HEAD = b"POST /v1/models/churn/predict HTTP/1.1\r\ncontent-type: application/json\r\n"


def free_ports() -> tuple[int, int]:
    """A port for the router, and the first of a run of ports for predictors."""
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], min(other.getsockname()[1], 60_000)


def second_version(source: Path, folder: Path) -> Path:
    """The same model with another hash, as if it had been trained again."""
    import onnx

    shutil.copytree(source, folder)
    model = onnx.load(folder / MODEL)
    model.doc_string = "again"
    content = model.SerializeToString()
    (folder / MODEL).write_bytes(content)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["sha256"] = hashlib.sha256(content).hexdigest()
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


@contextlib.contextmanager
def up(folder: Path, workers: int, *overrides: str) -> Iterator[tuple[str, str, list[str]]]:
    """`penstock rollout up`: addresses of the router and of the first predictor, and what commands are to be told, too."""
    port, ports = free_ports()
    given = [
        f"router.port={port}", f"ports={ports}", f"router.workers={workers}", "requests=null",
        f"state.path={folder}/state.sqlite", *overrides,
    ]  # fmt: skip
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(penstock("rollout", "up", "churn", *given), stdout=log, stderr=log)
    router, predictor = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{ports}"
    try:
        ends = time.monotonic() + 60
        while not (is_ready(router, "churn") and is_ready(predictor, "churn")):
            if process.poll() is not None or time.monotonic() > ends:
                raise SystemExit((folder / "log").read_text())
            time.sleep(0.1)
        time.sleep(1.0)
        yield router, predictor, [f"--with={one}" for one in given]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def penstock(*arguments: str) -> list[str]:
    """A command of this installation."""
    return [sys.executable, "-m", "penstock.cli", *arguments]


def body() -> bytes:
    """One row that the contract allows."""
    return json.dumps({"rows": [sample_row(read(CHURN).columns)]}).encode()


async def load(url: str, connections: int, seconds: float) -> tuple[float, list[float]]:
    """Requests a second, and how long each took."""
    pool, content = Pool(url, connections, 1_000_000), body()
    took: list[float] = []
    ends = time.perf_counter() + seconds

    async def one() -> None:
        while (began := time.perf_counter()) < ends:
            answer = await pool.ask(HEAD, content, 30)
            if answer.status != 200:
                raise SystemExit(f"status {answer.status}: {answer.body!r}")
            took.append(time.perf_counter() - began)

    await asyncio.gather(*(one() for _ in range(connections)))
    pool.close()
    return len(took) / seconds, sorted(took)


def cost(arguments: argparse.Namespace) -> None:
    """Side by side, by turns."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with up(folder, arguments.workers) as (router, predictor, _):
            for connections in arguments.connections:
                found: dict[str, list[tuple[float, float, float]]] = {"predictor": [], "router": []}
                for _ in range(arguments.turns):
                    for which, url in (("predictor", predictor), ("router", router)):
                        rate, took = uvloop.run(load(url, connections, arguments.seconds))
                        found[which].append((rate, took[len(took) // 2], took[int(len(took) * 0.99)]))
                told = {
                    which: [statistics.median(turn[at] for turn in turns) for at in range(3)]
                    for which, turns in found.items()
                }
                for which, (rate, p50, p99) in told.items():
                    print(
                        f"{which:<10} {connections:3d} connections: {rate:7.0f}/s, p50 {1e3 * p50:.3f} ms, p99 {1e3 * p99:.3f} ms"
                    )
                alone, behind = told["predictor"], told["router"]
                print(
                    f"{'added':<10} {connections:3d} connections: p50 {1e3 * (behind[1] - alone[1]):+.3f} ms, "
                    f"p99 {1e3 * (behind[2] - alone[2]):+.3f} ms, rate × {behind[0] / alone[0]:.2f}"
                )


async def hammered(url: str, requests: int, connections: int, changes: list[list[str]]) -> None:
    """Ask all the time, while one command after the other changes what answers."""
    pool, content = Pool(url, connections, 1_000_000), body()
    answers: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    mixed = sent = 0
    is_changing = True

    async def one() -> None:
        nonlocal mixed, sent
        while sent < requests or is_changing:
            sent += 1
            try:
                answer = await pool.ask(HEAD, content, 30)
            except (BrokenError, TimeoutError) as error:
                failed[type(error).__name__] += 1
                continue
            if answer.status != 200:
                failed[str(answer.status)] += 1
                continue
            version = answer.headers[b"x-model-version"].decode()
            mixed += json.loads(answer.body)["version"] != version
            answers[version] += 1

    async def change() -> None:
        nonlocal is_changing
        for command in changes:
            await asyncio.sleep(0.5)
            began = time.perf_counter()
            process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
            _, words = await process.communicate()
            if process.returncode:
                raise SystemExit(words.decode())
            print(f"{' '.join(command[3:6])}: {time.perf_counter() - began:.1f} s")
        is_changing = False

    began = time.perf_counter()
    await asyncio.gather(change(), *(one() for _ in range(connections)))
    took = time.perf_counter() - began
    pool.close()
    told = ", ".join(f"{version} {count:,}" for version, count in answers.items())
    print(f"{sent:,} requests in {took:.1f} s ({sent / took:,.0f}/s): {told}")
    print(f"failed: {sum(failed.values())} {dict(failed) or ''}, mixed: {mixed}")
    if failed or mixed or len(answers) < 2:
        raise SystemExit(1)


def switch(arguments: argparse.Namespace) -> None:
    """Blue, green, blue, and so on."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        other = second_version(CHURN, folder / "again")
        arms = f"arms={{champion: {{artifact: '{CHURN}'}}, green: {{artifact: '{other}'}}}}"
        strategy = ["strategy.kind=blue_green", "strategy.live=champion", "strategy.idle=green"]
        with up(folder, arguments.workers, arms) as (router, _, given):
            begin = penstock("rollout", "set", "churn", *strategy, *given)
            several = [penstock("rollout", "promote", "churn", *given) for _ in range(arguments.times)]
            uvloop.run(hammered(router, arguments.requests, arguments.connections[-1], [begin, *several]))


def roll(arguments: argparse.Namespace) -> None:
    """Replica by replica."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        other = second_version(CHURN, folder / "again")
        arms = f"arms={{champion: {{artifact: '{CHURN}', replicas: 2}}}}"
        with up(folder, arguments.workers, arms) as (router, _, given):
            begin = penstock(
                "rollout", "set", "churn", "strategy.kind=rolling", f"strategy.artifact={other}", *given
            )
            done = [sys.executable, __file__, "rolled", f"{folder}/state.sqlite", str(other)]
            uvloop.run(hammered(router, arguments.requests, arguments.connections[-1], [begin, done]))


def alarms(arguments: argparse.Namespace) -> None:
    """Errors of two arms that are alike, looked at again and again, with users who come once or twenty times.

    The exact test is asked at the share of requests that was seen, as rollouts ask it, and at the one that was declared.
    """
    import numpy as np

    from penstock.experiments.counts import Proportion
    from penstock.experiments.sequential import Segment, exact_proportions

    rng = np.random.default_rng(0)
    for rate, declared, visits in itertools.product((0.002, 0.02, 0.2), (0.01, 0.1, 0.5), (1, 20)):
        taken = Counter[str]()
        for _ in range(arguments.simulations):
            arm = np.repeat(rng.random(20_000 // visits) < declared, visits)
            failed = rng.random(arm.size) < rate
            found = set()
            for last in np.unique(np.geomspace(50, arm.size, 25).astype(int)):
                canary, errors = int(arm[:last].sum()), int((arm & failed)[:last].sum())
                champion = last - canary
                if not canary or not champion:
                    continue
                one = Proportion(champion, int(failed[:last].sum()) - errors)
                for name, share in (("seen", canary / last), ("declared", declared)):
                    segment = Segment(one, Proportion(canary, errors), share)
                    if exact_proportions(segment, alpha=0.05, alternative="greater").significant:
                        found.add(name)
            taken.update(found)
        print(
            f"errors {rate:.1%}, share {declared:.0%}, {visits:2d} requests a user: taken back wrongly, of "
            f"{arguments.simulations} at a level of 5 %: {taken['seen']} at the share seen, {taken['declared']} at that declared"
        )


def rolled(path: str, artifact: str) -> None:
    """Wait until a roll is done."""
    import sqlite3

    while True:
        with contextlib.closing(sqlite3.connect(path)) as c:
            plan = json.loads(c.execute("SELECT body FROM settings").fetchone()[0])["plan"]
        if plan["strategy"]["kind"] == "single" and plan["arms"]["champion"]["artifact"] == artifact:
            return
        time.sleep(0.1)


def main() -> None:
    """The command line."""
    if sys.argv[1:2] == ["rolled"]:
        rolled(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["cost", "switch", "roll", "alarms"])
    parser.add_argument("--workers", type=int, default=1, help="of the router")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--seconds", type=float, default=2.0, help="of a turn")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--times", type=int, default=6, help="how often blue and green are switched")
    parser.add_argument("--simulations", type=int, default=100)
    arguments = parser.parse_args()
    {"cost": cost, "switch": switch, "roll": roll, "alarms": alarms}[arguments.what](arguments)


if __name__ == "__main__":
    main()
