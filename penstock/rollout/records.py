"""The request log: every answer and every shadow's, with the truth when it comes, for monitoring and off-policy estimates.

Exchanges are put aside as they are and taken apart in a thread, after the answer has gone out.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from penstock.rollout.answers import InvalidError, outputs
from penstock.rollout.upstream import Answer

if TYPE_CHECKING:
    from penstock.rollout.outcomes import Outcome
    from penstock.rollout.router import Call

__all__ = ["Exchange", "Log", "Records"]

MOST = 50_000  # exchanges that may wait; beyond, they are left out and counted


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request and what an arm made of it.

    Attributes:
        call: The request.
        arm: Who was asked.
        role: "answer" or "shadow".
        propensity: The chance that this arm had; None where nothing was drawn.
        answer: What it said; None if nothing.
        status: "ok", or what was wrong.
        seconds: That it took.
        time: Nanoseconds since 1970.
    """

    call: Call
    arm: str
    role: str
    propensity: float | None
    answer: Answer | None
    status: str
    seconds: float
    time: int = field(default_factory=time.time_ns)


@dataclass
class Log:
    """Where records go.

    Attributes:
        record: Takes one of the request log.
        truth: Takes one of the truths.
        close: Writes what is left.
    """

    record: Callable[[dict[str, Any]], None]
    truth: Callable[[dict[str, Any]], None]
    close: Callable[[], None]


class Records:
    """What is to be logged.

    Args:
        model: The model's name.
        log: Where it goes.
    """

    def __init__(self, model: str, log: Log) -> None:
        self.model, self.log = model, log
        self.lost = 0
        self._queue: queue.Queue[Exchange | Outcome | None] = queue.Queue(MOST)
        self._thread = threading.Thread(target=self._work, name="request-log", daemon=True)
        self._thread.start()

    def put(self, exchange: Exchange) -> None:
        """Log one, some time soon."""
        self._put(exchange)

    def put_truth(self, outcome: Outcome) -> None:
        """Log what turned out."""
        self._put(outcome)

    def _put(self, item: Exchange | Outcome) -> None:
        try:
            self._queue.put_nowait(item)
        except queue.Full:
            self.lost += 1

    def close(self) -> None:
        """Write what is left."""
        self._queue.put(None)
        self._thread.join()
        self.log.close()

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            # A full disk must not end the thread: what cannot be written is counted.
            try:
                if isinstance(item, Exchange):
                    for record in records(self.model, item):
                        self.log.record(record)
                else:
                    self.log.truth(truth(item))
            except Exception:
                self.lost += 1


def records(model: str, exchange: Exchange) -> list[dict[str, Any]]:
    """One record for each row, as penstock.requests describes them.

    Args:
        model: The model's name.
        exchange: What was asked and said.
    """
    call, answer = exchange.call, exchange.answer
    said: list[Any] = []
    version = ""
    if answer is not None:
        version = answer.headers.get(b"x-model-version", b"").decode("latin-1")
        with contextlib.suppress(InvalidError):
            said = outputs(answer, None, is_plain=call.is_plain) if answer.status == 200 else []
    status = exchange.status
    if status == "ok" and answer is not None and answer.status != 200:
        status = f"status {answer.status}"
    rows = _rows(call)
    return [
        {
            "time": exchange.time,
            "request": call.request,
            "row": at,
            "model": model,
            "version": version,
            "arm": exchange.arm,
            "role": exchange.role,
            "propensity": exchange.propensity,
            "user": call.user,
            "inputs": row,
            "outputs": said[at] if at < len(said) else None,
            "latency_ms": round(exchange.seconds * 1000, 3),
            "status": status,
        }
        for at, row in enumerate(rows)
    ]


def _rows(call: Call) -> list[dict[str, Any]]:
    try:
        told = orjson.loads(call.body)
        if call.is_plain:
            return [dict(row) for row in told["rows"]]
        columns = {tensor["name"]: tensor["data"] for tensor in told["inputs"]}
        count = int(told["inputs"][0]["shape"][0])
        return [{name: data[at] for name, data in columns.items()} for at in range(count)]
    except (orjson.JSONDecodeError, KeyError, IndexError, TypeError, ValueError):
        return []


def truth(outcome: Outcome) -> dict[str, Any]:
    """A record of the truths."""
    reward = None if outcome.reward is None else float(outcome.reward)
    return {
        "request": outcome.request,
        "row": outcome.row,
        "time": time.time_ns(),
        "truth": outcome.truth,
        "reward": reward,
    }
