"""Phones to try the real-time path with: real recordings of a smartwatch, pushed as so many phones would.

What is lost on the way to a real gateway is so here: messages come out of order, twice, or not at all, by parameter, and
are pushed again when they are refused for now.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
import time
import urllib.parse
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import orjson

from penstock.errors import PenstockError
from penstock.sources.recordings import RATE, Recording

__all__ = ["Plan", "Sent", "messages", "replay"]

SECOND = 1_000_000_000
TRIES = 100
ANSWER = 30.0  # seconds


@dataclass(frozen=True)
class Plan:
    """How phones behave.

    Attributes:
        devices: How many.
        speed: 1 is as it was recorded; 0 is as fast as the gateway takes it.
        seconds: Of recorded time, for each phone.
        batch: Seconds of recorded time in a message.
        disorder: Share of messages that come later than the next one.
        duplicates: Share of messages that come twice.
        gaps: Share of messages that never come.
        seed: The same seed, the same messages (but for their times).
    """

    devices: int = 3
    speed: float = 1.0
    seconds: float = 60.0
    batch: float = 1.0
    disorder: float = 0.05
    duplicates: float = 0.02
    gaps: float = 0.01
    seed: int = 7


@dataclass
class Sent:
    """What came of it.

    Attributes:
        acknowledged: Messages, by (device, session, message), that were answered with 200.
        readings: In them.
        refused: Answers that were not 200, by status.
        lost: Messages that no answer came to, however often they were sent.
        seconds: From push to answer, each.
    """

    acknowledged: set[tuple[str, str, int]] = field(default_factory=set)
    readings: int = 0
    bytes: int = 0
    refused: dict[int, int] = field(default_factory=dict)
    lost: int = 0
    seconds: list[float] = field(default_factory=list)


def messages(
    recordings: Sequence[Recording], plan: Plan, device: int, start: int
) -> Iterator[tuple[float, int, bytes]]:
    """What a phone sends: seconds after the start, the message's number, and the body, as they are sent.

    Args:
        recordings: One after another, as often as it takes.
        plan: How phones behave.
        device: Which of them.
        start: Nanoseconds since 1970 of the first reading.
    """
    random_ = random.Random(f"{plan.seed}/{device}")
    session = str(uuid.UUID(int=random_.getrandbits(128)))
    order = random_.sample(range(len(recordings)), len(recordings))
    values = itertools.chain.from_iterable(recordings[i].values for i in itertools.cycle(order))
    many = round(plan.batch * RATE)
    delayed: list[tuple[float, int, bytes]] = []
    for number in range(round(plan.seconds / plan.batch)):
        block = np.array(list(itertools.islice(values, many)))
        body = _body(f"watch-{device:03d}", session, number, block, start + int(number * plan.batch * SECOND))
        due = (number + 1) * plan.batch
        fate = random_.random(), random_.random(), random_.random()
        while delayed and delayed[0][0] <= due:
            yield heapq.heappop(delayed)
        if fate[0] < plan.gaps:
            continue
        if fate[1] < plan.disorder:
            heapq.heappush(delayed, (due + 1.5 * plan.batch, number, body))
        else:
            yield due, number, body
        if fate[2] < plan.duplicates:
            heapq.heappush(delayed, (due + 2.5 * plan.batch, number, body))
    while delayed:
        yield heapq.heappop(delayed)


def _body(device: str, session: str, number: int, block: np.ndarray, start: int) -> bytes:
    times = (start + np.arange(len(block)) * (SECOND / RATE)).astype(np.int64).tolist()
    payload = []
    for moment, (ax, ay, az, wx, wy, wz) in zip(times, block.round(6).tolist(), strict=True):
        payload.append(
            {
                "name": "totalacceleration",
                "time": moment,
                "values": {"x": ax, "y": ay, "z": az},
                "accuracy": 3,
            }
        )
        payload.append(
            {"name": "gyroscope", "time": moment, "values": {"x": wx, "y": wy, "z": wz}, "accuracy": 3}
        )
    return orjson.dumps({"messageId": number, "sessionId": session, "deviceId": device, "payload": payload})


async def replay(
    url: str,
    recordings: Sequence[Recording],
    plan: Plan,
    *,
    keys: dict[str, str] | None = None,
    told: Callable[[Sent], None] | None = None,
    stop: asyncio.Event | None = None,
    start: int | None = None,
) -> Sent:
    """Push what the plan says.

    Args:
        url: Of the gateway, http://host:port.
        recordings: What is pushed.
        plan: How phones behave.
        keys: Of devices, by name.
        told: Called now and then with what was done so far.
        stop: Ends it early.
        start: Event time of the first readings, nanoseconds; None: such that the last are of about now.

    Raises:
        PenstockError: The address is none of HTTP, or a key is refused.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise PenstockError(
            f"--url: {url!r}: expected http://host:port", hint="the address that the gateway prints"
        )
    sent = Sent()
    if start is None:
        start = time.time_ns() - (int(plan.seconds * SECOND) if plan.speed == 0 else 0)
    began = time.monotonic()
    ended = stop or asyncio.Event()

    async def phone(device: int) -> None:
        name = f"watch-{device:03d}"
        connection = _Connection(parts.hostname or "", parts.port or 80, (keys or {}).get(name))
        try:
            for due, number, body in messages(recordings, plan, device, start):
                if ended.is_set():
                    return
                if plan.speed:
                    wait = began + due / plan.speed - time.monotonic()
                    if wait > 0:
                        await asyncio.sleep(wait)
                await _pushed(connection, name, number, body, sent, ended)
        finally:
            connection.close()

    async def tell() -> None:
        while told is not None:
            told(sent)
            await asyncio.sleep(0.5)

    telling = asyncio.create_task(tell())
    try:
        async with asyncio.TaskGroup() as tasks:
            for device in range(plan.devices):
                tasks.create_task(phone(device))
    except* PenstockError as several:
        raise several.exceptions[0] from None
    finally:
        telling.cancel()
    return sent


async def _pushed(
    connection: _Connection, name: str, number: int, body: bytes, sent: Sent, ended: asyncio.Event
) -> None:
    """Push one message until it is answered for good."""
    for attempt in range(TRIES):
        if ended.is_set():
            return
        before = time.perf_counter()
        try:
            status, after, answer = await connection.push(body)
        except (OSError, EOFError, TimeoutError, asyncio.IncompleteReadError):
            connection.close()
            await asyncio.sleep(min(2.0, 0.05 * 2**attempt))
            continue
        if status == 200:
            sent.seconds.append(time.perf_counter() - before)
            content = orjson.loads(body)
            known = (name, content["sessionId"], number)
            if known not in sent.acknowledged:
                sent.acknowledged.add(known)
                sent.readings += len(content["payload"])
                sent.bytes += len(body)
            return
        sent.refused[status] = sent.refused.get(status, 0) + 1
        if status in {401, 403}:
            raise PenstockError(
                f"{name}: the gateway refuses its key: {answer[:200].decode(errors='replace')}",
                hint="give the keys of the devices: --keys FILE, a line `device key` each",
            )
        if status not in {408, 429, 503}:
            return
        await asyncio.sleep(after or 0.2)
    sent.lost += 1


class _Connection:
    """A client of HTTP/1.1 that keeps its connection, with as little of its own as a load test wants."""

    def __init__(self, host: str, port: int, key: str | None) -> None:
        self.host, self.port = host, port
        credentials = "" if key is None else f"authorization: Bearer {key}\r\n"
        self.head = (
            f"POST /v1/readings HTTP/1.1\r\nhost: {host}:{port}\r\ncontent-type: application/json\r\n{credentials}"
        ).encode()
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def push(self, body: bytes) -> tuple[int, float, bytes]:
        """Status, seconds of Retry-After, and the answer."""
        async with asyncio.timeout(ANSWER):
            if self._streams is None:
                self._streams = await asyncio.open_connection(self.host, self.port)
            reader, writer = self._streams
            writer.write(self.head + b"content-length: %d\r\n\r\n" % len(body) + body)
            await writer.drain()
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            status = int(head[9:12])
            length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
            answer = await reader.readexactly(length)
        after = head.split(b"retry-after:")[1].split(b"\r\n")[0] if b"retry-after:" in head else b"0"
        if b"connection: close" in head:
            self.close()
        return status, float(after), answer

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None
