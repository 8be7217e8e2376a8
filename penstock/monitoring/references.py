"""The reference that is declared, made from rows: the hold-out answered anew, or an earlier part of the log."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from penstock import contract
from penstock.artifact.manifest import Manifest
from penstock.config.monitoring import LogReference, Monitor, Season, TableReference
from penstock.errors import PenstockError
from penstock.monitoring.judged import SCORE, TRUTH, Target
from penstock.monitoring.log import STATUS, TIME, answers_of, batches, truths
from penstock.monitoring.reference import Calibration, Reference, reference_of
from penstock.monitoring.skew import Replay
from penstock.storage import read_parquet, replacing

if TYPE_CHECKING:
    from penstock.artifact.model import Model

__all__ = ["References", "references", "replaying", "season_of"]

CALIBRATED = 2  # how: calibrations of another way are not used


def season_of(moment: datetime, season: Season) -> str:
    """Which season a moment is of, UTC; always the same without any."""
    if season == "hour_of_day":
        return f"{moment.hour:02d}"
    if season == "day_of_week":
        return str(moment.weekday())
    if season == "hour_of_week":
        return f"{moment.weekday()}-{moment.hour:02d}"
    return ""


@dataclass
class References:
    """References by season, with what has been calibrated kept on disk.

    Attributes:
        by_season: At least "" (all seasons together), for seasons that the reference does not know.
        folder: Where calibrations are kept.
        digest: Of rows and limits: calibrations of another reference are not used.
    """

    by_season: dict[str, Reference]
    folder: Path
    digest: str

    def of(self, moment: datetime, season: Season) -> Reference:
        """The one for windows that begin at a moment."""
        return self.by_season.get(season_of(moment, season), self.by_season[""])

    def calibrated(self, reference: Reference, kind: str, rows: int) -> None:
        """Have the calibration ready, from disk if it was made before."""
        name = next(name for name, one in self.by_season.items() if one is reference)
        size = reference.rung(rows)
        path = self.folder / "calibrations" / f"{self.digest}-{name or 'all'}-{kind}-{size}.npz"
        if path.is_file():
            with np.load(path, allow_pickle=False) as stored:
                families = sorted({key.partition("/")[0] for key in stored.files})
                reference.known[kind, size] = {
                    family: Calibration(
                        stored[f"{family}/middle"],
                        stored[f"{family}/spread"],
                        float(stored[f"{family}/limit"]),
                    )
                    for family in families
                }
            return
        made = reference.calibration(kind, rows)
        with replacing(path) as temporary, temporary.open("wb") as file:
            arrays = {
                f"{family}/{what}": np.asarray(getattr(one, what))
                for family, one in made.items()
                for what in ("middle", "spread", "limit")
            }
            np.savez(file, **arrays)  # type: ignore[arg-type]


def references(view: Monitor, model: Model, root: Path, folder: Path) -> References:
    """Make what is declared.

    Args:
        view: What is declared.
        model: The artefact, loaded.
        root: The repository.
        folder: The monitor's own, for calibrations.

    Raises:
        PenstockError: There are no such rows, or too few.
    """
    manifest = model.manifest
    declared = view.reference
    if isinstance(declared, TableReference):
        frame, source = _table(declared, model, root), declared.path
    else:
        frame, source = _logged(declared, view, manifest, root), f"{view.requests}/{view.model}"
    target = Target(manifest.task, manifest.positive, manifest.threshold or 0.5)
    inputs = [name for name in manifest.columns if name in frame.columns and name not in view.ignore]
    parts = {"": frame}
    if view.season != "none" and TIME in frame.columns:
        keyed = [season_of(datetime.fromtimestamp(time / 1e9, UTC), view.season) for time in frame[TIME]]
        keys = pl.Series("season", keyed)
        parts |= {name: frame.filter(keys == name) for name in sorted(set(keyed))}
    made = {
        name: reference_of(part, inputs, target, view.limits, slices=view.slices, source=source)
        for name, part in parts.items()
        if not name or part.height >= 200
    }
    said = f"{CALIBRATED}|{view.limits.model_dump_json()}|{view.slices}|{view.season}|{inputs}|{frame.hash_rows().sum()}"
    return References(made, folder, hashlib.sha256(said.encode()).hexdigest()[:16])


def _table(declared: TableReference, model: Model, root: Path) -> pl.DataFrame:
    frame = read_parquet(root / declared.path)
    manifest = model.manifest
    lacking = [name for name in (*manifest.columns, manifest.target) if name not in frame.columns]
    if lacking:
        raise PenstockError(
            f"{declared.path}: columns of the model are not there: {', '.join(map(repr, lacking[:5]))}",
            hint="name the hold-out before features are derived: reference.path: data/prepared/NAME/holdout.parquet",
        )
    checked = contract.check(frame, manifest.columns, source=declared.path, position=0)
    truth = frame[manifest.target][checked.kept].alias(TRUTH)
    answers = answers_of(model.predict(checked.good), manifest, truth)
    return pl.concat([checked.good, answers, truth.to_frame()], how="horizontal")


def _logged(declared: LogReference, view: Monitor, manifest: Manifest, root: Path) -> pl.DataFrame:
    span = (declared.since.astimezone(UTC), declared.until.astimezone(UTC))
    known = truths(root / view.truths, view.model, since=span[0])
    found = [
        batch.filter((pl.col(STATUS) == "ok") & pl.col(SCORE).is_not_null())
        for batch in batches(root / view.requests, manifest, view.model, span, known, arms=view.arms)
    ]
    if not found:
        raise PenstockError(
            f"{view.requests}/{view.model}: nothing was logged from {span[0]} to {span[1]}",
            hint="mend reference in conf/monitor/, or compare with the hold-out: reference: {kind: table, path: …}",
        )
    return pl.concat(found, how="diagonal_relaxed")


def replaying(model: Model) -> Replay:
    """Answers logged rows once more."""
    manifest = model.manifest

    def replay(frame: pl.DataFrame) -> pl.DataFrame:
        lacking = [name for name in manifest.columns if name not in frame.columns]
        whole = frame.with_columns(pl.lit(None, pl.String).alias(name) for name in lacking)
        checked = contract.check(whole, manifest.columns, source="log", position=0)
        scores = np.full(frame.height, np.nan)
        if checked.good.height:
            answers = answers_of(model.predict(checked.good), manifest)
            scores[checked.kept.to_numpy()] = answers[SCORE].to_numpy()
        return pl.DataFrame({SCORE: scores})

    return replay
