"""What a router puts into the request log: every answer, every shadow's, every failure of an arm, and the truth when it comes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from penstock.config.rollout import Rollout
from penstock.requests import RequestsOfOne, Truths, open_requests
from penstock.rollout.answers import InvalidError, outputs
from penstock.rollout.upstream import Answer

if TYPE_CHECKING:
    from penstock.rollout.outcomes import Outcome
    from penstock.rollout.router import Call

__all__ = ["Records"]


class Records:
    """The log of one router process. Taking requests apart is left to the log's thread.

    Args:
        view: What is declared, with a request log.

    Raises:
        PenstockError: Columns are to be hashed and there is no key, or what it needs is not installed.
    """

    def __init__(self, view: Rollout) -> None:
        self.model = view.model
        self.dropped = 0
        found = open_requests(view.requests, self._told)
        assert found is not None
        self._requests = found
        self._truths = Truths(Path(view.truths), self._told)

    def _told(self, outcome: str, count: int) -> None:
        if outcome == "dropped":
            self.dropped += count

    def put(
        self,
        call: Call,
        arm: str,
        role: str,
        answer: Answer | None,
        seconds: float,
        *,
        propensity: float | None = None,
        status: str = "ok",
    ) -> None:
        """Log what an arm made of a request.

        Args:
            call: The request.
            arm: Who was asked.
            role: "answer" or "shadow".
            answer: What it said; None if nothing.
            seconds: That it took.
            propensity: The chance that this arm had; None where nothing was drawn.
            status: "ok", or what was wrong.
        """
        version = "" if answer is None else answer.headers.get(b"x-model-version", b"").decode("latin-1")
        if status == "ok" and answer is not None and answer.status != 200:
            status = f"status {answer.status}"
        is_said = answer is not None and answer.status == 200
        self._requests.put(
            call.rows or 1,
            RequestsOfOne(
                time.time_ns(),
                call.request,
                self.model,
                version,
                lambda: _rows(call),
                (lambda: _said(call, answer)) if is_said else None,
                round(seconds * 1000, 3),
                status.split(":", 1)[0],
                arm,
                role,
                propensity,
                call.user_in_clear,
            ),
        )

    def put_truth(self, outcome: Outcome) -> None:
        """Log what turned out."""
        truth = outcome.truth
        reward = None if outcome.reward is None else float(outcome.reward)
        self._truths.put(
            self.model,
            outcome.request,
            outcome.row,
            float(truth) if isinstance(truth, bool) else truth,
            reward,
        )

    def close(self) -> None:
        """Write what is in memory."""
        self._requests.close()
        self._truths.close()


def _rows(call: Call) -> Sequence[Mapping[str, Any]]:
    try:
        told = orjson.loads(call.body)
        if call.is_plain:
            return [dict(row) for row in told["rows"]]
        columns = {tensor["name"]: tensor["data"] for tensor in told["inputs"]}
        count = int(told["inputs"][0]["shape"][0])
        return [{name: data[at] for name, data in columns.items()} for at in range(count)]
    except (orjson.JSONDecodeError, KeyError, IndexError, TypeError, ValueError):
        return []


def _said(call: Call, answer: Answer | None) -> Sequence[Mapping[str, Any]]:
    """As many as there are rows, whatever was said."""
    found: list[Mapping[str, Any]] = []
    if answer is not None:
        with contextlib.suppress(InvalidError):
            found = outputs(answer, None, is_plain=call.is_plain)
    rows = len(_rows(call))
    return [*found, *({} for _ in range(rows))][:rows]
