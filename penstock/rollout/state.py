"""What routers and operators share: settings, audit trail, counts, and which arm a request was of.

Every count is a sum, so routers add what they have counted and need not agree on anything. Settings change by compare-and-set
on their version, together with their entry in the audit trail, or not at all.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from penstock.config.rollout import RedisState, Rollout
from penstock.rollout.audit import Entry, Intent
from penstock.rollout.settings import Settings

__all__ = [
    "Attribution",
    "ConflictError",
    "Exposure",
    "Reward",
    "StateError",
    "SteadyClock",
    "Store",
    "Versions",
    "iso",
    "linear",
    "now",
    "of_request",
    "of_user",
    "open_store",
    "unit_value",
]

Counts = Mapping[tuple[str, str, str], float]  # (stage, arm, name) → what is added


class StateError(Exception):
    """The state cannot be reached or read now."""


class ConflictError(Exception):
    """Somebody else has changed the settings meanwhile."""


@dataclass(frozen=True, slots=True)
class Versions:
    """What a router looks for.

    Attributes:
        settings: Version of the settings; 0 if there are none.
        policy: Version of a bandit's policy; 0 if there is none.
    """

    settings: int
    policy: int


@dataclass(frozen=True, slots=True)
class Attribution:
    """Which arm a request was of, kept until its outcome may come no more.

    Attributes:
        request: Its id.
        arm: Assigned (of an answer), or asked besides (of a shadow).
        role: "answer" or "shadow".
        stage: What it counts for.
        unit: The user, hashed, if users are what sticks.
        outputs: Of each row, for what is compared with the truth; None if nothing is.
        context: What a contextual bandit has decided by.
    """

    request: str
    arm: str
    role: str
    stage: str
    unit: str | None = None
    outputs: Sequence[Any] | None = None
    context: Sequence[float] | None = None


@dataclass(frozen=True, slots=True)
class Exposure:
    """A user was answered in a stage.

    Attributes:
        stage: Of the settings.
        arm: Assigned.
        unit: The user, hashed.
    """

    stage: str
    arm: str
    unit: str


@dataclass(frozen=True, slots=True)
class Reward:
    """What an outcome is worth to an arm.

    Attributes:
        stage: What it counts for.
        arm: It.
        unit: The user, or None.
        value: The reward.
        mode: How a user's rewards become one number: "any" (0 or 1), "sum", "mean".
        entered: Who has given nothing yet counts as 0, and is counted already.
        context: Of a contextual bandit.
    """

    stage: str
    arm: str
    unit: str | None
    value: float
    mode: str
    entered: bool = False
    context: Sequence[float] | None = None


class Store(Protocol):
    """Where the state is. Every method may raise ``StateError``; all of them block."""

    def versions(self) -> Versions:
        """What is in force, cheaply."""

    def settings(self) -> Settings | None:
        """In force; None before the first."""

    def change(self, before: Settings | None, after: Settings, intent: Intent) -> Entry:
        """Put settings in force, if those before still are, with an entry in the trail.

        Raises:
            ConflictError: They are not.
        """

    def note(self, intent: Intent, before: Any, after: Any) -> Entry:
        """An entry in the trail for what is not of the settings (a flag)."""

    def history(self, newest: int | None = None) -> list[Entry]:
        """The trail, in order; all of it, or its end."""

    def policy(self) -> dict[str, Any] | None:
        """A bandit's."""

    def put_policy(self, policy: dict[str, Any]) -> None:
        """Put one in force."""

    def add(self, counts: Counts) -> None:
        """Add to counters."""

    def counters(self, stage: str) -> dict[str, dict[str, float]]:
        """Of each arm, by name."""

    def attribute(self, several: Iterable[Attribution]) -> None:
        """Keep which arms requests were of."""

    def attributed(self, request: str) -> list[Attribution]:
        """Those of a request that are still kept."""

    def expose(self, several: Iterable[Exposure], *, enters: bool) -> None:
        """Count users that are new to a stage: as ``users``, and (``enters``) as units of the KPI that have given nothing yet."""

    def settle(self, request: str, row: int, rewards: Sequence[Reward]) -> bool:
        """Count what an outcome is worth, once; False if it has come before."""

    def put_fact(self, key: str, value: Any, seconds: float) -> None:
        """Something that is true for so long: a replica's state, a router's heartbeat."""

    def facts(self, prefix: str) -> dict[str, Any]:
        """Those that are still true."""

    def lease(self, name: str, holder: str, seconds: float) -> bool:
        """Be the only one who does something, for so long."""

    def tidy(self) -> None:
        """Forget what has expired."""

    def close(self) -> None:
        """Let go of it."""


@dataclass
class SteadyClock:
    """Wall time that does not jump: the clock is read once, and what passes since is measured by the monotonic one.

    Attributes:
        base: Seconds since 1970 when it was made.
        began: The monotonic clock then.
    """

    base: float = field(default_factory=time.time)
    began: float = field(default_factory=time.monotonic)

    def __call__(self) -> float:
        """Seconds since 1970."""
        return self.base + time.monotonic() - self.began


now = SteadyClock()


def iso(seconds: float) -> str:
    """A moment, for people."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def of_request(reward: Reward) -> dict[str, float]:
    """What the sums over requests gain."""
    return {
        "outcomes": 1.0,
        "kpi_n": 0.0 if reward.entered else 1.0,
        "kpi_total": reward.value,
        "kpi_squares": reward.value * reward.value,
    }


def of_user(reward: Reward, count: float, total: float) -> dict[str, float]:
    """What the sums over users gain when one of them, with ``count`` rewards of ``total`` so far, has another."""
    before = unit_value(reward.mode, count, total)
    after = unit_value(reward.mode, count + 1, total + reward.value)
    assert after is not None
    old = before or 0.0
    return {
        "outcomes": 1.0,
        "kpi_n": 1.0 if before is None and not reward.entered else 0.0,
        "kpi_total": after - old,
        "kpi_squares": after * after - old * old,
    }


def linear(reward: Reward) -> dict[str, float]:
    """The sums of LinUCB: xxᵀ (its upper half) and r·x."""
    if reward.context is None:
        return {}
    x = reward.context
    found = {f"xx_{i}_{j}": x[i] * x[j] for i in range(len(x)) for j in range(i, len(x))}
    found |= {f"rx_{i}": reward.value * value for i, value in enumerate(x)}
    return found


def unit_value(mode: str, count: float, total: float) -> float | None:
    """A user's one number out of how many rewards and their sum; None before the first."""
    if count <= 0:
        return None
    if mode == "any":
        return min(1.0, max(0.0, total))
    return total if mode == "sum" else total / count


def open_store(view: Rollout) -> Store:
    """Where a rollout's state is.

    Raises:
        StateError: It cannot be reached.
    """
    if isinstance(view.state, RedisState):
        from penstock.rollout.state_redis import RedisStore

        return RedisStore(view)
    from penstock.rollout.state_sqlite import SqliteStore

    return SqliteStore(view)
