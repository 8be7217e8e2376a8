"""What was done is written down, counted, shown, and somebody is told once."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from base64 import b64encode
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from prometheus_client.parser import text_string_to_metric_families

from penstock.config.loading import Monitor
from penstock.config.loading.monitoring import Notify
from penstock.errors import PenstockError
from penstock.loading.alerts import evaluate, send, transitions, volume_deviation
from penstock.loading.journal import Journal
from penstock.loading.metrics import exposition, serving
from penstock.loading.report import Change, Report
from penstock.loading.status import status, status_table
from penstock.loading.watching import watch

NOW = datetime(2025, 1, 10, tzinfo=UTC)


def report(number=0, **others):
    started = NOW - timedelta(days=1) + timedelta(minutes=number)
    given = {
        "outcome": "done",
        "ended": started + timedelta(seconds=30),
        "read": 1000,
        "added": 1000,
        "commits": 1,
        "rows": 1000,
    }
    return Report(name="orders", started=started, **{**given, **others})


# --- the journal ------------------------------------------------------------------------------------


def test_a_run_is_as_it_was_last_noted(tmp_path):
    journal = Journal(tmp_path)
    journal.note(report(0, outcome="running", ended=None, read=0))
    journal.note(report(0, outcome="running", ended=None, read=10))
    journal.note(report(0))
    journal.note(report(1, outcome="failed", error="no"))
    assert [(run.outcome, run.read) for run in journal.runs()] == [("done", 1000), ("failed", 1000)]


def test_a_line_that_a_kill_cut_off_loses_no_other(tmp_path):
    journal = Journal(tmp_path)
    journal.note(report(0))
    with journal.path.open("ab") as file:
        file.write(b'{"name": "orders", "star')
    journal.note(report(1))
    assert len(journal.runs()) == 2


def test_a_run_without_an_end_runs_or_was_killed(tmp_path):
    journal = Journal(tmp_path)
    journal.note(report(0, outcome="running", ended=None))
    assert journal.runs()[0].outcome == "killed"
    code = (
        "import fcntl, sys; file = open(sys.argv[1], 'a'); fcntl.flock(file, fcntl.LOCK_EX); "
        "print('locked', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        assert journal.runs()[0].outcome == "running"
        holder.kill()
    assert journal.runs()[0].outcome == "killed"


def test_the_journal_does_not_grow_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr("penstock.loading.journal.LARGEST", 10_000)
    monkeypatch.setattr("penstock.loading.journal.KEPT", 5)
    journal = Journal(tmp_path)
    for number in range(100):
        journal.note(report(number))
    assert journal.path.stat().st_size < 11_000
    assert journal.runs()[-1].started == report(99).started


# --- alerts -----------------------------------------------------------------------------------------


def rules(runs, now=NOW, **limits):
    return [alert.rule for alert in evaluate("orders", runs, Monitor.model_validate(limits), now)]


def test_old_data_is_told_by_its_cursor_or_by_the_last_good_run():
    cursor = (NOW - timedelta(hours=3)).isoformat()
    assert rules([report(cursor=cursor)], freshness="2h") == ["freshness"]
    assert rules([report(cursor=cursor)], freshness="4h") == []
    # A number is no time: then it is the end of the last run that went well, a day ago.
    assert rules([report(cursor=17)], freshness="20h") == ["freshness"]
    assert rules([report(cursor=17), report(1, outcome="failed")], freshness="2d") == ["failures"]
    assert rules([], freshness="2h") == ["freshness"]


def test_rejects_duration_shape_and_failures():
    assert rules([report(quarantined=11, reasons={"id: integer": 11})], max_reject_share=0.01) == [
        "reject_share"
    ]
    assert rules([report(quarantined=10)], max_reject_share=0.01) == []
    assert rules([report()], duration="29s") == ["duration"]
    change = Change(column="x", what="new", policy="evolve")
    assert rules([report(changes=(change,))]) == ["schema_change"]
    assert rules([report(changes=(change,))], schema_change="off") == []
    failed = [report(), report(1, outcome="failed"), report(2, outcome="killed")]
    assert rules(failed, consecutive_failures=3) == []
    assert rules(failed, consecutive_failures=2) == ["failures"]


def test_an_unusual_volume_is_noticed_and_a_usual_one_is_not():
    # Loads of about 1,000 independent events: of 2,000 usual ones fewer than 1 in 100 may be told, and every half one is.
    dice = random.Random(7)
    false = missed = 0
    for _ in range(2000):
        before = [round(dice.gauss(1000, 1000**0.5)) for _ in range(30)]
        usual, half = round(dice.gauss(1000, 1000**0.5)), round(dice.gauss(500, 500**0.5))
        false += abs(volume_deviation(usual, before)) > 5
        missed += abs(volume_deviation(half, before)) <= 5
    assert false < 20
    assert missed == 0


def test_volume_says_nothing_before_it_knows_and_keeps_its_bounds():
    before = [report(number, read=1000 + number) for number in range(12)]
    assert rules([*before[:5], report(20, read=3)], volume={}) == []
    assert rules([*before, report(20, read=3)], volume={}) == ["volume"]
    assert rules([*before, report(20, read=1010)], volume={}) == []
    assert rules([report(0, read=0)], volume={"min_rows": 1}) == ["volume"]


def test_an_alert_is_raised_once_and_cleared_once(tmp_path):
    bad = evaluate("orders", [report(quarantined=500)], Monitor(max_reject_share=0.1), NOW)
    assert [alert.rule for alert in transitions(tmp_path, bad)[0]] == ["reject_share"]
    assert transitions(tmp_path, bad) == ([], [])
    raised, cleared = transitions(tmp_path, [])
    assert (raised, [alert.rule for alert in cleared]) == ([], ["reject_share"])
    assert transitions(tmp_path, []) == ([], [])


@contextmanager
def listening(status_code=200):
    posted = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            posted.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            self.send_response(status_code)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", posted
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_alerts_are_posted_and_no_secret_of_the_address_is_told(monkeypatch):
    monkeypatch.setenv("HOOK", "T000-hook-secret")
    bad = evaluate("orders", [report(quarantined=500)], Monitor(max_reject_share=0.1), NOW)
    with listening() as (url, posted):
        send(Notify(url=f"{url}/api/v2/alerts"), bad, [], NOW)
        send(Notify(url=f"{url}/${{secret:HOOK}}", format="slack"), [], bad, NOW)
    (path, alerts), (hook, message) = posted
    assert path == "/api/v2/alerts"
    assert alerts[0]["labels"] == {"alertname": "load_reject_share", "load": "orders", "severity": "warning"}
    assert alerts[0]["startsAt"] == NOW.isoformat()
    assert hook == "/T000-hook-secret"
    assert "reject_share: over" in message["text"]
    with listening(500) as (url, _), pytest.raises(PenstockError) as caught:
        send(Notify(url=f"{url}/${{secret:HOOK}}"), bad, [], NOW)
    assert "hook-secret" not in str(caught.value)


# --- metrics and status -----------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path):
    journal = Journal(tmp_path / ".penstock/loads/orders")
    journal.note(
        report(0, quarantined=5, reasons={"id: integer": 5}, cursor=(NOW - timedelta(hours=1)).isoformat())
    )
    journal.note(report(1, outcome="failed", added=0, commits=0, error="no"))
    return tmp_path


def samples(text):
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_are_counted_from_the_journal(root):
    found = samples(exposition(root, lambda: NOW).decode())
    load = ("load", "orders")
    assert found["penstock_load_rows_total", load, ("outcome", "added")] == 1000
    assert found["penstock_load_runs_total", load, ("outcome", "failed")] == 1
    assert found["penstock_load_rejects_total", load, ("rule", "id: integer")] == 5
    assert found["penstock_load_table_rows", load] == 1000
    assert found["penstock_load_duration_seconds_bucket", ("le", "60.0"), load] == 2
    assert found["penstock_load_last_success_timestamp_seconds", load] == report().ended.timestamp()


def test_freshness_is_the_age_of_the_newest_row(root):
    found = samples(exposition(root, lambda: NOW).decode())
    assert found["penstock_load_freshness_seconds", ("load", "orders")] == 3600


def asked(request):
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, b""


def test_metrics_are_served_here_to_all_and_elsewhere_to_those_who_may(root, monkeypatch):
    with serving("0", root) as port:
        assert b"penstock_load_rows_total" in asked(f"http://127.0.0.1:{port}/metrics")[1]
        assert asked(f"http://127.0.0.1:{port}/")[0] == 404
    with pytest.raises(PenstockError, match="anyone could read"), serving("0.0.0.0:0", root):
        pass
    monkeypatch.setenv("PENSTOCK_METRICS_CREDENTIALS", "me:pass")
    with serving("127.0.0.1:0", root) as port:
        request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics")
        assert asked(request)[0] == 401
        request.add_header("Authorization", "Basic " + b64encode(b"me:pass").decode())
        assert asked(request)[0] == 200


def test_status_fits_a_terminal(root):
    from rich.console import Console

    (entry,) = status(root, NOW)
    assert (entry["outcome"], entry["rows"], entry["age_seconds"]) == ("failed", 1000, 3600)
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(status_table(root, NOW))
    lines = console.export_text().splitlines()
    assert "orders" in lines[1]
    assert "failed" in lines[1]
    assert "60m" in lines[1]
    assert len(lines) == 2
    console.file.close()


# --- again and again --------------------------------------------------------------------------------


def test_starts_are_an_interval_apart_and_failures_more():
    clock = [0.0]
    stop = threading.Event()
    starts, lasting = [], iter([2, 12, 2, 2, 2, 2])
    outcomes = iter([True, True, False, False, True, True])

    def run():
        starts.append(clock[0])
        clock[0] += next(lasting)
        if len(starts) == 6:
            stop.set()
        return next(outcomes)

    def wait(seconds):
        clock[0] += seconds

    watch(timedelta(seconds=10), run, stop, clock=lambda: clock[0], wait=wait)
    # The second run takes longer than the interval, and the third begins as it ends; then 20 and 40 after failures.
    assert starts == [0, 10, 22, 42, 82, 92]
