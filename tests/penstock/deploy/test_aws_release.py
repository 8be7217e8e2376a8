"""Releases against moto, and SageMaker by the book: who answers after what, and that a kill at any moment changes nothing."""

import json
import multiprocessing
import os
import shutil
import urllib.request
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest

from penstock.artifact.signature import make_key, sign
from penstock.config.deploying.aws import Aws
from penstock.deploy.aws_artefact import pack
from penstock.deploy.aws_release import Release, connected
from penstock.errors import PenstockError
from tests.servers.aws import REGION, ask, aws_server, credentials

IMAGE = f"123456789012.dkr.ecr.{REGION}.amazonaws.com/churn-predictor@sha256:" + "a" * 64


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with aws_server(tmp_path_factory.mktemp("aws")) as url, pytest.MonkeyPatch.context() as patch:
        for name, value in credentials(url).items():
            patch.setenv(name, value)
        yield url


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three artefacts, signed."""
    root = tmp_path_factory.mktemp("root")
    key = root / "release.pem"
    make_key(key)
    for name in ("a", "b", "c"):
        folder = root / name
        folder.mkdir()
        (folder / "model.onnx").write_bytes(name.encode() * 1000)
        (folder / "manifest.json").write_text(json.dumps({"name": "churn"}))
        sign(folder, key)
    return root


def declared(model: str, **more: Any) -> Aws:
    values = {
        "name": "churn",
        "region": REGION,
        "model": model,
        "key": "release.pub",
        "image": IMAGE,
        "shadow": {"least": "0s"},
        "pause": "PT0.005S",
        **more,
    }
    return Aws.model_validate(values)


@pytest.fixture
def account(url: str) -> Any:
    """An account with a bucket and alarms, and nothing else."""
    return emptied(url)


@cache
def clients_of(url: str) -> Any:
    return connected(declared("a"))


def emptied(url: str) -> Any:
    urllib.request.urlopen(urllib.request.Request(f"{url}/moto-api/reset", method="POST"), timeout=20).close()
    ask(url, "reset")
    clients = clients_of(url)
    clients.s3.create_bucket(
        Bucket=clients.names.bucket, CreateBucketConfiguration={"LocationConstraint": REGION}
    )
    for name in (*clients.names.rollback_alarms, clients.names.shadow_alarm):
        clients.cloudwatch.put_metric_alarm(
            AlarmName=name,
            ComparisonOperator="GreaterThanThreshold",
            EvaluationPeriods=1,
            MetricName="Invocation5XXErrors",
            Namespace="AWS/SageMaker",
            Period=60,
            Statistic="Sum",
            Threshold=1,
        )
    return clients


def released(account: Any, model: str = "a", **more: Any) -> Release:
    return Release(declared(model, **more), account, pause=0.005)


def ring(account: Any, name: str, state: str = "ALARM") -> None:
    account.cloudwatch.set_alarm_state(AlarmName=name, StateValue=state, StateReason="a test says so")


def serving(account: Any) -> tuple[str, str | None]:
    """Which models answer and are tried, as SageMaker sees it: hashes of their archives."""
    client = account.sagemaker
    endpoint = client.describe_endpoint(EndpointName="churn")
    assert endpoint["EndpointStatus"] == "InService"
    config = client.describe_endpoint_config(EndpointConfigName=endpoint["EndpointConfigName"])

    def digest(variant: dict[str, Any]) -> str:
        model = client.describe_model(ModelName=variant["ModelName"])
        return str(model["PrimaryContainer"]["ModelDataUrl"].split("/")[-2])

    (production,) = config["ProductionVariants"]
    shadows = config.get("ShadowProductionVariants", [])
    return digest(production), digest(shadows[0]) if shadows else None


def digests(root: Path) -> dict[str, str]:
    return {name: pack(root / name, root / "release.pub").digest for name in ("a", "b", "c")}


def test_first_then_shadow_then_promoted_then_back(account: Any, root: Path, url: str) -> None:
    of = digests(root)
    released(account, "a").apply(root)
    assert serving(account) == (of["a"], None)
    released(account, "b").apply(root)
    assert serving(account) == (of["a"], of["b"])
    journal = released(account, "b").promote()
    assert serving(account) == (of["b"], None)
    assert journal.champion is not None
    assert [variant.digest for variant in journal.former] == [of["a"]]
    journal = released(account, "b").rollback()
    assert serving(account) == (of["a"], None)
    assert (journal.former, journal.challenger, journal.open) == ((), None, None)
    with pytest.raises(PenstockError, match="nothing to go back to"):
        released(account, "b").rollback()

    updates = [
        item["content"] for item in ask(url, "hello")["requests"] if item["action"] == "UpdateEndpoint"
    ]
    # The shadow comes and goes unguarded, as a guarded update takes no other variants; traffic moves by canary, and back at once.
    kinds = [
        update.get("DeploymentConfig", {})
        .get("BlueGreenUpdatePolicy", {})
        .get("TrafficRoutingConfiguration", {})
        .get("Type")
        for update in updates
    ]
    assert kinds == [None, None, "CANARY", "ALL_AT_ONCE"]
    assert all(update["RetainAllVariantProperties"] for update in updates)
    target = account.scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"][0]
    assert (target["MinCapacity"], target["MaxCapacity"]) == (2, 6)
    assert target["ResourceId"] == "endpoint/churn/variant/production"


@pytest.mark.parametrize("kind", ["all_at_once", "linear", "rolling"])
def test_traffic_moves_by_every_declared_way(account: Any, root: Path, url: str, kind: str) -> None:
    released(account, "a").apply(root)
    released(account, "b", update={"kind": kind}).apply(root)
    released(account, "b", update={"kind": kind}).promote()
    assert serving(account) == (digests(root)["b"], None)
    last = ask(url, "hello")["requests"][-1]
    assert last["action"] == "UpdateEndpoint"
    assert ("RollingUpdatePolicy" in last["content"]["DeploymentConfig"]) is (kind == "rolling")


def test_what_is_released_is_not_released_again(account: Any, root: Path, url: str) -> None:
    released(account, "a").apply(root)
    released(account, "b").apply(root)
    before = ask(url, "hello")["changes"]
    released(account, "b").apply(root)
    assert ask(url, "hello")["changes"][len(before) :] == ["RegisterScalableTarget", "PutScalingPolicy"]


def test_instances_that_the_load_has_called_for_stay(account: Any, root: Path) -> None:
    released(account, "a").apply(root)
    account.sagemaker.update_endpoint_weights_and_capacities(
        EndpointName="churn",
        DesiredWeightsAndCapacities=[
            {"VariantName": "production", "DesiredInstanceCount": 5, "DesiredWeight": 1.0}
        ],
    )
    released(account, "b").apply(root)
    released(account, "b").promote()
    (variant,) = account.sagemaker.describe_endpoint(EndpointName="churn")["ProductionVariants"]
    assert variant["CurrentInstanceCount"] == 5


def test_a_ringing_alarm_brings_the_champion_back(
    account: Any, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released(account, "a").apply(root)
    released(account, "b").apply(root)
    release = released(account, "b")
    move = account.sagemaker.update_endpoint

    def rings_meanwhile(**request: Any) -> Any:
        answer = move(**request)
        if "DeploymentConfig" in request:
            ring(account, "churn-errors")
        return answer

    monkeypatch.setattr(account.sagemaker, "update_endpoint", rings_meanwhile)
    with pytest.raises(PenstockError, match=r"AWS has rolled back to .*: Alarm churn-errors went into ALARM"):
        release.promote()
    assert serving(account)[0] == digests(root)["a"]
    # Once more does not shift traffic to what was just found wanting: it says so again, until the attempt is given up.
    with pytest.raises(PenstockError, match="AWS has rolled back"):
        released(account, "b").promote()
    with pytest.raises(PenstockError, match="`promote` is half done"):
        released(account, "c").apply(root)
    lines, wrong = told(released(account, "b"))
    assert "`promote` is half done" in wrong[0]
    assert dict(lines)["alarm"]
    journal = released(account, "b").rollback(unfinished=True)
    assert (journal.open, journal.challenger) == (None, None)
    assert serving(account) == (digests(root)["a"], None)
    # Nothing is half done now, and a shadow that is being tried stays.
    released(account, "c").apply(root)
    released(account, "c").rollback(unfinished=True)
    assert serving(account) == (digests(root)["a"], digests(root)["c"])


def told(release: Release) -> tuple[list[tuple[str, str]], list[str]]:
    release.journal.read()
    return release.told()


@pytest.mark.parametrize("alarm", ["churn-errors", "churn-latency", "churn-shadow-errors"])
def test_nothing_is_promoted_while_an_alarm_rings(account: Any, root: Path, alarm: str) -> None:
    released(account, "a").apply(root)
    released(account, "b").apply(root)
    ring(account, alarm)
    with pytest.raises(PenstockError, match=f"alarm {alarm} rings"):
        released(account, "b").promote()
    account.cloudwatch.delete_alarms(AlarmNames=[alarm])
    with pytest.raises(PenstockError, match=f"there is no alarm {alarm}"):
        released(account, "b").promote()
    assert serving(account) == (digests(root)["a"], digests(root)["b"])


def test_a_shadow_is_tried_for_as_long_as_was_said(account: Any, root: Path) -> None:
    released(account, "a").apply(root)
    later = {"shadow": {"least": timedelta(hours=1)}}
    released(account, "b", **later).apply(root)
    with pytest.raises(PenstockError, match=r"has been in the shadow for \d s, of 60 min asked for"):
        released(account, "b", **later).promote()
    released(account, "b", **later).promote(at_once=True)
    assert serving(account)[0] == digests(root)["b"]


def test_a_first_model_that_does_not_come_up_is_told_and_cleared_away(
    account: Any, root: Path, url: str
) -> None:
    release = released(account, "a")
    wanted = release.planned(root)[0].rsplit(" ", 1)[1]
    ask(url, "broken", models=[wanted])
    with pytest.raises(PenstockError, match="endpoint churn is Failed: The primary container"):
        release.apply(root)
    released(account, "a").rollback()
    assert account.sagemaker.list_models()["Models"] == []
    ask(url, "broken", models=[])
    released(account, "a").apply(root)
    assert serving(account)[0] == digests(root)["a"]


def test_of_two_who_release_at_once_one_stops(account: Any, root: Path) -> None:
    released(account, "a").apply(root)
    slow = released(account, "b")
    slow.journal.read()
    begun = slow.journal.now.model_copy(update={"challenger": slow.journal.now.champion})
    released(account, "c").apply(root)
    with pytest.raises(PenstockError, match="somebody else is releasing"):
        slow.journal.write(begun)


def test_an_unsigned_or_changed_artefact_goes_nowhere(
    account: Any, root: Path, url: str, tmp_path: Path
) -> None:
    folder = tmp_path / "x"
    shutil.copytree(root / "a", folder)
    shutil.copy(root / "release.pub", tmp_path)
    (folder / "model.onnx").write_bytes(b"changed")
    before = ask(url, "hello")["changes"]
    with pytest.raises(PenstockError, match=r"model\.onnx: signature refused"):
        released(account, "x").apply(tmp_path)
    (folder / "model.sig").unlink()
    with pytest.raises(PenstockError, match="is not signed"):
        released(account, "x").apply(tmp_path)
    assert ask(url, "hello")["changes"] == before


def test_an_archive_is_the_same_for_the_same_files(root: Path) -> None:
    first = pack(root / "a", root / "release.pub")
    for path in (root / "a").iterdir():
        os.utime(path, (1, 1))
    assert pack(root / "a", root / "release.pub") == first


# Killed at every request that changes something

VERBS = [("a", "apply"), ("b", "apply"), ("b", "promote"), ("b", "rollback")]


def done(account: Any, root: Path, model: str, verb: str) -> None:
    release = released(account, model)
    if verb == "apply":
        release.apply(root)
    else:
        getattr(release, verb)()


def state(account: Any) -> dict[str, Any]:
    """Everything there is, without times."""
    client = account.sagemaker
    endpoint = client.describe_endpoint(EndpointName="churn")
    body = account.s3.get_object(Bucket=account.names.bucket, Key="releases/churn/journal.json")[
        "Body"
    ].read()

    def timeless(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: timeless(item) for key, item in value.items() if key not in {"since", "seen"}}
        return [timeless(item) for item in value] if isinstance(value, list) else value

    targets = account.scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"]
    policies = account.scaling.describe_scaling_policies(ServiceNamespace="sagemaker")["ScalingPolicies"]
    objects = account.s3.list_objects_v2(Bucket=account.names.bucket)["Contents"]
    return {
        "endpoint": (endpoint["EndpointStatus"], endpoint["EndpointConfigName"]),
        "models": sorted(item["ModelName"] for item in client.list_models()["Models"]),
        "configs": sorted(
            item["EndpointConfigName"] for item in client.list_endpoint_configs()["EndpointConfigs"]
        ),
        "objects": sorted(item["Key"] for item in objects),
        "scaled": [(item["ResourceId"], item["MinCapacity"], item["MaxCapacity"]) for item in targets],
        "policies": [item["PolicyName"] for item in policies],
        "journal": timeless(json.loads(body)),
    }


def in_a_process_that_is_killed(act: Callable[[], Any], url: str, at: int) -> int | None:
    """Run a verb until its request number ``at`` that changes something has been carried out; -1: until before the first."""
    here, there = multiprocessing.Pipe()

    def run() -> None:
        there.recv()
        act()
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    ask(url, "kill", pid=process.pid, at=max(at, 0), before=at < 0)
    here.send("go")
    process.join()
    ask(url, "kill", pid=0, at=-1, before=False)
    return process.exitcode


def test_a_kill_at_any_request_changes_nothing(url: str, root: Path) -> None:
    """In each round each verb is killed after another of its requests that change something, and run again."""
    account = emptied(url)
    expected, counts = [], []
    for model, verb in VERBS:
        ask(url, "kill", pid=0, at=-1, before=False)
        done(account, root, model, verb)
        expected.append(state(account))
        counts.append(len(ask(url, "hello")["changes"]))
    assert min(counts) >= 5, counts  # opened, noted, moved, scaled, closed

    # Clients that have no connection yet, which a process could share with the one that it was forked from.
    fresh = connected(declared("a"))
    for turn in range(-1, max(counts)):
        emptied(url)
        for (model, verb), wanted, count in zip(VERBS, expected, counts, strict=True):
            at = turn if turn < count else turn % count
            code = in_a_process_that_is_killed(partial(done, fresh, root, model, verb), url, at)
            assert code == -9, (verb, at)
            if at < count - 1:  # after the last, there is nothing to continue
                done(account, root, model, verb)
            assert state(account) == wanted, (verb, at)
