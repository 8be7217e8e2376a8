"""What a table must look like, and what becomes of a row that does not: it goes to quarantine with its reason.

Plain polars expressions rather than dataframely, which was tried: on a million rows of twenty columns it
needs as long (0.1 s), but 0.26 s more to import in every stage and server, it knows "3.0" neither as an
integer nor " yes " as "yes", it takes all rows of a repeated key for bad where the first one is good, and
it says which rule a row broke but not by which value. A person with a quarantined row at hand wants to
read "tenure: expected integer, found 'abc'".

The work is done twice over only where something is wrong: a plain cast and one summary per column show which
rules can be broken at all, and only those are asked of every row.

Needs polars alone: what serves a model checks its input with the same function.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import NoReturn

import polars as pl
import polars.selectors as cs

from penstock.config import Column, ColumnType, Contract
from penstock.errors import PenstockError

__all__ = [
    "POLARS_TYPES",
    "QUARANTINE_SCHEMA",
    "Checked",
    "as_json",
    "check",
    "complete",
    "kind_of",
    "limit_quarantine",
    "missing",
    "refuse",
    "require_target",
    "typed",
]

QUARANTINE_SCHEMA = pl.Schema(
    {"source": pl.String(), "position": pl.Int64(), "reason": pl.String(), "row": pl.String()}
)

POLARS_TYPES: dict[ColumnType, pl.DataType] = {
    "integer": pl.Int64(),
    "number": pl.Float64(),
    "boolean": pl.Boolean(),
    "category": pl.String(),
    "text": pl.String(),
    "date": pl.Date(),
    "datetime": pl.Datetime("us", "UTC"),
}
TRUE = ("true", "t", "yes", "y", "1")
FALSE = ("false", "f", "no", "n", "0")
# Without an offset a time is UTC.
MOMENTS = ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d")
OFFSET_MOMENTS = ("%Y-%m-%dT%H:%M:%S%.f%z", "%Y-%m-%dT%H:%M%z")
# A column of more distinct values than either holds words, not codes.
CODES = 50
CODES_SHARE = 0.5
# Rows that show which types a column of text cannot be, before all rows are asked.
PREVIEW = 1000
SHOWN = 60  # characters of a value in a reason


@dataclass(frozen=True)
class Checked:
    """A table divided by its contract.

    Attributes:
        good: The rows that keep it, typed, with the contract's columns in the contract's order.
        bad: The rows that break it, as ``QUARANTINE_SCHEMA``, in their order.
        reasons: How many rows broke each "column: rule". A row may break several.
        kept: Positions in the input of the rows in ``good``, shape (n_good,).
    """

    good: pl.DataFrame
    bad: pl.DataFrame
    reasons: dict[str, int]
    kept: pl.Series


# --- which columns there are ------------------------------------------------------------------------


def require_target(target: str, frame: pl.DataFrame) -> None:
    """Make sure that what is to be predicted is there.

    Raises:
        PenstockError: It is not.
    """
    if target not in frame.columns:
        near = difflib.get_close_matches(target, frame.columns, n=1, cutoff=0.5)
        raise PenstockError(
            f"task.target: there is no column {target!r} in the source",
            hint=f"did you mean {near[0]!r}?" if near else f"there are: {_listed(frame.columns)}",
        )


def complete(contract: Contract, frame: pl.DataFrame, *, source: str) -> dict[str, Column]:
    """The contract with every column resolved: named, by default, or inferred from what is there.

    An inferred column may have missing values: nobody has promised that it has none.

    Args:
        contract: As configured.
        frame: The table as read; columns of text are looked into, others keep their type.
        source: What to call it in an error.

    Raises:
        PenstockError: A column is missing, is there and should not be, has no value to infer a type from,
            or is of a type that no column can have; or a bound in the contract is no value of its type.
    """
    extra = [name for name in frame.columns if name not in contract.columns]
    _all_named_are_there(contract, frame, extra, source)
    if extra and contract.default is None and contract.others == "forbid":
        raise PenstockError(
            f"{source}: columns that the contract does not name: {_listed(extra)}",
            hint="name them in contract.columns, drop them in source.drop, or set contract.others: infer",
        )
    for name, kind in frame.schema.items():
        if kind.is_nested() or isinstance(kind, pl.Binary | pl.Time | pl.Duration | pl.Object):
            raise PenstockError(
                f"{source}: the column {name!r} is {kind}, which is no type of a contract",
                hint=f"flatten it, or leave it out: source.drop: [{name}]",
            )
    resolved = dict(contract.columns)
    for name in extra:
        resolved[name] = contract.default or _inferred(frame[name], source)
    for name, column in resolved.items():
        _bounds(name, column)
        if frame.height and not column.nullable and frame[name].null_count() == frame.height:
            raise PenstockError(
                f"{source}: the column {name!r} has no value at all",
                hint=f"leave it out: source.drop: [{name}], or allow it: nullable: true in the contract",
            )
    return resolved


def _all_named_are_there(contract: Contract, frame: pl.DataFrame, extra: Sequence[str], source: str) -> None:
    missing = [name for name in contract.columns if name not in frame.columns]
    if missing:
        near = {name: difflib.get_close_matches(name, extra, n=1) for name in missing}
        guesses = [f"{name!r} may be {found[0]!r}" for name, found in near.items() if found]
        raise PenstockError(
            f"{source}: columns that the contract names are not there: {_listed(missing)}",
            hint="; ".join(guesses) or f"there are: {_listed(frame.columns)}",
        )
    known = [*frame.columns]
    for name in contract.unique:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            raise PenstockError(
                f"{source}: contract.unique names {name!r}, which is no column",
                hint=f"did you mean {close[0]!r}?" if close else f"there are: {_listed(known)}",
            )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:12])) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def _inferred(series: pl.Series, source: str) -> Column:
    if series.null_count() == len(series):
        raise PenstockError(
            f"{source}: the column {series.name!r} has no value at all, so its type is not known",
            hint=f"leave it out: source.drop: [{series.name}], or give its type in contract.columns",
        )
    return Column(type=kind_of(series), nullable=True)


def kind_of(series: pl.Series) -> ColumnType:
    """The narrowest type of a contract that every value has; text is looked into, other types are what they are."""
    kind = series.dtype
    native: list[tuple[bool, ColumnType]] = [
        (kind.is_integer(), "integer"),
        (kind.is_numeric(), "number"),
        (kind == pl.Boolean, "boolean"),
        (kind == pl.Date, "date"),
        (isinstance(kind, pl.Datetime), "datetime"),
    ]
    for fits, name in native:
        if fits:
            return name
    return _kind_of_text(series.cast(pl.String).drop_nulls())


def _kind_of_text(values: pl.Series) -> ColumnType:
    preview = values.head(PREVIEW)
    if preview.str.to_lowercase().is_in(["true", "false"]).all() and _all_are(values, "boolean"):
        return "boolean"
    candidates: tuple[ColumnType, ...] = ("integer", "number", "date", "datetime")
    for kind in candidates:
        if _all_are(preview, kind) and _all_are(values, kind):
            # "007" is a code: as a number it would lose its zeros.
            padded = kind in {"integer", "number"} and values.str.contains(r"^\s*-?0\d").any()
            return "category" if padded else kind
    distinct = values.n_unique()
    return "text" if distinct > CODES and distinct > CODES_SHARE * len(values) else "category"


def _all_are(values: pl.Series, kind: ColumnType) -> bool:
    if kind == "integer" and not values.cast(pl.Int64, strict=False).null_count():
        return True
    fits = pl.DataFrame({"x": values}).select(typed("x", kind, pl.String()).is_not_null().all()).item()
    return bool(fits)


# --- types ------------------------------------------------------------------------------------------


def typed(name: str, kind: ColumnType, found: pl.DataType) -> pl.Expr:
    """An expression that gives the column in its type, null where a value is missing or does not fit.

    White space around a value is how it was typed, not what it means, and a category of nothing else is
    missing. No number is infinite. A date-time without an offset is UTC.

    Args:
        name: The column.
        kind: What it should be.
        found: What it is.
    """
    column = pl.col(name)
    if isinstance(found, pl.Categorical | pl.Enum):
        column, found = column.cast(pl.String), pl.String()
    if found == pl.String and kind != "text":
        column = column.str.strip_chars()
    match kind:
        case "text":
            return column.cast(pl.String)
        case "category":
            text = column.cast(pl.String)
            return pl.when(text != "").then(text)
        case "integer":
            return _integer(column, found)
        case "number":
            number = _nothing(kind) if found.is_temporal() else column.cast(pl.Float64, strict=False)
            return pl.when(number.is_finite()).then(number)
        case "boolean":
            return _boolean(column, found)
        case "date":
            return _date(column, found)
        case "datetime":
            return _datetime(column, found)


def _nothing(kind: ColumnType) -> pl.Expr:
    # A literal alone would give one row, whatever the height of the table.
    return pl.repeat(None, pl.len(), dtype=POLARS_TYPES[kind])


def _integer(column: pl.Expr, found: pl.DataType) -> pl.Expr:
    if found.is_temporal():
        return _nothing("integer")
    exact = column.cast(pl.Int64, strict=False)
    if found.is_integer() or found == pl.Boolean:
        return exact
    # "3.0" is the integer 3: other tools write a whole column so once one of its values is missing.
    real = column.cast(pl.Float64, strict=False)
    whole = pl.when(real == real.floor()).then(real).cast(pl.Int64, strict=False)
    return pl.coalesce(exact, whole) if found == pl.String else whole


def _boolean(column: pl.Expr, found: pl.DataType) -> pl.Expr:
    if found == pl.Boolean:
        return column
    if found.is_numeric():
        return pl.when(column == 1).then(True).when(column == 0).then(False)
    text = column.cast(pl.String).str.to_lowercase()
    return pl.when(text.is_in(TRUE)).then(True).when(text.is_in(FALSE)).then(False)


def _date(column: pl.Expr, found: pl.DataType) -> pl.Expr:
    if found == pl.String:
        return column.str.to_date("%Y-%m-%d", strict=False)
    return column.cast(pl.Date, strict=False) if found.is_temporal() else _nothing("date")


def _datetime(column: pl.Expr, found: pl.DataType) -> pl.Expr:
    if found == pl.Date:
        column, found = column.cast(pl.Datetime("us")), pl.Datetime("us")
    if isinstance(found, pl.Datetime):
        zoned = column if found.time_zone else column.dt.replace_time_zone("UTC")
        return zoned.dt.convert_time_zone("UTC").dt.cast_time_unit("us")
    if found != pl.String:
        return _nothing("datetime")
    text = column.str.replace(" ", "T", literal=True).str.replace(r"[zZ]$", "")
    local = [text.str.to_datetime(form, time_unit="us", strict=False) for form in MOMENTS]
    offset = [
        text.str.to_datetime(form, time_unit="us", time_zone="UTC", strict=False) for form in OFFSET_MOMENTS
    ]
    return pl.coalesce(*(moment.dt.replace_time_zone("UTC") for moment in local), *offset)


def _plain(values: pl.Series, column: Column) -> pl.Expr | None:
    """A cheaper cast that agrees with ``typed`` on most columns (``_agreed`` tells); None if there is none."""
    name, kind, found = values.name, column.type, values.dtype
    if kind == "datetime" and found == pl.String:
        return _plain_moment(values)
    if kind == "category":
        # A code with white space around it, or of nothing else, is none that a stripped value can be.
        strippable = not column.values or any(not code or code != code.strip() for code in column.values)
        return None if strippable or found != pl.String else pl.col(name)
    if found == POLARS_TYPES[kind] or (
        kind in {"integer", "number"} and (found == pl.String or found.is_integer())
    ):
        return pl.col(name).cast(POLARS_TYPES[kind], strict=False)
    return None


def _plain_moment(values: pl.Series) -> pl.Expr | None:
    """A cast by the one way in which a column of one hand writes its times: that of its first value."""
    first = str(values.first(ignore_nulls=True) or "")
    written = re.fullmatch(r"\d{4}-\d\d-\d\d([ T])\d\d:\d\d(:\d\d(?:\.\d+)?)?([zZ]?)", first)
    if written is None:
        return None
    form = f"%Y-%m-%d{written[1]}%H:%M{':%S%.f' if written[2] else ''}{written[3]}"
    return pl.col(values.name).str.to_datetime(form, time_unit="us", strict=False).dt.replace_time_zone("UTC")


def _agreed(name: str, column: Column) -> pl.Expr:
    """Whether no value of a plainly cast column calls for the careful cast; nulls are counted elsewhere."""
    if column.type == "category":
        # What is one of the codes to the letter has no white space to strip.
        return pl.col(name).is_in(column.values or ()).all()
    return pl.col(name).is_finite().all() if column.type == "number" else pl.lit(value=True)


def _cast(frame: pl.DataFrame, columns: Mapping[str, Column]) -> pl.DataFrame:
    """All columns in their types; null where missing or unfit."""
    schema = frame.schema
    careful = {name: typed(name, column.type, schema[name]) for name, column in columns.items()}
    plain = {name: _plain(frame[name], column) for name, column in columns.items()}
    cheap = {name: cast for name, cast in plain.items() if cast is not None}
    casts = frame.select(**careful | cheap)
    agreed = casts.select(**{name: _agreed(name, columns[name]) for name in cheap})
    again = [
        name
        for name in cheap
        if casts[name].null_count() > frame[name].null_count() or not agreed[name].item()
    ]
    return casts.with_columns(frame.select(careful[name].alias(name) for name in again)) if again else casts


# --- rules ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Rule:
    """One way to break the contract.

    Attributes:
        name: "column: rule", what is counted.
        broken: True where a row breaks it; over the typed column and the raw one, ``_raw(name)``.
        words: What the quarantined row is told.
    """

    name: str
    broken: pl.Expr
    words: pl.Expr


def _raw(name: str) -> str:
    return f"{name}\0raw"


def check(
    frame: pl.DataFrame,
    columns: Mapping[str, Column],
    *,
    source: str | pl.Series,
    position: int | pl.Series = 0,
    unique: Sequence[str] = (),
    written: Callable[[], pl.DataFrame] | None = None,
) -> Checked:
    """Divide a table into the rows that keep the contract and those that break it.

    Args:
        frame: The table as read. Columns that ``columns`` does not name are left out.
        columns: The resolved contract; every one of them is in ``frame``.
        source: Where the rows come from, one name or one per row.
        position: Number of the first row in its source, or of each row.
        unique: Columns that together identify a row. The first row of its kind is kept; a row with a
            missing value among them repeats none.
        written: Gives the rows as text, if the source has read numbers as such: what is rejected is shown as it was
            written. Not together with anything unique.
    """
    casts = _cast(frame, columns)
    rules = _rules(frame, casts, columns)
    raws = frame.select(pl.col(name).alias(_raw(name)) for name in columns)
    both = pl.concat([casts, raws], how="horizontal")
    failed = pl.repeat(False, frame.height, eager=True, dtype=pl.Boolean)
    if rules:
        failed = both.select(
            pl.any_horizontal(rule.broken.fill_null(value=False) for rule in rules)
        ).to_series()
    repeated = _repeated(casts, columns, unique, failed)
    for mask in repeated.values():
        failed |= mask
    if not failed.any():
        kept = pl.int_range(frame.height, eager=True, dtype=pl.UInt32)
        return Checked(casts, pl.DataFrame(schema=QUARANTINE_SCHEMA), {}, kept)
    at = failed.arg_true()
    if written is not None:
        text = written()
        rejected = check(
            text[at],
            columns,
            source=source if isinstance(source, str) else source.gather(at),
            position=at.cast(pl.Int64) + position if isinstance(position, int) else position.gather(at),
        )
        if rejected.bad.height == len(at):
            return Checked(casts.filter(~failed), rejected.bad, rejected.reasons, (~failed).arg_true())
        return check(text, columns, source=source, position=position)
    reasons, counts = _reasons(both[at], rules, {key: mask.gather(at) for key, mask in repeated.items()})
    bad = pl.DataFrame(
        {
            "source": [source] * len(at) if isinstance(source, str) else source.gather(at),
            "position": at.cast(pl.Int64) + position if isinstance(position, int) else position.gather(at),
            "reason": reasons,
            "row": as_json(frame[at]),
        },
        schema=QUARANTINE_SCHEMA,
    )
    return Checked(casts.filter(~failed), bad, counts, (~failed).arg_true())


def as_json(rows: pl.DataFrame) -> pl.Series:
    """Each row as a JSON object, its values as text; shape (n_rows,)."""
    text = rows.select((~cs.nested()).cast(pl.String, strict=False), cs.nested()).select(rows.columns)
    return text.select(pl.struct(pl.all()).struct.json_encode()).to_series()


def _rules(frame: pl.DataFrame, casts: pl.DataFrame, columns: Mapping[str, Column]) -> list[_Rule]:
    """The rules that one row or more may break; those that the columns as a whole show to be kept are left out."""
    kept = _kept(casts, columns)
    schema = frame.schema
    rules: list[_Rule] = []
    for name, column in columns.items():
        value, raw = pl.col(name), pl.col(_raw(name))
        nulls = casts[name].null_count()
        absent = missing(raw, column.type, schema[name])
        if nulls > frame[name].null_count():
            words = pl.lit(f"{name}: expected {column.type}") + _found(raw)
            rules.append(_Rule(f"{name}: {column.type}", value.is_null() & ~absent, words))
        if nulls and not column.nullable:
            rules.append(_Rule(f"{name}: missing", absent, pl.lit(f"{name}: expected a value, found none")))
        for bound, broken in _bounds(name, column):
            if not kept[f"{name}: {bound}"]:
                rules.append(
                    _Rule(f"{name}: {bound}", broken, pl.lit(f"{name}: expected {bound}") + _found(raw))
                )
        if column.values is not None and not kept[f"{name}: values"]:
            some = ", ".join(column.values[:8]) + (", …" if len(column.values) > 8 else "")
            words = pl.lit(f"{name}: expected one of {some}") + _found(raw)
            rules.append(_Rule(f"{name}: values", ~value.is_in(column.values), words))
    return rules


def _found(raw: pl.Expr) -> pl.Expr:
    shown = raw.cast(pl.String, strict=False)
    end = pl.when(shown.str.len_chars() > SHOWN).then(pl.lit("…'")).otherwise(pl.lit("'"))
    return pl.lit(", found '") + shown.str.head(SHOWN) + end


def _kept(casts: pl.DataFrame, columns: Mapping[str, Column]) -> dict[str, bool]:
    """For each rule about values, whether no value of its column breaks it."""
    asked: dict[str, pl.Expr] = {}
    for name, column in columns.items():
        for bound, broken in _bounds(name, column):
            asked[f"{name}: {bound}"] = ~broken.any()
        if column.values is not None:
            asked[f"{name}: values"] = pl.col(name).is_in(column.values).all()
    return casts.select(**asked).row(0, named=True) if asked else {}


def missing(raw: pl.Expr, kind: ColumnType, found: pl.DataType) -> pl.Expr:
    """Where a value is missing, as opposed to there and unfit.

    Args:
        raw: The column as read.
        kind: What it should be.
        found: What it is.
    """
    if found.is_float():
        return raw.is_nan() | raw.is_null()
    if isinstance(found, pl.String | pl.Categorical | pl.Enum) and kind != "text":
        return raw.is_null() | (raw.cast(pl.String).str.strip_chars() == "")
    return raw.is_null()


def _bounds(name: str, column: Column) -> list[tuple[str, pl.Expr]]:
    value = pl.col(name)
    bounds = []
    if column.min is not None:
        bounds.append((f"at least {_shown(column.min)}", value < _bound(name, column, column.min)))
    if column.max is not None:
        bounds.append((f"at most {_shown(column.max)}", value > _bound(name, column, column.max)))
    return bounds


def _shown(bound: float | str) -> str:
    return bound if isinstance(bound, str) else f"{bound:.15g}"


def _bound(name: str, column: Column, bound: float | str) -> pl.Expr:
    try:
        if column.type == "date":
            return pl.lit(date.fromisoformat(str(bound)))
        if column.type == "datetime":
            moment = datetime.fromisoformat(str(bound))
            zoned = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
            return pl.lit(zoned).dt.cast_time_unit("us")
        number = float(bound)
    except ValueError as error:
        raise PenstockError(
            f"contract.columns.{name}: the bound {bound!r} is no {column.type}",
            hint="write numbers as numbers and dates as 2024-12-31",
        ) from error
    # Compared as integers, a column need not be turned into numbers for it.
    whole = column.type == "integer" and math.isfinite(number) and number == math.floor(number)
    return pl.lit(int(number) if whole else number)


def _repeated(
    casts: pl.DataFrame, columns: Mapping[str, Column], unique: Sequence[str], failed: pl.Series
) -> dict[str, pl.Series]:
    """For each set of columns that must be unique, a mask of the rows that repeat an earlier good one."""
    keys: list[tuple[str, ...]] = [(name,) for name, column in columns.items() if column.unique]
    if unique:
        keys.append(tuple(unique))
    masks = {}
    for key in keys:
        # A row that is quarantined for another reason does not make a good one a duplicate.
        sound = pl.all_horizontal(pl.col(key).is_not_null()) & ~failed
        at = casts.select(sound.arg_true()).to_series()
        later = casts[at].select(~pl.struct(key).is_first_distinct()).to_series()
        if later.any():
            masks[", ".join(key)] = pl.int_range(casts.height, eager=True, dtype=pl.UInt32).is_in(
                at.filter(later).implode()
            )
    return masks


def _reasons(
    rows: pl.DataFrame, rules: Sequence[_Rule], repeated: Mapping[str, pl.Series]
) -> tuple[pl.Series, dict[str, int]]:
    told = {rule.name: pl.when(rule.broken).then(rule.words) for rule in rules}
    for key, mask in repeated.items():
        told[f"{key}: unique"] = pl.when(mask).then(
            pl.lit(f"{key}: expected unique, an earlier row is the same")
        )
    words = rows.select(**told)
    counts = {name: words.height - words[name].null_count() for name in words.columns}
    text = words.select(pl.concat_str(pl.all(), separator="; ", ignore_nulls=True)).to_series()
    return text, {name: count for name, count in counts.items() if count}


def limit_quarantine(
    bad: pl.DataFrame, reasons: Mapping[str, int], *, rows: int, allowed: float, file: Path
) -> float:
    """The share of rows in quarantine.

    Args:
        bad: The rows, as ``QUARANTINE_SCHEMA``.
        reasons: How many of them broke each rule.
        rows: All rows, good and bad.
        allowed: The largest share that is put up with.
        file: Where the rows lie, to be named in the error.

    Raises:
        PenstockError: The share is above ``allowed``, or no row is good.
    """
    share = bad.height / max(1, rows)
    if share > allowed or bad.height >= rows:
        refuse(
            bad, reasons, rows=rows, rejected=bad.height, allowed=allowed, file=file, settings="conf/dataset/"
        )
    return share


def refuse(
    bad: pl.DataFrame,
    reasons: Mapping[str, int],
    *,
    rows: int,
    rejected: int,
    allowed: float,
    file: Path,
    settings: str,
) -> NoReturn:
    """Fail for too many rows in quarantine, naming what they have in common.

    Args:
        bad: The rows, or the first of them, as ``QUARANTINE_SCHEMA``.
        reasons: How many of all broke each rule.
        rows: All rows, good and bad.
        rejected: All bad ones.
        allowed: The largest share that is put up with.
        file: Where they lie.
        settings: Where the contract is.

    Raises:
        PenstockError: Always.
    """
    worst = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))[:5]
    common = bad["reason"].value_counts().sort("count", "reason", descending=[True, False]).head(3)
    first = bad.row(0, named=True)
    raise PenstockError(
        f"{rejected} of {rows} rows ({rejected / max(1, rows):.2%}) break the contract; "
        f"max_quarantine_share allows {allowed:.2%}\n"
        + "\n".join(f"    {count} × {rule}" for rule, count in worst)
        + "\n  most often:\n"
        + "\n".join(f"    {count} × {reason}" for reason, count in common.iter_rows())
        + f"\n  first: row {first['position']} of {first['source']}: {first['reason']}",
        hint=f"look into {file}; mend the source, or contract in {settings}",
    )
