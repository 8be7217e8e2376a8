"""conf/deploy/kubernetes.yaml: where in a cluster things run, and how large they are."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from penstock.config.base import View

__all__ = ["Kubernetes", "KubernetesReplicas", "Resources"]

Label = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|Ki|Mi|Gi)?$")]


class Resources(View):
    """Of one container. Memory is asked for whole; more is not given."""

    cpu: Quantity = "500m"  # asked for; there is no limit to it, as one throttles what answers
    memory: Quantity = "512Mi"  # asked for, and the limit


class KubernetesReplicas(View):
    """How many pods."""

    least: Annotated[int, Field(ge=2, le=500)] = 2  # one that is being replaced leaves one that answers
    most: Annotated[int, Field(ge=2, le=500)] = 10
    cpu: Annotated[int, Field(ge=10, le=95)] = 60  # percent of what was asked for, from which there are more

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if self.most < self.least:
            raise ValueError("most: expected at least as many as `least`")
        return self


class Kubernetes(View):
    """What a rendered rollout needs to know of a cluster."""

    namespace: Label = "penstock"
    predictor: str = "penstock-predictor"  # images by name; an overlay gives each its registry and digest
    router: str = "penstock-rollout"
    models: Label = "penstock-models"  # a claim of a volume with the artefacts, read only
    data: Label | None = None  # a claim that many pods may write to, for request logs; None: nothing is kept
    kserve_models: str = "pvc://penstock-models"  # where KServe fetches them: pvc://, s3://, https://…
    replicas: KubernetesReplicas = KubernetesReplicas()
    predictor_resources: Resources = Resources()
    router_resources: Resources = Resources(cpu="250m", memory="256Mi")
    first_port: Annotated[int, Field(ge=1024, le=65000)] = 8610  # of the arms' predictors, inside of the pod
