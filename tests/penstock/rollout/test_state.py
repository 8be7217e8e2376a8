"""Both stores do the same, and what they keep outlives whoever wrote it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import subprocess

import pytest

from penstock.rollout import settings as rules
from penstock.rollout import state as states
from penstock.rollout.audit import Intent, broken
from penstock.rollout.state import Attribution, ConflictError, Exposure, Reward, StateError, open_store
from tests.penstock.rollout.routers import declaration
from tests.servers.programs import free_port, program, until

SINGLE = {"kind": "single", "champion": "a"}
ARMS = {"a": ["http://127.0.0.1:1"], "b": ["http://127.0.0.1:2"]}
WHY = Intent("me", "set", "because")


@pytest.fixture(scope="module")
def redis_port(tmp_path_factory):
    port = free_port()
    command = [
        program("redis-server", package="redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--save", "",
        "--dir", str(tmp_path_factory.mktemp("redis")),
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def answers():
        import redis

        try:
            client = redis.Redis(port=port)
            client.ping()
            client.close()
        except redis.RedisError:
            return False
        return True

    try:
        until(answers, "redis-server", process)
        yield port
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(params=["sqlite", "redis"])
def view(request, tmp_path):
    if request.param == "sqlite":
        return declaration(tmp_path, ARMS, SINGLE, users=3)
    port = request.getfixturevalue("redis_port")
    state = {"kind": "redis", "url": f"redis://127.0.0.1:{port}/0"}
    name = f"m-{tmp_path.name}".replace("[", "").replace("]", "")
    return declaration(tmp_path, ARMS, SINGLE, users=3, state=state, model=name)


@pytest.fixture
def store(view):
    found = open_store(view)
    yield found
    found.close()


def begun(view, store):
    settings = rules.begun(view.plan(), "x")
    store.change(None, settings, WHY)
    return settings


def test_settings_change_together_with_their_entry_or_not_at_all(view, store):
    assert store.settings() is None
    assert store.versions().settings == 0
    first = begun(view, store)
    second = rules.paused(first)
    other = open_store(view)
    store.change(first, second, WHY)
    with pytest.raises(ConflictError):
        other.change(first, rules.paused(first), Intent("you", "pause", "too late"))
    with pytest.raises(ConflictError):
        other.change(None, first, WHY)
    assert other.settings() == second
    assert other.versions().settings == 2
    trail = other.history()
    other.close()
    assert [(entry.number, entry.who) for entry in trail] == [(1, "me"), (2, "me")]
    assert trail[1].before["is_paused"] is False
    assert trail[1].after["is_paused"] is True
    assert broken(trail) is None
    assert broken(trail[1:]) == 1
    assert store.history(1) == trail[1:]


def test_counts_add_up_over_writers(view, store):
    other = open_store(view)
    for one in (store, other):
        one.add({("1.0", "a", "requests"): 2.0, ("1.0", "b", "errors"): 0.5})
    other.close()
    assert store.counters("1.0") == {"a": {"requests": 4.0}, "b": {"errors": 1.0}}
    assert store.counters("2.0") == {}


def test_an_outcome_counts_once_for_each_arm_that_it_tells_something_of(store):
    answer = Attribution("r", "a", "answer", "1.0", "u", [{"label": "x"}], [1.0, 2.0])
    shadow = Attribution("r", "b", "shadow", "1.0")
    store.attribute([answer, shadow])
    assert sorted(store.attributed("r"), key=lambda one: one.arm) == [answer, shadow]
    assert store.attributed("other") == []
    rewards = [Reward("1.0", "a", None, 0.25, "mean"), Reward("1.0", "b", None, 1.0, "mean", entered=True)]
    assert store.settle("r", 0, rewards)
    assert not store.settle("r", 0, rewards)
    assert store.settle("r", 1, [])
    counters = store.counters("1.0")
    assert counters["a"] == {"outcomes": 1, "kpi_n": 1, "kpi_total": 0.25, "kpi_squares": 0.0625}
    assert counters["b"] == {"outcomes": 1, "kpi_n": 0, "kpi_total": 1, "kpi_squares": 1}
    assert store.settle("s", 0, [Reward("2.0", "a", None, 0.5, "mean", context=[1.0, -2.0])])
    found = store.counters("2.0")["a"]
    assert (found["xx_0_0"], found["xx_0_1"], found["xx_1_1"]) == (1, -2, 4)
    assert (found["rx_0"], found["rx_1"]) == (0.5, -1)


@pytest.mark.parametrize(
    ("mode", "entered", "n", "total", "squares"),
    [
        ("any", True, 2, 1, 1),
        ("any", False, 1, 1, 1),
        ("sum", True, 2, 2.5, 6.25),
        ("mean", False, 1, 1.25, 1.5625),
    ],
)
def test_a_user_is_one_number(store, mode, entered, n, total, squares):
    store.expose([Exposure("1.0", "a", "u"), Exposure("1.0", "a", "v")], enters=entered)
    store.expose([Exposure("1.0", "a", "u")], enters=entered)
    for at, value in enumerate((1.0, 1.5)):
        assert store.settle("r", at, [Reward("1.0", "a", "u", value, mode, entered)])
    found = store.counters("1.0")["a"]
    assert found["users"] == 2
    assert (found["kpi_n"], found["kpi_total"], found["kpi_squares"]) == (n, total, squares)


def test_users_are_bounded_and_it_says_so(store):
    store.expose([Exposure("1.0", "a", str(user)) for user in range(5)], enters=False)
    counters = store.counters("1.0")["a"]
    assert counters["users"] == 3
    assert counters["users_uncounted"] == 2
    assert store.settle("r", 0, [Reward("1.0", "a", "4", 1.0, "any")])
    assert "kpi_total" not in store.counters("1.0")["a"]


def test_facts_and_leases_end(store):
    store.put_fact("replica/a/0", {"pid": 1}, 60)
    store.put_fact("replica/b/0", {"pid": 2}, 0.01)
    until(lambda: store.facts("replica/") == {"a/0": {"pid": 1}}, "the end of a fact")
    assert store.lease("controller", "one", 60)
    assert store.lease("controller", "one", 0.01)
    until(lambda: store.lease("controller", "two", 60), "the end of a lease")
    assert not store.lease("controller", "one", 60)
    assert store.policy() is None
    store.put_policy({"stage": "1.0", "shares": {"a": 1.0}})
    assert store.versions().policy == 1
    assert store.policy() == {"stage": "1.0", "shares": {"a": 1.0}}


def test_the_trail_cannot_be_rewritten_and_tampering_shows(tmp_path):
    view = declaration(tmp_path, ARMS, SINGLE)
    store = open_store(view)
    settings = begun(view, store)
    store.change(settings, rules.paused(settings), WHY)
    store.close()
    raw = sqlite3.connect(tmp_path / "state.sqlite")
    for statement in ("UPDATE trail SET body = '{}'", "DELETE FROM trail WHERE number = 1"):
        with pytest.raises(sqlite3.IntegrityError, match="appended to and never changed"):
            raw.execute(statement)
    raw.execute("DROP TRIGGER trail_is_not_rewritten")
    raw.execute("UPDATE trail SET body = replace(body, 'because', 'nothing') WHERE number = 1")
    raw.commit()
    raw.close()
    store = open_store(view)
    assert broken(store.history()) == 1
    store.close()


def write_until_killed(view, ready):
    store = open_store(view)
    settings = store.settings()
    while True:
        after = rules.resumed(settings) if settings.is_paused else rules.paused(settings)
        store.change(settings, after, WHY)
        store.add({("1.0", "a", "requests"): 1.0})
        settings = after
        ready.set()


def test_a_writer_that_is_killed_leaves_whole_changes(tmp_path):
    view = declaration(tmp_path, ARMS, SINGLE)
    store = open_store(view)
    begun(view, store)
    store.close()
    spawn = multiprocessing.get_context("spawn")
    for _ in range(2):
        ready = spawn.Event()
        process = spawn.Process(target=write_until_killed, args=(view, ready))
        process.start()
        assert ready.wait(60)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        process.close()
        store = open_store(view)
        trail = store.history()
        assert broken(trail) is None
        assert trail[-1].after == store.settings().model_dump(mode="json")
        store.close()


def test_what_is_no_state_says_so(tmp_path):
    view = declaration(tmp_path, ARMS, SINGLE)
    (tmp_path / "state.sqlite").write_text("not a database, and long enough to be looked at as one" * 100)
    with pytest.raises(StateError, match="not a database"):
        open_store(view)
    gone = {"kind": "redis", "url": f"redis://127.0.0.1:{free_port()}/0"}
    with pytest.raises(StateError):
        open_store(declaration(tmp_path, ARMS, SINGLE, state=gone))


def test_a_clock_that_jumps_moves_nothing(tmp_path, monkeypatch):
    view = declaration(tmp_path, ARMS, SINGLE, outcomes="PT1H")
    store = open_store(view)
    store.attribute([Attribution("r", "a", "answer", "1.0")])
    for jump in (10_000_000.0, -10_000_000.0):
        monkeypatch.setattr(states.time, "time", lambda jump=jump: 1_800_000_000.0 + jump)
        assert len(store.attributed("r")) == 1
        assert store.lease("controller", "one", 60)
        store.tidy()
        assert len(store.attributed("r")) == 1
    store.close()


def test_attributions_are_bounded_the_oldest_go_first(tmp_path):
    view = declaration(tmp_path, ARMS, SINGLE, attributions=10)
    store = open_store(view)
    begun(view, store)
    for number in range(30):
        store.attribute([Attribution(f"r-{number}", "a", "answer", "1.0")])
    store.tidy()
    kept = [number for number in range(30) if store.attributed(f"r-{number}")]
    store.close()
    assert kept == list(range(20, 30))
