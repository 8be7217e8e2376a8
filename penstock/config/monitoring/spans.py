"""A span of time as a field."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from pydantic import BeforeValidator, Field

from penstock.config.loading.spans import duration

__all__ = ["Span"]

Span = Annotated[timedelta, BeforeValidator(duration), Field(gt=timedelta(0))]  # 90s, 5m, 1h30m, 7d, 2w
