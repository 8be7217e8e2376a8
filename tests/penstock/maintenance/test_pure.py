"""Decisions, comparisons, incidents and reliability: what needs no model."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from penstock.config.maintenance import Comparison, Maintenance
from penstock.errors import PenstockError
from penstock.maintenance.comparing import Scores, compare, delong
from penstock.maintenance.decisions import decide
from penstock.maintenance.incidents import Entry, Incident, Incidents, incidents_of
from penstock.maintenance.reliability import reliability

NOW = datetime(2026, 5, 1, tzinfo=UTC)
DAY = timedelta(days=1)
POLICY = Maintenance.model_validate(
    {
        "monitor": "toy",
        "condition": {"causes": ["performance"], "min_estimated_auc": 0.7},
        "retraining": {"artefact": "models/toy"},
        "comparison": {"holdout": "holdout.parquet"},
        "promote": ["true"],
    }
)


def incident(
    opened: datetime, closed: datetime | None, *, kind="condition", down=True, what="retrained"
) -> Incident:
    first = Entry(incident="i", at=opened, what=what, kind=kind, causes=("performance",))
    return Incident(
        id="i", kind=kind, causes=("performance",), opened=opened, closed=closed, down=down, entries=(first,)
    )


@pytest.mark.parametrize(
    ("alerts", "past", "age", "estimated", "expected"),
    [
        ({}, [], 3, None, (None, False, False)),
        ({}, [], 31, None, ("preventive", False, True)),
        ({"performance": "warning"}, [], 3, None, ("condition", False, True)),
        ({"inputs": "critical"}, [], 3, None, (None, False, False)),
        ({}, [], 3, 0.65, ("condition", False, True)),
        ({}, [], 3, 0.75, (None, False, False)),
        ({"skew": "warning"}, [], 3, None, (None, False, False)),
        ({"skew": "critical", "performance": "warning"}, [], 3, None, ("corrective", True, True)),
        ({"performance": "critical"}, [incident(NOW - DAY / 2, None)], 3, None, (None, False, False)),
        ({"performance": "warning"}, [incident(NOW - DAY, NOW - DAY / 2)], 3, None, (None, False, False)),
        (
            {"performance": "warning"},
            [incident(NOW - 3 * DAY, NOW - 2 * DAY)],
            9,
            None,
            ("condition", False, True),
        ),
        ({}, [incident(NOW - 5 * DAY, NOW - 5 * DAY)], 31, None, (None, False, False)),
    ],
)
def test_what_is_to_be_done(alerts, past, age, estimated, expected):
    action = decide(alerts, POLICY, past, NOW, began=NOW - age * DAY, estimated_auc=estimated)
    assert (action.kind, action.rollback, action.retrain) == expected


def scores(rng, rows, *, champion, challenger):
    positive = rng.random(rows) < 0.4
    signal = positive + rng.normal(0, 1, rows)
    noise = rng.normal(0, 1, (2, rows))
    return Scores(positive, champion * signal + noise[0], challenger * signal + noise[1])


def test_delongs_error_is_what_chance_does():
    rng = np.random.default_rng(0)
    found = [delong(scores(rng, 400, champion=1, challenger=1)) for _ in range(400)]
    gains, errors = np.array(found).T
    assert errors.mean() == pytest.approx(gains.std(), rel=0.1)
    one = scores(rng, 300, champion=1, challenger=2)
    expected = roc_auc_score(one.positive, one.challenger) - roc_auc_score(one.positive, one.champion)
    assert delong(one)[0] == pytest.approx(expected)


def test_an_equal_challenger_takes_over_no_more_often_than_declared():
    rng = np.random.default_rng(1)
    policy = Comparison(holdout="", alpha=0.05)
    taken = [
        compare(
            scores(rng, 1000, champion=1, challenger=1), scores(rng, 400, champion=1, challenger=1), policy
        ).promote
        for _ in range(300)
    ]
    assert np.mean(taken) < 0.08


def test_a_better_one_takes_over_and_a_worse_one_does_not():
    rng = np.random.default_rng(2)
    policy = Comparison(holdout="")
    even = scores(rng, 1000, champion=1, challenger=1)
    assert compare(even, scores(rng, 1000, champion=0.5, challenger=2), policy).promote
    assert not compare(even, scores(rng, 1000, champion=2, challenger=0.5), policy).promote
    # Better of late, and much worse than it was on what it should still know.
    lost = scores(rng, 2000, champion=2, challenger=0.2)
    assert not compare(lost, scores(rng, 1000, champion=0.5, challenger=2), policy).promote


def test_without_recent_truth_the_hold_out_decides():
    rng = np.random.default_rng(3)
    policy = Comparison(holdout="")
    assert compare(scores(rng, 2000, champion=0.5, challenger=2), None, policy).promote
    few = scores(rng, 100, champion=0.5, challenger=2)
    assert not compare(scores(rng, 2000, champion=1, challenger=1), few, policy).promote


def test_other_tasks_are_compared_by_their_losses():
    rng = np.random.default_rng(4)
    before = rng.exponential(1.0, 500)
    worse, better = (
        Scores(None, before, before + 0.1),
        Scores(None, before, before - 0.1 + rng.normal(0, 0.1, 500)),
    )
    policy = Comparison(holdout="", max_loss=1.0)
    assert not compare(better, worse, policy).promote
    assert compare(better, better, policy).promote


def test_figures_of_reliability():
    hour = timedelta(hours=1)
    since = NOW - 100 * hour
    past = [
        incident(since + 10 * hour, since + 12 * hour),
        incident(since + 11 * hour, since + 13 * hour),  # overlaps: three hours down, not four
        incident(since + 50 * hour, since + 51 * hour),
        incident(since + 60 * hour, since + 90 * hour, down=False),
    ]
    told = reliability(past, since, NOW, objective=0.95)
    assert (told.down, told.failures) == (4 * hour, 3)
    assert told.availability == pytest.approx(0.96)
    assert told.mtbf == 32 * hour
    assert told.mttr == 5 * hour / 3
    assert told.left == pytest.approx(0.2)
    assert told.burn == pytest.approx(0.8)


@given(st.lists(st.tuples(st.integers(-50, 150), st.integers(0, 60)), max_size=8))
def test_down_time_is_no_more_than_the_period(spans):
    since, hour = NOW - timedelta(hours=100), timedelta(hours=1)
    past = [incident(since + start * hour, since + (start + length) * hour) for start, length in spans]
    told = reliability(past, since, NOW, objective=0.99)
    hours = {at for start, length in spans for at in range(max(0, start), min(100, start + length))}
    assert told.down == len(hours) * hour


def test_a_line_that_a_crash_cut_short_is_left_out_and_another_is_named(tmp_path):
    log = Incidents(tmp_path / "incidents.jsonl")
    for what in ("opened", "closed"):
        log.append(Entry(incident="a", at=NOW, what=what, kind="condition"))
    with log.path.open("a") as file:
        file.write('{"incident": "b", "at"')
    assert [one.closed for one in log.all()] == [NOW]
    log.path.write_text("nonsense\n" + log.path.read_text())
    with pytest.raises(PenstockError, match=r"incidents\.jsonl:1: no entry"):
        log.all()


def chained(path: Path, count: int = 4) -> Incidents:
    log = Incidents(path)
    path.unlink(missing_ok=True)
    for number in range(count):
        log.append(Entry(incident=str(number), at=NOW, what="opened", kind="condition", words="é"))
    assert log.broken() is None
    return log


def test_after_a_line_that_was_cut_short_the_log_goes_on(tmp_path):
    log = chained(tmp_path / "incidents.jsonl", 2)
    with log.path.open("ab") as file:
        file.write('{"incident": "b", "at", "é'.encode()[:-1])  # amid a letter
    assert [one.id for one in log.all()] == ["0", "1"]
    log.append(Entry(incident="c", at=NOW, what="opened", kind="condition"))
    assert [one.id for one in log.all()] == ["0", "1", "c"]
    assert log.broken() is None


@given(st.integers(0, 3), st.sampled_from(["change", "remove", "swap", "unhash"]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=16)
def test_what_is_changed_afterwards_is_found(tmp_path, at, how):
    log = chained(tmp_path / "incidents.jsonl")
    lines = log.path.read_text().splitlines()
    if how == "change":
        lines[at] = lines[at].replace("condition", "preventive")
    elif how == "unhash":
        lines[at] = json.dumps(json.loads(lines[at]) | {"hash": None})
    elif how == "remove":
        del lines[at]
    else:
        lines[at], lines[at - 1] = lines[at - 1], lines[at]
    log.path.write_text("".join(f"{line}\n" for line in lines))
    if how == "remove" and at == 3:
        assert log.broken() is None, "of the end, nobody inside can know"
    else:
        assert log.broken() == 1 + (min(at, (at - 1) % 4) if how == "swap" else at)


def test_lines_of_before_there_were_hashes_stand_at_the_beginning(tmp_path):
    log = chained(tmp_path / "incidents.jsonl", 1)
    (line,) = log.path.read_text().splitlines()
    old = {key: value for key, value in json.loads(line).items() if key not in {"hash", "previous"}}
    log.path.write_text(json.dumps(old) + "\n")
    log.append(Entry(incident="new", at=NOW, what="opened", kind="condition"))
    assert log.broken() is None
    log.path.write_text(log.path.read_text() + json.dumps(old) + "\n")
    assert log.broken() == 3


def test_a_figure_that_is_none_is_left_out(tmp_path):
    log = Incidents(tmp_path / "incidents.jsonl")
    figures = {"gain": float("nan"), "holdout_gain": 0.1}
    log.append(Entry(incident="a", at=NOW, what="compared", kind="condition", figures=figures))
    assert log.entries()[0].figures == {"holdout_gain": 0.1}
    assert log.broken() is None


def test_what_people_say_of_an_incident_is_no_outcome_of_it():
    entries = [
        Entry(incident="a", at=NOW, what=what, kind="condition")
        for what in ("opened", "handed_over", "acknowledged")
    ]
    (one,) = incidents_of(entries)
    assert one.is_handed_over
    assert one.acknowledged == NOW
    assert not one.is_of_operator
