"""`penstock forget USER`: a person's data out of everything that can be reached, and the truth about what cannot.

Who somebody is stands nowhere in the request log: rows are found by the same HMAC that wrote them. What came true is found by
the requests, the attributions of a rollout by requests and by the rollout's own hash. Files are written anew and renamed, so that
readers see the one or the other. Running it twice removes nothing more; after a kill it is run again.
"""

from __future__ import annotations

import asyncio
import fcntl
import gzip
import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
from pydantic import TypeAdapter

from penstock.config.rollout import Rollout, SqliteState
from penstock.config.serving.requests import FileLog, KafkaLog, RequestLog
from penstock.errors import PenstockError
from penstock.request_reading import SUFFIXES
from penstock.requests import Hashing
from penstock.storage import replacing

if TYPE_CHECKING:
    from penstock.config.serving.recommender import StoreView
    from penstock.config.streaming import Stream, StreamStore

__all__ = ["BACKUPS", "FORGOTTEN", "Forgotten", "Logs", "forget", "logs_of"]

FORGOTTEN = Path(
    ".penstock/forgotten.jsonl"
)  # whom, as a hash, and when: what is to be done again after a restore
BACKUPS = Path(".penstock/backups.jsonl")
BUSY = 30.0  # seconds that another writer may take


@dataclass
class Forgotten:
    """What was done.

    Attributes:
        removed: How much, by place.
        left: What cannot be reached from here: where, and until when it is there or what ends it.
    """

    removed: dict[str, int] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)

    def dump(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Logs:
    """Where requests are logged, and by which key users are hashed.

    Attributes:
        requests: Folders, each with the environment variable of its key.
        truths: Folders.
        topics: Logs that are topics of Kafka, in words.
        rollouts: That are declared.
    """

    requests: dict[Path, str]
    truths: tuple[Path, ...]
    topics: tuple[str, ...] = ()
    rollouts: tuple[Rollout, ...] = ()


def logs_of(root: Path) -> Logs:
    """What conf/rollout/ and conf/serve/ declare, and the folders that are used where nothing else is said.

    Raises:
        PenstockError: A file does not compose.
    """
    from penstock.rollout.declared import declared as rollout_declared

    views = [
        rollout_declared(path.stem, root=root) for path in sorted((root / "conf/rollout").glob("*.yaml"))
    ]
    requests, topics = {Path("data/requests"): "PENSTOCK_HASH_KEY"}, []
    truths = {Path("data/truths")}
    for log in [*(view.requests for view in views), *_of_predictors(root)]:
        if isinstance(log, FileLog):
            requests[Path(log.folder)] = log.hash_key
        elif isinstance(log, KafkaLog):
            topics.append(f"topic {log.topic} at {log.bootstrap}")
    truths |= {Path(view.truths) for view in views}
    return Logs(requests, tuple(sorted(truths)), tuple(topics), tuple(views))


def _of_predictors(root: Path) -> Iterator[RequestLog | None]:
    from penstock.composition import composed_file

    for path in sorted((root / "conf/serve").glob("*.yaml")):
        found = composed_file("serve", path.stem, [], root).get("requests")
        if found is not None:
            yield TypeAdapter(RequestLog).validate_python(found)


def forget(
    user: str | None,
    root: Path = Path(),
    *,
    logs: Logs | None = None,
    device: str | None = None,
    streams: Sequence[Stream] = (),
) -> Forgotten:
    """Remove a person, a device of theirs, or both.

    Args:
        user: As clients send it (X-User-Id), in the clear; None: a device alone.
        root: The repository.
        logs: Where to look; None: as declared.
        device: Whose readings go.
        streams: Where they are.

    Raises:
        PenstockError: There are logs and no key to find the person by, a file cannot be read, or a store is held by another process.
    """
    done = Forgotten()
    if user is not None:
        _person(user, root, logs or logs_of(root), done)
    if device is not None:
        for stream in streams:
            _device(device, stream, root, done)
    _elsewhere(root, done)
    _written_down(user, device, root, done)
    return done


def _person(user: str, root: Path, logs: Logs, done: Forgotten) -> None:
    """The request log goes last: it alone knows which requests were theirs, so whoever is stopped before can begin anew."""
    requests: set[str] = set()
    digests: dict[Path, str] = {}
    for folder, variable in logs.requests.items():
        paths = _files(root / folder)
        if not paths:
            continue
        key = os.environ.get(variable, "")
        if not key:
            raise PenstockError(
                f"{folder}: users are there as hashes, and {variable} is not set",
                hint=f"set {variable} to the key that the log was written with; without it nobody can be found",
            )
        digest = Hashing(key.encode())(user)
        assert digest is not None
        digests[folder] = digest
        for path in paths:
            requests |= set(_theirs(_read(path), digest)["request"].to_list())
    for folder in logs.truths:
        paths = _files(root / folder)
        if paths:
            done.removed[folder.as_posix()] = sum(_of_truths(path, requests) for path in paths)
    for view in logs.rollouts:
        _of_rollout(user, requests, view, root, done)
    for topic in logs.topics:
        done.left[topic] = (
            "until the topic's retention (retention.ms) has passed; a log cannot be changed in the middle"
        )
    _of_recommender(user, root, done)
    for folder, digest in digests.items():
        done.removed[folder.as_posix()] = sum(_of_log(path, digest) for path in _files(root / folder))


# --- files of the log -------------------------------------------------------------------------------


def _files(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.glob("*/hour=*/*")
        if path.name.endswith(SUFFIXES) and not path.name.startswith(".")
    )


def _is_theirs(frame: pl.DataFrame, digest: str) -> pl.Expr:
    theirs = pl.col("user").cast(pl.String) == digest if "user" in frame.columns else pl.lit(value=False)
    if isinstance(frame.schema.get("inputs"), pl.Struct):
        # Columns with personal data are hashed by the same key: a customer's number is a name, too.
        texts = [f.name for f in frame.schema["inputs"].fields if f.dtype == pl.String]  # type: ignore[attr-defined]
        for name in texts:
            theirs |= (pl.col("inputs").struct.field(name) == digest).fill_null(value=False)
    return theirs.fill_null(value=False)


def _theirs(frame: pl.DataFrame, digest: str) -> pl.DataFrame:
    return frame.filter(_is_theirs(frame, digest))


def _of_log(path: Path, digest: str) -> int:
    """Rows removed."""
    frame = _read(path)
    kept = frame.filter(~_is_theirs(frame, digest))
    if kept.height < frame.height:
        _replace(path, kept)
    return frame.height - kept.height


def _of_truths(path: Path, requests: set[str]) -> int:
    if not requests:
        return 0
    frame = _read(path)
    kept = frame.filter(~pl.col("request").is_in(list(requests)))
    if kept.height < frame.height:
        _replace(path, kept)
    return frame.height - kept.height


def _read(path: Path) -> pl.DataFrame:
    try:
        if path.name.endswith(".parquet"):
            return pl.read_parquet(path, hive_partitioning=False)
        return pl.read_ndjson(gzip.decompress(path.read_bytes()), infer_schema_length=None)
    except (pl.exceptions.PolarsError, OSError, EOFError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise PenstockError(
            f"{path}: cannot be read ({reason})",
            hint="whose rows it holds is not known: mend it, or remove it",
        ) from error


def _replace(path: Path, frame: pl.DataFrame) -> None:
    """The same file without some rows; no file at all without any."""
    if not frame.height:
        path.unlink()
        return
    with replacing(path) as temporary:
        if path.name.endswith(".parquet"):
            frame.write_parquet(temporary, compression="zstd")
        else:
            temporary.write_bytes(gzip.compress(frame.write_ndjson().encode(), compresslevel=1, mtime=0))


# --- state ------------------------------------------------------------------------------------------


@contextmanager
def _sqlite(path: Path) -> Iterator[sqlite3.Connection]:
    """A transaction whose deletions are overwritten, in the log before the file, too."""
    try:
        with closing(sqlite3.connect(path, timeout=BUSY, isolation_level=None)) as connection:
            connection.execute("PRAGMA secure_delete = ON")
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    except sqlite3.Error as error:
        raise PenstockError(f"{path}: {error}", hint="is another process holding it? Try again") from error


def _of_rollout(user: str, requests: set[str], view: Rollout, root: Path, done: Forgotten) -> None:
    key = hashlib.blake2b(view.salt.encode(), digest_size=32).digest()  # as the router has it
    unit = hashlib.blake2b(user.encode("utf-8", "surrogateescape"), digest_size=16, key=key).hexdigest()
    if not isinstance(view.state, SqliteState):
        _of_redis(unit, requests, view, done)
        return
    path = root / view.state.path
    if not path.is_file():
        return
    with _sqlite(path) as connection:
        connection.execute("CREATE TEMP TABLE theirs (request TEXT PRIMARY KEY) WITHOUT ROWID")
        connection.executemany("INSERT INTO theirs VALUES (?)", [(request,) for request in sorted(requests)])
        connection.execute(
            "INSERT OR IGNORE INTO theirs SELECT request FROM attributions "
            "WHERE model = ? AND json_extract(body, '$[2]') = ?",
            (view.model, unit),
        )
        gone = 0
        for table in ("attributions", "settled"):
            statement = f"DELETE FROM {table} WHERE model = ? AND request IN (SELECT request FROM theirs)"
            gone += connection.execute(statement, (view.model,)).rowcount
        gone += connection.execute(
            "DELETE FROM users WHERE model = ? AND unit = ?", (view.model, unit)
        ).rowcount
    place = view.state.path
    done.removed[place] = done.removed.get(place, 0) + gone


def _of_redis(unit: str, requests: set[str], view: Rollout, done: Forgotten) -> None:
    from penstock.rollout.state import StateError
    from penstock.rollout.state_redis import RedisStore

    place = f"rollout {view.model} in Redis"
    try:
        with closing(RedisStore(view)) as store:
            done.removed[place] = store.forget(unit, requests)
    except StateError as error:
        raise PenstockError(
            f"{place}: {error}", hint="whoever is there is not forgotten: start it, and forget them again"
        ) from error


def _recommender_stores(root: Path) -> Iterator[StoreView]:
    """As conf/recommend/ has them, defaults filled in; without any, the one that is there by default."""
    from penstock.composition import composed_file
    from penstock.config.serving.recommender import StoreView

    adapter: TypeAdapter[StoreView] = TypeAdapter(StoreView)
    found = [
        composed_file("recommend", path.stem, [], root).get("store")
        for path in sorted((root / "conf/recommend").glob("*.yaml"))
    ]
    for store in found or [None]:
        yield adapter.validate_python(store or {"kind": "sqlite"})


def _of_recommender(user: str, root: Path, done: Forgotten) -> None:
    for store in _recommender_stores(root):
        if store.kind == "redis":
            done.removed["recommender in Redis"] = asyncio.run(_of_interactions(user, store))
            continue
        path = root / store.path
        if not path.is_file():
            continue
        # Its processes take turns to write by a lock beside the file.
        with path.with_name(f"{path.name}-turn").open("a") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)
            with _sqlite(path) as connection:
                done.removed[store.path] = sum(
                    connection.execute(f"DELETE FROM {table} WHERE user = ?", (user,)).rowcount
                    for table in ("interactions", "impressions")
                )


async def _of_interactions(user: str, view: StoreView) -> int:
    from penstock.serving.recommender.store import StoreDownError, open_store

    try:
        store = await open_store(view)
        try:
            return await store.forget(user)
        finally:
            await store.close()
    except StoreDownError as error:
        raise PenstockError(
            f"recommender in {view.kind}: {error}",
            hint="whoever is there is not forgotten: start it, and forget them again",
        ) from error


# --- readings of a device ---------------------------------------------------------------------------


def _device(device: str, stream: Stream, root: Path, done: Forgotten) -> None:
    from penstock.stream.lake import forget as forget_in_lake

    store = stream.store
    there = True
    if store.kind == "duckdb":
        store = store.model_copy(update={"path": str(root / store.path)})
        there = Path(store.path).is_file()
    if there:
        done.removed[f"store {store.kind}"] = asyncio.run(_of_store(device, store))
    lake = stream.lake
    if lake is not None and "://" in lake.path:
        done.left[f"lake {lake.path}"] = (
            "until its rows are removed where it is mounted, with no indexer running"
        )
    elif lake is not None and (root / lake.path).is_dir():
        local = lake.model_copy(update={"path": str(root / lake.path)})
        done.removed[lake.path] = forget_in_lake(local, device)
    for topic in (stream.log.readings, stream.log.dead):
        done.left[f"{stream.log.kind}: {topic.name}"] = (
            f"each record until {topic.retention} after it came; from there, an index built anew would have it again"
        )


async def _of_store(device: str, view: StreamStore) -> int:
    from penstock.stream.store import open_store

    async with open_store(view) as store:
        return await store.forget(device)


# --- what is out of reach ---------------------------------------------------------------------------


def _elsewhere(root: Path, done: Forgotten) -> None:
    done.left["programs that run"] = (
        "what they hold is written within a minute, or what `every` says: then once more"
    )
    done.left["models, and DVC's cache and remotes"] = (
        "a data set or a model that had rows of this person keeps them until `dvc gc` with a history without it"
    )
    for line in _lines(root / BACKUPS):
        done.left[f"backup {line['path']}"] = f"until {line['until']}; to be forgotten again after a restore"


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def _written_down(user: str | None, device: str | None, root: Path, done: Forgotten) -> None:
    """That it was done, in a way that tells nobody of whom."""
    key = os.environ.get("PENSTOCK_HASH_KEY", "")
    hashing = Hashing(key.encode() if key else None)
    line = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "user": hashing(user),
        "device": hashing(device),
        "removed": done.removed,
    }
    path = root / FORGOTTEN
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
        file.flush()
        os.fsync(file.fileno())
