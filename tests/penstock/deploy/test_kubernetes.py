"""Rollouts as manifests: all that is declared is in them, or they are refused."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from penstock.composition import composed_file
from penstock.config.deploying import Kubernetes
from penstock.config.rollout import Rollout
from penstock.deploy.kubernetes import kserve, router, runtime
from penstock.errors import PenstockError
from tests.servers.manifests import named, pods, valid

ROOT = Path(__file__).parents[3]
CLUSTER = Kubernetes()
REDIS = {"kind": "redis", "url": "${secret:REDIS_URL}"}
ARMS = {
    "champion": {"artifact": "models/churn"},
    "challenger": {"artifact": "models/churn_next", "workers": 2},
}
KPI = {"source": "reward"}
STRATEGIES = {
    "single": ({"kind": "single", "champion": "champion"}, None),
    "shadow": ({"kind": "shadow", "champion": "champion", "challengers": ["challenger"]}, None),
    "ab": (
        {
            "kind": "ab",
            "champion": "champion",
            "shares": {"champion": 0.5, "challenger": 0.5},
            "unit": "request",
            "baseline": 0.2,
            "effect": 0.05,
        },
        KPI,
    ),
    "bandit": ({"kind": "bandit", "champion": "champion", "candidates": ["champion", "challenger"]}, KPI),
    "blue_green": ({"kind": "blue_green", "live": "champion", "idle": "challenger"}, None),
    "canary": (
        {
            "kind": "canary",
            "champion": "champion",
            "canary": "challenger",
            "steps": [5, 25, 100],
            "bake": "10m",
        },
        None,
    ),
}


def rollout(kind: str = "single", **changes: object) -> Rollout:
    strategy, kpi = STRATEGIES[kind]
    given = {
        "model": "churn",
        "salt": "churn-2026",
        "arms": ARMS,
        "strategy": strategy,
        "kpi": kpi,
        "guardrails": {"memory_restarts": None},
        "state": REDIS,
    }
    return Rollout.model_validate({**given, **changes})


@pytest.mark.parametrize("kind", STRATEGIES)
def test_the_router_honours_every_strategy_of_versions(kind: str):
    view = rollout(kind)
    documents = router("churn", view, CLUSTER, ["salt=other"])
    for document in documents:
        valid(document)
    pod = pods(documents)["rollout-churn"]
    front, *arms = pod["containers"]
    assert [arm["name"] for arm in arms] == ["arm-champion", "arm-challenger"]
    # What the router is told of its arms is where they are; and what it is told else is what it was composed by.
    overrides = front["command"][4:]
    assert overrides[0] == "salt=other"
    for arm, container in zip(view.arms, arms, strict=True):
        port = container["ports"][0]["containerPort"]
        assert f"arms.{arm}.urls=['http://127.0.0.1:{port}']" in overrides
        assert f"port={port}" in container["command"]
        assert not any(word.startswith("host=") for word in container["command"])  # loopback, without keys
        assert f"models={{churn: {{path: {view.arms[arm].artifact}}}}}" in container["command"]
        assert f"workers={view.arms[arm].workers}" in container["command"]
        assert container["resources"]["limits"]["memory"] == str(view.arms[arm].memory_bytes)
    assert "readinessProbe" in arms[0]
    assert "readinessProbe" not in arms[1], "an arm that is away must not take the champion with it"
    controller = pods(documents)["rollout-churn-controller"]["containers"][0]
    assert controller["command"][4:] == overrides[: len(overrides) - 4]


def test_what_the_router_is_told_composes_to_the_same_rollout():
    """By the program's own eyes: strategy, guardrails and salt are those of the file, the arms are in the pod."""
    given = [
        "~state.path",
        "state.kind=redis",
        "state.url='${secret:REDIS_URL}'",
        "guardrails.memory_restarts=null",
    ]
    cluster = Kubernetes(data="penstock-data")
    view = Rollout.model_validate(composed_file("rollout", "churn", given, ROOT))
    command = pods(router("churn", view, cluster, given))["rollout-churn"]["containers"][0]["command"]
    told = Rollout.model_validate(composed_file("rollout", command[3], command[4:], ROOT))
    assert told.model_dump(exclude={"arms", "router"}) == view.model_dump(exclude={"arms", "router"})
    assert set(told.arms) == set(view.arms)
    assert all(arm.urls and arm.artifact is None for arm in told.arms.values())
    assert told.router.host == "0.0.0.0"
    assert told.router.keys
    assert told.router.operators


def test_the_committed_router_is_what_is_rendered(tmp_path: Path):
    committed = ROOT / "deploy/kubernetes/base/router.yaml"
    first = committed.read_text().splitlines()[0].removeprefix("# Rendered: ")
    out = tmp_path / "router.yaml"
    command = [sys.executable, "-m", "penstock.cli", *shlex.split(first)[1:], "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert out.read_text() == committed.read_text(), f"render it anew: {first} --out {committed}"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"state": {"kind": "sqlite"}}, "state.kind: sqlite"),
        ({"guardrails": {}}, "guardrails.memory_restarts"),
        ({"arms": {"champion": {"urls": ["http://10.0.0.1:1"]}}}, "arms.champion.urls"),
        ({"arms": {"champion": {"artifact": "models/churn", "replicas": 2}}}, "arms.champion.replicas"),
        ({"arms": {"champion": {"artifact": "/home/me/churn"}}}, "arms.champion.artifact"),
        ({"requests": {"kind": "files"}}, "requests: records"),
        ({"router": {"flags": "elsewhere/churn.json"}}, "router.flags"),
        (
            {
                "arms": {"champion": {"artifact": "models/churn", "replicas": 2}},
                "strategy": {"kind": "rolling", "champion": "champion", "artifact": "models/churn_next"},
            },
            "strategy.kind: rolling",
        ),
    ],
)
def test_the_router_refuses_what_pods_cannot_honour(changes, said):
    with pytest.raises(PenstockError, match=said) as refused:
        router("churn", rollout(**changes), CLUSTER)
    assert refused.value.hint


def test_a_request_log_is_kept_where_many_pods_may_write():
    cluster = Kubernetes(data="penstock-data")
    documents = router("churn", rollout(requests={"kind": "files"}), cluster)
    volume = next(v for v in pods(documents)["rollout-churn"]["volumes"] if v["name"] == "data")
    assert volume["persistentVolumeClaim"] == {"claimName": "penstock-data"}


def test_secrets_are_references():
    documents = router("churn", rollout(), CLUSTER)
    env = pods(documents)["rollout-churn"]["containers"][0]["env"]
    assert {"REDIS_URL", "PENSTOCK_HASH_KEY"} == {variable["name"] for variable in env}
    assert all("secretKeyRef" in variable["valueFrom"] for variable in env)


def test_kserve_gets_one_version_and_then_a_share_for_a_second():
    first, second = kserve("churn", rollout("canary"), CLUSTER, 25)
    for document in (first, second, runtime(CLUSTER)):
        valid(document)
    assert first["metadata"]["name"] == second["metadata"]["name"] == "churn"
    assert "canaryTrafficPercent" not in first["spec"]["predictor"]
    assert second["spec"]["predictor"]["canaryTrafficPercent"] == 25
    assert first["spec"]["predictor"]["model"]["storageUri"] == "pvc://penstock-models/churn"
    assert second["spec"]["predictor"]["model"]["storageUri"] == "pvc://penstock-models/churn_next"
    [only] = kserve("churn", rollout(), CLUSTER)
    assert only == first


def test_what_kserve_takes_over_from_kubernetes_is_kubernetes():
    container = {**runtime(CLUSTER)["spec"]["containers"][0]}
    spec = {"containers": [container], "volumes": runtime(CLUSTER)["spec"]["volumes"]}
    valid({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": spec})
    predictor = kserve("churn", rollout(), CLUSTER)[0]["spec"]["predictor"]
    keys = (
        "serviceAccountName",
        "automountServiceAccountToken",
        "terminationGracePeriodSeconds",
        "securityContext",
    )
    spec |= {key: predictor[key] for key in keys}
    valid({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": spec})


@pytest.mark.parametrize("percent", [0, 100])
def test_kserve_switches_blue_and_green(percent: int):
    second = kserve("churn", rollout("blue_green"), CLUSTER, percent)[1]
    assert second["spec"]["predictor"]["canaryTrafficPercent"] == percent


@given(st.sampled_from(sorted(STRATEGIES)), st.one_of(st.none(), st.integers(0, 100)))
def test_kserve_refuses_what_it_cannot_honour(kind: str, percent: int | None):
    fine = {
        "single": percent is None,
        "blue_green": percent in (0, 100),
        "canary": percent in (5, 25, 100),
    }.get(kind, False)
    if fine:
        assert named(kserve("churn", rollout(kind), CLUSTER, percent), "InferenceService")
    else:
        with pytest.raises(PenstockError) as refused:
            kserve("churn", rollout(kind), CLUSTER, percent)
        assert refused.value.hint


def test_a_canary_of_users_is_none_of_kserve():
    strategy = {**STRATEGIES["canary"][0], "unit": "user", "without_user": "champion"}
    with pytest.raises(PenstockError, match=r"strategy\.unit: user"):
        kserve("churn", rollout("canary", strategy=strategy, guardrails={}), CLUSTER, 25)


def test_the_command_refuses_in_words_and_writes_nothing(tmp_path: Path):
    out = tmp_path / "out.yaml"
    command = [
        sys.executable,
        "-m",
        "penstock.cli",
        "deploy",
        "kubernetes",
        "render",
        "churn",
        "-o",
        str(out),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "state.kind: sqlite" in done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists()
    kserve_too = [*command, "--for", "kserve", "kpi=null"]
    done = subprocess.run(kserve_too, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "KServe judges no version" in done.stderr
    kinds = [document["kind"] for document in yaml.safe_load_all(out.read_text())]
    assert kinds == ["ServingRuntime", "InferenceService"]
