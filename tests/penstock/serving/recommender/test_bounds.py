"""What is refused before it costs anything, without a server."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from prometheus_client import CollectorRegistry

from penstock.config.serving.recommender import Recommend
from penstock.serving.recommender.bounds import Bounded
from penstock.serving.recommender.metrics import Metrics

LOCAL = [(b"host", b"127.0.0.1:8700")]


async def asked(
    bounded: Bounded, path: str = "/v1/x", headers: Any = LOCAL
) -> tuple[int, dict[bytes, bytes], Any]:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await bounded({"type": "http", "path": path, "headers": headers}, receive, send)
    return sent[0]["status"], dict(sent[0]["headers"]), json.loads(sent[1]["body"])


def made(app: Any, **limits: Any) -> Bounded:
    view = Recommend.model_validate({"limits": limits})
    return Bounded(app, view, Metrics(CollectorRegistry()))


async def fine(_scope: Any, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})


def test_more_than_is_answered_at_a_time_is_to_come_again_and_health_is_told_all_the_same():
    async def run() -> None:
        go_on = asyncio.Event()

        async def slow(scope: Any, receive: Any, send: Any) -> None:
            if scope["path"] == "/v1/x":
                await go_on.wait()
            await fine(scope, receive, send)

        bounded = made(slow, in_flight=2)
        under_way = [asyncio.create_task(asked(bounded)) for _ in range(2)]
        await asyncio.sleep(0)
        status, headers, told = await asked(bounded)
        assert (status, headers[b"retry-after"], told) == (
            503,
            b"1",
            {"error": "2 requests are being answered"},
        )
        assert (await asked(bounded, "/health/live"))[0] == 200
        go_on.set()
        assert [status for status, *_ in await asyncio.gather(*under_way)] == [200, 200]
        assert (await asked(bounded))[0] == 200

    asyncio.run(run())


def test_a_defect_is_told_in_the_log_and_not_to_whoever_has_asked(capsys):
    async def broken(_scope: Any, _receive: Any, _send: Any) -> None:
        raise RuntimeError("a secret")

    status, headers, told = asyncio.run(asked(made(broken)))
    assert status == 500
    assert headers[b"x-request-id"]
    assert "secret" not in str(told)
    assert "a secret" in capsys.readouterr().err


def test_only_this_machine_is_named_in_host():
    for host, status in (
        (b"127.0.0.1:8700", 200),
        (b"localhost", 200),
        (b"[::1]:8700", 200),
        (b"127.0.0.1.evil.example:80", 400),
        (b"evil.example", 400),
        (b"", 400),
    ):
        assert asyncio.run(asked(made(fine), headers=[(b"host", host)]))[0] == status, host
    assert asyncio.run(asked(made(fine), headers=[]))[0] == 400
