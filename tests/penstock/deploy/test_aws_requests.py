"""Every request, for every way of updating, against botocore's own model of the service: names, types, limits, and what goes out."""

import json
import re
from datetime import timedelta
from typing import Any

import botocore.session
import pytest
from botocore.serialize import create_serializer
from botocore.validate import ParamValidator
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from penstock.config.deploying.aws import AllAtOnce, Aws, Canary, Instances, Linear, Rolling, Scaling, Shadow
from penstock.deploy import aws_requests as requests
from penstock.deploy.aws_requests import Names

NAMES = Names("churn", "123456789012", "aws", "eu-central-1")
IMAGE = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/churn-predictor@sha256:" + "a" * 64
SESSION = botocore.session.get_session()
MODELS = {name: SESSION.get_service_model(name) for name in ("sagemaker", "application-autoscaling")}

minutes = st.integers(0, 60).map(lambda n: timedelta(minutes=n))
updates = st.one_of(
    st.builds(AllAtOnce, kind=st.just("all_at_once"), wait=minutes, keep_old=minutes),
    st.builds(Canary, kind=st.just("canary"), percent=st.integers(1, 50), wait=minutes, keep_old=minutes),
    st.builds(Linear, kind=st.just("linear"), percent=st.integers(10, 50), wait=minutes, keep_old=minutes),
    st.builds(Rolling, kind=st.just("rolling"), percent=st.integers(5, 50), wait=minutes),
)
views = st.builds(
    Aws,
    name=st.from_regex(r"\A[a-z][a-z0-9]{0,10}(-[a-z0-9]{1,10})?\Z"),
    region=st.just("eu-central-1"),
    model=st.just("models/churn"),
    key=st.sampled_from([None, "release.pub"]),
    image=st.just(IMAGE),
    instances=st.builds(Instances, count=st.integers(2, 5)),
    scaling=st.builds(Scaling, most=st.integers(5, 50), invocations=st.integers(1, 10**6)),
    shadow=st.builds(Shadow, count=st.integers(1, 5), percent=st.integers(1, 100)),
    update=updates,
)


def taken(service: str, operation: str, content: dict[str, Any]) -> dict[str, Any]:
    """What goes over the wire, after botocore's model has had nothing against it."""
    model = MODELS[service].operation_model(operation)
    report = ParamValidator().validate(content, model.input_shape)
    assert not report.has_errors(), report.generate_report()
    if service == "sagemaker":  # Auto Scaling's patterns are Java's, for "any character"
        in_pattern(content, model.input_shape)
    body: dict[str, Any] = json.loads(create_serializer("json").serialize_to_request(content, model)["body"])
    # The serializer drops what it does not know in silence: what was dropped was never asked for.
    assert body == content
    return body


def in_pattern(value: Any, shape: Any) -> None:
    """Patterns, longest lengths and greatest numbers, which botocore leaves to the service."""
    if shape.type_name == "structure":
        for key, item in value.items():
            in_pattern(item, shape.members[key])
    elif shape.type_name == "list":
        for item in value:
            in_pattern(item, shape.member)
    elif shape.type_name == "string":
        pattern = shape.metadata.get("pattern", ".*").replace(r"\p{L}\p{Z}\p{N}", r"\w\s")
        assert re.fullmatch(pattern, value), (value, shape)
        assert len(value) <= shape.metadata.get("max", 10**6)
        if shape.enum:
            assert value in shape.enum
    elif shape.type_name == "integer":
        assert value <= shape.metadata.get("max", 10**9)


@settings(max_examples=100, deadline=None)
@given(view=views, shadowed=st.booleans())
def test_requests_are_those_that_the_service_knows(view: Aws, shadowed: bool) -> None:
    names = Names(view.name, "123456789012", "aws", view.region)
    model = requests.model_request(view, names, image=IMAGE, digest="d" * 64, version="v" * 12)
    taken("sagemaker", "CreateModel", model)
    config = requests.config_request(view, model["ModelName"], model["ModelName"] if shadowed else None)
    sent = taken("sagemaker", "CreateEndpointConfig", config)
    assert ("ShadowProductionVariants" in sent) is shadowed
    guarded = None if shadowed else requests.deployment(view.update, names.rollback_alarms)
    update = taken(
        "sagemaker", "UpdateEndpoint", requests.update_request(view, config["EndpointConfigName"], guarded)
    )
    if guarded is not None:
        policy = update["DeploymentConfig"]
        assert [item["AlarmName"] for item in policy["AutoRollbackConfiguration"]["Alarms"]] == list(
            names.rollback_alarms
        )
        assert ("RollingUpdatePolicy" in policy) is (view.update.kind == "rolling")
    taken("application-autoscaling", "RegisterScalableTarget", requests.target_request(view, names))
    taken("application-autoscaling", "PutScalingPolicy", requests.policy_request(view, names))


@pytest.fixture
def view() -> Aws:
    return Aws(name="churn", region="eu-central-1", model="models/churn", key=None, image=IMAGE)


def test_traffic_moves_as_declared(view: Aws) -> None:
    def routing(update: Any) -> Any:
        return requests.deployment(update, [])["BlueGreenUpdatePolicy"]["TrafficRoutingConfiguration"]

    ten = timedelta(minutes=10)
    assert routing(Canary(kind="canary", percent=5, wait=ten)) == {
        "Type": "CANARY",
        "WaitIntervalInSeconds": 600,
        "CanarySize": {"Type": "CAPACITY_PERCENT", "Value": 5},
    }
    assert routing(Linear(kind="linear", percent=20, wait=ten)) == {
        "Type": "LINEAR",
        "WaitIntervalInSeconds": 600,
        "LinearStepSize": {"Type": "CAPACITY_PERCENT", "Value": 20},
    }
    assert routing(AllAtOnce(kind="all_at_once")) == {"Type": "ALL_AT_ONCE", "WaitIntervalInSeconds": 300}
    assert requests.deployment(Rolling(kind="rolling", percent=25, wait=ten), [])["RollingUpdatePolicy"] == {
        "MaximumBatchSize": {"Type": "CAPACITY_PERCENT", "Value": 25},
        "WaitIntervalInSeconds": 600,
    }


@settings(max_examples=50, deadline=None)
@given(one=views, other=views)
def test_a_name_tells_what_is_behind_it(one: Aws, other: Aws) -> None:
    """Two configurations have one name exactly if they are the same: making one twice is making it once."""
    first, second = (requests.config_request(view, "model", "other") for view in (one, other))
    variants = [{key: value for key, value in item.items() if "Variants" in key} for item in (first, second)]
    same = variants[0] == variants[1] and one.name == other.name
    assert (first["EndpointConfigName"] == second["EndpointConfigName"]) is same


def test_a_shadow_gets_the_declared_share(view: Aws) -> None:
    quarter = view.model_copy(update={"shadow": Shadow(percent=25)})
    request = requests.config_request(quarter, "one", "two")
    (shadow,) = request["ShadowProductionVariants"]
    (production,) = request["ProductionVariants"]
    assert shadow["InitialVariantWeight"] / production["InitialVariantWeight"] == 0.25
    assert (production["ModelName"], shadow["ModelName"]) == ("one", "two")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"image": "registry/predictor:latest"}, "image"),  # a tag can be moved
        ({"name": "Churn"}, "name"),
        ({"name": "a" * 25}, "name"),
        ({"update": {"kind": "canary", "percent": 60}}, "percent"),  # AWS: at most half
        ({"update": {"kind": "canary", "wait": "2h"}}, "wait"),
        ({"update": {"kind": "blue"}}, "update"),
        ({"instances": {"count": 9}}, "scaling.most"),
        ({"instances": {"count": 1}}, "shifts traffic between instances"),
        ({"region": "Frankfurt"}, "region"),
        ({"retrain": None}, "retrain"),
    ],
)
def test_what_cannot_be_is_refused(view: Aws, change: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Aws.model_validate({**view.model_dump(exclude={"update", "instances"} & change.keys()), **change})
