"""What `penstock recommend up` serves, by which rules, and where it keeps what people did: conf/recommend/NAME.yaml."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from penstock.config.base import Share, View
from penstock.config.loading.spans import duration
from penstock.config.serving.requests import RequestLog

__all__ = [
    "Exploration",
    "History",
    "Pin",
    "Recommend",
    "RecommendLimits",
    "RedisStore",
    "Rest",
    "Rules",
    "SqliteStore",
    "StoreView",
]

Duration = Annotated[timedelta, BeforeValidator(duration)]
Count = Annotated[int, Field(ge=1)]
Id = Annotated[int, Field(ge=0, lt=2**63)]


class SqliteStore(View):
    """One file that all processes of this machine share (write-ahead log)."""

    kind: Literal["sqlite"] = "sqlite"
    path: str = "data/recommender/state.sqlite"
    sync: Literal["full", "normal"] = (
        "full"  # full: what is acknowledged outlives power; normal: a killed process
    )
    patience: Duration = timedelta(seconds=5)  # until a write is given up; 503


class RedisStore(View):
    """A Redis, or Valkey, for several machines. It keeps what its own `appendfsync` keeps."""

    kind: Literal["redis"]
    url: str = "redis://127.0.0.1:6379/0"  # a password: ${secret:NAME}
    prefix: str = "penstock:recommend:"
    patience: Duration = timedelta(seconds=1)  # until it is taken for down
    connections: Count = 64  # of one process


def _kind(value: Any) -> str:
    """What a store is that does not say it."""
    kind = value.get("kind", "sqlite") if isinstance(value, dict) else getattr(value, "kind", "sqlite")
    return str(kind)


StoreView = Annotated[
    Annotated[SqliteStore, Tag("sqlite")] | Annotated[RedisStore, Tag("redis")], Discriminator(_kind)
]


class History(View):
    """What is kept of a user, and what of it the model is told."""

    keep: Count = 5000  # interactions of one user; beyond, the oldest go
    min_rating: float | None = None  # what is rated lower has no vote; it is still not recommended
    ahead: Duration = timedelta(minutes=5)  # how far a client's clock may be ahead of ours; beyond, 422


class Pin(View):
    """An item that has a place of its own, unless a filter, a rule or the user's history is against it."""

    item: Id
    place: Annotated[int, Field(ge=1, le=100)] = 1


class Rest(View):
    """What was shown and not taken up is left alone for a while. Impressions are to be told of, or implied."""

    span: Duration
    after: Count = 1  # times that it was shown within the span


class Rules(View):
    """Business rules. Every one holds for every list; a rule that names what does not exist is told of at the start."""

    allow: tuple[Id, ...] | None = None  # nothing but these
    deny: tuple[Id, ...] = ()
    genres: tuple[str, ...] | None = None  # nothing without any of these
    not_genres: tuple[str, ...] = ()  # nothing with any of these
    year_from: int | None = None  # an item whose year is not known does not pass
    year_to: int | None = None
    max_per_genre: Count | None = None  # in one list
    boost: dict[Id, Annotated[float, Field(gt=0)]] = {}  # 2: from place 10 to 5; 0.5: from place 5 to 10
    boost_genres: dict[str, Annotated[float, Field(gt=0)]] = {}
    pin: tuple[Pin, ...] = ()
    rest: Rest | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.year_from is not None and self.year_to is not None and self.year_from > self.year_to:
            raise ValueError("year_from is after year_to: nothing would be left")
        pinned = [pin.item for pin in self.pin]
        if len({pin.place for pin in self.pin}) < len(pinned) or len(set(pinned)) < len(pinned):
            raise ValueError("pin: each item and each place once")
        barred = sorted(set(pinned) & set(self.deny))
        if barred:
            raise ValueError(f"pin: {barred[0]} is denied as well")
        return self


class Exploration(View):
    """One place of some lists goes to an item that the model does not know yet, chosen by Thompson sampling."""

    share: Share = 0.1  # of lists
    cold_share: Share = 0.3  # of lists for users without a history that the model knows
    place: Annotated[int, Field(ge=1, le=100)] = 3
    clicks: Annotated[float, Field(gt=0)] = 1.0  # the Beta prior: as if it had been clicked so often …
    misses: Annotated[float, Field(gt=0)] = 9.0  # … and so often not
    impressions: Literal["told", "implied"] = "told"  # by POST /v1/impressions, or by every answer
    keep: Duration = timedelta(days=30)  # for which a click can still be told of


class RecommendLimits(View):
    """What is refused, before it costs anything."""

    body_bytes: Count = 1_048_576
    interactions: Annotated[int, Field(ge=1, le=10_000)] = 1000  # of one request
    k: Annotated[int, Field(ge=1, le=500)] = 100
    items: Count = 10_000  # new ones that are registered
    in_flight: Count = 512  # requests of one process at a time; beyond, 503
    connections: Count = 4096  # of one process
    body_seconds: Duration = timedelta(seconds=20)
    idle_seconds: Duration = timedelta(seconds=65)
    drain_seconds: Duration = timedelta(seconds=1)


class Recommend(View):
    """One recommender: some processes behind one port."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8700
    workers: Count = 1
    model: str = "models/ratings"  # the folder of the artefact
    store: StoreView = SqliteStore()
    history: History = History()
    rules: Rules = Rules()
    exploration: Exploration = Exploration()
    limits: RecommendLimits = RecommendLimits()
    poll: Duration | None = timedelta(
        seconds=1
    )  # between looks at the manifest; null: never (SIGHUP works in any case)
    page: bool = True  # at /
    keys: str | None = None  # a file of clients' keys, hashed; null on 127.0.0.1 only
    certificate: str | None = None
    private_key: str | None = None
    requests: RequestLog | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.certificate is None) != (self.private_key is None):
            raise ValueError("certificate and private_key go together")
        return self
