"""Elasticsearch as the store: an index for each day of event time.

A document's id says which reading it is, and ids are unique within an index. In a data stream the same reading, written
again after a rollover, would be in it twice; an index that its own time names is the same one whenever it comes. An index
template makes them, an alias is what one searches, and a lifecycle policy, or where the cluster has none the indexer,
deletes days beyond the retention.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self

import orjson

from penstock.config.streaming import ElasticsearchStore
from penstock.errors import PenstockError
from penstock.sources.secrets import hidden, revealed
from penstock.stream.store import BusyError, Document, Kind, Refused, Written

__all__ = ["ElasticsearchIndices"]

SECOND = 1_000_000_000
BULK = 20 << 20  # bytes of a request at most; Elasticsearch's own limit is 100 MB
# 8: what servers of 8 and of 9 both know.
NDJSON = {
    "content-type": "application/vnd.elasticsearch+x-ndjson; compatible-with=8",
    "accept": "application/vnd.elasticsearch+json; compatible-with=8",
}
LATER = {429, 502, 503, 504}
FIELDS = 1000
FORGET = 1000  # documents at once

NANOS = {"type": "date_nanos"}
WORD = {"type": "keyword", "ignore_above": 1024}
MAPPINGS: dict[Kind, dict[str, Any]] = {
    "readings": {
        "device": WORD,
        "session": WORD,
        "sensor": WORD,
        "message": {"type": "long", "index": False},
        "index": {"type": "integer", "index": False},
        "accuracy": {"type": "float", "index": False},
        "received": NANOS | {"index": False},
        "lag_ms": {"type": "float", "index": False},
    },
    "windows": {
        "device": WORD,
        "sensor": WORD,
        "start": NANOS,
        "end": NANOS,
        "readings": {"type": "integer"},
        "late": {"type": "boolean"},
        "label": WORD,
        "probability": {"type": "float"},
    },
}
# Kept by column and not in a tree of points: as good to aggregate and sort by, and to write at a third of the cost. What is
# searched by (device, sensor, time) is indexed; a range of values is found by looking through those.
NUMBER = {"type": "double", "ignore_malformed": True, "index": False}
# A device may send a word today where it sent a number yesterday: the reading is kept, that value is not searched for.
DYNAMIC = [
    {"numbers": {"match_mapping_type": "long", "mapping": NUMBER}},
    {"fractions": {"match_mapping_type": "double", "mapping": NUMBER}},
    {"truths": {"match_mapping_type": "boolean", "mapping": WORD}},
    {"words": {"match_mapping_type": "string", "mapping": WORD}},
]


class ElasticsearchIndices:
    """A store of daily indices."""

    def __init__(self, view: ElasticsearchStore) -> None:
        self.view = view
        self._names: dict[Kind, str] = {"readings": view.readings, "windows": view.windows}
        self._client: Any = None
        self._seconds: dict[int, str] = {}

    async def __aenter__(self) -> Self:
        from elasticsearch import AsyncElasticsearch

        view = self.view
        ca: dict[str, Any] = {} if view.ca is None else {"ca_certs": view.ca}
        login = None if view.user is None else (view.user, revealed(view.password or ""))
        try:
            self._client = AsyncElasticsearch(
                [revealed(host, url=True) for host in view.hosts],
                api_key=None if view.api_key is None else revealed(view.api_key),
                basic_auth=login,
                **ca,
                request_timeout=view.timeout.total_seconds(),
                retry_on_timeout=False,
                max_retries=0,
                http_compress=False,  # on one machine it costs more than it saves; across a network a proxy does it
            )
        except ValueError as error:
            raise PenstockError(
                f"store.hosts: {hidden(str(error))}", hint="write scheme, host and port: https://host:9200"
            ) from error
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()

    async def _asked(self, method: str, path: str, body: Any = None, *, known: tuple[int, ...] = ()) -> Any:
        """An answer; None for a status that is expected.

        Raises:
            BusyError: It takes nothing now, or does not answer.
            PenstockError: It refuses.
        """
        from elasticsearch import ApiError, TransportError

        headers = (
            NDJSON
            if isinstance(body, bytes)
            else {
                "content-type": "application/vnd.elasticsearch+json; compatible-with=8",
                "accept": NDJSON["accept"],
            }
        )
        try:
            answer = await self._client.perform_request(method, path, headers=headers, body=body)
        except ApiError as error:
            if error.status_code in known:
                return None
            if error.status_code in LATER:
                busy = BusyError(f"store: Elasticsearch: {error.status_code}")
                after = str(error.meta.headers.get("retry-after", ""))
                busy.after = float(after) if after.isdigit() else None
                raise busy from error
            raise PenstockError(
                f"store: Elasticsearch refuses {path.split('?', maxsplit=1)[0]}: {hidden(str(error))[:300]}",
                hint="look at store in conf/stream/, and at what its user may do",
            ) from error
        except TransportError as error:
            raise BusyError(f"store: Elasticsearch does not answer: {hidden(str(error))[:200]}") from error
        return answer.body

    # --- making it ----------------------------------------------------------------------------------

    async def create(self) -> list[str]:
        view, done = self.view, []
        policy = {
            "policy": {
                "phases": {
                    "hot": {"actions": {}},
                    "delete": {
                        "min_age": f"{int(view.retention.total_seconds()) + 86_400}s",
                        "actions": {"delete": {}},
                    },
                }
            }
        }
        managed = await self._asked("PUT", "/_ilm/policy/penstock", policy, known=(400, 404, 405)) is not None
        done.append(
            "policy penstock: as declared"
            if managed
            else "no lifecycle management in this cluster: the indexer deletes days beyond the retention"
        )
        for kind, name in self._names.items():
            settings = {
                "number_of_shards": view.shards,
                "number_of_replicas": view.replicas,
                "refresh_interval": f"{int(view.refresh.total_seconds() * 1000)}ms",
                "mapping.total_fields.limit": FIELDS,
                # A device that makes names up fills the mapping, not the disk: its values are kept, not searched.
                "mapping.total_fields.ignore_dynamic_beyond_limit": True,
                **({"lifecycle.name": "penstock"} if managed else {}),
            }
            template = {
                "index_patterns": [f"{name}-*"],
                "priority": 500,
                "template": {
                    "settings": {"index": settings},
                    "mappings": {
                        "dynamic": True,
                        "date_detection": False,
                        "dynamic_templates": DYNAMIC,
                        "properties": {"@timestamp": NANOS, **MAPPINGS[kind]},
                    },
                    "aliases": {name: {}},
                },
                "_meta": {"made_by": "penstock stream create"},
            }
            await self._asked("PUT", f"/_index_template/penstock-{name}", template)
            done.append(f"template penstock-{name}: as declared")
        return done

    async def expire(self, now: int | None = None) -> list[str]:
        """Delete the days that are beyond the retention; their names."""
        moment = datetime.fromtimestamp((now or time.time_ns()) / SECOND, UTC)
        last = moment - self.view.retention - timedelta(days=1)
        gone = []
        for name in self._names.values():
            found = await self._asked("GET", f"/_cat/indices/{name}-*?format=json&h=index")
            for entry in found:
                index = str(entry["index"])
                try:
                    day = datetime.strptime(index.removeprefix(f"{name}-"), "%Y.%m.%d").replace(tzinfo=UTC)
                except ValueError:
                    continue  # not one of ours
                if day < last:
                    await self._asked("DELETE", f"/{index}", known=(404,))
                    gone.append(index)
        return gone

    async def forget(self, device: str) -> int:
        # By search and bulk rather than _delete_by_query, which is a module that a cluster may lack.
        gone = 0
        query = {"size": FORGET, "_source": False, "query": {"term": {"device": device}}}
        for name in self._names.values():
            path = f"/{name}-*/_search?ignore_unavailable=true&allow_no_indices=true"
            await self.refresh()
            while hits := (await self._asked("POST", path, query))["hits"]["hits"]:
                lines = [
                    orjson.dumps({"delete": {"_index": hit["_index"], "_id": hit["_id"]}}) for hit in hits
                ]
                answer = await self._asked("POST", "/_bulk?refresh=true", b"\n".join(lines) + b"\n")
                results = [item["delete"] for item in answer["items"]]
                refused = [item for item in results if item["status"] not in {200, 404}]
                if refused:
                    raise PenstockError(
                        f"store: {name}: a document of {device} is not deleted: {_reason(refused[0]['error'])}",
                        hint="look at what its user may do; then again",
                    )
                gone += sum(item["status"] == 200 for item in results)
        return gone

    # --- writing ------------------------------------------------------------------------------------

    def _moment(self, nanoseconds: int) -> str:
        second, rest = divmod(nanoseconds, SECOND)
        text = self._seconds.get(second)
        if text is None:
            if len(self._seconds) > 10_000:
                self._seconds.clear()
            text = self._seconds[second] = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        return f"{text}.{rest:09d}Z"

    async def write(self, kind: Kind, documents: Sequence[Document]) -> Written:
        name = self._names[kind]
        action = "create" if kind == "readings" else "index"
        lines: list[bytes] = []
        size, begun, new, known = 0, 0, 0, 0
        refused: list[Refused] = []

        async def send(upto: int) -> None:
            nonlocal new, known
            part = documents[begun:upto]
            answer = await self._asked(
                "POST", f"/{name}/_bulk?filter_path=errors,items.*.status,items.*.error", b"".join(lines)
            )
            for document, item in zip(part, answer["items"], strict=True):
                ((_, told),) = item.items()
                status = told["status"]
                if status == 409:
                    known += 1
                elif status in LATER:
                    raise BusyError(f"store: Elasticsearch: {status}")
                elif status >= 300:
                    refused.append(Refused(document, _reason(told.get("error"))))
                else:
                    new += status == 201
                    known += status != 201

        for number, document in enumerate(documents):
            moment = self._moment(document.time)
            index = f"{name}-{moment[:10].replace('-', '.')}"
            # Of a window, what was told of more readings stays.
            version = (
                b',"version":%d,"version_type":"external_gte"' % document.body["readings"]
                if kind == "windows"
                else b""
            )
            head = b'{"%b":{"_index":"%b","_id":"%b"%b}}\n' % (
                action.encode(),
                index.encode(),
                document.id.encode(),
                version,
            )
            body = {"@timestamp": moment, **document.body}
            for field in ("received", "start", "end"):
                if isinstance(body.get(field), int):
                    body[field] = self._moment(body[field])
            line = head + orjson.dumps(body) + b"\n"
            if size + len(line) > BULK and lines:
                await send(number)
                lines, size, begun = [], 0, number
            lines.append(line)
            size += len(line)
        if lines:
            await send(len(documents))
        return Written(new, known, tuple(refused))

    # --- looking ------------------------------------------------------------------------------------

    async def newest(self, kind: Kind, *, device: str | None, since: int, limit: int) -> list[dict[str, Any]]:
        wanted: list[dict[str, Any]] = [{"range": {"@timestamp": {"gte": self._moment(max(0, since))}}}]
        if device is not None:
            wanted.append({"term": {"device": device}})
        query = {
            "size": limit,
            "query": {"bool": {"filter": wanted}},
            "sort": [{"@timestamp": {"order": "desc", "format": "strict_date_optional_time_nanos"}}],
        }
        found = await self._asked(
            "POST", f"/{self._names[kind]}-*/_search?ignore_unavailable=true&allow_no_indices=true", query
        )
        return [self._told(hit["_source"]) for hit in found["hits"]["hits"]]

    def _told(self, source: dict[str, Any]) -> dict[str, Any]:
        told = {name: value for name, value in source.items() if name != "@timestamp"}
        for field in ("received", "start", "end"):
            if isinstance(told.get(field), str):
                told[field] = _nanoseconds(told[field])
        return {"time": _nanoseconds(source["@timestamp"]), **told}

    async def count(self, kind: Kind) -> int:
        found = await self._asked("GET", f"/{self._names[kind]}-*/_count?allow_no_indices=true")
        return int(found["count"])

    async def refresh(self) -> None:
        """Let everything that was written be found."""
        names = ",".join(f"{name}-*" for name in self._names.values())
        await self._asked("POST", f"/{names}/_refresh?allow_no_indices=true")

    async def ready(self) -> bool:
        try:
            found = await self._asked("GET", "/_cluster/health?timeout=2s", known=(408,))
        except PenstockError:
            return False
        return found is not None and found["status"] != "red"


def _nanoseconds(text: str) -> int:
    whole, _, rest = text.rstrip("Z").partition(".")
    second = int(datetime.strptime(whole, "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC).timestamp())
    return second * SECOND + int(rest.ljust(9, "0") or 0)


def _reason(error: Any) -> str:
    if not isinstance(error, dict):
        return str(error)
    cause = error.get("caused_by") or {}
    words = [str(part.get("reason", "")) for part in (error, cause) if part]
    return ": ".join(word for word in words if word)[:500]
