"""The predictors of every arm as one router sees them: which replica is asked next, and which arm had better not be."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from penstock.config.rollout import Router
from penstock.rollout.settings import Settings, addresses
from penstock.rollout.upstream import Pool

__all__ = ["Breaker", "Fleet", "Replica"]

EJECTED = 0.25  # seconds for which a replica that could not be reached is left alone, if there are others
STRIKES = 5  # failures in a row after which an arm is left alone
OPEN = 1.0  # seconds, until one request tries it again


@dataclass
class Breaker:
    """Spares requests the wait for an arm that fails every time.

    Attributes:
        strikes: Failures in a row.
        until: On the monotonic clock, when one may try again.
    """

    strikes: int = 0
    until: float = 0.0

    def lets(self) -> bool:
        """Whether a request may try the arm."""
        if self.strikes < STRIKES:
            return True
        now = time.monotonic()
        if now < self.until:
            return False
        self.until = now + OPEN  # this one tries; the others wait for what comes of it
        return True

    def told(self, *, well: bool) -> None:
        """How it went."""
        self.strikes = 0 if well else self.strikes + 1
        if self.strikes >= STRIKES:
            self.until = time.monotonic() + OPEN


@dataclass
class Replica:
    """One process group.

    Attributes:
        index: Within its arm.
        pool: Connections to it.
        rests: It is out of rotation.
        until: On the monotonic clock, when it may be tried again.
    """

    index: int
    pool: Pool
    rests: bool = False
    until: float = 0.0


@dataclass
class Fleet:
    """All arms' replicas.

    Attributes:
        view: Of the router.
        ports: The first of the predictors'.
        key: That predictors elsewhere ask for, if they do; those that run here get none.
    """

    view: Router
    ports: int
    key: str | None = field(default=None, repr=False)
    arms: dict[str, list[Replica]] = field(default_factory=dict)
    breakers: dict[str, Breaker] = field(default_factory=dict)
    _turn: int = 0

    def apply(self, settings: Settings) -> None:
        """Bring it in line with settings; connections to replicas that stay are kept."""
        before: Mapping[str, Pool] = {
            replica.pool.url: replica.pool for replicas in self.arms.values() for replica in replicas
        }
        arms: dict[str, list[Replica]] = {}
        for arm, urls in addresses(settings, self.ports).items():
            key = self.key if settings.plan.arms[arm].artifact is None else None
            arms[arm] = [
                Replica(
                    index,
                    before.get(url) or Pool(url, self.view.pool, self.view.answer_bytes, key),
                    rests=f"{arm}/{index}" in settings.resting,
                )
                for index, url in enumerate(urls)
            ]
        kept = {replica.pool.url for replicas in arms.values() for replica in replicas}
        for url, pool in before.items():
            if url not in kept:
                pool.close()
        self.arms = arms
        self.breakers = {arm: self.breakers.get(arm, Breaker()) for arm in arms}

    def next(self, arm: str) -> Replica:
        """The replica to ask: of those in rotation the least busy; in turn, if they are equally so."""
        replicas = self.arms[arm]
        if len(replicas) == 1:
            return replicas[0]
        now = time.monotonic()
        fit = [replica for replica in replicas if not replica.rests and replica.until <= now]
        fit = fit or [replica for replica in replicas if not replica.rests] or replicas
        self._turn += 1
        return min(fit, key=lambda replica: (replica.pool.busy, (replica.index - self._turn) % len(replicas)))

    def unreachable(self, replica: Replica) -> None:
        """Leave one alone for a moment."""
        replica.until = time.monotonic() + EJECTED

    def close(self) -> None:
        """Close idle connections."""
        for replicas in self.arms.values():
            for replica in replicas:
                replica.pool.close()
