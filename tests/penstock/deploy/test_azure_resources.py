"""What is asked of Azure, held against the shapes that are published, and against what it must never be."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.config.deploying import Azure
from penstock.deploy import azure_resources as wanted
from penstock.deploy.azure_resources import Foundation, Ids
from penstock.errors import PenstockError
from tests.servers.arm_template import Group, expanded
from tests.servers.azure_stand_in import SUBSCRIPTION, TENANT, shapes

ROOT = Path(__file__).parents[3]
IMAGE = "churn.azurecr.io/penstock-predictor@sha256:" + "a" * 64
VIEW = Azure(
    name="churn",
    subscription=SUBSCRIPTION,
    resource_group="penstock-churn",
    endpoint="penstock-churn",
    image=IMAGE,
)
MADE = Foundation(
    "store", "artefacts", "registry", "vault", "churn-ml", "/subscriptions/s/id", "/subscriptions/s/group"
)
KINDS = shapes()
# Built-in roles that are given: AcrPull, Storage Blob Data Reader and Contributor, AzureML Metrics Writer.
ROLES = {
    "7f951dda-4ed3-4680-a7ca-43fe172d538d",
    "2a2b9908-6ea1-4ae2-8e65-a410df84e7d1",
    "ba92f5b4-2d11-453d-a403-e96b0029c9fe",
    "635dd51f-9968-44d3-b7fb-6d9a6bd613ae",
}


def fits(kind: str, body: object) -> None:
    jsonschema.validate(body, KINDS[kind.lower()]["schema"], jsonschema.Draft202012Validator)


@pytest.fixture(scope="module")
def resources() -> dict[str, dict]:
    """The template as Azure would expand it."""
    template = json.loads((ROOT / "deploy/azure/foundation.json").read_text())
    made: dict[str, dict] = {}
    given = {
        "name": {"value": "churn"},
        "deployer": {"value": "12345678-1111-2222-3333-444444444444"},
        "email": {"value": "operator@example.org"},
        "tags": {"value": {"penstock": "churn"}},
    }

    def put(identifier: str, version: str, body: dict) -> None:
        made[identifier] = {"version": version, **body}

    expanded(
        template,
        given,
        Group(SUBSCRIPTION, "penstock-churn", "westeurope", TENANT),
        put,
        lambda _: {"principalId": "p"},
    )
    return made


def kind_of(identifier: str) -> str:
    last = identifier.rpartition("/providers/")[2].split("/")
    return "/".join([last[0], *last[1::2]])


def test_each_resource_of_the_template_has_the_published_shape(resources):
    assert len(resources) == 13
    for identifier, body in resources.items():
        kind = kind_of(identifier)
        assert body["version"] == KINDS[kind.lower()]["apiVersion"], kind
        fits(kind, {k: v for k, v in body.items() if k != "version"})


def test_a_role_is_one_of_four_and_reaches_no_further_than_one_resource(resources):
    assigned = {i: b for i, b in resources.items() if kind_of(i).endswith("roleAssignments")}
    assert len(assigned) == 4
    for identifier, body in assigned.items():
        assert body["properties"]["roleDefinitionId"].rpartition("/")[2] in ROLES
        over = identifier.rpartition("/providers/Microsoft.Authorization")[0]
        assert "/providers/" in over  # neither a subscription nor a resource group


def test_nothing_is_open_nor_asked_for_by_a_key(resources):
    by_kind = {kind_of(i): b["properties"] for i, b in resources.items() if "properties" in b}
    storage = by_kind["Microsoft.Storage/storageAccounts"]
    assert (storage["allowBlobPublicAccess"], storage["allowSharedKeyAccess"]) == (False, False)
    assert (storage["supportsHttpsTrafficOnly"], storage["minimumTlsVersion"]) == (True, "TLS1_2")
    assert by_kind["Microsoft.Storage/storageAccounts/blobServices/containers"]["publicAccess"] == "None"
    registry = by_kind["Microsoft.ContainerRegistry/registries"]
    assert (registry["adminUserEnabled"], registry["anonymousPullEnabled"]) == (False, False)
    assert by_kind["Microsoft.KeyVault/vaults"]["enableRbacAuthorization"] is True
    assert by_kind["Microsoft.MachineLearningServices/workspaces"]["systemDatastoresAuthMode"] == "Identity"


def test_nothing_secret_is_an_output_or_a_parameter():
    text = (ROOT / "deploy/azure/foundation.json").read_text()
    assert not any(word in text for word in ("listKeys", "listCredentials", "securestring", "password"))


def test_what_serves_has_the_published_shape():
    ids = Ids(VIEW)
    ml = "Microsoft.MachineLearningServices/workspaces"
    fits("Microsoft.Resources/resourceGroups", wanted.group(VIEW))
    fits(f"{ml}/models/versions", wanted.model_version(VIEW, "https://store/artefacts/churn", "a" * 64))
    fits(f"{ml}/environments/versions", wanted.environment_version(VIEW, IMAGE))
    fits(
        f"{ml}/onlineEndpoints",
        wanted.endpoint(VIEW, MADE, {"blue": 90, "green": 10}, {}, {"penstock-stage": "canary"}),
    )
    body = wanted.deployment(
        VIEW, model=ids.model(MADE, "v"), environment=ids.environment(MADE, "v"), version="v", folder="v-1"
    )
    fits(f"{ml}/onlineEndpoints/deployments", body)
    fits("Microsoft.Insights/autoscaleSettings", wanted.autoscale(VIEW, ids.colour(MADE, "blue"), "blue"))
    for alert in wanted.alerts(VIEW, ids.endpoint(MADE), MADE.actions).values():
        fits("Microsoft.Insights/metricAlerts", alert)
    deployed = {"mode": "Incremental", "template": {}, "parameters": wanted.parameters(VIEW)}
    fits("Microsoft.Resources/deployments", {"tags": {}, "properties": deployed})


def test_a_misspelt_property_does_not_fit():
    body = wanted.endpoint(VIEW, MADE, {}, {}, {})
    body["properties"]["mirrorTrafic"] = {}
    with pytest.raises(jsonschema.ValidationError, match="mirrorTrafic"):
        fits("Microsoft.MachineLearningServices/workspaces/onlineEndpoints", body)
    alert = wanted.alerts(VIEW, "/e", "")["slow"]
    del alert["properties"]["criteria"]["allOf"][0]["threshold"]
    with pytest.raises(jsonschema.ValidationError, match="threshold"):
        fits("Microsoft.Insights/metricAlerts", alert)


shares = st.dictionaries(st.sampled_from(["blue", "green"]), st.integers(-10, 110))


@given(shares, st.dictionaries(st.sampled_from(["blue", "green", "red"]), st.integers(-1, 60), max_size=2))
def test_traffic_is_taken_only_if_azure_would_take_it(traffic, mirror):
    good = (
        all(0 <= s <= 100 for s in traffic.values())
        and sum(traffic.values()) in (0, 100)
        and len(mirror) <= 1
        and all(1 <= s <= 50 for s in mirror.values())
        and "red" not in mirror
        and not any(traffic.get(name) for name in mirror)
    )
    try:
        wanted.traffic_checked(traffic, mirror)
    except PenstockError:
        assert not good
    else:
        assert good


@pytest.mark.parametrize(
    ("present", "found"),
    [
        ({"location": "West Europe", "extra": 1, "id": "/A/B", "wait": "PT1M", "n": [1]}, None),
        ({"location": "westeurope", "id": "/a/c", "wait": "PT60S", "n": [1]}, "id"),
        ({"location": "westeurope", "id": "/a/b", "wait": "PT61S", "n": [1]}, "wait"),
        ({"location": "westeurope", "id": "/a/b", "wait": "PT60S", "n": [2]}, "n[0]"),
        ({"location": "westeurope", "id": "/a/b", "wait": "PT60S"}, "n"),
    ],
)
def test_what_azure_writes_otherwise_is_no_difference(present, found):
    assert (
        wanted.differs({"location": "westeurope", "id": "/a/b", "wait": "PT60S", "n": [1]}, present) == found
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("image", "registry/predictor:latest"),
        ("url", "http://management.azure.com"),
        ("url", "https://management.azure.com/@elsewhere"),
        ("subscription", "mine"),
        ("rollout", {"mirror": 60}),
        ("instances", {"least": 3, "most": 2}),
        ("instance", {}),
    ],
)
def test_settings_that_cannot_be_honoured_are_refused(key, value):
    with pytest.raises(ValueError, match=key):
        Azure.model_validate({**VIEW.model_dump(), key: value})


def test_the_image_for_azure_is_the_predictors_by_digest_and_answers_where_azure_asks():
    dockerfile = ROOT / "deploy/azure/Dockerfile"
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run(
        [hadolint, "--failure-threshold", "style", dockerfile], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    text = dockerfile.read_text()
    assert "\nFROM ${PREDICTOR}\n" in text
    assert text.endswith('CMD ["serve"]\n')
    routes = wanted.environment_version(VIEW, IMAGE)["properties"]["inferenceConfig"]
    assert {route["path"] for route in routes.values()} == {"/ping", "/invocations"}
    assert {route["port"] for route in routes.values()} == {VIEW.port}


def test_the_program_of_the_image_understands_what_azure_tells_it(tmp_path: Path):
    """By its own eyes, but for where Azure mounts the artefact."""
    from penstock.serving.sagemaker import view

    body = wanted.deployment(VIEW, model="m", environment="e", version="abc", folder="abc-1")
    told = body["properties"]["environmentVariables"]
    assert told["PENSTOCK_MODEL"] == "/models/churn/abc/abc-1"
    (tmp_path / "manifest.json").write_text('{"name": "churn"}')
    served = view(tmp_path, told)
    assert served.port == VIEW.port
    assert not served.signatures.required
    signed = wanted.deployment(
        VIEW.model_copy(update={"signed_by": "conf/deploy/release.pub"}),
        model="m", environment="e", version="abc", folder="abc-1",
    )  # fmt: skip
    key = tmp_path / "release.pub"
    key.write_text("a key")
    told = {**signed["properties"]["environmentVariables"], "PENSTOCK_PUBLIC_KEY": str(key)}
    assert view(tmp_path, told).signatures.required
