"""The verbs against a stand-in for Azure Resource Manager and the real storage emulator."""

from __future__ import annotations

from datetime import timedelta

import pytest

from penstock.deploy.azure import apply, destroy, plan
from penstock.deploy.azure_arm import ArmError
from penstock.deploy.azure_promotion import promote, rollback
from penstock.deploy.azure_standing import Cloud, standing
from penstock.errors import PenstockError
from tests.penstock.deploy.conftest import DIGESTS, artefact
from tests.servers.azure_stand_in import Fault, StandIn


def other(cloud: Cloud, **changes: object) -> Cloud:
    """The same deployment, declared otherwise."""
    view = type(cloud.view).model_validate({**cloud.view.model_dump(), **changes})
    return Cloud(
        view, cloud.arm, cloud.credential, cloud.root, now=cloud.now, sleep=cloud.sleep, blobs=cloud.blobs
    )


@pytest.fixture
def live(cloud: Cloud, stand_in: StandIn) -> Cloud:
    """One artefact that answers all requests."""
    apply(cloud)
    stand_in.requests.clear()
    return cloud


@pytest.fixture
def challenged(live: Cloud, stand_in: StandIn) -> Cloud:
    """And another beside it."""
    artefact(live.root / "models/churn", b"second")
    apply(live)
    stand_in.requests.clear()
    return live


def test_apply_from_nothing_makes_all_that_is_declared(cloud: Cloud, stand_in: StandIn, containers):
    planned = plan(cloud)
    assert stand_in.writes() == []
    done = apply(cloud)
    assert [c.what for c in planned] == [c.what for c in done]
    endpoint = stand_in.named("/onlineEndpoints/penstock-churn")["properties"]
    assert endpoint["traffic"] == {"blue": 100}
    assert endpoint["authMode"] == "AADToken"
    here = standing(cloud)
    blue = stand_in.named("/deployments/blue")
    assert blue["sku"]["capacity"] == 2
    assert blue["properties"]["model"].endswith(f"/models/churn/versions/{here.version('blue')}")
    image = stand_in.named(f"/environments/churn-predictor/versions/{DIGESTS[0][7:19]}")["properties"][
        "image"
    ]
    assert image.endswith(DIGESTS[0])
    uri = stand_in.named(f"/models/churn/versions/{here.version('blue')}")["properties"]["modelUri"]
    names = {blob.name for blob in containers.list_blobs()}
    assert names == {uri.partition("/artefacts/")[2] + f"/{n}" for n in ("model.onnx", "manifest.json")}
    for name in ("penstock-churn-slow", "penstock-churn-failing"):
        assert stand_in.named(name)["properties"]["actions"][0]["actionGroupId"].endswith("churn-alerts")
    assert stand_in.named("/autoscaleSettings/penstock-churn-blue")["properties"][
        "targetResourceUri"
    ].endswith("/blue")


def test_a_second_apply_changes_nothing(live: Cloud, stand_in: StandIn):
    live.made = None
    assert plan(live) == []
    assert apply(live) == []
    assert stand_in.writes() == []


@pytest.mark.parametrize(
    ("gone", "why"),
    [
        ("/registries/", "foundation"),
        ("/metricAlerts/penstock-churn-slow", "alert slow"),
        ("/autoscaleSettings/", "autoscale"),
    ],
)
def test_what_somebody_has_removed_is_made_again(live: Cloud, stand_in: StandIn, gone: str, why: str):
    key = next(k for k in stand_in.resources if gone.lower() in k and "roleassignments" not in k)
    del stand_in.resources[key]
    assert [c.what for c in plan(live)] == [why]
    apply(live)
    assert key in stand_in.resources
    assert plan(live) == []


def test_what_somebody_has_changed_is_changed_back(live: Cloud, stand_in: StandIn):
    stand_in.named("/deployments/blue")["properties"]["instanceType"] = "Standard_F2s_v2"
    assert [str(c) for c in plan(live)] == ["~ deployment blue: properties.instanceType"]
    apply(live)
    assert stand_in.named("/deployments/blue")["properties"]["instanceType"] == "Standard_DS2_v2"


def test_machines_that_autoscaling_has_added_stay(live: Cloud, stand_in: StandIn):
    stand_in.named("/deployments/blue")["sku"]["capacity"] = 5
    assert plan(live) == []
    apply(other(live, instances={"type": "Standard_DS3_v2"}))
    assert stand_in.named("/deployments/blue")["sku"]["capacity"] == 5


def test_a_new_artefact_goes_beside_the_live_one_without_a_request(challenged: Cloud, stand_in: StandIn):
    here = standing(challenged)
    assert (here.live, here.challenger, here.traffic) == ("blue", "green", {"blue": 100})
    assert plan(challenged) == []


def test_promotion_goes_by_stages_that_bake(challenged: Cloud, stand_in: StandIn, clock):
    endpoint = "/onlineEndpoints/penstock-churn"
    promote(challenged)
    assert stand_in.named(endpoint)["properties"]["mirrorTraffic"] == {"green": 10}
    assert stand_in.named(endpoint)["properties"]["traffic"] == {"blue": 100, "green": 0}
    with pytest.raises(PenstockError, match="has not been at mirror for 30 minutes"):
        promote(challenged)
    clock.time += timedelta(minutes=31)
    stand_in.metrics = {"2xx": 99}
    with pytest.raises(PenstockError, match="99 requests at mirror, fewer than the 100"):
        promote(challenged)
    stand_in.metrics = {"2xx": 980, "5xx": 20}
    with pytest.raises(PenstockError, match=r"2\.0% of 1000 requests failed"):
        promote(challenged)
    stand_in.metrics = {"2xx": 995, "5xx": 5}
    promote(challenged)
    assert stand_in.named(endpoint)["properties"]["traffic"] == {"blue": 90, "green": 10}
    assert stand_in.named(endpoint)["properties"]["mirrorTraffic"] == {}
    clock.time += timedelta(minutes=31)
    promote(challenged)
    assert stand_in.named(endpoint)["properties"]["traffic"] == {"green": 100, "blue": 0}
    assert plan(challenged) == []
    with pytest.raises(PenstockError, match="nothing to promote"):
        promote(challenged, now=True)
    asked = [r for r in stand_in.requests if r.path.endswith("/metrics")]
    assert asked[-1].query["$filter"] == ["deployment eq 'green' and statusCodeClass eq '*'"]


def test_stages_are_not_skipped_unless_told_to(challenged: Cloud, stand_in: StandIn):
    with pytest.raises(PenstockError, match="full comes after mirror"):
        promote(challenged, "full")
    promote(challenged, "full", now=True)
    assert standing(challenged).traffic == {"green": 100, "blue": 0}


@pytest.mark.parametrize("stage", ["mirror", "canary", "full"])
def test_rollback_is_one_request_and_what_was_rolled_back_stays_so(
    challenged: Cloud, stand_in: StandIn, stage
):
    promote(challenged, stage, now=True)
    stand_in.requests.clear()
    assert "answers all requests again" in rollback(challenged)
    assert len(stand_in.writes()) == 1
    properties = stand_in.named("/onlineEndpoints/penstock-churn")["properties"]
    assert properties["traffic"]["blue"] == 100
    assert properties["traffic"].get("green", 0) == 0
    assert properties["mirrorTraffic"] == {}
    assert plan(challenged) == []
    with pytest.raises(PenstockError, match="was rolled back"):
        promote(challenged)
    with pytest.raises(PenstockError, match="nothing to go back to"):
        rollback(challenged)


def test_an_artefact_that_is_being_promoted_is_not_replaced(challenged: Cloud, stand_in: StandIn):
    promote(challenged)
    artefact(challenged.root / "models/churn", b"third")
    with pytest.raises(PenstockError, match="is under way"):
        apply(challenged)
    assert standing(challenged).mirror == {"green": 10}


def test_after_a_promotion_the_next_artefact_takes_the_place_of_the_one_before(
    challenged: Cloud, stand_in: StandIn
):
    promote(challenged, "full", now=True)
    artefact(challenged.root / "models/churn", b"third")
    apply(challenged)
    here = standing(challenged)
    assert (here.live, here.challenger, here.stage) == ("green", "blue", "deployed")
    with pytest.raises(PenstockError, match="nothing to go back to"):
        rollback(challenged)  # blue is no longer the model before
    promote(challenged)
    assert standing(challenged).mirror == {"blue": 10}


def test_while_a_challenger_is_half_deployed_it_is_neither_promoted_nor_gone_back_to(
    challenged: Cloud, stand_in: StandIn
):
    promote(challenged, "full", now=True)
    artefact(challenged.root / "models/churn", b"third")
    stand_in.faults = [Fault("PUT", "/deployments/blue$", 403, "AuthorizationFailed", "no")]
    with pytest.raises(ArmError):
        apply(challenged)
    for verb in (promote, rollback):
        with pytest.raises(PenstockError, match="nothing to"):
            verb(challenged)
    apply(challenged)
    assert standing(challenged).challenger == "blue"


def test_destroy_leaves_nothing(challenged: Cloud, stand_in: StandIn):
    assert destroy(challenged)
    assert stand_in.resources == {}
    assert stand_in.bin == {}
    assert destroy(challenged) == []


def test_destroy_goes_on_where_it_was_cut_off(challenged: Cloud, stand_in: StandIn):
    stand_in.faults = [Fault("POST", "/purge$", 403, "AuthorizationFailed", "no")]
    with pytest.raises(ArmError, match="purge"):
        destroy(challenged)
    assert stand_in.bin
    assert destroy(challenged) == [next(line for line in destroyed_lines(stand_in, challenged))]
    assert stand_in.bin == {}


def destroyed_lines(stand_in: StandIn, cloud: Cloud):
    return [f"vault {name}, for good" for name in ["churn" + cloud_unique(cloud)]]


def cloud_unique(cloud: Cloud) -> str:
    import hashlib

    return hashlib.sha256(cloud.ids.group.encode()).hexdigest()[:13]


def test_a_group_of_somebody_else_is_not_touched(cloud: Cloud, stand_in: StandIn):
    stand_in.resources[cloud.ids.group.lower()] = {"location": "westeurope", "tags": {}, "properties": {}}
    for verb in (apply, plan, destroy):
        with pytest.raises(PenstockError, match="is not of this deployment"):
            verb(cloud)
    assert stand_in.writes() == []


def test_a_group_that_holds_something_else_is_not_removed(live: Cloud, stand_in: StandIn):
    path = f"{live.ids.group}/providers/Microsoft.Storage/storageAccounts/precious"
    stand_in.resources[path.lower()] = {
        "id": path,
        "name": "precious",
        "type": "Microsoft.Storage/storageAccounts",
    }
    with pytest.raises(PenstockError, match=r"holds .* precious"):
        destroy(live)
    assert stand_in.writes() == []


def test_a_plan_can_be_made_when_the_foundation_has_failed(cloud: Cloud, stand_in: StandIn):
    stand_in.failing = {"/deployments/penstock-foundation": ("Conflict", "the name is taken")}
    with pytest.raises(ArmError, match="the name is taken"):
        apply(cloud)
    assert next(c.why for c in plan(cloud)) == "is Failed"
    stand_in.failing = {}
    apply(cloud)
    assert plan(cloud) == []


def test_without_an_image_the_foundation_is_made_and_says_where_to_push(cloud: Cloud, stand_in: StandIn):
    with pytest.raises(PenstockError, match=r"pushed to churn[0-9a-f]{13}\.azurecr\.io"):
        apply(other(cloud, image=None))
    assert not any("onlineendpoints" in key for key in stand_in.resources)
    apply(cloud)
    assert standing(cloud).live == "blue"


def test_a_deployment_that_fails_says_why_and_is_tried_again(cloud: Cloud, stand_in: StandIn):
    stand_in.failing = {"/deployments/blue": ("OutOfQuota", "Not enough quota for Standard_DS2_v2")}
    with pytest.raises(ArmError, match="OutOfQuota: Not enough quota") as refused:
        apply(cloud)
    assert "instances.type" in str(refused.value)
    stand_in.failing = {}
    assert [c.why for c in plan(cloud) if c.what == "deployment blue"] == ["has failed before"]
    apply(cloud)
    assert standing(cloud).traffic == {"blue": 100}


def test_what_is_under_way_is_waited_for(live: Cloud, stand_in: StandIn, clock):
    """A process that was killed has begun an operation, which goes on in Azure."""
    stand_in.held = {"/deployments/blue"}
    path = live.ids.colour(live.foundation(), "blue")
    body = {
        k: v for k, v in stand_in.named("/deployments/blue").items() if k in ("location", "sku", "properties")
    }
    del body["properties"]["provisioningState"]
    live.arm.send("PUT", path, "2025-12-01", body)
    assert [c.why for c in plan(live)] == ["an operation is under way, which is waited for"]
    ended = clock.sleep

    def sleep(seconds: float) -> None:
        stand_in.held = set()
        ended(seconds)

    live.sleep = sleep
    apply(live)
    assert plan(live) == []


def test_two_who_promote_at_once_do_not_overwrite_each_other(challenged: Cloud, stand_in: StandIn):
    stand_in.faults = [Fault("PUT", "/onlineEndpoints/penstock-churn$", 412, "PreconditionFailed", "changed")]
    with pytest.raises(ArmError, match="changed by somebody else"):
        promote(challenged)
    promote(challenged)
    put = next(r for r in stand_in.requests if r.method == "PUT" and "if-match" in r.headers)
    assert put.headers["if-match"].startswith('"')


def test_a_changed_file_is_not_deployed(cloud: Cloud, stand_in: StandIn):
    (cloud.root / "models/churn/model.onnx").write_bytes(b"tampered")
    with pytest.raises(PenstockError, match="its SHA-256 is"):
        apply(cloud)
    assert stand_in.requests == []


def test_a_blob_of_another_content_is_not_taken_for_ours(cloud: Cloud, containers):
    from penstock.deploy.azure_artefact import local

    found = local(cloud.root / "models/churn")
    containers.upload_blob(f"{found.prefix}/model.onnx", b"other", metadata={"sha256": "0" * 64})
    with pytest.raises(PenstockError, match="is there, and is not what"):
        apply(cloud)
