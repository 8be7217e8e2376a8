"""A real Elasticsearch: one node on loopback, which can be killed and started again on what it had stored."""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.servers.kafka import jars
from tests.servers.programs import as_user, free_port, program, until

__all__ = ["Elasticsearch", "elasticsearch"]

SHA256 = "14833b2d86c30656901f92049f81fb5777a8e4545413c8656cd1a21b55173033"
OWNER = "nobody"  # it refuses to run as root


def _unpack(folder: Path) -> Path:
    """The distribution. Where it was fetched to need not be open to the user that it runs as."""
    (archive,) = jars("elasticsearch").glob("*.zip")
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != SHA256:
        raise RuntimeError(f"{archive.name} has the hash {digest}, not {SHA256}")
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(folder)
    (home,) = folder.glob("elasticsearch-*")
    return home


# A heap that fits a test, and no more compiling than a test is worth.
MODEST = "-Xms512m -Xmx512m -XX:TieredStopAtLevel=1"


class Elasticsearch:
    """A node.

    Attributes:
        url: Where it answers, the same after it was started again.
        java: Options of its virtual machine.
    """

    def __init__(self, folder: Path, java: str = MODEST) -> None:
        self.folder, self.java = folder, java
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        java = program("java", package="openjdk-17-jre-headless")
        config = self.folder / "config"
        if not config.is_dir():
            home = _unpack(self.folder)
            config.mkdir()
            shutil.copy(home / "config/log4j2.properties", config)
            settings = {
                "cluster.name": "penstock",
                "discovery.type": "single-node",
                "http.host": "127.0.0.1",
                "http.port": self.port,
                "transport.host": "127.0.0.1",
                "transport.port": free_port(),
                "path.data": str(self.folder / "data"),
                "path.logs": str(self.folder / "logs"),
                "cluster.routing.allocation.disk.threshold_enabled": False,
                "xpack.security.enabled": False,  # keys are the business of who runs one
            }
            (config / "elasticsearch.yml").write_text(json.dumps(settings))
            shutil.copy(home / "config/jvm.options", config)
            (home / "logs").mkdir(exist_ok=True)  # of the garbage collector
            (self.folder / "tmp").mkdir()
            for path in (self.folder, config, *config.iterdir(), home, home / "logs", self.folder / "tmp"):
                self._own(path)
        env = os.environ | {
            "ES_JAVA_HOME": str(Path(java).resolve().parents[1]),
            "ES_PATH_CONF": str(config),
            "ES_JAVA_OPTS": self.java,
            "ES_TMPDIR": str(self.folder / "tmp"),
            "HOME": str(self.folder / "tmp"),
        }
        (script,) = self.folder.glob("elasticsearch-*/bin/elasticsearch")
        command = [*as_user(OWNER), "bash", str(script)]
        with (self.folder / "out").open("ab") as out:
            self._process = subprocess.Popen(
                command,
                stdout=out,
                stderr=out,
                env=env,
                cwd=self.folder,
                start_new_session=True,  # what it starts is ended with it
            )
        try:
            until(self._answers, "elasticsearch", self._process)
        except RuntimeError as error:
            told = (self.folder / "out").read_text(errors="replace")[-3000:]
            raise RuntimeError(f"{error}\n{told}") from error

    def _own(self, path: Path) -> None:
        if os.geteuid() == 0:
            entry = pwd.getpwnam(OWNER)
            os.chown(path, entry.pw_uid, entry.pw_gid)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(
                f"{self.url}/_cluster/health?wait_for_status=yellow&timeout=1s"
            ) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def kill(self) -> None:
        """End it at once, as `kill -9` does."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        """End it."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(15)
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


@contextmanager
def elasticsearch(java: str = MODEST) -> Iterator[Elasticsearch]:
    """A node for the time of the block."""
    folder = Path(tempfile.mkdtemp(prefix="penstock-elasticsearch-"))
    folder.chmod(0o755)
    node = Elasticsearch(folder, java)
    try:
        node.start()
        yield node
    finally:
        node.stop()
        shutil.rmtree(folder, ignore_errors=True)
