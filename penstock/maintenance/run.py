"""`penstock maintain run`: from what monitoring found to a version that is promoted or kept, written down step by step."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from penstock import contract
from penstock.composition import composed_file
from penstock.config import validated
from penstock.config.maintenance import Maintenance
from penstock.console import say
from penstock.errors import PenstockError
from penstock.maintenance.comparing import Scores, Verdict, compare
from penstock.maintenance.decisions import Action, decide
from penstock.maintenance.incidents import Entry, Incidents, What
from penstock.monitoring.alerting import active
from penstock.monitoring.judged import SCORE, TRUTH, Target, losses
from penstock.monitoring.log import STATUS, TIME, answers_of, batches, truths
from penstock.monitoring.run import Monitoring
from penstock.monitoring.run import declared as monitor_declared
from penstock.storage import read_parquet, write_parquet

if TYPE_CHECKING:
    from penstock.artifact.model import Model

__all__ = ["Maintaining", "declared"]

OUTPUT = 2000  # characters of a failed command's output that are kept
Clock = Callable[[], datetime]


def declared(name: str, overrides: Sequence[str] = (), root: Path = Path()) -> Maintenance:
    """What conf/maintenance/NAME.yaml declares.

    Raises:
        PenstockError: There is no such file, conf/ does not compose, or what comes out does not fit.
    """
    found = composed_file("maintenance", name, overrides, root)
    return validated(Maintenance, found, Path(f"conf/maintenance/{name}.yaml"), hint="mend it there")


@dataclass(frozen=True)
class _Fresh:
    """Logged rows with their truth: what a challenger may learn from, and what it may not."""

    learn: pl.DataFrame
    held: pl.DataFrame


class Maintaining:
    """One model that is maintained.

    Args:
        name: Of conf/maintenance/NAME.yaml.
        policy: What it declares.
        root: The repository.
        clock: Tells the time, UTC.
    """

    def __init__(
        self,
        name: str,
        policy: Maintenance,
        root: Path = Path(),
        clock: Clock = lambda: datetime.now(UTC),
    ) -> None:
        self.name, self.policy, self.root, self.clock = name, policy, root, clock
        self.folder = root / ".penstock/maintenance" / name
        self.incidents = Incidents(self.folder / "incidents.jsonl")
        self.monitoring = Monitoring(policy.monitor, monitor_declared(policy.monitor, root=root), root)

    def run(self) -> Action:
        """Decide, and do it; returns what was decided.

        Raises:
            PenstockError: Another one is at it, or a command fails; the incident is closed as failed then.
        """
        with self._alone():
            self._close_interrupted()
            action = self._decided()
            if action.kind is None:
                return action
            incident = f"{self.clock():%Y%m%dT%H%M%S%f}-{action.kind}"
            down = action.kind == "corrective"
            self._write(incident, action, "opened", action.why, down=down)
            try:
                self._act(incident, action)
            except (PenstockError, OSError) as error:
                self._write(incident, action, "failed", str(error))
                self._write(incident, action, "closed", "the champion stays")
                raise
            self._write(incident, action, "closed", "done")
            return action

    def _decided(self) -> Action:
        windows = self.monitoring.history.windows(last=200)
        alerts = active(windows, self.monitoring.view.alerting)
        estimated = windows[-1].metrics.get("estimated_roc_auc") if windows else None
        manifest = self.root / (self.monitoring.view.artefact or f"models/{self.monitoring.view.model}")
        placed = datetime.fromtimestamp((manifest / "manifest.json").stat().st_mtime, UTC)
        return decide(
            {alert.cause: alert.severity for alert in alerts.values()},
            self.policy,
            self.incidents.all(),
            self.clock(),
            began=placed,
            estimated_auc=estimated,
        )

    def _act(self, incident: str, action: Action) -> None:
        if action.rollback:
            self._roll_back(incident, action)
        if not action.retrain:
            return
        with tempfile.TemporaryDirectory(prefix="penstock-challenger-") as folder:
            clone = self._clone(Path(folder))
            fresh = self._fresh()
            if self.policy.retraining.fresh is not None and fresh is not None:
                write_parquet(clone / self.policy.retraining.fresh, fresh.learn)
            self._command(self.policy.retraining.command, clone, name=incident)
            made = clone / self.policy.retraining.artefact
            self._write(incident, action, "retrained", f"{fresh.learn.height if fresh else 0} fresh rows")
            verdict = self._compared(made, fresh)
            self._write(incident, action, "compared", verdict.why)
            if not verdict.promote:
                self._write(incident, action, "kept", "the champion stays")
                return
            kept = self.folder / "challengers" / incident
            shutil.copytree(made, kept)
            self._command(self.policy.promote, self.root, name=incident, artefact=str(kept.resolve()))
            self._write(incident, action, "promoted", verdict.why)

    def _roll_back(self, incident: str, action: Action) -> None:
        command = self.policy.corrective.rollback if self.policy.corrective is not None else None
        if command is None:
            say(f"{self.name}: {action.why}. No rollback is declared: take the version back by hand")
            return
        self._command(command, self.root, name=incident)
        self._write(incident, action, "rolled_back", " ".join(command))

    def _clone(self, folder: Path) -> Path:
        clone = folder / "repository"
        self._command(
            ("git", "clone", "--quiet", "--no-hardlinks", str(self.root.resolve()), str(clone)), folder
        )
        cache = self.root.resolve() / ".dvc/cache"
        if cache.is_dir():
            # What has been computed already is not computed again.
            self._command(("dvc", "config", "--local", "cache.dir", str(cache)), clone)
        return clone

    def _fresh(self) -> _Fresh | None:
        """Rows of the log with their truth, the latest of them kept back."""
        view, now = self.monitoring.view, self.clock()
        manifest = self.monitoring.model.manifest
        span = (now - self.policy.retraining.recent, now)
        known = truths(self.monitoring.truths, view.model, since=span[0])
        if not known.height:
            return None
        found = [
            batch.filter((pl.col(STATUS) == "ok") & pl.col(TRUTH).is_not_null())
            for batch in batches(self.monitoring.requests, manifest, view.model, span, known, arms=view.arms)
        ]
        rows = pl.concat(found, how="diagonal_relaxed").sort(TIME)
        rows = rows.select(*manifest.columns, pl.col(TRUTH).alias(manifest.target))
        cut = round(rows.height * (1 - self.policy.retraining.held))
        return _Fresh(rows[:cut], rows[cut:])

    def _compared(self, made: Path, fresh: _Fresh | None) -> Verdict:
        from penstock.artifact.model import load

        champion, challenger = self.monitoring.model, load(made)
        if challenger.manifest.target != champion.manifest.target:
            raise PenstockError(
                f"{made}: predicts {challenger.manifest.target!r}, the champion {champion.manifest.target!r}",
                hint="mend retraining.artefact in conf/maintenance/",
            )
        holdout = read_parquet(self.root / self.policy.comparison.holdout)
        both = [_scores(champion, challenger, rows) for rows in (holdout, *([fresh.held] if fresh else []))]
        return compare(both[0], both[1] if fresh else None, self.policy.comparison)

    def _command(self, command: Sequence[str], folder: Path, **given: str) -> None:
        filled = [part.format(**given) if "{" in part else part for part in command]
        seconds = self.policy.retraining.timeout.total_seconds()
        try:
            done = subprocess.run(
                filled, cwd=folder, capture_output=True, text=True, timeout=seconds, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise PenstockError(
                f"{' '.join(filled)}: {error}", hint="mend it in conf/maintenance/"
            ) from error
        if done.returncode:
            raise PenstockError(
                f"{' '.join(filled)}: ended with {done.returncode}: {(done.stderr or done.stdout)[-OUTPUT:].strip()}",
                hint="try it by hand in a clone",
            )

    def _write(self, incident: str, action: Action, what: What, words: str, *, down: bool = False) -> None:
        assert action.kind is not None
        self.incidents.append(
            Entry(
                incident=incident,
                at=self.clock(),
                what=what,
                kind=action.kind,
                causes=action.causes,
                down=down,
                words=words,
            )
        )

    def _close_interrupted(self) -> None:
        """What was open when a run was killed: nobody else is at it, as we hold the lock."""
        for incident in self.incidents.all():
            if incident.closed is None:
                action = Action(incident.kind, incident.causes)
                self._write(incident.id, action, "failed", "the run was interrupted")
                self._write(incident.id, action, "closed", "whatever was not promoted is gone")

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise PenstockError(
                    f"maintain {self.name}: another run is at it", hint="wait for it"
                ) from error
            yield


def _scores(champion: Model, challenger: Model, frame: pl.DataFrame) -> Scores:
    """Both on the rows that fit both contracts."""
    target = champion.manifest.target
    columns = dict(champion.manifest.columns) | dict(challenger.manifest.columns)
    checked = contract.check(frame.select(*columns, target), columns, source="comparison", position=0)
    truth = frame[target][checked.kept].alias(TRUTH)
    found = []
    for model in (champion, challenger):
        manifest = model.manifest
        answers = answers_of(model.predict(checked.good), manifest, truth).with_columns(truth)
        found.append((answers, Target(manifest.task, manifest.positive)))
    (old, kind), (new, _) = found
    if kind.task == "binary":
        positive = (truth.cast(pl.String) == kind.positive).to_numpy()
        return Scores(positive, old[SCORE].to_numpy(), new[SCORE].to_numpy())
    return Scores(None, losses(old, kind).loss, losses(new, kind).loss)
