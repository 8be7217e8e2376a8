"""A reliability review's answers, against numbers that were worked out by hand."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from penstock.config.maintenance import Maintenance, Objective, Prices, Probe
from penstock.config.serving.requests import FileLog
from penstock.errors import PenstockError
from penstock.maintenance.incidents import Entry, Incidents, incidents_of
from penstock.maintenance.metrics import exposition, failures_in_a_row
from penstock.maintenance.review import costs, lines, mean_time_to_detect, page, review
from penstock.maintenance.service_level import burns, level, probe, probed
from penstock.monitoring.findings import Finding
from penstock.monitoring.history import WindowRecord
from penstock.monitoring.run import Monitoring, declared
from penstock.requests import RequestsOfOne, open_requests
from tests.penstock.monitoring.answering import write_repository
from tests.servers.programs import free_port, program

NOW = datetime(2026, 5, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
OBJECTIVE = Objective(availability=0.99, latency_ms=10)


def log(root: Path, told: list[tuple[timedelta, int, str, float]]) -> Path:
    """Requests so long before NOW: how many, with which status, in how many milliseconds."""
    folder = root / "data/requests"
    writer = open_requests(FileLog(kind="files", folder=str(folder)))
    assert writer is not None
    for before, count, status, took in told:
        for _ in range(count):
            moment = int((NOW - before).timestamp() * 1e9)
            one = RequestsOfOne(moment, "r", "toy", "v", lambda: [{"age": 1}], None, took, status=status)
            assert writer.put(1, one)
    writer.close()
    return folder


def test_what_is_late_or_wrong_uses_the_budget(tmp_path):
    folder = log(
        tmp_path,
        [(2 * HOUR, 960, "ok", 1.0), (2 * HOUR, 30, "ok", 50.0), (2 * HOUR, 10, "deadline", 1.0)],
    )
    found = level(folder, "toy", NOW - 3 * HOUR, NOW, OBJECTIVE)
    assert (found.requests, found.good) == (1000, 960)
    assert found.burn == pytest.approx(4.0)
    assert found.left == pytest.approx(-3.0)
    assert level(folder, "toy", NOW - HOUR, NOW, OBJECTIVE).share is None


def test_burn_alerts_need_a_long_and_a_short_window(tmp_path):
    # An hour ago all was lost, and since then nothing: it is over, and nobody is to be woken.
    over = log(tmp_path / "over", [(HOUR / 1.2, 100, "error", 1.0), (HOUR / 60, 10, "ok", 1.0)])
    first, *_ = burns(over, "toy", NOW, OBJECTIVE)
    assert first.rate == pytest.approx(100 * 100 / 110)
    assert first.recent == 0
    assert not first.fires
    # It goes on.
    going = log(tmp_path / "going", [(HOUR / 60, 20, "error", 1.0), (HOUR / 2, 80, "ok", 1.0)])
    first, *_ = burns(going, "toy", NOW, OBJECTIVE)
    assert first.rate == pytest.approx(20)
    assert first.fires
    assert first.severity == "page"


def test_probes_count_what_was_not_looked_at(tmp_path):
    path = tmp_path / "probes.jsonl"
    view = Probe(url=f"http://127.0.0.1:{free_port()}/", timeout=timedelta(seconds=1))
    good, words = probe(view, path, NOW - HOUR / 2)
    assert not good
    assert "refused" in words
    with path.open("a") as file:
        file.write('{"at": "2026-04-30T23:45:00+00:00", "ok": true, "ms": 1}\n{"at": "2026')
    found = probed(path, NOW - HOUR, NOW, timedelta(minutes=1))
    assert (found.count, found.good, found.expected) == (2, 1, 60)
    path.write_text("nonsense\n")
    with pytest.raises(PenstockError, match=r"probes\.jsonl:1"):
        probed(path, NOW - HOUR, NOW, timedelta(minutes=1))


def entries(*told: tuple[str, float, dict[str, float]]) -> list[Entry]:
    """Of one incident: what, hours before NOW, figures."""
    return [
        Entry(
            incident="i",
            at=NOW - hours * HOUR,
            what=what,  # type: ignore[arg-type]
            kind="condition",
            causes=("performance",),
            figures=figures,
        )
        for what, hours, figures in told
    ]


PROMOTED = entries(
    ("opened", 10, {}),
    ("retrained", 9, {"seconds": 1800.0}),
    ("compared", 9, {"gain": 0.03, "holdout_gain": 0.5}),
    ("promoted", 8, {}),
    ("closed", 8, {}),
)


def test_costs_of_serving_and_of_retraining_against_its_gain():
    prices = Prices(serving_hour=0.5, training_hour=2.0, point=0.1)
    found = costs(prices, incidents_of(PROMOTED), 20 * HOUR, 4000, {"i": 3000})
    assert found.per_thousand == pytest.approx(2.5)
    assert found.training == pytest.approx(1.0)
    assert found.gain == pytest.approx(3 * 0.1 * 3)  # three points, on three thousand predictions
    kept = incidents_of([one for one in PROMOTED if one.what != "promoted"])
    assert costs(prices, kept, 20 * HOUR, 0, {}).gain == 0
    assert costs(prices, kept, 20 * HOUR, 0, {}).per_thousand is None


def test_failures_are_counted_up_to_a_round_that_did_not_fail():
    def one(name: str, what: str) -> list[Entry]:
        told = entries(("opened", 3, {}), (what, 2, {}), ("closed", 1, {}))
        return [entry.model_copy(update={"incident": name}) for entry in told]

    found = incidents_of([*one("a", "failed"), *one("b", "kept"), *one("c", "failed"), *one("d", "failed")])
    assert failures_in_a_row(found) == 2


def window(hours: float, *families: str) -> WindowRecord:
    return WindowRecord(
        start=NOW - hours * HOUR,
        end=NOW - (hours - 1) * HOUR,
        rows=1,
        truths=1,
        versions=(),
        findings=tuple(
            Finding(family=family, subject="x", severity="warning", score=2, words="w")  # type: ignore[arg-type]
            for family in families
        ),
        metrics={},
        psi={},
        means={},
        errors=(),
    )


def test_time_to_detect_begins_with_the_first_window_of_an_unbroken_row():
    seen = [
        window(15, "performance"),
        window(14),
        window(13, "concept"),
        window(12, "performance"),
        window(11, "performance"),
    ]
    assert mean_time_to_detect(incidents_of(PROMOTED), seen) == 3 * HOUR
    assert mean_time_to_detect(incidents_of(PROMOTED), seen[:2]) is None


def test_the_page_answers_and_says_the_same_as_the_figures(tmp_path):
    write_repository(tmp_path)
    log(tmp_path, [(2 * HOUR, 990, "ok", 1.0), (2 * HOUR, 10, "<b>odd</b>", 1.0)])
    incidents = Incidents(tmp_path / ".penstock/maintenance/toy/incidents.jsonl")
    for entry in PROMOTED:
        incidents.append(entry.model_copy(update={"words": "<script>alert(1)</script>"}))
    policy = Maintenance.model_validate(
        {
            "monitor": "toy",
            "retraining": {"artefact": "models/toy"},
            "comparison": {"holdout": "h"},
            "promote": ["true"],
            "objective": {"availability": 0.98, "latency_ms": 10},
            "probe": {"url": "http://127.0.0.1:1/"},
            "prices": {"serving_hour": 1.0},
        }
    )
    monitoring = Monitoring("toy", declared("toy", root=tmp_path), tmp_path)
    found = review("toy", policy, monitoring, NOW - 24 * HOUR, NOW, tmp_path)
    told = dict(lines(found))
    assert told["good answers"] == "99.000% of 1000"
    assert told["error budget"] == "50.0% left of 30 d"
    assert told["1,000 predictions"] == "24 EUR"
    assert json.loads(json.dumps(found.dump()))["by_requests"]["good"] == 990
    exposed = exposition("toy", policy, monitoring, NOW, tmp_path).decode()
    assert 'penstock_maintenance_error_budget_left{maintenance="toy"} 0.5' in exposed
    assert 'penstock_maintenance_incident_opened_timestamp_seconds{maintenance="toy"} 0.0' in exposed
    html = page(found)
    assert "of the error budget is left</h1>" in html
    assert "<script>" not in html
    assert all(value in html for value in told.values())


def test_alerts_fire_when_they_should_and_when_they_are_over_they_end():
    rules = Path(__file__).parents[3] / "deploy/prometheus/tests/maintenance.test.yaml"
    done = subprocess.run(
        [program("promtool", package="prometheus"), "test", "rules", rules], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
