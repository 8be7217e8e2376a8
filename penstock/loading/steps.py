"""Transformation as declared: polars for what has a name, DuckDB for a query.

Steps that look at one row at a time are applied to each chunk as it streams by; from the first that needs all rows on,
the rest runs lazily over chunks that were put aside on disk. Expressions are SQL's by ``polars.sql_expr``, which was
preferred to a language of our own: people know it, it reads no file, and polars runs it as fast as what is written by hand.
"""

from __future__ import annotations

import difflib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from penstock import contract
from penstock.config.loading.steps import (
    Aggregate,
    Cast,
    Deduplicate,
    Derive,
    Drop,
    Fill,
    Filter,
    Input,
    Join,
    Keep,
    MapCodes,
    Pivot,
    Rename,
    Sql,
    Step,
    Union,
    Unpivot,
    Window,
    Windowed,
)
from penstock.contract import QUARANTINE_SCHEMA
from penstock.errors import PenstockError
from penstock.loading.state import LINEAGE, POSITION, SOURCE

__all__ = ["Stepped", "Transformation"]

ROWWISE = (Rename, Drop, Keep, MapCodes, Fill, Cast, Filter, Derive, Join)
BATCH_ROWS = 100_000
MARK = "\0row"


@dataclass(frozen=True)
class Stepped:
    """What steps made of a chunk.

    Attributes:
        frame: The rows that are left.
        bad: Rows that a step sent to quarantine, as ``contract.QUARANTINE_SCHEMA``.
        reasons: How many of those broke which rule.
        filtered: Rows that steps left out on purpose.
    """

    frame: pl.DataFrame
    bad: pl.DataFrame
    reasons: dict[str, int] = field(default_factory=dict)
    filtered: int = 0


class Transformation:
    """The steps of a load, and the inputs that they join with.

    Args:
        steps: As declared.
        inputs: By name.

    Raises:
        PenstockError: A step names an input that is not declared, or asks for quarantine where a row has no origin.
    """

    def __init__(self, steps: Sequence[Step], inputs: Mapping[str, Input]) -> None:
        self.inputs = inputs
        whole = next((at for at, step in enumerate(steps) if not isinstance(step, ROWWISE)), len(steps))
        self.each = list(enumerate(steps))[:whole]
        self.all = list(enumerate(steps))[whole:]
        for at, step in enumerate(steps):
            if isinstance(step, Join | Union) and step.input not in inputs:
                raise _failed(
                    at,
                    step,
                    f"there is no input {step.input!r}",
                    f"declared in inputs: {', '.join(inputs) or 'none'}",
                )
        for at, step in self.all:
            quarantines = (isinstance(step, Cast) and step.on_error == "quarantine") or (
                isinstance(step, MapCodes) and step.unmapped == "quarantine"
            )
            if quarantines:
                raise _failed(
                    at,
                    step,
                    "a row made of many has no origin that quarantine could name",
                    "put the step before those that need all rows, or choose null or fail",
                )

    @property
    def rowwise(self) -> bool:
        """Whether no step needs all rows."""
        return not self.all

    # --- chunk by chunk -----------------------------------------------------------------------------

    def apply(self, frame: pl.DataFrame) -> Stepped:
        """Apply the steps that look at one row at a time, up to the first that does not.

        Rows in = rows out + filtered + bad, unless a join doubles rows (``validate_keys: m:m``).
        """
        bad = [pl.DataFrame(schema=QUARANTINE_SCHEMA)]
        reasons: dict[str, int] = {}
        filtered = 0
        for at, step in self.each:
            try:
                if isinstance(step, MapCodes | Cast):
                    frame, rejected, broken = _checked(frame, step)
                    bad.append(rejected)
                    for rule, count in broken.items():
                        reasons[rule] = reasons.get(rule, 0) + count
                else:
                    before = frame.height
                    frame = self._step(frame.lazy(), step).collect()
                    filtered += max(0, before - frame.height)
            except (pl.exceptions.PolarsError, _StepError) as error:
                raise _explained(at, step, error, frame.columns) from error
        return Stepped(frame, pl.concat(bad), reasons, filtered)

    # --- all rows -----------------------------------------------------------------------------------

    def apply_whole(self, folder: Path, sink: Callable[[pl.DataFrame], None]) -> int:
        """Apply the remaining steps to all rows, put aside as Parquet files in ``folder``, lazily.

        Args:
            folder: Of the rows so far.
            sink: Takes the rows that come out, some at a time.

        Returns:
            How many came out.
        """
        rows = pl.scan_parquet(folder / "*.parquet", missing_columns="insert", extra_columns="ignore").drop(
            LINEAGE, strict=False
        )
        made = 0
        for at, step in self.all:
            try:
                if isinstance(step, Sql):
                    rows = self._query(rows, step, folder / f"step{at}")
                else:
                    rows = self._step(rows, step)
                rows.collect_schema()
            except (pl.exceptions.PolarsError, _StepError) as error:
                raise _explained(at, step, error, _columns(rows)) from error
        try:
            for frame in rows.collect_batches(chunk_size=BATCH_ROWS):
                made += frame.height
                if frame.height:
                    sink(frame)
        except pl.exceptions.PolarsError as error:
            at, step = self.all[-1]
            raise _explained(at, step, error, ()) from error
        return made

    def _query(self, rows: pl.LazyFrame, step: Sql, folder: Path) -> pl.LazyFrame:
        """Run a query in a DuckDB that can reach nothing but what it is given."""
        import duckdb
        import pyarrow.dataset as ds

        shutil.rmtree(folder, ignore_errors=True)
        (folder / "in").mkdir(parents=True)
        rows.sink_parquet(folder / "in/rows.parquet", compression="lz4")
        with duckdb.connect(config={"temp_directory": str(folder / "spill")}) as database:
            database.execute("SET TimeZone = 'UTC'")
            database.register("rows", ds.dataset(folder / "in"))
            for name in self.inputs:
                database.register(name, self._input(name).to_arrow())
            database.execute("SET enable_external_access = false")
            database.execute("SET lock_configuration = true")
            try:
                reader: Any = database.sql(step.query).to_arrow_reader(BATCH_ROWS)
                empty = pl.DataFrame(reader.schema.empty_table())
                (folder / "out").mkdir()
                empty.write_parquet(folder / "out/00000000.parquet")
                for number, batch in enumerate(reader, start=1):
                    frame = pl.DataFrame(batch)
                    frame.write_parquet(folder / f"out/{number:08d}.parquet", compression="lz4")
            except duckdb.Error as error:
                raise _StepError(str(error).strip().splitlines()[0]) from error
        return pl.scan_parquet(folder / "out/*.parquet")

    # --- inputs -------------------------------------------------------------------------------------

    @cached_property
    def _read(self) -> dict[str, pl.DataFrame]:
        return {}

    def _input(self, name: str) -> pl.DataFrame:
        """An input, read once: it is what rows are looked up in, and small beside them."""
        if name not in self._read:
            self._read[name] = _read_input(name, self.inputs[name])
        return self._read[name]

    # --- steps --------------------------------------------------------------------------------------

    def _step(self, rows: pl.LazyFrame, step: Step) -> pl.LazyFrame:
        match step:
            case Rename():
                return _renamed(rows, step)
            case Drop():
                return rows.drop(_known(rows, step.columns))
            case Keep():
                return rows.select(*_known(rows, step.columns), *[n for n in LINEAGE if n in _columns(rows)])
            case Fill():
                _known(rows, [*step.columns])
                return rows.with_columns(
                    pl.col(name).fill_null(pl.lit(value)) for name, value in step.columns.items()
                )
            case Filter():
                return rows.filter(_expression(step.where))
            case Derive():
                return rows.with_columns(_expression(text).alias(name) for name, text in step.columns.items())
            case Join():
                return self._join(rows, step)
            case Union():
                return pl.concat([rows, self._input(step.input).lazy()], how="diagonal_relaxed")
            case MapCodes() | Cast():
                return _changed(rows, step)
            case Sql():
                raise AssertionError(step)
            case _:
                return _whole(rows, step)

    def _join(self, rows: pl.LazyFrame, step: Join) -> pl.LazyFrame:
        other = self._input(step.input)
        on = step.on if isinstance(step.on, dict) else dict(zip(step.on, step.on, strict=True))
        ours, theirs = [*on], [*on.values()]
        _known(rows, ours)
        _known(other.lazy(), [*theirs, *step.columns], what=f"the input {step.input!r}")
        if step.columns:
            other = other.select(*theirs, *[name for name in step.columns if name not in theirs])
        if step.how == "asof":
            return _as_of(rows, other, ours, theirs, step)
        if step.validate_keys == "m:1" and step.how in {"left", "inner"}:
            repeated = other.drop_nulls(theirs).filter(pl.struct(theirs).is_duplicated())
            if repeated.height:
                example = repeated.select(theirs).row(0, named=True)
                raise _StepError(
                    f"the input {step.input!r} has several rows for {example}, so rows would be doubled",
                    "make its keys unique, or say that it is meant: validate_keys: m:m",
                )
        how: Any = step.how
        return rows.join(
            other.lazy(), left_on=ours, right_on=theirs, how=how, suffix=step.suffix, maintain_order="left"
        )


class _StepError(Exception):
    """What is wrong with a step, and what to do about it; becomes an error that names the step."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


# --- row by row -------------------------------------------------------------------------------------


def _expression(text: str) -> pl.Expr:
    try:
        return pl.sql_expr(text)
    except pl.exceptions.PolarsError as error:
        raise _StepError(f"{text!r}: {_first_line(error)}") from error


def _renamed(rows: pl.LazyFrame, step: Rename) -> pl.LazyFrame:
    _known(rows, [*step.columns])
    names = [step.columns.get(name, name) for name in _columns(rows)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise _StepError(f"there would be two columns {twice[0]!r}", "drop or rename the other one first")
    return rows.rename(step.columns)


def _checked(frame: pl.DataFrame, step: MapCodes | Cast) -> tuple[pl.DataFrame, pl.DataFrame, dict[str, int]]:
    """The rows that a mapping or a cast is possible for, changed; and those that it is not."""
    columns = [step.column] if isinstance(step, MapCodes) else [*step.columns]
    _known(frame.lazy(), columns)
    changed = _changed(frame.lazy(), step).collect()
    nothing = pl.DataFrame(schema=QUARANTINE_SCHEMA)
    stays = "quarantine" not in {getattr(step, "unmapped", None), getattr(step, "on_error", None)}
    fails = isinstance(step, Cast) and step.on_error == "fail"
    if stays and not fails:
        return changed, nothing, {}
    reasons = {}
    words = []
    for name in columns:
        into = step.into or name if isinstance(step, MapCodes) else name
        unfit = changed[into].is_null() & frame[name].is_not_null()
        if isinstance(step, MapCodes):
            missing = [code for code, word in step.codes.items() if word is None]
            unfit &= ~frame[name].cast(pl.String).is_in(missing)
            rule, told = f"{name}: codes", "a code that is mapped"
        else:
            kind = step.columns[name]
            unfit &= ~frame.select(contract.missing(pl.col(name), kind, frame.schema[name])).to_series()
            rule, told = f"{name}: {kind}", kind
        if not unfit.any():
            continue
        reasons[rule] = int(unfit.sum())
        shown = frame[name].cast(pl.String)
        if fails:
            raise _StepError(
                f"{reasons[rule]} values of {name!r} are no {told}, such as {shown.filter(unfit)[0]!r}"
            )
        text = pl.concat_str(pl.lit(f"{name}: expected {told}, found '"), shown, pl.lit("'"))
        words.append(pl.select(pl.when(unfit).then(text)).to_series().alias(rule))
    if not words:
        return changed, nothing, {}
    told_all = (
        pl.DataFrame(words).select(pl.concat_str(pl.all(), separator="; ", ignore_nulls=True)).to_series()
    )
    at = told_all != ""
    rows = frame.filter(at)
    bad = pl.DataFrame(
        {
            "source": rows[SOURCE] if SOURCE in rows.columns else [""] * rows.height,
            "position": rows[POSITION] if POSITION in rows.columns else [0] * rows.height,
            "reason": told_all.filter(at),
            "row": contract.as_json(rows.drop(LINEAGE, strict=False)),
        },
        schema=QUARANTINE_SCHEMA,
    )
    return changed.filter(~at), bad, reasons


def _changed(rows: pl.LazyFrame, step: MapCodes | Cast) -> pl.LazyFrame:
    if isinstance(step, Cast):
        schema = rows.collect_schema()
        return rows.with_columns(
            contract.typed(name, kind, schema[name]).alias(name) for name, kind in step.columns.items()
        )
    code = pl.col(step.column).cast(pl.String)
    words: Any = list(step.codes.values())
    kind = pl.Series(words, strict=False).dtype
    if step.unmapped == "keep":
        mapped = code.replace(list(step.codes), [None if word is None else str(word) for word in words])
    else:
        default = step.default if step.unmapped == "default" else None
        mapped = code.replace_strict(list(step.codes), words, default=default, return_dtype=kind)
        # What is missing is no code that was not mapped.
        mapped = pl.when(code.is_not_null()).then(mapped)
    return rows.with_columns(mapped.alias(step.into or step.column))


def _as_of(
    rows: pl.LazyFrame, other: pl.DataFrame, ours: list[str], theirs: list[str], step: Join
) -> pl.LazyFrame:
    # The last of the keys is the one that is compared; those before it must be equal.
    before = step.tolerance
    tolerance: Any = before
    joined = (
        rows.with_row_index(MARK)
        .sort(ours[-1], nulls_last=True)
        .join_asof(
            other.lazy().sort(theirs[-1], nulls_last=True),
            left_on=ours[-1],
            right_on=theirs[-1],
            by_left=ours[:-1] or None,
            by_right=theirs[:-1] or None,
            strategy="backward",
            tolerance=tolerance,
            suffix=step.suffix,
            check_sortedness=False,
        )
    )
    return joined.sort(MARK).drop(MARK)


# --- all rows at once -------------------------------------------------------------------------------


def _whole(rows: pl.LazyFrame, step: Step) -> pl.LazyFrame:
    match step:
        case Deduplicate():
            _known(rows, [*step.keys, *([step.order_by] if step.order_by else [])])
            if step.order_by is None:
                return rows.unique(step.keys, keep=step.keep, maintain_order=True)
            kept = rows.with_row_index(MARK).sort(step.order_by, MARK, nulls_last=False)
            return kept.unique(step.keys, keep="last", maintain_order=True).sort(MARK).drop(MARK)
        case Aggregate():
            _known(rows, step.by)
            columns = [_expression(text).alias(name) for name, text in step.columns.items()]
            # Sorted, so that the same rows always give the same table.
            return rows.group_by(step.by).agg(columns).sort(step.by) if step.by else rows.select(columns)
        case Window():
            _known(rows, [*step.partition_by, *step.order_by])
            by: list[Any] = list(step.partition_by) or [pl.lit(1)]
            return rows.sort(step.order_by, maintain_order=True).with_columns(
                _windowed(rows, spec).over(by).alias(name) for name, spec in step.columns.items()
            )
        case Pivot():
            return _pivoted(rows, step)
        case Unpivot():
            index = [name for name in _columns(rows) if name not in _known(rows, step.columns)]
            return rows.unpivot(
                on=list(step.columns), index=index, variable_name=step.name, value_name=step.value
            )
        case _:
            raise AssertionError(step)


def _windowed(rows: pl.LazyFrame, spec: Windowed) -> pl.Expr:
    if spec.function == "row_number":
        return pl.int_range(1, pl.len() + 1)
    if spec.column is None:
        raise _StepError(f"{spec.function} needs `column`")
    column = pl.col(_known(rows, [spec.column])[0])
    match spec.function:
        case "rank":
            return column.rank("min")
        case "lag":
            return column.shift(spec.rows)
        case "lead":
            return column.shift(-spec.rows)
        case "cumulative_sum":
            return column.cum_sum()
        case "rolling_sum":
            return column.rolling_sum(spec.rows, min_samples=1)
        case "rolling_mean":
            return column.rolling_mean(spec.rows, min_samples=1)
        case "rolling_min":
            return column.rolling_min(spec.rows, min_samples=1)
        case _:
            return column.rolling_max(spec.rows, min_samples=1)


def _pivoted(rows: pl.LazyFrame, step: Pivot) -> pl.LazyFrame:
    _known(rows, [*step.by, step.column, step.of])
    code = pl.col(step.column).cast(pl.String)
    columns = []
    for value, name in step.values.items():
        of = pl.col(step.of).filter(code == value)
        functions: dict[str, Callable[[], pl.Expr]] = {
            # Of no row, a sum is missing and not zero: that is a fact about the group.
            "sum": lambda of=of: pl.when(of.count() > 0).then(of.sum()),  # type: ignore[misc]
            "mean": of.mean,
            "min": of.min,
            "max": of.max,
            "count": of.count,
            "first": of.first,
        }
        columns.append(functions[step.aggregate]().alias(name))
    return rows.group_by(step.by).agg(columns).sort(step.by)


# --- inputs and errors ------------------------------------------------------------------------------


def _read_input(name: str, given: Input) -> pl.DataFrame:
    path = Path(given.path)
    try:
        if given.table is not None:
            import duckdb

            with duckdb.connect(path, read_only=True) as database:
                found: pl.DataFrame = database.table(given.table).pl()
                return found
        if (path / "_delta_log").is_dir():
            return pl.read_delta(str(path))
        if path.is_dir():
            return pl.read_parquet(path / "**/*.parquet", hive_partitioning=False)
        if path.suffix in {".csv", ".tsv"}:
            return pl.read_csv(
                path, infer_schema_length=None, separator="\t" if path.suffix == ".tsv" else ","
            )
        if path.suffix in {".jsonl", ".ndjson"}:
            return pl.read_ndjson(path, infer_schema_length=None)
        return pl.read_parquet(path, hive_partitioning=False)
    except Exception as error:
        raise PenstockError(
            f"inputs.{name}: {given.path}: {_first_line(error)}",
            hint="Parquet (a file, a folder, a glob), CSV, JSON lines, a Delta table; `table` for one of a DuckDB file",
        ) from error


def _columns(rows: pl.LazyFrame) -> list[str]:
    return rows.collect_schema().names()


def _known(rows: pl.LazyFrame, names: Sequence[str], what: str = "") -> list[str]:
    there = _columns(rows)
    for name in names:
        if name not in there:
            near = difflib.get_close_matches(name, there, n=1)
            raise _StepError(
                f"{what + ': ' if what else ''}there is no column {name!r}",
                f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(there[:20])}",
            )
    return list(names)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _failed(at: int, step: Step, message: str, hint: str | None) -> PenstockError:
    return PenstockError(f"steps[{at}] ({step.op}): {message}", hint=hint or "mend it in conf/load/")


def _explained(at: int, step: Step, error: Exception, columns: Sequence[str]) -> PenstockError:
    if isinstance(error, _StepError):
        return _failed(at, step, str(error), error.hint)
    hint = None
    if isinstance(error, pl.exceptions.ColumnNotFoundError):
        words = [word for word in str(error).replace('"', " ").split() if word not in columns]
        near = [
            match for word in words for match in difflib.get_close_matches(word, columns, n=1, cutoff=0.7)
        ]
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(columns[:20])}"
    return _failed(at, step, _first_line(error), hint)
