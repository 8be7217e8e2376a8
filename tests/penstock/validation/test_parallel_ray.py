"""A Ray cluster changes the place, not the result."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from penstock.config import Candidate, Features, Grid, Sampler, Scoring, Search, Splitter
from penstock.errors import PenstockError
from penstock.validation import estimators, leaderboard
from penstock.validation.fitting import Table
from penstock.validation.judging import Plan
from penstock.validation.parallel import Map, workers
from penstock.validation.parallel_ray import ray_workers

CANDIDATES = {
    "logistic": Candidate(model="logistic", space={"C": Grid(kind="choice", values=(0.01, 1.0))}),
    "tree": Candidate(model="decision_tree", params={"max_depth": 2}, features={"scale": "none"}),
}


def _board(table: Table, spread: Map, told: Callable[[float], None]) -> leaderboard.Leaderboard:  # type: ignore[type-arg]
    return leaderboard.build(
        table,
        Plan(Splitter(n_splits=3), Search(name="grid", backend="ray"), Scoring(metric="roc_auc")),
        CANDIDATES,
        features=Features(),
        sampler=Sampler(),
        compare_samplers=(),
        spread=spread,
        advance=told,
    )


def _wrong(name: str) -> list[str]:
    return estimators.modules([name], kind="binary")


def _refused(address: str) -> bool:
    """Whether who has no token is kept out."""
    import grpc

    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary("/ray.rpc.NodeInfoGcsService/GetAllNodeInfo")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"", timeout=30)
    return bool(caught.value.code() == grpc.StatusCode.UNAUTHENTICATED)


def test_two_workers_of_ray_give_the_same_scores_and_mistakes(
    make_table: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_USAGE_STATS_ENABLED"):
        monkeypatch.setenv(name, "")  # so that what is set in there is taken back
        monkeypatch.delenv(name)
    table = make_table()
    here: list[float] = []
    there: list[float] = []
    with workers(1, []) as spread:
        one = _board(table, spread, here.append)
    with ray_workers(2) as spread:
        import ray

        other = _board(table, spread, there.append)
        with pytest.raises(PenstockError) as caught:
            spread(_wrong, ["knm"], lambda _: None)
        # Its ports are open to the network: nobody comes in without the token.
        assert [os.environ["RAY_AUTH_MODE"], len(os.environ["RAY_AUTH_TOKEN"])] == ["token", 64]
        assert _refused(ray.get_runtime_context().gcs_address)
    assert one.dump() == other.dump()
    assert np.array_equal(one.out_of_fold.prediction, other.out_of_fold.prediction)
    assert here == there
    assert str(caught.value) == "no model 'knm'\n  → did you mean 'knn'?"


def test_without_ray_one_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(PenstockError, match=r"search\.backend: ray is not installed") as caught,
        ray_workers(2),
    ):
        pass
    assert "penstock[ray]" in str(caught.value)
