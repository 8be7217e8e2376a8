"""deploy/kubernetes/: the shapes that are published, and what no pod of ours may be."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml

from penstock.config.deploying import Kubernetes
from penstock.deploy.kubernetes import runtime
from penstock.stream.declared import declared
from penstock.stream.gateway_serving import GRACE
from tests.servers.manifests import built, named, pods, valid
from tests.servers.programs import program

ROOT = Path(__file__).parents[3]
KUBERNETES = ROOT / "deploy/kubernetes"
DRAIN = 1  # penstock.config.serving: limits.drain_seconds
SECONDS = 2  # for a process to end after all that


@pytest.fixture(scope="module", params=["dev", "production"])
def documents(request):
    return built(KUBERNETES / "overlays" / request.param)


@pytest.fixture(scope="module")
def production():
    return built(KUBERNETES / "overlays/production")


def test_every_document_has_the_published_shape(documents):
    assert len(documents) > 20
    for document in documents:
        valid(document)


def test_a_misspelt_key_does_not_pass(production):
    deployment = named(production, "Deployment")["gateway"]
    deployment["spec"]["template"]["spec"]["containers"][0]["redinessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        valid(deployment)
    scaled = named(production, "ScaledObject")["indexer"]
    scaled["spec"]["maxReplicas"] = 3
    with pytest.raises(jsonschema.ValidationError):
        valid(scaled)


def containers(documents):
    for name, pod in pods(documents).items():
        for container in pod["containers"] + pod.get("initContainers", []):
            yield name, pod, container


def test_no_container_may_more_than_it_must(documents):
    for name, pod, container in containers(documents):
        security = container["securityContext"]
        assert security == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, name
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 1000
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        assert not any("hostPath" in volume for volume in pod["volumes"])
        assert all(v["emptyDir"].get("sizeLimit") for v in pod["volumes"] if "emptyDir" in v)


def test_nobody_has_a_token_or_a_role(documents):
    assert not [d["kind"] for d in documents if d["kind"].endswith(("Role", "RoleBinding"))]
    accounts = named(documents, "ServiceAccount")
    assert all(account["automountServiceAccountToken"] is False for account in accounts.values())
    for name, pod, _ in containers(documents):
        assert pod["automountServiceAccountToken"] is False, name
        assert pod["serviceAccountName"] in accounts, name


def test_every_container_says_what_it_needs_and_has_a_limit(documents):
    for name, _, container in containers(documents):
        resources = container["resources"]
        assert {"cpu", "memory", "ephemeral-storage"} <= set(resources["requests"]), name
        assert {"memory", "ephemeral-storage"} <= set(resources["limits"]), name


def test_every_container_is_looked_after(documents):
    explained = {
        n
        for n, d in named(documents, "Deployment").items()
        if "penstock/no-probes" in d["metadata"].get("annotations", {})
    }
    assert explained == {"rollout-churn-controller"}
    for name, _, container in containers(documents):
        if name not in explained:
            assert {"startupProbe", "livenessProbe"} <= set(container), (name, container["name"])
    for name, pod in pods(documents).items():
        if name not in explained:
            assert "readinessProbe" in pod["containers"][0], name


def test_a_pod_is_killed_only_after_it_could_finish(documents):
    for name, pod, container in containers(documents):
        stop = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        assert pod["terminationGracePeriodSeconds"] >= stop + DRAIN + GRACE + SECONDS, (
            name,
            container["name"],
        )
        served = {"predictor", "gateway", "rollout-churn"}
        assert not (name in served and stop < 5), "a service still sends requests for a while"


def test_images_of_production_are_pinned_by_digest_and_none_is_latest(documents, production):
    for name, _, container in containers(documents):
        assert re.search(r":(?!latest)[\w.-]+$|@sha256:[0-9a-f]{64}$", container["image"]), (
            name,
            container["image"],
        )
    for name, _, container in containers(production):
        assert re.fullmatch(r".+@sha256:[0-9a-f]{64}", container["image"]), name


def test_no_secret_lies_here(documents):
    assert not named(documents, "Secret")
    for name, _, container in containers(documents):
        for variable in container.get("env", []):
            if re.search(r"KEY|PASSWORD|TOKEN|URL", variable["name"]):
                assert "secretKeyRef" in variable.get("valueFrom", {}), (name, variable)


def test_whoever_is_asked_survives_a_drained_node(documents):
    budgets = named(documents, "PodDisruptionBudget")
    scaled = {
        d["spec"]["scaleTargetRef"]["name"]
        for d in documents
        if d["kind"] in ("HorizontalPodAutoscaler", "ScaledObject")
    }
    for name, deployment in named(documents, "Deployment").items():
        if name.endswith("-controller"):
            continue
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        selected = [
            b for b in budgets.values() if b["spec"]["selector"]["matchLabels"].items() <= labels.items()
        ]
        assert len(selected) == 1, name
        assert name in scaled or deployment["spec"]["replicas"] >= 2, name
        assert not (name in scaled and "replicas" in deployment["spec"]), f"{name}: two would have the say"
        assert deployment["spec"]["template"]["spec"]["topologySpreadConstraints"], name


def test_each_is_scaled_from_one_place(production):
    targets = [
        d["spec"]["scaleTargetRef"]["name"]
        for d in production
        if d["kind"] in ("HorizontalPodAutoscaler", "ScaledObject")
    ]
    assert len(targets) == len(set(targets))


def test_indexers_are_scaled_by_the_lag_that_they_have(production):
    view = declared("cluster", root=ROOT)
    spec = named(production, "ScaledObject")["indexer"]["spec"]
    kafka = spec["triggers"][0]["metadata"]
    assert kafka["topic"] == view.log.readings.name
    assert kafka["consumerGroup"] == view.indexer.group
    assert spec["maxReplicaCount"] <= view.log.readings.partitions


def test_nothing_speaks_to_anything_unless_it_says_so(documents):
    policies = named(documents, "NetworkPolicy")
    everything = policies["default-deny"]["spec"]
    assert everything["podSelector"] == {}
    assert sorted(everything["policyTypes"]) == ["Egress", "Ingress"]
    assert "ingress" not in everything
    assert "egress" not in everything
    for name, policy in policies.items():
        for rule in policy["spec"].get("ingress", []) + policy["spec"].get("egress", []):
            assert rule.get("ports"), name
            assert all(peer for peer in rule.get("from", []) + rule.get("to", [])), name
            assert rule.get("from") or rule.get("to"), name


def test_services_monitors_and_policies_find_their_pods(production):
    labels = [d["spec"]["template"]["metadata"]["labels"] for d in production if d["kind"] == "Deployment"]
    ports = {
        d["metadata"]["name"]: {
            p["name"] for c in d["spec"]["template"]["spec"]["containers"] for p in c.get("ports", [])
        }
        for d in production
        if d["kind"] == "Deployment"
    }
    for name, service in named(production, "Service").items():
        found = [given for given in labels if service["spec"]["selector"].items() <= given.items()]
        assert len(found) == 1, name
        assert service["spec"]["ports"][0]["targetPort"] in ports[name], name
    components = {given["app.kubernetes.io/component"] for given in labels}
    for document in production:
        if document["kind"] in ("NetworkPolicy", "PodMonitor"):
            selector = document["spec"].get("podSelector") or document["spec"].get("selector") or {}
            for expression in selector.get("matchExpressions", []):
                assert set(expression["values"]) <= components, document["metadata"]["name"]


def test_settings_come_from_conf(production):
    maps = named(production, "ConfigMap")
    for prefix, group, file in (
        ("penstock-serve", "serve", "default"),
        ("penstock-stream", "stream", "cluster"),
        ("penstock-rollout", "rollout", "churn"),
    ):
        found = next(m for name, m in maps.items() if re.fullmatch(prefix + r"-\w{10}", name))
        assert found["data"] == {f"{file}.yaml": (ROOT / f"conf/{group}/{file}.yaml").read_text()}


def test_every_volume_is_of_something_that_is_there_and_used(production):
    there = {(d["kind"], d["metadata"]["name"]) for d in production}
    for name, pod in pods(production).items():
        mounted = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
        assert {volume["name"] for volume in pod["volumes"]} == mounted, name
        for volume in pod["volumes"]:
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in there, name
            if "persistentVolumeClaim" in volume:
                assert ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]) in there, name


def test_what_the_pods_are_told_composes(production):
    """The overrides in the manifests, by the program's own eyes."""
    for name, part in (("gateway", "gateway"), ("indexer", "indexer")):
        command = pods(production)[name]["containers"][0]["command"]
        assert command[:4] == ["penstock", "stream", part, "cluster"]
        overrides = [
            re.sub(r"\$\(\w+\)", "http://x.y:1", word) for word in command[4:] if not word.startswith("--")
        ]
        view = declared("cluster", overrides, root=ROOT)
        assert view.log.brokers == "http://x.y:1"
    assert view.store.api_key == "${secret:ELASTICSEARCH_API_KEY}"


def test_what_the_predictors_are_told_composes(production, monkeypatch):
    from penstock.serving.declared import declared as served

    monkeypatch.chdir(ROOT)
    command = pods(production)["predictor"]["containers"][0]["command"]
    assert command[:2] == ["penstock", "serve"]
    view = served(command[2:])
    assert (view.port, view.keys, view.requests) == (8500, "keys/clients/clients.yaml", None)
    container = runtime(Kubernetes())["spec"]["containers"][0]
    view = served([word.replace("{{.Name}}", "churn") for word in container["args"]])
    assert view.models is not None
    assert view.models["churn"].path == "/mnt/models"
    assert view.keys


def test_alert_rules_are_rules(production, tmp_path):
    rules = tmp_path / "rules.yaml"
    rules.write_text(yaml.safe_dump(named(production, "PrometheusRule")["penstock"]["spec"]))
    done = subprocess.run(
        [program("promtool", package="prometheus"), "check", "rules", rules],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    page = (ROOT / "docs/kubernetes.md").read_text().lower()
    for rule in named(production, "PrometheusRule")["penstock"]["spec"]["groups"][0]["rules"]:
        assert f"### {rule['alert'].lower()}" in page
