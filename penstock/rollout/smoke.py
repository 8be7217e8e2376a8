"""Before a version answers anybody: whether it is ready, and answers a row that its contract allows."""

from __future__ import annotations

import http.client
import json
import math
import time
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from penstock.config import Column
from penstock.config.rollout import Rollout
from penstock.errors import PenstockError
from penstock.rollout.answers import InvalidError, outputs
from penstock.rollout.settings import Settings, addresses
from penstock.rollout.upstream import Answer, predictor_key

__all__ = ["is_ready", "sample_answered", "sample_row", "smoke"]

SECONDS = 5.0
READY = 0.5  # a supervisor asks all the time, and has others to look after
PATIENCE = 30.0  # until it is ready


def _asked(
    url: str, method: str, path: str, body: Any = None, seconds: float = SECONDS, key: str | None = None
) -> tuple[int, dict[str, str], bytes]:
    parts = urlsplit(url)
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    if body is not None:
        headers["content-type"] = "application/json"
    with closing(http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=seconds)) as c:
        content = None if body is None else json.dumps(body).encode()
        c.request(method, path, content, headers)
        answer = c.getresponse()
        return answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read()


def is_ready(url: str, model: str, key: str | None = None) -> bool:
    """Whether a predictor says that it is."""
    try:
        return _asked(url, "GET", f"/v2/models/{model}/ready", seconds=READY, key=key)[0] == 200
    except (OSError, http.client.HTTPException):
        return False


def sample_row(columns: dict[str, Column]) -> dict[str, Any]:
    """A row that a contract allows, and says nothing else."""
    return {name: _value(column) for name, column in columns.items()}


def _value(column: Column) -> Any:
    if column.type == "category" and column.values:
        return column.values[0]
    if column.min is not None:
        return math.ceil(float(column.min)) if column.type == "integer" else column.min
    if column.nullable:
        return None
    if column.max is not None:
        return math.floor(float(column.max)) if column.type == "integer" else column.max
    plain: dict[str, Any] = {
        "integer": 0, "number": 0.0, "boolean": False, "category": "a", "text": "a", "date": "2000-01-01",
        "datetime": "2000-01-01T00:00:00",
    }  # fmt: skip
    return plain.get(column.type, 0)


def smoke(view: Rollout, settings: Settings, arm: str, requests: int, root: Path = Path()) -> str | None:
    """Have every replica of an arm answer; the version they say they are.

    Args:
        view: What is declared.
        settings: That name the arm.
        arm: To be tested.
        requests: For each replica; they also warm it up.
        root: The repository.

    Raises:
        PenstockError: One is not ready, or does not answer as it should.
    """
    model, artifact = view.model, settings.plan.arms[arm].artifact
    key = predictor_key(view.router) if artifact is None else None
    version = None
    for url in addresses(settings, view.ports)[arm]:
        ends = time.monotonic() + PATIENCE
        while not is_ready(url, model, key):
            if time.monotonic() > ends:
                raise PenstockError(
                    f"{arm}: {url} is not ready with {model}", hint="see what it says where `rollout up` runs"
                )
            time.sleep(0.1)
        if artifact is not None:
            version = _answers(url, model, arm, root / artifact, requests)
    return version


def _answers(url: str, model: str, arm: str, folder: Path, requests: int) -> str:
    from penstock.artifact.manifest import read

    manifest = read(folder)
    row = sample_row(manifest.columns)
    for _ in range(requests):
        try:
            status, headers, body = _asked(url, "POST", f"/v1/models/{model}/predict", {"rows": [row]})
            if status != 200:
                raise InvalidError(f"status {status}: {body[:300].decode('utf-8', 'replace')}")
            outputs(Answer(status, {}, body), 1, is_plain=True)
        except (OSError, http.client.HTTPException, InvalidError) as error:
            raise PenstockError(
                f"{arm}: {url} does not pass its smoke test: {error}", hint="nothing was changed"
            ) from error
        version = headers.get("x-model-version", "")
        if version != manifest.sha256[:12]:
            raise PenstockError(
                f"{arm}: {url} answers as version {version or 'unknown'}, not {manifest.sha256[:12]}",
                hint="it may still be starting; try again",
            )
    return manifest.sha256[:12]


def sample_answered(url: str, model: str, arm: str, artifact: str) -> str | None:
    """What is wrong with a predictor's answer to a row that its contract allows; None if nothing."""
    try:
        _answers(url, model, arm, Path(artifact), 3)
    except PenstockError as error:
        return error.message
    return None
