"""What a store promises, of Elasticsearch and of the embedded one alike."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import urllib.request
from collections.abc import Awaitable, Callable
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.config.streaming import ElasticsearchStore, EmbeddedStore
from penstock.errors import PenstockError
from penstock.stream.messages import identity
from penstock.stream.store import BusyError, Document, Store, open_store
from tests.servers.elasticsearch import elasticsearch

NOW = 1_795_000_000_000_000_000
SECOND = 1_000_000_000
DAY = 86_400 * SECOND
count = iter(range(10**6))


@pytest.fixture(scope="module")
def node():
    with elasticsearch() as found:
        yield found


@pytest.fixture(params=["duckdb", "elasticsearch"])
def view(request, tmp_path):
    if request.param == "duckdb":
        return EmbeddedStore(kind="duckdb", path=str(tmp_path / "readings.duckdb"))
    return of_cluster(request.getfixturevalue("node").url)


def of_cluster(url: str, **others) -> ElasticsearchStore:
    number = next(count)
    return ElasticsearchStore(
        kind="elasticsearch",
        hosts=(url,),
        readings=f"readings{number}",
        windows=f"windows{number}",
        replicas=0,
        **others,
    )


def run(body: Callable[[Store], Awaitable[None]], view) -> None:
    async def opened() -> None:
        async with open_store(view) as store:
            await store.create()
            await body(store)

    asyncio.run(asyncio.wait_for(opened(), 60))


def documents(
    message: int, readings: int = 3, device: str = "d", start: int = NOW, **values
) -> list[Document]:
    known = identity(device, "s", message)
    return [
        Document(
            id=f"{known}-{index}",
            time=start + (message * 100 + index) * SECOND + 123_456_789,
            body={
                "device": device,
                "session": "s",
                "message": message,
                "index": index,
                "sensor": "accelerometer",
                "values": {
                    "x": 0.5 + index,
                    "y": -1.0,
                    "on": True,
                    "word": "wørd",
                    "nothing": None,
                    **values,
                },
                "accuracy": 3.0,
                "received": start + 5,
                "lag_ms": 1.5,
            },
            origin=(0, message),
            message=known,
        )
        for index in range(readings)
    ]


def test_what_is_written_is_found_as_it_was(view):
    async def body(store):
        given = documents(1) + documents(2, device="ë")
        written = await store.write("readings", given)
        assert (written.new, written.known, written.refused) == (6, 0, ())
        await store.refresh()
        assert await store.count("readings") == 6
        found = await store.newest("readings", device=None, since=0, limit=10)
        assert found == [{"time": d.time, **d.body} for d in sorted(given, key=lambda d: -d.time)]
        of_one = await store.newest("readings", device="ë", since=given[4].time, limit=10)
        assert [row["index"] for row in of_one] == [2, 1]
        assert await store.ready()

    run(body, view)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bulks=st.lists(st.lists(st.integers(0, 11), unique=True, max_size=8), max_size=8))
def test_each_is_in_it_once_whatever_is_repeated_divided_or_out_of_order(view, bulks):
    # Anew for each example, in the same place: what earlier ones wrote is there.
    device = f"d{next(count)}"
    whole = [document for number in range(4) for document in documents(number, device=device)]

    async def body(store):
        before = await counted(store)
        seen: set[str] = set()
        for bulk in [*([whole[place] for place in places] for places in bulks), whole]:
            written = await store.write("readings", bulk)
            ids = {document.id for document in bulk}
            assert (written.new, written.known) == (len(ids - seen), len(ids & seen))
            seen |= ids
        assert await counted(store) - before == len(whole)
        found = await store.newest("readings", device=device, since=0, limit=100)
        assert sorted((row["message"], row["index"]) for row in found) == [
            (m, i) for m in range(4) for i in range(3)
        ]

    async def counted(store) -> int:
        await store.refresh()
        return await store.count("readings")

    run(body, view)


def test_a_window_that_is_corrected_takes_the_place_of_what_it_corrects(view):
    def window(mean: float, *, late: bool, readings: int) -> Document:
        body = {
            "device": "d",
            "sensor": "gyroscope",
            "start": NOW,
            "end": NOW + 4 * SECOND,
            "readings": readings,
            "features": {"x_mean": mean},
            "late": late,
        }
        return Document("w-1", NOW, body, (0, 1), "w-1")

    async def body(store):
        async def kept() -> list[dict[str, object]]:
            await store.refresh()
            return await store.newest("windows", device="d", since=0, limit=5)

        assert (await store.write("windows", [window(1.0, late=False, readings=190)])).new == 1
        better = window(2.0, late=True, readings=200)
        assert (await store.write("windows", [better])).known == 1
        assert await kept() == [{"time": NOW, **better.body}]
        # Read again from its middle, it is told of fewer.
        assert (await store.write("windows", [window(3.0, late=False, readings=80)])).known == 1
        assert await kept() == [{"time": NOW, **better.body}]
        assert (await store.write("windows", [window(4.0, late=True, readings=200)])).known == 1
        assert await kept() == [{"time": NOW, **window(4.0, late=True, readings=200).body}]

    run(body, view)


def test_what_is_beyond_the_retention_goes_and_nothing_else(view):
    kept = view.retention.total_seconds() * SECOND

    async def body(store):
        old, young = documents(1, start=NOW - int(kept) - 3 * DAY), documents(2, start=NOW - DAY)
        await store.write("readings", old + young)
        assert await store.expire(now=NOW)
        await store.refresh()
        found = await store.newest("readings", device=None, since=0, limit=9)
        assert {row["message"] for row in found} == {2}
        assert not await store.expire(now=NOW)

    run(body, view)


def test_a_device_is_forgotten_and_others_are_not(view):
    async def body(store: Store) -> None:
        await store.write("readings", documents(1, device="hers") + documents(2, device="his"))
        await store.refresh()
        assert await store.forget("hers") == 3
        await store.refresh()
        left = await store.newest("readings", device=None, since=0, limit=10)
        assert {one["device"] for one in left} == {"his"}
        assert await store.forget("hers") == 0
        # Whoever comes back is taken again.
        assert (await store.write("readings", documents(1, device="hers"))).new == 3

    run(body, view)


def test_one_file_is_written_by_one_process(tmp_path):
    import subprocess
    import sys

    view = EmbeddedStore(kind="duckdb", path=str(tmp_path / "r.duckdb"))
    held = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", held, view.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(PenstockError, match="is an indexer running"):
            run(lambda store: store.create(), view)
        other.stdin.close()


def test_a_document_that_is_never_taken_is_told_of_and_the_others_are_stored(node):
    async def body(store):
        bad = documents(7, readings=1, **{"a..b": 1.0})
        good = documents(8)
        written = await store.write("readings", [good[0], *bad, *good[1:]])
        assert written.new == 3
        (refused,) = written.refused
        assert refused.document == bad[0]
        assert "a..b" in refused.reason
        # A word where a number was is kept; only that value cannot be searched for.
        assert (await store.write("readings", documents(9, readings=1, x="high"))).new == 1
        await store.refresh()
        (found,) = [
            r for r in await store.newest("readings", device=None, since=0, limit=9) if r["message"] == 9
        ]
        assert found["values"]["x"] == "high"

    run(body, of_cluster(node.url))


def asked(url: str) -> dict:
    with urllib.request.urlopen(url) as answer:
        return json.loads(answer.read())


def test_made_up_names_fill_no_mapping(node):
    view = of_cluster(node.url)

    async def body(store):
        many = documents(1, readings=40)
        for index, document in enumerate(many):
            document.body["values"] = {f"v{index}_{n}": 1.0 for n in range(60)}
        written = await store.write("readings", many)
        assert written.new == 40
        found = await asyncio.to_thread(asked, f"{node.url}/{view.readings}/_mapping")
        (mapping,) = found.values()
        assert len(mapping["mappings"]["properties"]["values"]["properties"]) <= 1000

    run(body, view)


def test_a_cluster_that_is_killed_has_what_it_acknowledged_and_nothing_twice():
    with elasticsearch() as node:
        view = of_cluster(node.url)

        async def body(store):
            acknowledged: list[int] = []
            stop = asyncio.Event()

            async def push() -> None:
                number = 0
                while not stop.is_set():
                    try:
                        await store.write("readings", documents(number, readings=50))
                    except BusyError:
                        await asyncio.sleep(0.05)
                    else:
                        acknowledged.append(number)
                        number += 1

            pushing = asyncio.create_task(push())
            for _ in range(2):
                enough = len(acknowledged) + 10
                ends = time.monotonic() + 30
                while len(acknowledged) < enough:
                    assert time.monotonic() < ends
                    await asyncio.sleep(0.01)
                await asyncio.to_thread(node.kill)
                await asyncio.to_thread(node.start)
            stop.set()
            await pushing
            await store.refresh()
            assert await store.count("readings") == 50 * len(acknowledged)

        run(body, view)


class _Misbehaving(BaseHTTPRequestHandler):
    """Stands between a client and Elasticsearch, which cannot be made to answer so at will."""

    protocol_version = "HTTP/1.1"
    answers: list[str]
    real: str

    def log_message(self, *_):
        pass

    def _go(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        fault = self.answers.pop(0) if "_bulk" in self.path and self.answers else ""
        if fault in {"429", "503"}:
            self.send_response(int(fault))
            self.send_header("Retry-After", "7")
            self.send_header("content-length", "0")
            self.end_headers()
            return
        request = urllib.request.Request(
            self.real + self.path, data=body or None, method=self.command, headers=dict(self.headers)
        )
        try:
            with urllib.request.urlopen(request) as answer:
                status, content, kind = answer.status, answer.read(), answer.headers
        except urllib.error.HTTPError as error:
            status, content, kind = error.code, error.read(), error.headers
        if fault == "drop":  # after it was written
            self.close_connection = True
            return
        self.send_response(status)
        for name in ("content-type", "x-elastic-product"):
            if kind.get(name):
                self.send_header(name, kind[name])
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_DELETE = _go


@contextmanager
def misbehaving(real: str, *answers: str):
    handler = type("Handler", (_Misbehaving,), {"answers": list(answers), "real": real})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize(("fault", "after"), [("429", 7.0), ("503", 7.0), ("drop", None)])
def test_a_bulk_that_was_not_answered_is_written_again_and_counts_once(node, fault, after):
    with misbehaving(node.url, fault) as url:

        async def body(store):
            with pytest.raises(BusyError) as told:
                await store.write("readings", documents(1))
            assert told.value.after == after
            written = await store.write("readings", documents(1))
            assert written.new + written.known == 3
            assert written.known == (3 if fault == "drop" else 0)
            await store.refresh()
            assert await store.count("readings") == 3

        run(body, of_cluster(url))


def test_nobody_there_is_busy_and_not_ready():
    async def body() -> None:
        async with open_store(of_cluster("http://127.0.0.1:9")) as store:
            assert not await store.ready()
            with pytest.raises(BusyError):
                await store.write("readings", documents(1))

    asyncio.run(body())
