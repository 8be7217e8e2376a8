"""Tables of a warehouse: rows wait in a temporary table, and one transaction makes them and the state part of it.

The statements are the same for DuckDB and PostgreSQL but for names of types and a few words.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import polars as pl

from penstock.config.loading import AfterStep
from penstock.errors import PenstockError
from penstock.loading.destinations.interface import VALID_FROM, VALID_TO, Committed, Plan, Table
from penstock.loading.destinations.merging import widened
from penstock.loading.state import LINEAGE, State

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["SqlTable", "quoted"]

REGISTER = "_penstock_tables"
STAGE = "_penstock_stage"
TURNED = "_penstock_turned"
SEQUENCE = "_penstock_sequence"
STAGED_AT = "_penstock_part"
UTC_TIME = pl.Datetime("us", "UTC")


def quoted(name: str) -> str:
    """An identifier as SQL takes it to the letter."""
    return '"' + name.replace('"', '""') + '"'


def _listed(names: Sequence[str], prefix: str = "") -> str:
    return ", ".join(prefix + quoted(name) for name in names)


def _same(names: Sequence[str], one: str, other: str) -> str:
    return (
        " AND ".join(f"{one}.{quoted(n)} IS NOT DISTINCT FROM {other}.{quoted(n)}" for n in names) or "TRUE"
    )


def _older(order: str, one: str, other: str) -> str:
    """Whether a row is older than another by the column that says so: a missing value is the smallest. Never null."""
    one, other = f"{one}.{quoted(order)}", f"{other}.{quoted(order)}"
    return f"({other} IS NOT NULL AND ({one} IS NULL OR {one} < {other}))"


class SqlTable(Table):
    """What DuckDB and PostgreSQL have in common.

    A kind says how to execute, how to copy a frame into the temporary table, and what its types are called.
    """

    integer = "BIGINT"
    number = "DOUBLE PRECISION"
    moment = "TIMESTAMP WITH TIME ZONE"
    binary = "BYTEA"
    longest_name = 10_000

    def __init__(self, table: str) -> None:
        self.schema_name, _, self.table_name = table.rpartition(".")
        self.target = (
            f"{quoted(self.schema_name)}.{quoted(self.table_name)}" if self.schema_name else quoted(table)
        )
        self._key = table
        self._staged = 0
        self._stage_schema: dict[str, pl.DataType] = {}
        self._register()

    # --- what a kind does ---------------------------------------------------------------------------

    @abstractmethod
    def _execute(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run a statement; ``%s`` stands for each value."""

    @abstractmethod
    def _changed(self, statement: str, values: Sequence[Any] = ()) -> int:
        """Run a statement; returns how many rows it changed."""

    @abstractmethod
    def _copy(self, frame: pl.DataFrame) -> None:
        """Add rows to the temporary table, whose columns are those of ``frame`` in its order."""

    @abstractmethod
    def _exists(self) -> bool:
        """Whether the table is there."""

    @abstractmethod
    def _retype(self, name: str, kind: str) -> str:
        """The clause of ALTER TABLE that changes a column's type."""

    # --- state --------------------------------------------------------------------------------------

    def _register(self) -> None:
        if self.schema_name:
            self._execute(f"CREATE SCHEMA IF NOT EXISTS {quoted(self.schema_name)}")
        self._execute(
            f"CREATE TABLE IF NOT EXISTS {REGISTER} (name TEXT PRIMARY KEY, state TEXT NOT NULL, columns TEXT NOT NULL)"
        )
        found = self._execute(f"SELECT state, columns FROM {REGISTER} WHERE name = %s", [self._key])
        if not found and self._exists():
            raise PenstockError(
                f"{self.name}: is there already, and no load made it",
                hint="name another table, or move that one out of the way",
            )
        if found:
            self._state = State.model_validate_json(found[0][0])
            self._columns = {name: self._type_of(word) for name, word in json.loads(found[0][1]).items()}
        else:
            self._state, self._columns = State(), {}

    @property
    def state(self) -> State:
        return self._state

    # --- types --------------------------------------------------------------------------------------

    def _word(self, kind: pl.DataType) -> str:
        """A type as the register writes it, and ``_type_of`` reads it."""
        if kind.is_integer():
            return "integer"
        if kind.is_float():
            return "number"
        if isinstance(kind, pl.Decimal):
            return f"decimal {kind.scale}"
        words = {
            pl.Boolean: "boolean",
            pl.Date: "date",
            pl.Datetime: "datetime",
            pl.Binary: "binary",
            pl.Time: "time",
        }
        return words.get(kind.base_type(), "text")

    @staticmethod
    def _type_of(word: str) -> pl.DataType:
        if word.startswith("decimal"):
            return pl.Decimal(38, int(word.split()[1]))
        kinds: Mapping[str, pl.DataType] = {
            "integer": pl.Int64(),
            "number": pl.Float64(),
            "boolean": pl.Boolean(),
            "date": pl.Date(),
            "datetime": UTC_TIME,
            "binary": pl.Binary(),
            "time": pl.Time(),
        }
        return kinds.get(word, pl.String())

    def _sql_type(self, kind: pl.DataType) -> str:
        word = self._word(kind)
        if word.startswith("decimal"):
            return f"DECIMAL(38, {word.split()[1]})"
        return {
            "integer": self.integer,
            "number": self.number,
            "boolean": "BOOLEAN",
            "date": "DATE",
            "datetime": self.moment,
            "binary": self.binary,
            "time": "TIME",
        }.get(word, "TEXT")

    # --- staging ------------------------------------------------------------------------------------

    def stage(self, frame: pl.DataFrame) -> None:
        if not frame.height:
            return
        long = [name for name in frame.columns if len(name.encode()) > self.longest_name]
        if long:
            raise PenstockError(
                f"{self.name}: the name of the column {long[0]!r} has more than {self.longest_name} bytes",
                hint="rename it in `steps`",
            )
        schema = {name: self._type_of(self._word(kind)) for name, kind in frame.schema.items()}
        frame = frame.select(_cast(name, frame.schema[name], kind) for name, kind in schema.items())
        if not self._stage_schema:
            self._stage_schema = schema
            self._create_stage(STAGE, schema)
        else:
            self._widen_stage(schema)
        missing = [name for name in self._stage_schema if name not in schema]
        whole = frame.with_columns(
            *[pl.lit(None, dtype=self._stage_schema[name]).alias(name) for name in missing]
        ).select(_cast(name, schema.get(name, kind), kind) for name, kind in self._stage_schema.items())
        sequence = pl.int_range(self._staged, self._staged + frame.height, eager=True).alias(SEQUENCE)
        self._copy(whole.with_columns(sequence))
        self._staged += frame.height

    def _create_stage(self, name: str, schema: Mapping[str, pl.DataType]) -> None:
        self._execute(f"DROP TABLE IF EXISTS {name}")
        columns = ", ".join(f"{quoted(n)} {self._sql_type(kind)}" for n, kind in schema.items())
        self._execute(f"CREATE TEMPORARY TABLE {name} ({columns}, {SEQUENCE} BIGINT)")

    def _widen_stage(self, schema: Mapping[str, pl.DataType]) -> None:
        both = dict(self._stage_schema)
        for name, kind in schema.items():
            both[name] = widened(both[name], kind) if name in both else kind
        if both == self._stage_schema:
            return
        # A new temporary table: its columns must stay in the order that `_copy` takes, the sequence last.
        self._execute(f"ALTER TABLE {STAGE} RENAME TO {STAGE}_before")
        old = self._stage_schema
        self._stage_schema = both
        columns = ", ".join(f"{quoted(n)} {self._sql_type(kind)}" for n, kind in both.items())
        self._execute(f"CREATE TEMPORARY TABLE {STAGE} ({columns}, {SEQUENCE} BIGINT)")
        values = ", ".join(
            f"CAST({quoted(n)} AS {self._sql_type(kind)})"
            if n in old
            else f"CAST(NULL AS {self._sql_type(kind)})"
            for n, kind in both.items()
        )
        self._execute(f"INSERT INTO {STAGE} SELECT {values}, {SEQUENCE} FROM {STAGE}_before")
        self._execute(f"DROP TABLE {STAGE}_before")

    def rollback(self) -> None:
        self._execute(f"DROP TABLE IF EXISTS {STAGE}")
        self._staged, self._stage_schema = 0, {}

    # --- committing ---------------------------------------------------------------------------------

    def commit(self, state: State, plan: Plan) -> Committed:
        self._execute("BEGIN")
        columns = dict(self._columns)
        try:
            done = self._store(plan)
            words = json.dumps({name: self._word(kind) for name, kind in self._columns.items()})
            self._execute(f"DELETE FROM {REGISTER} WHERE name = %s", [self._key])
            self._execute(
                f"INSERT INTO {REGISTER} VALUES (%s, %s, %s)", [self._key, state.model_dump_json(), words]
            )
            rows = self._execute(f"SELECT count(*) FROM {self.target}")[0][0] if self._columns else 0
        except BaseException:
            self._execute("ROLLBACK")
            self._columns = columns
            raise
        self._execute("COMMIT")
        self._state = state
        self.rollback()
        return Committed(*done, rows=rows)

    def _store(self, plan: Plan) -> tuple[int, int, int]:
        if plan.write == "replace":
            self._execute(f"DROP TABLE IF EXISTS {self.target}")
            self._columns = {}
        if not self._staged:
            return 0, 0, 0
        self._shape(plan)
        names = [*self._stage_schema]
        if plan.write == "scd2":
            return self._turn(names, plan)
        if plan.write == "merge" or plan.keys:
            return self._merge(names, plan)
        self._execute(
            f"INSERT INTO {self.target} ({_listed(names)}) SELECT {_listed(names)} FROM {STAGE} ORDER BY {SEQUENCE}"
        )
        return self._staged, 0, 0

    def _shape(self, plan: Plan) -> None:
        """Make the table, or give it the columns and types that staged rows need."""
        wanted = dict(self._stage_schema)
        if plan.write == "scd2":
            wanted |= {VALID_FROM: UTC_TIME, VALID_TO: UTC_TIME}
        if not self._columns:
            columns = ", ".join(f"{quoted(name)} {self._sql_type(kind)}" for name, kind in wanted.items())
            self._execute(f"CREATE TABLE {self.target} ({columns})")
            if plan.keys:
                self._index(plan.keys)
            self._columns = wanted
            return
        for name, kind in wanted.items():
            if name not in self._columns:
                self._execute(f"ALTER TABLE {self.target} ADD COLUMN {quoted(name)} {self._sql_type(kind)}")
                self._columns[name] = kind
                continue
            wider = widened(self._columns[name], kind)
            if wider != self._columns[name]:
                self._execute(f"ALTER TABLE {self.target} {self._retype(name, self._sql_type(wider))}")
                self._columns[name] = wider

    def _index(self, keys: Sequence[str]) -> None:
        """Make finding rows by their keys quick, where that needs saying."""

    def _values(self, names: Sequence[str], keys: Sequence[str]) -> list[str]:
        return [name for name in names if name not in {*keys, *LINEAGE, VALID_FROM, VALID_TO}]

    def _ranked(self, plan: Plan) -> str:
        """The order in which staged rows of one key are the better ones, the best first."""
        if plan.write == "append":
            return f"{SEQUENCE}"
        later = f"{quoted(plan.order)} DESC NULLS LAST, " if plan.order else ""
        return f"{later}{SEQUENCE} DESC"

    def _one_each(self, plan: Plan) -> None:
        """Leave one staged row for each key."""
        self._execute(
            f"DELETE FROM {STAGE} WHERE {SEQUENCE} IN (SELECT {SEQUENCE} FROM (SELECT {SEQUENCE}, row_number() OVER "
            f"(PARTITION BY {_listed(plan.keys)} ORDER BY {self._ranked(plan)}) AS rank FROM {STAGE}) AS ranked "
            "WHERE rank > 1)"
        )

    def _merge(self, names: list[str], plan: Plan) -> tuple[int, int, int]:
        self._one_each(plan)
        # The table's columns that no staged row has keep their values only if the row stays.
        meet = _same(plan.keys, "s", "t")
        values = self._values([*self._columns], plan.keys)
        staged = [name for name in values if name in names]
        lacking = [name for name in values if name not in names]
        same = " AND ".join([_same(staged, "s", "t"), *[f"t.{quoted(name)} IS NULL" for name in lacking]])
        stays = f"({same})"
        if plan.write == "append":
            stays = "TRUE"
        elif plan.order:
            stays = f"({same} OR {_older(plan.order, 's', 't')})"
        self._execute(
            f"DELETE FROM {STAGE} WHERE {SEQUENCE} IN (SELECT s.{SEQUENCE} FROM {STAGE} s JOIN {self.target} t ON {meet} "
            f"WHERE {stays})"
        )
        updated = self._changed(
            f"DELETE FROM {self.target} AS t WHERE EXISTS (SELECT 1 FROM {STAGE} s WHERE {meet})"
        )
        inserted = self._changed(
            f"INSERT INTO {self.target} ({_listed(names)}) SELECT {_listed(names)} FROM {STAGE} ORDER BY {SEQUENCE}"
        )
        return inserted - updated, updated, self._staged - inserted

    def _turn(self, names: list[str], plan: Plan) -> tuple[int, int, int]:
        moment = plan.moment if isinstance(plan.moment, datetime) else datetime.now(UTC)
        loaded = f"CAST('{moment.astimezone(UTC).isoformat()}' AS {self.moment})"
        kind = None if plan.order is None else self._stage_schema.get(plan.order)
        begins, begins_after = loaded, f"c.{VALID_FROM}"
        later = f"c.{VALID_FROM} > n.{VALID_FROM}"
        if plan.order is not None and (kind == pl.Date or isinstance(kind, pl.Datetime)):
            begins = f"coalesce({self._as_moment(quoted(plan.order), kind)}, {loaded})"
        else:
            self._one_each(plan)
            # The version before may have begun in a commit of the same load, or by a clock that was set back since.
            begins_after = f"greatest(c.{VALID_FROM}, n.{VALID_FROM} + INTERVAL '1 microsecond')"
            later = "TRUE" if plan.order is None else f"NOT ({_older(plan.order, 'c', 'n')})"
        keys = _listed(plan.keys)
        every = [*self._columns]
        data = [name for name in every if name not in {VALID_FROM, VALID_TO}]
        coming = ", ".join(
            f"s.{quoted(name)}"
            if name in names
            else f"CAST(NULL AS {self._sql_type(self._columns[name])}) AS {quoted(name)}"
            for name in data
        )
        values = self._values(data, plan.keys)
        by_key = f"OVER (PARTITION BY {keys} ORDER BY {VALID_FROM})"
        same = (
            " AND ".join(f"{quoted(n)} IS NOT DISTINCT FROM lag({quoted(n)}) {by_key}" for n in values)
            or "TRUE"
        )
        # In one line for each key: the current version (-1), then what comes and is later, each moment once; of that,
        # what differs from the version before; and each ends where the next begins.
        self._execute(f"DROP TABLE IF EXISTS {TURNED}")
        self._execute(
            f"""
            CREATE TEMPORARY TABLE {TURNED} AS
            WITH coming AS (SELECT {coming}, {begins} AS {VALID_FROM}, {SEQUENCE} FROM {STAGE} s),
            now AS (
                SELECT {_listed(data, "t.")}, t.{VALID_FROM}, -1 AS {SEQUENCE} FROM {self.target} t
                WHERE t.{VALID_TO} IS NULL AND EXISTS (SELECT 1 FROM {STAGE} s WHERE {_same(plan.keys, "s", "t")})
            ),
            later AS (
                SELECT {_listed(data, "c.")}, {begins_after}, c.{SEQUENCE}
                FROM coming c LEFT JOIN now n ON {_same(plan.keys, "c", "n")}
                WHERE n.{VALID_FROM} IS NULL OR {later}
            ),
            line ({_listed(data)}, {VALID_FROM}, {SEQUENCE}) AS (SELECT * FROM now UNION ALL SELECT * FROM later),
            once AS (
                SELECT *, row_number() OVER (PARTITION BY {keys}, {VALID_FROM} ORDER BY {SEQUENCE} DESC) AS rank FROM line
            ),
            told AS (
                SELECT *, row_number() {by_key} = 1 AS first, {same} AS same FROM once WHERE rank = 1
            )
            SELECT {_listed(data)}, {VALID_FROM}, lead({VALID_FROM}) {by_key} AS {VALID_TO}, {SEQUENCE}
            FROM told WHERE first OR NOT same
            """
        )
        closed = self._changed(
            f"UPDATE {self.target} AS t SET {VALID_TO} = n.{VALID_TO} FROM {TURNED} n WHERE n.{SEQUENCE} < 0 "
            f"AND n.{VALID_TO} IS NOT NULL AND t.{VALID_TO} IS NULL AND {_same(plan.keys, 'n', 't')}"
        )
        into = _listed([*data, VALID_FROM, VALID_TO])
        added = self._changed(
            f"INSERT INTO {self.target} ({into}) SELECT {into} FROM {TURNED} WHERE {SEQUENCE} >= 0 ORDER BY {SEQUENCE}"
        )
        self._execute(f"DROP TABLE {TURNED}")
        return added, closed, self._staged - added

    def _as_moment(self, column: str, kind: pl.DataType | None) -> str:
        # A date begins at midnight, UTC.
        if kind == pl.Date:
            return f"(CAST({column} AS TIMESTAMP) AT TIME ZONE 'UTC')"
        return f"CAST({column} AS {self.moment})"

    # --- afterwards ---------------------------------------------------------------------------------

    def after(self, step: AfterStep) -> int:
        schema, _, table = step.table.rpartition(".")
        target = f"{quoted(schema)}.{quoted(table)}" if schema else quoted(table)
        if target == self.target:
            raise PenstockError(f"after: {step.table} is the table that is loaded", hint="name another")
        kind = step.kind.upper()
        self._execute("BEGIN")
        try:
            # Readers see the old or the new one: both databases have transactions for tables, too.
            if schema:
                self._execute(f"CREATE SCHEMA IF NOT EXISTS {quoted(schema)}")
            self._execute(f"DROP {kind} IF EXISTS {target}")
            self._execute(f"CREATE {kind} {target} AS {step.query.rstrip().rstrip(';')}")
            rows = int(self._execute(f"SELECT count(*) FROM {target}")[0][0])
        except PenstockError as error:
            self._execute("ROLLBACK")
            raise PenstockError(f"after: {step.table}: {error.message}", hint=error.hint) from error
        self._execute("COMMIT")
        return rows


def _cast(name: str, found: pl.DataType, kind: pl.DataType) -> pl.Expr:
    column = pl.col(name)
    if found == kind:
        return column
    if isinstance(kind, pl.Datetime):
        zoned = column.cast(pl.Datetime("us")) if found == pl.Date else column
        has_zone = getattr(found, "time_zone", None)
        zoned = zoned.dt.convert_time_zone("UTC") if has_zone else zoned.dt.replace_time_zone("UTC")
        return zoned.dt.cast_time_unit("us").alias(name)
    return column.cast(kind)
