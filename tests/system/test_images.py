"""What images are made of, and the predictor's image as far as it can be had without a daemon: its tree, its bill, its very command."""

import fnmatch
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from tests.penstock.serving.predictors import model_of, place, row
from tests.servers.programs import free_port, program, until

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "deploy" / "docker"
IMAGES = sorted(path.name.removesuffix(".Dockerfile") for path in DOCKER.glob("*.Dockerfile"))
COMPOSE = ROOT / "deploy" / "compose.yaml"
# What the base image has beside Python's own environment: Debian's minimal system and Python, 130 MB unpacked.
MOST_BYTES = 400e6 - 130e6


def run(*command: str, **more: Any) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    binaries = str(Path(sys.executable).parent)
    environment["PATH"] = f"{binaries}{os.pathsep}{environment['PATH']}"
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, **more)


def instructions(image: str) -> list[str]:
    """Lines of a Dockerfile, continued ones put together."""
    text = (DOCKER / f"{image}.Dockerfile").read_text()
    lines = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", text, flags=re.M)).splitlines()
    return [line for line in lines if line.strip()]


def last(image: str, name: str) -> str:
    return [line.removeprefix(name).strip() for line in instructions(image) if line.startswith(f"{name} ")][
        -1
    ]


@pytest.mark.parametrize("image", IMAGES)
def test_nothing_is_wrong_with_a_dockerfile(image: str) -> None:
    done = run("hadolint", "--failure-threshold", "style", str(DOCKER / f"{image}.Dockerfile"))
    assert done.returncode == 0, done.stdout
    # What hadolint does not look at: root, a base that moves, a signal that Python does not take for the end.
    assert last(image, "USER") == "10001:10001"
    assert all(
        line.startswith(("FROM ${PYTHON}",)) for line in instructions(image) if line.startswith("FROM")
    )
    assert last(image, "STOPSIGNAL") in {"SIGTERM", "SIGINT"}
    assert "org.opencontainers.image.revision" in " ".join(instructions(image))
    assert "sbom.cdx.json" in " ".join(instructions(image))


@pytest.mark.parametrize("image", IMAGES)
def test_what_is_copied_is_there_and_nothing_else_is_sent(image: str) -> None:
    ignored = [
        line
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert ignored[0] == "*"
    let_in = {line[1:] for line in ignored if line.startswith("!")}
    for line in instructions(image):
        if not line.startswith("COPY ") or "--from=" in line:
            continue
        for source in line.split()[1:-1]:
            assert "*" in source or (ROOT / source).exists(), source  # a pattern may match nothing
            assert any(source == name or source.startswith(f"{name}/") for name in let_in), source
    for secret in ("conf/secrets.yaml", "conf/devices.yaml", "conf/clients.yaml", "release.pem"):
        assert any(
            fnmatch.fnmatch(secret, line.removeprefix("**/")) for line in ignored if not line.startswith("!")
        )


def test_a_base_that_is_not_pinned_is_refused(tmp_path: Path) -> None:
    """Until somebody with a registry has run deploy/docker/pin, nothing is built; a digest that is none counts for none."""
    copy = tmp_path / "repository"
    (copy / "deploy").mkdir(parents=True)
    subprocess.run(["cp", "-r", str(DOCKER), str(copy / "deploy")], check=True)
    for digest in ("", "sha256:abc"):
        settings = (DOCKER / "base.env").read_text()
        (copy / "deploy/docker/base.env").write_text(
            re.sub("PYTHON_DIGEST=.*", f"PYTHON_DIGEST={digest}", settings)
        )
        done = run("deploy/docker/build", "predictor", "penstock-predictor:dev", cwd=copy)
        assert done.returncode == 2
        assert "the base image is not pinned" in done.stderr
    assert (
        "there are predictor, stream, rollout, trainer"
        in run("deploy/docker/build", "web", "x", cwd=copy).stderr
    )


# Compose


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())["services"]
    return found


def test_the_compose_file_is_one() -> None:
    done = run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE))
    assert done.returncode == 0, done.stdout


def test_it_brings_up_what_it_says(services: dict[str, Any]) -> None:
    wanted = {
        "gateway",
        "kafka",
        "elasticsearch",
        "kibana",
        "indexer",
        "predictor",
        "prometheus",
        "alertmanager",
        "grafana",
    }
    assert wanted <= services.keys()


def test_nothing_can_be_reached_from_elsewhere(services: dict[str, Any]) -> None:
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert len(published) == len(set(published)) == 7
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in published)


def test_everything_is_bounded_watched_and_named(services: dict[str, Any]) -> None:
    for name, service in services.items():
        once = service.get("restart") == "no"
        assert service["mem_limit"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["logging"]["options"]["max-size"], name
        assert once or service["healthcheck"]["test"], name
        assert not service["image"].endswith(":latest"), name
        assert ":" in service["image"], name
        for other, how in service.get("depends_on", {}).items():
            ends = services[other].get("restart") == "no"
            assert how["condition"] == ("service_completed_successfully" if ends else "service_healthy"), (
                name,
                other,
            )


def test_no_secret_is_in_it(services: dict[str, Any]) -> None:
    for name, service in services.items():
        for key, value in service.get("environment", {}).items():
            if re.search("PASSWORD|TOKEN|SECRET|KEY", key):
                assert value.startswith("/run/secrets/"), (name, key)
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert "/deploy/compose/secrets.d/" in ignored


def test_commands_are_those_of_the_program(services: dict[str, Any]) -> None:
    """Each penstock command is one that the CLI has, and what it declares composes."""
    from penstock.serving.declared import declared as served
    from penstock.stream.declared import declared as streamed

    asked = 0
    for service in services.values():
        match service.get("command"):
            case ["penstock", "serve", *arguments]:
                view = served(arguments, ROOT / "nowhere")
                assert (view.host, view.keys) == ("0.0.0.0", "/run/secrets/clients")
                assert view.requests is not None
            case ["penstock", "stream", part, name]:
                assert part in {"create", "gateway", "indexer"}
                assert streamed(name, [], ROOT).gateway.keys is not None
            case _:
                continue
        asked += 1
    assert asked == 4


def test_what_watches_is_well_formed() -> None:
    promtool = program("promtool", package="prometheus")
    amtool = program("amtool", package="prometheus-alertmanager")
    for done in (
        run(promtool, "check", "config", "deploy/compose/prometheus.yaml", cwd=ROOT),
        run(amtool, "check-config", "deploy/compose/alertmanager.yaml", cwd=ROOT),
    ):
        assert done.returncode == 0, done.stdout + done.stderr


def test_alarms_ring_when_they_should(tmp_path: Path) -> None:
    promtool = program("promtool", package="prometheus")
    series = {"series": 'up{job="predictor"}', "values": "1 1 0 0 0 0 0 0 0 0 0 0"}
    expected = {"exp_labels": {"job": "predictor", "severity": "page"}, "exp_annotations": {
        "summary": "predictor has not answered for two minutes", "runbook_url": "docs/deployment.md#incidents",
    }}  # fmt: skip
    tests = {
        "rule_files": [str(ROOT / "deploy/compose/rules/running.yaml")],
        "evaluation_interval": "15s",
        "tests": [{
            "interval": "15s",
            "input_series": [series],
            "alert_rule_test": [
                {"eval_time": "1m", "alertname": "Away", "exp_alerts": []},
                {"eval_time": "2m45s", "alertname": "Away", "exp_alerts": [expected]},
            ],
        }],
    }  # fmt: skip
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(tests))
    done = run(promtool, "test", "rules", str(tmp_path / "tests.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr


# The predictor's image


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is under /opt/penstock, and the bill of materials beside it."""
    folder = tmp_path_factory.mktemp("image")
    done = run(str(DOCKER / "bare"), "predictor", str(folder))
    assert done.returncode == 0, done.stderr
    return folder


def test_it_is_small(tree: Path) -> None:
    size = sum(path.lstat().st_size for path in (tree / "penstock").rglob("*") if not path.is_dir())
    assert size < MOST_BYTES, f"{size / 1e6:.0f} MB"


def test_its_bill_is_complete_and_by_the_standard(tree: Path) -> None:
    text = (tree / "sbom.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bill = json.loads(text)
    listing = "import json, importlib.metadata as m; print(json.dumps([[d.metadata['Name'], d.version] for d in m.distributions()]))"
    installed = json.loads(run(str(tree / "penstock/bin/python"), "-I", "-c", listing).stdout)

    def normal(name: str) -> str:
        return re.sub(r"[-_.]+", "-", name).lower()

    assert {(item["name"], item["version"]) for item in bill["components"]} == {
        (normal(n), v) for n, v in installed
    }
    for item in bill["components"]:
        hashes = [h["content"] for r in item.get("externalReferences", []) for h in r["hashes"]]
        assert hashes or item["name"] == "penstock", item["name"]
    # Once more gives the same, byte for byte.
    again = run(
        str(tree / "penstock/bin/python"), "-I", str(DOCKER / "sbom.py"),
        "--lock", str(ROOT / "locks/serve.lock"), "--name", "penstock-predictor",
    )  # fmt: skip
    assert again.stdout == text


def test_what_is_not_in_the_lock_stops_the_build(tree: Path, tmp_path: Path) -> None:
    lock = (ROOT / "locks/serve.lock").read_text()
    short = tmp_path / "short.lock"
    short.write_text(lock[: lock.index("orjson==")])
    done = run(
        str(tree / "penstock/bin/python"), "-I", str(DOCKER / "sbom.py"), "--lock", str(short), "--name", "x"
    )
    assert done.returncode != 0
    assert "is installed, and not in" in done.stderr


def files(folder: Path) -> dict[str, int]:
    return {str(path): path.lstat().st_mtime_ns for path in folder.rglob("*")}


def test_its_command_serves_and_writes_nothing(tree: Path, tmp_path: Path) -> None:
    """CMD, HEALTHCHECK and ENV of the Dockerfile, in the tree; what differs is the port, and that it listens here alone."""
    home = tmp_path / "srv"
    place(home / "models" / "toy", model_of(2))
    binaries = tree / "penstock" / "bin"
    environment = {"PATH": f"{binaries}:/usr/bin:/bin", "HOME": "/nonexistent"}
    for name in ("PYTHONDONTWRITEBYTECODE", "PYTHONSAFEPATH", "PYTHONUNBUFFERED"):
        assert re.search(rf"\b{name}=1\b", last("predictor", "ENV"))
        environment[name] = "1"
    keys = tmp_path / "clients.yaml"
    key = run(
        str(binaries / "penstock"), "keys", "add", "test", "--file", str(keys), cwd=tmp_path
    ).stdout.split()[1]

    port = free_port()
    command = json.loads(last("predictor", "CMD"))
    assert command[:2] == ["penstock", "serve"]
    assert "host=0.0.0.0" in command
    here = [
        f"keys={keys}" if word.startswith("keys=") else word.replace("0.0.0.0", "127.0.0.1")
        for word in command[1:]
    ]
    before = files(tree) | files(home)
    began = time.monotonic()
    process = subprocess.Popen([str(binaries / "penstock"), *here, f"port={port}"], cwd=home, env=environment)
    try:
        health = json.loads(last("predictor", "HEALTHCHECK").split("CMD", 1)[1])
        assert health[:2] == ["python", "/usr/share/penstock/health.py"]
        url = f"http://127.0.0.1:{port}"

        def ready() -> bool:
            try:
                return httpx.get(f"{url}/v2/health/ready").status_code == 200
            except httpx.TransportError:
                return False

        until(ready, "the predictor", process)
        took = time.monotonic() - began
        healthy = [
            str(binaries / "python"),
            str(DOCKER / "health.py"),
            health[2].replace("127.0.0.1:8500", f"127.0.0.1:{port}"),
        ]
        assert run(*healthy).returncode == 0
        answer = httpx.post(
            f"{url}/v1/models/toy/predict", json={"rows": [row()]}, headers={"Authorization": f"Bearer {key}"}
        )
        assert answer.json()["rows"] == [{"value": 1044.5}]
        assert httpx.post(f"{url}/v1/models/toy/predict", json={"rows": [row()]}).status_code == 401
        assert (
            run(str(binaries / "python"), str(DOCKER / "health.py"), f"{url}/v2/health/nowhere").returncode
            == 1
        )
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert took < 20, took  # benchmarks/predictor_image.py measures it
        assert files(tree) | files(home) == before
    finally:
        process.kill()
        process.wait()
