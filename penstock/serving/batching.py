"""Requests that share a run of the model.

A quick model runs on the event loop itself: handing it to a thread and back would cost more than the run. What has been read
from all connections in one turn of the loop shares the run at the end of that turn, so that nobody waits when there is nobody to
wait for. A slow model runs in a thread; what comes meanwhile shares the next run.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from penstock.config.serving import Batching, Limits
from penstock.serving.artefacts import Artefact, Outputs, Work, outputs_of
from penstock.serving.refusals import Refusal

__all__ = ["Batcher", "Done", "Told"]

ON_LOOP = 0.000_5  # seconds of a run of one row up to which a model runs on the loop
TURN = 0.002  # seconds for which a run may keep the loop from all else
RETRY = 1  # seconds after which a refused request may try again

# Called with the outputs of a request's rows, or with why there are none.
Done = Callable[[Outputs | Refusal], None]


@dataclass(slots=True)
class _Waiting:
    work: Work
    done: Done
    rows: int
    since: float


@dataclass(frozen=True)
class Told:
    """What is told of every run, for the metrics.

    Attributes:
        run: Rows and seconds.
        queued: Rows that wait.
    """

    run: Callable[[int, float], None]
    queued: Callable[[int], None]


class Batcher:
    """Runs one artefact.

    Args:
        artefact: What is run.
        batching: How requests are put together.
        limits: Rows that may wait, and seconds for an answer.
        told: For the metrics.
    """

    def __init__(self, artefact: Artefact, batching: Batching, limits: Limits, told: Told) -> None:
        self.artefact, self.told = artefact, told
        self.on_loop = artefact.fixed_cost <= ON_LOOP and not artefact.heavy
        self.most = batching.max_batch_size
        if self.on_loop and artefact.row_cost > 0:
            self.most = max(1, min(self.most, int(TURN / artefact.row_cost)))
        self._wait = batching.max_batch_time.total_seconds()
        self._queue_limit, self._patience = limits.queued_rows, limits.answer_seconds.total_seconds()
        self._loop = asyncio.get_running_loop()
        self._queue: deque[_Waiting] = deque()
        self._queued = 0
        self._due: asyncio.Handle | None = None
        self._busy = False
        # A thread of its own: a model that hangs holds up no other. It ends when nobody holds the batcher any more.
        self._pool = None if self.on_loop else ThreadPoolExecutor(1, thread_name_prefix="penstock-run")

    @property
    def idle(self) -> bool:
        """Whether nothing waits or runs."""
        return not self._busy and not self._queue

    def submit(self, work: Work, done: Done) -> None:
        """Have rows run, and ``done`` called on the loop, later.

        Raises:
            Refusal: Too much waits already.
        """
        rows = len(work)
        if self._queued and self._queued + rows > self._queue_limit:
            raise Refusal(503, "queue", "too much waits for this model; try again", after=RETRY)
        self._queue.append(_Waiting(work, done, rows, time.perf_counter()))
        self._queued += rows
        if self._busy:
            return
        if self._due is None:
            if self._wait and self._queued < self.most:
                self._due = self._loop.call_later(self._wait, self._flush)
            else:
                self._due = self._loop.call_soon(self._flush)
        elif self._wait and self._queued >= self.most:
            self._due.cancel()
            self._due = self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._due = None
        batch = self._taken()
        if not batch:
            return
        if self._pool is None:
            self._run_here(batch)
            if self._queue and self._due is None:
                self._due = self._loop.call_soon(self._flush)
        else:
            self._run_there(batch, self._pool)

    def _taken(self) -> list[_Waiting]:
        """The next requests that share a run: of one group, as many rows as are allowed, at least one request."""
        batch: list[_Waiting] = []
        rows, group = 0, None
        late = time.perf_counter() - self._patience
        while self._queue:
            first = self._queue[0]
            if batch and (rows + first.rows > self.most or first.work.group() != group):
                break
            self._queue.popleft()
            self._queued -= first.rows
            if first.since < late:
                first.done(Refusal(503, "queue", "the model did not get to it in time", after=RETRY))
                continue
            group = first.work.group()
            batch.append(first)
            rows += first.rows
        self.told.queued(self._queued)
        return batch

    def _run_here(self, batch: list[_Waiting]) -> None:
        began = time.perf_counter()
        result = self._run(batch)
        self.told.run(sum(waiting.rows for waiting in batch), time.perf_counter() - began)
        _handed_out(batch, result)

    def _run(self, batch: list[_Waiting]) -> Outputs | Refusal:
        try:
            return self.artefact.run([waiting.work for waiting in batch])
        except Refusal as refusal:
            return refusal
        except Exception as error:  # whatever the runtime raises is the model's, not the caller's
            words = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            return Refusal(500, "model", f"the model has failed: {words}")

    def _run_there(self, batch: list[_Waiting], pool: ThreadPoolExecutor) -> None:
        self._busy = True
        began = time.perf_counter()
        answered = False

        def late() -> None:
            nonlocal answered
            answered = True
            refusal = Refusal(504, "late", f"the model has not answered within {self._patience:.0f} s")
            _handed_out(batch, refusal)
            # It may never come back: what waits behind it is told so now.
            while self._queue:
                waiting = self._queue.popleft()
                waiting.done(Refusal(503, "queue", "the model does not get on; try again", after=RETRY))
            self._queued = 0
            self.told.queued(0)

        limit = self._loop.call_later(self._patience, late)

        def finished(future: asyncio.Future[Outputs | Refusal]) -> None:
            limit.cancel()
            self._busy = False
            if not answered:
                self.told.run(sum(waiting.rows for waiting in batch), time.perf_counter() - began)
                _handed_out(batch, future.result())
            if self._queue and self._due is None:
                self._flush()

        self._loop.run_in_executor(pool, self._run, batch).add_done_callback(finished)


def _handed_out(batch: list[_Waiting], result: Outputs | Refusal) -> None:
    start = 0
    for waiting in batch:
        answer = result
        if not isinstance(result, Refusal):
            try:
                answer = outputs_of(result, start, waiting.rows)
            except Refusal as refusal:
                answer = refusal
        start += waiting.rows
        waiting.done(answer)
