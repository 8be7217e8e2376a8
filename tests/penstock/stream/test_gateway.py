"""The gateway over real sockets, before a real log."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import json
import os
import resource
import signal
import socket
import threading
import time
import zlib
from pathlib import Path

import httpx
import pytest
import websockets.sync.client
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.config.streaming import EmbeddedLog
from penstock.stream import keys
from penstock.stream.log import open_log
from tests.penstock.stream.gateways import body, gateway, message

SECOND = 10**9


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with gateway(
        tmp_path_factory.mktemp("gateway"), "gateway.limits.body_seconds=2s", "gateway.limits.readings=2000"
    ) as found:
        yield found


def post(running, content: bytes, **headers) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.post(
        f"{running.url}/v1/readings", content=content, headers={"content-type": "application/json"} | named
    )


def logged(running, least: int = 1) -> list:
    """The newest records of the log."""

    async def found():
        async with open_log(EmbeddedLog(kind="jetstream", folder=f"{running.folder}/log")) as log:
            return list(await log.tail("readings", max(least, 200)))

    return asyncio.run(found())


def test_what_is_acknowledged_is_in_the_log_as_it_came(running):
    before = time.time_ns()
    content = body(number=1, device="phone-ä", readings=3)
    answer = post(running, content)
    assert (answer.status_code, answer.json()) == (200, {"accepted": 3})
    (record,) = [r for r in logged(running) if r.key == "phone-ä".encode()]
    assert record.value == content
    assert record.headers["transport"] == b"http"
    assert before < int(record.headers["received"]) < time.time_ns()


@pytest.mark.parametrize(("encoding", "packed"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_a_packed_body_is_logged_unpacked(running, encoding, packed):
    content = body(number=2, device=f"packed-{encoding}", readings=50)
    assert post(running, packed(content), content_encoding=encoding).json() == {"accepted": 50}
    assert [r.value for r in logged(running) if r.key == f"packed-{encoding}".encode()] == [content]


def skewed(seconds: float) -> bytes:
    content = message()
    content["payload"][1]["time"] += int(seconds * SECOND)
    return json.dumps(content).encode()


REFUSALS = {
    "no JSON": (b"{", {}, 422, "message"),
    "a field that lacks": (json.dumps({"messageId": 1}).encode(), {}, 422, "sessionId"),
    "a reading of 2^63": (body().replace(b"-2", b"9223372036854775808"), {}, 422, "payload[0].values.y"),
    "three days behind": (skewed(-3 * 86400), {}, 422, "payload[1].time"),
    "three days ahead": (skewed(3 * 86400), {}, 422, "payload[1].time"),
    "too many readings": (body(readings=2001), {}, 422, "payload"),
    "not JSON by its type": (body(), {"content_type": "text/csv"}, 415, None),
    "an encoding unheard of": (body(), {"content_encoding": "br"}, 415, None),
    "not packed": (body(), {"content_encoding": "gzip"}, 400, None),
    "cut short": (gzip.compress(body())[:-9], {"content_encoding": "gzip"}, 400, None),
    "with more behind it": (gzip.compress(body()) + b"more", {"content_encoding": "gzip"}, 400, None),
    "too large": (b" " * 2_097_153, {}, 413, None),
    "a bomb": (gzip.compress(bytes(200 << 20)), {"content_encoding": "gzip"}, 413, None),
}


@pytest.mark.parametrize("what", sorted(REFUSALS))
def test_what_cannot_be_taken_is_refused_in_words_and_not_logged(running, what):
    content, headers, status, field = REFUSALS[what]
    before, memory = len(logged(running)), running.memory()
    answer = post(running, content, **headers)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    told = answer.json()
    assert told["status"] == status
    assert told["detail"]
    if field is not None:
        assert field in [error["field"] for error in told["errors"]]
    assert len(logged(running)) == before
    assert running.memory() - memory < 64 << 20


def test_a_body_of_a_gigabyte_is_refused_at_its_first_bytes(running):
    memory = running.memory()
    sent = 0
    with socket.create_connection(("127.0.0.1", running.port), timeout=20) as sock:
        sock.sendall(b"POST /v1/readings HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        chunk = b"100000\r\n" + b" " * (1 << 20) + b"\r\n"
        try:
            while sent < 1024:
                sock.sendall(chunk)
                sent += 1
        except OSError:
            pass
        answer = b""
        with contextlib.suppress(OSError):
            answer = sock.recv(100)
    assert sent < 64
    assert answer == b"" or b"413" in answer
    assert running.memory() - memory < 64 << 20
    assert post(running, body()).status_code == 200


def test_a_body_that_does_not_come_is_not_waited_for(running):
    with socket.create_connection(("127.0.0.1", running.port), timeout=20) as sock:
        sock.sendall(b"POST /v1/readings HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        assert b"408" in sock.recv(1000)


@pytest.fixture
def many_files():
    """Room for ten thousand connections in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 10_500), max(hard, 10_500)))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_files")
def test_ten_thousand_connections_that_say_nothing_are_closed_and_keep_nobody_out(tmp_path):
    with gateway(tmp_path, "gateway.limits.connections=500", "gateway.limits.body_seconds=3s") as small:
        memory = small.memory()
        silent = []
        for number in range(10_000):
            sock = socket.create_connection(("127.0.0.1", small.port), timeout=20)
            if number % 2:
                sock.send(b"POST /v1/readings HT")
            silent.append(sock)
            if number % 1000 == 999:
                assert post(small, body(number=number)).status_code == 200
        assert small.memory() - memory < 128 << 20
        for sock in silent:
            sock.settimeout(10)
            with contextlib.suppress(ConnectionError):
                assert sock.recv(1) == b""
            sock.close()
        assert post(small, body(number=10_000)).status_code == 200


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200), st.sampled_from(["", "gzip", "deflate", "x"]))
def test_no_body_is_more_than_refused(running, content, encoding):
    headers = {"content_encoding": encoding} if encoding else {}
    assert post(running, content, **headers).status_code in {400, 413, 415, 422}


def test_many_at_once_are_each_answered(running):
    async def push() -> list[int]:
        async with httpx.AsyncClient(limits=httpx.Limits(max_connections=100)) as client:
            answers = await asyncio.gather(
                *(
                    client.post(
                        f"{running.url}/v1/readings", content=body(number=n, device="many"), timeout=20
                    )
                    for n in range(300)
                )
            )
        return [answer.status_code for answer in answers]

    assert asyncio.run(push()) == [200] * 300
    assert {json.loads(r.value)["messageId"] for r in logged(running, 2000) if r.key == b"many"} == set(
        range(300)
    )


def test_a_websocket_answers_each_message(running):
    with websockets.sync.client.connect(f"ws://127.0.0.1:{running.port}/v1/readings") as sock:
        sock.send(body(number=1, device="socket"))
        assert json.loads(sock.recv()) == {"status": 200, "accepted": 2}
        sock.send("{}")
        told = json.loads(sock.recv())
        assert told["status"] == 422
        assert "sessionId" in [error["field"] for error in told["errors"]]
        sock.send(json.dumps(message(number=2, device="socket")))
        assert json.loads(sock.recv())["status"] == 200
    records = [r for r in logged(running) if r.key == b"socket"]
    assert [json.loads(r.value)["messageId"] for r in records] == [1, 2]
    assert records[0].headers["transport"] == b"ws"


def test_a_device_sends_as_itself_alone(tmp_path):
    file = tmp_path / "devices.yaml"
    key = keys.add(file, "phone")
    other = keys.add(file, "other")
    assert file.stat().st_mode & 0o077 == 0
    assert key not in file.read_text()
    with gateway(tmp_path, f"gateway.keys={file}") as guarded:
        basic = base64.b64encode(f"any:{key}".encode()).decode()
        for headers in (
            {"authorization": f"Bearer {key}"},
            {"x_api_key": key},
            {"authorization": f"Basic {basic}"},
        ):
            assert post(guarded, body(), **headers).status_code == 200
        assert post(guarded, body()).status_code == 401
        assert post(guarded, body(), authorization="Bearer guess").status_code == 401
        assert post(guarded, body(), authorization="Basic %%%").status_code == 401
        answer = post(guarded, body(), x_api_key=other)
        assert answer.status_code == 403
        assert answer.json()["errors"][0]["field"] == "deviceId"
        with pytest.raises(websockets.exceptions.InvalidStatus, match="403"):
            websockets.sync.client.connect(f"ws://127.0.0.1:{guarded.port}/v1/readings")
        keys.revoke(file, "phone")
        assert post(guarded, body(), x_api_key=key).status_code == 401
        new = keys.add(file, "phone")
        assert post(guarded, body(), x_api_key=new).status_code == 200
        out = (tmp_path / "gateway.out").read_text()
        assert not any(secret in out for secret in (key, other, new))


def test_a_device_that_sends_too_much_is_told_when_to_go_on(tmp_path):
    limits = ("gateway.limits.device_bytes_per_second=1000", "gateway.limits.device_burst_bytes=40000")
    with gateway(tmp_path, *limits) as slow:
        content = body(readings=200)
        codes = [post(slow, content).status_code for _ in range(4)]
        assert codes[0] == 200
        assert 429 in codes
        answer = post(slow, content)
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) >= 1
        assert post(slow, body(device="another")).status_code == 200


def test_a_log_that_stalls_is_never_acknowledged_for(tmp_path):
    with gateway(tmp_path, "gateway.limits.append=1s") as found:
        assert post(found, body(number=0)).status_code == 200
        about = json.loads((tmp_path / "log/server.json").read_text())
        os.kill(about["pid"], signal.SIGSTOP)
        try:
            answer = post(found, body(number=1))
            assert answer.status_code == 503
            assert "retry-after" in answer.headers
        finally:
            os.kill(about["pid"], signal.SIGCONT)
        ends = time.monotonic() + 20
        while post(found, body(number=2)).status_code != 200:
            assert time.monotonic() < ends
        assert found.metric("penstock_gateway_refusals_total", reason="log") >= 1
        numbers = [json.loads(r.value)["messageId"] for r in logged(found)]
        assert {0, 2} <= set(numbers)


def test_told_to_stop_it_answers_what_is_under_way_and_ends_its_log(tmp_path):
    with gateway(tmp_path) as found:
        pid = json.loads((tmp_path / "log/server.json").read_text())["pid"]
        content = body(number=5, readings=500)
        answers: list[bytes] = []

        def push() -> None:
            with socket.create_connection(("127.0.0.1", found.port), timeout=20) as sock:
                head = b"POST /v1/readings HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(content)
                sock.sendall(head + content[:100])
                started.set()
                told.wait(10)
                sock.sendall(content[100:])
                answers.append(sock.recv(1000))

        started, told = threading.Event(), threading.Event()
        pushing = threading.Thread(target=push)
        pushing.start()
        started.wait(10)
        assert found.process is not None
        found.process.send_signal(signal.SIGTERM)
        told.set()
        pushing.join()
        assert found.process.wait(30) == 0
        assert b"200 OK" in answers[0] or answers[0] == b""
        assert not Path(f"/proc/{pid}").exists()


def test_it_does_not_listen_to_everybody_without_keys(tmp_path):
    import subprocess
    import sys

    from tests.penstock.stream.gateways import ROOT

    command = [sys.executable, "-m", "penstock.cli", "stream", "gateway", "embedded", "gateway.host=0.0.0.0"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 2
    assert "no keys are asked for" in done.stderr
    assert "Traceback" not in done.stderr


def test_several_processes_share_the_port_and_count_together(tmp_path):
    with gateway(tmp_path, "gateway.workers=2") as found:
        for number in range(20):
            assert post(found, body(number=number)).status_code == 200
        assert found.metric("penstock_gateway_messages_total", outcome="taken") == 20


def test_openapi_describes_what_it_does(running):
    schema = httpx.get(f"{running.url}/openapi.json").json()
    push = schema["paths"]["/v1/readings"]["post"]
    assert push["requestBody"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/Push"
    }
    assert {"200", "413", "422", "429", "503"} <= set(push["responses"])
    (example,) = schema["components"]["schemas"]["Push"]["examples"]
    for reading in example["payload"]:
        reading["time"] = time.time_ns()
    assert post(running, json.dumps(example).encode()).status_code == 200


def test_schemathesis_finds_no_fault(running):
    import schemathesis
    from schemathesis.checks import not_a_server_error

    schema = schemathesis.openapi.from_url(f"{running.url}/openapi.json")
    for found in schema.get_all_operations():
        operation = found.ok()

        @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def examined(case):
            case.call_and_validate(checks=[not_a_server_error])

        examined()
