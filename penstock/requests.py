"""The log of requests and of what came true of them: one record for each row that was predicted.

Whoever logs is never held up. Records are put into a bounded queue and written by a thread; what does not fit is dropped, and
counted. Files are of an hour and a model, written whole and renamed: Parquet where polars is installed, gzipped JSON lines
elsewhere; or each record is a message of a Kafka topic. ``penstock.request_reading`` reads them.
"""

from __future__ import annotations

import gzip
import hashlib
import hmac
import os
import re
import secrets
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import orjson

from penstock.config.serving.requests import FileLog, KafkaLog, RequestLog
from penstock.console import say
from penstock.errors import PenstockError
from penstock.storage import replacing

__all__ = ["REQUEST_ID", "Hashing", "Requests", "RequestsOfOne", "Truths", "new_request_id", "open_requests"]

# What is taken from a header, repeated in another, and becomes part of a file.
REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+=@-]{0,127}")
LOOK = 0.2  # seconds between looks at the queue
HOLD, REST = 0.000_5, 0.001  # seconds for which the writer works at a time, and then does not
AGAIN = 5.0  # seconds until a write that has failed is tried again
LEAVE = 10.0  # seconds for what is in memory when it ends

# Told how many records were written, or dropped.
Counted = Callable[[str, int], None]


_PREFIX = secrets.token_hex(6)
_number = 0


def new_request_id() -> str:
    """An id for a request that has none; unlike any other of any process."""
    global _number  # noqa: PLW0603
    _number += 1
    return f"{_PREFIX}{os.getpid():x}-{_number:x}"


@dataclass(frozen=True)
class RequestsOfOne:
    """One request that was answered, or failed.

    Attributes:
        time: Nanoseconds since 1970, UTC, when it came.
        request: Its id.
        model: That was asked.
        version: That answered: 12 hex digits of the artefact's SHA-256.
        inputs: Gives columns and values of each row.
        outputs: Gives the answers of each row; None if there are none.
        latency_ms: From its arrival to the answer.
        status: "ok", or an error's name.
        arm: Of a rollout; "single" without one.
        role: "answer", or "shadow" if it was not sent to whoever asked.
        propensity: Probability with which the arm was chosen.
        user: Whom a rollout is sticky by, in the clear; hashed before it is written.
    """

    time: int
    request: str
    model: str
    version: str
    inputs: Callable[[], Sequence[Mapping[str, Any]]]
    outputs: Callable[[], Sequence[Mapping[str, Any]]] | None
    latency_ms: float
    status: str = "ok"
    arm: str = "single"
    role: str = "answer"
    propensity: float | None = None
    user: str | None = None


class Hashing:
    """Personal data as HMAC-SHA-256: the same for the same, and not to be tried out without the key.

    Args:
        key: None: nothing can be hashed, so users are left out.
    """

    def __init__(self, key: bytes | None) -> None:
        self._key = key

    def __call__(self, value: Any) -> str | None:
        """The hash of a value as text; None of None, or without a key."""
        if value is None or self._key is None:
            return None
        return hmac.new(self._key, str(value).encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def _hashing(variable: str, pii: Sequence[str]) -> Hashing:
    key = os.environ.get(variable, "")
    if pii and not key:
        raise PenstockError(
            f"requests.pii: {', '.join(pii)} are to be hashed, and {variable} is not set",
            hint=f"set it in the environment to a long random key: {variable}=$(openssl rand -hex 32)",
        )
    return Hashing(key.encode() if key else None)


# --- where lines go ---------------------------------------------------------------------------------


class Sink(ABC):
    """Takes records as lines of JSON; used by one thread."""

    @abstractmethod
    def take(self, model: str, moment: int, lines: Sequence[bytes]) -> None:
        """Take records of a model at a time, nanoseconds since 1970."""

    @abstractmethod
    def look(self, *, end: bool = False) -> None:
        """Write what is due, or everything."""

    @property
    @abstractmethod
    def held(self) -> int:
        """Records that are taken and not yet written."""


@dataclass
class _Hour:
    began: float
    lines: list[bytes]
    due: float


class FileSink(Sink):
    """Files in ``folder/<model>/hour=YYYY-MM-DDTHH/``."""

    def __init__(self, folder: Path, rows: int, every: float, counted: Counted) -> None:
        self.folder, self.rows, self.every, self.counted = folder, rows, every, counted
        self._hours: dict[tuple[str, str], _Hour] = {}
        self._writer = f"{_plain(socket.gethostname())}-{os.getpid()}-{secrets.token_hex(4)}"
        self._number = 0
        self._parquet = find_spec("polars") is not None
        self._told = False

    @property
    def held(self) -> int:
        return sum(len(hour.lines) for hour in self._hours.values())

    def take(self, model: str, moment: int, lines: Sequence[bytes]) -> None:
        name = datetime.fromtimestamp(moment // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H")
        hour = self._hours.get((model, name))
        if hour is None:
            now = time.monotonic()
            hour = self._hours[model, name] = _Hour(now, [], now + self.every)
        hour.lines.extend(lines)
        if len(hour.lines) >= self.rows:
            hour.due = min(hour.due, time.monotonic())

    def look(self, *, end: bool = False) -> None:
        now = time.monotonic()
        for key, hour in list(self._hours.items()):
            if not end and now < hour.due:
                continue
            try:
                self._write(*key, hour.lines)
            except OSError as error:
                if not self._told:
                    say(f"requests: {self.folder}: {error.strerror or error}; it is tried again")
                    self._told = True
                hour.due = now + AGAIN
            else:
                self._told = False
                self.counted("written", len(hour.lines))
                del self._hours[key]

    def _write(self, model: str, hour: str, lines: Sequence[bytes]) -> None:
        self._number += 1
        folder = self.folder / model / f"hour={hour}"
        content = b"\n".join(lines)
        if self._parquet:
            import polars as pl

            with replacing(folder / f"{self._writer}-{self._number}.parquet") as temporary:
                pl.read_ndjson(content, infer_schema_length=None).write_parquet(temporary, compression="zstd")
            return
        with replacing(folder / f"{self._writer}-{self._number}.jsonl.gz") as temporary:
            temporary.write_bytes(gzip.compress(content + b"\n", compresslevel=1, mtime=0))


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]", "-", name)[:40] or "host"


class KafkaSink(Sink):
    """A topic; the model's name is the key of a message."""

    def __init__(self, view: KafkaLog, counted: Counted) -> None:
        try:
            from confluent_kafka import Producer
        except ModuleNotFoundError as error:
            raise PenstockError(
                "requests.kind: kafka needs confluent-kafka, which is not installed",
                hint="install it beside penstock, or log to files: requests.kind=files",
            ) from error
        from penstock.sources.secrets import revealed

        settings = {key: revealed(value) for key, value in view.settings.items()}
        self.topic, self.counted = view.topic, counted
        self._producer = Producer(
            {
                "bootstrap.servers": view.bootstrap,
                "queue.buffering.max.messages": view.pending,
                "linger.ms": 50,
                "compression.type": "zstd",
                **settings,
            }
        )

    @property
    def held(self) -> int:
        return len(self._producer)

    def take(self, model: str, moment: int, lines: Sequence[bytes]) -> None:
        for line in lines:
            try:
                self._producer.produce(
                    self.topic, line, model.encode(), timestamp=moment // 1_000_000, on_delivery=self._done
                )
            except BufferError:
                self.counted("dropped", 1)

    def _done(self, error: Any, _message: Any) -> None:
        self.counted("dropped" if error is not None else "written", 1)

    def look(self, *, end: bool = False) -> None:
        self._producer.poll(0)
        if end:
            left = self._producer.flush(LEAVE)
            if left:
                self.counted("dropped", left)


# --- what is put in ---------------------------------------------------------------------------------

# A model, a time, and what makes the records.
_Entry = tuple[str, int, Callable[[], Sequence[Mapping[str, Any]]]]


class _Queue:
    """A bounded queue before a sink, and the thread between them."""

    def __init__(self, sink: Sink, pending: int, counted: Counted) -> None:
        self._sink, self._pending, self._counted = sink, pending, counted
        self._entries: deque[tuple[int, _Entry]] = deque()
        # Each is counted by one thread alone, so that no lock is needed: what was put, and what the sink was given.
        self._put, self._given, self._held = 0, 0, 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._write, name="penstock-requests", daemon=True)
        self._thread.start()

    def put(self, rows: int, entry: _Entry) -> bool:
        """Queue records, always from the same thread; False if they had to be dropped. Never waits."""
        if self._put - self._given + self._held + rows > self._pending:
            self._counted("dropped", rows)
            return False
        self._put += rows
        self._entries.append((rows, entry))
        return True

    def close(self) -> None:
        """Write everything, and end."""
        self._end.set()
        self._thread.join(LEAVE)

    def _write(self) -> None:
        ending = False
        while not ending:
            ending = self._end.wait(LOOK)
            began = time.perf_counter()
            while self._entries:
                if not ending and time.perf_counter() - began > HOLD:
                    # Whoever answers requests shares the interpreter with us, and would wait for it.
                    time.sleep(REST)
                    began = time.perf_counter()
                rows, (model, moment, records) = self._entries.popleft()
                try:
                    self._sink.take(
                        model, moment, [orjson.dumps(record, default=str) for record in records()]
                    )
                except Exception as error:  # one odd record is not to end the log
                    self._counted("dropped", rows)
                    say(f"requests: a record cannot be written: {error}")
                self._held = self._sink.held
                self._given += rows
                self._sink.look()
            self._sink.look(end=ending)
            self._held = self._sink.held


class Requests:
    """The request log.

    Args:
        sink: Where records go.
        view: What is declared.
        hashing: Of users and personal data.
        counted: Told how many records were written, or dropped.
    """

    def __init__(self, sink: Sink, view: RequestLog, hashing: Hashing, counted: Counted) -> None:
        self.sample, self._pii, self._hashing = view.sample, view.pii, hashing
        self._queue = _Queue(sink, view.pending, counted)

    def sampled(self, request: str) -> bool:
        """Whether a request is logged: by its id, so that everyone who sees it agrees."""
        if self.sample >= 1.0:
            return True
        digest = hashlib.blake2b(request.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        return int.from_bytes(digest) < self.sample * 2.0**64

    def put(self, rows: int, one: RequestsOfOne) -> bool:
        """Log a request if it is in the sample; False if it had to be dropped. Never waits.

        Args:
            rows: How many records it makes.
            one: The request.
        """
        if not self.sampled(one.request):
            return True
        return self._queue.put(rows, (one.model, one.time, lambda: self._records(one)))

    def _records(self, one: RequestsOfOne) -> list[dict[str, Any]]:
        inputs = one.inputs()
        outputs: Sequence[Mapping[str, Any] | None] = (
            [None] * len(inputs) if one.outputs is None else one.outputs()
        )
        user = self._hashing(one.user)
        return [
            {
                "time": one.time,
                "request": one.request,
                "row": row,
                "model": one.model,
                "version": one.version,
                "arm": one.arm,
                "role": one.role,
                "propensity": one.propensity,
                "user": user,
                "inputs": self._hidden(given),
                "outputs": answer,
                "latency_ms": one.latency_ms,
                "status": one.status,
            }
            for row, (given, answer) in enumerate(zip(inputs, outputs, strict=True))
        ]

    def _hidden(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        if not self._pii:
            return row
        return {name: self._hashing(value) if name in self._pii else value for name, value in row.items()}

    def close(self) -> None:
        """Write what is in memory."""
        self._queue.close()


class Truths:
    """The log of what came true.

    Args:
        folder: Of its files.
        counted: Told how many records were written, or dropped.
        pending: Records in memory; what comes on top is dropped.
        rows: Of one file.
        every: Seconds until what was logged is in a file.
    """

    def __init__(
        self,
        folder: Path,
        counted: Counted = lambda _outcome, _count: None,
        *,
        pending: int = 100_000,
        rows: int = 100_000,
        every: float = 60.0,
    ) -> None:
        self._queue = _Queue(FileSink(folder, rows, every, counted), pending, counted)

    def put(
        self, model: str, request: str, row: int, truth: str | float | None, reward: float | None = None
    ) -> bool:
        """Log what came true of a row; False if it had to be dropped. Never waits."""
        moment = time.time_ns()
        record = {"request": request, "row": row, "time": moment, "truth": truth, "reward": reward}
        return self._queue.put(1, (model, moment, lambda: [record]))

    def close(self) -> None:
        """Write what is in memory."""
        self._queue.close()


def open_requests(
    view: RequestLog | None, counted: Counted = lambda _outcome, _count: None
) -> Requests | None:
    """The request log that is declared; None if none is.

    Raises:
        PenstockError: Columns are to be hashed and there is no key, or what it needs is not installed.
    """
    if view is None:
        return None
    hashing = _hashing(view.hash_key, view.pii)
    sink: Sink
    if isinstance(view, FileLog):
        sink = FileSink(Path(view.folder), view.rows, view.every.total_seconds(), counted)
    else:
        sink = KafkaSink(view, counted)
    return Requests(sink, view, hashing, counted)
