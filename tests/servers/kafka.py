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

from tests.servers.programs import free_port, program, until

__all__ = ["PASSWORD", "USER", "Broker", "Node", "jars", "kafka", "kafka_node"]

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


class Node:
    """A broker that can be killed and started again on what it had stored.

    Attributes:
        address: Where it answers, the same after it was started again.
        guarded: Where it talks to USER with PASSWORD alone.
    """

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder
        port, guarded, controller = free_port(), free_port(), free_port()
        self.address, self.guarded = f"127.0.0.1:{port}", f"127.0.0.1:{guarded}"
        listeners = f"PLAINTEXT://{self.address},GUARDED://{self.guarded}"
        login = "org.apache.kafka.common.security.plain.PlainLoginModule required"
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
        self._config = folder / "server.properties"
        self._config.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
        java = program("java", package="openjdk-17-jre-headless")
        # A heap that fits a test, and no more compiling than a test is worth.
        self._run = [
            java,
            "-Xmx512m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-cp",
            f"{jars('kafka')}/*",
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        if not (self.folder / "log").exists():
            subprocess.run(
                [
                    *self._run,
                    "kafka.tools.StorageTool",
                    "format",
                    "-t",
                    "4L6g3nShT-eMCtK--X86sw",
                    "-c",
                    self._config,
                ],
                check=True,
                capture_output=True,
            )
        with (self.folder / "out").open("ab") as out:
            self._process = subprocess.Popen(
                [*self._run, "kafka.Kafka", str(self._config)], stdout=out, stderr=out
            )
        try:
            until(self._answers, "kafka", self._process)
        except RuntimeError as error:
            told = (self.folder / "out").read_text(errors="replace")[-3000:]
            raise RuntimeError(f"{error}\n{told}") from error

    def _answers(self) -> bool:
        # A client whose broker is not up yet complains to standard error.
        admin = AdminClient({"bootstrap.servers": self.address, "log_level": 0, "error_cb": str})
        try:
            return bool(admin.list_topics(timeout=1).brokers)
        except KafkaException:
            return False

    def kill(self) -> None:
        """End it at once, as `kill -9` does."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """End it."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()


@contextmanager
def kafka_node(**settings: str) -> Iterator[Node]:
    """A broker for the time of the block, which may be killed in it.

    Args:
        settings: Of the broker, with _ for the dots.
    """
    folder = Path(tempfile.mkdtemp(prefix="penstock-kafka-"))
    node = Node(folder, **settings)
    try:
        node.start()
        yield node
    finally:
        node.stop()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def kafka(**settings: str) -> Iterator[Broker]:
    """A broker for the time of the block.

    Args:
        settings: Of the broker, with _ for the dots.

    Yields:
        Its address.
    """
    with kafka_node(**settings) as node:
        broker = Broker(node.address)
        broker.guarded = node.guarded
        yield broker
