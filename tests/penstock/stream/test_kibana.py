"""Kibana's saved objects and rules, against a real Elasticsearch with real readings; the import, against a stand-in.

There is no Kibana to be had as a package, so none is started here: what it would ask Elasticsearch is derived from the saved
objects, as Lens derives it, and asked; what it would answer to the import is played by a server that keeps to its published API.
"""

from __future__ import annotations

import asyncio
import copy
import email
import email.policy
import json
import re
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import yaml

from penstock.config import RecordingsSource
from penstock.config.streaming import Activity, ElasticsearchStore, Stream, Windows
from penstock.errors import PenstockError
from penstock.sources.recordings import recordings
from penstock.stream.activity import Classifier
from penstock.stream.indexer import flattened
from penstock.stream.kibana import Kibana, bring, objects, rules
from penstock.stream.log import Record
from penstock.stream.messages import decoded
from penstock.stream.replay import Plan, messages
from penstock.stream.store import open_store
from penstock.stream.windows import Windowing
from tests.penstock.stream.gateways import ROOT
from tests.servers.elasticsearch import elasticsearch

SECOND = 1_000_000_000
STORE = ElasticsearchStore(kind="elasticsearch", hosts=("http://127.0.0.1:9",), replicas=0)
LENS_TYPES = {
    "keyword": "string",
    "boolean": "boolean",
    "date_nanos": "date",
    "double": "number",
    "float": "number",
    "integer": "number",
    "long": "number",
}
WINDOW = {"range": {"@timestamp": {"gte": "now-15m"}}}  # as the dashboard opens


def saved() -> dict[tuple[str, str], dict[str, Any]]:
    found = [json.loads(line) for line in objects(STORE, ROOT).splitlines()]
    return {(entry["type"], entry["id"]): entry for entry in found}


def lenses() -> list[dict[str, Any]]:
    return [entry for (kind, _), entry in saved().items() if kind == "lens"]


def columns(lens: dict[str, Any]) -> dict[str, dict[str, Any]]:
    (layer,) = lens["attributes"]["state"]["datasourceStates"]["formBased"]["layers"].values()
    assert list(layer["columns"]) == layer["columnOrder"]
    return dict(layer["columns"])


def index_of(lens: dict[str, Any]) -> str:
    return str(saved()["index-pattern", lens["references"][0]["id"]]["attributes"]["title"])


# --- the objects among themselves -------------------------------------------------------------------


def test_references_lead_to_what_is_there_and_everything_is_on_the_dashboard():
    found = saved()
    assert len(found) == len(objects(STORE, ROOT).splitlines())
    for entry in found.values():
        for reference in entry["references"]:
            assert (reference["type"], reference["id"]) in found
    dashboard = found["dashboard", "penstock-stream"]
    panels = json.loads(dashboard["attributes"]["panelsJSON"])
    named = {reference["name"]: (reference["type"], reference["id"]) for reference in dashboard["references"]}
    shown = {named.pop(f"{panel['panelIndex']}:{panel['panelRefName']}"): panel["type"] for panel in panels}
    assert named == {}
    assert all(kind == panel for (kind, _), panel in shown.items())
    assert set(shown) == {key for key in found if key[0] in {"lens", "visualization"}}
    cells: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridData"]
        taken = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken
        assert at["x"] + at["w"] <= 48
        cells |= taken


def test_a_chart_draws_columns_that_it_has():
    for lens in lenses():
        there = columns(lens)
        drawn = json.dumps(lens["attributes"]["state"]["visualization"])
        (layer,) = lens["attributes"]["state"]["datasourceStates"]["formBased"]["layers"]
        assert set(re.findall(r'"layerId": "(\w+)"', drawn)) == {layer}
        assert lens["references"][0]["name"] == f"indexpattern-datasource-layer-{layer}"
        named = set(re.findall(r'"(?:xAccessor|splitAccessor|metricAccessor|columnId)": "(\w+)"', drawn))
        for accessors in re.findall(r'"accessors": \[([^]]*)\]', drawn):
            named |= set(re.findall(r"\w+", accessors))
        assert named == set(there), lens["id"]
        for column in there.values():
            if column["operationType"] == "terms":
                assert column["params"]["orderBy"]["columnId"] in there


def test_names_of_indices_are_those_of_the_store():
    other = STORE.model_copy(update={"readings": "phones", "windows": "spans"})
    titles = {
        entry["attributes"]["title"]
        for entry in map(json.loads, objects(other, ROOT).splitlines())
        if entry["type"] == "index-pattern"
    }
    assert titles == {"phones-*", "spans-*"}
    assert {name for rule in rules(other, ROOT).values() for name in rule["params"]["index"]} == {"phones-*"}


# --- against a real Elasticsearch -------------------------------------------------------------------


@dataclass
class Cluster:
    """A node with readings and windows in it, in indices that `penstock stream create` has declared."""

    url: str

    def asked(self, path: str, body: Any = None) -> dict[str, Any]:
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"{self.url}{path}", content, headers={"content-type": "application/json"}
        )
        with urllib.request.urlopen(request) as answer:
            return dict(json.load(answer))

    def fields(self, index: str) -> dict[str, dict[str, Any]]:
        """Type, searchable and aggregatable, by field."""
        told = self.asked(f"/{index}/_field_caps?fields=*")["fields"]
        return {name: next(iter(kinds.values())) for name, kinds in told.items() if len(kinds) == 1}


@pytest.fixture(scope="module")
def cluster():
    with elasticsearch() as node:
        asyncio.run(asyncio.wait_for(_filled(STORE.model_copy(update={"hosts": (node.url,)})), 120))
        yield Cluster(node.url)


async def _filled(view: ElasticsearchStore) -> None:
    """Real recordings of two wearers, out of order, through what the indexer makes of them."""
    source = RecordingsSource.model_validate(
        yaml.safe_load((ROOT / "conf/source/recordings.yaml").read_text())
    )
    found = recordings(source)
    model = Classifier(Activity(model=str(ROOT / "models/watch")))
    windowing = Windowing(Windows(sensors=("totalacceleration", "gyroscope")), model)
    start = time.time_ns() - 120 * SECOND
    async with open_store(view) as store:
        await store.create()
        for device in range(2):
            sent = messages(found, Plan(2, 0.0, 60.0, 1.0, 0.2, 0.1, 0.05, 5), device, start)
            for offset, (due, number, body) in enumerate(sent):
                late = 120 if number == 7 else 0.2  # seconds
                received = b"%d" % (start + int((due + late) * SECOND))
                record = Record(device, offset, b"", body, {"received": received})
                known = {document.id: document for document in flattened(record)}
                assert not (await store.write("readings", list(known.values()))).refused
                windowing.take(device, offset, decoded(body), 0.0)
                spans = {document.id: document for document in windowing.due({}).documents}
                assert not (await store.write("windows", list(spans.values()))).refused
        await store.refresh()


def kuery(text: str) -> list[dict[str, Any]]:
    """As much of Kibana's language as the panels use: `field : value`, and `not` before it."""
    if not text:
        return []
    match = re.fullmatch(r'(not )?([\w.@]+) : (?:"([^"]*)"|(true|false))', text)
    assert match is not None, text
    value = match[3] if match[3] is not None else match[4] == "true"
    term = {"term": {match[2]: value}}
    return [{"bool": {"must_not": [term]}} if match[1] else term]


def metric(column: dict[str, Any]) -> dict[str, Any]:
    """What a column is in Elasticsearch's terms."""
    name = {
        "unique_count": "cardinality",
        "average": "avg",
        "max": "max",
        "percentile": "percentiles",
    }[column["operationType"]]
    share = {"percents": [column["params"]["percentile"]]} if name == "percentiles" else {}
    return {name: {"field": column["sourceField"]} | share}


def aggregations(there: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What Lens asks for: buckets within buckets in their order, metrics in the innermost."""
    metrics = {
        name: metric(column)
        for name, column in there.items()
        if not column["isBucketed"] and column["operationType"] != "count"
    }
    found = metrics
    for name, column in reversed([entry for entry in there.items() if entry[1]["isBucketed"]]):
        if column["operationType"] == "date_histogram":
            bucket: dict[str, Any] = {
                "date_histogram": {
                    "field": column["sourceField"],
                    "fixed_interval": "30s",
                    "min_doc_count": 0,
                }
            }
        else:
            assert column["operationType"] == "terms"
            by = column["params"]["orderBy"]["columnId"]
            order = "_count" if there[by]["operationType"] == "count" else by
            # What a bucket is ordered by is computed in it, besides.
            found = found | {by: metrics[by]} if by in metrics else found
            bucket = {
                "terms": {
                    "field": column["sourceField"],
                    "size": column["params"]["size"],
                    "order": {order: "desc"},
                }
            }
        found = {name: bucket | ({"aggs": found} if found else {})}
    return found


def leaves(answer: Any, names: set[str]) -> dict[str, list[Any]]:
    """What came for each column, from the innermost buckets."""
    found: dict[str, list[Any]] = {}
    for name in names & set(answer):
        part = answer[name]
        if "buckets" in part:
            full = [bucket for bucket in part["buckets"] if bucket["doc_count"]]
            found.setdefault(name, []).extend(bucket["key"] for bucket in full)
            for bucket in full:
                for inner, values in leaves(bucket, names).items():
                    found.setdefault(inner, []).extend(values)
        else:
            values = list(part["values"].values()) if "values" in part else [part["value"]]
            found.setdefault(name, []).extend(value for value in values if value is not None)
    return found


def unfit(lens: dict[str, Any], fields: dict[str, dict[str, Any]]) -> list[str]:
    """What of a panel's columns does not fit the fields of the index."""
    wrong = []
    for column in columns(lens).values():
        name = column["sourceField"]
        if name == "___records___":
            continue
        known = fields.get(name)
        if known is None:
            wrong.append(f"{name} is not there")
        elif not known["aggregatable"]:
            wrong.append(f"{name} cannot be aggregated")
        elif column["operationType"] in {"terms", "max", "date_histogram"} and (
            LENS_TYPES[known["type"]] != column["dataType"]
        ):
            wrong.append(f"{name} is {known['type']}, not {column['dataType']}")
        elif column["operationType"] in {"average", "percentile"} and LENS_TYPES[known["type"]] != "number":
            wrong.append(f"{name} is no number")
    for part in kuery(lens["attributes"]["state"]["query"]["query"]):
        (name,) = re.findall(r"'term': {'([\w.@]+)'", str(part))
        if not fields.get(name, {}).get("searchable"):
            wrong.append(f"{name} cannot be searched")
    return wrong


@pytest.mark.parametrize("ident", [lens["id"] for lens in lenses()])
def test_a_panel_finds_real_readings_in_the_fields_that_the_index_has(cluster, ident):
    lens = saved()["lens", ident]
    index = index_of(lens)
    assert unfit(lens, cluster.fields(index)) == []
    there = columns(lens)
    query = [WINDOW, *kuery(lens["attributes"]["state"]["query"]["query"])]
    body = {
        "size": 0,
        "track_total_hits": True,
        "query": {"bool": {"filter": query}},
        "aggs": aggregations(there),
    }
    answer = cluster.asked(f"/{index}/_search", body)
    assert answer["_shards"]["failed"] == 0
    assert answer["hits"]["total"]["value"] > 0
    found = leaves(answer.get("aggregations", {}), set(there))
    assert {name for name, values in found.items() if values} == {
        name for name, column in there.items() if column["operationType"] != "count"
    }


def test_a_panel_of_a_field_that_is_not_there_or_of_another_type_would_be_found(cluster):
    lens = copy.deepcopy(saved()["lens", "penstock-device-table"])
    fields = cluster.fields("readings-*")
    there = columns(lens)
    there["m4"]["sourceField"] = "lagms"
    there["m2"]["sourceField"] = "device"
    assert unfit(lens, fields) == ["device is keyword, not date", "lagms is not there"]
    lens = copy.deepcopy(saved()["lens", "penstock-late"])
    lens["attributes"]["state"]["query"]["query"] = "latest : true"
    assert unfit(lens, cluster.fields("windows-*")) == ["latest cannot be searched"]


def test_data_views_are_of_real_indices_by_their_time(cluster):
    for (kind, _), entry in saved().items():
        if kind == "index-pattern":
            fields = cluster.fields(entry["attributes"]["title"])
            assert fields[entry["attributes"]["timeFieldName"]]["type"] == "date_nanos"
            assert set(json.loads(entry["attributes"]["fieldFormatMap"])) <= set(fields)


def test_a_rule_counts_what_it_is_to(cluster):
    counts = {}
    for rule in rules(STORE, ROOT).values():
        params = rule["params"]
        since = {
            "range": {
                params["timeField"]: {"gte": f"now-{params['timeWindowSize']}{params['timeWindowUnit']}"}
            }
        }
        body = {
            "size": params["size"],
            "track_total_hits": True,
            "query": {"bool": {"filter": [since, json.loads(params["esQuery"])["query"]]}},
        }
        found = cluster.asked(f"/{','.join(params['index'])}/_search", body)["hits"]["total"]["value"]
        counts[rule["name"]] = found
    # Each of two wearers was a minute late with one message at most, of 100 readings.
    silent, late = (counts[name] for name in sorted(counts, reverse=True))
    assert silent > 5000
    assert 0 < late <= 200


# --- the import, against a stand-in -----------------------------------------------------------------


@dataclass
class StandIn:
    """What Kibana's published API answers. It is not Kibana: it knows nothing of what the objects say.

    Attributes:
        faults: What is answered in place of anything else, one after another: status and body.
        key: Asked for, if it is set.
    """

    version: str = "8.19.0"
    key: str | None = None
    faults: list[tuple[str, int, Any]] = field(default_factory=list)
    objects: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    rules: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    url: str = ""

    def answer(self, method: str, path: str, headers: Any, body: bytes) -> tuple[int, Any]:
        self.asked.append((method, path))
        if self.faults and self.faults[0][0] in f"{method} {path}":
            _, status, content = self.faults.pop(0)
            return status, content
        if self.key is not None and headers.get("authorization") != f"ApiKey {self.key}":
            return 401, {"statusCode": 401, "error": "Unauthorized", "message": "unable to authenticate"}
        if method != "GET" and not headers.get("kbn-xsrf"):
            return 400, {"statusCode": 400, "message": "Request must contain a kbn-xsrf header."}
        if path == "/api/status":
            return 200, {"version": {"number": self.version}, "status": {"overall": {"level": "available"}}}
        if (method, path) == ("POST", "/api/saved_objects/_import?overwrite=true"):
            return self._imported(headers, body)
        match = re.fullmatch(r"/api/alerting/rule/([0-9a-f-]{36})", path)
        if match is not None:
            return self._rule(method, match[1], json.loads(body) if body else None)
        return 404, {"statusCode": 404, "message": "Not Found"}

    def _imported(self, headers: Any, body: bytes) -> tuple[int, Any]:
        head = f"content-type: {headers['content-type']}\r\n\r\n".encode()
        whole = email.message_from_bytes(head + body, policy=email.policy.HTTP)
        (part,) = whole.iter_parts()
        assert part.get_param("name", header="content-disposition") == "file"
        assert str(part.get_filename()).endswith(".ndjson")
        given = [json.loads(line) for line in part.get_payload(decode=True).splitlines()]
        known = self.objects.keys() | {(entry["type"], entry["id"]) for entry in given}
        errors = []
        for entry in given:
            missing = [
                {"type": part["type"], "id": part["id"]}
                for part in entry["references"]
                if (part["type"], part["id"]) not in known
            ]
            if missing:
                error = {"type": "missing_references", "references": missing}
                errors.append({"type": entry["type"], "id": entry["id"], "error": error})
            else:
                self.objects[entry["type"], entry["id"]] = entry
        told = {"success": not errors, "successCount": len(given) - len(errors)}
        return 200, told | ({"errors": errors} if errors else {})

    def _rule(self, method: str, ident: str, body: Any) -> tuple[int, Any]:
        there = self.rules.get(ident)
        if method == "GET":
            return (200, there) if there else (404, {"statusCode": 404, "message": "not found"})
        allowed = {"name", "tags", "schedule", "params", "actions"}
        if method == "POST":
            if there:
                return 409, {"statusCode": 409, "message": "version conflict, document already exists"}
            allowed |= {"rule_type_id", "consumer", "enabled"}
        if set(body) - allowed or any(set(action) & {"connector_type_id"} for action in body["actions"]):
            return 400, {"statusCode": 400, "message": "[request body]: definition for this key is missing"}
        self.rules[ident] = (there or {"id": ident}) | body
        return 200, self.rules[ident]


@contextmanager
def stand_in(**others):
    kibana = StandIn(**others)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            status, content = kibana.answer(self.command, self.path, self.headers, body)
            text = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_POST = do_PUT = do_GET

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        kibana.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield kibana
        finally:
            server.shutdown()
            thread.join()


def view(store: Any = STORE) -> Stream:
    return Stream(log={"kind": "jetstream"}, store=store)


def brought(kibana: StandIn, **others) -> list[str]:
    return bring(view(), Kibana(kibana.url, sleep=lambda _: None, **others), ROOT)


@pytest.fixture(autouse=True)
def nobody(monkeypatch):
    for name in ("KIBANA_API_KEY", "KIBANA_USER", "KIBANA_PASSWORD"):
        monkeypatch.delenv(name, raising=False)


def test_the_command_brings_everything_to_a_stand_in_and_tells_no_secret():
    with stand_in(key="c2VjcmV0") as kibana:
        command = [sys.executable, "-m", "penstock.cli", "stream", "kibana", "import", "--url", kibana.url]
        env = {"KIBANA_API_KEY": "c2VjcmV0", "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert kibana.objects == saved()
        assert kibana.rules.keys() == rules(STORE, ROOT).keys()
        assert f"Kibana 8.19.0: {len(saved())} saved objects" in done.stderr
        assert f"{kibana.url}/app/dashboards" in done.stderr
        assert "c2VjcmV0" not in done.stderr + done.stdout
        refused = subprocess.run(
            command,
            cwd=ROOT,
            env=env | {"KIBANA_API_KEY": "b3RoZXI="},
            capture_output=True,
            text=True,
            check=False,
        )
    assert refused.returncode == 2
    assert "does not know who asks (401)" in refused.stderr
    assert "b3RoZXI" not in refused.stderr
    assert "Traceback" not in refused.stderr


def test_done_again_it_changes_nothing_and_whom_a_rule_tells_stays():
    with stand_in() as kibana:
        first = brought(kibana)
        assert sum(line.endswith(": made") for line in first) == len(kibana.rules)
        (ident, *_) = kibana.rules
        mine = {"group": "query matched", "id": "my-connector", "params": {"message": "…"}, "uuid": "u"}
        kibana.rules[ident]["actions"] = [mine | {"connector_type_id": ".email"}]
        kibana.rules[ident]["enabled"] = False  # somebody has silenced it
        before = copy.deepcopy(kibana.objects)
        second = brought(kibana)
        assert sum(line.endswith(": as declared") for line in second) == len(kibana.rules)
        assert kibana.objects == before
        assert kibana.rules[ident]["actions"] == [mine]
        assert kibana.rules[ident]["enabled"] is False


def test_what_lies_in_a_space_is_asked_for_there():
    with stand_in() as kibana:
        asked = Kibana(f"{kibana.url}/base/", space="my team", wait=0)
        with pytest.raises(PenstockError, match="does not tell a version"):
            asked.version()
        assert kibana.asked == [("GET", "/base/s/my%20team/api/status")]
        assert asked.dashboards == f"{kibana.url}/base/s/my%20team/app/dashboards"


@pytest.mark.parametrize("status", [429, 502, 503])
@pytest.mark.parametrize("where", ["/api/status", "_import", "POST /api/alerting"])
def test_a_kibana_that_is_coming_up_is_waited_for(status, where):
    with stand_in(faults=[(where, status, b"not ready yet")] * 3) as kibana:
        brought(kibana)
        assert len(kibana.objects) == len(saved())
        assert not kibana.faults


def test_a_rule_that_somebody_else_makes_at_the_same_time_is_brought_in_line():
    conflict = {"statusCode": 409, "error": "Conflict", "message": "version conflict"}
    with stand_in(faults=[("POST /api/alerting", 409, conflict)]) as kibana:
        assert brought(kibana)[1].endswith(": made")
    with (
        stand_in(faults=[("POST /api/alerting", 409, conflict)] * 9) as kibana,
        pytest.raises(PenstockError, match=r"Kibana refuses it \(409\): version conflict"),
    ):
        brought(kibana)


def partly(*errors: dict[str, Any]) -> dict[str, Any]:
    return {"success": False, "successCount": 3, "errors": list(errors)}


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (
            (
                "_import",
                200,
                partly(
                    {"type": "lens", "id": "a", "error": {"type": "conflict"}},
                    {
                        "type": "lens",
                        "id": "b",
                        "error": {
                            "type": "missing_references",
                            "references": [{"type": "index-pattern", "id": "c"}],
                        },
                    },
                ),
            ),
            "took 3 saved objects and refused 2:\n  lens a: conflict\n  lens b: missing_references: index-pattern c",
        ),
        (
            (
                "_import",
                422,
                {"message": "Document belongs to a more recent version of Kibana [8.9.0] than 8.8.2"},
            ),
            "refuses the saved objects (422): Document belongs to a more recent version",
        ),
        (("_import", 413, {"message": "Payload content length greater"}), "refuses the saved objects (413)"),
        (
            ("_import", 403, {"message": "Unable to bulk_create"}),
            "may not do this: /api/saved_objects/_import",
        ),
        (("/api/status", 200, b"<html>log in</html>"), "this is not Kibana's API"),
        (("/api/status", 302, b""), "this is not Kibana's API (/api/status is answered with 302)"),
        (("/api/status", 200, {"name": "node", "version": {}}), "does not tell a version"),
        (
            ("POST /api/alerting", 400, {"message": "Unable to create: no encryption key"}),
            "Kibana refuses it (400): Unable to create: no encryption key",
        ),
        (("GET /api/alerting", 500, {"message": "boom"}), "Kibana refuses it (500): boom"),
        (("GET /api/alerting", 200, {"rule_type_id": ".index-threshold"}), "one of another type there"),
    ],
)
def test_what_goes_wrong_is_said(fault, words):
    with stand_in(faults=[fault]) as kibana, pytest.raises(PenstockError) as told:
        brought(kibana)
    assert words in str(told.value)
    assert told.value.hint


def test_an_older_kibana_is_left_as_it_is():
    with stand_in(version="8.8.2") as kibana:
        with pytest.raises(PenstockError, match=r"is Kibana 8\.8\.2.*\n.*needs 8\.9 or later"):
            brought(kibana)
        assert kibana.asked == [("GET", "/api/status")]
    with stand_in(version="9.1.0-SNAPSHOT") as kibana:
        brought(kibana)


def test_nobody_there_is_said_after_a_while():
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        time.sleep(seconds)

    with pytest.raises(PenstockError, match=r"Kibana does not answer: .*refused"):
        bring(view(), Kibana("http://127.0.0.1:9", wait=2, sleep=sleep), ROOT)
    assert waits == [0.5, 1.0]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("127.0.0.1:5601", "expected http://host:5601"),
        ("http://host:port", "expected http://host:5601"),
        ("http://me:hunter22@host:5601", "credentials do not belong in an address"),
    ],
)
def test_an_address_that_is_none_is_refused(url, words):
    with pytest.raises(PenstockError) as told:
        Kibana(url)
    assert words in str(told.value)
    assert "hunter22" not in str(told.value)


def test_credentials_are_of_the_environment(monkeypatch):
    monkeypatch.setenv("KIBANA_USER", "me")
    with pytest.raises(PenstockError, match="KIBANA_PASSWORD"):
        Kibana("http://127.0.0.1:5601")
    monkeypatch.setenv("KIBANA_PASSWORD", "hunter22")
    assert Kibana("http://127.0.0.1:5601")._credentials == {"authorization": "Basic bWU6aHVudGVyMjI="}
    monkeypatch.setenv("KIBANA_API_KEY", "no key\nat all")
    with pytest.raises(PenstockError, match="no key of Kibana's"):
        Kibana("http://127.0.0.1:5601")


def test_a_store_that_kibana_cannot_look_into_is_told_of():
    with stand_in() as kibana, pytest.raises(PenstockError, match="the store is duckdb"):
        bring(view({"kind": "duckdb"}), Kibana(kibana.url), ROOT)
