"""Small artefacts made by hand, and a real predictor over them in a process of its own."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import onnx
from onnx import parser

from tests.servers.programs import free_port, until

ROOT = Path(__file__).parents[3]

COLUMNS: dict[str, dict[str, Any]] = {
    "age": {"type": "integer", "min": 0, "max": 100},
    "income": {"type": "number", "nullable": True},
    "vip": {"type": "boolean", "nullable": True},
    "plan": {"type": "category", "values": ["basic", "gold"]},
    "town": {"type": "category", "nullable": True},
}

# value = bias + age + 1000 where the plan is gold + income, if there is one; so that who has answered shows in the answer.
SUM = """
<ir_version: 8, opset_import: ["" : 17]>
toy (float[rows,1] age, float[rows,1] income, float[rows,1] vip, string[rows,1] plan, string[rows,1] town)
    => (float[rows,1] value)
<float[1,1] bias = {{{bias}}}, string[1,1] gold = {{"gold"}}, float[1,1] much = {{1000}}, float[1,1] none = {{0}}>
{{
    is_gold = Equal(plan, gold)
    extra = Where(is_gold, much, none)
    missing = IsNaN(income)
    known = Where(missing, none, income)
    a = Add(age, bias)
    b = Add(a, extra)
    value = Add(b, known)
}}
"""
EQUAL = 19  # the first operator set whose Equal takes strings

# What a model may do wrong: no number for a negative income, and a loop of a hundred million turns for an age of 100.
FAULTY = """
<ir_version: 8, opset_import: ["" : 19]>
toy (float[rows,1] age, float[rows,1] income, float[rows,1] vip, string[rows,1] plan, string[rows,1] town)
    => (float[rows,1] value)
<float ninety = {90.0}, float many = {10000000.0}, bool go = {1}, float one = {1.0}>
{
    root = Sqrt(income)
    most = ReduceMax<keepdims=0>(age)
    above = Sub(most, ninety)
    beyond = Relu(above)
    turns_f = Mul(beyond, many)
    turns = Cast<to=7>(turns_f)
    last = Loop(turns, go, one) <body = spin (int64 i, bool c, float x) => (bool c_out, float y) {
        c_out = Identity(c)
        y = Sin(x)
    }>
    zero = Mul(last, last)
    small = Sub(zero, zero)
    shifted = Add(root, small)
    value = Add(age, shifted)
}
"""


def model_of(bias: float) -> bytes:
    """An ONNX file whose answers tell which it is."""
    text = SUM.format(bias=bias).replace('"" : 17', f'"" : {EQUAL}')
    return onnx_of(text)


def onnx_of(text: str) -> bytes:
    model = parser.parse_model(text)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


def manifest_of(content: bytes, **changes: Any) -> dict[str, Any]:
    element = {"integer": "float", "number": "float", "boolean": "float", "category": "string"}
    return {
        "format": 1,
        "name": "toy",
        "title": "Toy",
        "task": "regression",
        "target": "value",
        "sha256": hashlib.sha256(content).hexdigest(),
        "opset": {"": EQUAL},
        "inputs": [
            {"name": name, "element": element[column["type"]], "column": column}
            for name, column in COLUMNS.items()
        ],
        "outputs": [{"name": "value", "element": "float", "shape": ["rows", 1]}],
        "classes": None,
        "positive": None,
        "threshold": None,
        "metrics": {},
        "parameters": {},
        "data_sha256": "",
        "code_sha256": "",
        "versions": {},
    } | changes


def place(folder: Path, content: bytes, **changes: Any) -> str:
    """Put an artefact into a folder as a deployment would, the manifest last; its version."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest = manifest_of(content, **changes)
    for name, part in (("model.onnx", content), ("manifest.json", json.dumps(manifest).encode())):
        (folder / f".{name}").write_bytes(part)
        (folder / f".{name}").replace(folder / name)
    return str(manifest["sha256"])[:12]


def row(**changes: Any) -> dict[str, Any]:
    return {"age": 40, "income": 2.5, "vip": True, "plan": "gold", "town": "Ulm"} | changes


class Running:
    """A predictor that runs.

    Attributes:
        url: Where.
        folder: For what it writes.
        process: Its parent process.
    """

    def __init__(self, folder: Path, *arguments: str, environment: dict[str, str] | None = None) -> None:
        self.folder, self.port = folder, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.arguments = [*arguments, f"port={self.port}"]
        self.environment = {**os.environ, **(environment or {})}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "penstock.cli", "serve", *self.arguments]
        with (self.folder / "serve.out").open("ab") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=out, cwd=ROOT, env=self.environment)
        until(self.ready, "the predictor", self.process)

    def ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/v2/health/ready", timeout=2).status_code == 200
        except httpx.TransportError:
            return False

    def workers(self) -> list[int]:
        assert self.process is not None
        text = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in text.split()]

    def said(self) -> str:
        return (self.folder / "serve.out").read_text()

    def stop(self) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def predict(self, *rows: Any, model: str = "toy", **headers: str) -> httpx.Response:
        return httpx.post(
            f"{self.url}/v1/models/{model}/predict",
            json={"rows": list(rows)},
            headers={name.replace("_", "-"): value for name, value in headers.items()},
            timeout=30,
        )

    def infer(self, content: Any, path: str = "toy", **headers: str) -> httpx.Response:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return httpx.post(f"{self.url}/v2/models/{path}/infer", content=body, headers=named, timeout=30)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric over what else it is divided by."""
        total = 0.0
        for line in urllib.request.urlopen(f"{self.url}/metrics").read().decode().splitlines():
            if line.startswith((f"{name} ", f"{name}{{")) and all(
                f'{key}="{value}"' in line for key, value in labels.items()
            ):
                total += float(line.rsplit(" ", 1)[1])
        return total


@contextmanager
def predictor(folder: Path, *arguments: str, **environment: str) -> Iterator[Running]:
    running = Running(folder, *arguments, environment=environment)
    running.start()
    try:
        yield running
    finally:
        running.stop()
