"""Every row of an API once, whatever the server does; waiting as it was asked to; no secret told; no circle gone round."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.config.loading import RestSource
from penstock.errors import PenstockError
from penstock.sources.chunks import Window
from penstock.sources.rest import Clock, read_rest
from tests.servers.unruly import FAULTS, unruly

ROWS = [{"id": number, "who": {"name": f"n{number}"}, "tags": [number]} for number in range(23)]
PAGES = {
    "page": {"by": "page", "size_param": "limit", "page_rows": 5},
    "offset": {"by": "offset", "limit": 5},
    "offset total": {"by": "offset", "limit": 5, "total": "total"},
    "cursor": {"by": "cursor", "path": "meta.next"},
    "header_cursor": {"by": "header_cursor"},
    "link": {"by": "link"},
    "header": {"by": "link_header"},
}


class Told:
    """Time that passes when it is slept, and only then."""

    def __init__(self):
        self.at = 1_000_000_000.0
        self.slept: list[float] = []

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.at += seconds

    @property
    def clock(self):
        return Clock(lambda: self.at, self.sleep, lambda: 1.0)


def source(server, path, **others):
    return RestSource.model_validate(
        {
            "kind": "rest",
            "url": f"{server.url}/{path.split()[0]}",
            "select": "items",
            "read_seconds": 0.5,
            **others,
        }
    )


def ids(chunks):
    return [value for chunk in chunks if chunk.frame.width for value in chunk.frame["id"].to_list()]


@pytest.mark.parametrize("kind", PAGES)
@pytest.mark.parametrize("most", [1000, 4])
def test_every_way_to_turn_pages_gives_every_row_once(kind, most):
    # The server may give fewer rows than it was asked for.
    if kind == "page" and most < 5:
        most = 5
    with unruly(ROWS, most=most if "offset" in kind or kind == "page" else min(most, 6)) as server:
        chunks = list(read_rest(source(server, kind, pages=PAGES[kind]), Window(batch_rows=7)))
    assert ids(chunks) == list(range(23))
    assert [chunk.frame.height for chunk in chunks] == [7, 7, 7, 2]
    assert chunks[0].frame.columns == ["id", "who__name", "tags"]
    positions = [at for chunk in chunks for at in chunk.position]
    assert positions == list(range(23))
    assert [chunk.boundary for chunk in chunks] == [False, False, False, True]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    faults=st.lists(st.one_of(st.none(), st.sampled_from([f for f in FAULTS if f != "slow"])), max_size=20)
)
def test_whatever_it_does_meanwhile_every_row_comes_once(faults):
    # As many in a row as are borne with.
    borne = [
        fault
        for real, group in itertools.groupby(faults, key=bool)
        for fault in list(group)[: 7 if real else None]
    ]
    told = Told()
    with unruly(ROWS, faults=list(borne), most=6) as server:
        chunks = list(read_rest(source(server, "offset", pages=PAGES["offset"]), Window(), told.clock))
    assert ids(chunks) == list(range(23))


def test_it_waits_as_long_as_it_was_asked_to():
    told = Told()
    with unruly(ROWS, faults=["429", "429 date", "500", "503"]) as server:
        assert len(ids(read_rest(source(server, "bare", select="$"), Window(), told.clock))) == 23
    # Seven seconds; until a date eleven seconds after the beginning, of which seven are over; then 4 and 8 by doubling.
    assert told.slept == [7.0, 4.0, 4.0, 8.0]


def test_a_wait_that_is_too_long_is_told_and_not_slept():
    told = Told()
    with unruly(ROWS, faults=["429"]) as server, pytest.raises(PenstockError, match="come back in 7 s"):
        list(read_rest(source(server, "bare", retries={"longest": "5s"}), Window(), told.clock))
    assert told.slept == []


def test_a_slow_body_is_given_up_and_asked_for_again():
    told = Told()
    with unruly(ROWS, faults=["slow"]) as server:
        assert len(ids(read_rest(source(server, "items"), Window(), told.clock))) == 23
        assert len(server.asked) == 2


def test_it_gives_up_in_the_end():
    told = Told()
    with unruly(ROWS, faults=["503"] * 10) as server:
        with pytest.raises(PenstockError, match="page 1: 503 Service Unavailable, 3 times in a row"):
            list(read_rest(source(server, "items", retries={"attempts": 3}), Window(), told.clock))
        assert len(server.asked) == 3


def test_no_more_requests_than_are_allowed():
    told = Told()
    with unruly(ROWS, most=5) as server:
        rate = {"per_second": 2, "burst": 2}
        list(read_rest(source(server, "offset", pages=PAGES["offset"], rate=rate), Window(), told.clock))
        assert len(server.asked) == 6
    # Two at once, then one each half second.
    assert told.slept == [0.5] * 4


def test_a_token_is_asked_for_and_asked_for_again_when_it_ends_before_its_time(monkeypatch):
    monkeypatch.setenv("CLIENT_SECRET", "open sesame")
    told = Told()
    with unruly(ROWS, most=6) as server:
        auth = {
            "kind": "oauth2",
            "token_url": f"{server.url}/token",
            "client_id": "me",
            "client_secret": "${secret:CLIENT_SECRET}",
        }
        reading = read_rest(
            source(server, "offset", pages=PAGES["offset"], auth=auth), Window(batch_rows=5), told.clock
        )
        first = next(reading)
        server.token = "taken back"
        rest = list(reading)
        assert ids([first, *rest]) == list(range(23))
        assert server.issued == 2
        told.at += 4000
        list(read_rest(source(server, "items", auth=auth), Window(), told.clock))
        assert server.issued == 3


def test_no_secret_is_told(monkeypatch):
    monkeypatch.setenv("API_TOKEN", "hunter2-and-more")
    faulty = [
        {"auth": {"kind": "bearer", "token": "${secret:API_TOKEN}"}},
        {"auth": {"kind": "key", "name": "key", "value": "${secret:API_TOKEN}", "where": "query"}},
        {"headers": {"X-Api-Key": "${secret:API_TOKEN}"}},
        {"params": {"key": "${secret:API_TOKEN}"}},
    ]
    with unruly(ROWS, token="other") as server:
        for others in faulty:
            with pytest.raises(PenstockError) as caught:
                list(read_rest(source(server, "items", **others), Window()))
            assert "hunter2" not in str(caught.value)
        assert any("hunter2" in str(entry) for entry in server.headers) or any(
            "hunter2" in a for a in server.asked
        )


@pytest.mark.parametrize("way", ["away", "away_link"])
def test_credentials_go_to_no_other_server(way):
    with unruly(ROWS) as other, unruly(ROWS, elsewhere=f"{other.url}/items") as server:
        there = source(server, way, pages={"by": "link"}, auth={"kind": "bearer", "token": "t"})
        with pytest.raises(PenstockError, match="sends us on to http://127"):
            list(read_rest(there, Window()))
        assert other.asked == []


def test_pages_that_go_round_in_a_circle_are_noticed():
    with unruly(ROWS) as server, pytest.raises(PenstockError, match="page 3 is one that was read before"):
        list(read_rest(source(server, "circle", pages=PAGES["cursor"]), Window()))


@pytest.mark.parametrize(
    ("path", "others", "says"),
    [
        ("html", {}, r"page 1 is text/html, not JSON: '<html>log in"),
        ("items", {"select": "rows"}, r"nothing at 'rows'; it has: items, total"),
        ("items", {"max_page_bytes": 100}, "more than 100 bytes"),
        ("items", {"pages": {"by": "offset", "total": "count"}}, "count is None, not a number"),
        ("items", {"select": "a[["}, "is no JSONPath"),
    ],
)
def test_what_is_wrong_is_said(path, others, says):
    with unruly(ROWS) as server, pytest.raises(PenstockError, match=says):
        list(read_rest(source(server, path, **others), Window()))


def test_a_row_that_is_no_object_is_broken():
    with unruly([{"id": 1}, 7, None, {"id": 2}]) as server:
        (chunk,) = read_rest(source(server, "items"), Window())
    assert chunk.frame["id"].to_list() == [1, 2]
    assert list(chunk.position) == [0, 3]
    assert chunk.broken["position"].to_list() == [1, 2]
    assert chunk.broken["reason"][0] == "row: expected a JSON object, found 7"


def test_bounds_are_asked_for():
    with unruly(ROWS) as server:
        for form, expected in (("unix", "since=86400"), ("iso", "since=1970-01-02T00%3A00%3A00%2B00%3A00")):
            from datetime import UTC, datetime

            window = Window(cursor="id", since=datetime(1970, 1, 2, tzinfo=UTC))
            list(read_rest(source(server, "items", since_param="since", bounds_as=form), window))
            assert expected in server.asked[-1]
