"""The one exception for what a user can mend, as opposed to a defect of the program."""

from __future__ import annotations

__all__ = ["PenstockError"]


class PenstockError(Exception):
    """Something the user can mend: a misspelt key, a missing file, a row that does not fit.

    Raised with a message that names the file, the key or the row, what was expected, and what to do.
    The command line and the stages print that message without a traceback and exit with 2.

    Args:
        message: What is wrong and where, in one sentence.
        hint: What to do about it.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  → {self.hint}" if self.hint else self.message
