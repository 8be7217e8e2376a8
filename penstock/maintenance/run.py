"""`penstock maintain run`: from what monitoring found to a version that is promoted or kept, written down step by step."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from penstock import contract
from penstock.composition import composed_file
from penstock.config import validated
from penstock.config.maintenance import ByRollout, Maintenance
from penstock.console import say
from penstock.errors import PenstockError
from penstock.maintenance.comparing import Scores, Verdict, compare
from penstock.maintenance.decisions import Action, decide
from penstock.maintenance.fresh import Fresh, fresh_rows, write_fresh
from penstock.maintenance.incidents import Entry, Incidents, What
from penstock.monitoring.alerting import active
from penstock.monitoring.judged import SCORE, TRUTH, Target, losses
from penstock.monitoring.log import answers_of
from penstock.monitoring.run import Monitoring
from penstock.monitoring.run import declared as monitor_declared
from penstock.storage import read_parquet

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
            under_way = self._settle()
            if under_way is not None:
                return under_way
            action = self.decided()
            if action.kind is None:
                return action
            incident = f"{self.clock():%Y%m%dT%H%M%S%f}-{action.kind}"
            self._write(incident, action, "opened", action.why, down=action.kind == "corrective")
            try:
                self._act(incident, action)
            except (PenstockError, OSError) as error:
                self._write(incident, action, "failed", str(error))
                self._write(incident, action, "closed", "the champion stays")
                raise
            if not next(one for one in self.incidents.all() if one.id == incident).is_handed_over:
                self._write(incident, action, "closed", "done")
            return action

    def decided(self) -> Action:
        """What is to be done now. Nothing is changed."""
        if not self.policy.enabled:
            return Action(None, why="switched off: enabled is false in conf/maintenance/")
        action = self._decided()
        past = [one for incident in self.incidents.all() for one in incident.entries]
        day = self.clock() - timedelta(days=1)
        trained = sum(one.what in {"retrained", "failed"} and one.at > day for one in past)
        if action.retrain and trained >= self.policy.retraining.per_day:
            if not action.rollback:
                return Action(None, why=f"{action.why}; retrained {trained} times within a day already")
            return replace(action, retrain=False)
        return action

    def _decided(self) -> Action:
        windows = self.monitoring.history.windows(last=200)
        alerts = active(windows, self.monitoring.view.alerting)
        estimated = windows[-1].metrics.get("estimated_roc_auc") if windows else None
        manifest = self.monitoring.artefact / "manifest.json"
        if not manifest.is_file():
            raise PenstockError(
                f"{manifest}: there is no such file",
                hint="nothing is there to be maintained yet: `dvc repro`, or `dvc pull`",
            )
        placed = datetime.fromtimestamp(manifest.stat().st_mtime, UTC)
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
            fresh = fresh_rows(self.monitoring, self.policy.retraining, self.clock())
            mixed = write_fresh(fresh, self.policy.retraining, self.root, clone) if fresh is not None else 0
            began = time.monotonic()
            self._command(self.policy.retraining.command, clone, name=incident)
            took = time.monotonic() - began
            made = clone / self.policy.retraining.artefact
            words = f"{fresh.words}; {mixed} rows from before" if fresh is not None else "no fresh rows"
            self._write(incident, action, "retrained", words, figures={"seconds": took})
            verdict = self._compared(made, fresh)
            gains = {"holdout_gain": verdict.holdout_gain}
            if verdict.gain is not None:
                gains["gain"] = verdict.gain
            self._write(incident, action, "compared", verdict.why, figures=gains)
            if not verdict.promote:
                self._write(incident, action, "kept", "the champion stays")
                return
            kept = self._challenger(incident)
            shutil.copytree(made, kept)
            self._promote(incident, action, kept, verdict.why)

    def _challenger(self, incident: str) -> Path:
        return self.folder / "challengers" / incident

    def _promote(self, incident: str, action: Action, artefact: Path, why: str) -> None:
        if isinstance(self.policy.promote, ByRollout):
            from penstock.maintenance.handing import hand_over

            # Relative: a state that is restored elsewhere still finds it.
            words = hand_over(self.policy.promote, incident, artefact.relative_to(self.root), self.root)
            self._write(incident, action, "handed_over", words)
            return
        self._command(self.policy.promote, self.root, name=incident, artefact=str(artefact.resolve()))
        self._in_force(artefact)
        self._write(incident, action, "promoted", why)

    def _in_force(self, artefact: Path) -> None:
        """Let monitoring, and the next comparison, know what answers now."""
        if self.policy.champion is None:
            return
        target = self.root / self.policy.champion
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
            shutil.copytree(artefact, Path(folder) / "new")
            if target.exists():
                target.rename(Path(folder) / "old")
            (Path(folder) / "new").rename(target)

    def _settle(self) -> Action | None:
        """Close what was handed over, once the rollout has decided; what is still under way keeps a new round from beginning."""
        if not isinstance(self.policy.promote, ByRollout):
            return None
        from penstock.maintenance.handing import fate

        for incident in self.incidents.all():
            if not incident.is_handed_over:
                continue
            what, words = fate(self.policy.promote, incident.id, self.root)
            if what == "under way":
                return Action(None, why=words)
            action = Action(incident.kind, incident.causes)
            if what == "promoted":
                self._in_force(self._challenger(incident.id))
                self.monitoring.__dict__.pop("model", None)  # another answers now
            self._write(incident.id, action, what, words)
            self._write(incident.id, action, "closed", "done")
        return None

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

    def _compared(self, made: Path, fresh: Fresh | None) -> Verdict:
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
        paths = [str(folder.resolve()), *filter(None, [os.environ.get("PYTHONPATH")])]
        try:
            done = subprocess.run(
                filled,
                cwd=folder,
                # The clone's code, not that of wherever this runs.
                env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
                capture_output=True,
                text=True,
                timeout=seconds,
                check=False,
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

    def _write(
        self,
        incident: str,
        action: Action,
        what: What,
        words: str,
        *,
        down: bool = False,
        figures: Mapping[str, float] | None = None,
    ) -> None:
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
                figures=dict(figures or {}),
            )
        )

    def _close_interrupted(self) -> None:
        """What was open when a run was killed: nobody else is at it, as we hold the lock."""
        for incident in self.incidents.all():
            if incident.closed is None and not incident.is_handed_over and not incident.is_of_operator:
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
