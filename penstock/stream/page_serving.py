"""The live page: a process that reads what comes from the log, beside the path and not in it.

It is of no group, holds nothing up and misses what it misses. What the indexers know (lag, activities) it asks of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from penstock.config.streaming import Stream
from penstock.console import say
from penstock.errors import PenstockError
from penstock.stream.deadletters import listed
from penstock.stream.live import CHART, Live
from penstock.stream.log import Log, open_log

__all__ = ["create_page", "serve"]

PACE = 0.5  # seconds between two messages to a browser
ASK = 1.0  # seconds between looks at gateways and indexers
LETTERS = 5  # newest dead letters
FETCH = 200
WAIT = 0.25
TIMEOUT = 2.0
FILES = Path(__file__).parent / "page"
KINDS = {"index.html": "text/html", "live.css": "text/css", "live.js": "text/javascript"}
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


@dataclass
class Beside:
    """What gateways, indexers and dead letters say.

    Attributes:
        problems: In words.
        lag: Messages that are not stored; None while no indexer answers.
        dead_count: Dead letters that indexers have written since they began.
        dead: The newest ones.
        activities: Of devices, the newest.
    """

    problems: list[str] = field(default_factory=list)
    lag: float | None = None
    dead_count: float | None = None
    dead: list[dict[str, str]] = field(default_factory=list)
    activities: dict[str, Any] = field(default_factory=dict)


def serve(view: Stream) -> int:
    """Run the page until it is told to stop (SIGTERM, SIGINT); its exit code.

    Raises:
        PenstockError: It may not listen where it is declared to, or cannot.
    """
    import uvloop

    return uvloop.run(_run(view))


async def _run(view: Stream) -> int:
    import uvicorn

    from penstock.http_serving import Server, listening

    if view.page.host not in {"127.0.0.1", "localhost", "::1"}:
        raise PenstockError(
            f"page.host: {view.page.host} can be reached from elsewhere, and the page asks for no credentials",
            hint="leave it at 127.0.0.1, and have a proxy that asks for them, or ssh -L 8402:127.0.0.1:8402",
        )
    sock = listening(view.page.host, view.page.port, "page")
    say(f"page: http://{view.page.host}:{sock.getsockname()[1]}/")
    async with open_log(view.log) as log:
        live, beside = Live(), Beside()
        config = uvicorn.Config(
            create_page(live, beside),
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=1,
        )
        server = Server(config)

        def leave() -> None:
            server.leave()
            server.force_exit = True  # a browser's stream has no end of its own

        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, leave)
        tasks = [asyncio.create_task(_follow(view, log, live)), asyncio.create_task(_ask(view, log, beside))]
        try:
            await server.serve(sockets=[sock])
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    return 0


async def _follow(view: Stream, log: Log, live: Live) -> None:
    while True:
        with contextlib.suppress(PenstockError):
            async with log.follow(view.log.readings.name) as follower:
                while True:
                    live.take(await follower.fetch(FETCH, WAIT), time.monotonic())
                    live.tidy(time.monotonic())
        await asyncio.sleep(ASK)  # it does not answer now


# --- what others say --------------------------------------------------------------------------------


async def _ask(view: Stream, log: Log, beside: Beside) -> None:
    gateway, indexer = view.gateway, view.indexer
    kind = "https" if gateway.certificate else "http"
    gateways = view.page.gateways or (f"{kind}://{gateway.host}:{gateway.port}",)
    indexers = view.page.indexers or (f"http://{indexer.metrics_host}:{indexer.metrics_port}",)
    while True:
        problems = [
            f"the gateway at {url} does not answer"
            for url in gateways
            if await asyncio.to_thread(_got, f"{url}/health/live") is None
        ]
        lag = dead = 0.0
        activities: dict[str, Any] = {}
        answered = 0
        for url in indexers:
            metrics = await asyncio.to_thread(_got, f"{url}/metrics")
            told = await asyncio.to_thread(_got, f"{url}/activities")
            if metrics is None:
                problems.append(f"the indexer at {url} does not answer")
                continue
            answered += 1
            lag += _summed(metrics, b"penstock_indexer_lag_records{")
            dead += _summed(metrics, b"penstock_indexer_dead_letters_total{")
            if _summed(metrics, b"penstock_indexer_paused"):
                problems.append("the store holds the indexer up")
            if told is not None:
                activities |= orjson.loads(told)
        beside.problems, beside.activities = problems, activities
        beside.lag, beside.dead_count = (lag, dead) if answered else (None, None)
        with contextlib.suppress(Exception):  # of any client; the log's state shows in what comes
            beside.dead = [
                {
                    "device": letter.key.decode("utf-8", "replace"),
                    "kind": letter.kind,
                    "place": f"{letter.origin[0]}:{letter.origin[1]}",
                    "reason": letter.reason,
                }
                for letter in reversed(await listed(view, log, LETTERS))
            ]
        await asyncio.sleep(ASK)


def _got(url: str) -> bytes | None:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:  # noqa: S310  (http or https: the view says so)
            return bytes(answer.read())
    except (OSError, ValueError):
        return None


def _summed(metrics: bytes, name: bytes) -> float:
    return sum(float(line.rsplit(b" ", 1)[1]) for line in metrics.splitlines() if line.startswith(name))


# --- what browsers get ------------------------------------------------------------------------------

Send = Callable[[dict[str, Any]], Awaitable[None]]


def create_page(live: Live, beside: Beside) -> Any:
    """The application.

    Args:
        live: What comes.
        beside: What others say.
    """
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.requests import Request
    from starlette.responses import Response, StreamingResponse
    from starlette.routing import Route

    contents = {name: (FILES / name).read_bytes() for name in KINDS}

    async def file(request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        if name not in KINDS:
            return Response("not here\n", 404, media_type="text/plain")
        return Response(contents[name], headers=HEADERS, media_type=KINDS[name])

    async def events(chosen: str | None) -> AsyncIterator[bytes]:
        while True:
            told = live.told(chosen, time.monotonic()) | {
                "seconds": CHART,
                "problems": beside.problems,
                "lag": beside.lag,
                "dead_count": beside.dead_count,
                "dead": beside.dead,
                "activities": beside.activities,
            }
            yield b"data: %b\n\n" % orjson.dumps(told)
            await asyncio.sleep(PACE)

    async def stream(request: Request) -> StreamingResponse:
        chosen = request.query_params.get("device")
        return StreamingResponse(events(chosen), headers=HEADERS, media_type="text/event-stream")

    async def alive(_: Request) -> Response:
        return Response("live\n", media_type="text/plain")

    # A page elsewhere that has its name point here is not to read what is only for this machine.
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost", "[::1]"])
    routes = [
        Route("/", file),
        Route("/live", stream),
        Route("/health/live", alive),
        Route("/{name}", file),
    ]
    return Starlette(routes=routes, middleware=[hosts])
