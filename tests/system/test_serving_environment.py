"""`penstock serve` in an environment of its lock alone: nothing that trains, and no table library."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.penstock.serving.predictors import model_of, place, row
from tests.servers.programs import free_port, running

ROOT = Path(__file__).parents[2]
ABSENT = ("polars", "scipy", "sklearn", "torch", "lightgbm", "onnx", "pandas", "pyarrow", "dvc")


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """A Python with what locks/serve.lock has, and Penstock."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    uv = Path(sys.executable).parent / "uv"
    found = folder / "bin/python"
    source = str(ROOT)
    for command in (
        ("venv", "--quiet", "--python", sys.executable, str(folder)),
        ("pip", "sync", "--quiet", "--python", str(found), "--require-hashes", "locks/serve.lock"),
        ("pip", "install", "--quiet", "--python", str(found), "--no-deps", source),
    ):
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        done = subprocess.run(
            [str(uv), *command], cwd=ROOT, capture_output=True, text=True, env=environment, check=False
        )
        assert done.returncode == 0, done.stderr
    return found


def test_it_has_nothing_that_trains(python):
    looked = f"import importlib.util as i; print([n for n in {ABSENT} if i.find_spec(n)])"
    done = subprocess.run([python, "-c", looked], capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout.strip() == "[]"


def test_it_serves_and_logs(python, tmp_path):
    version = place(tmp_path / "models/toy", model_of(5.0))
    port = free_port()
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def ready() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/v2/health/ready", timeout=2).status_code == 200
        except httpx.TransportError:
            return False

    command = [str(python.parent / "penstock"), "serve", f"port={port}", "workers=2"]
    requests = ["+requests.kind=files", f"+requests.folder={tmp_path}/requests"]
    with running(
        ["env", "-C", str(tmp_path), *command, *requests], ready, log=tmp_path / "serve.out", env=environment
    ):
        answer = httpx.post(
            f"http://127.0.0.1:{port}/v1/models/toy/predict",
            json={"rows": [row()]},
            headers={"x-request-id": "r1"},
        )
        assert answer.json() == {
            "model": "toy",
            "version": version,
            "request": "r1",
            "rows": [{"value": 1047.5}],
        }
    (written,) = (tmp_path / "requests/toy").rglob("*.jsonl.gz")
    record = json.loads(gzip.decompress(written.read_bytes()))
    assert (record["request"], record["outputs"]) == ("r1", {"value": 1047.5})
