"""The request log of a router: who answered, who was shown it, with which chance, and what turned out."""

from __future__ import annotations

import polars as pl

from penstock.rollout.records import Records
from tests.penstock.rollout.routers import declaration, plan, predictors, run, running, until


def test_answers_failures_shadows_and_truths_are_logged_under_one_id(tmp_path, monkeypatch):
    monkeypatch.setenv("PENSTOCK_HASH_KEY", "k" * 32)

    async def test():
        async with predictors("a", "b", "c") as found:
            urls = {name: [one.url] for name, one in found.items()}
            canary = {"kind": "canary", "champion": "a", "canary": "b", "steps": [99], "bake": "PT60S"}
            log = {"kind": "files", "folder": str(tmp_path / "requests"), "pii": ["plan"]}
            view = declaration(
                tmp_path,
                urls,
                canary,
                requests=log,
                truths=str(tmp_path / "truths"),
                kpi={"source": "correct"},
            )
            records = Records(view)
            async with running(view, records=records) as it:
                await it.predict(2, request="well", user="ann")
                found["b"].mood = "nan"
                await it.predict(request="ill")
                found["b"].mood = "ok"
                await it.outcome("well", row=1, truth="yes", reward=2.5)
                shadow = {"kind": "shadow", "champion": "a", "challengers": ["c"]}
                await it.put(plan(strategy=shadow))
                await it.predict(request="shown")
                await until(lambda: found["c"].asked == ["shown"])
                await until(lambda: len(it.store.attributed("shown")) == 2)
            records.close()

    run(test)
    frame = pl.read_parquet(list((tmp_path / "requests/m").rglob("*.parquet")), missing_columns="insert")
    told = {(row["request"], row["row"], row["arm"], row["role"]): row for row in frame.iter_rows(named=True)}
    assert set(told) == {
        ("well", 0, "b", "answer"), ("well", 1, "b", "answer"),
        ("ill", 0, "b", "answer"), ("ill", 0, "a", "answer"),
        ("shown", 0, "a", "answer"), ("shown", 0, "c", "shadow"),
    }  # fmt: skip
    well = told["well", 1, "b", "answer"]
    assert (well["version"], well["status"], well["propensity"]) == ("b", "ok", 0.99)
    assert well["outputs"]["probability"] == 0.7
    assert well["inputs"]["tenure"] == 5
    assert len(well["inputs"]["plan"]) == len(well["user"]) == 64, "hashed"
    assert told["ill", 0, "b", "answer"]["status"] == "invalid"
    assert told["ill", 0, "b", "answer"]["propensity"] == 0.99
    assert told["ill", 0, "a", "answer"]["status"] == "ok"
    assert told["ill", 0, "a", "answer"]["propensity"] is None, "nobody knows the chance of standing in"
    assert told["shown", 0, "c", "shadow"]["version"] == "c"
    truths = pl.read_parquet(list((tmp_path / "truths/m").rglob("*.parquet")))
    assert truths.select("request", "row", "truth", "reward").rows() == [("well", 1, "yes", 2.5)]
