"""Pictures that keep the contract go into one Parquet file; those that do not, to quarantine with their reason.

Pictures are decoded once, on all cores, to see that they can be; what is stored are their bytes, or a JPEG of
them scaled down where they are larger than any use of them.
"""

from __future__ import annotations

import difflib
import hashlib
import io
import json
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import polars as pl
from PIL import Image

from penstock import contract as contracts
from penstock.config import PictureContract
from penstock.console import progress
from penstock.errors import PenstockError
from penstock.pictures import PictureError, Pixels, decode, difference_hash, scaled
from penstock.reproducible import available_cores
from penstock.sources.pictures import Found, Stream
from penstock.storage import replacing, write_parquet

__all__ = ["RAW_COLUMNS", "Ingested", "ingest"]

RAW_COLUMNS = ("picture", "label", "source", "position", "width", "height", "hash")
GROUP_ROWS = 1_000
GROUP_BYTES = 1 << 26  # large photographs, as they came, make smaller row groups
QUALITY = 95  # of a JPEG that is stored in place of a larger picture
FEWEST = 4  # pictures of a class that can be split into training, validation and hold-out


@dataclass(frozen=True)
class Ingested:
    """What became of a source.

    Attributes:
        classes: Pictures of each class that are good, by name.
        rescaled: How many of them are stored smaller than they came.
        quarantined: Pictures that are not good.
        share: Their share of all.
        reasons: How many there are for each reason.
    """

    classes: dict[str, int]
    rescaled: int
    quarantined: int
    share: float
    reasons: dict[str, int]


@dataclass(frozen=True)
class _Good:
    row: dict[str, Any]  # of RAW_COLUMNS
    digest: bytes  # of the bytes as they came
    rescaled: bool


def ingest(
    stream: Stream, contract: PictureContract, *, raw: Path, quarantine: Path, what: str = "pictures"
) -> Ingested:
    """Check and store all pictures of a source, with as many in memory as a row group holds.

    The quarantine is written before any failure: the pictures that cause it must be there to look at.

    Args:
        stream: The pictures, in order.
        contract: What they must be.
        raw: Where the good ones go, as ``RAW_COLUMNS``.
        quarantine: Where the others are listed, as ``contract.QUARANTINE_SCHEMA``.
        what: To be called by in progress.

    Raises:
        PenstockError: There is no picture; too many are in quarantine; there are fewer than two classes, or
            fewer than four pictures of one.
    """
    ledger = _Ledger(contract)
    with replacing(raw) as temporary:
        with _RawWriter(temporary) as writer, progress(what, stream.total) as advance:
            for found, result in _checked(stream.found, contract):
                if ledger.enter(found, result):
                    assert isinstance(result, _Good)
                    writer.write(result.row)
                advance(1)
        withdrawn = ledger.settle()
        bad = ledger.bad
        good = ledger.good
        write_parquet(quarantine, bad)
        if not good and bad.is_empty():
            raise PenstockError("there is no picture in the source")
        share = contracts.limit_quarantine(
            bad,
            ledger.reasons,
            rows=len(good) + bad.height,
            allowed=contract.max_quarantine_share,
            file=quarantine,
        )
        _require_classes(ledger.classes, contract)
        if withdrawn:
            _without(temporary, withdrawn)
    return Ingested(
        classes=ledger.classes,
        rescaled=sum(entry.rescaled for entry in good),
        quarantined=bad.height,
        share=share,
        reasons=ledger.reasons,
    )


# --- one picture ------------------------------------------------------------------------------------


def _checked(
    found: Iterator[Found], contract: PictureContract
) -> Iterator[tuple[Found, _Good | PictureError]]:
    """What each picture is, in order, a few of them decoded ahead on the cores there are."""
    workers = available_cores()

    def check(item: Found) -> _Good | PictureError:
        try:
            return _check(item, contract)
        except PictureError as error:
            return error

    # Pillow decodes and scales outside the interpreter's lock: threads are enough.
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[tuple[Found, Future[_Good | PictureError]]] = deque()
        try:
            for item in found:
                waiting.append((item, pool.submit(check, item)))
                if len(waiting) > 2 * workers:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            for _, future in waiting:
                future.cancel()


def _check(found: Found, contract: PictureContract) -> _Good:
    content, label = found.content, found.label
    if isinstance(content, PictureError):
        raise content
    if label is None:
        raise PictureError("no_label", "belongs to no class")
    if contract.classes is not None and label not in contract.classes:
        near = difflib.get_close_matches(label, contract.classes, n=1)
        raise PictureError(
            "unknown_class", f"contract.classes has no {label!r}" + (f", but {near[0]!r}" if near else "")
        )
    side = contract.stored_side
    # Twice the stored side: a JPEG decoded at a fraction of its size is coarse, and is scaled down once more.
    pixels = decode(content, contract, side=None if side is None else 2 * side)
    digest = hashlib.sha256(content).digest()
    rescaled = side is not None and min(pixels.shape[:2]) > side
    if side is not None and rescaled:
        pixels = scaled(pixels, side)
        content = _jpeg(pixels)
    row = {
        "picture": content,
        "label": label,
        "source": found.source,
        "position": found.position,
        "width": pixels.shape[1],
        "height": pixels.shape[0],
        "hash": difference_hash(pixels),
    }
    return _Good(row, digest, rescaled)


def _jpeg(pixels: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


# --- all pictures -----------------------------------------------------------------------------------


@dataclass
class _Entry:
    """What is kept of a picture that has been seen, whatever became of it."""

    label: str | None
    source: str
    position: int
    size: int | None  # of the file, in bytes
    digest: bytes | None = None
    rescaled: bool = False
    row: int | None = None  # of the file that was written
    reason: str | None = None  # why it is in quarantine
    detail: str = ""


class _Ledger:
    """All pictures seen, without their content: enough to tell repetitions and contradictions."""

    def __init__(self, contract: PictureContract) -> None:
        self._contract = contract
        self._entries: list[_Entry] = []
        self._first: dict[bytes, _Entry] = {}  # by digest
        self._conflicts: dict[bytes, set[str]] = {}  # digest → labels
        self._written = 0

    def enter(self, found: Found, result: _Good | PictureError) -> bool:
        """Take note of a picture. Returns: whether it is to be written."""
        size = len(found.content) if isinstance(found.content, bytes) else None
        entry = _Entry(found.label, found.source, found.position, size)
        self._entries.append(entry)
        if isinstance(result, PictureError):
            entry.reason, entry.detail = result.reason, result.detail
            return False
        entry.digest, entry.rescaled = result.digest, result.rescaled
        first = self._first.setdefault(result.digest, entry)
        if first is not entry and self._contract.duplicates == "quarantine":
            entry.reason = "duplicate"
            entry.detail = f"the same bytes as number {first.position}, {first.source}"
            if entry.label != first.label:
                labels = self._conflicts.setdefault(result.digest, {str(first.label)})
                labels.add(str(entry.label))
            return False
        entry.row = self._written
        self._written += 1
        return True

    def settle(self) -> set[int]:
        """Withdraw what is there under several labels. Returns: the rows that should not have been written."""
        withdrawn = set()
        for entry in self._entries:
            labels = None if entry.digest is None else self._conflicts.get(entry.digest)
            if labels is not None:
                entry.reason = "conflicting_labels"
                entry.detail = f"the same bytes are labelled {', '.join(sorted(labels))}"
                withdrawn |= set() if entry.row is None else {entry.row}
                entry.row = None
        return withdrawn

    @property
    def good(self) -> list[_Entry]:
        return [entry for entry in self._entries if entry.reason is None]

    @property
    def bad(self) -> pl.DataFrame:
        """As ``contract.QUARANTINE_SCHEMA``."""
        rows = [
            (
                entry.source,
                entry.position,
                f"{entry.reason}: {entry.detail}",
                json.dumps({"label": entry.label, "bytes": entry.size}, ensure_ascii=False),
            )
            for entry in self._entries
            if entry.reason is not None
        ]
        return pl.DataFrame(rows, schema=contracts.QUARANTINE_SCHEMA, orient="row")

    @property
    def reasons(self) -> dict[str, int]:
        counts = Counter(entry.reason for entry in self._entries if entry.reason is not None)
        return dict(sorted(counts.items()))

    @property
    def classes(self) -> dict[str, int]:
        return dict(sorted(Counter(str(entry.label) for entry in self.good).items()))


def _require_classes(classes: dict[str, int], contract: PictureContract) -> None:
    counts = dict.fromkeys(contract.classes or (), 0) | classes
    few = {label: count for label, count in sorted(counts.items()) if count < FEWEST}
    if few:
        raise PenstockError(
            f"classes of fewer than {FEWEST} good pictures: "
            + ", ".join(f"{label} ({count})" for label, count in few.items()),
            hint="training, validation and hold-out each need one: gather more, or leave the class out of the "
            "source and of contract.classes",
        )
    if len(counts) < 2:
        raise PenstockError(
            f"all pictures are of one class: {next(iter(counts))}",
            hint="a classifier needs pictures of at least two; check the source's labels",
        )


# --- the file ---------------------------------------------------------------------------------------


class _RawWriter:
    """Rows into row groups of a Parquet file that are bounded in number and in bytes."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        kinds = (pa.binary(), pa.string(), pa.string(), pa.int64(), pa.int32(), pa.int32(), pa.uint64())
        self._schema = pa.schema(list(zip(RAW_COLUMNS, kinds, strict=True)))
        # Smallest and largest of the pictures' bytes would be two whole pictures for each row group.
        self._writer = pq.ParquetWriter(
            path,
            self._schema,
            compression="zstd",
            use_dictionary=["label", "source"],
            write_statistics=["label", "source", "position", "width", "height", "hash"],
        )
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._flush()
        self._writer.close()

    def write(self, row: dict[str, Any]) -> None:
        self._rows.append(row)
        self._bytes += len(row["picture"])
        if len(self._rows) == GROUP_ROWS or self._bytes >= GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows, self._bytes = [], 0


def _without(path: Path, rows: set[int]) -> None:
    """Take rows out of a file that was written, one row group in memory at a time."""
    import pyarrow.parquet as pq

    at = 0
    with replacing(path) as kept, pq.ParquetFile(path) as file, _RawWriter(kept) as writer:
        for group in range(file.num_row_groups):
            for row in file.read_row_group(group).to_pylist():
                if at not in rows:
                    writer.write(row)
                at += 1
