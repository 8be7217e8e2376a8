"""A real Kafka broker in KRaft mode: one node, its own controller."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from tests.servers.programs import free_port, program, running

__all__ = ["PASSWORD", "USER", "Broker", "kafka"]

USER = "penstock"
PASSWORD = "open sesame/@:1"  # as awkward in a setting as they come

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


class Broker(str):
    """The address of a broker.

    Attributes:
        guarded: Where it talks to USER with PASSWORD alone, by SASL/PLAIN.
    """

    __slots__ = ("guarded",)
    guarded: str


@contextmanager
def kafka(**settings: str) -> Iterator[Broker]:
    """A broker for the time of the block.

    Args:
        settings: Of the broker, with _ for the dots.

    Yields:
        Its address.
    """
    java = program("java", package="openjdk-17-jre-headless")
    libraries = jars("kafka")
    port, guarded, controller = free_port(), free_port(), free_port()
    listeners = f"PLAINTEXT://127.0.0.1:{port},GUARDED://127.0.0.1:{guarded}"
    login = "org.apache.kafka.common.security.plain.PlainLoginModule required"
    folder = Path(tempfile.mkdtemp(prefix="penstock-kafka-"))
    properties = {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "listeners": f"{listeners},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": listeners,
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,GUARDED:SASL_PLAINTEXT",
        "inter.broker.listener.name": "PLAINTEXT",
        "listener.name.guarded.sasl.enabled.mechanisms": "PLAIN",
        "listener.name.guarded.plain.sasl.jaas.config": f'{login} user_{USER}="{PASSWORD}";',
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
        "log.cleaner.backoff.ms": "100",  # compaction is not waited for
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
            broker = Broker(address)
            broker.guarded = f"127.0.0.1:{guarded}"
            yield broker
    finally:
        shutil.rmtree(folder, ignore_errors=True)
