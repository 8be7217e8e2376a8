"""A real PostgreSQL."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tests.servers.programs import as_user, folder_for, free_port, program, running

__all__ = ["postgres"]

PASSWORD = "open sesame/@:1"  # as awkward in an address as they come
PLACES = ("/usr/lib/postgresql/*/bin", "/usr/local/pgsql/bin")


@contextmanager
def postgres(*settings: str) -> Iterator[dict[str, str | int]]:
    """A server with an empty database, for the time of the block.

    Args:
        settings: Further ones, such as ``max_wal_size=4GB``.

    Yields:
        host, port, user, password and dbname, as psycopg.connect takes them.
    """
    initdb = program("initdb", *PLACES, package="postgresql")
    server = program("postgres", *PLACES, package="postgresql")
    ready = program("pg_isready", *PLACES, package="postgresql")
    port = free_port()
    with folder_for("postgres") as folder:
        data, secret = folder / "data", folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        user = as_user("postgres")
        subprocess.run(
            [
                *user,
                initdb,
                "-D",
                data,
                "-U",
                "penstock",
                "--pwfile",
                secret,
                "-A",
                "scram-sha-256",
                "-E",
                "UTF8",
                "--no-sync",
            ],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        options = ["fsync=off", "listen_addresses=127.0.0.1", f"unix_socket_directories={folder}", *settings]
        command = [*user, server, "-D", str(data), "-p", str(port)]
        for option in options:
            command += ["-c", option]
        check = [ready, "-q", "-h", "127.0.0.1", "-p", str(port)]
        with running(command, lambda: subprocess.run(check, check=False).returncode == 0, log=folder / "log"):
            yield {
                "host": "127.0.0.1",
                "port": port,
                "user": "penstock",
                "password": PASSWORD,
                "dbname": "postgres",
            }
