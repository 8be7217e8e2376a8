"""Keys of whoever may ask, hashed at rest: a YAML file of names and the hashes of their keys.

A key is 32 random bytes, which nobody can guess or try out, so one fast hash hides it well enough; slow ones (argon2) are
for what people choose, and would cost each request a tenth of a second.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml

from penstock.errors import PenstockError
from penstock.storage import write_text

__all__ = ["Keys", "Purpose", "add", "known", "presented", "revoke"]

BYTES = 32
MOST_NAME = 200


@dataclass(frozen=True)
class Purpose:
    """What keys are for. One that is made for another purpose hashes differently.

    Attributes:
        holder: Who has a key, for people: "device".
        person: Of the hash; at most 16 bytes.
        command: What makes a key.
    """

    holder: str
    person: bytes
    command: str


def _hash(key: str, purpose: Purpose) -> str:
    content = key.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(content, digest_size=32, person=purpose.person).hexdigest()


def known(path: Path, purpose: Purpose) -> dict[str, list[str]]:
    """Holders, and the hashes of their keys.

    Raises:
        PenstockError: The file is not what ``add`` writes.
    """
    if not path.is_file():
        return {}
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        return {str(holder): [str(value) for value in values] for holder, values in found.items()}
    except (yaml.YAMLError, AttributeError, TypeError) as error:
        raise PenstockError(
            f"{path}: not a file of {purpose.holder}s' keys: {error}", hint=f"make it: {purpose.command}"
        ) from error


def add(path: Path, holder: str, purpose: Purpose) -> str:
    """A new key for someone, besides those that they have; it is shown once and kept nowhere.

    Raises:
        PenstockError: That is no name.
    """
    if not 0 < len(holder) <= MOST_NAME or not holder.isprintable():
        raise PenstockError(
            f"{holder!r} is no name of a {purpose.holder}", hint=f"1 to {MOST_NAME} characters, printable"
        )
    key = secrets.token_urlsafe(BYTES)
    holders = known(path, purpose)
    holders.setdefault(holder, []).append(_hash(key, purpose))
    _write(path, holders)
    return key


def revoke(path: Path, holder: str, purpose: Purpose) -> int:
    """Take all keys from someone; how many they had.

    Raises:
        PenstockError: There is nobody of that name.
    """
    holders = known(path, purpose)
    if holder not in holders:
        raise PenstockError(
            f"{path}: there is no {purpose.holder} {holder!r}",
            hint=f"there are: {', '.join(list(holders)[:12]) or 'none'}",
        )
    gone = holders.pop(holder)
    _write(path, holders)
    return len(gone)


def _write(path: Path, holders: dict[str, list[str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, yaml.safe_dump(holders, allow_unicode=True))
    path.chmod(0o600)


class Keys:
    """Whose key is it? Read again when the file has changed."""

    def __init__(self, path: Path, purpose: Purpose) -> None:
        self.path, self.purpose = path, purpose
        self._stamp: tuple[int, int] | None = None
        self._holders: dict[str, str] = {}

    def holder(self, key: str) -> str | None:
        """Whose a key is."""
        self._look()
        # By hash: to find one by timing would take finding one that hashes so.
        return self._holders.get(_hash(key, self.purpose))

    def whose(self, headers: Iterable[tuple[bytes, bytes]]) -> str | None:
        """Whose the key is that a request presents; None if it has none, or it is nobody's.

        Args:
            headers: Names in lower case, and values.
        """
        key = presented(headers)
        return None if key is None else self.holder(key)

    def _look(self) -> None:
        try:
            about = self.path.stat()
        except FileNotFoundError:
            self._stamp, self._holders = None, {}
            return
        stamp = (about.st_mtime_ns, about.st_ino)
        if stamp != self._stamp:
            found = known(self.path, self.purpose)
            self._holders = {value: holder for holder, values in found.items() for value in values}
            self._stamp = stamp


def presented(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The key that a request's headers have: bearer, X-Api-Key, or the password of HTTP basic; None if none.

    Args:
        headers: Names in lower case, and values.
    """
    for name, value in headers:
        if name == b"x-api-key":
            return value.decode("latin-1")
        if name == b"authorization":
            kind, _, rest = value.partition(b" ")
            if kind.lower() == b"bearer":
                return rest.strip().decode("latin-1")
            if kind.lower() == b"basic":
                try:
                    return base64.b64decode(rest, validate=True).partition(b":")[2].decode()
                except (binascii.Error, UnicodeDecodeError):
                    return None
    return None
