"""Who shares a run, who waits, and who is sent away."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np

from penstock.config.serving import Batching, Limits
from penstock.serving.artefacts import Artefact, Work
from penstock.serving.batching import Batcher, Told
from penstock.serving.refusals import Refusal


@dataclass
class Number(Work):
    values: list[float]
    kind: str = ""

    def __len__(self) -> int:
        return len(self.values)

    def group(self) -> str:
        return self.kind


class Doubling(Artefact):
    """Stands in for a model: doubles numbers, when it is let go, and remembers what shared a run."""

    kind = "test"

    def __init__(self, cost: float) -> None:
        self.fixed_cost, self.runs = cost, []
        self.go = threading.Event()
        self.go.set()

    def run(self, works: Sequence[Work]) -> dict[str, Any]:
        self.go.wait()
        self.runs.append([len(work) for work in works])
        values = [value for work in works for value in work.values]
        if -1 in values:
            raise ValueError("no such number")
        return {"value": np.array(values, dtype=np.float64) * 2}

    plain = tensors = answers = records = row_schema = answer_schema = example = None


ON_LOOP, IN_THREAD = 0.0, 1.0
Doubling.__abstractmethods__ = frozenset()


class Batched:
    def __init__(self, cost: float, limits: Limits | None = None, **batching: Any) -> None:
        self.artefact = Doubling(cost)
        told = Told(lambda *_: None, lambda *_: None)
        self.batcher = Batcher(self.artefact, Batching(**batching), limits or Limits(), told)

    async def ask(self, *values: float, kind: str = "") -> Any:
        future = asyncio.get_running_loop().create_future()
        self.batcher.submit(Number(list(values), kind), future.set_result)
        return await future

    async def busy(self) -> None:
        while not self.batcher._busy:  # noqa: ASYNC110
            await asyncio.sleep(0)


def run(main) -> Any:
    async def bounded() -> Any:
        async with asyncio.timeout(20):
            return await main()

    return asyncio.run(bounded())


def test_what_comes_in_one_turn_of_the_loop_shares_a_run():
    async def main():
        batched = Batched(ON_LOOP)
        found = await asyncio.gather(*(batched.ask(n, n + 0.5) for n in range(10)))
        assert [list(each["value"]) for each in found] == [[2 * n, 2 * n + 1] for n in range(10)]
        assert batched.artefact.runs == [[2] * 10]

    run(main)


def test_what_comes_alone_is_run_at_once_and_what_comes_meanwhile_shares_the_next():
    async def main():
        batched = Batched(IN_THREAD)
        batched.artefact.go.clear()
        first = asyncio.create_task(batched.ask(1))
        await batched.busy()
        later = [asyncio.create_task(batched.ask(n)) for n in range(5)]
        await asyncio.sleep(0)
        batched.artefact.go.set()
        await asyncio.gather(first, *later)
        assert batched.artefact.runs == [[1], [1] * 5]

    run(main)


def test_a_run_has_no_more_rows_than_declared_and_one_group():
    async def main():
        batched = Batched(ON_LOOP, max_batch_size=4)
        await asyncio.gather(*(batched.ask(*range(3)) for _ in range(3)), batched.ask(*range(9)))
        assert batched.artefact.runs == [[3], [3], [3], [9]]
        batched.artefact.runs.clear()
        await asyncio.gather(*(batched.ask(1, kind=kind) for kind in "aabba"))
        assert batched.artefact.runs == [[1, 1], [1, 1], [1]]

    run(main)


def test_a_declared_wait_ends_with_the_time_or_a_full_batch():
    async def main():
        batched = Batched(ON_LOOP, max_batch_size=3, max_batch_time=timedelta(hours=1))
        first = asyncio.create_task(batched.ask(1))
        await asyncio.sleep(0.05)
        assert batched.artefact.runs == []
        await asyncio.gather(first, batched.ask(2), batched.ask(3))
        assert batched.artefact.runs == [[1, 1, 1]]
        soon = Batched(ON_LOOP, max_batch_time=timedelta(milliseconds=20))
        await soon.ask(1)
        assert soon.artefact.runs == [[1]]

    run(main)


def test_too_much_that_waits_is_refused():
    async def main():
        batched = Batched(IN_THREAD, Limits(queued_rows=10))
        batched.artefact.go.clear()
        first = asyncio.create_task(batched.ask(1))
        await batched.busy()
        waiting = asyncio.create_task(batched.ask(*range(8)))
        await asyncio.sleep(0)
        try:
            await batched.ask(1, 2, 3)
        except Refusal as refusal:
            told = (refusal.status, refusal.after)
        assert told == (503, 1)
        batched.artefact.go.set()
        assert list((await waiting)["value"]) == [2.0 * n for n in range(8)]
        await first

    run(main)


def test_a_model_that_does_not_answer_in_time_is_told_of_and_may_come_back():
    async def main():
        batched = Batched(IN_THREAD, Limits(answer_seconds=timedelta(seconds=0.1)))
        batched.artefact.go.clear()
        first = asyncio.create_task(batched.ask(1))
        await batched.busy()
        second = asyncio.create_task(batched.ask(2))
        assert [(await each).status for each in (first, second)] == [504, 503]
        batched.artefact.go.set()
        assert list((await batched.ask(3))["value"]) == [6]

    run(main)


def test_a_request_that_the_model_fails_on_costs_the_others_nothing():
    async def main():
        batched = Batched(ON_LOOP)
        bad, good = await asyncio.gather(batched.ask(-1), batched.ask(2))
        assert (bad.status, bad.reason) == (500, "model")
        assert list(good["value"]) == [4]

    run(main)


def test_a_number_that_is_not_finite_is_an_error_of_its_request_alone():
    async def main():
        batched = Batched(ON_LOOP)
        bad, good = await asyncio.gather(batched.ask(float("nan")), batched.ask(2))
        assert bad.reason == "not_finite"
        assert list(good["value"]) == [4]

    run(main)
