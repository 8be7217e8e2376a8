"""A real S3 API, its objects in memory."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers.programs import free_port, running

__all__ = ["s3"]


@contextmanager
def s3(*buckets: str) -> Iterator[dict[str, str]]:
    """A server with empty buckets, for the time of the block.

    Yields:
        key, secret and endpoint_url, as s3fs takes them.
    """
    port = free_port()
    options = {"key": "penstock", "secret": "open sesame/@:1", "endpoint_url": f"http://127.0.0.1:{port}"}
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with (
        tempfile.TemporaryDirectory() as folder,
        running(command, lambda: _answers(port), log=Path(folder) / "log", env={**os.environ}),
    ):
        import boto3

        client = boto3.client(
            "s3",
            aws_access_key_id=options["key"],
            aws_secret_access_key=options["secret"],
            endpoint_url=options["endpoint_url"],
            region_name="us-east-1",
        )
        for bucket in buckets:
            client.create_bucket(Bucket=bucket)
        client.close()
        yield options


def _answers(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0
