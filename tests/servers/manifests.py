"""Kubernetes manifests as a cluster would get them, held against the shapes that are published."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

from tests.servers.programs import program

__all__ = ["built", "named", "pods", "valid"]

ROOT = Path(__file__).parents[2]
OTHERS = ROOT / "tests/schemas/kubernetes.json"


def built(folder: Path) -> list[dict[str, Any]]:
    """What Kustomize makes of a folder."""
    kustomize = shutil.which("kustomize")
    command = [kustomize, "build"] if kustomize else [program("kubectl", package="kubectl"), "kustomize"]
    # kubectl keeps a cache under HOME, which need not be one's own.
    with tempfile.TemporaryDirectory() as home:
        done = subprocess.run(
            [*command, "--load-restrictor", "LoadRestrictionsNone", str(folder)],
            capture_output=True,
            text=True,
            check=False,
            env={"HOME": home, "PATH": "/usr/bin:/bin"},
        )
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr, done.stderr
    return [document for document in yaml.load_all(done.stdout, yaml.CSafeLoader) if document]


@cache
def _others() -> dict[str, Any]:
    whole = json.loads(OTHERS.read_text(encoding="utf-8"))
    return {kind: {**schema, "$defs": whole["$defs"]} for kind, schema in whole["kinds"].items()}


def valid(document: dict[str, Any]) -> None:
    """Hold a document against the shape of its kind; a key that it does not know does not pass.

    Raises:
        kubernetes_validate.ValidationError, jsonschema.ValidationError: It does not fit.
    """
    key = f"{document['apiVersion']}/{document['kind']}"
    if key in _others():
        jsonschema.validate(document, _others()[key], jsonschema.Draft202012Validator)
    else:
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


def pods(documents: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Specs of pods by the names of their Deployments."""
    return {
        d["metadata"]["name"]: d["spec"]["template"]["spec"] for d in documents if d["kind"] == "Deployment"
    }


def named(documents: list[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    """Documents of a kind by name."""
    return {d["metadata"]["name"]: d for d in documents if d["kind"] == kind}
