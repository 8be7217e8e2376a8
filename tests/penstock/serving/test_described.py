"""OpenAPI says what is asked and answered; what schemathesis makes of it finds no fault."""

from __future__ import annotations

import httpx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from penstock import keys
from penstock.serving.predictor import ADMIN
from tests.penstock.serving.predictors import model_of, place, predictor


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    folder = tmp_path_factory.mktemp("described")
    place(folder / "toy", model_of(5.0))
    key = keys.add(folder / "admins.yaml", "root", ADMIN)
    arguments = (f"{folder}/toy", "requests=null", f"admin_keys={folder}/admins.yaml")
    with predictor(folder, *arguments) as found:
        yield found, key


def examined(operation, checks, key):
    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy())
    def one(case):
        case.call_and_validate(checks=checks, headers={"authorization": f"Bearer {key}"})

    one()


def test_schemathesis_finds_no_fault(running):
    import schemathesis
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

    found, key = running
    schema = schemathesis.openapi.from_url(f"{found.url}/openapi.json")
    seen = []
    for each in schema.get_all_operations():
        operation = each.ok()
        seen.append((operation.method.upper(), operation.path))
        checks = [not_a_server_error, response_schema_conformance]
        if operation.path.startswith("/v1/models/"):
            checks.append(status_code_conformance)

        examined(operation, checks, key)
    assert {("POST", "/v1/models/toy/predict"), ("POST", "/v2/models/toy/infer")} <= set(seen)
    assert {("GET", "/v2/health/ready"), ("POST", "/admin/models/{model}/reload")} <= set(seen)


def test_the_description_of_a_row_is_its_contract(running):
    found, _ = running
    schemas = httpx.get(f"{found.url}/openapi.json").json()["components"]["schemas"]
    assert schemas["toy.Row"] == {
        "type": "object",
        "properties": {
            "age": {"type": "integer", "minimum": 0, "maximum": 100},
            "income": {"type": ["number", "null"]},
            "vip": {"type": ["boolean", "null"]},
            "plan": {"type": "string", "enum": ["basic", "gold"]},
            "town": {"type": ["string", "null"]},
        },
        "required": ["age", "plan"],
        "additionalProperties": False,
    }
    assert schemas["toy.Answer"]["properties"] == {"value": {"type": "number"}}


ROWS = st.fixed_dictionaries(
    {"age": st.integers(0, 100), "plan": st.sampled_from(["basic", "gold"])},
    optional={
        "income": st.none() | st.floats(allow_nan=False, allow_infinity=False),
        "vip": st.none() | st.booleans(),
        "town": st.none() | st.text(max_size=20),
    },
)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(sent=ROWS)
@example(sent={"age": 1, "plan": "gold", "income": 1.7e308})
def test_what_the_description_allows_is_answered(running, sent):
    answer = running[0].predict(sent)
    if abs(sent.get("income") or 0) < 1e15:
        assert answer.status_code == 200, answer.text
    else:
        assert answer.status_code in {200, 422}, answer.text
