"""What a rendered rollout's containers are told to run is run, as processes of this machine: two routers, their arms, a controller."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import onnx
import pytest
import yaml
from onnx import parser

from tests.servers.manifests import pods
from tests.servers.programs import free_port, program, running, until

ROOT = Path(__file__).parents[2]
PENSTOCK = (sys.executable, "-m", "penstock.cli")
SUM = """
<ir_version: 8, opset_import: ["" : 17]> toy (float[rows,1] age) => (float[rows,1] value)
<float[1,1] bias = {{{bias}}}> {{ value = Add(age, bias) }}
"""


def artefact(folder: Path, bias: float) -> None:
    """A model whose answers tell which it is."""
    model = parser.parse_model(SUM.format(bias=bias))
    onnx.checker.check_model(model)
    content = bytes(model.SerializeToString(deterministic=True))
    column = {"type": "number", "min": 0, "max": 100}
    manifest = {
        "format": 1,
        "name": "toy",
        "title": "Toy",
        "task": "regression",
        "target": "value",
        "sha256": hashlib.sha256(content).hexdigest(),
        "opset": {"": 17},
        "inputs": [{"name": "age", "element": "float", "column": column}],
        "outputs": [{"name": "value", "element": "float", "shape": ["rows", 1]}],
        **dict.fromkeys(("classes", "positive", "threshold")),
        "metrics": {},
        "parameters": {},
        "versions": {},
        "data_sha256": "",
        "code_sha256": "",
    }
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(content)
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    folder = tmp_path_factory.mktemp("redis")
    command = [program("redis-server", package="redis-server"), "--port", str(port), "--bind", "127.0.0.1"]

    def answers() -> bool:
        import redis

        with redis.Redis(port=port) as client:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False

    with running([*command, "--save", "", "--dir", str(folder)], answers, log=folder / "log"):
        yield f"redis://127.0.0.1:{port}/0"


class App:
    """What is mounted at /srv in the pods.

    Attributes:
        folder: Where that is here.
        environment: Of the containers.
        key: A client's.
        given: Overrides that the rollout was rendered with.
    """

    def __init__(self, folder: Path, redis_url: str) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "REDIS_URL": redis_url,
            "PENSTOCK_HASH_KEY": "k" * 32,
        }
        self.given = [
            "state.kind=redis",
            "state.url='${secret:REDIS_URL}'",
            "guardrails.memory_restarts=null",
        ]
        artefact(folder / "models/blue", 100)
        artefact(folder / "models/green", 200)
        shutil.copytree(ROOT / "conf/deploy", folder / "conf/deploy")
        first = free_port()
        (folder / "conf/deploy/kubernetes.yaml").write_text(f"first_port: {first}\n")
        (folder / "conf/rollout").mkdir(parents=True)
        declared = {
            "model": "toy",
            "salt": "toy-2026",
            "arms": {"blue": {"artifact": "models/blue"}, "green": {"artifact": "models/green"}},
            "strategy": {"kind": "blue_green", "live": "blue", "idle": "green", "warmup": 1},
        }
        (folder / "conf/rollout/toy.yaml").write_text(yaml.safe_dump(declared))
        self.key = self.run(
            "rollout", "keys", "add", "me", "--client", "--file", "keys/clients/clients.yaml"
        ).split()[1]
        self.run("rollout", "keys", "add", "me", "--file", "keys/operators/operators.yaml")
        text = self.run("deploy", "kubernetes", "render", "toy", *self.given)
        self.documents = list(yaml.safe_load_all(text))

    def run(self, *arguments: str) -> str:
        """A command of ours, and what it has to say."""
        done = subprocess.run(
            [*PENSTOCK, *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    @contextmanager
    def container(self, command: list[str], port: int | None, log: str) -> Iterator[str]:
        """Run what a container is told to; only this machine can reach it, at a port of its own."""
        assert command[0] == "penstock"
        told = [*PENSTOCK, *(w.replace("router.host=0.0.0.0", "router.host=127.0.0.1") for w in command[1:])]
        url = f"http://127.0.0.1:{port}"

        def ready() -> bool:
            if port is None:
                return True
            try:
                return httpx.get(f"{url}/v2/health/ready").status_code == 200
            except httpx.HTTPError:
                return False

        before = Path.cwd()
        os.chdir(self.folder)
        try:
            with running(told, ready, log=self.folder / log, env=self.environment):
                os.chdir(before)
                yield url
        finally:
            os.chdir(before)


def test_pods_answer_agree_and_switch_together(tmp_path: Path, redis_url: str):
    app = App(tmp_path, redis_url)
    router, *arms = pods(app.documents)["rollout-toy"]["containers"]
    controller = pods(app.documents)["rollout-toy-controller"]["containers"][0]
    with ExitStack() as stack:
        for number, arm in enumerate(arms):
            stack.enter_context(
                app.container(arm["command"], arm["ports"][0]["containerPort"], f"arm-{number}.log")
            )
        urls = []
        for number in range(2):
            port = free_port()
            told = [f"router.port={port}" if w.startswith("router.port=") else w for w in router["command"]]
            urls.append(stack.enter_context(app.container(told, port, f"router-{number}.log")))
        stack.enter_context(app.container(controller["command"], None, "controller.log"))
        client = stack.enter_context(httpx.Client(headers={"authorization": f"Bearer {app.key}"}))

        def answers() -> list[float]:
            found = []
            for url in urls:
                answer = client.post(f"{url}/v1/models/toy/predict", json={"rows": [{"age": 7}]})
                assert answer.status_code == 200, answer.text
                found.append(answer.json()["rows"][0]["value"])
            return found

        refused = httpx.post(f"{urls[0]}/v1/models/toy/predict", json={"rows": [{"age": 7}]})
        assert refused.status_code == 401
        assert answers() == [107.0, 107.0]
        options = [word for override in app.given for word in ("--with", override)]
        arm_overrides = [w for w in router["command"] if w.startswith("arms.")]
        options += [word for override in arm_overrides for word in ("--with", override)]
        app.run("rollout", "promote", "toy", *options)
        until(lambda: answers() == [207.0, 207.0], "the switch at both routers")
        app.run("rollout", "rollback", "toy", *options)
        until(lambda: answers() == [107.0, 107.0], "the way back at both routers")
