"""The state as one router process sees it: followed from afar, so that no request ever waits for it.

Two threads speak to the state, one that looks and one that writes. While it does not answer, what was last known is in force.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from penstock.config.rollout import Rollout
from penstock.console import say
from penstock.rollout.decision import Policy, as_policy
from penstock.rollout.settings import Settings
from penstock.rollout.state import StateError, Store, Versions, open_store
from penstock.rollout.tally import Tally

__all__ = ["Shared"]

T = TypeVar("T")
HEARTBEAT = 1.0  # seconds between a router's signs of life
BEATS = 4  # that may be missed
TIDY = 60.0


@dataclass
class Shared:
    """It.

    Attributes:
        view: What is declared.
        settings: In force.
        policy: A bandit's, in force.
        is_down: The state does not answer.
        tally: What is not written yet.
        name: Of this process.
    """

    view: Rollout
    settings: Settings
    policy: Policy | None = None
    is_down: bool = False
    tally: Tally = field(default_factory=Tally)
    name: str = field(default_factory=lambda: f"{socket.gethostname()}/{os.getpid()}")
    changed: Callable[[Settings], None] = lambda _: None
    _seen: Versions = Versions(0, 0)  # noqa: RUF009  (frozen)
    _looker: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "state-looks"))
    _writer: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "state-writes"))
    _stores: dict[str, Store] = field(default_factory=dict)

    def _store(self, which: str) -> Store:
        if which not in self._stores:
            self._stores[which] = open_store(self.view)
        return self._stores[which]

    async def asked(self, ask: Callable[[Store], T]) -> T:
        """What the state says, from the thread that looks.

        Raises:
            StateError: It does not answer.
        """
        return await asyncio.get_running_loop().run_in_executor(
            self._looker, lambda: ask(self._store("look"))
        )

    async def written(self, write: Callable[[Store], T]) -> T:
        """Write to the state, after what was to be written before.

        Raises:
            StateError: It does not answer.
        """
        return await asyncio.get_running_loop().run_in_executor(
            self._writer, lambda: write(self._store("write"))
        )

    @property
    def enters(self) -> bool:
        """Whoever is answered counts in the KPI before any outcome has come."""
        kpi = self.settings.plan.kpi
        return kpi is not None and kpi.absent == "zero"

    async def flush(self) -> None:
        """Write what was counted.

        Raises:
            StateError: It cannot be; it is kept.
        """
        batch = self.tally.take()
        enters = self.enters
        try:
            await self.written(lambda store: batch.write(store, enters=enters))
        except StateError:
            self.tally.keep(batch)
            raise

    async def follow(self) -> None:
        """Look for changes until cancelled."""
        pace = self.view.router.poll.total_seconds()
        while True:
            with contextlib.suppress(StateError):
                await self.look()
            await asyncio.sleep(pace)

    async def look(self) -> None:
        """Take over what has changed.

        Raises:
            StateError: The state does not answer; what was known before stays in force.
        """
        try:
            seen = await self.asked(lambda store: store.versions())
            if seen.settings != self._seen.settings:
                found = await self.asked(lambda store: store.settings())
                if found is not None:
                    self.settings = found
                    self.changed(found)
            if seen.policy != self._seen.policy:
                told = await self.asked(lambda store: store.policy())
                self.policy = None if told is None else as_policy(told)
            self._seen = seen
        except StateError as error:
            if not self.is_down:
                say(f"router: the state does not answer, and what was last known stays in force: {error}")
            self.is_down = True
            raise
        if self.is_down:
            say("router: the state answers again")
        self.is_down = False

    async def hand_over(self) -> None:
        """Write what is counted, and signs of life, until cancelled."""
        pace = self.view.router.flush.total_seconds()
        beat = tidied = -1e9
        while True:
            await asyncio.sleep(pace)
            with contextlib.suppress(StateError):
                await self.flush()
                now = time.monotonic()
                if now - beat >= HEARTBEAT or self.settings.version != self._told:
                    await self.told_alive()
                    beat = now
                if now - tidied >= TIDY:
                    await self.written(lambda store: store.tidy())
                    tidied = now

    _told: int = 0

    async def told_alive(self) -> None:
        """A sign of life, with the version that is in force here: a switch is done when all routers have it."""
        version = self.settings.version
        about: dict[str, Any] = {"version": version, "lost": self.tally.lost}
        await self.written(lambda store: store.put_fact(f"router/{self.name}", about, HEARTBEAT * BEATS))
        self._told = version

    async def close(self) -> None:
        """Write what is left, and let go."""
        with contextlib.suppress(StateError):
            await self.flush()
            await self.written(lambda store: store.put_fact(f"router/{self.name}", {}, 0))
        for thread in (self._looker, self._writer):
            thread.shutdown(wait=True)
        for store in self._stores.values():
            store.close()
