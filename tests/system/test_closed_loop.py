"""The closed loop on the shipped churn data: concept drift in the log, and at its end another model that answers, by itself."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

from penstock.config.serving.requests import FileLog
from penstock.maintenance.incidents import Incident, Incidents
from penstock.maintenance.run import Maintaining, declared
from penstock.requests import RequestsOfOne, open_requests
from penstock.storage import write_parquet

PENSTOCK = (sys.executable, "-m", "penstock.cli")
HOURS, ROWS = 4, 500


def logged(root: Path, rows: pl.DataFrame, began: datetime) -> None:
    """Rows as the program's own writer logs them, an hour for each ROWS of them, and what came true of each."""
    from penstock.artifact.model import load

    model = load(root / "models/churn")
    log = open_requests(FileLog(kind="files", folder=str(root / "data/requests")))
    assert log is not None
    inputs = rows.drop("churn")
    for at, (given, answer) in enumerate(
        zip(inputs.to_dicts(), model.predict(inputs).to_dicts(), strict=True)
    ):
        moment = began + timedelta(hours=at / ROWS)
        one = RequestsOfOne(
            time=int(moment.timestamp() * 1e9),
            request=f"{began:%d%H}-{at}",
            model="churn",
            version=model.manifest.sha256[:12],
            inputs=lambda given=given: [given],
            outputs=lambda answer=answer: [answer],
            latency_ms=2.0,
        )
        assert log.put(1, one)
    log.close()
    truths = pl.DataFrame({"request": [f"{began:%d%H}-{at}" for at in range(rows.height)]}).with_columns(
        row=pl.lit(0, pl.Int32), time=pl.lit(int(began.timestamp() * 1e9)), truth=rows["churn"]
    )
    write_parquet(root / f"data/truths/churn/{began:hour=%Y-%m-%dT%H}/1.parquet", truths)


def turned(rows: pl.DataFrame) -> pl.DataFrame:
    """Another world: those who leave are the old customers, not the new ones."""
    chance = np.where(rows["tenure"] > 40, 0.8, 0.08)
    leaves = np.random.default_rng(1).random(rows.height) < chance
    return rows.with_columns(churn=pl.Series(np.where(leaves, "Yes", "No")))


def begin_rollout() -> None:
    from penstock.rollout.declared import declared as rollout_declared
    from penstock.rollout.desk import Desk
    from penstock.rollout.state import open_store

    view = rollout_declared("churn")
    store = open_store(view)
    Desk(view, store).begin()
    store.close()


def canary_succeeds() -> str:
    """What the controller of a rollout does, one step after the other, when a canary does no harm; the arm that answers then."""
    from penstock.rollout.audit import Intent
    from penstock.rollout.declared import declared as rollout_declared
    from penstock.rollout.settings import promoted
    from penstock.rollout.state import open_store

    store = open_store(rollout_declared("churn"))
    settings = store.settings()
    assert settings is not None
    while settings.plan.strategy.kind == "canary":
        after = promoted(settings)
        store.change(settings, after, Intent("controller", "promote", "no harm"))
        settings = after
    store.close()
    return settings.plan.arms[settings.champion].artifact or ""


def version(folder: Path) -> str:
    return str(json.loads((folder / "manifest.json").read_text())["sha256"])


def incidents(root: Path) -> list[Incident]:
    return Incidents(root / ".penstock/maintenance/churn/incidents.jsonl").all()


def told(incident: Incident) -> list[str]:
    return [entry.what for entry in incident.entries]


def test_from_drift_to_a_model_that_knows_it_and_no_further(fresh_clone, monkeypatch):
    clone = fresh_clone()
    root = clone.root
    path = root / "conf/maintenance/churn.yaml"
    shipped = path.read_text()
    assert "-S, dataset=churn," in shipped
    path.write_text(shipped.replace("-S, dataset=churn,", "-S, experiment=quick,"))
    clone.compose("experiment=quick")
    clone.run(sys.executable, "-m", "dvc", "repro", "--quiet", "export@churn")
    clone.run("git", "add", "-A")
    clone.run("git", "commit", "-qm", "quick")
    monkeypatch.chdir(root)
    begin_rollout()
    champion = version(root / "models/churn")
    train = pl.read_parquet(root / "data/prepared/churn/train.parquet")
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)

    # The world turns. The old hold-out is of the old world: how a challenger does there is not to stand in its way.
    logged(root, turned(train.sample(HOURS * ROWS, seed=2)), now - timedelta(hours=HOURS + 1))
    clone.run(
        *PENSTOCK, "monitor", "run", "churn", "limits.resamples=200", check=False
    )  # exits with 1: it has found something
    done = clone.run(*PENSTOCK, "maintain", "run", "churn", "comparison.max_loss=1")
    (incident,) = incidents(root)
    assert told(incident) == ["opened", "retrained", "compared", "handed_over"], done.stdout
    assert incident.causes == ("performance",)
    assert "1400 fresh rows" in incident.entries[1].words  # 70 % of what was logged
    assert Maintaining("churn", declared("churn")).run().why.endswith("5% of the requests")

    arm = Path(canary_succeeds())
    assert Maintaining("churn", declared("churn")).run().kind is None  # closed, and nothing more is due
    (incident,) = incidents(root)
    assert told(incident)[-2:] == ["promoted", "closed"]
    assert incident.closed is not None
    # The rollout answers with the challenger, and monitoring knows.
    assert version(arm) == version(root / ".penstock/champions/churn") != champion

    # The calendar asks for another, and what comes is the model of before, which is worse by now: the champion stays.
    worse = f"retraining.command=[cp,-rT,{root}/models/churn,models/churn]"
    Maintaining("churn", declared("churn", [worse, "condition=null", "preventive.every=1s"])).run()
    last = incidents(root)[-1]
    assert told(last) == ["opened", "retrained", "compared", "kept", "closed"]
    assert last.entries[2].figures["gain"] < -0.2
    assert version(root / ".penstock/champions/churn") == version(arm)
    assert clone.run("git", "status", "--porcelain", "--", "models", "data").stdout == ""
