"""From the model that answers to the one beside it, stage by stage; and back at once."""

from __future__ import annotations

from datetime import UTC, datetime

from penstock.deploy.azure_resources import VERSIONS, Colour
from penstock.deploy.azure_standing import (
    BACK_TAG,
    ROLLED_BACK,
    SINCE_TAG,
    STAGE_TAG,
    STAGES,
    Cloud,
    Stage,
    Standing,
    other,
    put_shares,
    stamped,
    standing,
)
from penstock.errors import PenstockError

__all__ = ["promote", "rollback"]


def promote(cloud: Cloud, to: Stage | None = None, *, now: bool = False) -> str:
    """Take the challenger one stage further: copies of requests, a share of them, all of them.

    Args:
        cloud: The deployment.
        to: The stage, which must not be an earlier one. [default: the next]
        now: Whether to skip the time it is to bake, and the verdict.

    Returns:
        What was done, in words.

    Raises:
        PenstockError: There is no challenger, it is not ready, has not baked, or does badly.
    """
    here = standing(cloud)
    if here.live is None or here.challenger is None:
        raise PenstockError(
            f"{cloud.view.endpoint}: there is nothing to promote: one artefact only is deployed",
            hint="`penstock deploy azure apply` deploys what is declared beside what is live",
        )
    challenger, live = here.challenger, here.live
    if here.state(challenger).lower() != "succeeded":
        raise PenstockError(
            f"deployment {challenger}: is {here.state(challenger)}, not ready for requests",
            hint="`penstock deploy azure apply` brings it in order",
        )
    if here.stage == ROLLED_BACK and not now:
        raise PenstockError(
            f"{here.version(challenger)} was rolled back",
            hint="deploy another artefact, or --now to try it once more",
        )
    reached = (
        STAGES.index("canary" if here.stage == "canary" else "mirror") if here.stage in STAGES[:2] else -1
    )
    stage = to or STAGES[reached + 1]
    if STAGES.index(stage) <= reached:
        raise PenstockError(
            f"{here.version(challenger)} is already at {here.stage}",
            hint=f"the next is {STAGES[reached + 1]}",
        )
    if not now and STAGES.index(stage) > reached + 1:
        raise PenstockError(
            f"{stage} comes after {STAGES[reached + 1]}",
            hint="go stage by stage, or --now to skip what lies between",
        )
    if not now and reached >= 0:
        _baked(cloud, here, challenger)
    return _staged(cloud, here, live, challenger, stage)


def _staged(cloud: Cloud, here: Standing, live: Colour, challenger: Colour, stage: Stage) -> str:
    rollout = cloud.view.rollout
    tags = {STAGE_TAG: stage, SINCE_TAG: stamped(cloud), BACK_TAG: live}
    version = here.version(challenger)
    if stage == "mirror":
        put_shares(cloud, {live: 100, challenger: 0}, {challenger: rollout.mirror}, tags)
        return f"{version} ({challenger}) gets copies of {rollout.mirror} % of the requests"
    if stage == "canary":
        put_shares(cloud, {live: 100 - rollout.canary, challenger: rollout.canary}, {}, tags)
        return f"{version} ({challenger}) answers {rollout.canary} % of the requests"
    put_shares(cloud, {challenger: 100, live: 0}, {}, tags)
    return f"{version} ({challenger}) answers all requests; {here.version(live)} ({live}) stands by"


def _baked(cloud: Cloud, here: Standing, challenger: Colour) -> None:
    bake = cloud.view.rollout.bake
    since = here.since
    if since is None or cloud.now() - since < bake:
        left = bake - (cloud.now() - since) if since else bake
        raise PenstockError(
            f"{here.version(challenger)} has not been at {here.stage} for {bake.total_seconds() / 60:g} minutes",
            hint=f"again in {max(1, round(left.total_seconds() / 60))} minutes, or --now",
        )
    answered, failed = _requests(cloud, challenger, since)
    if answered < cloud.view.rollout.requests:
        raise PenstockError(
            f"{here.version(challenger)} has had {answered:.0f} requests at {here.stage}, fewer than the {cloud.view.rollout.requests} "
            "that a verdict takes",
            hint="wait for more, lower rollout.requests, or --now",
        )
    share = failed / answered
    if share > cloud.view.rollout.errors:
        raise PenstockError(
            f"{here.version(challenger)}: {share:.1%} of {answered:.0f} requests failed, where {cloud.view.rollout.errors:.1%} may",
            hint="penstock deploy azure rollback",
        )


def _requests(cloud: Cloud, colour: Colour, since: datetime) -> tuple[float, float]:
    """How many requests a colour has had since then, and how many of them failed (5xx), by Azure Monitor."""
    from urllib.parse import quote, urlencode

    span = f"{since.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}/{cloud.now().astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
    asked = {
        "metricnames": "RequestsPerMinute",
        "metricnamespace": "Microsoft.MachineLearningServices/workspaces/onlineEndpoints",
        "timespan": span,
        "interval": "PT1M",
        "aggregation": "Average",  # of a minute's rate: its requests
        "$filter": f"deployment eq '{colour}' and statusCodeClass eq '*'",
    }
    path = f"{cloud.ids.endpoint(cloud.foundation())}/providers/Microsoft.Insights/metrics"
    body = cloud.arm.send("GET", path, VERSIONS["metrics"], query=urlencode(asked, quote_via=quote)).body
    answered = failed = 0.0
    for metric in body.get("value", []):
        for series in metric.get("timeseries", []):
            classes = [
                m["value"]
                for m in series.get("metadatavalues", [])
                if m["name"]["value"].lower() == "statuscodeclass"
            ]
            count = sum(point.get("average") or 0.0 for point in series.get("data", []))
            answered += count
            failed += count if classes and classes[0].lower().startswith("5") else 0.0
    return answered, failed


def rollback(cloud: Cloud) -> str:
    """Send all requests to the model before, which is still there: one request to Azure.

    Returns:
        What was done, in words.

    Raises:
        PenstockError: There is nothing to go back to.
    """
    here = standing(cloud)
    if here.live is None:
        raise PenstockError(f"{cloud.view.endpoint}: answers nobody", hint="penstock deploy azure apply")
    under_way = here.stage in ("mirror", "canary")
    good: Colour | None = here.live if under_way else here.back
    if good is None or (good == here.live and not under_way) or here.colours[good] is None:
        raise PenstockError(
            f"{cloud.view.endpoint}: there is nothing to go back to: {here.version(here.live)} answers all requests"
            + (", as it was rolled back to" if here.stage == ROLLED_BACK else ""),
            hint="deploy an earlier artefact: `git checkout TAG -- dvc.lock && dvc checkout`, then apply and promote",
        )
    if here.state(good).lower() in ("failed", "absent", "deleting"):
        raise PenstockError(
            f"deployment {good}: is {here.state(good)}; it cannot answer",
            hint="`penstock deploy azure apply` with the earlier artefact brings it back",
        )
    tags = {STAGE_TAG: ROLLED_BACK, SINCE_TAG: stamped(cloud), BACK_TAG: good}
    shares: dict[str, int] = {good: 100}
    if here.colours[other(good)] is not None:
        shares[other(good)] = 0
    put_shares(cloud, shares, {}, tags)
    return f"{here.version(good)} ({good}) answers all requests again"
