"""Why a request is not answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Fault", "Refusal"]

MOST = 100  # faults that one answer tells of


@dataclass(frozen=True, slots=True)
class Fault:
    """A value that does not fit.

    Attributes:
        row: Of the request, from 0.
        column: Its name.
        message: What was expected, and what was found.
    """

    row: int
    column: str
    message: str


class Refusal(Exception):  # noqa: N818  (it is an answer)
    """A request is answered with an error.

    Attributes:
        status: Of HTTP.
        reason: One stable word, for metrics and the request log.
        error: In words.
        faults: The values that do not fit.
        after: Seconds after which it is worth another try.
    """

    def __init__(
        self,
        status: int,
        reason: str,
        error: str,
        faults: Sequence[Fault] = (),
        after: int | None = None,
    ) -> None:
        super().__init__(error)
        self.status, self.reason, self.error, self.faults, self.after = status, reason, error, faults, after

    @classmethod
    def of_faults(cls, faults: Sequence[Fault]) -> Refusal:
        """Values break the contract."""
        first = faults[0]
        more = f", and {len(faults) - 1} more" if len(faults) > 1 else ""
        return cls(422, "contract", f"row {first.row}: {first.column}: {first.message}{more}", faults)

    def content(self) -> dict[str, Any]:
        """As it is sent: ``error``, and ``errors`` where single values are wrong."""
        told: dict[str, Any] = {"error": self.error}
        if self.faults:
            told["errors"] = [
                {"row": fault.row, "column": fault.column, "message": fault.message}
                for fault in self.faults[:MOST]
            ]
        return told
