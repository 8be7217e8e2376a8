"""REST APIs."""

from __future__ import annotations

from typing import Literal

from penstock.config.base import View

__all__ = ["RestSource"]


class RestSource(View):
    """An address that answers with JSON, page by page."""

    kind: Literal["rest"]
    url: str
