"""Microsoft's emulator of blob storage, asked over TLS with tokens as the cloud is."""

from __future__ import annotations

import datetime as dt
import fcntl
import ipaddress
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.servers.programs import free_port, program, running

__all__ = ["ACCOUNT", "Azurite", "azurite"]

HERE = Path(__file__).parent / "azurite"
ROOT = HERE.parents[2]
ACCOUNT = "devstoreaccount1"
# Published by Microsoft: the same for everybody, and worth nothing.
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


@dataclass(frozen=True)
class Azurite:
    """An emulator that runs.

    Attributes:
        url: Of the account's blobs.
        key: Of the account.
        authority: File of the certificate by which it is believed.
    """

    url: str
    key: str
    authority: Path


def _installed() -> Path:
    """Where npm has put it: once, by the committed lock, whose hashes npm checks."""
    given = os.environ.get("PENSTOCK_NODE_MODULES")
    folder = (Path(given) if given else ROOT / ".penstock/node") / "azurite"
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = HERE / "package-lock.json"
    with (folder.parent / "azurite.lock").open("a") as mutex:
        fcntl.flock(mutex, fcntl.LOCK_EX)
        stamp = folder / "done.json"
        if stamp.is_file() and stamp.read_bytes() == lock.read_bytes():
            return folder
        npm = shutil.which("npm") or program("npm", f"{Path(sys.executable).parent}", package="npm")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / name, folder / name)
        done = subprocess.run(
            [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--omit=dev"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"PATH": f"{Path(npm).parent}{os.pathsep}{os.environ.get('PATH', '')}"},
        )
        if done.returncode:
            raise RuntimeError(f"npm cannot fetch {HERE}:\n{done.stderr[-2000:]}")
        shutil.copy(lock, stamp)
    return folder


def _certificate(folder: Path) -> tuple[Path, Path]:
    """Of 127.0.0.1, signed by itself; and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "azurite")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=2))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    public, private = folder / "certificate.pem", folder / "key.pem"
    public.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return public, private


@contextmanager
def azurite() -> Iterator[Azurite]:
    """An emulator without containers, its blobs in memory, for the time of the block."""
    installed = _installed()
    port = free_port()
    node = shutil.which("node") or program("node", f"{Path(sys.executable).parent}", package="nodejs")
    with tempfile.TemporaryDirectory(prefix="penstock-azurite-") as name:
        folder = Path(name)
        public, private = _certificate(folder)
        command = [
            node,
            str(installed / "node_modules/azurite/dist/src/blob/main.js"),
            *("--blobHost", "127.0.0.1", "--blobPort", str(port), "--inMemoryPersistence", "--silent"),
            *(
                "--cert",
                str(public),
                "--key",
                str(private),
                "--oauth",
                "basic",
                "--disableTelemetry",
                "--skipApiVersionCheck",
            ),
        ]
        with running(command, lambda: _answers(port), log=folder / "log"):
            yield Azurite(f"https://127.0.0.1:{port}/{ACCOUNT}", KEY, public)


def _answers(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0
