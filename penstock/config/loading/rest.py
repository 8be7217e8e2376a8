"""REST APIs."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from penstock.config.base import Scalar, View
from penstock.config.loading.spans import duration

__all__ = [
    "ApiKey",
    "Auth",
    "Basic",
    "Bearer",
    "ClientCredentials",
    "CursorPages",
    "HeaderCursorPages",
    "LinkHeaderPages",
    "LinkPages",
    "NumberedPages",
    "OffsetPages",
    "OnePage",
    "Pages",
    "Rate",
    "RestSource",
    "Retries",
]

Duration = Annotated[timedelta, BeforeValidator(duration)]
Seconds = Annotated[float, Field(gt=0)]


# --- pages ------------------------------------------------------------------------------------------


class OnePage(View):
    """All rows come at once."""

    by: Literal["none"]


class NumberedPages(View):
    """?page=1, ?page=2 … until a page is empty, or the last that the answer names."""

    by: Literal["page"]
    param: str = "page"
    first: Annotated[int, Field(ge=0)] = 1
    size_param: str | None = None
    page_rows: Annotated[int, Field(ge=1)] = 100
    total_pages: str | None = None  # where the answer says how many pages there are


class OffsetPages(View):
    """?offset=0&limit=100 … by as many rows as have come, until none comes."""

    by: Literal["offset"]
    param: str = "offset"
    limit_param: str = "limit"
    limit: Annotated[int, Field(ge=1)] = 100
    total: str | None = None  # where the answer says how many rows there are


class CursorPages(View):
    """A mark in the answer that asks for the next page."""

    by: Literal["cursor"]
    path: str = "next_cursor"
    param: str = "cursor"


class HeaderCursorPages(View):
    """The same, in a header."""

    by: Literal["header_cursor"]
    header: str = "X-Next-Cursor"
    param: str = "cursor"


class LinkPages(View):
    """The address of the next page, in the answer."""

    by: Literal["link"]
    path: str = "next"


class LinkHeaderPages(View):
    """The address of the next page, in the header Link (RFC 8288)."""

    by: Literal["link_header"]
    rel: str = "next"


Pages = Annotated[
    OnePage | NumberedPages | OffsetPages | CursorPages | HeaderCursorPages | LinkPages | LinkHeaderPages,
    Field(discriminator="by"),
]


# --- who asks ---------------------------------------------------------------------------------------


class Bearer(View):
    """A token, as Authorization: Bearer."""

    kind: Literal["bearer"]
    token: str  # ${secret:NAME}


class ApiKey(View):
    """A key in a header or in the query."""

    kind: Literal["key"]
    name: str = "X-Api-Key"
    value: str  # ${secret:NAME}
    where: Literal["header", "query"] = "header"


class Basic(View):
    """A user and a password."""

    kind: Literal["basic"]
    user: str
    password: str  # ${secret:NAME}


class ClientCredentials(View):
    """OAuth 2.0 client credentials (RFC 6749, 4.4): a token for a while, asked for anew before it ends."""

    kind: Literal["oauth2"]
    token_url: str
    client_id: str
    client_secret: str  # ${secret:NAME}
    scopes: tuple[str, ...] = ()
    in_body: bool = True  # the id and the secret; else as Basic


Auth = Annotated[Bearer | ApiKey | Basic | ClientCredentials, Field(discriminator="kind")]


# --- how often --------------------------------------------------------------------------------------


class Rate(View):
    """How often we may ask."""

    per_second: Seconds
    burst: Annotated[int, Field(ge=1)] = 1


class Retries(View):
    """What to do about 429, 408, 5xx, a lost connection, a time-out and a body that is cut short."""

    attempts: Annotated[int, Field(ge=1)] = 8
    first: Seconds = 1.0  # seconds; doubled each time, of which a random part is waited
    longest: Duration = timedelta(minutes=5)  # a Retry-After beyond it is an error, not a nap


class RestSource(View):
    """An address that answers with JSON, page by page."""

    kind: Literal["rest"]
    url: str | None = None
    # A server that comes with Penstock, started for the time of reading, so that the example needs nothing else.
    example: Literal["ratings"] | None = None
    method: Literal["GET", "POST"] = "GET"
    headers: dict[str, str] = {}
    params: dict[str, Scalar] = {}
    body: dict[str, Any] | None = None  # JSON, of a POST; page marks go into params
    select: str = "$"  # JSONPath of the rows, such as data.items; the whole answer if that is a list
    pages: Pages = OnePage(by="none")
    auth: Auth | None = None
    rate: Rate | None = None
    retries: Retries = Retries()
    connect_seconds: Seconds = 10.0
    read_seconds: Seconds = 60.0
    max_pages: Annotated[int, Field(ge=1)] = 100_000
    max_page_bytes: Annotated[int, Field(ge=1)] = 256 << 20
    # Of `incremental`: the parameters that take its bounds, and how they are written.
    since_param: str | None = None
    until_param: str | None = None
    bounds_as: Literal["iso", "unix", "unix_ms", "as_is"] = "iso"
    ordered: bool = False  # rows come in the order of the cursor: a load may be cut after any page

    @model_validator(mode="after")
    def _an_address_or_an_example(self) -> Self:
        if (self.url is None) == (self.example is None):
            raise ValueError("one of `url` and `example` is needed, and only one")
        if self.url is not None and not self.url.startswith(("http://", "https://")):
            raise ValueError(f"`url` must begin with http:// or https://, not {self.url[:20]!r}")
        return self
