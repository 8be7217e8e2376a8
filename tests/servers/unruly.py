"""A real HTTP server with rows to give, that misbehaves as it is told to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

__all__ = ["Unruly", "unruly"]

FAULTS = ("500", "503", "429", "429 date", "cut", "cut chunk", "cut json", "reset", "slow")


@dataclass
class Unruly:
    """What the server does, and what it was asked.

    Attributes:
        rows: What it has.
        faults: What it does to the next requests instead of answering; None answers.
        most: Rows that it gives at most, whatever is asked for.
        asked: Paths with queries, in order.
        headers: Of each request.
        token: That it wants, if any; tokens are issued at /token.
        elsewhere: Where /away sends people.
    """

    rows: list[Any]
    faults: list[str | None] = field(default_factory=list)
    most: int = 1000
    asked: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    token: str | None = None
    issued: int = 0
    elsewhere: str = ""
    url: str = ""
    lock: Lock = field(default_factory=Lock)


@contextmanager
def unruly(rows: list[Any], **others: Any) -> Iterator[Unruly]:
    """Serve on 127.0.0.1 for the time of the block."""
    state = Unruly(rows, **others)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            form = self.rfile.read(int(self.headers["Content-Length"])).decode()
            with state.lock:
                if "client_secret=open+sesame" not in form:
                    self.give(401, {"error": "invalid_client"})
                    return
                state.issued += 1
                state.token = f"token-{state.issued}"
                self.give(200, {"access_token": state.token, "expires_in": 3600})

        def do_GET(self) -> None:
            with state.lock:
                state.asked.append(self.path)
                state.headers.append(dict(self.headers))
                fault = state.faults.pop(0) if state.faults else None
            if fault:
                self.misbehave(fault)
            elif state.token and self.headers.get("Authorization") != f"Bearer {state.token}":
                self.give(401, {"error": "expired"})
            else:
                self.serve()

        def serve(self) -> None:
            parts = urlsplit(self.path)
            query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
            start = int(query.get("offset", query.get("cursor", 0)))
            size = min(state.most, int(query.get("limit", state.most)))
            kind = parts.path.strip("/")
            if kind == "page":
                start = (int(query.get("page", 1)) - 1) * size
            page, end = state.rows[start : start + size], start + size
            more = end < len(state.rows)
            match kind:
                case "link":
                    link = f"/link?offset={end}" if more else None
                    self.give(200, {"items": page, "next": link})
                case "header":
                    headers = {"Link": f'<{state.url}/header?offset={end}>; rel="next"'} if more else {}
                    self.give(200, {"items": page}, headers)
                case "cursor":
                    self.give(200, {"items": page, "meta": {"next": str(end) if more else ""}})
                case "header_cursor":
                    self.give(200, {"items": page}, {"X-Next-Cursor": str(end)} if more else {})
                case "circle":
                    self.give(200, {"items": page, "meta": {"next": "7"}})
                case "away":
                    self.give(302, {}, {"Location": state.elsewhere})
                case "away_link":
                    self.give(200, {"items": page, "next": state.elsewhere})
                case "html":
                    self.give(200, "<html>log in</html>", {"Content-Type": "text/html"})
                case "bare":
                    self.give(200, page)
                case _:
                    self.give(200, {"items": page, "total": len(state.rows)})

        def misbehave(self, fault: str) -> None:
            body = json.dumps({"items": state.rows[:3], "next": None}).encode()
            if fault == "429":
                self.give(429, {}, {"Retry-After": "7"})
            elif fault == "429 date":
                self.give(429, {}, {"Retry-After": formatdate(1_000_000_011, usegmt=True)})
            elif fault.isdigit():
                self.give(int(fault), {"error": "by turns"})
            elif fault == "cut json":  # with the length that it has
                self.give(200, body[: len(body) // 2])
            elif fault == "reset":
                self.close_connection = True
                self.connection.close()
            else:
                self.send_response(200)
                if fault == "cut chunk":
                    self.send_header("Transfer-Encoding", "chunked")
                    self.end_headers()
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(body) // 2, body[: len(body) // 2]))
                else:
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body[: len(body) // 2])
                    self.wfile.flush()
                    if fault == "slow":  # until the other side has had enough
                        self.connection.settimeout(5)
                        with suppress(OSError):
                            self.connection.recv(1)
                self.close_connection = True

        def give(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
            content = (
                body
                if isinstance(body, bytes)
                else (body if isinstance(body, str) else json.dumps(body)).encode()
            )
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

        def handle(self) -> None:
            with suppress(OSError, ValueError):  # it hung up, or we did
                super().handle()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
