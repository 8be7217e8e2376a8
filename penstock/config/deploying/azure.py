"""conf/deploy/azure.yaml: one model behind a managed online endpoint of Azure Machine Learning."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from penstock.config.base import View
from penstock.config.loading.spans import duration

__all__ = ["Azure", "AzureAlerts", "AzureInstances", "AzureRollout"]

Duration = Annotated[timedelta, BeforeValidator(duration)]
Guid = Annotated[str, Field(pattern=r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$")]


def _secure(url: str) -> str:
    """A token goes there: only this machine may be spoken to in the clear."""
    if not re.fullmatch(r"https://[^/?#@]+|http://(127\.0\.0\.1|localhost)(:\d+)?", url):
        raise ValueError("expected https://HOST, as https://management.azure.com")
    return url


def _pinned(image: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9.:/_-]*@sha256:[0-9a-f]{64}", image):
        raise ValueError(
            "expected an image by its digest, as registry/penstock-predictor@sha256:…; a tag can be moved"
        )
    return image


class AzureInstances(View):
    """The machines behind each colour."""

    type: str = "Standard_DS2_v2"
    least: Annotated[int, Field(ge=1, le=100)] = 2  # one that is being replaced leaves one that answers
    most: Annotated[int, Field(ge=1, le=100)] = 6
    cpu: Annotated[int, Field(ge=10, le=90)] = 60  # percent, from which there are more of them
    timeout: Duration = timedelta(seconds=5)  # of one request
    concurrency: Annotated[int, Field(ge=1, le=1000)] = 64  # requests at once in one of them
    queue: Duration = timedelta(milliseconds=500)  # that a request may wait for a place

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if self.most < self.least:
            raise ValueError("most: expected at least as many as `least`")
        if not timedelta(milliseconds=1) <= self.timeout <= timedelta(minutes=3):
            raise ValueError("timeout: Azure takes 1 ms to 3 minutes")
        return self


class AzureRollout(View):
    """What a new model goes through: copies of requests, then a share of them, then all."""

    mirror: Annotated[int, Field(ge=1, le=50)] = (
        10  # percent copied, the answers thrown away; Azure takes 50 at most
    )
    canary: Annotated[int, Field(ge=1, le=99)] = 10  # percent answered
    bake: Duration = timedelta(minutes=30)  # at each of the two
    errors: Annotated[float, Field(gt=0, lt=1)] = 0.01  # share of its requests that may fail
    requests: Annotated[int, Field(ge=1)] = 100  # without which there is no verdict


class AzureAlerts(View):
    """When somebody is told, and who."""

    email: str | None = None
    latency: Duration = timedelta(milliseconds=500)  # p99
    failures: Annotated[float, Field(gt=0)] = 5.0  # answers of 5xx a minute


class Azure(View):
    """Everything that is chosen for one deployment."""

    name: Annotated[
        str, Field(pattern=r"^[a-z][a-z0-9]{2,10}$")
    ]  # part of names that are unique in the world
    subscription: Guid
    resource_group: Annotated[str, Field(pattern=r"^[A-Za-z0-9_()-]{1,90}$")]
    location: Annotated[str, Field(pattern=r"^[a-z0-9]+$")] = "westeurope"
    model: str = "models/churn"
    signed_by: str | None = None  # PEM of the public key without whose signature it is not deployed
    # None: what it is pushed to is made first, and said.
    image: Annotated[str, AfterValidator(_pinned)] | None = None
    port: Annotated[int, Field(ge=1024, le=65535)] = 8080  # where the image's program `serve` is to listen
    endpoint: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{2,31}$")]  # unique in its region
    # Object id of whoever deploys: may then write artefacts into the one container. None: an administrator sees to it.
    deployer: Guid | None = None
    public: bool = True  # whether the endpoint answers outside of its network; callers need a token of Entra ID either way
    instances: AzureInstances = AzureInstances()
    rollout: AzureRollout = AzureRollout()
    alerts: AzureAlerts = AzureAlerts()
    url: Annotated[str, AfterValidator(_secure)] = (
        "https://management.azure.com"  # sovereign clouds have others
    )
    storage: str | None = None  # of the blobs, where it is not https://ACCOUNT.blob.core.windows.net
