"""What people did, kept where every process sees it: the interface, and what a store promises.

A write is acknowledged once it is durable, and every read that begins after that sees it, whichever process asks.
"""

from __future__ import annotations

import time as clock
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from penstock.config.serving.recommender import RedisStore, StoreView

__all__ = ["Added", "Impression", "Interaction", "NewItem", "Store", "StoreDownError", "now_ms", "open_store"]


class StoreDownError(Exception):
    """The store cannot be read or written now."""


@dataclass(frozen=True, slots=True)
class Interaction:
    """Someone did something with an item.

    Attributes:
        user: Who.
        item: With what; the model need not know it.
        time: Milliseconds since 1970, UTC; None: now, and after everything that the user has done before.
        rating: If one was given.
        event: A word of the client's, such as "play".
        id: By which a client that sends it again says that it is the same.
        request: The recommendation that it follows from: a click on what was shown there.
    """

    user: str
    item: int
    time: int | None = None
    rating: float | None = None
    event: str | None = None
    id: str | None = None
    request: str | None = None


@dataclass(frozen=True, slots=True)
class Added:
    """What became of interactions.

    Attributes:
        stored: How many were new.
        duplicates: How many were there already; they change nothing.
    """

    stored: int
    duplicates: int


@dataclass(frozen=True, slots=True)
class NewItem:
    """An item that was registered, as the model may not know it yet.

    Attributes:
        id: As interactions name it.
        title: For people.
        genres: In the client's order.
        year: Of appearance.
        shown: How often it was shown.
        clicked: How often an interaction followed.
    """

    id: int
    title: str
    genres: tuple[str, ...]
    year: int | None
    shown: int = 0
    clicked: int = 0


@dataclass(frozen=True, slots=True)
class Impression:
    """An item was shown.

    Attributes:
        request: The recommendation that it was part of; with the item, its identity.
        user: To whom.
        item: Which.
        time: Milliseconds since 1970, UTC.
    """

    request: str
    user: str
    item: int
    time: int


def now_ms() -> int:
    """Milliseconds since 1970, UTC."""
    return clock.time_ns() // 1_000_000


class Store(ABC):
    """One process' way to the store. Made on its event loop.

    Every method raises ``StoreDownError`` while the store cannot be reached; a write that has raised it may or may not have happened,
    and can be repeated.
    """

    @abstractmethod
    async def add(self, interactions: Sequence[Interaction], keep: int) -> Added:
        """Keep interactions, all or none of them; the same id, or without one the same item and time, of a user counts once.

        Args:
            interactions: In the order in which they happened.
            keep: Interactions of a user that stay, the newest.
        """

    @abstractmethod
    async def history(self, user: str) -> list[Interaction]:
        """What is kept of a user, the oldest first; what happened at one time in the order of arrival."""

    @abstractmethod
    async def remove(self, user: str, item: int, time: int | None) -> int:
        """Take back what a user did with an item, at one time or ever; how much that was."""

    @abstractmethod
    async def forget(self, user: str) -> int:
        """Erase a user, impressions included; how many interactions that were."""

    @abstractmethod
    async def register(self, items: Sequence[NewItem], most: int) -> bool:
        """Keep items, or what has changed of them. False, and nothing is kept, if there would be more than ``most``."""

    @abstractmethod
    async def items(self) -> list[NewItem]:
        """Every registered item, by id."""

    @abstractmethod
    async def withdraw(self, item: int) -> bool:
        """Take back the registration of an item; whether there was one."""

    @abstractmethod
    async def show(self, impressions: Sequence[Impression], keep_ms: int) -> int:
        """Count impressions once each; how many were new. Those older than ``keep_ms`` go."""

    @abstractmethod
    async def shown(self, user: str, since: int) -> dict[int, int]:
        """How often items were shown to a user since a time, by item."""

    @abstractmethod
    async def close(self) -> None:
        """Let go of it."""


async def open_store(view: StoreView) -> Store:
    """The store that is declared.

    Raises:
        PenstockError: It cannot be used, and will not come by waiting.
    """
    if isinstance(view, RedisStore):
        from penstock.serving.recommender.store_redis import RedisState

        return await RedisState.opened(view)
    from penstock.serving.recommender.store_sqlite import SqliteState

    return SqliteState(view)
