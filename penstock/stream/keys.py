"""Keys of devices, hashed at rest.

A key is 32 random bytes, which nobody can guess or try out, so one fast hash hides it well enough; slow ones (argon2) are
for what people choose, and would cost each push a tenth of a second.
"""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path

import yaml

from penstock.errors import PenstockError
from penstock.storage import write_text

__all__ = ["Keys", "add", "known", "revoke"]

BYTES = 32
MOST_NAME = 200


def _hash(key: str) -> str:
    return hashlib.blake2b(
        key.encode("utf-8", "surrogatepass"), digest_size=32, person=b"penstock-device"
    ).hexdigest()


def known(path: Path) -> dict[str, list[str]]:
    """Devices, and the hashes of their keys.

    Raises:
        PenstockError: The file is not what ``add`` writes.
    """
    if not path.is_file():
        return {}
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        return {str(device): [str(value) for value in values] for device, values in found.items()}
    except (yaml.YAMLError, AttributeError, TypeError) as error:
        raise PenstockError(
            f"{path}: not a file of devices' keys: {error}", hint="make it: penstock stream keys add DEVICE"
        ) from error


def add(path: Path, device: str) -> str:
    """A new key for a device, besides those that it has; it is shown once and kept nowhere.

    Raises:
        PenstockError: That is no name of a device.
    """
    if not 0 < len(device) <= MOST_NAME or not device.isprintable():
        raise PenstockError(
            f"{device!r} is no name of a device", hint=f"1 to {MOST_NAME} characters, printable"
        )
    key = secrets.token_urlsafe(BYTES)
    devices = known(path)
    devices.setdefault(device, []).append(_hash(key))
    _write(path, devices)
    return key


def revoke(path: Path, device: str) -> int:
    """Take all keys from a device; how many it had.

    Raises:
        PenstockError: There is no such device.
    """
    devices = known(path)
    if device not in devices:
        raise PenstockError(
            f"{path}: there is no device {device!r}",
            hint=f"there are: {', '.join(list(devices)[:12]) or 'none'}",
        )
    gone = devices.pop(device)
    _write(path, devices)
    return len(gone)


def _write(path: Path, devices: dict[str, list[str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, yaml.safe_dump(devices, allow_unicode=True))
    path.chmod(0o600)


class Keys:
    """Whose key is it? Read again when the file has changed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stamp: tuple[int, int] | None = None
        self._devices: dict[str, str] = {}

    def device(self, key: str) -> str | None:
        """The device that a key is of."""
        self._look()
        # By hash: to find one by timing would take finding one that hashes so.
        return self._devices.get(_hash(key))

    def _look(self) -> None:
        try:
            about = self.path.stat()
        except FileNotFoundError:
            self._stamp, self._devices = None, {}
            return
        stamp = (about.st_mtime_ns, about.st_ino)
        if stamp != self._stamp:
            self._devices = {value: device for device, values in known(self.path).items() for value in values}
            self._stamp = stamp
