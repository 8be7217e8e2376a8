"""The page that shows what comes, for whoever sits at this machine."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from penstock.config.base import View

__all__ = ["Page"]

Address = Annotated[str, Field(pattern=r"^https?://[^/]+$")]


class Page(View):
    """Where it is, and whom it asks besides the log. It listens on this machine alone."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8402
    gateways: tuple[Address, ...] = ()  # http://host:port; none: the one that is declared here
    indexers: tuple[
        Address, ...
    ] = ()  # http://host:port of their metrics; none: the one that is declared here
