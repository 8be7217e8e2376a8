"""What a log can do: append durably, and be read by a group whose place moves when it is told to.

A log delivers at least once. Whoever reads it writes in a way that the same record twice is the same as once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

from penstock.config.streaming import StreamLog
from penstock.errors import PenstockError

__all__ = ["Appended", "Consumer", "Follower", "FullError", "Log", "Record", "UnavailableError", "open_log"]


class UnavailableError(PenstockError):
    """The log cannot be reached, or has not acknowledged in time. What was appended may be in it or not."""


class FullError(PenstockError):
    """More is on its way to the log than may be. Nothing was appended."""


@dataclass(frozen=True, slots=True)
class Record:
    """One message as it lies in the log.

    Attributes:
        partition: Records of one key are in one partition, in order.
        offset: Grows within a partition, maybe with gaps.
        key: The device's id in UTF-8.
        value: The message.
        headers: ASCII names; small values.
        time: When it was appended, in nanoseconds since 1970 (as precise as the log is).
    """

    partition: int
    offset: int
    key: bytes
    value: bytes
    headers: dict[str, bytes] = field(default_factory=dict)
    time: int = 0


@dataclass(frozen=True, slots=True)
class Appended:
    """Where a record went."""

    partition: int
    offset: int


class Consumer(Protocol):
    """One member of a group. Not to be shared between tasks, but ``commit`` may run beside ``fetch``."""

    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def fetch(self, max_records: int, max_bytes: int, wait: float) -> list[Record]:
        """Take what is there: at least one record if one comes within ``wait`` seconds, else none.

        Raises:
            UnavailableError: For longer than the log's clients bridge by themselves.
        """
        ...

    async def commit(self, positions: dict[int, int]) -> None:
        """Say that every record below an offset is done with, for each partition. A partition that was lost is left out."""
        ...

    def pause(self) -> None:
        """Fetch nothing until ``resume``; membership of the group goes on."""
        ...

    def resume(self) -> None:
        """Fetch again."""
        ...

    @property
    def assigned(self) -> frozenset[int]:
        """The partitions that are this member's now."""
        ...

    async def lag(self) -> dict[int, int]:
        """Records that are in the log and not committed by the group, for each partition that is this member's.

        A partition that was not read from yet may be left out.
        """
        ...


class Follower(Protocol):
    """Reads what comes from now on, for people to look at: of no group, and what it misses is missed."""

    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def fetch(self, max_records: int, wait: float) -> list[Record]:
        """Take what has come, or nothing after ``wait`` seconds.

        Raises:
            UnavailableError: The log does not answer; ask again later.
        """
        ...


# Called with the partitions before they are given to another member: finish or drop what is of them, and commit.
Revoked = Callable[[frozenset[int]], Awaitable[None]]


class Log(Protocol):
    """A log that is open. Use as ``async with open_log(view) as log``."""

    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def append(self, topic: str, key: bytes, value: bytes, headers: dict[str, bytes]) -> Appended:
        """Append one record; when this returns, it is durable (acks=all, fsync where the log has it).

        Many calls run at once and are sent together.

        Raises:
            FullError: Too much is on its way.
            UnavailableError: Not acknowledged.
        """
        ...

    def consume(self, topic: str, group: str, revoked: Revoked | None = None) -> Consumer:
        """Join a group. A group that has no place yet begins at the beginning."""
        ...

    def follow(self, topic: str) -> Follower:
        """Read what comes from now on."""
        ...

    async def create(self) -> list[str]:
        """Create the topics that are declared, or bring those that exist in line; returns what was done, in words."""
        ...

    async def ready(self) -> bool:
        """Whether an append would be likely to succeed."""
        ...

    async def tail(self, topic: str, records: int) -> Sequence[Record]:
        """The newest records, for people to look at; moves no group."""
        ...


def open_log(view: StreamLog) -> Log:
    """The log that is declared, not yet open."""
    if view.kind == "kafka":
        from penstock.stream.logs.kafka import KafkaTopics

        return KafkaTopics(view)
    from penstock.stream.logs.jetstream import JetStream

    return JetStream(view)
