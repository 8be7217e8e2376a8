"""Transformation as declared: polars for what has a name, DuckDB for a query.

Steps that look at one row at a time are applied to each chunk as it streams by; from the first that needs all rows on,
the rest runs lazily over chunks that were put aside on disk. Expressions are SQL's by ``polars.sql_expr``, which was
preferred to a language of our own: people know it, and polars runs it as fast as what is written by hand.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import get_args

import polars as pl

from penstock.config.loading.steps import Cast, Input, Join, MapCodes, Sql, Step, Union
from penstock.contract import QUARANTINE_SCHEMA
from penstock.errors import PenstockError
from penstock.loading.state import LINEAGE
from penstock.loading.steps_columns import columns
from penstock.loading.steps_expressions import StepError, first_line, near
from penstock.loading.steps_inputs import Inputs
from penstock.loading.steps_query import queried
from penstock.loading.steps_rows import COMPARE, RowStep, divided, judges, multiplies, parts, planned
from penstock.loading.steps_tables import together, whole

__all__ = ["Stepped", "Transformation"]

BATCH_ROWS = 100_000
_Numbered = tuple[int, Step]


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
        self.inputs = Inputs(inputs)
        first = next(
            (at for at, step in enumerate(steps) if not isinstance(step, get_args(RowStep))), len(steps)
        )
        self.each: list[_Numbered] = list(enumerate(steps))[:first]
        self.all: list[_Numbered] = list(enumerate(steps))[first:]
        for at, step in enumerate(steps):
            if isinstance(step, Join | Union) and step.input not in inputs:
                raise _failed(
                    at,
                    step,
                    f"there is no input {step.input!r}",
                    near(step.input, list(inputs)) or f"declared in inputs: {', '.join(inputs) or 'none'}",
                )
        for name in inputs:
            if name == "rows":
                raise PenstockError(
                    "inputs.rows: is what the rows of the load are called", hint="choose another name"
                )
        for at, step in self.all:
            if judges(step):
                raise _failed(
                    at,
                    step,
                    "a row made of many has no origin that quarantine could name",
                    "put the step before those that need all rows, or choose null",
                )

    @property
    def rowwise(self) -> bool:
        """Whether no step needs all rows."""
        return not self.all

    # --- chunk by chunk -----------------------------------------------------------------------------

    def apply(self, frame: pl.DataFrame) -> Stepped:
        """Apply the steps that look at one row at a time, up to the first that does not.

        Rows in = rows out + filtered + bad, unless a join doubles rows (``validate_keys: m:m``).

        Raises:
            PenstockError: A step is not possible with these rows; it is named.
        """
        bad = [pl.DataFrame(schema=QUARANTINE_SCHEMA)]
        reasons: dict[str, int] = {}
        filtered = 0
        # Steps that can be one plan are one: nothing is held between them.
        for _, group in groupby(self.each, key=_kind):
            steps = list(group)
            height = frame.height
            if judges(steps[0][1]):
                frame, rejected, broken = self._divided(frame, *steps[0])
                bad.append(rejected)
                for rule, count in broken.items():
                    reasons[rule] = reasons.get(rule, 0) + count
            elif multiplies(steps[0][1]):
                filtered += self._unmatched(frame, *steps[0])
                frame = self._collected(frame, steps)
            else:
                frame = self._collected(frame, steps)
                filtered += height - frame.height
        return Stepped(frame, pl.concat(bad), reasons, filtered)

    def _planned(self, rows: pl.LazyFrame, at: int, step: Step, *, streamed: bool = False) -> pl.LazyFrame:
        assert isinstance(step, get_args(RowStep))
        try:
            plan = planned(rows, at, step, self.inputs, streamed=streamed)
            plan.collect_schema()
        except (pl.exceptions.PolarsError, StepError) as error:
            raise _explained(at, step, error, columns(rows)) from error
        return plan

    def _collected(self, frame: pl.DataFrame, steps: Sequence[_Numbered]) -> pl.DataFrame:
        rows = frame.lazy()
        for at, step in steps:
            rows = self._planned(rows, at, step)
        try:
            return rows.collect()
        except pl.exceptions.PolarsError:
            self._find_culprit(frame, steps)
            raise

    def _find_culprit(self, frame: pl.DataFrame, steps: Sequence[_Numbered]) -> None:
        """Run steps one by one, so that the one that fails can be named."""
        for at, step in steps:
            for of, part in parts(step):  # type: ignore[arg-type]
                try:
                    self._planned(frame.lazy(), at, part).collect()
                except pl.exceptions.PolarsError as error:
                    raise _explained(at, step, error, frame.columns, of) from error
            frame = self._planned(frame.lazy(), at, step).collect()

    def _divided(
        self, frame: pl.DataFrame, at: int, step: Step
    ) -> tuple[pl.DataFrame, pl.DataFrame, dict[str, int]]:
        assert isinstance(step, MapCodes | Cast)
        try:
            return divided(frame.lazy(), step)
        except (pl.exceptions.PolarsError, StepError) as error:
            raise _explained(at, step, error, frame.columns) from error

    def _unmatched(self, frame: pl.DataFrame, at: int, step: Step) -> int:
        """Rows that a join leaves out which makes several of others."""
        assert isinstance(step, Join)
        if step.how == "left":
            return 0
        without = step.model_copy(update={"how": "anti", "columns": ()})
        return self._collected(frame, [(at, without)]).height

    # --- all rows -----------------------------------------------------------------------------------

    def apply_whole(self, folder: Path, sink: Callable[[pl.DataFrame], None]) -> int:
        """Apply the remaining steps to all rows, put aside as Parquet files in ``folder``, lazily.

        A row made of many has no origin, so lineage ends here.

        Args:
            folder: Of the rows so far; what steps put aside goes there, too.
            sink: Takes the rows that come out, some at a time.

        Returns:
            How many came out.

        Raises:
            PenstockError: A step is not possible with these rows; it is named.
        """
        rows = _spilt(folder)
        plans: list[tuple[int, Step, pl.LazyFrame]] = []
        made = 0
        try:
            for at, step in self.all:
                rows = self._whole(rows, at, step, folder)
                plans.append((at, step, rows))
            for frame in rows.collect_batches(chunk_size=BATCH_ROWS):
                made += frame.height
                if frame.height:
                    sink(frame)
        except pl.exceptions.PolarsError as error:
            _find_culprit(plans)
            raise _explained(*self.all[len(plans) - 1], error, ()) from error
        return made

    def _whole(self, rows: pl.LazyFrame, at: int, step: Step, folder: Path) -> pl.LazyFrame:
        if isinstance(step, get_args(RowStep)):
            return self._planned(rows, at, step, streamed=True)
        if isinstance(step, Sql):
            named = {name: self.inputs.scan(name) for name in self.inputs.declared if name in step.query}
            try:
                return queried(rows, step.query, named, folder / f"step{at}")
            except StepError as error:
                raise _explained(at, step, error, columns(rows)) from error
        try:
            plan = whole(rows, step, self.inputs)  # type: ignore[arg-type]
            plan.collect_schema()
        except (pl.exceptions.PolarsError, StepError) as error:
            raise _explained(at, step, error, columns(rows)) from error
        return plan


def _find_culprit(plans: Sequence[tuple[int, Step, pl.LazyFrame]]) -> None:
    """Run plans one by one, so that the step that fails can be named."""
    for at, step, plan in plans:
        try:
            for _ in plan.collect_batches(chunk_size=BATCH_ROWS):
                pass
        except pl.exceptions.PolarsError as error:
            raise _explained(at, step, error, ()) from error


def _kind(numbered: _Numbered) -> int:
    """Steps of one kind in a row are one plan; one that judges or multiplies rows stands alone."""
    at, step = numbered
    return at if judges(step) or multiplies(step) else -1


def _spilt(folder: Path) -> pl.LazyFrame:
    """All rows, in their order. Columns may have come, and types have become wider, from one chunk to the next."""
    files = sorted(folder.glob("*.parquet"))
    schemas = groupby(files, key=lambda file: list(pl.read_parquet_schema(file).items()))
    return together([pl.scan_parquet(list(same)) for _, same in schemas]).drop(LINEAGE, strict=False)


# --- errors -----------------------------------------------------------------------------------------


def _failed(at: int, step: Step, message: str, hint: str | None) -> PenstockError:
    return PenstockError(f"steps[{at}] ({step.op}): {message}", hint=hint or "mend it in conf/load/")


def _explained(at: int, step: Step, error: Exception, there: Sequence[str], of: str = "") -> PenstockError:
    if isinstance(error, StepError):
        return _failed(at, step, str(error), error.hint)
    message, hint = first_line(error), None
    missing = re.search(r'unable to find column "([^"]+)"', message)
    if missing is not None:
        message = f"there is no column {missing[1]!r}"
        hint = near(missing[1], list(there)) or f"there are: {', '.join(there[:20])}"
    elif "cannot compare" in message or "could not evaluate" in message:
        hint = COMPARE
    elif "conversion from" in message:
        hint = "TRY_CAST gives nothing for what does not fit; the step `cast` sends it to quarantine"
    return _failed(at, step, of + message, hint)
