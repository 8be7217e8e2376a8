"""What every view of params.yaml is made of."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Card", "OpenShare", "Scalar", "Share", "View"]

Share = Annotated[float, Field(ge=0.0, le=1.0)]
OpenShare = Annotated[float, Field(gt=0.0, lt=1.0)]
Scalar = bool | int | float | str


class View(BaseModel):
    """A frozen part of params.yaml that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Card(View):
    """What the model card says beyond what is measured."""

    title: str = ""
    description: str = ""
    source: str = ""
    licence: str = ""
    intended_use: str = ""
    caveats: str = ""
