"""What of a stream is read and not yet used, and by what a stream is known again that has grown since."""

from __future__ import annotations

import hashlib

from penstock.errors import PenstockError
from penstock.sources.streamed_pieces import Progress
from penstock.sources.streamed_places import Stream

__all__ = ["Buffer"]

HEAD = 1024  # bytes at the beginning, and before the place where reading stopped, that must be as they were
LAST = 256
NEAR = 1 << 16  # bytes that are read rather than jumped over


class Buffer:
    """Bytes of a stream, taken from the front.

    Attributes:
        content: What is read and not yet used.
        offset: Of its first byte.
        ended: Whether nothing follows it.
    """

    def __init__(self, stream: Stream, name: str) -> None:
        self.name = name
        self.content = b""
        self.offset = 0
        self.ended = False
        self._stream = stream
        self._head = b""
        self._last = b""

    def fill(self, size: int) -> None:
        """Have ``size`` bytes, or all that are left."""
        missing = size - len(self.content)
        if missing <= 0 or self.ended:
            return
        parts = [self.content]
        while missing > 0 and not self.ended:
            part = self._stream.read(missing)
            self.ended = not part
            parts.append(part)
            missing -= len(part)
        self.content = b"".join(parts)

    def use(self, size: int) -> None:
        """Be done with the first bytes."""
        used = self.content[max(0, size - LAST) : size]
        self._last = (self._last + used)[-LAST:]
        if self.offset < HEAD:
            self._head += self.content[: min(size, HEAD - self.offset)]
        self.content = self.content[size:]
        self.offset += size

    @property
    def at_end(self) -> bool:
        """Whether all is used."""
        return self.ended and not self.content

    @property
    def digest(self) -> str:
        """Of the beginning, and of what is just before this place."""
        return hashlib.sha256(self._head + b"|" + self._last).hexdigest()[:16]

    def resume(self, start: Progress) -> None:
        """Go on where an earlier read stopped.

        Raises:
            PenstockError: What lies before is not what it was.
        """
        at = start.place
        if not at:
            return
        if at - self.offset > NEAR:
            self.fill(HEAD)
            self.use(max(0, HEAD - self.offset))
            self._go_to(at - LAST)
            self._last = b""
        self.fill(at - self.offset)
        self.use(min(at - self.offset, len(self.content)))
        if self.offset != at or self.digest != start.digest:
            raise PenstockError(
                f"{self.name}: has changed since it was loaded, and not by rows added at its end",
                hint="put new rows into a file of their own; or load it anew with --full",
            )

    def _go_to(self, offset: int) -> None:
        if self.offset <= offset <= self.offset + len(self.content):
            self.content, self.offset = self.content[offset - self.offset :], offset
            return
        self._stream.go_to(offset)
        self.content, self.offset, self.ended = b"", offset, False
