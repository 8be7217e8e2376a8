"""What clients send, checked: pydantic views of bodies and of queries."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    model_validator,
)

from penstock.config.base import View
from penstock.requests import REQUEST_ID

__all__ = [
    "DeletedTime",
    "ImpressionsBody",
    "InteractionBody",
    "Interactions",
    "Items",
    "ListQuery",
    "NewItemBody",
    "SearchQuery",
    "User",
    "UserQuery",
    "listed",
    "milliseconds",
]

MOST_IDS = 1000  # of one query
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


def _plain(text: str) -> str:
    if UNPRINTABLE.search(text):
        raise ValueError("expected text without control characters")
    return text


def _addressable(text: str) -> str:
    # Servers and clients alike take these for parts of a path, encoded or not.
    if "/" in text or text in {".", ".."}:
        raise ValueError("expected a name that can stand in an address: without /")
    return text


def _moment(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("expected seconds since 1970, or a time as in 2026-01-31T12:00:00Z")  # noqa: TRY004
    return value


def _since_1970(value: datetime) -> datetime:
    if value < datetime(1970, 1, 1, tzinfo=UTC):
        raise ValueError("expected a time since 1970")
    return value


def _split(value: Any) -> Any:
    """``a=1,2&a=3`` and ``a=1&a=2&a=3`` are the same."""
    values = value if isinstance(value, list) else [value]
    return [
        part for text in values for part in (text.split(",") if isinstance(text, str) else [text]) if part
    ]


Text = Annotated[str, AfterValidator(_plain)]
User = Annotated[Text, AfterValidator(_addressable), Field(min_length=1, max_length=200)]
Id = Annotated[int, Field(ge=0, lt=2**63)]
Key = Annotated[Text, Field(min_length=1, max_length=500, strict=True)]
Name = Annotated[Text, Field(min_length=1, max_length=100)]
Year = Annotated[int, Field(ge=0, le=9999)]
Request = Annotated[str, Field(pattern=f"^{REQUEST_ID.pattern}$")]
Moment = Annotated[AwareDatetime, BeforeValidator(_moment), AfterValidator(_since_1970)]
DeletedTime = Moment | None
Names = Annotated[list[Name], BeforeValidator(_split), Field(max_length=50)]
Ids = Annotated[list[Id], BeforeValidator(_split), Field(max_length=MOST_IDS)]


def milliseconds(moment: datetime) -> int:
    """Since 1970."""
    return round(moment.timestamp() * 1000)


class InteractionBody(View):
    """Someone did something with an item."""

    user: User
    item: Id | Key = Field(description="Its id, or the text by which the data call it.")
    time: Moment | None = Field(
        None, description="With its offset, or seconds since 1970. Without one it is now."
    )
    rating: Annotated[float, Field(allow_inf_nan=False)] | None = None
    event: Name | None = Field(None, description='A word of yours, such as "play".')
    id: Name | None = Field(
        None,
        description="The same id of the same user counts once; without one, the same item at the same time.",
    )
    request: Request | None = Field(None, description="The recommendation that this follows from: a click.")


class NewItemBody(View):
    """An item that the model need not know."""

    item: Id
    title: Annotated[Text, Field(min_length=1, max_length=500)]
    genres: Annotated[tuple[Name, ...], Field(max_length=50)] = ()
    year: Year | None = None


class ImpressionsBody(View):
    """Items that were shown to a user."""

    request: Request
    user: User
    items: Annotated[tuple[Id, ...], Field(min_length=1, max_length=500)]


def _many(value: Any) -> str:
    return "many" if isinstance(value, list | tuple) else "one"


Interactions = Annotated[
    Annotated[InteractionBody, Tag("one")]
    | Annotated[list[InteractionBody], Field(min_length=1), Tag("many")],
    Discriminator(_many),
]
Items = Annotated[
    Annotated[NewItemBody, Tag("one")] | Annotated[list[NewItemBody], Field(min_length=1), Tag("many")],
    Discriminator(_many),
]


def listed(value: Any) -> list[Any]:
    """One or many as many."""
    return value if isinstance(value, list) else [value]


class _Filtered(View):
    genre: Names = Field([], description="Any of these.")
    not_genre: Names = Field([], description="None of these.")
    year_from: Year | None = None
    year_to: Year | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.year_from is not None and self.year_to is not None and self.year_from > self.year_to:
            raise ValueError("year_from is after year_to")
        return self


class ListQuery(_Filtered):
    """What is asked of a list."""

    k: Annotated[int, Field(ge=1, le=500)] = 10
    diversity: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    exclude: Ids = Field([], description="Ids that are not wanted.")
    prefer: Names = Field([], description="Genres that come sooner, as long as nothing is known of the user.")
    explain: bool = False


class SearchQuery(_Filtered):
    """What is asked of the catalogue."""

    q: Annotated[Text, Field(max_length=200)] = Field("", description="Words of the title.")
    limit: Annotated[int, Field(ge=1, le=100)] = 20


class UserQuery(View):
    """How much of a user is told."""

    limit: Annotated[int, Field(ge=1, le=5000)] = 100
