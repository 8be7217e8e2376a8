"""When a person is told, and where."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from penstock.config.base import View

__all__ = ["Alerting", "Receiver"]


class Receiver(View):
    """An address that alerts are posted to: Alertmanager's API (v2), or a Slack webhook."""

    url: str  # secrets as ${secret:NAME}
    format: Literal["alertmanager", "slack"] = "alertmanager"


class Alerting(View):
    """Held down: one alert a cause, raised when it comes back, cleared when it stays away."""

    raise_after: Annotated[int, Field(ge=1)] = 2  # windows with the cause …
    raise_within: Annotated[int, Field(ge=1)] = 3  # … among so many
    clear_after: Annotated[int, Field(ge=1)] = 2  # windows without it
    critical_at_once: bool = True  # a critical cause does not wait for a second window
    runbook: str = "docs/runbooks/monitoring.md"  # the address that alerts point to; #CAUSE is appended
    receivers: tuple[Receiver, ...] = ()

    @model_validator(mode="after")
    def _can_be_raised(self) -> Self:
        if self.raise_after > self.raise_within:
            raise ValueError("`raise_after` cannot be more than `raise_within`")
        return self
