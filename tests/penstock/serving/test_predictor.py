"""A real predictor over real sockets."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import polars as pl
import pytest

from penstock import keys
from penstock.request_reading import scan
from penstock.serving.predictor import ADMIN, CLIENT
from tests.penstock.serving.predictors import (
    FAULTY,
    ROOT,
    Running,
    model_of,
    onnx_of,
    place,
    predictor,
    row,
)
from tests.servers.programs import until

QUICK = ("reload.poll=1s", "limits.drain_seconds=0s")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    place(folder / "toy", model_of(5.0))
    place(folder / "faulty", onnx_of(FAULTY))
    return folder


@pytest.fixture(scope="module")
def running(folders, tmp_path_factory):
    with predictor(
        tmp_path_factory.mktemp("serve"),
        str(folders / "toy"),
        str(folders / "faulty"),
        "requests=null",
        "limits.rows=50",
        "limits.body_bytes=100000",
        "limits.body_seconds=1s",
        "limits.answer_seconds=2s",
        *QUICK,
    ) as found:
        yield found


# --- answers ----------------------------------------------------------------------------------------


def test_rows_are_answered_with_their_version(running):
    answer = running.predict(row(), row(plan="basic", income=None), x_request_id="abc-1")
    told = answer.json()
    assert answer.status_code == 200
    assert [each["value"] for each in told["rows"]] == [1047.5, 45.0]
    assert told["model"] == "toy"
    assert told["request"] == answer.headers["x-request-id"] == "abc-1"
    assert told["version"] == answer.headers["x-model-version"]
    assert len(told["version"]) == 12


def test_a_request_without_an_id_or_with_an_odd_one_is_given_one(running):
    ids = {running.predict(row(), **{"x-request-id": 'a"b'}).json()["request"] for _ in range(3)}
    assert len(ids) == 3
    assert 'a"b' not in ids


def tensors(count: int = 1) -> list[dict]:
    kinds = {"age": "INT64", "income": "FP32", "vip": "BOOL", "plan": "BYTES", "town": "BYTES"}
    return [
        {"name": name, "datatype": kinds[name], "shape": [count, 1], "data": [value] * count}
        for name, value in row().items()
    ]


def test_tensors_are_answered(running):
    answer = running.infer({"id": "7", "inputs": tensors(3)})
    told = answer.json()
    assert answer.status_code == 200
    assert told["id"] == "7"
    assert told["model_version"] == answer.headers["x-model-version"]
    assert told["outputs"] == [
        {"name": "value", "datatype": "FP32", "shape": [3, 1], "data": [1047.5, 1047.5, 1047.5]}
    ]


def test_tensors_may_be_bytes_both_ways(running):
    inputs = tensors()
    for item in inputs:
        if item["name"] == "age":
            item.pop("data")
            item["parameters"] = {"binary_data_size": 8}
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    answer = running.infer(
        head + struct.pack("<q", 41), **{"inference-header-content-length": str(len(head))}
    )
    length = int(answer.headers["inference-header-content-length"])
    assert json.loads(answer.content[:length])["outputs"][0]["parameters"] == {"binary_data_size": 4}
    assert struct.unpack("<f", answer.content[length:]) == (1048.5,)


def test_an_input_that_may_be_missing_may_be_left_out(running):
    inputs = [item for item in tensors() if item["name"] not in {"income", "town"}]
    assert running.infer({"inputs": inputs}).json()["outputs"][0]["data"] == [1045.0]


def test_metadata_say_what_is_taken_and_given(running):
    told = httpx.get(f"{running.url}/v2/models/toy").json()
    assert told["name"] == "toy"
    assert told["platform"] == "onnx_onnxv1"
    assert told["inputs"][0] == {"name": "age", "datatype": "FP32", "shape": [-1, 1]}
    assert told["inputs"][3] == {"name": "plan", "datatype": "BYTES", "shape": [-1, 1]}
    assert told["outputs"] == [{"name": "value", "datatype": "FP32", "shape": [-1, 1]}]
    (version,) = told["versions"]
    assert httpx.get(f"{running.url}/v2/models/toy/versions/{version}").json()["versions"] == [version]
    assert httpx.get(f"{running.url}/v2/models/toy/versions/{version}/ready").json()["ready"] is True
    assert httpx.get(f"{running.url}/v2/models/toy/ready").json() == {"name": "toy", "ready": True}
    assert httpx.get(f"{running.url}/v2").json()["extensions"] == ["binary_tensor_data"]
    assert httpx.get(f"{running.url}/v2/health/live").json() == {"live": True}


def test_requests_behind_each_other_on_a_connection_are_answered_in_their_order(running):
    def request(path: str, body: bytes) -> bytes:
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        return head.encode() + body

    bodies = [json.dumps({"rows": [row(age=age)]}).encode() for age in range(20)]
    get = b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n"
    sent = b"".join(request("/v1/models/toy/predict", body) + get for body in bodies)
    with socket.create_connection(("127.0.0.1", running.port), timeout=10) as sock:
        sock.sendall(sent)
        got = b""
        while got.count(b"HTTP/1.1 200 OK") < 40 or not got.endswith(b"}"):
            got += sock.recv(1 << 16)
    found = [part.split(b"\r\n\r\n")[1] for part in got.split(b"HTTP/1.1 200 OK")[1:]]
    assert [json.loads(each)["rows"][0]["value"] for each in found[::2]] == [
        age + 1007.5 for age in range(20)
    ]
    assert set(found[1::2]) == {b'{"live":true}'}


# --- refusals ---------------------------------------------------------------------------------------

REFUSED = {
    "no JSON": (b"{", 400, "not JSON"),
    "no rows": (b"{}", 422, "rows"),
    "none of them": (b'{"rows": []}', 422, "at least one"),
    "too many": (json.dumps({"rows": [row()] * 51}).encode(), 413, "at most 50"),
    "too large": (b" " * 100_001, 413, "at most 100000 bytes"),
    "no object": (b'{"rows": [7]}', 422, "row 0"),
    "a key beside rows": (json.dumps({"rows": [row()], "k": 1}).encode(), 422, "'k'"),
    "not a number's bytes": (b'{"rows": [{"age": NaN}]}', 400, "not JSON"),
    "lists without end": (b'{"rows": ' + b"[" * 50_000, 400, "not JSON"),
    "not UTF-8": (b'{"rows": [{"plan": "\xff"}]}', 400, "not JSON"),
}


@pytest.mark.parametrize("what", sorted(REFUSED))
def test_what_is_no_request_is_refused_in_words(running, what):
    content, status, words = REFUSED[what]
    answer = httpx.post(f"{running.url}/v1/models/toy/predict", content=content)
    assert answer.status_code == status
    assert words in answer.json()["error"]


FAULTS = {
    "of another type": (row(age="abc"), "age", "expected integer, found 'abc'"),
    "out of range": (row(age=101), "age", "expected at most 100, found '101'"),
    "not there": ({k: v for k, v in row().items() if k != "age"}, "age", "expected a value, found none"),
    "no category": (row(plan="platinum"), "plan", "expected one of basic, gold, found 'platinum'"),
    "infinite": (row(income="inf"), "income", "expected number, found 'inf'"),
    "a list": (row(income=[1]), "income", "expected number, found a list"),
    "no column": (row(agee=3), "agee", "the model has no such column; did you mean 'age'?"),
}


@pytest.mark.parametrize("what", sorted(FAULTS))
def test_each_value_that_breaks_the_contract_is_named(running, what):
    bad, column, message = FAULTS[what]
    answer = running.predict(row(), bad)
    assert answer.status_code == 422
    assert answer.json()["errors"] == [{"row": 1, "column": column, "message": message}]
    assert answer.json()["error"] == f"row 1: {column}: {message}"


def test_values_written_otherwise_are_taken_for_what_they_are(running):
    assert running.predict(row(age=" 40.0", income="2.5", vip="yes", plan=" gold ")).json()["rows"] == [
        {"value": 1047.5}
    ]


def test_what_is_not_there_is_404_and_another_method_405(running):
    for path, words in {"nobody": "no model 'nobody'", "toy/versions/000000000000": "no version"}.items():
        answer = running.infer({"inputs": tensors()}, path)
        assert (answer.status_code, words in answer.json()["error"]) == (404, True)
    assert httpx.get(f"{running.url}/v2/models/nobody").json()["error"].startswith("no model")
    assert httpx.get(f"{running.url}/nothing").json() == {"error": "Not Found"}
    answer = httpx.get(f"{running.url}/v1/models/toy/predict")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize(
    "shape", [[2, 1], [1, 2], [1, 1, 1]], ids=["more rows than others", "two columns", "three dimensions"]
)
def test_a_tensor_of_another_shape_is_refused(running, shape):
    inputs = tensors()
    inputs[1] |= {"shape": shape, "data": [1.0] * math.prod(shape)}
    answer = running.infer({"inputs": inputs})
    assert (answer.status_code, "income" in answer.json()["error"]) == (400, True)


def test_an_answer_that_is_no_number_is_an_error_and_no_answer(running):
    answer = running.predict(row(income=-4), model="faulty")
    assert answer.status_code == 500
    assert "no finite number" in answer.json()["error"]
    assert running.predict(row(income=4), model="faulty").json()["rows"] == [{"value": 42.0}]
    assert running.metric("penstock_serving_refusals_total", model="faulty", reason="not_finite") == 1


def test_tensors_nested_without_end_are_refused(running):
    body = b'{"inputs":[{"name":"age","datatype":"FP32","shape":[1],"data":' + b"[" * 50_000
    assert running.infer(body).status_code == 400


def test_a_request_of_nothing_but_mistakes_is_told_of_some_of_them(running):
    strange = {f"column-{number}-{'x' * 200}": 1 for number in range(300)}
    began = time.perf_counter()
    answer = running.predict(row(age="abc") | strange)
    assert answer.status_code == 422
    assert len(answer.json()["errors"]) == 100
    assert time.perf_counter() - began < 5


def test_a_body_that_does_not_end_is_not_waited_for(running):
    with socket.create_connection(("127.0.0.1", running.port), timeout=20) as sock:
        sock.sendall(b"POST /v1/models/toy/predict HTTP/1.1\r\nhost: x\r\ncontent-length: 500\r\n\r\n{")
        answer = sock.recv(1000)
        assert answer.startswith(b"HTTP/1.1 408")
        assert sock.recv(100) == b""
    with socket.create_connection(("127.0.0.1", running.port), timeout=20) as silent:
        assert silent.recv(100) == b""


def test_a_body_of_a_gigabyte_is_refused_at_its_first_bytes(running):
    sent = 0
    with socket.create_connection(("127.0.0.1", running.port), timeout=20) as sock:
        sock.sendall(b"POST /v1/models/toy/predict HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        chunk = b"100000\r\n" + b" " * (1 << 20) + b"\r\n"
        with contextlib.suppress(ConnectionError):
            for _ in range(1024):
                sock.sendall(chunk)
                sent += len(chunk)
    assert sent < 64 << 20


def test_metrics_count_what_was_answered_and_refused(running):
    before = running.metric("penstock_serving_requests_total", model="toy", status="200")
    refused = running.metric("penstock_serving_refusals_total", model="toy", reason="contract")
    running.predict(row(), row())
    running.predict(row(age=-1))
    assert running.metric("penstock_serving_requests_total", model="toy", status="200") == before + 1
    assert running.metric("penstock_serving_refusals_total", model="toy", reason="contract") == refused + 1
    assert running.metric("penstock_serving_workers", model="toy") == 1


def test_a_model_that_hangs_on_the_loop_has_its_process_killed_and_started_again(running):
    """As a cause: a loop of a hundred million turns in the graph, for one value alone."""
    (before,) = running.workers()
    with pytest.raises(httpx.TransportError):
        running.predict(row(age=100), model="faulty")
    until(lambda: running.ready() and running.workers() not in ([before], []), "another process")
    assert running.predict(row()).status_code == 200
    assert "has not got on" in running.said()


# --- versions, and changes --------------------------------------------------------------------------


def test_a_changed_artefact_is_served_without_a_request_lost_or_mixed(tmp_path):
    """Each version's answers tell which it is: none may come under another's name."""
    versions = {place(tmp_path / "toy", model_of(bias)): bias for bias in (20.0, 10.0)}
    wrong: list[object] = []
    seen: set[str] = set()
    with predictor(tmp_path, str(tmp_path / "toy"), "workers=2", "requests=null", *QUICK) as running:
        stop = threading.Event()

        def ask() -> None:
            with httpx.Client(base_url=running.url, timeout=30) as client:
                while not stop.is_set():
                    answer = client.post("/v1/models/toy/predict", json={"rows": [row(), row(age=0)]})
                    told = answer.json()
                    bias = versions.get(told.get("version"), math.nan)
                    seen.add(told.get("version"))
                    if [each["value"] for each in told["rows"]] != [bias + 1042.5, bias + 1002.5]:
                        wrong.append(told)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for bias in (20.0, 10.0, 20.0):
            version = place(tmp_path / "toy", model_of(bias))
            until(
                lambda version=version: (
                    running.metric("penstock_serving_workers", model="toy", version=version) == 2
                ),
                f"version {version}",
            )
        # One that is broken changes nothing, and is told of.
        (tmp_path / "toy/model.onnx").write_bytes(b"half of it")
        (tmp_path / "toy/manifest.json").write_text((tmp_path / "toy/manifest.json").read_text() + " ")
        until(lambda: running.metric("penstock_serving_reloads_total", outcome="failed") >= 2, "a failure")
        assert running.metric("penstock_serving_workers", model="toy", version=version) == 2
        stop.set()
        for thread in threads:
            thread.join()
        assert "does not match its manifest" in running.said()
    assert wrong == []
    assert seen == set(versions)


def test_versions_are_asked_for_by_name_and_an_administrator_has_them_changed(tmp_path):
    first, second = place(tmp_path / "toy", model_of(1.0)), place(tmp_path / "old", model_of(2.0))
    key = keys.add(tmp_path / "admins.yaml", "root", ADMIN)
    view = [
        f"models={{toy: {{path: {tmp_path}/toy, also: [{tmp_path}/old]}}}}",
        f"admin_keys={tmp_path}/admins.yaml",
        "reload.poll=null",
        "requests=null",
    ]
    with predictor(tmp_path, *view) as running:
        asked = {"inputs": tensors()}

        def value(path: str) -> float:
            return running.infer(asked, path).json()["outputs"][0]["data"][0]

        assert (value("toy"), value(f"toy/versions/{second}")) == (1043.5, 1044.5)
        third = place(tmp_path / "toy", model_of(3.0))
        reload = f"{running.url}/admin/models/toy/reload"
        assert httpx.post(reload).status_code == 401
        bearer = {"authorization": f"Bearer {key}"}
        told = httpx.post(reload, headers=bearer).json()
        assert told == {"model": "toy", "outcome": "changed", "version": third, "before": first}
        assert httpx.post(reload, headers=bearer).json()["outcome"] == "same"
        assert (value("toy"), value(f"toy/versions/{first}"), value(f"toy/versions/{second}")) == (
            1045.5,
            1043.5,
            1044.5,
        )
        assert httpx.get(f"{running.url}/v2/models/toy").json()["versions"] == [third, second, first]
        (tmp_path / "toy/model.onnx").write_bytes(b"broken")
        answer = httpx.post(reload, headers=bearer)
        assert (answer.status_code, answer.json()["version"]) == (409, third)
        assert value("toy") == 1045.5
        place(tmp_path / "toy", model_of(1.0))
        running.process.send_signal(signal.SIGHUP)
        until(lambda: value("toy") == 1043.5, "the version before, by a signal")


# --- what it does not start with --------------------------------------------------------------------


def started(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "penstock.cli", "serve", *arguments, "port=0"]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)


def test_an_artefact_that_is_broken_is_not_served(tmp_path):
    place(tmp_path / "toy", model_of(1.0))
    (tmp_path / "toy/model.onnx").write_bytes(model_of(2.0))
    done = started(f"{tmp_path}/toy", "workers=2")
    assert done.returncode == 2
    assert "model.onnx: does not match its manifest" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_model_that_gives_another_shape_is_not_served(tmp_path):
    text = """
    <ir_version: 8, opset_import: ["" : 19]>
    toy (float[rows,1] age) => (float[rows,1] value) <int64[1] all = {0}> { value = ReduceSum(age, all) }
    """
    column = {"type": "integer"}
    inputs = [{"name": "age", "element": "float", "column": column}]
    place(tmp_path / "toy", onnx_of(text), inputs=inputs)
    done = started(f"{tmp_path}/toy")
    assert done.returncode == 2
    assert "rows, and gives outputs of (1, 1)" in done.stderr


WRONG = {
    "no such folder": (["nowhere/toy"], "there is no such folder"),
    "no such name": (["nobody"], "conf/serve/nobody.yaml: there is no such file"),
    "a key misspelt": (["workrs=2"], "did you mean 'workers'"),
    "open to all without keys": (["host=0.0.0.0"], "no keys are asked for"),
    "hashing without a key": (["requests.pii=[town]"], "PENSTOCK_HASH_KEY is not set"),
}


@pytest.mark.parametrize("what", sorted(WRONG))
def test_what_is_declared_wrongly_is_said_in_words(tmp_path, what):
    place(tmp_path / "toy", model_of(1.0))
    arguments, words = WRONG[what]
    if not any("/" in argument for argument in arguments):
        arguments = [f"{tmp_path}/toy", *arguments]
    done = started(*arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


# --- keys, the log, several processes ---------------------------------------------------------------


def test_who_has_no_key_is_not_answered_and_what_is_asked_is_logged(tmp_path):
    place(tmp_path / "toy", model_of(5.0))
    key = keys.add(tmp_path / "clients.yaml", "shop", CLIENT)
    device = keys.add(tmp_path / "other.yaml", "shop", ADMIN)
    with predictor(
        tmp_path,
        f"{tmp_path}/toy",
        f"keys={tmp_path}/clients.yaml",
        f"requests.folder={tmp_path}/requests",
        "requests.pii=[town]",
        *QUICK,
        PENSTOCK_HASH_KEY="pepper",
    ) as running:
        assert running.predict(row()).status_code == 401
        assert running.predict(row(), authorization=f"Bearer {device}").status_code == 401
        assert httpx.get(f"{running.url}/v2/models").status_code == 401
        assert httpx.get(f"{running.url}/openapi.json").status_code == 401
        assert httpx.get(f"{running.url}/v2/health/ready").status_code == 200
        for number in range(3):
            answer = running.predict(
                row(age=number), row(town=None), x_api_key=key, x_user_id="ann", x_request_id=f"r{number}"
            )
            assert answer.status_code == 200
    logged = scan(tmp_path / "requests", "toy").collect().sort("request", "row")
    assert logged["request"].to_list() == ["r0", "r0", "r1", "r1", "r2", "r2"]
    assert logged["row"].to_list() == [0, 1] * 3
    first = logged.row(0, named=True)
    assert first["outputs"] == {"value": 1007.5}
    assert {key: first[key] for key in ("model", "arm", "role", "status", "propensity")} == {
        "model": "toy",
        "arm": "single",
        "role": "answer",
        "status": "ok",
        "propensity": None,
    }
    assert first["version"] == answer.headers["x-model-version"]
    assert abs(first["time"] - time.time_ns()) < 120e9
    assert 0 < first["latency_ms"] < 10_000
    assert {name: first["inputs"][name] for name in ("age", "income", "vip", "plan")} == {
        "age": 0,
        "income": 2.5,
        "vip": True,
        "plan": "gold",
    }
    assert len(first["user"]) == len(first["inputs"]["town"]) == 64
    assert logged["inputs"].struct.field("town").to_list()[1] is None
    files = "".join(str(path.read_bytes()) for path in (tmp_path / "requests").rglob("*.parquet"))
    assert "Ulm" not in files
    assert isinstance(logged, pl.DataFrame)


def test_a_process_that_is_killed_costs_no_answer_to_whoever_asks_again(tmp_path):
    """A reset connection tells its client nothing, so that who is to lose nothing has to ask once more. Nobody need ask twice."""
    place(tmp_path / "toy", model_of(5.0))
    failed: list[object] = []
    answered = [0]
    with predictor(tmp_path, f"{tmp_path}/toy", "workers=2", "requests=null", *QUICK) as running:
        stop = threading.Event()

        def ask() -> None:
            client = httpx.Client(base_url=running.url, timeout=30)
            while not stop.is_set():
                for last in (False, True):
                    try:
                        answer = client.post("/v1/models/toy/predict", json={"rows": [row()]})
                    except httpx.TransportError as error:
                        client.close()
                        client = httpx.Client(base_url=running.url, timeout=30)
                        if last:
                            failed.append(error)
                        continue
                    if answer.status_code != 200:
                        failed.append(answer.text)
                    answered[0] += 1
                    break
            client.close()

        threads = [threading.Thread(target=ask) for _ in range(6)]
        for thread in threads:
            thread.start()
        for _ in range(3):
            victim, *_ = workers = running.workers()
            os.kill(victim, signal.SIGKILL)
            until(
                lambda workers=workers, victim=victim: (
                    len(found := running.workers()) == len(workers) and victim not in found
                ),
                "another process",
            )
            before = answered[0]
            until(lambda before=before: answered[0] > before + 100, "answers")
        stop.set()
        for thread in threads:
            thread.join()
    assert failed == []


def test_whoever_asks_while_it_ends_is_answered_and_told_to_go_elsewhere(tmp_path):
    place(tmp_path / "toy", model_of(5.0))
    with predictor(tmp_path, f"{tmp_path}/toy", "requests=null", "limits.drain_seconds=2s") as running:
        codes: list[int] = []
        told: list[str] = []

        def ask() -> None:
            with httpx.Client(base_url=running.url, timeout=30) as client:
                while True:
                    answer = client.post("/v1/models/toy/predict", json={"rows": [row()]})
                    codes.append(answer.status_code)
                    if answer.headers.get("connection") == "close":
                        told.append("close")
                        return

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        until(lambda: len(codes) > 50, "answers")
        assert running.stop() == 0
        for thread in threads:
            thread.join()
    assert set(codes) == {200}
    assert len(told) == 4


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has asked after does not."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except FileNotFoundError:
        return False


def test_processes_end_when_what_started_them_is_killed(tmp_path):
    place(tmp_path / "toy", model_of(5.0))
    with predictor(tmp_path, f"{tmp_path}/toy", "workers=2", "requests=null", *QUICK) as running:
        workers = running.workers()
        assert len(workers) == 2
        running.process.kill()
        running.process.wait()
        until(lambda: not any(alive(pid) for pid in workers), "the end of all")
        assert not running.ready()


def test_a_socket_in_the_file_system_is_for_its_owner_alone(tmp_path):
    place(tmp_path / "toy", model_of(5.0))
    path = tmp_path / "predictor.sock"
    running = Running(tmp_path, f"{tmp_path}/toy", f"socket={path}", "requests=null", *QUICK)
    running.ready = lambda: path.exists() and answers().status_code == 200  # type: ignore[method-assign]

    def answers() -> httpx.Response:
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://x") as client:
            return client.post("/v1/models/toy/predict", json={"rows": [row()]})

    running.start()
    try:
        assert answers().json()["rows"] == [{"value": 1047.5}]
        assert path.stat().st_mode & 0o777 == 0o600
    finally:
        assert running.stop() == 0
    assert not path.exists()


def test_it_serves_what_is_in_models_where_nothing_is_named(tmp_path):
    place(tmp_path / "models/toy", model_of(5.0))
    shutil.copytree(ROOT / "conf/serve", tmp_path / "conf/serve")
    from penstock.serving.declared import declared, served_models

    view = declared([], tmp_path)
    assert view.requests is not None
    assert list(served_models(view, tmp_path)) == ["toy"]
    assert declared(["models/toy", "workers=3"], tmp_path).workers == 3
    assert Path(served_models(declared(["models/toy"], tmp_path))["toy"].path) == Path("models/toy")
