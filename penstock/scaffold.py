"""A data set's YAML from a user's own file: a first draft, to be read through and mended by a person."""

from __future__ import annotations

import glob
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from penstock.config import Column, Contract, FileSource
from penstock.contract import complete, require_target, typed
from penstock.errors import PenstockError
from penstock.sources.files import format_of, read_files

__all__ = ["infer", "infer_interactions", "infer_pictures"]

# Of a class; below it all but the top of the network is better left alone.
FEW_PICTURES = 50
LINEAGE = ("_source", "_position", "_load")  # what a load notes about each row
NAME = re.compile(r"[a-z][a-z0-9_]*")
SEPARATORS = (",", ";", "\t", "|")
# What people write where they have no value.
MISSING = ("NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None", "none", "?", "-", ".", "#N/A")
TARGETS = ("target", "label", "class", "y", "outcome", "churn", "default", "price")
POSITIVES = ("1", "true", "yes", "y", "t", "positive", "pos")
ID_WORDS = {"id", "ids", "key", "uuid", "guid", "rowid", "index", "rownames", "nr", "no"}
LISTED_VALUES = 30
CLASSES = 20  # an integer target of more values is a number
IDS_FROM = 20  # rows; fewer are all different by chance


@dataclass(frozen=True)
class _Task:
    kind: str
    target: str
    guessed: bool
    positive: bool | int | float | str | None
    ids: tuple[str, ...]


def infer(path: Path, name: str, target: str | None = None, positive: str | None = None) -> str:
    """Look into a file, or all that a glob matches, and write the YAML of a data set.

    Args:
        path: Relative to the root of the repository; CSV, Parquet or JSON lines.
        name: Of the data set: small letters, digits and underscores.
        target: The column to predict. Without one it is guessed, and the text says so.
        positive: Of two classes, the one whose probability is the score, in any type's text. Without one it
            is the class that says yes, or else the rarer one.

    Returns:
        The text of conf/dataset/<name>.yaml.

    Raises:
        PenstockError: The name will not do, the file is not readable, there is no such target or one that
            cannot be predicted, or it has no such class.
    """
    _check_name(name)
    source, frame = _read(path)
    columns = complete(Contract(), frame, source=str(path))
    task = _task(frame, columns, target, positive)
    described = {
        column: _column(frame[column], resolved, is_id=column in task.ids, is_target=column == task.target)
        for column, resolved in columns.items()
    }
    return _text(name, path, source, task, described)


def infer_interactions(path: Path, name: str, *, user: str, item: str, time: str) -> str:
    """Look into a file of interactions and write the YAML of a set of them.

    Columns called rating, title, genres and year are taken for what their name says.

    Args:
        path: Relative to the root of the repository; CSV, Parquet or JSON lines.
        name: Of the data set.
        user: The column that says who.
        item: The column that says what.
        time: The column that says when.

    Raises:
        PenstockError: The name will not do, the file is not readable, or there is no such column.
    """
    from penstock.config import InteractionTask
    from penstock.recommend.ingestion import contract_of

    _check_name(name)
    source, frame = _read(path)
    known: dict[str, str] = {
        role: role for role in ("rating", "title", "genres", "year") if role in frame.columns
    }
    roles: dict[str, str] = {"user": user, "item": item, "time": time, **known}
    task = InteractionTask.model_validate({"kind": "interactions", **roles})
    columns = contract_of(Contract(), task, frame).columns
    lines = [f"  {role}: {json.dumps(column)}" for role, column in roles.items()]
    if columns[time].type == "integer":
        largest = frame.select(typed(time, "integer", frame.schema[time]).max()).item() or 0
        # Seconds reach this in the year 5138, milliseconds had it in 1973; and so on.
        unit = next(
            unit for unit, end in (("s", 1e11), ("ms", 1e14), ("us", 1e17), ("ns", 1e30)) if largest < end
        )
        lines.append(f"  time_unit: {unit}            # of {time}; a guess by its size")
    read_by = "".join(f"  {key}: {json.dumps(value)}\n" for key, value in source.items())
    return (
        f"# Interactions in {path.as_posix()}: {frame.height} rows, {frame[user].n_unique()} users, "
        f"{frame[item].n_unique()} items.\n"
        "defaults:\n  - /base/interactions@_here_\n  - _self_\n"
        "\ncard:\n"
        f"  title: {json.dumps(name)}\n"
        '  description: ""          # what is taken up, and what the list is for\n'
        '  source: ""\n'
        '  licence: ""\n'
        '  intended_use: ""         # and what it is not for\n'
        '  caveats: ""\n'
        "\ntask:\n" + "\n".join(lines) + "\n"
        "\nsource:\n" + read_by
    )


def infer_pictures(folder: Path, name: str) -> str:
    """Look at a folder of pictures, one folder for each class, and write the YAML of a set of pictures.

    Args:
        folder: Relative to the root of the repository.
        name: Of the data set.

    Returns:
        The text of conf/dataset/<name>.yaml.

    Raises:
        PenstockError: The name will not do, or there are fewer than two classes.
    """
    _check_name(name)
    found = {}
    for inside in sorted(
        item for item in folder.iterdir() if item.is_dir() and not item.name.startswith(".")
    ):
        files = sum(1 for file in inside.rglob("*") if file.is_file() and not file.name.startswith("."))
        if files:
            found[inside.name] = files
    if len(found) < 2:
        raise PenstockError(
            f"{folder}: {len(found)} folder(s) with files in it, at least two classes are needed",
            hint="put the pictures of each class into a folder of its own: "
            f"{folder}/cat/1.jpg, {folder}/dog/1.jpg",
        )
    counted = "".join(f"#   {label}: {count}\n" for label, count in found.items())
    few = min(found.values()) < FEW_PICTURES
    finetuning = "  - override /finetuning@finetuning: gentle    # few pictures\n" if few else ""
    return (
        f"# Pictures in {folder.as_posix()}, by folder (files; ingest tells which of them are pictures):\n"
        f"{counted}"
        "defaults:\n  - /base/images@_here_\n  - _self_\n"
        f"{finetuning}"
        "\ncard:\n"
        f"  title: {json.dumps(name)}\n"
        '  description: ""          # what a label says about a picture\n'
        '  source: ""               # who took the pictures, when, of what\n'
        '  licence: ""\n'
        '  intended_use: ""         # and what it is not for\n'
        f"\nsource:\n  path: {json.dumps(folder.as_posix())}\n"
        f"\ncontract:\n  classes: {json.dumps(list(found), ensure_ascii=False)}\n"
        "\nbackbone:\n  side: 224                # pixels; fewer are faster, and for small pictures as good\n"
    )


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name) or name == "all":
        raise PenstockError(
            f"{name!r} cannot be the name of a data set",
            hint="use small letters, digits and underscores, a letter first; `all` is taken",
        )


# --- the source -------------------------------------------------------------------------------------


def _read(path: Path) -> tuple[dict[str, Any], pl.DataFrame]:
    """The keys of `source`, and the table as it is read with them."""
    if path.is_dir():  # a load's table
        path /= "**/*.parquet"
    keys: dict[str, Any] = {"path": path.as_posix()}
    if glob.has_magic(str(path)):
        folder = next(parent for parent in path.parents if not glob.has_magic(str(parent)))
        keys["watch"] = folder.as_posix()
    first = min(glob.glob(str(path), recursive=True), default=None)  # noqa: PTH207  (an absolute pattern too)
    is_csv = first is not None and Path(first).is_file() and format_of(Path(first)) == "csv"
    if is_csv and (separator := _separator(Path(str(first)))) != ",":
        keys["separator"] = separator
    frame = _frame(keys)
    if is_csv and (words := _words_for_missing(frame)):
        keys["null_values"] = ["", *words]
        frame = _frame(keys)
    # Of a load's table: where a row is from is nothing to learn from.
    unwanted = [column for column in frame.columns if column in LINEAGE]
    unwanted += [
        column
        for column in frame.columns
        if column not in unwanted and frame[column].null_count() == frame.height
    ]
    if unwanted:
        keys["drop"] = unwanted
        frame = frame.drop(unwanted)
    return keys, frame


def _frame(keys: dict[str, Any]) -> pl.DataFrame:
    return read_files(FileSource.model_validate({"kind": "file", "watch": keys["path"], **keys})).frame


def _separator(path: Path) -> str:
    try:
        header = pl.read_lines(path, n_rows=1, glob=False).to_series()
    except (pl.exceptions.PolarsError, OSError):
        return ","  # reading the file says what is wrong with it
    counts = {mark: str(header[0]).count(mark) for mark in SEPARATORS} if len(header) else {}
    best = max(counts, key=lambda mark: counts[mark], default=",")
    return best if counts.get(best) and path.suffix != ".tsv" else ","


def _words_for_missing(frame: pl.DataFrame) -> list[str]:
    """Words that alone keep a column from being one of numbers or dates."""
    found: set[str] = set()
    for name in frame.columns:
        values = frame[name].drop_nulls().str.strip_chars()
        words = values.filter(values.is_in(MISSING)).unique()
        rest = values.filter(~values.is_in(MISSING)).to_frame()
        if len(words):
            kinds = [
                typed(name, kind, pl.String()).is_not_null().all().alias(kind) for kind in ("number", "date")
            ]
            if rest.is_empty() or any(rest.select(kinds).row(0)):
                found.update(words.to_list())
    return sorted(found)


# --- the task ---------------------------------------------------------------------------------------


def _task(frame: pl.DataFrame, columns: dict[str, Column], target: str | None, positive: str | None) -> _Task:
    chosen = _guessed_target(frame.columns) if target is None else target
    require_target(chosen, frame)
    kind = columns[chosen].type
    typed_target = frame.select(typed(chosen, kind, frame.schema[chosen])).to_series().drop_nulls()
    distinct = typed_target.n_unique()
    if distinct < 2:
        raise PenstockError(
            f"{chosen!r} has the same value in every row; there is nothing to predict",
            hint="name another column",
        )
    if kind in {"text", "date", "datetime"}:
        raise PenstockError(
            f"{chosen!r} is {kind} with {distinct} different values: neither classes nor a number",
            hint="name another column as the target",
        )
    is_number = kind == "number" or (kind == "integer" and distinct > CLASSES)
    task = "regression" if is_number and distinct > 2 else "binary" if distinct == 2 else "multiclass"
    if task != "binary" and positive is not None:
        raise PenstockError(
            f"{chosen!r} has {distinct} different values; a positive class is one of two", hint="leave it out"
        )
    label = _positive(typed_target, positive) if task == "binary" else None
    ids = tuple(name for name in columns if name != chosen and _is_id(frame[name], columns[name]))
    return _Task(task, chosen, target is None, label, ids)


def _guessed_target(names: Sequence[str]) -> str:
    known = {name.lower(): name for name in names}
    return next((known[word] for word in TARGETS if word in known), names[-1])


def _positive(target: pl.Series, wanted: str | None) -> Any:
    """The class asked for, the one that says yes, or the rarer one: it is mostly the rare thing that is looked for."""
    counts = target.value_counts().sort("count", target.name)
    labels = counts[target.name].to_list()
    if wanted is None:
        return next((label for label in labels if str(label).lower() in POSITIVES), labels[0])
    named = {str(label).lower(): label for label in labels}
    if wanted.strip().lower() not in named:
        raise PenstockError(
            f"{target.name!r} has no class {wanted!r}", hint=f"it has {labels[0]!r} and {labels[1]!r}"
        )
    return named[wanted.strip().lower()]


def _is_id(series: pl.Series, column: Column) -> bool:
    if column.type not in {"integer", "category", "text"} or len(series) < IDS_FROM:
        return False
    if series.null_count() or series.n_unique() < len(series):
        return False
    words = set(re.split(r"[^a-z0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", series.name).lower()))
    numbers = series.cast(pl.Int64, strict=False) if column.type == "integer" else series.clear()
    counted = len(numbers) > 0 and int(numbers.max()) - int(numbers.min()) + 1 == len(numbers)  # type: ignore[arg-type]
    return bool(words & ID_WORDS) or counted


# --- the contract -----------------------------------------------------------------------------------


def _column(series: pl.Series, column: Column, *, is_id: bool, is_target: bool) -> dict[str, Any]:
    """One line of the contract. Bounds leave as much room on either side as the data take themselves."""
    values = series.to_frame().select(typed(series.name, column.type, series.dtype)).to_series().drop_nulls()
    entry: dict[str, Any] = {"type": column.type}
    if len(values) < len(series):
        entry["nullable"] = True
    if is_id:
        return entry | {"unique": True}
    if column.type in {"integer", "number"}:
        entry |= _range(values, whole=column.type == "integer")
    if column.type == "category":
        codes = sorted(values.unique().to_list())
        if is_target or (len(codes) <= LISTED_VALUES and not any("${" in code for code in codes)):
            entry["values"] = codes
    return entry


def _range(values: pl.Series, *, whole: bool) -> dict[str, float]:
    low, high = float(values.min()), float(values.max())  # type: ignore[arg-type]
    if whole and (low, high) == (0, 1):
        return {"min": 0, "max": 1}
    span = (high - low) or abs(high) or 1.0
    step = 10.0 ** (math.floor(math.log10(span)) - 1)
    # Rounded before it is cut: 0.2 / 0.01 is a hair less than 20.
    least = math.floor(round((low - span) / step, 6)) * step
    most = math.ceil(round((high + span) / step, 6)) * step
    if low >= 0:
        least = max(0.0, least)
    if high <= 0:
        most = min(0.0, most)
    least, most = _short(least), _short(most)
    return {"min": math.floor(least), "max": math.ceil(most)} if whole else {"min": least, "max": most}


def _short(number: float) -> float:
    value = float(f"{number:.12g}")
    return int(value) if value == int(value) else value


# --- the text ---------------------------------------------------------------------------------------


def _text(
    name: str, path: Path, source: dict[str, Any], task: _Task, columns: dict[str, dict[str, Any]]
) -> str:
    guessed = "          # guessed: say which column is to be predicted" if task.guessed else ""
    lines = [
        f"# Drafted from {path.name}. Read it through: what is a promise about all data to come, and what only true of these?",
        "defaults:",
        f"  - /base/{task.kind}@_here_",
        "  - _self_",
        "",
        "card:",
        f"  title: {_inline(name.replace('_', ' ').capitalize())}",
        "",
        "task:",
        f"  target: {_inline(task.target)}{guessed}",
    ]
    if task.positive is not None:
        lines.append(f"  positive: {_inline(task.positive)}")
    if task.ids:
        lines.append(f"  ids: {_inline(list(task.ids))}")
    lines += ["", "source:", *(f"  {key}: {_inline(value)}" for key, value in source.items())]
    lines += ["", "contract:", "  others: forbid", "  columns:"]
    lines += [f"    {_inline(column)}: {_inline(entry)}" for column, entry in columns.items()]
    return "\n".join(lines) + "\n"


def _inline(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=math.inf)
    return str(text).removesuffix("\n").removesuffix("\n...")
