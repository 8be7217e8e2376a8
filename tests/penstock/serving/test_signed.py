"""A predictor that has been told to asks for signatures, at the start and at every change; and answers as SageMaker asks."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from penstock.artifact.signature import SIGNATURE, make_key, sign
from tests.penstock.serving.predictors import ROOT, model_of, place, row
from tests.servers.programs import free_port, until


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    private = tmp_path_factory.mktemp("keys") / "release.pem"
    make_key(private)
    return private


class Started:
    """A program of ours that listens, and what it says."""

    def __init__(self, folder: Path, *command: str, **environment: str) -> None:
        self.log = folder / "log"
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, *command], stderr=out, cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)} | environment
            )  # fmt: skip

    def said(self) -> str:
        return self.log.read_text()

    def ready(self, url: str) -> None:
        def answers() -> bool:
            try:
                return httpx.get(url).status_code == 200
            except httpx.TransportError:
                return False

        until(answers, self.said(), self.process)

    def ended(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Any]:
    programs: list[Started] = []

    def start(*command: str, **environment: str) -> Started:
        programs.append(Started(tmp_path, *command, **environment))
        return programs[-1]

    yield start
    for program in programs:
        program.process.kill()
        program.process.wait()


def serve(key: Path, port: int) -> list[str]:
    wanted = [f"port={port}", "signatures.required=true", f"signatures.key={key.with_suffix('.pub')}"]
    return ["-m", "penstock.cli", "serve", "models/toy", "reload.poll=PT0.05S", *wanted]


def test_an_unsigned_artefact_is_not_served(tmp_path: Path, key: Path, started: Any) -> None:
    place(tmp_path / "models" / "toy", model_of(0))
    program = started(*serve(key, free_port()))
    assert program.process.wait(60) == 2
    assert "models/toy: is not signed" in program.said()
    assert "Traceback" not in program.said()


def test_a_key_is_asked_for(tmp_path: Path, started: Any) -> None:
    place(tmp_path / "models" / "toy", model_of(0))
    program = started("-m", "penstock.cli", "serve", "models/toy", "signatures.required=true")
    assert program.process.wait(60) == 2
    assert "signatures.required asks for signatures.key" in program.said()


def test_another_model_answers_when_it_is_signed_and_not_before(
    tmp_path: Path, key: Path, started: Any
) -> None:
    folder, port = tmp_path / "models" / "toy", free_port()
    first = place(folder, model_of(0))
    sign(folder, key)
    program = started(*serve(key, port))
    url = f"http://127.0.0.1:{port}"
    program.ready(f"{url}/v2/health/ready")

    def version() -> str:
        return str(httpx.post(f"{url}/v1/models/toy/predict", json={"rows": [row()]}).json()["version"])

    assert version() == first
    second = place(folder, model_of(5))  # beside the signature of the first
    until(lambda: "cannot be loaded" in program.said(), "a refusal", program.process)
    assert "signature refused" in program.said()
    assert version() == first
    sign(folder, key)
    until(lambda: version() == second, "the signed version", program.process)
    assert program.ended() == 0


# SageMaker


def container(folder: Path, key: Path, port: int, **more: str) -> dict[str, str]:
    return {
        "PENSTOCK_MODEL": str(folder),
        "PENSTOCK_HOST": "127.0.0.1",
        "PENSTOCK_PORT": str(port),
        "PENSTOCK_PUBLIC_KEY": str(key.with_suffix(".pub")),
        **more,
    }


def test_it_answers_at_the_addresses_that_sagemaker_knows(tmp_path: Path, key: Path, started: Any) -> None:
    folder, port = tmp_path / "model", free_port()
    version = place(folder, model_of(0))
    sign(folder, key)
    program = started("-m", "penstock.serving.sagemaker", **container(folder, key, port))
    url = f"http://127.0.0.1:{port}"
    program.ready(f"{url}/ping")
    plain = httpx.post(f"{url}/invocations", json={"rows": [row()]})
    assert plain.status_code == 200
    assert plain.json()["version"] == version
    assert plain.json()["rows"] == [{"value": 1042.5}]
    tensors = {
        "inputs": [
            {"name": name, "shape": [1, 1], "datatype": kind, "data": [value]}
            for name, kind, value in (
                ("age", "FP32", 40), ("income", "FP32", 2.5), ("vip", "FP32", 1), ("plan", "BYTES", "gold"), ("town", "BYTES", "Ulm"),
            )
        ]
    }  # fmt: skip
    asked = httpx.post(
        f"{url}/invocations", json=tensors, headers={"X-Amzn-SageMaker-Custom-Attributes": "protocol=v2"}
    )
    assert asked.json()["outputs"][0]["data"] == [1042.5]
    refused = httpx.post(f"{url}/invocations", json={"rows": [row(age=-1)]})
    assert refused.status_code == 422 or refused.status_code == 400
    # Nothing else can be reached through an endpoint: neither metrics nor administration.
    assert {
        httpx.get(f"{url}{path}").status_code for path in ("/metrics", "/v2", "/admin/models", "/docs")
    } == {404}
    assert program.ended() == 0


def test_a_container_refuses_what_is_not_signed(tmp_path: Path, key: Path, started: Any) -> None:
    folder, port = tmp_path / "model", free_port()
    place(folder, model_of(0))
    sign(folder, key)
    (folder / SIGNATURE).unlink()
    program = started("-m", "penstock.serving.sagemaker", **container(folder, key, port))
    assert program.process.wait(60) == 2
    assert "is not signed" in program.said()
    lenient = started(
        "-m", "penstock.serving.sagemaker", **container(folder, key, port, PENSTOCK_SIGNATURES="optional")
    )
    lenient.ready(f"http://127.0.0.1:{port}/ping")
