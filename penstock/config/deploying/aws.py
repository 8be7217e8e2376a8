"""What is deployed to AWS, and how updates are made. Limits are those of the service."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, StringConstraints, model_validator

from penstock.config.base import OpenShare, View
from penstock.config.loading.spans import duration

__all__ = [
    "Alarms",
    "AllAtOnce",
    "Aws",
    "Canary",
    "Deployer",
    "Instances",
    "Linear",
    "Retraining",
    "Rolling",
    "Scaling",
    "Shadow",
    "State",
    "Update",
]

Count = Annotated[int, Field(ge=1)]
Percent = Annotated[int, Field(ge=1, le=100)]
Duration = Annotated[timedelta, BeforeValidator(duration)]
UpToAnHour = Annotated[Duration, Field(ge=timedelta(0), le=timedelta(hours=1))]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$", max_length=24)]
Image = Annotated[str, StringConstraints(pattern=r"^[^@\s]+@sha256:[0-9a-f]{64}$")]


class Instances(View):
    """What a variant runs on."""

    type: Annotated[str, StringConstraints(pattern=r"^ml\.")] = "ml.m5.large"
    count: Count = 2  # in two zones
    health: Annotated[Duration, Field(ge=timedelta(minutes=1), le=timedelta(hours=1))] = timedelta(minutes=5)


class Scaling(View):
    """How many instances answer, by what each has to do."""

    most: Count = 6
    invocations: Count = 3000  # a minute and instance, that are aimed at
    cooldown_in: Duration = timedelta(minutes=5)
    cooldown_out: Duration = timedelta(minutes=1)


class AllAtOnce(View):
    """A new fleet takes all traffic at once; the old one stays for a while."""

    kind: Literal["all_at_once"]
    wait: UpToAnHour = timedelta(minutes=5)  # in which an alarm still rolls back
    keep_old: UpToAnHour = timedelta(minutes=10)


class Canary(View):
    """A new fleet takes some traffic, and after a wait without alarm the rest."""

    kind: Literal["canary"]
    percent: Annotated[int, Field(ge=1, le=50)] = 10
    wait: UpToAnHour = timedelta(minutes=10)
    keep_old: UpToAnHour = timedelta(minutes=10)


class Linear(View):
    """A new fleet takes traffic in equal steps."""

    kind: Literal["linear"]
    percent: Annotated[int, Field(ge=10, le=50)] = 25
    wait: UpToAnHour = timedelta(minutes=5)
    keep_old: UpToAnHour = timedelta(minutes=10)


class Rolling(View):
    """The fleet is replaced in batches; needs no second fleet."""

    kind: Literal["rolling"]
    percent: Annotated[int, Field(ge=5, le=50)] = 25
    wait: UpToAnHour = timedelta(minutes=5)


Update = Annotated[AllAtOnce | Canary | Linear | Rolling, Field(discriminator="kind")]


class Shadow(View):
    """The challenger gets copies of requests, and its answers go nowhere."""

    count: Count = 1
    percent: Percent = 100  # of requests that are copied
    least: Duration = timedelta(hours=1)  # in service before it may be promoted


class Alarms(View):
    """What rolls an update back, and tells people."""

    error_share: OpenShare = 0.01  # of invocations
    latency_p99_ms: Annotated[float, Field(gt=0)] = 100.0
    periods: Count = 3  # minutes in a row
    shadow_failures: Count = 5  # a minute
    emails: tuple[str, ...] = ()


class Retraining(View):
    """When the graph is run again, and in what; it ends in a shadow."""

    schedule: Annotated[str, StringConstraints(pattern=r"^(cron|rate)\(.+\)$")]
    repository: Annotated[str, StringConstraints(pattern=r"^https://")]
    image: Image  # of the trainer
    signing_key: Annotated[str, StringConstraints(pattern=r"^arn:[^*?]+:secretsmanager:[^*?]+$")]
    timezone: str = "UTC"
    compute: str = "BUILD_GENERAL1_LARGE"
    hours: Annotated[int, Field(ge=1, le=8)] = 4


class Deployer(View):
    """A repository of GitHub whose workflow may release, in these environments."""

    repository: Annotated[str, StringConstraints(pattern=r"^[\w.-]+/[\w.-]+$")]
    environments: tuple[Annotated[str, StringConstraints(pattern=r"^[\w-]+$")], ...]


class State(View):
    """Where Terraform's state lies: on this machine, or in a bucket that several share."""

    bucket: str | None = None  # made if it is not there: versioned, encrypted, private


class Aws(View):
    """conf/deploy/NAME.yaml.

    Attributes:
        name: Of the endpoint; what else there is has names made of it.
        region: Where.
        model: Folder of the artefact.
        image: The predictor's image, by digest.
        key: PEM of the public key that artefacts must be signed by; None lets unsigned ones through.
        instances: What production runs on.
        scaling: How it follows the load.
        update: How traffic moves to another model.
        shadow: How a challenger is tried.
        alarms: What rolls back.
        retraining: When the model is trained anew; None for never.
        deployer: Whose workflow may release; None for nobody's.
        state: Where Terraform's state lies.
        log_days: How long logs are kept.
        artefact_days: How long overwritten and deleted objects are kept.
        pause: Between looks at an endpoint that is changing.
        patience: Until an update that has not ended is taken for stuck.
    """

    name: Name
    region: Annotated[str, StringConstraints(pattern=r"^[a-z]{2}(-[a-z]+)+-\d$")]
    model: str
    image: Image | None = None
    key: str | None
    instances: Instances = Instances()
    scaling: Scaling = Scaling()
    update: Update = Canary(kind="canary")
    shadow: Shadow = Shadow()
    alarms: Alarms = Alarms()
    retraining: Retraining | None = None
    deployer: Deployer | None = None
    state: State = State()
    log_days: Literal[
        1,
        3,
        5,
        7,
        14,
        30,
        60,
        90,
        120,
        150,
        180,
        365,
        400,
        545,
        731,
        1096,
        1827,
        2192,
        2557,
        2922,
        3288,
        3653,
    ] = 90
    artefact_days: Count = 180
    pause: Annotated[Duration, Field(gt=timedelta(0), le=timedelta(minutes=5))] = timedelta(seconds=15)
    patience: Annotated[Duration, Field(ge=timedelta(minutes=10), le=timedelta(hours=8))] = timedelta(hours=2)

    @model_validator(mode="after")
    def _fits(self) -> Aws:
        if self.scaling.most < self.instances.count:
            raise ValueError(
                f"scaling.most is {self.scaling.most}, below instances.count, which is {self.instances.count}"
            )
        if self.update.kind in {"canary", "rolling", "linear"} and self.instances.count < 2:
            raise ValueError(
                f"update.kind {self.update.kind} shifts traffic between instances, and instances.count is 1"
            )
        return self
