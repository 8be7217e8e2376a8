"""OpenAPI of what is asked for predictions, made of the manifests."""

from __future__ import annotations

from typing import Any

from penstock.serving.open_inference import DTYPES
from penstock.serving.predictor import Predictor

__all__ = ["described"]

PROBLEMS = {
    400: "Not a request",
    408: "Too slow",
    413: "Too large",
    415: "Not in this encoding",
    422: "Values break the model's contract",
    500: "The model has no finite answer",
    503: "Not now",
    504: "The model has not answered in time",
}


def described(schema: dict[str, Any], predictor: Predictor) -> dict[str, Any]:
    """OpenAPI with the routes that FastAPI does not know.

    Args:
        schema: FastAPI's.
        predictor: Whose models are described, as they are now.
    """
    keyed = predictor.keys is not None
    parts = schema.setdefault("components", {}).setdefault("schemas", {})
    parts["Problem"] = _object(
        {
            "error": {"type": "string"},
            "errors": {
                "type": "array",
                "items": _object(
                    {
                        "row": {"type": "integer"},
                        "column": {"type": "string"},
                        "message": {"type": "string"},
                    }
                ),
            },
        },
        required=["error"],
    )
    parts["InferRequest"], parts["InferResponse"] = _infer_request(), _infer_response()
    for name, model in predictor.registry.models.items():
        artefact = model.active.artefact
        parts[f"{name}.Row"], parts[f"{name}.Answer"] = artefact.row_schema(), artefact.answer_schema()
        schema["paths"][f"/v1/models/{name}/predict"] = {"post": _plain(name, predictor, keyed=keyed)}
        schema["paths"][f"/v2/models/{name}/infer"] = {"post": _infer(name, keyed=keyed)}
    security: dict[str, Any] = {"bearer": {"type": "http", "scheme": "bearer"}}
    schema["components"]["securitySchemes"] = security
    return schema


def _object(properties: dict[str, Any], required: list[str] | None = None) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties) if required is None else required,
    }


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _responses(answer: dict[str, Any], *, keyed: bool) -> dict[str, Any]:
    statuses = {**PROBLEMS, **({401: "No key"} if keyed else {}), 404: "No such model"}
    version = {"description": "That has answered.", "schema": {"type": "string"}}
    return {
        "200": {
            "description": "Answered.",
            "content": _json(answer),
            "headers": {"X-Model-Version": version},
        },
        **{
            str(status): {"description": title, "content": _json(_ref("Problem"))}
            for status, title in sorted(statuses.items())
        },
    }


def _plain(name: str, predictor: Predictor, *, keyed: bool) -> dict[str, Any]:
    rows = {
        "type": "array",
        "items": _ref(f"{name}.Row"),
        "minItems": 1,
        "maxItems": predictor.view.limits.rows,
    }
    body = _object({"rows": rows}) | {"additionalProperties": False}
    answer = _object(
        {
            "model": {"type": "string"},
            "version": {"type": "string"},
            "request": {"type": "string"},
            "rows": {"type": "array", "items": _ref(f"{name}.Answer")},
        }
    )
    return {
        "tags": ["predictions"],
        "summary": f"Predict by {name}, rows of named columns",
        "operationId": f"predict_{name}",
        "requestBody": {"required": True, "content": _json(body)},
        "responses": _responses(answer, keyed=keyed),
        **({"security": [{"bearer": []}]} if keyed else {}),
    }


def _infer(name: str, *, keyed: bool) -> dict[str, Any]:
    return {
        "tags": ["predictions"],
        "summary": f"Predict by {name}, tensors",
        "description": "The Open Inference Protocol's infer, with the binary tensor data extension.",
        "operationId": f"infer_{name}",
        "requestBody": {"required": True, "content": _json(_ref("InferRequest"))},
        "responses": _responses(_ref("InferResponse"), keyed=keyed),
        **({"security": [{"bearer": []}]} if keyed else {}),
    }


def _tensor(**more: Any) -> dict[str, Any]:
    return {
        "name": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1, "maxItems": 8},
        "datatype": {"type": "string", "enum": ["BYTES", *DTYPES]},
        "parameters": {"type": "object"},
        **more,
    }


def _infer_request() -> dict[str, Any]:
    data = {"type": "array", "items": {}}
    wanted = _object({"name": {"type": "string"}, "parameters": {"type": "object"}}, ["name"])
    return _object(
        {
            "id": {"type": "string"},
            "parameters": {"type": "object"},
            "inputs": {
                "type": "array",
                "minItems": 1,
                "items": _object(_tensor(data=data), ["name", "shape", "datatype"]),
            },
            "outputs": {"type": "array", "items": wanted},
        },
        ["inputs"],
    )


def _infer_response() -> dict[str, Any]:
    tensors = {
        "type": "array",
        "items": _object(_tensor(data={"type": "array", "items": {}}), ["name", "shape", "datatype"]),
    }
    return _object(
        {
            "model_name": {"type": "string"},
            "model_version": {"type": "string"},
            "id": {"type": "string"},
            "outputs": tensors,
        }
    )
