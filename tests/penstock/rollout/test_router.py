"""The router: who answers, who stands in, and that a client cannot tell it from a predictor."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import threading
import time
from functools import partial

import pytest

from penstock import keys
from penstock.errors import PenstockError
from penstock.rollout.router import CLIENTS
from penstock.rollout.state import open_store
from penstock.rollout.upstream import predictor_key
from tests.penstock.rollout.routers import declaration, plan, predictors, run, running, until
from tests.servers.programs import free_port, program

SINGLE = {"kind": "single", "champion": "a"}
HALVES = {
    "kind": "ab", "champion": "a", "shares": {"a": 0.5, "b": 0.5}, "without_user": "request",
    "baseline": 0.1, "effect": 0.02,
}  # fmt: skip
KPI = {"source": "reward", "kind": "proportion"}


def urls(found, *names):
    return {name: [found[name].url] for name in names}


def test_a_client_cannot_tell_it_from_a_predictor(tmp_path):
    async def test():
        async with predictors("a") as found, running(declaration(tmp_path, urls(found, "a"), SINGLE)) as it:
            answer = await it.predict(2, request="r-1")
            assert answer.status == 200
            assert [row["probability"] for row in json.loads(answer.body)["rows"]] == [0.7, 0.7]
            assert answer.headers[b"x-request-id"] == b"r-1"
            assert answer.headers[b"x-model-version"] == b"a"
            assert answer.headers[b"x-arm"] == b"a"
            assert (await it.predict(refuse=True)).status == 422
            assert (await it.get("/v2/health/live")).status == 200
            assert (await it.get("/v2/health/ready")).status == 200
            assert json.loads((await it.get("/v2/models/m")).body)["versions"] == ["a"]
            missing = await it.get("/v2/models/other/ready")
            assert (missing.status, list(json.loads(missing.body))) == (404, ["error"])
            tensors = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [3, 1], "data": [1, 2, 3]}]}
            status, told = await it.post("/v2/models/m/infer", tensors)
            assert status == 200
            assert told["outputs"][0]["shape"] == [3, 1]
            await until(lambda: it.router.versions == {"a": "a"})
            assert (await it.post("/v2/models/m/versions/a/infer", tensors))[0] == 200
            assert (await it.post("/v2/models/m/versions/b/infer", tensors))[0] == 404
            own = (await it.predict(request="not an id")).headers[b"x-request-id"]
            assert own != b"not an id"

    run(test)


def test_requests_that_come_before_the_answer_are_answered_in_order(tmp_path):
    async def test():
        async with (
            predictors("a", a="slow") as found,
            running(declaration(tmp_path, urls(found, "a"), SINGLE)) as it,
        ):
            host = it.url.removeprefix("http://")
            reader, writer = await asyncio.open_connection(*host.split(":"))
            body = json.dumps({"rows": [{"tenure": 1}]})
            for number in range(3):
                writer.write(
                    f"POST /v1/models/m/predict HTTP/1.1\r\nhost: {host}\r\nx-request-id: r-{number}\r\n"
                    f"content-length: {len(body)}\r\n\r\n{body}".encode()
                )
            for number in range(3):
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200")
                assert f"x-request-id: r-{number}\r\n".encode() in head
                length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
                assert b"probability" in await reader.readexactly(length)
            writer.close()

    run(test)


def test_an_address_is_passed_on_as_it_came_and_holds_no_second_request(tmp_path):
    async def test():
        async with predictors("a") as found, running(declaration(tmp_path, urls(found, "a"), SINGLE)) as it:
            smuggled = "%20HTTP/1.1%0d%0ahost:%20a%0d%0a%0d%0aPOST%20/v1/models/m/predict"
            for path in ("/v2/models/m" + smuggled, "/v2/models/m/" + smuggled, "/v2/models/m2"):
                for _ in range(3):
                    answer = await it.get(path)
                    assert answer.status in {200, 404}
                    assert b"probability" not in answer.body
                    assert b"probability" in (await it.predict(request="r")).body
            assert found["a"].paths.count("/v1/models/m/predict") == 9
            assert (await it.get("/v2/models/m2")).status == 404

    run(test)


def test_what_goes_wrong_before_anybody_is_asked_is_a_defect_and_no_bad_request(tmp_path, capsys):
    async def test():
        path = tmp_path / "keys.yaml"
        key = keys.add(path, "shop", CLIENTS)
        async with predictors("a") as found:
            view = declaration(tmp_path, urls(found, "a"), SINGLE, router={"keys": str(path)})
            async with running(view) as it:
                told = {"rows": [{"tenure": 1}]}
                post = partial(it.post, "/v1/models/m/predict", told)
                assert (await post())[0] == 401
                assert (await post(x_api_key=key))[0] == 200
                path.write_text("- [")
                assert (await post(x_api_key=key))[0] == 500

    run(test)
    assert "keys.yaml: not a file of clients' keys" in capsys.readouterr().err


def test_of_who_may_not_ask_no_body_is_kept_and_the_connection_goes_on(tmp_path):
    async def test():
        path = tmp_path / "keys.yaml"
        keys.add(path, "shop", CLIENTS)
        async with predictors("a") as found:
            view = declaration(tmp_path, urls(found, "a"), SINGLE, router={"keys": str(path)})
            async with running(view) as it:
                host = it.url.removeprefix("http://")
                reader, writer = await asyncio.open_connection(*host.split(":"))
                for _ in range(2):
                    writer.write(
                        f"POST /v1/models/m/predict HTTP/1.1\r\nhost: {host}\r\ncontent-length: 300000\r\n\r\n".encode()
                    )
                    writer.write(b"x" * 300_000)
                    head = await reader.readuntil(b"\r\n\r\n")
                    assert head.startswith(b"HTTP/1.1 401")
                    length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
                    await reader.readexactly(length)
                writer.close()

    run(test)


def test_predictors_elsewhere_are_told_the_key_that_they_ask_for(tmp_path, monkeypatch):
    monkeypatch.setenv("PREDICTOR_KEY", "of-the-predictor")

    async def test():
        async with predictors("a") as found:
            found["a"].key = "of-the-predictor"
            without = declaration(tmp_path, urls(found, "a"), SINGLE)
            async with running(without) as it:
                assert (await it.predict()).status == 401
            view = declaration(
                tmp_path, urls(found, "a"), SINGLE, router={"predictor_key": "${secret:PREDICTOR_KEY}"}
            )
            async with running(view) as it:
                assert (await it.predict()).status == 200
                assert (await it.get("/v2/models/m")).status == 200
                await until(lambda: it.router.versions == {"a": "a"})
                assert "of-the-predictor" not in repr(it.router.fleet)
            # A file of a secret ends with a line; what no header can have is refused, and not repeated.
            monkeypatch.setenv("PREDICTOR_KEY", "of-the-predictor\n")
            async with running(view) as it:
                assert (await it.predict()).status == 200
            monkeypatch.setenv("PREDICTOR_KEY", "of the predictor")
            with pytest.raises(PenstockError, match="characters that no header can have") as told:
                predictor_key(view.router)
            assert "of the predictor" not in str(told.value)

    run(test)


def test_a_request_that_meets_a_defect_is_answered_and_the_log_says_why(tmp_path, monkeypatch, capsys):
    async def test():
        async with predictors("a") as found, running(declaration(tmp_path, urls(found, "a"), SINGLE)) as it:
            await it.predict()
            monkeypatch.setattr(it.router.fleet, "next", lambda _: 1 // 0)
            answer = await it.predict()
            assert answer.status == 500
            assert b"ZeroDivisionError" not in answer.body
            monkeypatch.undo()
            assert (await it.predict()).status == 200

    run(test)
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_what_is_too_large_is_refused(tmp_path):
    async def test():
        view_of = lambda found: declaration(tmp_path, urls(found, "a"), SINGLE, router={"body_bytes": 500})  # noqa: E731
        async with predictors("a") as found, running(view_of(found)) as it:
            assert (await it.predict(100)).status == 413
            assert (await it.predict(1)).status == 200
            assert found["a"].asked.__len__() == 1

    run(test)


@pytest.mark.parametrize("mood", ["hang", "crash", "nan", "shape", "error", "garbage"])
def test_an_arm_that_fails_is_stood_in_for_and_taken_back(tmp_path, mood):
    """Under load, from one moment to the next, with every answer counted."""

    async def test():
        async with predictors("a", "b") as found:
            canary = {"kind": "canary", "champion": "a", "canary": "b", "steps": [50, 100], "bake": "PT60S"}
            view = declaration(tmp_path, urls(found, "a", "b"), canary)
            async with running(view) as it:
                statuses, arms, slowest = [], [], 0.0

                async def one(number):
                    nonlocal slowest
                    began = time.monotonic()
                    answer = await it.predict(request=f"r-{number}")
                    slowest = max(slowest, time.monotonic() - began)
                    statuses.append(answer.status)
                    arms.append(answer.headers[b"x-arm"])
                    if answer.status == 200:
                        assert (
                            json.loads(answer.body)["rows"][0]["said_by"].encode() == answer.headers[b"x-arm"]
                        )

                began, sent, broke, back = time.monotonic(), 0, None, None
                tasks, looked = [], 0.0
                while back is None and time.monotonic() - began < 12:
                    due = int((time.monotonic() - began) * 500)
                    while sent < due:
                        tasks.append(asyncio.create_task(one(sent)))
                        sent += 1
                    if arms.count(b"b") > 60 and broke is None:
                        found["b"].mood, broke = mood, time.monotonic()
                    if time.monotonic() - looked > 0.1:
                        looked = time.monotonic()
                        await asyncio.to_thread(it.controller.look)
                    if broke is not None and it.router.shared.settings.plan.strategy.kind == "single":
                        back = time.monotonic()
                    await asyncio.sleep(0.002)
                await asyncio.gather(*tasks)
                assert back is not None, "never taken back"
                assert back - broke < view.guardrails.within.total_seconds()
                assert set(statuses) == {200}, "a client saw the canary fail"
                assert len(statuses) == sent
                assert arms.count(b"b") > 50, "it has answered while it was well"
                assert slowest < 3.0
                last = it.store.history()[-1]
                assert (last.who, last.what) == ("controller", "rollback")
                assert "errors" in last.why
                assert (await it.predict()).headers[b"x-arm"] == b"a"

    run(test)


def test_a_shadow_that_hangs_slows_nobody_and_is_left_out(tmp_path):
    async def test():
        async with predictors("a", "b", b="hang") as found:
            shadow = {
                "kind": "shadow", "champion": "a", "challengers": ["b"], "queue": 10, "concurrency": 2,
            }  # fmt: skip
            async with running(declaration(tmp_path, urls(found, "a", "b"), shadow)) as it:
                took = []
                for _ in range(300):
                    began = time.monotonic()
                    assert (await it.predict()).headers[b"x-arm"] == b"a"
                    took.append(time.monotonic() - began)
                assert sorted(took)[150] < 0.05
                counters = await it.counters()
                assert counters["a"]["requests"] == 300
                # Two are on their way and ten wait; of all others it is known that they were not shown.
                assert counters["b"]["left_out"] >= 300 - 12 - 4
                assert len(found["b"].asked) <= 4

    run(test)


def test_a_shadow_is_compared_with_the_truth_when_it_comes(tmp_path):
    async def test():
        async with predictors("a", "b") as found:
            found["a"].probability, found["b"].probability = 0.9, 0.2
            shadow = {"kind": "shadow", "champion": "a", "challengers": ["b"]}
            kpi = {"source": "squared_error", "kind": "mean", "goal": "down", "positive": "yes"}
            async with running(declaration(tmp_path, urls(found, "a", "b"), shadow, kpi=kpi)) as it:
                await it.predict(2, request="r-1")
                await until(lambda: found["b"].asked == ["r-1"])
                await asyncio.sleep(0)
                await until(lambda: len(it.store.attributed("r-1")) == 2)
                assert await it.outcome("r-1", row=0, truth="yes") == (
                    200,
                    {"taken": 1, "repeated": 0, "unknown": []},
                )
                assert await it.outcome("r-1", row=1, truth="no") == (
                    200,
                    {"taken": 1, "repeated": 0, "unknown": []},
                )
                # What comes twice counts once.
                assert await it.outcome("r-1", row=1, truth="no") == (
                    200,
                    {"taken": 0, "repeated": 1, "unknown": []},
                )
                counters = await it.counters()
                assert counters["a"]["kpi_n"] == counters["b"]["kpi_n"] == 2
                assert counters["a"]["kpi_total"] == pytest.approx(0.01 + 0.81)
                assert counters["b"]["kpi_total"] == pytest.approx(0.64 + 0.04)
                assert (await it.outcome("never", truth="no"))[0] == 404
                assert (await it.outcome("r-1"))[0] == 422

    run(test)


def test_users_stick_and_routers_agree(tmp_path):
    async def test():
        async with predictors("a", "b") as found:
            view = declaration(tmp_path, urls(found, "a", "b"), HALVES, kpi=KPI)
            async with running(view) as one, running(view) as other:
                first = {
                    user: (await one.predict(user=user)).headers[b"x-arm"] for user in map(str, range(200))
                }
                again = {
                    user: (await other.predict(user=user)).headers[b"x-arm"] for user in map(str, range(200))
                }
                assert first == again
                assert 60 < list(first.values()).count(b"b") < 140
                await one.router.shared.flush()
                await other.router.shared.flush()
                counters = one.store.counters("1.0")
                users = {arm: counters[arm]["users"] for arm in ("a", "b")}
                assert users == {arm: list(first.values()).count(arm.encode()) for arm in ("a", "b")}
                assert counters["a"]["requests"] + counters["b"]["requests"] == 400

                await one.put(plan(strategy=SINGLE))
                await until(lambda: other.router.shared.settings.plan.strategy.kind == "single")
                assert {(await other.predict(user=user)).headers[b"x-arm"] for user in first} == {b"a"}

    run(test)


def test_a_user_counts_once_however_often_they_come_and_reward(tmp_path):
    async def test():
        async with predictors("a", "b") as found:
            kpi = KPI | {"absent": "zero"}
            view = declaration(tmp_path, urls(found, "a", "b"), HALVES, kpi=kpi)
            async with running(view) as it:
                arms = {}
                for user in map(str, range(60)):
                    for visit in range(3):
                        arms[user] = (await it.predict(user=user, request=f"{user}-{visit}")).headers[
                            b"x-arm"
                        ]
                for visit in range(3):
                    assert (await it.outcome(f"7-{visit}", reward=1))[0] == 200
                assert (await it.outcome("8-0", reward=0))[0] == 200
                counters = await it.counters()
                mine = counters[arms["7"].decode()]
                assert (mine["kpi_total"], mine["kpi_squares"]) == (1.0, 1.0)
                assert counters["a"]["kpi_n"] + counters["b"]["kpi_n"] == 60
                assert (await it.outcome("9-0", reward=0.5))[0] == 422

    run(test)


def test_a_request_without_a_user_is_refused_where_that_is_declared(tmp_path):
    async def test():
        async with predictors("a", "b") as found:
            view = declaration(tmp_path, urls(found, "a", "b"), HALVES | {"without_user": "refuse"}, kpi=KPI)
            async with running(view) as it:
                assert (await it.predict()).status == 400
                assert (await it.predict(user="u")).status == 200
                await it.put(plan(strategy=HALVES | {"without_user": "champion"}))
                assert {(await it.predict()).headers[b"x-arm"] for _ in range(30)} == {b"a"}
                counters = await it.counters()
                # Whoever cannot be assigned is not in the test.
                assert "a" not in counters

    run(test)


def test_a_champion_that_is_killed_is_waited_for(tmp_path):
    async def test():
        async with predictors("one", "two") as found:
            view = declaration(tmp_path, {"a": [found["one"].url, found["two"].url]}, SINGLE)
            async with running(view) as it:
                stop = asyncio.Event()
                statuses = []

                async def load():
                    while not stop.is_set():
                        statuses.append((await it.predict()).status)

                tasks = [asyncio.create_task(load()) for _ in range(8)]
                for _ in range(3):
                    for name in ("one", "two"):
                        at = len(statuses)
                        await until(lambda at=at: len(statuses) > at + 100)
                        await found[name].stop()
                        await until(lambda at=at: len(statuses) > at + 200)
                        await found[name].start()
                # Both away for a moment: requests wait, as long as there is time.
                for name in ("one", "two"):
                    await found[name].stop()
                await asyncio.sleep(0.3)
                for name in ("one", "two"):
                    await found[name].start()
                at = len(statuses)
                await until(lambda: len(statuses) > at + 100)
                stop.set()
                await asyncio.gather(*tasks)
                assert set(statuses) == {200}
                for name in ("one", "two"):
                    await found[name].stop()
                answer = await it.predict()
                assert answer.status == 503
                assert "no replica" in json.loads(answer.body)["error"]

    run(test)


def test_it_goes_on_without_the_state_and_loses_no_count(tmp_path, monkeypatch):
    async def test():
        async with predictors("a", "b") as found:
            view = declaration(tmp_path, urls(found, "a", "b"), HALVES, kpi=KPI)
            async with running(view) as it:
                await it.predict(user="before")
                await it.router.shared.flush()
                state, aside = tmp_path / "state.sqlite", tmp_path / "aside"
                # As if the disk were gone: what is opened anew cannot be. Each thread closes what it alone uses.
                closed, gone = [], threading.Event()

                def shut(store):
                    store.close()
                    closed.append(store)
                    gone.wait()

                shared = it.router.shared
                it.store.close()
                waiting = [asyncio.create_task(ask(shut)) for ask in (shared.asked, shared.written)]
                await until(lambda: len(closed) == 2)
                assert not list(tmp_path.glob("state.sqlite-*")), "all is in the file"
                state.rename(aside)
                state.mkdir()
                gone.set()
                await asyncio.gather(*waiting)
                await until(lambda: it.router.shared.is_down)
                for user in map(str, range(100)):
                    assert (await it.predict(user=user, request=f"r-{user}")).status == 200
                status, told = await it.outcome("r-1", reward=1)
                assert status == 503
                assert "again" in told["error"]
                state.rmdir()
                aside.rename(state)
                await until(lambda: not it.router.shared.is_down)
                assert (await it.outcome("r-1", reward=1))[0] == 200
                again = open_store(view)
                counters = again.counters("1.0")
                again.close()
                assert sum(counters[arm]["requests"] for arm in ("a", "b")) == 101
                assert sum(counters[arm]["users"] for arm in ("a", "b")) == 101

    run(test)


def test_routers_share_a_redis_and_go_on_while_it_is_away(tmp_path):
    port = free_port()
    command = [
        program("redis-server", package="redis-server"), "--port", str(port), "--bind", "127.0.0.1",
        "--appendonly", "yes", "--appendfsync", "always", "--dir", str(tmp_path), "--save", "",
    ]  # fmt: skip

    def started():
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                return process
            assert process.poll() is None

    async def test():
        nonlocal server
        async with predictors("a", "b") as found:
            state = {"kind": "redis", "url": f"redis://127.0.0.1:{port}/0"}
            view = declaration(tmp_path, urls(found, "a", "b"), HALVES, kpi=KPI, state=state)
            async with running(view) as one, running(view) as other:
                arms = {}
                for user in map(str, range(50)):
                    arms[user] = (await one.predict(user=user, request=user)).headers[b"x-arm"]
                await one.router.shared.flush()
                assert (await other.outcome("7", reward=1))[0] == 200
                server.kill()
                server.wait()
                await until(lambda: one.router.shared.is_down and other.router.shared.is_down)
                for it in (one, other):
                    assert {u: (await it.predict(user=u)).headers[b"x-arm"] for u in arms} == arms
                    assert (await it.outcome("8", reward=1))[0] == 503
                server = started()
                await until(lambda: not one.router.shared.is_down and not other.router.shared.is_down)
                assert (await one.outcome("8", reward=1))[0] == 200
                assert (await other.outcome("7", reward=1))[1]["repeated"] == 1
                await other.router.shared.flush()
                counters = one.store.counters("1.0")
                assert sum(counters[arm]["requests"] for arm in ("a", "b")) == 150
                assert sum(counters[arm]["users"] for arm in ("a", "b")) == 50
                assert sum(counters[arm].get("kpi_total", 0) for arm in ("a", "b")) == 2
                await one.put(plan(strategy=SINGLE))
                await until(lambda: other.router.shared.settings.champion == "a")

    server = started()
    try:
        run(test)
    finally:
        server.terminate()
        server.wait(20)
