"""A real MariaDB."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tests.servers.programs import as_user, folder_for, free_port, program, running

__all__ = ["mariadb"]

PASSWORD = "open sesame/@:1"  # as awkward in an address as they come
PLACES = ("/usr/sbin", "/usr/bin", "/usr/local/mysql/bin", "/usr/local/mysql/scripts")


@contextmanager
def mariadb(*settings: str) -> Iterator[dict[str, str | int]]:
    """A server with an empty database, for the time of the block.

    Args:
        settings: Further ones, such as ``sql-mode=``.

    Yields:
        host, port, user, password and database, as pymysql.connect takes them.
    """
    install = program("mariadb-install-db", *PLACES, package="mariadb-server")
    server = program("mariadbd", *PLACES, package="mariadb-server")
    admin = program("mariadb-admin", *PLACES, package="mariadb-client")
    port = free_port()
    with folder_for("mysql") as folder:
        data, start, socket = folder / "data", folder / "start.sql", folder / "socket"
        start.write_text(
            "CREATE DATABASE IF NOT EXISTS penstock;\n"
            f"CREATE USER IF NOT EXISTS penstock@'127.0.0.1' IDENTIFIED BY '{PASSWORD}';\n"
            "GRANT ALL ON *.* TO penstock@'127.0.0.1';\n"
        )
        start.chmod(0o644)
        user = as_user("mysql")
        common = ["--no-defaults", f"--datadir={data}", "--innodb-log-file-size=16M"]
        with (folder / "log").open("ab") as log:
            subprocess.run(
                [*user, install, *common, "--auth-root-authentication-method=normal", "--skip-test-db"],
                check=True,
                stdout=log,
                stderr=log,
            )
        command = [
            *user,
            server,
            *common,
            f"--port={port}",
            "--bind-address=127.0.0.1",
            f"--socket={socket}",
            f"--pid-file={folder / 'pid'}",
            f"--init-file={start}",
            "--innodb-flush-log-at-trx-commit=0",
            "--skip-name-resolve",
            *(f"--{setting}" for setting in settings),
        ]
        # As the user that the first statements make: the server listens before it has run them.
        check = [admin, "--no-defaults", "--protocol=tcp", "-h127.0.0.1", f"-P{port}", "-upenstock", f"-p{PASSWORD}", "ping"]  # fmt: skip
        with running(command, lambda: _succeeds(check), log=folder / "log"):
            yield {
                "host": "127.0.0.1",
                "port": port,
                "user": "penstock",
                "password": PASSWORD,
                "database": "penstock",
            }


def _succeeds(check: list[str]) -> bool:
    # `ping` is content with a server that refuses the password; what it says then is not.
    done = subprocess.run(check, check=False, capture_output=True, text=True)
    return done.returncode == 0 and "denied" not in done.stderr
