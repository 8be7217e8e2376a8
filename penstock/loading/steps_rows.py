"""Steps that look at one row at a time, as plans of polars that give the same however rows are cut into chunks."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import polars as pl

from penstock import contract
from penstock.config.loading.steps import Cast, Derive, Drop, Fill, Filter, Join, Keep, MapCodes, Rename
from penstock.config.tables import ColumnType
from penstock.contract import QUARANTINE_SCHEMA
from penstock.loading.state import LINEAGE, POSITION, SOURCE
from penstock.loading.steps_columns import columns, free, known, settled, word
from penstock.loading.steps_expressions import StepError, expression, first_line
from penstock.loading.steps_inputs import Inputs, agreed, key_name

__all__ = ["COMPARE", "RowStep", "divided", "judges", "multiplies", "parts", "planned"]

RowStep = Rename | Drop | Keep | MapCodes | Fill | Cast | Filter | Derive | Join
MARK = "\0row"
SHOWN = 60  # characters of a value in a reason
COMPARE = (
    "types that go together: x > 1, name = 'a', day > DATE '2024-12-31', at > TIMESTAMP '2024-12-31 12:00:00'"
)


def judges(step: object) -> bool:
    """Whether a step may find a row unfit."""
    return (isinstance(step, Cast) and step.on_error != "null") or (
        isinstance(step, MapCodes) and step.unmapped == "quarantine"
    )


def multiplies(step: object) -> bool:
    """Whether a step may make several rows of one."""
    return isinstance(step, Join) and step.validate_keys == "m:m" and step.how in {"left", "inner"}


def parts(step: RowStep) -> list[tuple[str, RowStep]]:
    """A step as several, one for each expression, each with what to call it in an error."""
    if isinstance(step, Derive):
        return [
            (f"{name}: {text!r}: ", step.model_copy(update={"columns": {name: text}}))
            for name, text in step.columns.items()
        ]
    return [(f"{step.where!r}: " if isinstance(step, Filter) else "", step)]


def planned(rows: pl.LazyFrame, at: int, step: RowStep, inputs: Inputs, *, streamed: bool) -> pl.LazyFrame:
    """Add a step to a plan; a step that judges gives null for what is unfit.

    Args:
        rows: The plan so far.
        at: Number of the step.
        step: As declared.
        inputs: For joins.
        streamed: Whether the plan is for all rows, so that inputs need not stay in memory.

    Raises:
        StepError: It is not possible with these columns.
    """
    match step:
        case Rename():
            return _renamed(rows, step)
        case Drop():
            return rows.drop(known(rows, free(step.columns)))
        case Keep():
            lineage = [name for name in LINEAGE if name in columns(rows)]
            return rows.select(*known(rows, free(dict.fromkeys(step.columns))), *lineage)
        case Fill():
            known(rows, free(step.columns))
            schema = rows.collect_schema()
            return rows.with_columns(
                pl.col(name).fill_null(_literal(name, value, schema[name]))
                for name, value in step.columns.items()
            )
        case Filter():
            return _filtered(rows, step.where)
        case Derive():
            return _derived(rows, step)
        case Join():
            return _joined(rows, at, step, inputs, streamed=streamed)
        case MapCodes() | Cast():
            return _changed(rows, step)


def _renamed(rows: pl.LazyFrame, step: Rename) -> pl.LazyFrame:
    known(rows, free(step.columns))
    free(step.columns.values())
    names = [step.columns.get(name, name) for name in columns(rows)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise StepError(f"there would be two columns {twice[0]!r}", "drop or rename the other one first")
    return rows.rename(step.columns)


def _literal(name: str, value: object, kind: pl.DataType) -> pl.Expr:
    """A value as one of a column."""
    wanted: Any = word(kind)
    given = pl.Series("value", [value])
    fits = (kind == pl.String) == isinstance(value, str) or kind.is_temporal()
    typed = given.to_frame().select(contract.typed("value", wanted, given.dtype)).item() if fits else None
    if typed is None:
        raise StepError(f"{name!r} is {word(kind)}, and {value!r} is none")
    return pl.lit(typed, dtype=kind)


def _evaluated(rows: pl.LazyFrame, text: str, of: str) -> tuple[pl.Expr, pl.DataType]:
    """An expression and the type of what it gives, so that an error can name it."""
    parsed = expression(text)
    try:
        return parsed, rows.select(parsed.alias("value")).collect_schema()["value"]
    except pl.exceptions.ColumnNotFoundError as error:
        known(rows, parsed.meta.root_names(), of)
        raise StepError(f"{of}{first_line(error)}") from error
    except pl.exceptions.PolarsError as error:
        raise StepError(f"{of}{first_line(error)}", COMPARE) from error


def _filtered(rows: pl.LazyFrame, where: str) -> pl.LazyFrame:
    condition, kind = _evaluated(rows, where, f"{where!r}: ")
    if kind != pl.Boolean:
        raise StepError(
            f"{where!r} is {word(kind)}, not true or false", "compare it with something, as in x > 0"
        )
    return rows.filter(condition)


def _derived(rows: pl.LazyFrame, step: Derive) -> pl.LazyFrame:
    free(step.columns)
    expressions = [
        _evaluated(rows, text, f"{name}: {text!r}: ")[0].alias(name) for name, text in step.columns.items()
    ]
    return settled(rows.with_columns(expressions), list(step.columns))


# --- joins ------------------------------------------------------------------------------------------


def _joined(rows: pl.LazyFrame, at: int, step: Join, inputs: Inputs, *, streamed: bool) -> pl.LazyFrame:
    pairs = step.on if isinstance(step.on, dict) else {name: name for name in step.on}
    ours, keys = known(rows, pairs), [key_name(number) for number in range(len(pairs))]
    side = inputs.right_side(at, step, streamed=streamed)
    mine, its = rows.collect_schema(), side.collect_schema()
    side = side.with_columns(
        agreed(mine[name], name, key, its[key], theirs).alias(key)
        for (name, theirs), key in zip(pairs.items(), keys, strict=True)
    )
    names = {name: name + step.suffix if name in mine else name for name in its.names() if name not in keys}
    for name, new in names.items():
        if new in mine or list(names.values()).count(new) > 1:
            raise StepError(
                f"there would be two columns {new!r}",
                "choose another `suffix`, or name `columns` of the input",
            )
        free([name])
    side = side.rename(names)
    if step.how == "asof":
        return _as_of(rows, side, ours, keys, step)
    return rows.join(side, left_on=ours, right_on=keys, how=step.how, coalesce=True, maintain_order="left")


def _as_of(
    rows: pl.LazyFrame, side: pl.LazyFrame, ours: list[str], keys: list[str], step: Join
) -> pl.LazyFrame:
    kind = rows.collect_schema()[ours[-1]]
    if not (kind.is_temporal() or kind.is_numeric()):
        raise StepError(
            f"{ours[-1]!r} is {word(kind)}", "the last of the keys is compared: a time or a number"
        )
    joined = (
        rows.with_row_index(MARK)
        .sort(ours[-1], nulls_last=True)
        .join_asof(
            side.sort(keys[-1], maintain_order=True),
            left_on=ours[-1],
            right_on=keys[-1],
            by_left=ours[:-1] or None,
            by_right=keys[:-1] or None,
            strategy="backward",
            tolerance=_tolerance(step, ours[-1], kind),
            check_sortedness=False,
        )
    )
    return joined.sort(MARK).drop(MARK, *keys, strict=False)


def _tolerance(step: Join, name: str, kind: pl.DataType) -> Any:
    given = step.tolerance
    if given is None:
        return None
    if isinstance(given, timedelta) != kind.is_temporal():
        raise StepError(
            f"{name!r} is {word(kind)}, and the tolerance {given} is not", "write 1h or 2d for a time"
        )
    if isinstance(given, float) and kind.is_integer():
        return int(given)
    if isinstance(given, timedelta) and kind == pl.Date:
        return timedelta(days=given.days)
    return given


# --- codes and types --------------------------------------------------------------------------------


def _changed(rows: pl.LazyFrame, step: MapCodes | Cast) -> pl.LazyFrame:
    if isinstance(step, Cast):
        known(rows, free(step.columns))
        schema = rows.collect_schema()
        return rows.with_columns(
            contract.typed(name, kind, schema[name]).alias(name) for name, kind in step.columns.items()
        )
    known(rows, [step.column])
    into = free([step.into or step.column])[0]
    kind = rows.collect_schema()[step.column]
    return rows.with_columns(_mapped(step, kind).alias(into))


def _mapped(step: MapCodes, kind: pl.DataType) -> pl.Expr:
    column, words = pl.col(step.column), list(step.codes.values())
    code = _code(column, kind)
    result = _kind_of([word for word in [*words, step.default] if word is not None])
    rest: Any = step.default
    if step.unmapped == "keep":
        same = kind == result
        result, rest = (kind, column) if same else (pl.String(), code)
    elif step.default is not None:
        rest = pl.lit(_as(step.default, result), dtype=result)
    typed = pl.Series([_as(word, result) for word in words], dtype=result)
    mapped = code.replace_strict(list(step.codes), typed, default=rest, return_dtype=result)
    # What is missing is no code that was not mapped.
    return pl.when(code.is_not_null()).then(mapped)


def _as(word: Any, kind: pl.DataType) -> Any:
    if word is None:
        return None
    if kind == pl.String:
        return str(word).lower() if isinstance(word, bool) else str(word)
    return float(word) if kind == pl.Float64 else word


def _kind_of(words: list[Any]) -> pl.DataType:
    """The type of what is declared, whichever of it turns up."""
    if words and all(isinstance(word, bool) for word in words):
        return pl.Boolean()
    if not words or any(isinstance(word, str | bool) for word in words):
        return pl.String()
    return pl.Float64() if any(isinstance(word, float) for word in words) else pl.Int64()


def _code(column: pl.Expr, kind: pl.DataType) -> pl.Expr:
    """A value as it is written in `codes`: the number 3.0 is 3."""
    text = column.cast(pl.String)
    if not kind.is_float():
        return text
    whole = column.cast(pl.Int64, strict=False)
    return pl.when(column == whole).then(whole.cast(pl.String)).otherwise(text)


def divided(rows: pl.LazyFrame, step: MapCodes | Cast) -> tuple[pl.DataFrame, pl.DataFrame, dict[str, int]]:
    """The rows that a mapping or cast is possible for, changed; those that it is not, as they were; and why.

    Raises:
        StepError: A column is not there, or a cast is not possible that must be.
    """
    names = [step.column] if isinstance(step, MapCodes) else list(step.columns)
    there = columns(rows)
    known(rows, names)
    schema = rows.collect_schema()
    kept = [pl.col(name).alias(_raw(name)) for name in names]
    both = _changed(rows.with_columns(kept), step).collect()
    raws = both.select(_raw(name) for name in names)
    changed = both.drop(raws.columns)
    rules: dict[str, pl.Series] = {}
    words: list[pl.Series] = []
    for name in names:
        into = step.into or name if isinstance(step, MapCodes) else name
        if changed[into].null_count() == raws[_raw(name)].null_count():
            continue
        rule, expected, broken = _rule(step, name, schema[name])
        unfit = both.select(broken & pl.col(into).is_null()).to_series()
        if unfit.any():
            rules[rule] = unfit
            words.append(_told(unfit, raws[_raw(name)], name, expected).alias(rule))
    nothing = pl.DataFrame(schema=QUARANTINE_SCHEMA)
    if not rules:
        return changed, nothing, {}
    told = pl.DataFrame(words).select(pl.concat_str(pl.all(), separator="; ", ignore_nulls=True)).to_series()
    at = pl.select(pl.any_horizontal(*rules.values())).to_series()
    if isinstance(step, Cast) and step.on_error == "fail":
        raise StepError(
            f"{int(at.sum())} rows, the first: {told.filter(at)[0]}",
            "mend them, or choose on_error: quarantine",
        )
    # A row in quarantine is as it was before the step.
    before = both.with_columns(pl.col(_raw(name)).alias(name) for name in names).select(there).filter(at)
    return (
        changed.filter(~at),
        _rejected(before, told.filter(at)),
        {rule: int(unfit.sum()) for rule, unfit in rules.items()},
    )


def _raw(name: str) -> str:
    return f"{name}\0raw"


def _rule(step: MapCodes | Cast, name: str, found: pl.DataType) -> tuple[str, str, pl.Expr]:
    """What is counted, what is expected, and which values must not have become null."""
    raw = pl.col(_raw(name))
    if isinstance(step, MapCodes):
        emptied = [code for code, meant in step.codes.items() if meant is None]
        return (
            f"{name}: codes",
            "a code that is mapped",
            raw.is_not_null() & ~_code(raw, found).is_in(emptied),
        )
    kind: ColumnType = step.columns[name]
    return f"{name}: {kind}", kind, ~contract.missing(raw, kind, found)


def _told(unfit: pl.Series, raw: pl.Series, name: str, expected: str) -> pl.Series:
    text = pl.lit(raw.cast(pl.String))
    end = pl.when(text.str.len_chars() > SHOWN).then(pl.lit("…'")).otherwise(pl.lit("'"))
    words = pl.concat_str(pl.lit(f"{name}: expected {expected}, found '"), text.str.head(SHOWN), end)
    return pl.select(pl.when(unfit).then(words)).to_series()


def _rejected(rows: pl.DataFrame, reasons: pl.Series) -> pl.DataFrame:
    origin = [
        rows[name] if name in rows.columns else pl.Series(name, [nothing] * rows.height)
        for name, nothing in ((SOURCE, ""), (POSITION, 0))
    ]
    return pl.DataFrame(
        {
            "source": origin[0],
            "position": origin[1],
            "reason": reasons,
            "row": contract.as_json(rows.drop(LINEAGE, strict=False)),
        },
        schema=QUARANTINE_SCHEMA,
    )
