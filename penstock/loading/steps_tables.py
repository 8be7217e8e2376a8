"""Steps that need all rows, as plans of polars that stream as far as what is asked for allows.

An aggregate holds its groups and a join its input; what orders rows (window, deduplicate by a column) holds them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import reduce

import polars as pl

from penstock.config.loading.steps import Aggregate, Deduplicate, Pivot, Union, Unpivot, Window, Windowed
from penstock.loading.destinations.merging import widened
from penstock.loading.steps_columns import columns, free, known, settled, word
from penstock.loading.steps_expressions import StepError, expression
from penstock.loading.steps_inputs import Inputs

__all__ = ["TableStep", "together", "whole"]

TableStep = Deduplicate | Aggregate | Window | Union | Pivot | Unpivot
MARK = "\0row"


def whole(rows: pl.LazyFrame, step: TableStep, inputs: Inputs) -> pl.LazyFrame:
    """Add a step to a plan.

    Raises:
        StepError: It is not possible with these columns.
    """
    match step:
        case Deduplicate():
            return _deduplicated(rows, step)
        case Aggregate():
            return _aggregated(rows, step)
        case Window():
            return _windowed(rows, step)
        case Union():
            return _united(rows, step, inputs)
        case Pivot():
            return _pivoted(rows, step)
        case Unpivot():
            return _unpivoted(rows, step)


def _deduplicated(rows: pl.LazyFrame, step: Deduplicate) -> pl.LazyFrame:
    known(rows, step.keys)
    if step.order_by is None:
        return rows.unique(step.keys, keep=step.keep or "first", maintain_order=True)
    keep = step.keep or "last"
    ordered = rows.with_row_index(MARK).sort(
        known(rows, [step.order_by]), nulls_last=False, maintain_order=True
    )
    return ordered.unique(step.keys, keep=keep, maintain_order=True).sort(MARK).drop(MARK)


def _distinct(names: Iterable[str]) -> None:
    listed = list(names)
    for name in listed:
        if listed.count(name) > 1:
            raise StepError(f"there would be two columns {name!r}", "choose another name")


def _aggregated(rows: pl.LazyFrame, step: Aggregate) -> pl.LazyFrame:
    known(rows, step.by)
    _distinct([*step.by, *free(step.columns)])
    made = []
    for name, text in step.columns.items():
        value = expression(text, aggregate=True).alias(name)
        known(rows, value.meta.root_names(), f"{name}: {text!r}: ")
        kind = rows.group_by(pl.lit(1).alias(MARK)).agg(value).collect_schema()[name]
        if kind.is_nested():
            raise StepError(
                f"{name}: {text!r} has many values for a group",
                "put each column of it in a function of many rows",
            )
        made.append(value)
    # Sorted, so that the same rows always give the same table.
    table = rows.group_by(step.by).agg(made).sort(step.by) if step.by else rows.select(made)
    return settled(table, list(step.columns))


# --- windows ----------------------------------------------------------------------------------------


def _windowed(rows: pl.LazyFrame, step: Window) -> pl.LazyFrame:
    known(rows, [*step.partition_by, *step.order_by])
    free(step.columns)
    # A missing value is the smallest, whichever way.
    ordered = rows.sort(
        step.order_by, descending=step.descending, nulls_last=step.descending, maintain_order=True
    )
    made = [_function(rows, step, spec) for spec in step.columns.values()]
    if step.partition_by:
        made = [value.over(step.partition_by) for value in made]
    return settled(
        ordered.with_columns(value.alias(name) for name, value in zip(step.columns, made, strict=True)),
        list(step.columns),
    )


def _function(rows: pl.LazyFrame, step: Window, spec: Windowed) -> pl.Expr:
    number = pl.int_range(1, pl.len() + 1, dtype=pl.Int64)
    if spec.function == "row_number":
        return number
    if spec.function == "rank":
        # Rows are in order: the first of equal ones lends them its number.
        new = pl.any_horizontal(pl.col(name).ne_missing(pl.col(name).shift()) for name in step.order_by)
        return pl.when(new | (number == 1)).then(number).forward_fill()
    assert spec.column is not None  # the configuration does not load without it
    column = pl.col(known(rows, [spec.column])[0])
    if spec.function in {"lag", "lead"}:
        return column.shift((spec.rows or 1) * (1 if spec.function == "lag" else -1))
    kind = rows.collect_schema()[spec.column]
    if not kind.is_numeric():
        raise StepError(f"{spec.column!r} is {word(kind)}", f"{spec.function} is of numbers")
    if spec.function == "cumulative_sum":
        # A missing value adds nothing, and takes nothing from what was before it.
        return column.cum_sum().forward_fill()
    if spec.rows is not None:
        functions: dict[str, Callable[..., pl.Expr]] = {
            "rolling_sum": column.rolling_sum,
            "rolling_mean": column.rolling_mean,
            "rolling_min": column.rolling_min,
            "rolling_max": column.rolling_max,
        }
        return functions[spec.function](spec.rows, min_samples=1)
    return _within(rows, step.order_by[0], spec, column)


def _within(rows: pl.LazyFrame, order: str, spec: Windowed, column: pl.Expr) -> pl.Expr:
    kind, span = rows.collect_schema()[order], spec.within
    if not kind.is_temporal() and not kind.is_integer():
        raise StepError(f"{order!r} is {word(kind)}", "`within` is measured along a time or an integer")
    if kind.is_temporal() == isinstance(span, float):
        raise StepError(
            f"{order!r} is {word(kind)}, and `within: {span}` is not", "write 1h or 7d for a time"
        )
    if isinstance(span, float):
        span = f"{int(span)}i"  # type: ignore[assignment]
    functions: dict[str, Callable[..., pl.Expr]] = {
        "rolling_sum": column.rolling_sum_by,
        "rolling_mean": column.rolling_mean_by,
        "rolling_min": column.rolling_min_by,
        "rolling_max": column.rolling_max_by,
    }
    return functions[spec.function](order, window_size=span, min_samples=1, closed="both")


# --- other shapes -----------------------------------------------------------------------------------


def together(tables: list[pl.LazyFrame]) -> pl.LazyFrame:
    """Rows of all tables in their order, with the columns of all, each in a type with a place for all its values."""
    schema: dict[str, pl.DataType] = {}
    for table in tables:
        for name, kind in table.collect_schema().items():
            schema[name] = widened(schema.get(name, kind), kind)
    return pl.concat([_aligned(table, schema) for table in tables], how="vertical")


def _aligned(table: pl.LazyFrame, schema: dict[str, pl.DataType]) -> pl.LazyFrame:
    found = table.collect_schema()
    return table.select(
        (_widened(name, found[name], kind) if name in found else pl.lit(None, dtype=kind)).alias(name)
        for name, kind in schema.items()
    )


def _widened(name: str, found: pl.DataType, kind: pl.DataType) -> pl.Expr:
    column = pl.col(name)
    if found == pl.Date and isinstance(kind, pl.Datetime):
        return column.cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    return column if found == kind else column.cast(kind)


def _united(rows: pl.LazyFrame, step: Union, inputs: Inputs) -> pl.LazyFrame:
    other = settled(inputs.scan(step.input), of=f"the input {step.input!r}: ")
    mine, its = rows.collect_schema(), other.collect_schema()
    for name in its.names():
        if name in mine and widened(mine[name], its[name]) == pl.String != mine[name]:
            raise StepError(
                f"{name!r} is {word(mine[name])}, and {word(its[name])} in the input {step.input!r}",
                "cast it before, or rename it",
            )
        if name in mine and its[name] != pl.String == mine[name]:
            raise StepError(
                f"{name!r} is {word(mine[name])}, and {word(its[name])} in the input {step.input!r}",
                "cast it before, or rename it",
            )
    return together([rows, other])


def _pivoted(rows: pl.LazyFrame, step: Pivot) -> pl.LazyFrame:
    known(rows, [*step.by, step.column, step.of])
    _distinct([*step.by, *free(step.values.values())])
    schema = rows.collect_schema()
    if step.aggregate in {"sum", "mean"} and not schema[step.of].is_numeric():
        raise StepError(f"{step.of!r} is {word(schema[step.of])}", f"{step.aggregate} is of numbers")
    code = pl.col(step.column).cast(pl.String)
    if schema[step.column].is_float():
        whole_number = pl.col(step.column).cast(pl.Int64, strict=False)
        code = pl.when(pl.col(step.column) == whole_number).then(whole_number.cast(pl.String)).otherwise(code)
    made = []
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
        made.append(functions[step.aggregate]().alias(name))
    return settled(rows.group_by(step.by).agg(made).sort(step.by), list(step.values.values()))


def _unpivoted(rows: pl.LazyFrame, step: Unpivot) -> pl.LazyFrame:
    known(rows, step.columns)
    index = [name for name in columns(rows) if name not in step.columns]
    _distinct([*index, *free([step.name, step.value])])
    schema = rows.collect_schema()
    kind = reduce(widened, [schema[name] for name in step.columns])
    # Not polars' own unpivot: there, the order of rows depends on how they are cut into pieces.
    names = pl.lit(pl.Series([list(step.columns)], dtype=pl.List(pl.String)))
    values = pl.concat_list(_widened(name, schema[name], kind) for name in step.columns)
    return rows.select(*index, names.first().alias(step.name), values.alias(step.value)).explode(
        step.name, step.value
    )
