"""What `penstock stream status` makes of metrics."""

from __future__ import annotations

import http.server
import threading
from contextlib import contextmanager

import pytest

from penstock.config.streaming import Stream
from penstock.stream.status import asked, lines, problems

NOW = 1_000_000.0


@contextmanager
def telling(*texts: str):
    """An address whose metrics are one text after another, the last of them from then on."""
    left = list(texts)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            text = left.pop(0) if len(left) > 1 else left[0]
            self.send_response(200)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def gateway(readings: int) -> str:
    return f"# TYPE penstock_gateway_readings counter\npenstock_gateway_readings_total {readings}\n"


def indexer(lag: int = 3, newest: float = NOW - 1, paused: int = 0) -> str:
    return (
        f'# TYPE penstock_indexer_lag_records gauge\npenstock_indexer_lag_records{{partition="0"}} {lag}\n'
        f'penstock_indexer_lag_records{{partition="1"}} 1\n'
        f"# TYPE penstock_indexer_newest_timestamp_seconds gauge\npenstock_indexer_newest_timestamp_seconds {newest}\n"
        f"# TYPE penstock_indexer_paused gauge\npenstock_indexer_paused {paused}\n"
    )


def view(gateways, indexers) -> Stream:
    return Stream.model_validate(
        {
            "log": {"kind": "jetstream"},
            "store": {"kind": "duckdb"},
            "page": {"gateways": gateways, "indexers": indexers},
        }
    )


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (indexer(), []),
        (indexer(lag=500), ["501 messages are not stored yet, more than 100"]),
        (indexer(newest=NOW - 99), ["readings come, and the newest stored one is 99 s old, more than 60"]),
        (indexer(paused=1), ["the store holds it up"]),
    ],
)
def test_what_is_not_well_is_said(told, words):
    with telling(gateway(10), gateway(110)) as one, telling(told) as other:
        found = asked(view([one], [other]), sleep=lambda _: None)
    wrong = problems(found, lag=100, behind=60, now=NOW)
    assert len(wrong) == len(words)
    assert all(part in whole for part, whole in zip(words, wrong, strict=True))
    assert found[0].rates["penstock_gateway_readings_total"] > 0
    printed = dict(lines(found, NOW))
    assert printed["  waiting"].startswith(
        f"{int(found[1].total('penstock_indexer_lag_records')):,} messages (partition 0:"
    )


def test_old_readings_are_no_fault_where_none_come():
    with telling(gateway(10)) as one, telling(indexer(newest=NOW - 9999)) as other:
        found = asked(view([one], [other]), sleep=lambda _: None)
    assert problems(found, lag=100, behind=60, now=NOW) == []


def test_a_part_that_does_not_answer_is_named():
    with telling(gateway(1)) as one:
        found = asked(view([one], ["http://127.0.0.1:9"]), sleep=lambda _: None)
    assert problems(found, lag=100, behind=60, now=NOW) == ["indexer: nothing answers at http://127.0.0.1:9"]
    assert ("indexer", "http://127.0.0.1:9: no answer") in lines(found, NOW)
