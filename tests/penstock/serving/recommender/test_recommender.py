"""A real recommender over real sockets: several processes, one store."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock import keys
from penstock.request_reading import scan
from penstock.serving.predictor import CLIENT
from tests.penstock.recommend.toys import recommender as toy
from tests.penstock.recommend.toys import write_artefact
from tests.penstock.serving.recommender.recommenders import ROOT, place, recommender, redis_server
from tests.servers.programs import until


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with recommender(
        tmp_path_factory.mktemp("recommend"),
        "workers=3",
        "exploration.share=0",
        "exploration.cold_share=0",
        "limits.body_bytes=20000",
        "limits.body_seconds=1s",
        "limits.interactions=100",
        "limits.items=5",
    ) as found:
        yield found


# --- read your writes -------------------------------------------------------------------------------


def writes_are_read(url: str, people: int, turns: int) -> None:
    """Everybody does something and asks, each time by a new connection, which another process may take."""

    def live(person: int) -> None:
        user = f"person-{person}"
        known: set[int] = set()
        with httpx.Client(
            base_url=url, timeout=30, limits=httpx.Limits(max_keepalive_connections=0)
        ) as client:
            for turn in range(turns):
                item = (person * 7 + turn * 3) % 40
                sent = {"user": user, "item": item, "rating": 4}
                assert client.post("/v1/interactions", json=sent).json() == {"stored": 1, "duplicates": 0}
                known.add(item)
                told = client.get(f"/v1/recommendations/{user}", params={"k": 40}).json()
                assert {each["item"] for each in told["items"]} == set(range(40)) - known
                kept = client.get(f"/v1/users/{user}").json()
                assert (kept["total"], kept["interactions"][0]["item"]) == (turn + 1, item)

    with ThreadPoolExecutor(people) as pool:
        list(pool.map(live, range(people)))


def test_what_was_acknowledged_is_in_the_next_list_whichever_process_answers(running):
    assert len(running.workers()) == 3
    writes_are_read(running.url, 8, 20)


def test_so_it_is_with_redis(tmp_path):
    with (
        redis_server(tmp_path) as (port, server),
        recommender(
            tmp_path, "workers=2", f"store={{kind: redis, url: 'redis://127.0.0.1:{port}/0'}}"
        ) as found,
    ):
        writes_are_read(found.url, 4, 10)
        # And when it is down: lists go on, and say so; what is to be written is refused, and can be sent again.
        found.add("a", 10)
        assert found.items("a")[:2] == [11, 12]
        server.kill()
        server.wait()
        told = found.list("a")
        assert told["degraded"] == "store"
        assert told["items"]
        refused = found.add("a", 20)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert found.client.get("/v1/users/a").status_code == 503
        assert found.ready()
        with redis_server(tmp_path, port):
            assert found.add("a", 20).status_code == 200
            told = found.list("a")
            assert told["degraded"] is None
            assert told["items"][0]["item"] in {11, 21}
            assert {each["item"] for each in told["items"]}.isdisjoint({10, 20})
        assert "defect" not in found.said()


def test_nothing_that_was_acknowledged_is_lost_when_processes_are_killed(tmp_path):
    acknowledged: dict[str, list[int]] = {f"u{person}": [] for person in range(4)}
    sent: dict[str, set[int]] = {user: set() for user in acknowledged}
    ended = threading.Event()
    with recommender(tmp_path, "workers=2") as found:

        def write(user: str) -> None:
            item = 0
            while not ended.is_set():
                item += 1
                sent[user].add(item)
                try:
                    answer = httpx.post(
                        f"{found.url}/v1/interactions", json={"user": user, "item": item}, timeout=20
                    )
                except httpx.TransportError:
                    continue
                if answer.status_code == 200:
                    acknowledged[user].append(item)

        writers = [threading.Thread(target=write, args=(user,)) for user in acknowledged]
        for writer in writers:
            writer.start()
        total = 0
        for _ in range(2):
            before, total = total, sum(map(len, acknowledged.values()))
            until(
                lambda before=before: sum(map(len, acknowledged.values())) > before + 40,
                "writes",
                found.process,
            )
            alive = found.workers()
            os.kill(alive[0], signal.SIGKILL)
            until(lambda alive=alive: len(set(found.workers()) - {alive[0]}) == 2, "processes", found.process)
        ended.set()
        for writer in writers:
            writer.join()
        for user, items in acknowledged.items():
            told = found.client.get(f"/v1/users/{user}", params={"limit": 5000}).json()
            kept = [one["item"] for one in told["interactions"]][::-1]
            assert set(items) <= set(kept) <= sent[user]
            assert [item for item in kept if item in set(items)] == items  # in their order


# --- what is asked ----------------------------------------------------------------------------------


def test_interactions_count_once_and_can_be_taken_back(running):
    one = {"user": "b", "item": 10, "time": "2026-01-01T00:00:00+01:00", "rating": 3.5}
    assert running.client.post("/v1/interactions", json=one).json() == {"stored": 1, "duplicates": 0}
    again = one | {"time": 1767222000}
    assert running.client.post("/v1/interactions", json=[again, again]).json() == {
        "stored": 0,
        "duplicates": 2,
    }
    kept = running.client.get("/v1/users/b").json()
    assert kept["interactions"] == [
        {
            "item": 10,
            "title": "Film 10",
            "year": 1990,
            "time": 1767222000000,
            "rating": 3.5,
            "event": None,
            "id": None,
        }
    ]
    assert running.items("b", k=2) == [11, 12]
    gone = running.client.delete("/v1/users/b/interactions/10", params={"time": "2025-12-31T23:00:00Z"})
    assert gone.json() == {"removed": 1}
    assert running.items("b", k=2) == [0, 1]
    running.add("b", 20, 5000)
    assert running.client.get("/v1/users/b").json()["known"] == 1
    assert running.client.delete("/v1/users/b").json() == {"removed": 2}
    assert running.client.get("/v1/users/b").json()["total"] == 0


def test_several_interactions_are_kept_all_or_none(running):
    sent = [{"user": "c", "item": 1}, {"user": "c", "item": -1}]
    answer = running.client.post("/v1/interactions", json=sent)
    assert answer.status_code == 422
    assert answer.json()["error"].startswith("body.many.1.item.")
    assert running.client.get("/v1/users/c").json()["total"] == 0


def test_a_list_is_asked_for_by_query(running):
    running.add("d", 10)
    told = running.list(
        "d", k=3, genre="Drama,War", exclude="12,14", explain=True, diversity=0.5, year_from=1985
    )
    assert [each["genres"][0] for each in told["items"]].count("Comedy") == 0
    assert {12, 14}.isdisjoint(each["item"] for each in told["items"])
    assert told["items"][0]["reason"]["text"] == "because of Film 10 (1990)"
    assert (
        running.client.get("/v1/recommendations/d", headers={"x-request-id": "my-1"}).json()["request"]
        == "my-1"
    )


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"k": 0}, "query.k: "),
        ({"k": 41}, "k: expected at most 40"),
        ({"diversity": "nan"}, "query.diversity: "),
        ({"diversity": 1.1}, "query.diversity: "),
        ({"genre": "Dramma"}, "did you mean 'Drama'?"),
        ({"prefer": "Dramma"}, "did you mean 'Drama'?"),
        ({"exclude": "1,x"}, "query.exclude.1: "),
        ({"year_from": 2000, "year_to": 1999}, "year_from is after year_to"),
        ({"kk": 3}, "query.kk: "),
    ],
)
def test_what_cannot_be_asked_is_refused_with_its_place(running, query, said):
    answer = running.client.get("/v1/recommendations/a", params=query)
    assert answer.status_code == 422
    assert said in answer.json()["error"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nonsense",
        b"[]",
        b"null",
        b'{"user": "a"}',
        b'{"user": "a", "item": 1, "rating": NaN}',
        b'{"user": "a", "item": 1, "rating": 1e999}',
        b'{"user": "a", "item": 9223372036854775808}',
        b'{"user": "", "item": 1}',
        b'{"user": "a\\u0000b", "item": 1}',
        b'{"user": "a/b", "item": 1}',
        b'{"user": "..", "item": 1}',
        b'{"user": "\\ud800", "item": 1}',
        b'{"user": "a", "item": 1, "\\ud800": 1}',
        b'{"user": "a", "item": 1, "time": true}',
        b'{"user": "a", "item": 1, "time": "2026-01-01T00:00:00"}',
        b'{"user": "a", "item": 1, "time": "1969-01-01T00:00:00Z"}',
        b'{"user": "a", "item": 1, "time": "2999-01-01T00:00:00Z"}',
        b'{"user": "a", "item": 1, "time": 1e300}',
        b"[" * 10_000,
        b"1" * 10_000,
        b"\xff\xfe",
    ],
)
def test_what_is_no_interaction_is_refused(running, body):
    answer = running.client.post(
        "/v1/interactions", content=body, headers={"content-type": "application/json"}
    )
    assert answer.status_code in {400, 422}, answer.text
    assert answer.json()["error"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["user", "item", "items", "time", "rating", "id", "request", "title"]), inner
        )
    ),
    max_leaves=8,
)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(path=st.sampled_from(["interactions", "impressions", "items"]), body=JSON)
def test_no_body_is_a_defect(running, path, body):
    answer = running.client.post(
        f"/v1/{path}", content=json.dumps(body), headers={"content-type": "application/json"}
    )
    assert answer.status_code < 500, answer.text


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    user=st.text(min_size=1, max_size=20),
    query=st.dictionaries(
        st.sampled_from(["k", "genre", "exclude", "diversity", "time", "limit"]),
        st.text(max_size=8),
        max_size=3,
    ),
)
def test_no_address_is_a_defect(running, user, query):
    name = quote(user.encode("utf-8", "replace"), safe="")
    for method, path in (
        ("GET", f"recommendations/{name}"),
        ("GET", f"users/{name}"),
        ("DELETE", f"users/{name}/interactions/1"),
    ):
        assert running.client.request(method, f"/v1/{path}", params=query).status_code < 500


def test_any_name_of_a_user_is_a_name(running):
    for user in ("a+b", "ü ö?&#", "x" * 200, "'; DROP TABLE interactions; --", "*"):
        name = quote(user, safe="")
        running.add(user, 10)
        assert running.client.get(f"/v1/users/{name}").json()["total"] == 1, user
        assert running.items(name, k=1) == [11]
        running.client.delete(f"/v1/users/{name}")


def test_what_is_too_large_or_slow_or_from_elsewhere_is_refused(running):
    client = running.client
    assert client.post("/v1/interactions", content=b"x" * 20_001).status_code == 413
    assert running.add("e", *range(101)).status_code == 413

    def drip():
        yield b'{"user":'
        time.sleep(1.5)  # longer than is waited for
        yield b'"a"}'

    try:
        slow = client.post("/v1/interactions", content=drip(), headers={"content-type": "application/json"})
        assert slow.status_code == 408
    except httpx.WriteError:
        pass  # it had closed before all was sent
    assert client.get("/v1/model", headers={"host": "evil.example"}).status_code == 400
    packed = client.post("/v1/interactions", content=b"x", headers={"content-encoding": "gzip"})
    assert packed.status_code == 415
    # A form of another site's page has no such type, and a browser asks before it sends one.
    plain = client.post(
        "/v1/interactions", content=b'{"user": "e", "item": 1}', headers={"content-type": "text/plain"}
    )
    assert plain.status_code == 422
    assert client.get("/v1/nothing").json() == {"error": "Not Found"}


def test_items_may_be_named_by_their_keys(tmp_path):
    write_artefact(tmp_path / "model", toy())
    with recommender(tmp_path, "exploration.cold_share=0", "exploration.share=0") as found:
        first = found.list("a", k=1)["items"][0]
        assert first["key"] == f"k{first['item']}"
        assert (
            found.client.post("/v1/interactions", json={"user": "a", "item": first["key"]}).status_code == 200
        )
        assert found.client.get("/v1/users/a").json()["interactions"][0]["item"] == first["item"]
        assert first["item"] not in found.items("a", k=40)
        refused = found.client.post("/v1/interactions", json={"user": "a", "item": "k-none"})
        assert (refused.status_code, "a key that the model knows" in refused.json()["error"]) == (422, True)


# --- new items --------------------------------------------------------------------------------------


def test_new_items_are_shown_and_counted(tmp_path):
    with recommender(
        tmp_path,
        "workers=2",
        "exploration.cold_share=1",
        "exploration.share=1",
        "exploration.impressions=implied",
    ) as found:
        item = {"item": 777, "title": "Brand new", "genres": ["Western"], "year": 2026}
        assert found.client.post("/v1/items", json=item).json() == {"registered": 1}
        assert found.client.get("/v1/items", params={"q": "brand NEW"}).json()["items"][0]["item"] == 777
        told = found.list("a", k=3, genre="Western")
        assert [each["item"] for each in told["items"]] == [777]
        told = found.list("a", k=3)
        assert [each["item"] for each in told["items"]] == [0, 1, 777]

        def counts() -> tuple[int, int]:
            one = found.client.get("/v1/items/777").json()
            return one["shown"], one["clicked"]

        until(lambda: counts() == (2, 0), "impressions", found.process)
        for _ in range(2):
            found.add("a", 777, request=told["request"])
        assert counts() == (2, 1)
        assert found.client.get("/v1/users/a").json()["interactions"][0]["title"] == "Brand new"
        assert found.items("a", k=3) == [0, 1, 2]
        assert found.client.delete("/v1/items/777").json() == {"removed": 1}
        assert found.client.get("/v1/items/777").status_code == 404


def test_impressions_are_told_of_and_rules_heed_them(tmp_path):
    with recommender(tmp_path, "rules={rest: {span: 1d, after: 2}}") as found:
        first = found.list("a", k=2)
        sent = {"request": first["request"], "user": "a", "items": [0, 1]}
        assert found.client.post("/v1/impressions", json=sent).json() == {"counted": 2}
        assert found.client.post("/v1/impressions", json=sent).json() == {"counted": 0}
        assert found.items("a", k=2) == [0, 1]
        assert found.client.post(
            "/v1/impressions", json=sent | {"request": "other", "items": [0]}
        ).json() == {"counted": 1}
        assert found.items("a", k=2) == [1, 2]
        assert found.items("b", k=2) == [0, 1]


def test_registered_items_are_bounded(running):
    items = [{"item": 100 + number, "title": "x"} for number in range(6)]
    assert running.client.post("/v1/items", json=items).status_code == 409
    assert running.client.post("/v1/items", json=items[:5]).status_code == 200


# --- artefacts --------------------------------------------------------------------------------------


def test_another_artefact_takes_over_and_no_request_is_dropped(tmp_path):
    with recommender(tmp_path, "workers=2", "poll=1s") as found:
        found.add("a", 10)
        before = found.list("a", k=3)
        seen: list[tuple[str, tuple[int, ...]]] = []
        failures: list[object] = []
        ended = threading.Event()

        def ask() -> None:
            with httpx.Client(base_url=found.url, timeout=30) as client:
                while not ended.is_set():
                    try:
                        answer = client.get("/v1/recommendations/a", params={"k": 3})
                        told = answer.json()
                        seen.append((told["version"], tuple(each["item"] for each in told["items"])))
                    except Exception as error:
                        failures.append(error)

        askers = [threading.Thread(target=ask) for _ in range(4)]
        for asker in askers:
            asker.start()
        version = place(tmp_path / "model", step=2)
        until(lambda: {one[0] for one in seen[-40:]} == {version}, "the new version", found.process)
        ended.set()
        for asker in askers:
            asker.join()
        assert failures == []
        # Each version gives its own list, and no list is of both.
        assert set(seen) == {(before["version"], (11, 12, 13)), (version, (12, 14, 16))}
        # A process that began after the other was ready may have found the new one there.
        assert found.metric("penstock_recommend_reloads_total", outcome="changed") in {1, 2}


def test_a_corrupt_artefact_changes_nothing(tmp_path):
    with recommender(tmp_path, "poll=1s") as found:
        version = found.list("a")["version"]
        path = tmp_path / "model/model.onnx"
        path.write_bytes(path.read_bytes()[:-1] + b"\x00")
        manifest = tmp_path / "model/manifest.json"
        manifest.write_text(manifest.read_text())
        until(
            lambda: found.metric("penstock_recommend_reloads_total", outcome="failed") > 0,
            "a look",
            found.process,
        )
        assert found.list("a")["version"] == version
        assert "cannot be loaded" in found.said()
        found.stop()
        # And it is not started with it.
        command = [sys.executable, "-m", "penstock.cli", "recommend", "up", *found.arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 2
        assert "model.onnx" in done.stderr
        assert "Traceback" not in done.stderr


# --- running ----------------------------------------------------------------------------------------


def test_while_somebody_else_holds_the_file_lists_go_on_and_writes_are_to_come_again(tmp_path):
    with recommender(tmp_path, f"store={{path: {tmp_path}/state.sqlite, patience: 1s}}") as found:
        found.add("a", 10)
        other = sqlite3.connect(tmp_path / "state.sqlite", isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        refused = found.add("a", 20)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert found.items("a", k=1) == [11]
        assert found.ready()
        other.execute("ROLLBACK")
        other.close()
        assert found.add("a", 20).status_code == 200
        assert {10, 20}.isdisjoint(found.items("a", k=40))
        assert "defect" not in found.said()


def test_who_has_no_key_is_not_let_in(tmp_path):
    key = keys.add(tmp_path / "keys.yaml", "shop", CLIENT)
    with recommender(tmp_path, f"keys={tmp_path}/keys.yaml", "host=0.0.0.0") as found:
        for method, path in (
            ("GET", "/v1/recommendations/a"),
            ("GET", "/v1/users/a"),
            ("DELETE", "/v1/users/a"),
            ("POST", "/v1/interactions"),
            ("POST", "/v1/items"),
            ("POST", "/v1/impressions"),
            ("GET", "/v1/items"),
            ("GET", "/v1/model"),
            ("DELETE", "/v1/items/1"),
            ("DELETE", "/v1/users/a/interactions/1"),
        ):
            refused = found.client.request(method, path, json={} if method == "POST" else None)
            assert refused.status_code == 401, path
            assert refused.headers["www-authenticate"].startswith("Bearer")
        let_in = {"authorization": f"Bearer {key}"}
        assert found.client.get("/v1/recommendations/a", headers=let_in).status_code == 200
        assert found.client.get("/", headers=let_in).status_code == 200


def test_it_does_not_listen_elsewhere_without_keys(tmp_path):
    place(tmp_path / "model")
    for arguments, said in (
        ([f"model={tmp_path}/model", "host=0.0.0.0"], "no keys are asked for"),
        ([f"model={tmp_path}/none"], "holds no artefact that recommends"),
        (["rules.denny=[1]"], "denny"),
        (["nosuch"], "conf/recommend/nosuch.yaml"),
    ):
        command = [sys.executable, "-m", "penstock.cli", "recommend", "up", *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
        assert (done.returncode, said in done.stderr) == (2, True), done.stderr
        assert "Traceback" not in done.stderr


def test_its_processes_end_when_what_started_them_is_killed(tmp_path):
    with recommender(tmp_path, "workers=2") as found:
        alive = found.workers()
        assert len(alive) == 2
        found.process.kill()
        found.process.wait()

        def gone(pid: int) -> bool:
            try:
                return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
            except (FileNotFoundError, ProcessLookupError):
                return True

        until(lambda: all(gone(pid) for pid in alive), "their end", None)


def test_what_was_recommended_is_logged_without_names(tmp_path):
    log = f"requests={{kind: files, folder: {tmp_path}/log}}"
    with recommender(tmp_path, log) as found:
        found.add("somebody", 10)
        told = found.list("somebody", k=3)
        assert found.stop() == 0
    [row] = scan(Path(f"{tmp_path}/log"), "model").collect().to_dicts()
    assert (row["request"], row["version"], row["status"]) == (told["request"], told["version"], "ok")
    assert row["user"] is None  # there is no key to hash it by
    assert row["outputs"]["items"] == [11, 12, 13]
    assert row["inputs"]["known"] == 1
    assert "somebody" not in str(row)
