"""The predictor against packaged servers and a bare route, side by side: the same ONNX file, the same rows, the same client.

    python benchmarks/serve.py [--seconds 5] [--rounds 3] [--workers N] [--only PART …] [--servers NAME …]

Parts: `peers` (requests a second, p50 and p99 at 1, 16 and 64 connections, and processor time a request), `reload` (100,000
requests while the artefact changes: none lost, none mixed), `pictures` (a model of 4 ms), `size` (of the environment of
locks/serve.lock). The client is Debian's `wrk`, on one thread; it shares the cores with whatever serves. Each packaged server
gets an environment of its own under .penstock/benchmarks/serve/, made by uv from the versions below; one that cannot be
installed is told and left out. All have as many workers as there are cores, and none but Penstock validates rows, counts, or
logs requests. Run from the root of the repository, after `make run`.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import io
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import psutil

from tests.penstock.serving.predictors import model_of, place, row
from tests.servers.programs import free_port, program

ROOT = Path(__file__).parents[1]
PLACE = ROOT / ".penstock/benchmarks/serve"
CONNECTIONS = (1, 16, 64)
MODEL = ROOT / "models/churn"
PATIENCE = 180.0

# --- what serves: the least that each asks for ------------------------------------------------------

# Rows of JSON to answers, as one would write it who trusts whoever asks.
MODEL_CODE = """
import json
import numpy as np
import onnxruntime as ort

MANIFEST = json.load(open("{model}/manifest.json"))
INPUTS = [(i["name"], np.float32 if i["element"] == "float" else object) for i in MANIFEST["inputs"]]
EMPTY = {{np.float32: np.nan, object: ""}}


class Churn:
    def __init__(self):
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = ort.InferenceSession("{model}/model.onnx", options)

    def __call__(self, rows):
        feeds = {{}}
        for name, kind in INPUTS:
            values = [row.get(name) for row in rows]
            filled = [EMPTY[kind] if value is None else value for value in values]
            feeds[name] = np.array(filled, dtype=kind).reshape(-1, 1)
        labels, probabilities = self.session.run(None, feeds)
        return [{{"label": l, "probability": p}} for l, p in zip(labels.tolist(), probabilities[:, 1].tolist())]
"""

BARE = """
import orjson
from fastapi import FastAPI, Request, Response
from churn import Churn

app, churn = FastAPI(), Churn()


@app.post("/predict")
async def predict(request: Request):
    rows = orjson.loads(await request.body())["rows"]
    return Response(orjson.dumps({"rows": churn(rows)}), media_type="application/json")
"""

BARE_DEF = """
from fastapi import FastAPI
from pydantic import BaseModel
from churn import Churn

app, churn = FastAPI(), Churn()


class Body(BaseModel):
    rows: list[dict]


@app.post("/predict")
def predict(body: Body):
    return {"rows": churn(body.rows)}
"""

LITSERVE = """
import sys
import litserve as ls
from churn import Churn


class Api(ls.LitAPI):
    def setup(self, device):
        self.churn = Churn()

    def decode_request(self, request):
        return request["rows"]

    def predict(self, rows):
        return self.churn(rows)

    def encode_response(self, output):
        return {"rows": output}


if __name__ == "__main__":
    server = ls.LitServer(Api(), accelerator="cpu", workers_per_device=WORKERS)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), num_api_servers=WORKERS, generate_client_file=False, log_level="error")
"""

BENTOML = """
import bentoml
from churn import Churn


@bentoml.service(workers=WORKERS, traffic={"timeout": 30})
class Service:
    def __init__(self):
        self.churn = Churn()

    @bentoml.api
    def predict(self, rows: list[dict]) -> dict:
        return {"rows": self.churn(rows)}
"""

RAY = """
import sys
import time
import ray
from fastapi import FastAPI, Request
from ray import serve
from churn import Churn

app = FastAPI()


@serve.deployment(num_replicas=WORKERS, max_ongoing_requests=100, ray_actor_options={"num_cpus": 0.5})
@serve.ingress(app)
class Service:
    def __init__(self):
        self.churn = Churn()

    @app.post("/predict")
    async def predict(self, request: Request):
        return {"rows": self.churn((await request.json())["rows"])}


ray.init(num_cpus=max(4, WORKERS), include_dashboard=False, log_to_driver=False)
serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
serve.run(Service.bind(), route_prefix="/")
while True:
    time.sleep(1)
"""

MLSERVER = """
import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.types import InferenceResponse
from churn import Churn


class Model(MLModel):
    async def load(self):
        self.churn = Churn()
        return True

    async def predict(self, payload):
        feeds = {}
        for item in payload.inputs:
            if item.datatype == "BYTES":
                feeds[item.name] = np.array(StringCodec.decode_input(item), dtype=object).reshape(-1, 1)
            else:
                feeds[item.name] = NumpyCodec.decode_input(item).astype(np.float32).reshape(-1, 1)
        labels, probabilities = self.churn.session.run(None, feeds)
        outputs = [
            StringCodec.encode_output("label", labels.tolist()),
            NumpyCodec.encode_output("probabilities", probabilities),
        ]
        return InferenceResponse(model_name=self.name, outputs=outputs)
"""

ASGI = """
from penstock.config.serving import Serve
from penstock.serving.application import create_app

app = create_app(Serve.model_validate({"models": {"churn": {"path": "MODEL"}}}))
"""


@dataclass
class Peer:
    """A server.

    Attributes:
        name: For people.
        packages: What its environment holds; none: Penstock's own.
        files: What it is made of, by name.
        command: With {python}, {bin} and {port}.
        path: Where it is asked.
        protocol: How.
    """

    name: str
    command: Sequence[str]
    path: str
    packages: Sequence[str] = ()
    files: dict[str, str] = field(default_factory=dict)
    protocol: str = "plain"
    environment: dict[str, str] = field(default_factory=dict)


ONNX = ("onnxruntime==1.32.0", "numpy==2.4.6")


def peers(workers: int, log: Path) -> list[Peer]:
    """All of them; the first is what the others are measured against."""
    serve = ("{python}", "-m", "penstock.cli", "serve", str(MODEL), "port={port}", f"workers={workers}")
    logged = f"requests={{kind: files, folder: {log}}}"
    uvicorn = ("{python}", "-m", "uvicorn", "app:app", "--port", "{port}", "--workers", str(workers))
    quiet = ("--log-level", "critical", "--no-access-log")
    settings = {"host": "127.0.0.1", "parallel_workers": workers, "debug": False}
    mlserver_model = {"name": "churn", "implementation": "app.Model"}
    return [
        Peer("penstock", (*serve, logged), "/v1/models/churn/predict"),
        Peer("penstock, tensors", (*serve, logged), "/v2/models/churn/infer", protocol="v2"),
        Peer(
            "penstock by plain ASGI, no log",
            (*uvicorn, *quiet),
            "/v1/models/churn/predict",
            files={"app.py": ASGI},
        ),
        Peer("bare FastAPI, async def", (*uvicorn, *quiet), "/predict", files={"app.py": BARE}),
        Peer("bare FastAPI, def and pydantic", (*uvicorn, *quiet), "/predict", files={"app.py": BARE_DEF}),
        Peer(
            "MLServer 1.7.1",
            ("{bin}/mlserver", "start", "."),
            "/v2/models/churn/infer",
            ("mlserver==1.7.1", "uvloop==0.21.0", *ONNX),
            {
                "app.py": MLSERVER,
                "settings.json": json.dumps(settings),
                "model-settings.json": json.dumps(mlserver_model),
            },
            "v2",
            {
                "MLSERVER_HTTP_PORT": "{port}",
                "MLSERVER_GRPC_PORT": "{other}",
                "MLSERVER_METRICS_PORT": "{third}",
            },
        ),
        Peer(
            "litserve 0.2.19",
            ("{python}", "app.py", "{port}"),
            "/predict",
            ("litserve==0.2.19", *ONNX),
            {"app.py": LITSERVE},
        ),
        Peer(
            "BentoML 1.4.40",
            ("{bin}/bentoml", "serve", "app:Service", "--port", "{port}", "--host", "127.0.0.1"),
            "/predict",
            ("bentoml==1.4.40", *ONNX),
            {"app.py": BENTOML},
            environment={"BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": "{folder}/home"},
        ),
        Peer(
            "Ray Serve 2.60.0",
            ("{python}", "app.py", "{port}"),
            "/predict",
            ("ray[serve]==2.60.0", *ONNX),
            {"app.py": RAY},
            environment={
                "RAY_USAGE_STATS_ENABLED": "0",
                "RAY_SERVE_LOG_TO_STDERR": "0",
                "RAY_raylet_start_wait_time_s": "120",
            },
        ),
    ]


def installed(peer: Peer, folder: Path) -> Path | None:
    """The Python of a server's environment, made if need be; None if it cannot be."""
    if not peer.packages:
        return Path(sys.executable)
    python, stamp = folder / "venv/bin/python", folder / "venv/installed"
    if stamp.is_file() and stamp.read_text() == " ".join(peer.packages):
        return python
    uv = str(Path(sys.executable).parent / "uv")
    for command in (
        (uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder / "venv")),
        (uv, "pip", "install", "--quiet", "--python", str(python), *peer.packages),
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{peer.name}: cannot be installed: {done.stderr.strip().splitlines()[-1:]}", flush=True)
            return None
    stamp.write_text(" ".join(peer.packages))
    return python


@contextlib.contextmanager
def started(peer: Peer, workers: int, body: bytes) -> Iterator[tuple[psutil.Process, str]]:
    """A server that answers: its process, and its address.

    Raises:
        RuntimeError: It does not come up.
    """
    folder = PLACE / re.sub(r"\W+", "-", peer.name)
    folder.mkdir(parents=True, exist_ok=True)
    python = installed(peer, folder)
    if python is None:
        raise RuntimeError("not installed")
    for name, text in {"churn.py": MODEL_CODE.format(model=MODEL), **peer.files}.items():
        (folder / name).write_text(text.replace("WORKERS", str(workers)).replace("MODEL", str(MODEL)))
    port = free_port()
    words = {
        "python": str(python),
        "bin": str(python.parent),
        "port": str(port),
        "other": str(free_port()),
        "third": str(free_port()),
        "folder": str(folder),
    }

    def filled(text: str) -> str:
        return re.sub(r"\{(python|bin|port|other|third|folder)\}", lambda found: words[found[1]], text)

    command = [filled(part) for part in peer.command]
    given = {key: filled(value) for key, value in peer.environment.items()}
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}:{folder}" if not peer.packages else str(folder),
        **given,
    }
    url = f"http://127.0.0.1:{port}{peer.path}"
    with (folder / "server.out").open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=out, cwd=folder, env=environment, start_new_session=True
        )
    try:
        _until_answered(url, body, process, folder / "server.out")
        yield psutil.Process(process.pid), url
    finally:
        _ended(process)


def _until_answered(url: str, body: bytes, process: subprocess.Popen[bytes], log: Path) -> None:
    ends = time.monotonic() + PATIENCE
    while time.monotonic() < ends and process.poll() is None:
        with contextlib.suppress(OSError):
            told = asked(url, body)
            found = re.search(rb'"probability":\s*(0\.\d+)|"data":\s*\[0\.\d+,\s*(0\.\d+)', told)
            assert found is not None, told[:300]
            assert abs(float(found[1] or found[2]) - EXPECTED[0]) < 1e-5, told[:300]
            return
        time.sleep(0.2)
    raise RuntimeError(f"does not answer: {log.read_text(errors='replace')[-600:]}")


EXPECTED: list[float] = []


def asked(url: str, body: bytes) -> bytes:
    request = urllib.request.Request(url, body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return bytes(answer.read())


def _ended(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        family = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        _, left = psutil.wait_procs([psutil.Process(process.pid), *family], timeout=15)
        for one in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
    process.wait()


# --- what asks --------------------------------------------------------------------------------------


@dataclass
class Measured:
    """What wrk was answered."""

    per_second: float
    p50: float
    p99: float
    requests: int
    wrong: int
    text: str


SCALES = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}


def wrk(url: str, script: Path, connections: int, seconds: float) -> Measured:
    """Ask over so many connections for so long."""
    command = [
        program("wrk", package="wrk"),
        "--threads=1",
        f"--connections={connections}",
        f"--duration={seconds:.0f}s",
        "--timeout=30s",
        "--latency",
        f"--script={script}",
        url,
    ]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def latency(share: str) -> float:
        found = re.search(rf"{share}%\s+([\d.]+)(us|ms|s|m)", text)
        return float("nan") if found is None else float(found[1]) * SCALES[found[2]]

    requests = int(re.search(r"(\d+) requests in", text)[1])  # type: ignore[index]
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1])  # type: ignore[index]
    wrong = sum(map(int, re.findall(r"Non-2xx or 3xx responses: (\d+)", text)))
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    wrong += sum(map(int, errors.groups())) if errors else 0
    return Measured(rate, latency("50"), latency("99"), requests, wrong, text)


def script_of(body: bytes, more: str = "") -> str:
    """What wrk is to send."""
    return f'wrk.method = "POST"\nwrk.headers["Content-Type"] = "application/json"\nwrk.body = [==[{body.decode()}]==]\n{more}'


def processor_seconds(process: psutil.Process) -> float:
    """Of a process and its children, so far."""
    total = 0.0
    for one in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = one.cpu_times()
            total += times.user + times.system
    return total


def bodies() -> dict[str, bytes]:
    """A row of the hold-out, for both protocols."""
    import polars as pl

    from penstock.artifact.model import load

    model = load(MODEL)
    columns = list(model.manifest.columns)
    frame = pl.read_parquet(ROOT / "data/prepared/churn/holdout.parquet").select(columns).head(1)
    EXPECTED[:] = [model.predict(frame)["probability"][0]]
    given = frame.to_dicts()[0]
    inputs = [
        {
            "name": item.name,
            "datatype": "BYTES" if item.element == "string" else "FP32",
            "shape": [1, 1],
            "data": [given[item.name]],
        }
        for item in model.manifest.inputs
    ]
    return {
        "plain": json.dumps({"rows": [given]}).encode(),
        "v2": json.dumps({"inputs": inputs}).encode(),
    }


def compare(seconds: float, rounds: int, workers: int, chosen: Sequence[str]) -> None:
    """All servers, one after another, round by round."""
    sent = bodies()
    found: dict[str, dict[int, list[tuple[Measured, float]]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        scripts = {key: Path(folder) / f"{key}.lua" for key in sent}
        for key, script in scripts.items():
            script.write_text(script_of(sent[key]))
        wanted = [
            peer
            for peer in peers(workers, Path(folder) / "log")
            if not chosen or any(name.lower() in peer.name.lower() for name in chosen)
        ]
        for number in range(rounds):
            for peer in wanted:
                try:
                    with started(peer, workers, sent[peer.protocol]) as (process, url):
                        wrk(url, scripts[peer.protocol], 16, 2)
                        for connections in CONNECTIONS:
                            before = processor_seconds(process)
                            measured = wrk(url, scripts[peer.protocol], connections, seconds)
                            spent = processor_seconds(process) - before
                            each = 1e6 * spent / max(1, measured.requests)
                            found.setdefault(peer.name, {}).setdefault(connections, []).append(
                                (measured, each)
                            )
                            if measured.wrong:
                                print(
                                    f"{peer.name}: {measured.wrong} wrong of {measured.requests}", flush=True
                                )
                except (RuntimeError, AssertionError) as error:
                    print(f"{peer.name}: left out: {error}", flush=True)
            print(f"round {number + 1} of {rounds} is done", file=sys.stderr, flush=True)
    table(found, workers)


def table(found: dict[str, dict[int, list[tuple[Measured, float]]]], workers: int) -> None:
    """Medians over the rounds, and ratios to the first."""
    print(f"\n{workers} workers each; medians over rounds; processor: of the server, for one request")
    ours = found.get("penstock", {})
    for connections in CONNECTIONS:
        print(f"\n{connections} connections{'':<22}requests/s     p50        p99     processor   penstock is")
        mine = statistics.median([m.per_second for m, _ in ours[connections]]) if connections in ours else 0.0
        for name, by in found.items():
            runs = by.get(connections, [])
            if not runs:
                continue
            rate, p50, p99 = (
                statistics.median([getattr(m, key) for m, _ in runs]) for key in ("per_second", "p50", "p99")
            )
            each = statistics.median([spent for _, spent in runs])
            print(
                f"  {name:<32}{rate:>10,.0f}{p50:>9.2f} ms{p99:>9.2f} ms{each:>9.0f} µs{mine / rate:>10.2f} ×"
            )


# --- the other parts --------------------------------------------------------------------------------

CHECKING = """
local expected = { %s }
local wrong, seen = 0, {}
function response(status, headers, body)
  local version, value = body:match('"version":"(%%x+)".-"value":([%%d.]+)')
  if status ~= 200 or version == nil or expected[version] ~= tonumber(value) or headers["x-model-version"] ~= version then
    wrong = wrong + 1
  else
    seen[version] = (seen[version] or 0) + 1
  end
end
local threads = {}
function setup(thread) table.insert(threads, thread) end
function done(summary, latency, requests)
end
"""


def reload(workers: int, wanted: int = 100_000) -> None:
    """Requests while the artefact is replaced four times a second; each answer tells which version has made it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        values = {place(folder / "toy", model_of(bias)): bias + 1042.5 for bias in (20.0, 10.0)}
        expected = ", ".join(f'["{version}"] = {value}' for version, value in values.items())
        # wrk's threads share no variables: what is wrong is made a status that wrk itself counts.
        checking = (
            (CHECKING % expected)
            .replace("wrong = wrong + 1", 'io.stderr:write("W")')
            .replace("seen[version] = (seen[version] or 0) + 1", "")
        )
        script = folder / "ask.lua"
        script.write_text(script_of(json.dumps({"rows": [row()]}).encode(), checking))
        port = free_port()
        command = [
            sys.executable, "-m", "penstock.cli", "serve", str(folder / "toy"), f"port={port}", f"workers={workers}",
            "requests=null", "reload.poll=1s",
        ]  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with (folder / "out").open("wb") as out:
            process = subprocess.Popen(command, stdout=out, stderr=out, cwd=ROOT, env=environment)
        url = f"http://127.0.0.1:{port}/v1/models/toy/predict"
        stop, placed = threading.Event(), 0

        def replacing() -> None:
            nonlocal placed
            while not stop.wait(0.25):
                place(folder / "toy", model_of((20.0, 10.0)[placed % 2]))
                placed += 1
                os.kill(process.pid, 1)  # SIGHUP: not to wait for the next look

        try:
            ends = time.monotonic() + PATIENCE
            while time.monotonic() < ends:
                with contextlib.suppress(OSError):
                    asked(url, json.dumps({"rows": [row()]}).encode())
                    break
                time.sleep(0.1)
            thread = threading.Thread(target=replacing)
            thread.start()
            requests = wrong = mixed = 0
            while requests < wanted:
                command_wrk = [program("wrk", package="wrk"), "-t1", "-c16", "-d5s", f"-s{script}", url]
                done = subprocess.run(command_wrk, capture_output=True, text=True, check=True)
                requests += int(re.search(r"(\d+) requests in", done.stdout)[1])  # type: ignore[index]
                wrong += sum(map(int, re.findall(r"Non-2xx or 3xx responses: (\d+)", done.stdout)))
                errors = re.search(r"connect (\d+), read (\d+), write (\d+), timeout (\d+)", done.stdout)
                wrong += sum(map(int, errors.groups())) if errors else 0
                mixed += done.stderr.count("W")
            stop.set()
            thread.join()
            text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
            changed = sum(map(float, re.findall(r'reloads_total\{.*outcome="changed"\} ([\d.e+]+)', text)))
        finally:
            _ended(process)
        print(
            f"\n{requests:,} requests while the artefact was replaced {placed} times, and {changed:.0f} times taken "
            f"by {workers} processes: {wrong} lost, {mixed} mixed"
        )


def pictures(seconds: float, workers: int) -> None:
    """A picture of 96 pixels in a PNG file, as the plain route takes it."""
    import numpy as np
    from PIL import Image

    buffer = io.BytesIO()
    pixels = np.random.default_rng(1).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    body = json.dumps({"rows": [{"picture": base64.b64encode(buffer.getvalue()).decode()}]}).encode()
    serve = ("{python}", "-m", "penstock.cli", "serve", str(ROOT / "models/images"), "port={port}")
    peer = Peer("pictures", (*serve, f"workers={workers}", "requests=null"), "/v1/models/images/predict")
    print("\npictures, fp32, decoded and classified")
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "ask.lua"
        script.write_text(script_of(body))
        port = free_port()
        command = [sys.executable, "-m", "penstock.cli", "serve", str(ROOT / "models/images"), f"port={port}"]
        process = subprocess.Popen(
            [*command, f"workers={workers}", "requests=null"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stderr=subprocess.DEVNULL,
        )
        url = f"http://127.0.0.1:{port}{peer.path}"
        try:
            ends = time.monotonic() + PATIENCE
            while time.monotonic() < ends:
                with contextlib.suppress(OSError):
                    asked(url, body)
                    break
                time.sleep(0.1)
            for connections in (1, 16):
                measured = wrk(url, script, connections, seconds)
                print(
                    f"  {connections:>2} connections: {measured.per_second:,.0f} pictures/s, p50 {measured.p50:.1f} ms, "
                    f"p99 {measured.p99:.1f} ms, {measured.wrong} wrong"
                )
        finally:
            _ended(process)


def size() -> None:
    """What the predictor's image holds besides its base."""
    folder = PLACE / "lock"
    uv, python = str(Path(sys.executable).parent / "uv"), folder / "venv/bin/python"
    for command in (
        (uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder / "venv")),
        (uv, "pip", "sync", "--quiet", "--python", str(python), "--require-hashes", "locks/serve.lock"),
        (uv, "pip", "install", "--quiet", "--python", str(python), "--no-deps", str(ROOT)),
    ):
        subprocess.run(command, check=True, cwd=ROOT)
    packages = folder / "venv/lib/python3.11/site-packages"
    sizes = {
        path.name: sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        for path in packages.iterdir()
        if path.is_dir()
    }
    total = sum(file.stat().st_size for file in packages.rglob("*") if file.is_file())
    most = sorted(sizes.items(), key=lambda item: -item[1])[:6]
    print(
        f"\nthe environment of locks/serve.lock: {total / 1e6:.0f} MB; the largest: "
        + ", ".join(f"{name} {bytes_ / 1e6:.0f}" for name, bytes_ in most)
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=textwrap.dedent(__doc__ or ""), formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--only", nargs="*", default=["peers", "reload", "pictures", "size"])
    parser.add_argument("--servers", nargs="*", default=[])
    given: Any = parser.parse_args()
    if "peers" in given.only:
        compare(given.seconds, given.rounds, given.workers, given.servers)
    if "reload" in given.only:
        reload(given.workers)
    if "pictures" in given.only:
        pictures(given.seconds, given.workers)
    if "size" in given.only:
        size()


if __name__ == "__main__":
    main()
