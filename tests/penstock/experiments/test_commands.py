"""`penstock experiment`: what a person types and reads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from penstock.errors import PenstockError
from penstock.experiments.commands import experiment
from penstock.experiments.counts import Joint, Moments, Proportion
from penstock.experiments.horizon import compare_adjusted, two_proportions, welch


def _said(*arguments: object) -> str:
    done = CliRunner().invoke(experiment, [str(item) for item in arguments])
    if isinstance(done.exception, PenstockError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def _users(n: int = 8000, *, lift: float = 0.04) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    arm = rng.choice(["a", "b"], n)
    before = rng.normal(10, 3, n)
    return pl.DataFrame(
        {
            "user": [f"u{i}" for i in range(n)],
            "arm": arm,
            "bought": (rng.random(n) < np.where(arm == "b", 0.1 + lift, 0.1)).astype(int),
            "spent": before + rng.normal(0, 1, n) + np.where(arm == "b", 0.2, 0),
            "before": before,
            "views": rng.integers(1, 9, n),
            "latency": rng.normal(100, 20, n) + np.where(arm == "b", 8, 0),
        }
    )


@pytest.fixture(params=["csv", "parquet"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / f"users.{request.param}"
    frame = _users()
    frame.write_csv(path) if path.suffix == ".csv" else frame.write_parquet(path)
    return path


def test_plan() -> None:
    said = _said("plan", "--baseline", 0.1, "--effect", 0.02, "--per-day", 1000)
    assert "7,682 users (3,841 + 3,841), 14 days" in said
    found = json.loads(_said("plan", "--deviation", 5, "--effect", 0.2, "--shares", "60,20,20", "--json"))
    assert found["total"] == sum(found["units"]) < found["sequential"]


def test_analyse_says_what_to_do_and_the_numbers_are_those_of_the_tests(file: Path) -> None:
    said = _said("analyse", file, "--metric", "bought", "--planned", 20_000)
    assert said.startswith("b is better: +")
    frame = _users()
    a, b = (frame.filter(pl.col("arm") == arm) for arm in "ab")
    found = json.loads(_said("analyse", file, "--metric", "bought", "--planned", 8000, "--once", "--json"))
    alone = two_proportions(Proportion.of(a["bought"]), Proportion.of(b["bought"]))
    assert found["comparisons"]["b"]["p"] == pytest.approx(alone.p)
    found = json.loads(_said("analyse", file, "--metric", "spent", "--planned", 8000, "--once", "--json"))
    assert found["comparisons"]["b"]["p"] == pytest.approx(
        welch(Moments.of(a["spent"]), Moments.of(b["spent"])).p
    )
    options = ["--metric", "spent", "--covariate", "before", "--planned", 8000, "--once", "--json"]
    found = json.loads(_said("analyse", file, *options))
    alone = compare_adjusted(Joint.of(a["spent"], a["before"]), Joint.of(b["spent"], b["before"]))
    assert found["comparisons"]["b"]["low"] == pytest.approx(alone.low)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--metric", "spent", "--covariate", "before"], "b is better: +0."),
        (["--metric", "bought", "--denominator", "views"], "b is better: +0.011 (0.005 to 0.017)"),
        (["--metric", "bought", "--guardrail", "latency:2:lower"], "b harms latency: at least"),
        (["--metric", "bought", "--guardrail", "latency:20:lower"], "b is better"),
        (["--metric", "bought", "--shares", "a=60,b=40"], "do not trust this: assignment is off"),
        (["--metric", "bought", "--control", "b"], "a is worse"),
        (["--metric", "latency", "--better", "lower"], "b is worse"),
        (["--metric", "before"], "not decided: 8,000 of 90,000 users"),
        (["--metric", "before", "--once"], "not decided"),
    ],
)
def test_verdicts(options: list[str], said: str, tmp_path: Path) -> None:
    path = tmp_path / "users.parquet"
    _users().write_parquet(path)
    assert _said("analyse", path, "--planned", 90_000, *options).startswith(said)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (pl.concat([_users(10), _users(3)]), "3 units have several rows, such as u0, u1, u2"),
        (
            pl.concat([_users(10), _users(10).with_columns(pl.lit("c").alias("arm"))]),
            "10 of them are in several arms",
        ),
        (
            _users(10).with_columns(pl.when(pl.col("user") != "u4").then("bought").alias("bought")),
            "row 5 has no value",
        ),
        (_users(10).with_columns(pl.lit("yes").alias("bought")), "row 1 has no value"),
        (_users(10).drop("bought"), "has no column bought"),
        (_users(10).with_columns(pl.lit("x").alias("arm")), "there is no 'a'"),
        (_users(10).with_columns(pl.lit("a").alias("arm")), "nothing to compare"),
    ],
)
def test_tables_that_cannot_be_are_refused(change: pl.DataFrame, told: str, tmp_path: Path) -> None:
    path = tmp_path / "users.csv"
    change.write_csv(path)
    with pytest.raises(PenstockError, match=told):
        _said("analyse", path, "--metric", "bought", "--planned", 100)


@pytest.mark.parametrize(
    "options",
    [
        ["--shares", "half"],
        ["--shares", "a=1"],
        ["--shares", "a=-1,b=2"],
        ["--guardrail", "latency"],
        ["--guardrail", "latency:-1"],
        ["--guardrail", "latency:1:up"],
        ["--covariate", "before", "--denominator", "views"],
    ],
)
def test_options_that_cannot_be_are_refused(options: list[str], tmp_path: Path) -> None:
    path = tmp_path / "users.csv"
    _users(50).write_csv(path)
    with pytest.raises(PenstockError):
        _said("analyse", path, "--metric", "bought", "--planned", 100, *options)


def test_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    for name in ("users.csv", "users.parquet", "users.xlsx"):
        with pytest.raises(PenstockError, match=name):
            _said("analyse", tmp_path / name, "--metric", "bought", "--planned", 100)
    with pytest.raises(PenstockError, match="one of the two"):
        _said("plan", "--effect", 0.1)
