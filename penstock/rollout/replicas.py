"""Predictors of the arms on this machine: started, kept within their memory, replaced one by one.

What should run follows from the settings; what runs is brought in line with it, one step at each look. A replica of an arm that
answers is taken out of rotation before it is replaced, and only while all the others of its arm are in it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from penstock.config.rollout import Rolling, Rollout
from penstock.console import say
from penstock.errors import PenstockError
from penstock.rollout.audit import Intent
from penstock.rollout.settings import Settings, addresses, rolled_back, rolled_on, with_resting
from penstock.rollout.smoke import is_ready, sample_answered
from penstock.rollout.state import ConflictError, StateError, Store
from penstock.supervision import Part, ended, python, tended

__all__ = ["Replicas", "command", "resident", "wanted_artifact"]

FACT = 5.0  # seconds for which what is said of a replica is true
LOOK = 0.2
MEMORY_LOOK = 1.0
AUTHOR = "replicas"
PAGE = os.sysconf("SC_PAGE_SIZE")


def command(view: Rollout, artifact: str, port: int, workers: int) -> list[str]:
    """What runs a replica: a predictor that serves one artefact under the rollout's name, and nothing else."""
    return python(
        "serve",
        "host=127.0.0.1",
        "socket=null",
        f"port={port}",
        f"workers={workers}",
        "models={" + f"{view.model}: {{path: '{artifact}'}}" + "}",
        "keys=null",
        "certificate=null",
        "private_key=null",
        "requests=null",
        "reload.poll=null",
        f"limits.body_bytes={view.router.body_bytes}",
        "limits.drain_seconds=0s",  # routers have left it before it is told to end, or ask another at once
    )


def wanted_artifact(settings: Settings, arm: str, index: int) -> str:
    """The folder that a replica should serve: while an arm is rolled, the first ones serve the new one already."""
    strategy = settings.plan.strategy
    if isinstance(strategy, Rolling) and strategy.champion == arm and index < settings.step:
        return strategy.artifact
    if isinstance(strategy, Rolling) and f"{arm}/{index}" in settings.resting and index == settings.step:
        return strategy.artifact
    found = settings.plan.arms[arm].artifact
    assert found is not None
    return found


def resident(pid: int) -> int:
    """Bytes in memory of a process and all that it has started."""
    total, several = 0, [pid]
    while several:
        one = several.pop()
        with contextlib.suppress(OSError, ValueError, IndexError):
            total += int(Path(f"/proc/{one}/statm").read_text(encoding="ascii").split()[1]) * PAGE
            for task in Path(f"/proc/{one}/task").iterdir():
                text = (task / "children").read_text(encoding="ascii")
                several += [int(child) for child in text.split()]
    return total


@dataclass
class Replica:
    """One of an arm.

    Attributes:
        arm: Its arm.
        index: Within it.
        artifact: What it serves.
        url: Where.
        part: Its process.
    """

    arm: str
    index: int
    artifact: str
    url: str
    part: Part
    is_ready: bool = False
    bytes: int = 0
    since: float = field(default_factory=time.monotonic)

    @property
    def name(self) -> str:
        """As settings call it."""
        return f"{self.arm}/{self.index}"


class Replicas:
    """All of them.

    Args:
        view: What is declared.
        store: The state.
        settings: In force.
        make: What runs a replica.
    """

    def __init__(
        self,
        view: Rollout,
        store: Store,
        settings: Settings,
        make: Callable[[Rollout, str, int, int], list[str]] = command,
    ) -> None:
        self.view, self.store, self.settings, self.make = view, store, settings, make
        self.running: dict[str, Replica] = {}
        self._looked = self._weighed = self._said = -1e9
        self._drained: float | None = None  # when the resting replica may be replaced

    def look(self) -> None:
        """One step towards what should run. A supervisor calls it all the time."""
        for replica in self.running.values():
            tended(replica.part)
        now = time.monotonic()
        if now - self._looked < LOOK:
            return
        self._looked = now
        # While the state does not answer, what was last known is kept running.
        with contextlib.suppress(StateError):
            found = self.store.settings()
            if found is not None:
                self.settings = found
        self._start_and_end()
        self._weigh(now)
        with contextlib.suppress(StateError, ConflictError):
            self._replace()
        with contextlib.suppress(StateError):
            self._tell(now)

    # --- steps

    def _wanted(self) -> dict[str, tuple[str, int, str]]:
        """Of each replica that should run: arm, index, address."""
        found = {}
        for arm, urls in addresses(self.settings, self.view.ports).items():
            if self.settings.plan.arms[arm].artifact is not None:
                for index, url in enumerate(urls):
                    found[f"{arm}/{index}"] = (arm, index, url)
        return found

    def _start_and_end(self) -> None:
        wanted = self._wanted()
        for name in set(self.running) - set(wanted):
            ended(self.running.pop(name).part)
        for name, (arm, index, url) in wanted.items():
            there = self.running.get(name)
            artifact = wanted_artifact(self.settings, arm, index)
            if there is None:
                self._start(arm, index, artifact, url)
            elif there.artifact != artifact and not self._answers(arm):
                ended(there.part)  # nobody asks it
                self._start(arm, index, artifact, url)

    def _answers(self, arm: str) -> bool:
        return self.settings.shares().get(arm, 0.0) > 0

    def _start(self, arm: str, index: int, artifact: str, url: str) -> Replica:
        made = self.settings.plan.arms[arm]
        port = int(url.rsplit(":", 1)[1])
        part = Part(f"{arm}/{index}", self.make(self.view, artifact, port, made.workers), bound=True)
        before = self.running.get(f"{arm}/{index}")
        part.starts = 0
        part.start()
        replica = Replica(arm, index, artifact, url, part)
        if before is not None:
            replica.part.starts = 1
        self.running[replica.name] = replica
        return replica

    def _weigh(self, now: float) -> None:
        if now - self._weighed < MEMORY_LOOK:
            return
        self._weighed = now
        for replica in self.running.values():
            process = replica.part.process
            replica.bytes = resident(process.pid) if process is not None else 0
            most = self.settings.plan.arms[replica.arm].memory_bytes
            if replica.bytes > most:
                say(f"{replica.name} takes {replica.bytes:,} bytes, more than {most:,}; it is started again")
                ended(replica.part, 5.0)
                replica.part.process = None
                replica.part.due = now
                replica.is_ready = False
                with contextlib.suppress(StateError):
                    self.store.add({(self.settings.stage, replica.arm, "memory_restarts"): 1.0})

    def _replace(self) -> None:
        """Bring one replica of an answering arm to the artefact that it should serve."""
        for replica in self.running.values():
            replica.is_ready = replica.part.process is not None and is_ready(replica.url, self.view.model)
        strategy = self.settings.plan.strategy
        resting = self.settings.resting
        if resting:
            self._go_on(resting[0])
            return
        target: str | None = None
        if (
            isinstance(strategy, Rolling)
            and self.settings.step < self.settings.plan.arms[strategy.champion].replicas
        ):
            target = f"{strategy.champion}/{self.settings.step}"
        else:
            target = next(
                (
                    replica.name
                    for replica in self.running.values()
                    if replica.artifact != wanted_artifact(self.settings, replica.arm, replica.index)
                ),
                None,
            )
        if target is None or self.settings.is_paused:
            return
        arm = target.split("/")[0]
        others = [
            replica for replica in self.running.values() if replica.arm == arm and replica.name != target
        ]
        if all(replica.is_ready for replica in others):
            self._put(with_resting(self.settings, (target,)), f"rest {target}", "its artefact is replaced")
            self._drained = None

    def _go_on(self, name: str) -> None:
        replica = self.running.get(name)
        if replica is None:
            self._put(with_resting(self.settings, ()), f"return {name}", "it is no longer there")
            return
        artifact = wanted_artifact(self.settings, replica.arm, replica.index)
        now = time.monotonic()
        if replica.artifact != artifact:
            if not self._seen():
                return
            if self._drained is None:
                self._drained = (
                    now + 0.2
                )  # what was under way when the routers saw it; the predictor finishes what it has
            if now < self._drained:
                return
            ended(replica.part)
            self._start(replica.arm, replica.index, artifact, replica.url)
            self._drained = None
            return
        problem = None
        if replica.is_ready:
            problem = sample_answered(replica.url, self.view.model, replica.arm, artifact)
        strategy = self.settings.plan.strategy
        if replica.is_ready and problem is None:
            if isinstance(strategy, Rolling):
                self._put(rolled_on(self.settings), f"roll {name}", f"it answers with {artifact}")
            else:
                self._put(with_resting(self.settings, ()), f"return {name}", f"it answers with {artifact}")
        elif isinstance(strategy, Rolling) and (
            problem is not None or now - replica.since > strategy.ready.total_seconds()
        ):
            why = problem or f"{name} is not ready within {strategy.ready.total_seconds():g} s"
            back = rolled_back(self.settings).model_copy(update={"resting": (name,)})
            self._put(back, "rollback", why)

    def _seen(self) -> bool:
        routers = self.store.facts("router/")
        return all(about.get("version", 0) >= self.settings.version for about in routers.values())

    def _put(self, after: Settings, what: str, why: str) -> None:
        self.store.change(self.settings, after, Intent(AUTHOR, what, why))
        self.settings = after
        say(f"{what}: {why}")

    def _tell(self, now: float) -> None:
        if now - self._said < 1.0:
            return
        self._said = now
        for replica in self.running.values():
            process = replica.part.process
            about = {
                "pid": None if process is None else process.pid,
                "artifact": replica.artifact,
                "url": replica.url,
                "ready": replica.is_ready,
                "starts": replica.part.starts,
                "bytes": replica.bytes,
            }
            self.store.put_fact(f"replica/{replica.name}", about, FACT)

    def end(self) -> None:
        """End all of them."""
        for replica in self.running.values():
            with contextlib.suppress(PenstockError):
                ended(replica.part)
