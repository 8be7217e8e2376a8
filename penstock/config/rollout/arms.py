"""The versions between which a rollout chooses."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from penstock.config.base import View

__all__ = ["Arm", "Count", "Name"]

Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,39}$")]


class Arm(View):
    """One version: an artefact that predictors are started for, or predictors that run elsewhere."""

    artifact: str | None = None  # a folder with a manifest; `penstock rollout up` starts predictors for it
    urls: tuple[Annotated[str, Field(pattern=r"^http://[^/\s]+$")], ...] = ()  # predictors that run elsewhere
    replicas: Annotated[int, Field(ge=1, le=16)] = 1  # process groups, each at a port of its own
    workers: Count = 1  # processes of each
    memory_bytes: Count = 2_147_483_648  # of one replica; beyond it, it is started again

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.artifact is None) == (not self.urls):
            raise ValueError("name either an `artifact` (a folder) or `urls` of predictors")
        return self
