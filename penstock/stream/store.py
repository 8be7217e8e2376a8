"""What a store can do: take a bulk of documents so that each is in it once, and be asked for the newest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Protocol, Self

from penstock.config.streaming import StreamStore
from penstock.errors import PenstockError

__all__ = ["BusyError", "Document", "Kind", "Refused", "Store", "Written", "open_store"]

Kind = Literal["readings", "windows"]


class BusyError(PenstockError):
    """The store is there but takes nothing now (429, 503), or cannot be reached. Try the same again, later.

    Attributes:
        after: Seconds that the store asked to wait, if it said so.
    """

    after: float | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """One reading or one window.

    Attributes:
        id: The same for the same reading, however often it comes.
        time: Event time, nanoseconds since 1970, UTC.
        body: Its fields, without ``@timestamp``. Of a reading: device, session, message (int), index (int),
            sensor, values (a dict of number, text, truth or None), accuracy (or None), received (ns), lag_ms.
            Of a window: device, sensor (or "activity"), start (ns), end (ns), readings (int, at least 1), late (bool:
            it corrects one that was written), features (dict of float), or of an activity: label, probability, model.
        origin: Where it came from in the log, for dead letters: (partition, offset).
        message: The identity of the message that it came in; documents of one message lie together.
    """

    id: str
    time: int
    body: dict[str, Any]
    origin: tuple[int, int]
    message: str


@dataclass(frozen=True, slots=True)
class Refused:
    """A document that the store will never take, and why (its own words)."""

    document: Document
    reason: str


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a bulk: new + known + refused = documents given."""

    new: int
    known: int  # were there already: taken as success
    refused: tuple[Refused, ...]


class Store(Protocol):
    """A store that is open. Use as ``async with open_store(view) as store``."""

    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def create(self) -> list[str]:
        """Templates, data streams, tables and lifecycles as declared; returns what was done, in words."""
        ...

    async def write(self, kind: Kind, documents: Sequence[Document]) -> Written:
        """Write a bulk. When this returns, every document that is not refused is durable and in the store once.

        Args:
            kind: Which index or table.
            documents: Ids are unique within the bulk. Any of them may have been written before; a window then takes the
                place of one of as many readings or fewer.

        Raises:
            BusyError: Nothing or some of it was written; write the same again.
        """
        ...

    async def newest(self, kind: Kind, *, device: str | None, since: int, limit: int) -> list[dict[str, Any]]:
        """The newest documents' bodies with ``time`` (ns), the newest first; ``since`` is event time in ns."""
        ...

    async def count(self, kind: Kind) -> int:
        """How many documents can be found now."""
        ...

    async def refresh(self) -> None:
        """Let everything that was written be found."""
        ...

    async def expire(self, now: int | None = None) -> list[str]:
        """Delete what is beyond the retention, if nothing else does; what was done, in words."""
        ...

    async def forget(self, device: str) -> int:
        """Delete everything of a device; how many documents that were."""
        ...

    async def ready(self) -> bool:
        """Whether a write would be likely to succeed."""
        ...


def open_store(view: StreamStore) -> Store:
    """The store that is declared, not yet open."""
    if view.kind == "elasticsearch":
        from penstock.stream.stores.elasticsearch import ElasticsearchIndices

        return ElasticsearchIndices(view)
    from penstock.stream.stores.duckdb import DuckdbTables

    return DuckdbTables(view)
