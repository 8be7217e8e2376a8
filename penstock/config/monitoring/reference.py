"""What a window is compared with."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from penstock.config.base import View

__all__ = ["LogReference", "Reference", "TableReference"]


class TableReference(View):
    """Rows with their truth that the model has not learnt from: the hold-out. The model answers them anew."""

    kind: Literal["table"] = "table"
    path: str  # Parquet, with the columns of the model and its target


class LogReference(View):
    """An earlier part of the log, known to be good."""

    kind: Literal["log"] = "log"
    since: datetime
    until: datetime

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.since.tzinfo is None or self.until.tzinfo is None:
            raise ValueError("`since` and `until` need an offset, such as 2026-01-31T00:00:00Z")
        if self.since >= self.until:
            raise ValueError("`since` is to be before `until`")
        return self


Reference = Annotated[TableReference | LogReference, Field(discriminator="kind")]
