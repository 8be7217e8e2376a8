"""State saved while everything runs, and put back: rollouts, incidents, monitors' history, recommendations, keys, flags, conf/.

SQLite files are copied by SQLite's own backup, as of one moment each; logs of lines up to their last whole line. A backup has a
manifest with the SHA-256 of every file, is written under another name and renamed, so that what is called a backup is a whole one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path, PurePosixPath

from pydantic import ValidationError

from penstock.config.base import View
from penstock.errors import PenstockError

__all__ = ["MANIFEST", "Manifest", "Saved", "backup", "restore"]

MANIFEST = "backup.json"
# Folders whose files are state. Logs of requests, the lake and models have ways of their own: retention, and DVC.
STATE = (
    "data/rollout",
    "data/recommender",
    ".penstock/monitor",
    ".penstock/maintenance",
    ".penstock/champions",
    "conf",
)
# Of these the later one counts, also after a restore.
LEDGERS = (".penstock/forgotten.jsonl", ".penstock/backups.jsonl")
KEPT_ELSEWHERE = "conf/secrets.yaml"
SQLITE = b"SQLite format 3\0"
BUSY = 30.0
BLOCK = 1 << 20


class Saved(View):
    """A file of a backup."""

    path: str  # below the repository
    sha256: str
    bytes: int
    mode: int  # rights, as of chmod


class Manifest(View):
    """What a backup says of itself."""

    format: int = 1
    created: datetime
    until: datetime  # it is kept; what `penstock forget` tells
    files: tuple[Saved, ...]
    left_out: tuple[str, ...]


def backup(root: Path, target: Path, now: datetime, keep: timedelta) -> Manifest:
    """Save state. Whatever runs goes on.

    Args:
        root: The repository.
        target: A folder that is not there yet.
        now: The time, UTC.
        keep: How long the backup is kept: whoever asks to be forgotten is told.

    Raises:
        PenstockError: The folder is there, nothing is to be saved, or a file cannot be read or written.
    """
    if target.exists():
        raise PenstockError(f"{target}: is there", hint="a backup is a folder of its own: name another")
    paths = list(_state(root))
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
        made = Path(folder) / "backup"
        made.mkdir(mode=0o700)  # it has personal data, and hashes of keys
        try:
            saved = [_saved(root, path, made) for path in paths]
        except (OSError, sqlite3.Error) as error:
            raise PenstockError(f"backup: {error}", hint="is there room, and may it be read?") from error
        left = (
            (f"{KEPT_ELSEWHERE}: secrets are kept where secrets are kept",)
            if (root / KEPT_ELSEWHERE).is_file()
            else ()
        )
        manifest = Manifest(created=now, until=now + keep, files=tuple(saved), left_out=left)
        _write(made / MANIFEST, manifest.model_dump_json(indent=2).encode())
        made.rename(target)
    _ledger(root, {"path": str(target.resolve()), "at": now.isoformat(), "until": f"{now + keep:%Y-%m-%d}"})
    return manifest


def _state(root: Path) -> Iterator[str]:
    for name in STATE:
        for path in sorted((root / name).rglob("*")):
            relative = path.relative_to(root).as_posix()
            if path.is_file() and not path.is_symlink() and not _passing(path) and relative != KEPT_ELSEWHERE:
                yield relative
    yield from (name for name in LEDGERS if (root / name).is_file())


def _passing(path: Path) -> bool:
    """What belongs to a process that runs, or to a file that is being written."""
    return (
        path.name.endswith(("-wal", "-shm", "-journal", "-turn", ".tmp"))
        or path.name == "lock"
        or (path.name.startswith(".") and path.name != ".gitignore")
        or "__pycache__" in path.parts
    )


def _saved(root: Path, relative: str, made: Path) -> Saved:
    source, copy = root / relative, made / relative
    copy.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as file:
        is_sqlite = file.read(len(SQLITE)) == SQLITE
    if is_sqlite:
        _copy_sqlite(source, copy)
    elif source.suffix == ".jsonl":
        content = source.read_bytes()
        _write(copy, content[: content.rfind(b"\n") + 1])
    else:
        _write(copy, source.read_bytes())
    return Saved(
        path=relative, sha256=_digest(copy), bytes=copy.stat().st_size, mode=source.stat().st_mode & 0o777
    )


def _copy_sqlite(source: Path, copy: Path) -> None:
    with (
        closing(sqlite3.connect(f"{source.resolve().as_uri()}?mode=ro", uri=True, timeout=BUSY)) as old,
        closing(sqlite3.connect(copy)) as new,
    ):
        # All pages in one read transaction: page by page, a writer that never rests would have it begin again and again.
        old.backup(new, pages=-1)
        new.execute("PRAGMA journal_mode = DELETE")  # one file, nothing beside it
        problem = new.execute("PRAGMA integrity_check").fetchone()[0]
    if problem != "ok":
        raise PenstockError(f"{source}: is damaged ({problem})", hint="restore it from an earlier backup")


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _ledger(root: Path, line: dict[str, str]) -> None:
    path = root / LEDGERS[1]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def restore(root: Path, source: Path, *, force: bool = False) -> tuple[Manifest, list[str]]:
    """Put a backup back. Nothing is touched before every file of it has been verified and copied beside its place.

    Args:
        root: The repository; nothing of it may be running.
        source: The backup.
        force: Replace what is there and differs.

    Returns:
        Its manifest, and when people have been forgotten since it was made: they are to be forgotten again.

    Raises:
        PenstockError: It is no backup, is not what its manifest says, or would replace something.
    """
    manifest = _verified(source)
    todo = [one for one in manifest.files if not _same(root / one.path, one)]
    todo = [one for one in todo if one.path not in LEDGERS or not (root / one.path).exists()]
    there = [one.path for one in todo if (root / one.path).exists()]
    if there and not force:
        raise PenstockError(
            f"{there[0]} is there and differs{f', and {len(there) - 1} more' if len(there) > 1 else ''}",
            hint="restore into a fresh clone; or, with nothing running, replace what is there: --force",
        )
    _put(root, source, todo)
    return manifest, _forgotten_since(root, manifest.created)


def _verified(source: Path) -> Manifest:
    try:
        manifest = Manifest.model_validate_json((source / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValidationError, ValueError) as error:
        raise PenstockError(
            f"{source}: is no backup ({MANIFEST}: {str(error).splitlines()[0]})",
            hint="name the folder of one",
        ) from error
    for one in manifest.files:
        path = PurePosixPath(one.path)
        inside = any(one.path == name or one.path.startswith(f"{name}/") for name in (*STATE, *LEDGERS))
        if path.is_absolute() or ".." in path.parts or not inside:
            raise PenstockError(f"{source}: {one.path} is no state", hint="somebody else has written this")
        copy = source / one.path
        if not copy.is_file() or copy.is_symlink():
            raise PenstockError(
                f"{source}: {one.path} is missing", hint="take another backup; nothing was changed"
            )
        if _digest(copy) != one.sha256:
            raise PenstockError(
                f"{source}: {one.path} is not what was saved", hint="take another backup; nothing was changed"
            )
    return manifest


def _same(path: Path, one: Saved) -> bool:
    return path.is_file() and path.stat().st_size == one.bytes and _digest(path) == one.sha256


def _put(root: Path, source: Path, files: Sequence[Saved]) -> None:
    beside = {one.path: (root / one.path).with_name(f".{Path(one.path).name}.restored.tmp") for one in files}
    try:
        for one in files:
            new = beside[one.path]
            new.parent.mkdir(parents=True, exist_ok=True)
            with (source / one.path).open("rb") as old, new.open("wb") as file:
                shutil.copyfileobj(old, file, BLOCK)
                file.flush()
                os.fsync(file.fileno())
            if _digest(new) != one.sha256:
                raise PenstockError(f"{new}: was not written as it was read", hint="look at the disk")
            new.chmod(one.mode)
        for one in files:
            target = root / one.path
            # What waits beside a database belongs to the one that goes, and would be played into the one that comes.
            for suffix in ("-wal", "-shm", "-journal"):
                target.with_name(target.name + suffix).unlink(missing_ok=True)
            beside[one.path].replace(target)
    finally:
        for new in beside.values():
            new.unlink(missing_ok=True)


def _forgotten_since(root: Path, created: datetime) -> list[str]:
    path = root / LEDGERS[0]
    if not path.is_file():
        return []
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
    return [line["at"] for line in lines if datetime.fromisoformat(line["at"]) > created]
