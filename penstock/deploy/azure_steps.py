"""One step of many: whether there is something to do, and doing it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

__all__ = ["Change", "Step"]


@dataclass(frozen=True)
class Change:
    """Something to be done.

    Attributes:
        what: Which resource.
        kind: What is to be done to it.
        why: What is not as declared.
    """

    what: str
    kind: Literal["create", "change"]
    why: str = ""

    def __str__(self) -> str:
        return f"{'+' if self.kind == 'create' else '~'} {self.what}{f': {self.why}' if self.why else ''}"


@dataclass(frozen=True)
class Step:
    """Looks whether there is something to do, and does it. Looking needs what the steps before it have made."""

    what: str
    look: Callable[[], Change | None]
    do: Callable[[], None]
    at_first: bool = True  # whether there is something to do where nothing is there yet
