"""A real Kafka broker in KRaft mode, and a stand-in for a schema registry that speaks its protocol over real HTTP."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from tests.servers.programs import free_port, program, running

__all__ = ["kafka", "registry"]

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def jars(name: str) -> Path:
    """A folder of jars, fetched by Maven once and kept; what is fetched is named in jars/NAME.xml."""
    pom = HERE / "jars" / f"{name}.xml"
    given = os.environ.get("PENSTOCK_JARS")
    folder = (Path(given) if given else ROOT / ".penstock/jars") / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Test processes beside each other fetch them once.
    with (folder.parent / f"{name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamp = folder / "pom.xml"
        if stamp.is_file() and stamp.read_bytes() == pom.read_bytes():
            return folder
        maven = program("mvn", package="maven")
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            fetched = Path(temporary) / name
            command = [
                maven,
                "-q",
                "-B",
                "-f",
                pom,
                "dependency:copy-dependencies",
                f"-DoutputDirectory={fetched}",
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"Maven cannot fetch {pom}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
            shutil.copy(pom, fetched / "pom.xml")
            shutil.rmtree(folder, ignore_errors=True)
            fetched.rename(folder)
    return folder


@contextmanager
def kafka(**settings: str) -> Iterator[str]:
    """A broker for the time of the block.

    Args:
        settings: Of the broker, with _ for the dots.

    Yields:
        Its address.
    """
    java = program("java", package="openjdk-17-jre-headless")
    libraries = jars("kafka")
    port, controller = free_port(), free_port()
    folder = Path(tempfile.mkdtemp(prefix="penstock-kafka-"))
    properties = {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "controller.listener.names": "CONTROLLER",
        "log.dirs": str(folder / "log"),
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "1",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "transaction.state.log.num.partitions": "1",
        "group.initial.rebalance.delay.ms": "0",
        "auto.create.topics.enable": "false",
        "log.cleaner.dedupe.buffer.size": "4194304",
        **{name.replace("_", "."): value for name, value in settings.items()},
    }
    config = folder / "server.properties"
    config.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
    run = [java, "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", f"{libraries}/*"]
    try:
        subprocess.run(
            [*run, "kafka.tools.StorageTool", "format", "-t", "4L6g3nShT-eMCtK--X86sw", "-c", config],
            check=True,
            capture_output=True,
        )
        address = f"127.0.0.1:{port}"

        def answers() -> bool:
            # A client whose broker is not up yet complains to standard error.
            admin = AdminClient({"bootstrap.servers": address, "log_level": 0, "error_cb": str})
            try:
                return bool(admin.list_topics(timeout=1).brokers)
            except KafkaException:
                return False

        with running([*run, "kafka.Kafka", str(config)], answers, log=folder / "out"):
            yield address
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def registry() -> Iterator[dict[str, Any]]:
    """Stands in for a schema registry, of which no build is to be had here: schemas by number and by subject.

    Yields:
        ``url``, and ``add``, which takes a subject, a schema and references, and returns the schema's number.
    """
    schemas: list[dict[str, Any]] = []

    def add(subject: str, schema: dict[str, Any], references: list[dict[str, Any]] | None = None) -> int:
        version = 1 + sum(entry["subject"] == subject for entry in schemas)
        schemas.append(
            {
                "subject": subject,
                "version": version,
                "id": len(schemas) + 1,
                "schema": json.dumps(schema),
                "references": references or [],
            }
        )
        return len(schemas)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = self.path.partition("?")[0].strip("/").split("/")
            if parts[:2] == ["schemas", "ids"]:
                found = [entry for entry in schemas if entry["id"] == int(parts[2])]
            else:
                found = [e for e in schemas if e["subject"] == parts[1] and e["version"] == int(parts[3])]
            body = json.dumps(
                found[0] if found else {"error_code": 40403, "message": "Schema not found"}
            ).encode()
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield {"url": f"http://127.0.0.1:{server.server_address[1]}", "add": add}
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
