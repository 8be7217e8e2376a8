"""Keys of devices."""

from __future__ import annotations

from pathlib import Path

from penstock import keys
from penstock.keys import Purpose

__all__ = ["DEVICE", "Keys", "add", "known", "revoke"]

DEVICE = Purpose("device", b"penstock-device", "penstock stream keys add DEVICE")


def known(path: Path) -> dict[str, list[str]]:
    """Devices, and the hashes of their keys.

    Raises:
        PenstockError: The file is not what ``add`` writes.
    """
    return keys.known(path, DEVICE)


def add(path: Path, device: str) -> str:
    """A new key for a device, besides those that it has; it is shown once and kept nowhere.

    Raises:
        PenstockError: That is no name of a device.
    """
    return keys.add(path, device, DEVICE)


def revoke(path: Path, device: str) -> int:
    """Take all keys from a device; how many it had.

    Raises:
        PenstockError: There is no such device.
    """
    return keys.revoke(path, device, DEVICE)


class Keys(keys.Keys):
    """Whose key is it? Read again when the file has changed."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, DEVICE)

    def device(self, key: str) -> str | None:
        """The device that a key is of."""
        return self.holder(key)
