"""``GET /metrics`` for a program that has no server of its own."""

from __future__ import annotations

import base64
import hmac
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from threading import Thread
from typing import Any

from penstock.errors import PenstockError

__all__ = ["CREDENTIALS", "serving"]

CREDENTIALS = "PENSTOCK_METRICS_CREDENTIALS"  # user:password, asked of everyone off this machine


@contextmanager
def serving(address: str, exposition: Callable[[], bytes]) -> Iterator[int]:
    """Answer ``GET /metrics`` for the time of the block.

    Args:
        address: PORT, of 127.0.0.1, or ADDRESS:PORT; 0 takes a free one.
        exposition: Gives all figures in Prometheus' text format.

    Yields:
        The port.

    Raises:
        PenstockError: The address is none, is taken, or is not this machine's own and no credentials are set.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]") or "127.0.0.1"
    credentials = os.environ.get(CREDENTIALS)
    if not credentials and not (host == "localhost" or ip_address(host).is_loopback):
        raise PenstockError(
            f"--metrics {address}: anyone could read them there",
            hint=f"set {CREDENTIALS}=user:password, or listen on 127.0.0.1",
        )

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.partition("?")[0] != "/metrics":
                self.send_error(HTTPStatus.NOT_FOUND)
            elif credentials and not _allowed(self.headers.get("Authorization"), credentials):
                self.send_response(HTTPStatus.UNAUTHORIZED)
                self.send_header("WWW-Authenticate", 'Basic realm="penstock"')
                self.end_headers()
            else:
                body = exposition()
                self.send_response(HTTPStatus.OK)
                self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    try:
        server = ThreadingHTTPServer((host, int(port)), Handler)
    except (OSError, ValueError) as error:
        raise PenstockError(f"--metrics {address}: {error}", hint="name a free port, such as 9108") from error
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _allowed(header: str | None, credentials: str) -> bool:
    expected = "Basic " + base64.b64encode(credentials.encode()).decode()
    return header is not None and hmac.compare_digest(header.encode(), expected.encode())
