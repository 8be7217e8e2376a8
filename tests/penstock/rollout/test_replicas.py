"""Replicas as real processes: kept within their memory; the state may be away."""

from __future__ import annotations

import sys

from penstock.config.rollout import Rollout
from penstock.rollout import settings as rules
from penstock.rollout.audit import Intent
from penstock.rollout.replicas import Replicas, resident, wanted_artifact
from penstock.rollout.state import StateError, open_store
from tests.servers.programs import free_port, until

LEAK = """
import http.server, json, sys, threading
kept = []
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header("content-length", "0"); self.end_headers()
    def log_message(self, *_): pass
def leak():
    while True:
        if sys.argv[2] == "models/leaks": kept.append(bytearray(b"x") * 2_000_000)
        threading.Event().wait(0.01)
threading.Thread(target=leak, daemon=True).start()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def make(_view, artifact, port, _workers):
    return [sys.executable, "-c", LEAK, str(port), artifact]


def test_a_version_that_leaks_is_started_again_and_it_is_counted(tmp_path):
    view = Rollout.model_validate({
        "model": "m", "salt": "salt", "ports": min(free_port(), 59_000),
        "arms": {
            "a": {"artifact": "models/fine"},
            "b": {"artifact": "models/leaks", "memory_bytes": 120_000_000},
        },
        "strategy": {"kind": "shadow", "champion": "a", "challengers": ["b"]},
        "state": {"kind": "sqlite", "path": str(tmp_path / "state.sqlite")},
    })  # fmt: skip
    store = open_store(view)
    settings = rules.begun(view.plan(), "")
    store.change(None, settings, Intent("me", "declare", ""))
    replicas = Replicas(view, store, settings, make)

    def looked(true):
        replicas.look()
        return true()

    try:
        until(lambda: looked(lambda: all(one.is_ready for one in replicas.running.values())), "replicas")
        first = replicas.running["b/0"].part.process.pid
        fine = replicas.running["a/0"].part.process.pid
        assert 1_000_000 < resident(first) < 120_000_000
        until(
            lambda: looked(lambda: store.counters("1.0").get("b", {}).get("memory_restarts", 0) >= 1),
            "a restart",
        )
        until(lambda: looked(lambda: replicas.running["b/0"].is_ready), "the new one")
        assert replicas.running["b/0"].part.process.pid != first
        assert replicas.running["a/0"].part.process.pid == fine
        assert store.facts("replica/")["a/0"]["ready"] is True

        # Without the state, what runs goes on to run.
        def away(*_):
            raise StateError("away")

        store.settings = away
        store.put_fact = away
        replicas.running["a/0"].part.process.kill()
        until(
            lambda: looked(
                lambda: replicas.running["a/0"].part.starts == 2 and replicas.running["a/0"].is_ready
            ),
            "the champion",
        )
    finally:
        replicas.end()
        store.close()
    # The one that leaks may be between two starts.
    left = [one.part.process for one in replicas.running.values() if one.part.process is not None]
    assert all(process.poll() is not None for process in left)


def test_which_artefact_each_replica_should_serve():
    plan = rules.checked({
        "arms": {"a": {"artifact": "old", "replicas": 3}},
        "strategy": {"kind": "rolling", "champion": "a", "artifact": "new"},
    })  # fmt: skip
    settings = rules.begun(plan, "")

    def wanted(of):
        return [wanted_artifact(of, "a", index) for index in range(3)]

    assert wanted(settings) == ["old", "old", "old"]
    resting = rules.with_resting(settings, ("a/0",))
    assert wanted(resting) == ["new", "old", "old"]
    settings = rules.rolled_on(resting)
    assert (wanted(settings), settings.resting) == (["new", "old", "old"], ())
    back = rules.rolled_back(settings)
    assert wanted(back) == ["old", "old", "old"]
    for index in (1, 2):
        settings = rules.rolled_on(rules.with_resting(settings, (f"a/{index}",)))
    assert settings.plan.strategy.kind == "single"
    assert wanted(settings) == ["new", "new", "new"]
