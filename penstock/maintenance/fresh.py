"""What a challenger learns from: rows of the request log whose truth is known, and some that the champion has learnt from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import polars as pl

from penstock import contract
from penstock.artifact.manifest import Manifest
from penstock.config.maintenance import Retraining
from penstock.errors import PenstockError
from penstock.monitoring.judged import TRUTH
from penstock.monitoring.log import STATUS, TIME, batches, truths
from penstock.monitoring.run import Monitoring
from penstock.storage import read_parquet, write_parquet

__all__ = ["BEFORE", "Fresh", "fresh_rows", "write_fresh"]

BEFORE = "before.parquet"
SEED = 20250117  # of which rows from before are taken: a round that is begun again takes the same


@dataclass(frozen=True)
class Fresh:
    """Logged rows with their truth, in the order of time.

    Attributes:
        learn: What a challenger may learn from.
        held: The latest, which it may not: it is compared on them.
        refused: Rows that break the champion's contract, by reason.
    """

    learn: pl.DataFrame
    held: pl.DataFrame
    refused: Mapping[str, int]

    @property
    def words(self) -> str:
        """In words."""
        bad = sum(self.refused.values())
        return f"{self.learn.height} fresh rows, {self.held.height} kept back" + (
            f", {bad} against the contract" if bad else ""
        )


def fresh_rows(monitoring: Monitoring, policy: Retraining, now: datetime) -> Fresh | None:
    """Rows of the log with their truth; None if there are none.

    Args:
        monitoring: Knows where the log is, and the champion with its contract.
        policy: How far back, and how much is kept back.
        now: The time, UTC.

    Raises:
        PenstockError: The log cannot be read.
    """
    view, manifest = monitoring.view, monitoring.model.manifest
    span = (now - policy.recent, now)
    known = truths(monitoring.truths, view.model, since=span[0])
    if not known.height:
        return None
    found = [
        batch.filter((pl.col(STATUS) == "ok") & pl.col(TRUTH).is_not_null())
        for batch in batches(monitoring.requests, manifest, view.model, span, known, arms=view.arms)
    ]
    if not any(batch.height for batch in found):
        return None
    rows = pl.concat(found, how="diagonal_relaxed").sort(TIME, maintain_order=True)
    good, refused = _checked(rows, manifest)
    cut = round(good.height * (1 - policy.held))
    return Fresh(good[:cut], good[cut:], refused)


def _checked(rows: pl.DataFrame, manifest: Manifest) -> tuple[pl.DataFrame, dict[str, int]]:
    """Rows that fit the contract, typed, with the target; and how many do not, by reason."""
    absent = [pl.lit(None).alias(name) for name in manifest.columns if name not in rows.columns]
    inputs = rows.with_columns(absent).select(list(manifest.columns))
    checked = contract.check(inputs, manifest.columns, source="request log", position=0)
    target = rows[TRUTH][checked.kept].alias(manifest.target)
    refused = dict(checked.reasons)
    good = checked.good.with_columns(target)
    if manifest.task == "regression":
        good = good.with_columns(pl.col(manifest.target).cast(pl.Float64, strict=False))
        known = pl.col(manifest.target).is_not_null()
    else:
        known = pl.col(manifest.target).cast(pl.String).is_in(list(manifest.classes or ()))
    kept = good.filter(known)
    if kept.height < good.height:
        refused["truth"] = good.height - kept.height
    return kept, refused


def write_fresh(fresh: Fresh, policy: Retraining, root: Path, clone: Path) -> int:
    """Write what the data set's source reads in the clone; how many rows from before are among it.

    Args:
        fresh: Rows.
        policy: Where to.
        root: The repository, which has the rows from before.
        clone: Of it.

    Raises:
        PenstockError: The rows from before are not there, or have other columns.
    """
    if policy.fresh is None:
        return 0
    write_parquet(clone / policy.fresh, fresh.learn)
    if policy.before is None:
        return 0
    before = read_parquet(root / policy.before)
    absent = sorted(set(fresh.learn.columns) - set(before.columns))
    if absent:
        raise PenstockError(
            f"{policy.before}: has no column {', '.join(absent)}",
            hint="retraining.before in conf/maintenance/ is to name what the champion has learnt from",
        )
    most = min(before.height, round(fresh.learn.height * policy.mix))
    some = before.select(fresh.learn.columns).sample(most, seed=SEED)
    typed = some.cast(dict(fresh.learn.schema))  # type: ignore[arg-type]
    write_parquet((clone / policy.fresh).with_name(BEFORE), typed)
    return most
