"""The client of Resource Manager: what it asks again, what it waits for, and what it says."""

from __future__ import annotations

import pytest
from azure.identity import DefaultAzureCredential

from penstock.deploy.azure_arm import TRIES, Arm, ArmError
from tests.servers.azure_stand_in import SUBSCRIPTION, Fault, StandIn

GROUP = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/one"
BODY = {"location": "westeurope", "tags": {"penstock": "churn"}}


@pytest.fixture
def arm(stand_in: StandIn, clock):
    with (
        DefaultAzureCredential(exclude_interactive_browser_credential=True) as credential,
        Arm(stand_in.url, credential, sleep=clock.sleep, patience=600) as found,
    ):
        yield found


@pytest.mark.parametrize(
    ("fault", "said", "hint"),
    [
        (Fault("PUT", "", 401, "InvalidAuthenticationToken", "no", times=9), "does not know who", "az login"),
        (Fault("PUT", "", 403, "AuthorizationFailed", "no action"), "not allowed", "role"),
        (
            Fault("PUT", "", 403, "Forbidden", "Not enough quota"),
            "quota does not suffice",
            "ask for more cores",
        ),
        (Fault("PUT", "", 404, "SubscriptionNotFound", "gone"), "no such resource", "check subscription"),
        (Fault("PUT", "", 409, "Conflict", "busy"), "another operation is under way", "run it again"),
        (
            Fault("PUT", "", 429, "TooManyRequests", "slow", {"Retry-After": "0"}, times=99),
            "slow down",
            "goes on",
        ),
        (Fault("PUT", "", 400, "BadArgument", "traffic of what"), "traffic of what", "mend"),
        (Fault("PUT", "", 302, headers={"Location": "http://elsewhere/"}), "302", "run it again"),
    ],
)
def test_what_is_refused_is_said_in_words(arm: Arm, stand_in: StandIn, fault: Fault, said: str, hint: str):
    stand_in.faults = [fault]
    with pytest.raises(ArmError) as refused:
        arm.put(GROUP, "2025-04-01", BODY)
    assert said in refused.value.message
    assert hint in refused.value.hint
    assert "resourceGroups/one" in refused.value.message
    assert len([r for r in stand_in.requests if r.method == "PUT"]) <= TRIES


def test_throttled_it_waits_as_long_as_asked_and_no_longer(arm: Arm, stand_in: StandIn, clock):
    stand_in.faults = [
        Fault("PUT", "", 429, "TooManyRequests", "slow", {"Retry-After": "17"}),
        Fault("PUT", "", 503, "Busy", "slow", {"Retry-After": "86400"}),
    ]
    arm.put(GROUP, "2025-04-01", BODY)
    assert clock.waited == [17.0, 60.0]


def test_a_date_is_as_good_as_seconds(arm: Arm, stand_in: StandIn, clock):
    stand_in.faults = [
        Fault("GET", "one$", 503, "Busy", "", {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}),
    ]
    arm.put(GROUP, "2025-04-01", BODY)
    assert clock.waited == [0.0]


def test_a_token_that_was_taken_back_is_asked_for_anew(arm: Arm, stand_in: StandIn):
    stand_in.faults = [Fault("PUT", "", 401, "InvalidAuthenticationToken", "expired")]
    arm.put(GROUP, "2025-04-01", BODY)
    assert len([r for r in stand_in.requests if r.method == "PUT"]) == 2


def test_a_token_is_shown_to_nobody_else(arm: Arm):
    with pytest.raises(ArmError, match="leads away"):
        arm.waited("https://elsewhere.example/operations/1", GROUP)


def test_a_removal_by_location_is_waited_for(arm: Arm, stand_in: StandIn):
    arm.put(GROUP, "2025-04-01", BODY)
    assert arm.delete(GROUP, "2025-04-01")
    assert arm.find(GROUP, "2025-04-01") is None
    assert not arm.delete(GROUP, "2025-04-01")


def test_what_never_ends_is_given_up_and_said(arm: Arm, stand_in: StandIn):
    arm.put(GROUP, "2025-04-01", BODY)
    stand_in.held = {"/resourceGroups/one"}
    arm._patience = 0.0
    with pytest.raises(ArmError, match="not done after 0 minutes") as refused:
        arm.delete(GROUP, "2025-04-01")
    assert "run it again" in refused.value.hint


def test_nobody_there_is_said_after_some_tries(stand_in: StandIn, clock):
    with (
        DefaultAzureCredential(exclude_interactive_browser_credential=True) as credential,
        Arm("http://127.0.0.1:9", credential, sleep=clock.sleep) as arm,
        pytest.raises(ArmError, match="does not answer"),
    ):
        arm.find(GROUP, "2025-04-01")
    assert len(clock.waited) == TRIES - 1
