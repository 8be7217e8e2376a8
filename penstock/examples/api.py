"""A small API of real data: MovieLens ratings by their time, a page at a time, for those who have the token.

Now and then it asks callers to come back later, as others do.
"""

from __future__ import annotations

import hmac
import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import polars as pl

from penstock.examples.data import ratings

__all__ = ["serving"]

PAGE = 1000
MOST = 5000
BUSY_EVERY = 25  # requests


def _rows() -> pl.DataFrame:
    return ratings().select(
        "user_id", "film_id", "title", "rating", rated_at=pl.col("rated_at").dt.replace_time_zone("UTC")
    )


@contextmanager
def serving(port: int = 0) -> Iterator[tuple[str, str]]:
    """Answer on 127.0.0.1 for the time of the block.

    Args:
        port: 0 takes a free one.

    Yields:
        The address of the ratings, and the token that it wants.
    """
    rows = _rows()
    token = secrets.token_urlsafe(24)
    asked = iter(range(1, 1 << 62))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            given = self.headers.get("Authorization", "")
            if not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
                self._answer(HTTPStatus.UNAUTHORIZED, {"error": "a token is needed"})
            elif next(asked) % BUSY_EVERY == 0:
                self._answer(HTTPStatus.TOO_MANY_REQUESTS, {"error": "busy"}, {"Retry-After": "0"})
            else:
                self._page({name: values[-1] for name, values in parse_qs(urlsplit(self.path).query).items()})

        def _page(self, query: dict[str, str]) -> None:
            try:
                since = datetime.fromisoformat(query.get("since", "1970-01-01T00:00:00+00:00"))
                until = datetime.fromisoformat(query.get("until", "9999-01-01T00:00:00+00:00"))
                offset, limit = int(query.get("offset", 0)), min(MOST, int(query.get("limit", PAGE)))
            except ValueError as error:
                self._answer(HTTPStatus.BAD_REQUEST, {"error": str(error)})
                return
            low, high = (moment if moment.tzinfo else moment.replace(tzinfo=UTC) for moment in (since, until))
            found = rows.filter(pl.col("rated_at").is_between(low, high, closed="left"))
            page = found.slice(offset, limit).with_columns(pl.col("rated_at").dt.to_string("iso:strict"))
            self._answer(HTTPStatus.OK, {"total": found.height, "ratings": page.to_dicts()})

        def _answer(self, status: HTTPStatus, body: Any, headers: dict[str, str] | None = None) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            for name, value in {
                "Content-Type": "application/json",
                "Content-Length": str(len(content)),
                **(headers or {}),
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/ratings", token
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def main() -> None:
    """Answer until interrupted."""
    with serving() as (address, token):
        print(f"curl -H 'Authorization: Bearer {token}' '{address}?since=2016-10-01&limit=3'")
        try:
            while True:
                input()
        except (EOFError, KeyboardInterrupt):
            return


if __name__ == "__main__":
    main()
