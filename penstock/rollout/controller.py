"""What a rollout does by itself: takes back an arm that does harm, has a canary go on, learns, concludes a test.

It is a process of its own: routers go on without it, by what is in force. Several may run; one at a time acts. Time is measured by
the monotonic clock and added up in the state, so neither a clock that is set nor a restart shortens a bake or makes it longer.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from penstock.config.rollout import AB, Bandit, Canary, Rollout
from penstock.console import say
from penstock.errors import PenstockError
from penstock.experiments.verdict import Verdict
from penstock.rollout import settings as rules
from penstock.rollout.audit import Intent
from penstock.rollout.judgement import Report, judged
from penstock.rollout.policies import learned
from penstock.rollout.settings import Settings
from penstock.rollout.state import ConflictError, StateError, Store, open_store

__all__ = ["Controller", "serve"]

AUTHOR = "controller"
WHOLE = ""  # the arm of counters that are of the stage itself
LEASE = 5.0
REPORT = 15.0  # seconds for which a report is true


class Controller:
    """One look after the other.

    Args:
        view: What is declared.
        store: The state.
        clock: Monotonic seconds.
        name: Of this process.
    """

    def __init__(
        self,
        view: Rollout,
        store: Store,
        clock: Callable[[], float] = time.monotonic,
        name: str | None = None,
    ) -> None:
        self.view, self.store, self.clock = view, store, clock
        self.name = name or f"{socket.gethostname()}/{os.getpid()}"
        self.tick = view.tick.total_seconds()
        self._last: float | None = None
        self._learned = -1e9

    def look(self) -> Report | None:
        """Judge, and act on it; None if another acts, or nothing is in force yet.

        Raises:
            StateError: The state does not answer.
        """
        now = self.clock()
        passed, self._last = (now - self._last if self._last is not None else 0.0), now
        if not self.store.lease("controller", self.name, LEASE):
            return None
        settings = self.store.settings()
        if settings is None:
            return None
        stages = [self.store.counters(f"{settings.epoch}.{step}") for step in range(settings.step + 1)]
        baked = stages[-1].get(WHOLE, {}).get("baked", 0.0)
        strategy = settings.plan.strategy
        if isinstance(strategy, Canary) and not settings.is_paused:
            # A machine that slept, or was held up, has not baked meanwhile.
            added = min(passed, 4 * self.tick)
            baked += added
            self.store.add({(settings.stage, WHOLE, "baked"): added})
        done = isinstance(strategy, Canary) and baked >= strategy.bake.total_seconds()
        report = judged(settings, stages, baked=done)
        about = {
            "version": settings.version,
            "baked": baked,
            "policy": self._learn(settings, stages[-1], now),
        }
        self.store.put_fact("report", report.dump() | about, REPORT)
        # Somebody may be quicker; then the next look sees what is in force by that time.
        with contextlib.suppress(ConflictError):
            self._act(settings, report, stages[-1])
        return report

    # --- acts -----------------------------------------------------------------------------------------

    def _act(self, settings: Settings, report: Report, now: Mapping[str, Mapping[str, float]]) -> None:
        strategy = settings.plan.strategy
        for arm, why in report.harms.items():
            if isinstance(strategy, Canary):
                self._put(settings, rules.rolled_back(settings), "rollback", why)
                return
            settings = self._put(settings, rules.without(settings, arm, why), f"stop {arm}", why)
        if report.harms or settings.is_paused:
            return
        if isinstance(strategy, Canary) and report.canary is not None and report.canary.action == "promote":
            self._put(settings, rules.promoted(settings), "promote", report.canary.reason)
        elif isinstance(strategy, AB):
            self._conclude(settings, strategy, report, now)

    def _conclude(
        self, settings: Settings, strategy: AB, report: Report, now: Mapping[str, Mapping[str, float]]
    ) -> None:
        if report.horizon is not None and not now.get(WHOLE, {}).get("horizon"):
            # Looked at once: what it says later, with more users, would be another test.
            self.store.add({(settings.stage, WHOLE, "horizon"): 1.0})
            self.store.note(Intent(AUTHOR, "horizon", report.horizon.text), None, report.dump()["horizon"])
            if strategy.conclude == "horizon":
                self._end(settings, report.horizon)
                return
        if strategy.conclude == "sequential" and report.decided is not None and report.decided.stop:
            self._end(settings, report.decided)

    def _end(self, settings: Settings, found: Verdict) -> None:
        if found.decision == "better" and found.arm is not None:
            self._put(settings, rules.promoted(settings, found.arm), "promote", found.text)
        elif found.decision == "invalid":
            self._put(settings, rules.paused(settings), "pause", found.text)
        elif found.decision != "undecided":
            self._put(settings, rules.rolled_back(settings), "conclude", found.text)

    def _put(self, before: Settings, after: Settings, what: str, why: str) -> Settings:
        self.store.change(before, after, Intent(AUTHOR, what, why))
        say(f"controller: {what}: {why}")
        return after

    def _learn(
        self, settings: Settings, now: Mapping[str, Mapping[str, float]], at: float
    ) -> dict[str, Any] | None:
        strategy = settings.plan.strategy
        if not isinstance(strategy, Bandit):
            return None
        if settings.is_paused or at - self._learned < strategy.refresh.total_seconds():
            return self.store.policy()
        self._learned = at
        policy = learned(settings, strategy, now)
        self.store.put_policy(policy)
        return policy


def serve(view: Rollout) -> int:
    """Look again and again, until it is told to stop (SIGTERM, SIGINT); its exit code."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    controller: Controller | None = None
    is_down = False
    while not stop.wait(view.tick.total_seconds()):
        try:
            if controller is None:
                controller = Controller(view, open_store(view))
            controller.look()
            if is_down:
                say("controller: the state answers again")
            is_down = False
        except StateError as error:
            if not is_down:
                say(f"controller: the state does not answer; nothing is changed: {error}")
            is_down = True
        except PenstockError as error:
            say(f"controller: {error}")
    if controller is not None:
        controller.store.close()
    return 0
