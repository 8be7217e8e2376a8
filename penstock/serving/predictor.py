"""From a request to an answer, whatever has brought it: the order of things, what is counted, and what is logged."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import orjson

from penstock.config.serving import Serve
from penstock.console import say
from penstock.keys import Keys, Purpose
from penstock.requests import REQUEST_ID, Requests, RequestsOfOne, new_request_id, open_requests
from penstock.serving.artefacts import Outputs, Work
from penstock.serving.metrics import Metrics
from penstock.serving.open_inference import HEADER_LENGTH, InferRequest, decoded, encoded
from penstock.serving.refusals import Refusal
from penstock.serving.registry import Lane, Model, Registry

__all__ = ["ADMIN", "CLIENT", "Call", "Predictor", "Response", "Route", "routed"]

CLIENT = Purpose("client", b"penstock-client", "penstock keys add CLIENT")
ADMIN = Purpose("administrator", b"penstock-admin", "penstock keys add NAME --admin")
DECODERS = 2  # threads that decode pictures and large bodies
LARGE = 131_072  # bytes of a body that is decoded in a thread
RETRY = 1  # seconds after which a refused request may try again
FLUSH = 0.25  # seconds between writes of what was counted

Protocol = Literal["plain", "v2"]
Headers = Iterable[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Route:
    """Which model is asked, and how."""

    model: str
    version: str | None
    protocol: Protocol


def routed(path: str) -> Route | None:
    """The route of a path that asks for predictions; None of any other."""
    parts = path.split("/")
    match parts:
        case ["", "v1", "models", model, "predict"]:
            return Route(model, None, "plain")
        case ["", "v1", "models", model, "versions", version, "predict"]:
            return Route(model, version, "plain")
        case ["", "v2", "models", model, "infer"]:
            return Route(model, None, "v2")
        case ["", "v2", "models", model, "versions", version, "infer"]:
            return Route(model, version, "v2")
    return None


@dataclass(slots=True)
class Response:
    """An answer.

    Attributes:
        status: Of HTTP.
        body: JSON, or JSON and tensors.
        request: Its id.
        version: That has answered; None where none has.
        json_length: Bytes of the body that are JSON, if more follow.
        after: Seconds after which a refused request is worth another try.
    """

    status: int
    body: bytes
    request: str
    version: str | None = None
    json_length: int | None = None
    after: int | None = None

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Those of the answer."""
        kind = b"application/json" if self.json_length is None else b"application/octet-stream"
        found = [
            (b"content-type", kind),
            (b"content-length", b"%d" % len(self.body)),
            (b"x-request-id", self.request.encode("ascii")),
        ]
        if self.version is not None:
            found.append((b"x-model-version", self.version.encode("ascii")))
        if self.json_length is not None:
            found.append((HEADER_LENGTH, b"%d" % self.json_length))
        if self.after is not None:
            found.append((b"retry-after", b"%d" % self.after))
        if self.status == 401:
            found.append((b"www-authenticate", b'Bearer realm="penstock"'))
        if self.status in {408, 413}:
            found.append((b"connection", b"close"))  # what is still to come of the body is not waited for
        return found


@dataclass(slots=True)
class Call:
    """A request that has come whole.

    Attributes:
        route: What is asked.
        content: The body.
        done: Called with the answer, once, on the event loop.
        request: Its id.
        user: Whom a rollout is sticky by.
        began: By ``time.perf_counter``, when it had come.
        header_length: Bytes of the body that are JSON, if more follow.
    """

    route: Route
    content: bytes
    done: Callable[[Response], None]
    request: str
    user: str | None
    began: float
    header_length: int | None = None


class Predictor:
    """Answers requests. Made on the event loop of its process.

    Args:
        view: What is declared.
        metrics: What is counted.
    """

    def __init__(self, view: Serve, metrics: Metrics) -> None:
        self.view, self.metrics = view, metrics
        self.registry = Registry(view, metrics)
        self.log: Requests | None = None
        self.keys = None if view.keys is None else Keys(Path(view.keys), CLIENT)
        self.draining = False
        self._large = 0
        self._loop = asyncio.get_running_loop()
        self._decoders = ThreadPoolExecutor(DECODERS, thread_name_prefix="penstock-decode")

    async def open(self) -> None:
        """Load the models, and open the log.

        Raises:
            PenstockError: An artefact cannot be loaded, or the log cannot be written.
        """
        await self.registry.open()
        counters = {name: self.metrics.records.labels(name) for name in ("written", "dropped")}
        self.log = open_requests(self.view.requests, lambda outcome, count: counters[outcome].inc(count))
        self._tasks = [asyncio.create_task(self.registry.watch()), asyncio.create_task(self._flushed())]

    async def _flushed(self) -> None:
        while True:
            await asyncio.sleep(FLUSH)
            self.metrics.flush()

    async def close(self) -> None:
        """Write what is to be logged."""
        for task in self._tasks:
            task.cancel()
        self.registry.close()
        self._decoders.shutdown(wait=False)
        if self.log is not None:
            await asyncio.to_thread(self.log.close)
        self.metrics.flush()

    def ready(self) -> bool:
        """Whether a request would be likely to be answered."""
        return bool(self.registry.models) and not self.draining

    def require_key(self, headers: Headers) -> None:
        """Let in whoever has a key, or everyone where none is asked for.

        Raises:
            Refusal: There is none, or it is nobody's.
        """
        if self.keys is not None and self.keys.whose(headers) is None:
            raise Refusal(401, "key", "expected a client's key: Authorization: Bearer KEY, or X-Api-Key")

    def call(self, route: Route, headers: Headers, content: bytes, done: Callable[[Response], None]) -> Call:
        """What is to be answered.

        Raises:
            Refusal: The headers forbid it.
        """
        request = user = None
        length: int | None = None
        for name, value in headers:
            if name == b"x-request-id":
                text = value.decode("latin-1")
                request = text if REQUEST_ID.fullmatch(text) else None
            elif name == b"x-user-id":
                user = value.decode("utf-8", "replace")[:200]
            elif name == HEADER_LENGTH:
                if not value.isdigit() or len(value) > 12:
                    raise Refusal(
                        400, "content", "Inference-Header-Content-Length: expected a number of bytes"
                    )
                length = int(value)
            elif name == b"content-encoding" and value.strip().lower() not in {b"", b"identity"}:
                raise Refusal(415, "encoding", "expected a body that is not packed")
        return Call(route, content, done, request or new_request_id(), user, time.perf_counter(), length)

    def take(self, call: Call) -> None:
        """Answer a request, now or later; whatever happens, ``call.done`` is called once."""
        try:
            model = self.registry.model(call.route.model)
            lane = model.lane(call.route.version)
            if lane.artefact.heavy or len(call.content) > LARGE:
                self._take_slowly(call, model, lane)
            else:
                self._submit(call, model, lane, *_decoded(lane, call))
        except Refusal as refusal:
            self.refuse(call, refusal)
        except Exception as error:
            self.defect(call, error)

    def _take_slowly(self, call: Call, model: Model, lane: Lane) -> None:
        """Decode in a thread: pictures, and bodies that would keep the loop from all others."""
        if self._large >= self.view.limits.large_requests:
            raise Refusal(503, "queue", "too many large requests are under way; try again", after=RETRY)
        self._large += 1
        answered = call.done

        def answer(response: Response) -> None:
            self._large -= 1
            answered(response)

        call.done = answer
        future = self._loop.run_in_executor(self._decoders, _decoded, lane, call)

        def finished(done: asyncio.Future[tuple[InferRequest | None, Work]]) -> None:
            try:
                self._submit(call, model, lane, *done.result())
            except Refusal as refusal:
                self.refuse(call, refusal)
            except Exception as error:
                self.defect(call, error)

        future.add_done_callback(finished)

    def _submit(self, call: Call, model: Model, lane: Lane, asked: InferRequest | None, work: Work) -> None:
        arrived = time.time_ns()

        def done(outputs: Outputs | Refusal) -> None:
            status = "ok"
            try:
                if isinstance(outputs, Refusal):
                    raise outputs
                response = _answered(call, lane, asked, outputs)
                self._count(call, response.status)
                self.metrics.sum("rows", model.name, lane.version).inc(len(work))
            except Refusal as told:
                refusal, fault = told, None
                if refusal.reason == "not_finite":
                    fault = lane.artefact.beyond(work)
                if fault is not None:
                    refusal = Refusal.of_faults([fault])
                status = refusal.reason
                response = self._refused(call, refusal)
            call.done(response)
            if self.log is not None:
                self._record(
                    call, lane, work, None if isinstance(outputs, Refusal) else outputs, status, arrived
                )

        lane.batcher.submit(work, done)

    def _record(
        self, call: Call, lane: Lane, work: Work, outputs: Outputs | None, status: str, arrived: int
    ) -> None:
        assert self.log is not None
        artefact = lane.artefact
        one = RequestsOfOne(
            time=arrived,
            request=call.request,
            model=call.route.model,
            version=lane.version,
            inputs=lambda: artefact.records(work),
            outputs=None if outputs is None else lambda: artefact.answers(outputs),
            latency_ms=(time.perf_counter() - call.began) * 1000,
            status=status,
            user=call.user,
        )
        self.log.put(len(work), one)

    # --- counting -----------------------------------------------------------------------------------

    def _count(self, call: Call, status: int) -> None:
        route = call.route
        # A model that does not exist is no label: anyone could make up as many as they like.
        name = route.model if route.model in self.registry.models else "none"
        self.metrics.sum("requests", name, route.protocol, str(status)).inc()
        self.metrics.spread("seconds", name).observe(time.perf_counter() - call.began)

    def _refused(self, call: Call, refusal: Refusal) -> Response:
        self._count(call, refusal.status)
        name = call.route.model if call.route.model in self.registry.models else "none"
        self.metrics.sum("refusals", name, refusal.reason).inc()
        body = orjson.dumps(refusal.content())
        return Response(refusal.status, body, call.request, after=refusal.after)

    def defect(self, call: Call, error: Exception) -> None:
        """What nobody has thought of is told in the log, and not to whoever has asked."""
        say("serve: a defect:\n" + "".join(traceback.format_exception(error)))
        self.refuse(call, Refusal(500, "defect", "this request cannot be answered; the log says why"))

    def refuse(self, call: Call, refusal: Refusal) -> None:
        """Answer a request with an error, and count it."""
        call.done(self._refused(call, refusal))


def _decoded(lane: Lane, call: Call) -> tuple[InferRequest | None, Work]:
    if call.route.protocol == "plain":
        return None, lane.artefact.plain(call.content)
    asked = decoded(call.content, call.header_length)
    return asked, lane.artefact.tensors(asked)


def _answered(call: Call, lane: Lane, asked: InferRequest | None, outputs: Outputs) -> Response:
    artefact, model = lane.artefact, call.route.model
    if asked is None:
        rows = orjson.dumps(artefact.answers(outputs))
        # Neither name, version nor id has anything that JSON would have to escape.
        head = f'{{"model":"{model}","version":"{lane.version}","request":"{call.request}","rows":'
        return Response(200, b"%b%b}" % (head.encode(), rows), call.request, lane.version)
    head_v2 = {"model_name": model, "model_version": lane.version, "id": asked.id or call.request}
    tensors = [(info.name, info.datatype, outputs[info.name]) for info in artefact.outputs]
    body, length = encoded(head_v2, tensors, asked)
    return Response(200, body, call.request, lane.version, length)
