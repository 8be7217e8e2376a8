"""conf/rollout/NAME.yaml as manifests: a router with its arms, which honours every strategy but one, or what KServe can honour.

The router's pod holds one predictor for each arm. They speak to each other inside of the pod, over loopback, as on one machine: no
keys between them, no network between a request and its answer. More pods are more routers, which agree by a state in Redis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from penstock.config.deploying import Kubernetes, Resources
from penstock.config.rollout import AB, Arm, Bandit, BlueGreen, Canary, Rolling, Rollout, Shadow, Single
from penstock.errors import PenstockError

__all__ = ["kserve", "router", "runtime"]

Manifest = dict[str, Any]
STOP = 5  # seconds in which a pod is taken out of its service, before it is told to stop
GRACE = 30  # seconds until it is killed: more than STOP, and than what is in flight is given
USER = 10001
APP = "/srv"  # as in the images
ROUTER = 8600


# --- pieces ---------------------------------------------------------------------------------------------


def _labels(name: str, component: str) -> dict[str, str]:
    return {"app.kubernetes.io/name": name, "app.kubernetes.io/component": component}


def _security() -> Manifest:
    """Of a container: as Kubernetes' restricted standard asks, and nothing can be written but what is mounted."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def _pod_security() -> Manifest:
    return {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "fsGroup": USER,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def _resources(view: Resources, most: int | None = None) -> Manifest:
    """Args: ``most`` bytes of memory, where something else than what is asked for is the limit."""
    return {
        "requests": {"cpu": view.cpu, "memory": view.memory, "ephemeral-storage": "64Mi"},
        "limits": {"memory": view.memory if most is None else str(most), "ephemeral-storage": "256Mi"},
    }


def _asked(port: int, path: str) -> Manifest:
    """A probe of what listens on loopback alone, where the kubelet does not reach."""
    code = f"import urllib.request as r; r.urlopen('http://127.0.0.1:{port}{path}', timeout=2)"
    return {"exec": {"command": ["python", "-c", code]}, "timeoutSeconds": 5}


def _secret(name: str, key: str) -> Manifest:
    return {"valueFrom": {"secretKeyRef": {"name": name, "key": key}}}


def _spread(labels: Mapping[str, str]) -> list[Manifest]:
    return [
        {
            "maxSkew": 1,
            "topologyKey": key,
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": dict(labels)},
        }
        for key in ("kubernetes.io/hostname", "topology.kubernetes.io/zone")
    ]


# --- the router -----------------------------------------------------------------------------------------


def router(name: str, view: Rollout, cluster: Kubernetes, given: Sequence[str] = ()) -> list[Manifest]:
    """A rollout as it is declared: routers with their arms, a controller, and what lets them come and go.

    Args:
        name: Of conf/rollout/NAME.yaml.
        view: What is declared there.
        cluster: Where it goes.
        given: Hydra overrides by which the view was composed; the pods compose it by the same.

    Raises:
        PenstockError: Something that is declared cannot be honoured.
    """
    _honoured_by_router(name, view, cluster)
    called = f"rollout-{name}".replace("_", "-")
    labels = _labels(called, "router")
    return [
        _deployment(called, labels, cluster, _router_pod(name, view, cluster, labels, given)),
        _service(called, labels, cluster),
        {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": _metadata(called, labels, cluster),
            "spec": {"maxUnavailable": 1, "selector": {"matchLabels": labels}},
        },
        _autoscaler(called, labels, cluster),
        _controller(name, called, view, cluster, given),
    ]


def _honoured_by_router(name: str, view: Rollout, cluster: Kubernetes) -> None:
    file = f"conf/rollout/{name}.yaml"
    if isinstance(view.strategy, Rolling):
        raise PenstockError(
            f"{file}: strategy.kind: rolling replaces processes of one machine; pods are replaced by their Deployment",
            hint="name the new artefact as the champion's, with strategy.kind: single; it is rolled pod by pod",
        )
    outside = [arm for arm, what in view.arms.items() if what.urls]
    if outside:
        raise PenstockError(
            f"{file}: arms.{outside[0]}.urls: the arms of a pod are started in it",
            hint="name an `artifact`, a folder of the volume with the models",
        )
    several = [arm for arm, what in view.arms.items() if what.replicas > 1]
    if several:
        raise PenstockError(
            f"{file}: arms.{several[0]}.replicas: a pod has one predictor for each arm",
            hint="replicas: 1 and, where a core does not suffice, more `workers`; more pods are conf/deploy/kubernetes.yaml's",
        )
    if view.state.kind != "redis":
        raise PenstockError(
            f"{file}: state.kind: {view.state.kind}: routers of several pods would each have a state of their own",
            hint="state: {kind: redis, url: '${secret:REDIS_URL}'}",
        )
    if view.guardrails.memory_restarts is not None:
        raise PenstockError(
            f"{file}: guardrails.memory_restarts: a container that outgrows its memory is started again by the cluster, "
            "and no controller counts it",
            hint="guardrails.memory_restarts=null; deploy/kubernetes/components/monitoring has an alert for it",
        )
    if view.requests is not None and cluster.data is None:
        raise PenstockError(
            f"{file}: requests: records and truths would go with the pod",
            hint="name a claim that many pods may write to, conf/deploy/kubernetes.yaml: data: NAME; or requests=null",
        )
    if view.router.flags is not None and not view.router.flags.startswith("conf/flags/"):
        raise PenstockError(
            f"{file}: router.flags: {view.router.flags} is not in conf/flags, which is what pods are given",
            hint="move it there",
        )
    folder = [arm for arm, what in view.arms.items() if what.artifact and what.artifact.startswith("/")]
    if folder:
        raise PenstockError(
            f"{file}: arms.{folder[0]}.artifact: is a path of one machine",
            hint="name it as it is in the repository, such as models/churn",
        )


def _ports(view: Rollout, cluster: Kubernetes) -> dict[str, int]:
    return {arm: cluster.first_port + number for number, arm in enumerate(view.arms, start=1)}


def _overrides(name: str, view: Rollout, cluster: Kubernetes, given: Sequence[str]) -> list[str]:
    """What differs in a pod from what is declared for one machine: where the arms are."""
    arms = []
    for arm, port in _ports(view, cluster).items():
        arms += [f"arms.{arm}.artifact=null", f"arms.{arm}.urls=['http://127.0.0.1:{port}']"]
    return [name, *given, *arms]


def _router_pod(
    name: str, view: Rollout, cluster: Kubernetes, labels: Mapping[str, str], given: Sequence[str]
) -> Manifest:
    containers: list[Manifest] = [_router_container(name, view, cluster, given)]
    containers += [
        _arm_container(view, cluster, arm, what, _ports(view, cluster)[arm])
        for arm, what in view.arms.items()
    ]
    return {
        "serviceAccountName": "penstock-router",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": GRACE,
        "securityContext": _pod_security(),
        "topologySpreadConstraints": _spread(labels),
        "containers": containers,
        "volumes": [
            {"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}},
            _data(cluster),
            {"name": "conf", "configMap": {"name": "penstock-rollout"}},
            *(
                []
                if view.router.flags is None
                else [{"name": "flags", "configMap": {"name": "penstock-flags"}}]
            ),
            {"name": "clients", "secret": {"secretName": "penstock-clients"}},
            {"name": "operators", "secret": {"secretName": "penstock-operators"}},
            {"name": "models", "persistentVolumeClaim": {"claimName": cluster.models, "readOnly": True}},
        ],
    }


def _data(cluster: Kubernetes) -> Manifest:
    if cluster.data is None:
        return {"name": "data", "emptyDir": {"sizeLimit": "128Mi"}}
    return {"name": "data", "persistentVolumeClaim": {"claimName": cluster.data}}


def _router_container(name: str, view: Rollout, cluster: Kubernetes, given: Sequence[str]) -> Manifest:
    return {
        "name": "router",
        "image": cluster.router,
        "imagePullPolicy": "IfNotPresent",
        "workingDir": APP,
        "command": [
            "penstock",
            "rollout",
            "router",
            *_overrides(name, view, cluster, given),
            "router.host=0.0.0.0",
            f"router.port={ROUTER}",
            "router.keys=keys/clients/clients.yaml",
            "router.operators=keys/operators/operators.yaml",
        ],
        "env": _secrets(view),
        "ports": [{"name": "http", "containerPort": ROUTER}],
        "securityContext": _security(),
        "resources": _resources(cluster.router_resources),
        "startupProbe": {
            "httpGet": {"path": "/v2/health/live", "port": "http"},
            "failureThreshold": 30,
            "periodSeconds": 2,
        },
        "livenessProbe": {
            "httpGet": {"path": "/v2/health/live", "port": "http"},
            "periodSeconds": 10,
            "timeoutSeconds": 3,
        },
        "readinessProbe": {
            "httpGet": {"path": "/v2/health/ready", "port": "http"},
            "periodSeconds": 5,
            "timeoutSeconds": 3,
        },
        "lifecycle": {"preStop": {"sleep": {"seconds": STOP}}},
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108  (a mount in a pod)
            {"name": "data", "mountPath": f"{APP}/data"},
            {"name": "conf", "mountPath": f"{APP}/conf/rollout", "readOnly": True},
            *(
                []
                if view.router.flags is None
                else [{"name": "flags", "mountPath": f"{APP}/conf/flags", "readOnly": True}]
            ),
            {"name": "clients", "mountPath": f"{APP}/keys/clients", "readOnly": True},
            {"name": "operators", "mountPath": f"{APP}/keys/operators", "readOnly": True},
        ],
    }


def _secrets(view: Rollout) -> list[Manifest]:
    """Secrets that the file names, by reference: ${secret:REDIS_URL} is the key REDIS_URL of penstock-secrets."""
    import re

    named = sorted(set(re.findall(r"\$\{secret:(\w+)\}", view.model_dump_json())))
    found = [{"name": key, **_secret("penstock-secrets", key)} for key in named]
    return [*found, {"name": "PENSTOCK_HASH_KEY", **_secret("penstock-secrets", "PENSTOCK_HASH_KEY")}]


def _arm_container(view: Rollout, cluster: Kubernetes, arm: str, what: Arm, port: int) -> Manifest:
    # An arm that is not the champion may be away: the champion answers for it, and the pod stays in its service.
    champion = arm == view.strategy.champion
    ready = {"readinessProbe": {**_asked(port, "/v2/health/ready"), "periodSeconds": 10}} if champion else {}
    return {
        "name": f"arm-{arm}".replace("_", "-"),
        "image": cluster.predictor,
        "imagePullPolicy": "IfNotPresent",
        "workingDir": APP,
        "command": [
            "penstock",
            "serve",
            f"models={{{view.model}: {{path: {what.artifact}}}}}",
            f"port={port}",
            f"workers={what.workers}",
            "requests=null",  # the router keeps the request log
        ],
        "ports": [{"name": f"arm-{port}", "containerPort": port}],
        "securityContext": _security(),
        "resources": _resources(cluster.predictor_resources, what.memory_bytes),
        "startupProbe": {**_asked(port, "/v2/health/live"), "failureThreshold": 30, "periodSeconds": 2},
        "livenessProbe": {**_asked(port, "/v2/health/live"), "periodSeconds": 20, "failureThreshold": 3},
        **ready,
        # Longer than the router's: what it has in flight is still answered.
        "lifecycle": {"preStop": {"sleep": {"seconds": STOP + 12}}},
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
            {"name": "models", "mountPath": f"{APP}/models", "readOnly": True},
        ],
    }


def _metadata(name: str, labels: Mapping[str, str], cluster: Kubernetes) -> Manifest:
    return {"name": name, "namespace": cluster.namespace, "labels": dict(labels)}


def _deployment(
    name: str, labels: Mapping[str, str], cluster: Kubernetes, pod: Manifest, replicas: int | None = None
) -> Manifest:
    """Args: ``replicas`` where no autoscaler has the say."""
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata(name, labels, cluster),
        "spec": {
            **({} if replicas is None else {"replicas": replicas}),
            "revisionHistoryLimit": 5,
            "progressDeadlineSeconds": 300,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "selector": {"matchLabels": dict(labels)},
            "template": {"metadata": {"labels": dict(labels)}, "spec": pod},
        },
    }


def _service(name: str, labels: Mapping[str, str], cluster: Kubernetes) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(name, labels, cluster),
        "spec": {"selector": dict(labels), "ports": [{"name": "http", "port": 80, "targetPort": "http"}]},
    }


def _autoscaler(name: str, labels: Mapping[str, str], cluster: Kubernetes) -> Manifest:
    size = cluster.replicas
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": _metadata(name, labels, cluster),
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            "minReplicas": size.least,
            "maxReplicas": size.most,
            "metrics": [
                {
                    "type": "Resource",
                    "resource": {
                        "name": "cpu",
                        "target": {"type": "Utilization", "averageUtilization": size.cpu},
                    },
                }
            ],
            # A rollout's figures are added up over pods: they come fast, and go slowly.
            "behavior": {
                "scaleUp": {"policies": [{"type": "Percent", "value": 100, "periodSeconds": 30}]},
                "scaleDown": {
                    "stabilizationWindowSeconds": 300,
                    "policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}],
                },
            },
        },
    }


def _controller(name: str, called: str, view: Rollout, cluster: Kubernetes, given: Sequence[str]) -> Manifest:
    """What watches, steps and concludes. One pod: if it dies routers go on by what is in force until the next one is there."""
    labels = _labels(f"{called}-controller", "controller")
    container = _router_container(name, view, cluster, given)
    for key in ("ports", "startupProbe", "livenessProbe", "readinessProbe", "lifecycle"):
        del container[key]
    container["name"] = "controller"
    container["command"] = ["penstock", "rollout", "controller", *_overrides(name, view, cluster, given)]
    kept = ("tmp", "data", "conf")
    container["volumeMounts"] = [mount for mount in container["volumeMounts"] if mount["name"] in kept]
    pod = _router_pod(name, view, cluster, labels, given) | {"containers": [container]}
    pod["volumes"] = [volume for volume in pod["volumes"] if volume["name"] in kept]
    found = _deployment(f"{called}-controller", labels, cluster, pod, 1)
    found["metadata"]["annotations"] = {
        "penstock/no-probes": "it listens nowhere; it ends when it cannot go on, and is started again"
    }
    return found


# --- KServe ---------------------------------------------------------------------------------------------


def kserve(name: str, view: Rollout, cluster: Kubernetes, percent: int | None = None) -> list[Manifest]:
    """What KServe can honour: one version, or a share of requests at random for a second one, set by a person.

    Args:
        name: Of conf/rollout/NAME.yaml.
        view: What is declared there.
        cluster: Where it goes.
        percent: For canary and blue-green: what the new version gets now.

    Returns:
        The service of the champion, to be applied first, and then that of the new version, under the same name.

    Raises:
        PenstockError: Something that is declared cannot be honoured.
    """
    strategy, file = view.strategy, f"conf/rollout/{name}.yaml"
    elsewhere = f"render it for the router: penstock deploy kubernetes render {name} --for router"
    why: dict[type, str] = {
        Shadow: "KServe does not mirror requests",
        AB: "KServe splits requests at random: a user would not stay with a version, and nothing is tested",
        Bandit: "KServe learns from no reward",
        Rolling: "KServe has no waiting for replicas that goes back by itself",
    }
    if type(strategy) in why:
        raise PenstockError(f"{file}: strategy.kind: {strategy.kind}: {why[type(strategy)]}", hint=elsewhere)
    usual = {"memory_restarts"}
    asked = view.guardrails.model_dump(exclude=usual) != type(view.guardrails)().model_dump(exclude=usual)
    if asked or view.kpi is not None:
        raise PenstockError(
            f"{file}: {'kpi' if view.kpi is not None else 'guardrails'}: KServe judges no version",
            hint=elsewhere,
        )
    champion = _inference_service(view, cluster, strategy.champion)
    if isinstance(strategy, Single):
        if percent is not None:
            raise PenstockError(
                f"{file}: strategy.kind: single: there is nothing to get a share", hint="leave --percent out"
            )
        return [champion]
    assert isinstance(strategy, Canary | BlueGreen)
    return [
        champion,
        _inference_service(view, cluster, _second(strategy), _share(file, strategy, percent, elsewhere)),
    ]


def _second(strategy: Canary | BlueGreen) -> str:
    return strategy.canary if isinstance(strategy, Canary) else strategy.idle


def _share(file: str, strategy: Canary | BlueGreen, percent: int | None, elsewhere: str) -> int:
    if isinstance(strategy, BlueGreen):
        if percent not in (0, 100):
            raise PenstockError(
                f"{file}: strategy.kind: blue_green: answers all or nothing",
                hint="--percent 0, and --percent 100 to switch",
            )
        return percent
    if strategy.unit == "user":
        raise PenstockError(
            f"{file}: strategy.unit: user: KServe splits requests at random, and users would not stay with a version",
            hint=f"unit: request, or {elsewhere}",
        )
    steps = ", ".join(f"{step:g}" for step in strategy.steps)
    if percent is None or percent not in strategy.steps:
        raise PenstockError(
            f"{file}: strategy.kind: canary: KServe neither waits (bake) nor goes on by itself",
            hint=f"take each step yourself: --percent, one of {steps}; or {elsewhere}",
        )
    return percent


def runtime(cluster: Kubernetes) -> Manifest:
    """How KServe runs our predictor: a serving runtime for the format `penstock`, by the Open Inference Protocol."""
    container: Manifest = {
        "name": "kserve-container",
        "image": cluster.predictor,
        "workingDir": APP,
        "command": ["penstock", "serve"],
        "args": [
            "models={{{.Name}}: {path: /mnt/models}}",
            "host=0.0.0.0",
            "port=8080",
            "keys=keys/clients/clients.yaml",
            "requests=null",
        ],
        "ports": [{"name": "http1", "containerPort": 8080, "protocol": "TCP"}],
        "securityContext": _security(),
        "resources": _resources(cluster.predictor_resources),
        "readinessProbe": {"httpGet": {"path": "/v2/health/ready", "port": 8080}, "periodSeconds": 5},
        "livenessProbe": {"httpGet": {"path": "/v2/health/live", "port": 8080}, "periodSeconds": 10},
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
            {"name": "clients", "mountPath": f"{APP}/keys/clients", "readOnly": True},
        ],
    }
    return {
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "ServingRuntime",
        "metadata": {"name": "penstock", "namespace": cluster.namespace},
        "spec": {
            "supportedModelFormats": [{"name": "penstock", "version": "1", "autoSelect": True}],
            "protocolVersions": ["v2"],
            "containers": [container],
            "volumes": [
                {"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}},
                {"name": "clients", "secret": {"secretName": "penstock-clients"}},
            ],
        },
    }


def _inference_service(view: Rollout, cluster: Kubernetes, arm: str, percent: int | None = None) -> Manifest:
    what = view.arms[arm]
    if what.artifact is None:
        raise PenstockError(
            f"arms.{arm}.urls: KServe starts predictors itself",
            hint="name an `artifact`, a folder of the models",
        )
    predictor: Manifest = {
        "minReplicas": cluster.replicas.least,
        "maxReplicas": cluster.replicas.most,
        "scaleMetric": "cpu",
        "scaleTarget": cluster.replicas.cpu,
        "serviceAccountName": "penstock-predictor",
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": GRACE,
        "securityContext": _pod_security(),
        "model": {
            "modelFormat": {"name": "penstock", "version": "1"},
            "protocolVersion": "v2",
            "runtime": "penstock",
            "storageUri": f"{cluster.kserve_models}/{what.artifact.removeprefix('models/')}",
            "resources": _resources(cluster.predictor_resources),
        },
    }
    if percent is not None:
        predictor["canaryTrafficPercent"] = percent
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            "name": view.model.replace("_", "-").lower(),
            "namespace": cluster.namespace,
            "labels": _labels(view.model, "predictor"),
            "annotations": {"penstock/arm": arm},
        },
        "spec": {"predictor": predictor},
    }
