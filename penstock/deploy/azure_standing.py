"""How a deployment on Azure stands: both colours, who gets what share of the requests, and how far a promotion has come.

All of it is asked of Azure, tags of the endpoint included: two people see the same, and nothing is lost with a machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from penstock.config.deploying import Azure
from penstock.deploy import azure_resources as wanted
from penstock.deploy.azure_arm import Arm, Credential
from penstock.deploy.azure_artefact import container
from penstock.deploy.azure_resources import COLOURS, VERSIONS, Colour, Foundation, Ids
from penstock.errors import PenstockError

if TYPE_CHECKING:
    from azure.storage.blob import ContainerClient

__all__ = [
    "BACK_TAG",
    "DEPLOYED",
    "DEPLOYING",
    "ROLLED_BACK",
    "SINCE_TAG",
    "STAGES",
    "STAGE_TAG",
    "Cloud",
    "Shares",
    "Stage",
    "Standing",
    "found_endpoint",
    "is_moving",
    "is_stuck",
    "opened",
    "other",
    "put_shares",
    "settle",
    "shares_of",
    "stamped",
    "standing",
]

STAGE_TAG, SINCE_TAG, BACK_TAG = "penstock-stage", "penstock-since", "penstock-back"
Stage = Literal["mirror", "canary", "full"]
STAGES: tuple[Stage, ...] = ("mirror", "canary", "full")
# Besides: what was promoted before has made room, what is to be promoted is there, and what was taken back.
DEPLOYING, DEPLOYED, ROLLED_BACK = "deploying", "deployed", "rolled back"
MOVING = ("creating", "updating", "deleting", "accepted", "running", "provisioning")


@dataclass
class Cloud:
    """A deployment, and the way to it.

    Attributes:
        view: What is declared.
        arm: The client.
        credential: For blobs.
        root: The repository.
        told: Is told what happens.
        now: The time.
        sleep: Waits.
        blobs: Opens the container; a test's own.
    """

    view: Azure
    arm: Arm
    credential: Credential
    root: Path = Path()
    told: Callable[[str], None] = lambda _: None
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    sleep: Callable[[float], None] = time.sleep
    blobs: Callable[[str, str, Any], ContainerClient] = container
    made: Foundation | None = field(default=None, init=False)

    @property
    def ids(self) -> Ids:
        """Of everything there."""
        return Ids(self.view)

    def foundation(self) -> Foundation:
        """What the endpoint stands on.

        Raises:
            PenstockError: It is not there yet.
        """
        if self.made is None:
            found = self.arm.find(self.ids.foundation, VERSIONS["deployment"])
            outputs = ((found.body.get("properties") or {}).get("outputs") if found else None) or {}
            if set(Foundation.__annotations__) - set(outputs):
                raise PenstockError(
                    f"{self.view.resource_group}: nothing is deployed there yet",
                    hint="penstock deploy azure apply",
                )
            self.made = Foundation(**{name: outputs[name]["value"] for name in Foundation.__annotations__})
        return self.made

    def container(self) -> ContainerClient:
        """Where artefacts are kept."""
        made = self.foundation()
        url = self.view.storage or f"https://{made.storage}.blob.core.windows.net"
        return self.blobs(url, made.container, self.credential)


@contextmanager
def opened(view: Azure, told: Callable[[str], None], root: Path = Path()) -> Iterator[Cloud]:
    """A deployment as the surroundings let one in: environment, workload or managed identity, or `az login`."""
    import logging

    from azure.identity import DefaultAzureCredential

    # It tells of each way in which nobody could be found; the error says it in one sentence.
    logging.getLogger("azure.identity").setLevel(logging.ERROR)
    with (
        DefaultAzureCredential(exclude_interactive_browser_credential=True) as credential,
        Arm(view.url, credential, told=told) as arm,
    ):
        yield Cloud(view, arm, credential, root, told)


@dataclass(frozen=True)
class Shares:
    traffic: dict[str, int]
    mirror: dict[str, int]


@dataclass(frozen=True)
class Standing:
    """How a deployment stands.

    Attributes:
        endpoint: As Azure gives it; None where there is none.
        colours: Both deployments, or None.
        traffic: Percent answered by each.
        mirror: Percent copied to one.
        live: The colour that answers most, if any does.
        challenger: The other, where `apply` has put another artefact or image there which has not become the live one.
        stage: How far the challenger has come: deployed, mirror, canary; "rolled back" where it was taken back, "full" where
            it has become the live one, "deploying" where it is not there yet.
        since: When that stage began.
        back: Whom `rollback` would go back to after a full promotion.
    """

    endpoint: Mapping[str, Any] | None
    colours: dict[Colour, Mapping[str, Any] | None]
    traffic: dict[str, int]
    mirror: dict[str, int]
    live: Colour | None
    challenger: Colour | None
    stage: str
    since: datetime | None
    back: Colour | None

    def holds(self, colour: Colour) -> tuple[str, str]:
        """Versions of artefact and image of a colour."""
        body = self.colours[colour]
        properties = body["properties"] if body else {}
        return (
            str(properties.get("model") or "").rpartition("/")[2],
            str(properties.get("environmentId") or "").rpartition("/")[2],
        )

    def version(self, colour: Colour | None) -> str:
        """Of the artefact of a colour."""
        return self.holds(colour)[0] if colour else ""

    def state(self, colour: Colour) -> str:
        """Azure's provisioning state of a colour."""
        body = self.colours[colour]
        return str(body["properties"].get("provisioningState", "")) if body else "absent"


def standing(cloud: Cloud) -> Standing:
    """How it stands now.

    Raises:
        PenstockError: Nothing is deployed.
    """
    made = cloud.foundation()
    found = found_endpoint(cloud)
    body = found.body if found else None
    colours: dict[Colour, Mapping[str, Any] | None] = dict.fromkeys(COLOURS)
    if body is not None:
        for colour in COLOURS:
            answer = cloud.arm.find(cloud.ids.colour(made, colour), VERSIONS["ml"])
            colours[colour] = answer.body if answer else None
    shares = shares_of(body)
    tags = (body or {}).get("tags") or {}
    answering = [c for c in COLOURS if shares.traffic.get(c)]
    live = _live(answering, shares.traffic, tags)
    now = Standing(body, colours, shares.traffic, shares.mirror, live, None, "", None, None)
    stage = str(tags.get(STAGE_TAG, ""))
    if len(answering) == 2:  # what Azure does counts for more than what was noted
        stage = "canary"
    elif shares.mirror:
        stage = "mirror"
    elif stage in ("mirror", "canary"):
        stage = "full"
    challenger: Colour | None = None
    if (
        live is not None
        and colours[other(live)] is not None
        and stage in (DEPLOYED, *STAGES[:2], ROLLED_BACK)
    ):
        challenger = other(live) if now.holds(other(live)) != now.holds(live) else None
    back = tags.get(BACK_TAG)
    return Standing(
        body,
        colours,
        shares.traffic,
        shares.mirror,
        live,
        challenger,
        stage,
        datetime.fromisoformat(tags[SINCE_TAG]) if tags.get(SINCE_TAG) else None,
        next((c for c in COLOURS if c == back), None),
    )


def _live(answering: list[Colour], traffic: Mapping[str, int], tags: Mapping[str, str]) -> Colour | None:
    """Of two that answer, the champion is the one that a rollback goes back to; a canary may have the larger share."""
    if len(answering) == 2:
        for colour in answering:
            if colour == tags.get(BACK_TAG):
                return colour
        return max(answering, key=lambda found: traffic[str(found)])
    return answering[0] if answering else None


def other(colour: Colour) -> Colour:
    return "green" if colour == "blue" else "blue"


def shares_of(body: Mapping[str, Any] | None) -> Shares:
    properties = (body or {}).get("properties") or {}
    return Shares(
        {k: int(v) for k, v in (properties.get("traffic") or {}).items()},
        {k: int(v) for k, v in (properties.get("mirrorTraffic") or {}).items() if v},
    )


def found_endpoint(cloud: Cloud) -> Any:
    return cloud.arm.find(cloud.ids.endpoint(cloud.foundation()), VERSIONS["ml"])


def is_moving(body: Mapping[str, Any]) -> bool:
    return str((body.get("properties") or {}).get("provisioningState", "")).lower() in MOVING


def is_stuck(body: Mapping[str, Any]) -> bool:
    return str((body.get("properties") or {}).get("provisioningState", "")).lower() in ("failed", "canceled")


def settle(cloud: Cloud, path: str, version: str) -> None:
    """Wait for an operation that somebody, perhaps a killed process of ours, has begun: Azure takes one at a time."""
    found = cloud.arm.find(path, version)
    told = False
    while found is not None and is_moving(found.body):
        if not told:
            cloud.told(f"{path.rpartition('/')[2]}: an operation is under way; waiting for it")
            told = True
        asked = found.headers.get("retry-after", "")
        cloud.sleep(float(asked) if asked.isdigit() else 5.0)
        found = cloud.arm.find(path, version)


def stamped(cloud: Cloud) -> str:
    return cloud.now().isoformat(timespec="seconds")


def put_shares(
    cloud: Cloud, traffic: Mapping[str, int], mirror: Mapping[str, int], tags: Mapping[str, str]
) -> None:
    """Who gets what share, in one request: nobody ever sees half of it."""
    made = cloud.foundation()
    body = wanted.endpoint(
        cloud.view, made, traffic, mirror, tags
    )  # refused here, before any call, if it does not add up
    path = cloud.ids.endpoint(made)
    settle(cloud, path, VERSIONS["ml"])
    found = cloud.arm.find(path, VERSIONS["ml"])
    if found is not None:
        theirs = {k: v for k, v in (found.body.get("tags") or {}).items() if not k.startswith("penstock")}
        body["tags"] = theirs | body["tags"]
    cloud.arm.put(path, VERSIONS["ml"], body, etag=found.etag if found else None)
