"""The recommender as an ASGI application."""

from __future__ import annotations

import asyncio
import difflib
import json
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version as installed
from pathlib import Path
from typing import Annotated, Any

import orjson
from fastapi import Depends, FastAPI, Query, Request
from fastapi import Path as InPath
from fastapi import Response as HttpResponse
from fastapi.exceptions import RequestValidationError
from prometheus_client import CollectorRegistry, generate_latest, multiprocess
from starlette.exceptions import HTTPException

from penstock.config.serving.recommender import Recommend
from penstock.keys import Keys
from penstock.requests import Requests, RequestsOfOne, open_requests
from penstock.serving.predictor import CLIENT
from penstock.serving.recommender.bodies import (
    DeletedTime,
    ImpressionsBody,
    Interactions,
    Items,
    ListQuery,
    NewItemBody,
    SearchQuery,
    User,
    UserQuery,
    listed,
    milliseconds,
)
from penstock.serving.recommender.bounds import Bounded, Message, Receive, Send, refused
from penstock.serving.recommender.catalogue import Filters
from penstock.serving.recommender.loaded import Model
from penstock.serving.recommender.metrics import Metrics
from penstock.serving.recommender.recommending import Answer, Asked, Recommender, told_interaction
from penstock.serving.recommender.store import (
    Impression,
    Interaction,
    NewItem,
    Store,
    StoreDownError,
    now_ms,
    open_store,
)
from penstock.serving.refusals import Refusal

__all__ = ["Application", "create_app"]

PAGE = Path(__file__).parent / "page"
PAGE_FILES = {"app.css": "text/css", "app.js": "text/javascript"}
PAGE_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
MOST_FAULTS = 100  # that one answer tells of
MOST_PENDING = 1000  # impressions that are counted in the background, of one process
WAIT = 1  # seconds after which a write is worth another try
Id = Annotated[int, InPath(ge=0, lt=2**63)]
InUser = Annotated[User, InPath()]


class Application:
    """An ASGI application; ``open`` is to be awaited before it is asked, which the lifespan protocol does too."""

    def __init__(self, view: Recommend) -> None:
        several = "PROMETHEUS_MULTIPROC_DIR" in os.environ
        self.view = view
        self.registry = CollectorRegistry()
        # Several processes count in files that all can read, which is a registry of its own.
        self.metrics = Metrics(CollectorRegistry() if several else self.registry)
        if several:
            multiprocess.MultiProcessCollector(self.registry)  # type: ignore[no-untyped-call]
        self.keys = None if view.keys is None else Keys(Path(view.keys), CLIENT)
        self.draining = False
        self.log: Requests | None = None
        self._pending: set[asyncio.Task[None]] = set()
        self._app = Bounded(_rest(self), view, self.metrics)

    async def open(self) -> None:
        """Load the model, and open the store and the log.

        Raises:
            PenstockError: One of them cannot be used.
        """
        self.model = Model(self.view, lambda outcome: self.metrics.reloads.labels(outcome).inc())
        await self.model.open()
        self.store: Store = await open_store(self.view.store)
        self.recommender = Recommender(self.view, self.model, self.store, self.metrics.run_seconds.observe)
        counters = {name: self.metrics.records.labels(name) for name in ("written", "dropped")}
        self.log = open_requests(self.view.requests, lambda outcome, count: counters[outcome].inc(count))
        self._watching = asyncio.create_task(self.model.watch())

    async def close(self) -> None:
        """Finish what is under way, and write what is to be logged."""
        self._watching.cancel()
        if self._pending:
            await asyncio.wait(self._pending, timeout=WAIT)
        self.model.close()
        await self.store.close()
        if self.log is not None:
            await asyncio.to_thread(self.log.close)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    def require_key(self, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Let in whoever has a key, or everyone where none is asked for.

        Raises:
            Refusal: There is none, or it is nobody's.
        """
        if self.keys is not None and self.keys.whose(headers) is None:
            raise Refusal(401, "key", "expected a client's key: Authorization: Bearer KEY, or X-Api-Key")

    # --- what was answered --------------------------------------------------------------------------

    def answered(self, asked: Asked, answer: Answer, began: float) -> None:
        """Count and log a list, and take it for shown if that is declared."""
        of = "memory" if answer.degraded else "popular" if answer.cold else "history"
        self.metrics.lists.labels(of).inc()
        if len(answer.items) < asked.k:
            self.metrics.short_lists.inc()
        if answer.explored is not None:
            self.metrics.explored.inc()
        if answer.degraded is not None:
            self.metrics.store_failures.inc()
        elif self.view.exploration.impressions == "implied" and answer.items:
            self._imply(asked, answer)
        if self.log is not None:
            self.log.put(1, _record(self.view, asked, answer, (time.perf_counter() - began) * 1000))

    def _imply(self, asked: Asked, answer: Answer) -> None:
        if len(self._pending) >= MOST_PENDING:
            return  # better a list that is not counted than one that is late
        moment = now_ms()
        shown = [Impression(asked.request, asked.user, item["item"], moment) for item in answer.items]
        task = asyncio.create_task(self._show(shown))
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    async def _show(self, shown: Sequence[Impression]) -> None:
        try:
            await self.show(shown)
        except StoreDownError:
            self.metrics.store_failures.inc()

    async def show(self, shown: Sequence[Impression]) -> int:
        """Count impressions; how many were new. They are kept as long as a rule or a click may ask for them."""
        rest = self.view.rules.rest
        keep = self.view.exploration.keep
        span = keep if rest is None else max(keep, rest.span)
        count = await self.store.show(shown, int(span.total_seconds() * 1000))
        self.metrics.impressions.inc(count)
        return count


def _record(view: Recommend, asked: Asked, answer: Answer, took_ms: float) -> RequestsOfOne:
    inputs = {
        "k": asked.k,
        "diversity": asked.diversity,
        "known": answer.known,
        "cold": answer.cold,
        "filtered": bool(asked.filters or asked.exclude),
    }
    outputs = {
        "items": [item["item"] for item in answer.items],
        "scores": [item["score"] for item in answer.items],
        "explored": answer.explored,
    }
    return RequestsOfOne(
        time=time.time_ns(),
        request=asked.request,
        model=Path(view.model).name,
        version=answer.version,
        inputs=lambda: [inputs],
        outputs=lambda: [outputs],
        latency_ms=took_ms,
        status=answer.degraded or "ok",
        propensity=answer.share,
        user=asked.user,
    )


# --- routes -----------------------------------------------------------------------------------------


def _json(content: Any, status: int = 200) -> HttpResponse:
    return HttpResponse(orjson.dumps(content), status, media_type="application/json")


def _rest(application: Application) -> FastAPI:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await application.open()
        try:
            yield
        finally:
            await application.close()

    app = FastAPI(
        title="Penstock recommender",
        version=installed("penstock"),
        description="Recommendations that react to the last interaction.",
        docs_url=None,  # its scripts would come from elsewhere
        redoc_url=None,
        lifespan=lifespan,
        responses={
            422: {"description": "What was sent does not fit: `error`, and `errors` with the places."},
            503: {"description": "The store cannot be used now. Retry-After says when to come again."},
        },
    )

    async def client(request: Request) -> None:  # a plain function would be run in a thread
        application.require_key(request.scope["headers"])

    _errors(app, application)
    allowed = Depends(client)
    _lists(app, application, allowed)
    _interactions(app, application, allowed)
    _users(app, application, allowed)
    _items(app, application, allowed)
    _health(app, application)
    if application.view.page:
        _page(app)
    return app


def _errors(app: FastAPI, application: Application) -> None:
    def told(refusal: Refusal) -> HttpResponse:
        status, headers, body = refused(refusal)
        answer = HttpResponse(body, status)
        answer.raw_headers = headers
        return answer

    def refusal(_: Request, error: Exception) -> HttpResponse:
        assert isinstance(error, Refusal)
        return told(error)

    def down(_: Request, error: Exception) -> HttpResponse:
        application.metrics.store_failures.inc()
        return told(
            Refusal(503, "store", "the store cannot be used now; nothing is acknowledged", after=WAIT)
        )

    def failed(_: Request, error: Exception) -> HttpResponse:
        assert isinstance(error, HTTPException)
        answer = _json({"error": str(error.detail)}, error.status_code)
        answer.headers.update(error.headers or {})
        return answer

    def unfit(_: Request, error: Exception) -> HttpResponse:
        assert isinstance(error, RequestValidationError)
        faults = [
            {"place": ".".join(str(part) for part in fault["loc"]), "message": str(fault["msg"])}
            for fault in error.errors()[:MOST_FAULTS]
        ]
        content = {"error": f"{faults[0]['place']}: {faults[0]['message']}", "errors": faults}
        # By the plain library: a key that was sent may have what is no character, which orjson refuses.
        return HttpResponse(json.dumps(content).encode(), 422, media_type="application/json")

    app.add_exception_handler(Refusal, refusal)
    app.add_exception_handler(StoreDownError, down)
    app.add_exception_handler(HTTPException, failed)
    app.add_exception_handler(RequestValidationError, unfit)


async def _filters(application: Application, query: ListQuery | SearchQuery, *more: str) -> Filters:
    """Filters whose genres exist.

    Raises:
        Refusal: One does not: a filter that is misspelt is not to be taken for one that nothing passes.
    """
    named = {*query.genre, *query.not_genre, *more}
    known = set(application.model.now.catalogue.genres)
    if not named <= known:
        try:
            known.update(genre for item in await application.store.items() for genre in item.genres)
        except StoreDownError:
            application.metrics.store_failures.inc()
    for name in sorted(named - known):
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(sorted(known)[:30])}"
        raise Refusal(422, "genre", f"no item has the genre {name!r}; {hint}")
    return Filters(tuple(query.genre), tuple(query.not_genre), query.year_from, query.year_to)


def _lists(app: FastAPI, application: Application, allowed: Any) -> None:
    @app.get("/v1/recommendations/{user}", tags=["recommendations"], dependencies=[allowed])
    async def recommendations(
        request: Request, user: InUser, query: Annotated[ListQuery, Query()]
    ) -> HttpResponse:
        """The best items for a user, of everything that was acknowledged before."""
        began = time.perf_counter()
        most = min(application.view.limits.k, application.model.now.model.manifest.limits.k)
        if query.k > most:
            raise Refusal(422, "k", f"k: expected at most {most}")
        filters = await _filters(application, query, *query.prefer)
        asked = Asked(
            user=user,
            request=request.scope["request_id"],
            k=query.k,
            diversity=query.diversity,
            filters=filters,
            exclude=frozenset(query.exclude),
            prefer=tuple(query.prefer),
            explain=query.explain,
        )
        answer = await application.recommender.recommend(asked)
        response = _json(answer.content(asked))
        response.headers["x-model-version"] = answer.version
        response.headers["cache-control"] = "no-store"
        application.answered(asked, answer, began)
        return response

    @app.post("/v1/impressions", tags=["recommendations"], dependencies=[allowed])
    async def impressions(body: ImpressionsBody) -> dict[str, int]:
        """Items were shown. The same request, user and item counts once."""
        moment = now_ms()
        shown = [Impression(body.request, body.user, item, moment) for item in body.items]
        return {"counted": await application.show(shown)}


def _id_of(application: Application, at: int, item: int | str) -> int:
    """The id of an item that is named by its id or its key.

    Raises:
        Refusal: The model has no item of that key. An item without an id cannot be kept.
    """
    if isinstance(item, int):
        return item
    found = application.model.now.model.ids_by_key.get(item)
    if found is None:
        raise Refusal(422, "key", f"interaction {at}: item: expected an id, or a key that the model knows")
    return found


def _interactions(app: FastAPI, application: Application, allowed: Any) -> None:
    view = application.view

    @app.post("/v1/interactions", tags=["interactions"], dependencies=[allowed])
    async def interactions(body: Interactions) -> dict[str, int]:
        """Someone did something: one interaction, or several of which all are kept or none. What is answered is durable."""
        sent = listed(body)
        if len(sent) > view.limits.interactions:
            raise Refusal(413, "size", f"expected at most {view.limits.interactions} interactions")
        latest = now_ms() + int(view.history.ahead.total_seconds() * 1000)
        found = []
        for at, one in enumerate(sent):
            moment = None if one.time is None else milliseconds(one.time)
            if moment is not None and moment > latest:
                span = view.history.ahead.total_seconds()
                raise Refusal(
                    422, "time", f"interaction {at}: time: more than {span:.0f} s ahead of this clock"
                )
            item = _id_of(application, at, one.item)
            found.append(Interaction(one.user, item, moment, one.rating, one.event, one.id, one.request))
        added = await application.store.add(found, view.history.keep)
        application.metrics.interactions.labels("stored").inc(added.stored)
        application.metrics.interactions.labels("duplicate").inc(added.duplicates)
        return {"stored": added.stored, "duplicates": added.duplicates}

    @app.delete("/v1/users/{user}/interactions/{item}", tags=["interactions"], dependencies=[allowed])
    async def remove(user: InUser, item: Id, time: Annotated[DeletedTime, Query()] = None) -> dict[str, int]:
        """Take back what a user did with an item: at one time, or ever."""
        moment = None if time is None else milliseconds(time)
        return {"removed": await application.store.remove(user, item, moment)}


def _users(app: FastAPI, application: Application, allowed: Any) -> None:
    @app.get("/v1/users/{user}", tags=["users"], dependencies=[allowed])
    async def told(user: InUser, query: Annotated[UserQuery, Query()]) -> HttpResponse:
        """What is kept of a user, the latest first. Of someone unknown that is nothing."""
        found = await application.store.history(user)
        items = application.model.now.catalogue.items
        named: dict[int, NewItem] = {}
        newest = found[::-1][: query.limit]
        if any(one.item not in items for one in newest):
            named = {item.id: item for item in await application.recommender.items()}

        def titles(id_: int) -> tuple[str | None, int | None]:
            item = items.get(id_) or named.get(id_)
            return (None, None) if item is None else (item.title, item.year)

        return _json(
            {
                "user": user,
                "total": len(found),
                "known": sum(one.item in items for one in found),
                "interactions": [told_interaction(one, titles) for one in newest],
            }
        )

    @app.delete("/v1/users/{user}", tags=["users"], dependencies=[allowed])
    async def forget(user: InUser) -> dict[str, int]:
        """Erase a user: interactions and impressions."""
        application.recommender.forget(user)
        removed = await application.store.forget(user)
        application.recommender.forget(user)  # a list may have been made in between
        return {"removed": removed}


def _items(app: FastAPI, application: Application, allowed: Any) -> None:
    def told(item: Any, **more: Any) -> dict[str, Any]:
        key = getattr(item, "key", None)
        return {
            "item": item.id,
            **({} if key is None else {"key": key}),
            "title": item.title,
            "genres": list(item.genres),
            "year": item.year,
            **more,
        }

    @app.get("/v1/model", tags=["items"], dependencies=[allowed])
    async def model() -> HttpResponse:
        """What answers, and what its items have."""
        now = application.model.now
        manifest = now.model.manifest
        most = min(application.view.limits.k, manifest.limits.k)
        return _json(
            {
                "name": manifest.name,
                "title": manifest.title,
                "version": now.version,
                "items": len(now.catalogue.ids),
                "genres": now.catalogue.genres,
                "most": most,
            }
        )

    @app.get("/v1/items", tags=["items"], dependencies=[allowed])
    async def search(query: Annotated[SearchQuery, Query()]) -> HttpResponse:
        """Items whose titles have all words, the most popular first; registered ones behind those of the model."""
        filters = await _filters(application, query)
        catalogue = application.model.now.catalogue
        words = query.q.split()
        found = [told(item, new=False) for item in catalogue.search(words, filters, query.limit)]
        if len(found) < query.limit:
            found += [
                told(item, new=True)
                for item in await application.store.items()
                if item.id not in catalogue.places
                and filters.passes(item.genres, item.year)
                and all(word.casefold() in item.title.casefold() for word in words)
            ][: query.limit - len(found)]
        return _json({"items": found})

    @app.post("/v1/items", tags=["items"], dependencies=[allowed])
    async def register(body: Items) -> dict[str, int]:
        """Register items that the model does not know, or what has changed of them."""
        sent: list[NewItemBody] = listed(body)
        most = application.view.limits.items
        items = [NewItem(one.item, one.title, one.genres, one.year) for one in sent]
        if len(items) > most or not await application.store.register(items, most):
            raise Refusal(409, "items", f"there would be more than {most} registered items: limits.items")
        application.recommender.refresh()
        return {"registered": len(items)}

    @app.get("/v1/items/{item}", tags=["items"], dependencies=[allowed])
    async def one(item: Id) -> HttpResponse:
        """An item; of a registered one also how often it was shown and clicked."""
        known = application.model.now.catalogue.items.get(item)
        if known is not None:
            return _json(told(known, new=False, popularity=known.popularity))
        for each in await application.store.items():
            if each.id == item:
                return _json(told(each, new=True, shown=each.shown, clicked=each.clicked))
        raise Refusal(404, "item", f"no item {item}")

    @app.delete("/v1/items/{item}", tags=["items"], dependencies=[allowed])
    async def withdraw(item: Id) -> dict[str, int]:
        """Take back the registration of an item."""
        removed = int(await application.store.withdraw(item))
        application.recommender.refresh()
        return {"removed": removed}


def _health(app: FastAPI, application: Application) -> None:
    @app.get("/health/live", tags=["health"])
    async def live() -> dict[str, bool]:
        """Whether the process answers."""
        return {"live": True}

    @app.get("/health/ready", tags=["health"])
    async def ready(response: HttpResponse) -> dict[str, bool]:
        """Whether it takes requests. Without its store it does: lists are then of what was known last."""
        found = not application.draining
        response.status_code = 200 if found else 503
        return {"ready": found}

    @app.get("/metrics", tags=["health"], response_class=HttpResponse)
    async def measured() -> HttpResponse:
        """Counters for Prometheus, of all processes."""
        text = generate_latest(application.registry)
        return HttpResponse(text, media_type="text/plain; version=0.0.4; charset=utf-8")


def _page(app: FastAPI) -> None:
    contents = {name: (PAGE / name).read_bytes() for name in ("index.html", *PAGE_FILES)}

    @app.get("/", include_in_schema=False)
    async def index() -> HttpResponse:
        return HttpResponse(contents["index.html"], headers=PAGE_HEADERS, media_type="text/html")

    @app.get("/page/{name}", include_in_schema=False)
    async def file(name: str) -> HttpResponse:
        if name not in PAGE_FILES:
            raise Refusal(404, "page", "there is no such file")
        return HttpResponse(contents[name], headers=PAGE_HEADERS, media_type=PAGE_FILES[name])


def create_app(view: Recommend) -> Application:
    """The recommender's ASGI application.

    Args:
        view: What is declared.
    """
    return Application(view)
