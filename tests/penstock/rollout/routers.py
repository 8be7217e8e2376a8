"""Routers under test: the real application on a real socket, before stand-ins for predictors."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from penstock.config.rollout import Plan, Rollout
from penstock.http_direct import direct
from penstock.http_serving import Server, configured, listening
from penstock.rollout import settings as rules
from penstock.rollout.audit import Intent
from penstock.rollout.back import create_back
from penstock.rollout.controller import Controller
from penstock.rollout.protocol import Direct
from penstock.rollout.router import Router
from penstock.rollout.settings import Settings
from penstock.rollout.shared import Shared
from penstock.rollout.state import Store, open_store
from penstock.rollout.upstream import Answer, Pool
from tests.penstock.rollout.standin import Predictor

ROW = {"tenure": 5, "plan": "a"}


def declaration(
    path: Path, arms: Mapping[str, Sequence[str]], strategy: dict[str, Any], **more: Any
) -> Rollout:
    """A rollout before predictors that run already."""
    router = {
        "poll": "PT0.02S",
        "flush": "PT0.05S",
        "timeouts": {"arm": "PT0.3S", "answer": "PT3S", "shadow": "PT1S"},
    }
    whole: dict[str, Any] = {
        "model": "m",
        "salt": "salt",
        "arms": {arm: {"urls": list(urls)} for arm, urls in arms.items()},
        "strategy": strategy,
        "state": {"kind": "sqlite", "path": str(path / "state.sqlite")},
        "tick": "PT0.1S",
        "router": router | more.pop("router", {}),
    }
    return Rollout.model_validate(whole | more)


@dataclass
class Running:
    """A router, what it stands before, and a client of it."""

    view: Rollout
    router: Router
    store: Store
    url: str
    pool: Pool
    controller: Controller
    tasks: list[asyncio.Task[Any]] = field(default_factory=list)

    async def predict(
        self, rows: int = 1, *, user: str | None = None, request: str | None = None, **row: Any
    ) -> Answer:
        head = b"POST /v1/models/m/predict HTTP/1.1\r\ncontent-type: application/json\r\n"
        if user is not None:
            head += b"x-user-id: %b\r\n" % user.encode()
        if request is not None:
            head += b"x-request-id: %b\r\n" % request.encode()
        body = json.dumps({"rows": [ROW | row] * rows}).encode()
        return await self.pool.ask(head, body, 10)

    async def post(self, path: str, told: Any, **headers: str) -> tuple[int, Any]:
        head = f"POST {path} HTTP/1.1\r\n".encode()
        for name, value in ({"content-type": "application/json"} | headers).items():
            head += f"{name.replace('_', '-')}: {value}\r\n".encode()
        answer = await self.pool.ask(head, json.dumps(told).encode(), 10)
        return answer.status, json.loads(answer.body)

    async def outcome(self, request: str, **told: Any) -> tuple[int, Any]:
        return await self.post("/v1/outcomes", {"outcomes": [{"request": request, **told}]})

    async def get(self, path: str) -> Answer:
        return await self.pool.ask(f"GET {path} HTTP/1.1\r\n".encode(), b"", 10)

    async def put(self, change: Callable[[Settings], Settings], *, seen: bool = True) -> Settings:
        """Change the settings, and wait until the router has them."""
        before = self.store.settings()
        assert before is not None
        after = change(before)
        self.store.change(before, after, Intent("test", "set", "to see what comes of it"))
        if seen:
            await until(lambda: self.router.shared.settings.version == after.version)
        return after

    async def counters(self) -> dict[str, dict[str, float]]:
        await self.router.shared.flush()
        settings = self.store.settings()
        assert settings is not None
        return self.store.counters(settings.stage)


async def until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110  (what is waited for knows of no event)
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def running(view: Rollout, **parts: Any) -> AsyncIterator[Running]:
    store = open_store(view)
    if store.settings() is None:
        store.change(None, rules.begun(view.plan(), "test"), Intent("test", "declare", "to begin with"))
    settings = store.settings()
    assert settings is not None
    shared = Shared(view, settings)
    registry = CollectorRegistry()
    router = Router(view, shared, back=create_back(view, shared, registry), registry=registry, **parts)
    server = Server(configured(router, direct(Direct(router)), 5.0))
    sock = listening("127.0.0.1", 0, "router")
    url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    client = Pool(url, 64, 10_000_000)
    tasks = [
        asyncio.create_task(work)
        for work in (server.serve(sockets=[sock]), shared.follow(), shared.hand_over(), router.tend())
    ]
    found = Running(view, router, store, url, client, Controller(view, store, name="test"), tasks)
    try:
        await until(lambda: server.started)
        yield found
    finally:
        client.close()
        server.leave()
        await tasks[0]
        for task in tasks[1:]:
            task.cancel()
        await asyncio.gather(*tasks[1:], return_exceptions=True)
        await router.close()
        await shared.close()
        store.close()


@contextlib.asynccontextmanager
async def predictors(*names: str, **moods: str) -> AsyncIterator[dict[str, Predictor]]:
    found = {name: await Predictor(version=name, mood=moods.get(name, "ok")).start() for name in names}
    try:
        yield found
    finally:
        for one in found.values():
            await one.stop()


def plan(**changes: Any) -> Callable[[Settings], Settings]:
    """A change to another plan."""

    def change(settings: Settings) -> Settings:
        return rules.changed(settings, Plan.model_validate(settings.plan.model_dump() | changes))

    return change


def run(test: Callable[[], Awaitable[None]]) -> None:
    """On uvloop, as routers run."""
    import uvloop

    async def whole() -> None:
        await test()
        for _ in range(5):  # what is aborted closes in the loop's next turns
            await asyncio.sleep(0.01)

    uvloop.run(whole())
