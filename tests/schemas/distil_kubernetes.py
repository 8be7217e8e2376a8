"""Distils kubernetes.json, shapes of kinds that are no part of Kubernetes, from what their projects publish: run by a person, seldom.

    go mod download -json github.com/kedacore/keda/v2@v2.21.0 github.com/prometheus-operator/prometheus-operator@v0.85.0
    uv pip install --no-deps --target FOLDER kserve==0.21.0
    python tests/schemas/distil_kubernetes.py "$(go env GOMODCACHE)" FOLDER

KEDA's and the Prometheus operator's are their own definitions (CRDs). KServe's are of its Python client, which is generated from
its definitions; what it takes over from Kubernetes is left open there, and held against Kubernetes' own shapes by the tests.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path
from typing import Any

import yaml

KEDA = "github.com/kedacore/keda/v2@v2.21.0/config/crd/bases"
PROMETHEUS = "github.com/prometheus-operator/prometheus-operator@v0.85.0/example/prometheus-operator-crd"
FILES = (
    f"{KEDA}/keda.sh_scaledobjects.yaml",
    f"{KEDA}/keda.sh_triggerauthentications.yaml",
    f"{PROMETHEUS}/monitoring.coreos.com_podmonitors.yaml",
    f"{PROMETHEUS}/monitoring.coreos.com_prometheusrules.yaml",
    f"{PROMETHEUS}/monitoring.coreos.com_servicemonitors.yaml",
)
PRIMITIVES: dict[str, dict[str, Any]] = {
    "str": {"type": "string"},
    "int": {"type": "integer"},
    "bool": {"type": "boolean"},
    "float": {"type": "number"},
    "object": {},
}


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    """A structural schema without words, that refuses what it does not know, as the API server does when it is asked to."""
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    found = {
        k: v for k, v in schema.items() if k not in ("description", "default") and not k.startswith("x-")
    }
    open_ = schema.get("x-kubernetes-preserve-unknown-fields")
    if "properties" in found:
        found["properties"] = {k: strict(v) for k, v in found["properties"].items()}
        if not open_:
            found["additionalProperties"] = False
    if isinstance(found.get("additionalProperties"), dict):
        found["additionalProperties"] = strict(found["additionalProperties"])
    if isinstance(found.get("items"), dict):
        found["items"] = strict(found["items"])
    found.pop("format", None)
    if "(?i)" in found.get("pattern", ""):  # Go's flags may stand anywhere, Python's may not
        del found["pattern"]
    return found


def defined(path: Path) -> dict[str, Any]:
    """Kinds of a CRD by `group/version/Kind`."""
    spec = yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader)["spec"]
    kinds = {}
    for version in spec["versions"]:
        schema = strict(version["schema"]["openAPIV3Schema"])
        schema["properties"]["metadata"] = {"type": "object"}
        kinds[f"{spec['group']}/{version['name']}/{spec['names']['kind']}"] = schema
    return kinds


class KServe:
    """Shapes of the Python client's classes, read from their tables; nothing is imported."""

    def __init__(self, folder: Path) -> None:
        self.tables = {}
        for path in folder.glob("kserve/models/*.py"):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ClassDef):
                    values = {
                        item.targets[0].id: ast.literal_eval(item.value)
                        for item in node.body
                        if isinstance(item, ast.Assign)
                        and isinstance(item.targets[0], ast.Name)
                        and isinstance(item.value, ast.Dict)
                    }
                    if "openapi_types" in values:
                        self.tables[node.name] = values
        self.definitions: dict[str, Any] = {}

    def of(self, kind: str) -> dict[str, Any]:
        """Schema of a type as the tables name it."""
        match = re.fullmatch(r"(list|dict)[\[(](?:str, )?(.+)[\])]", kind)
        if match:
            inner = self.of(match[2])
            return (
                {"type": "array", "items": inner}
                if match[1] == "list"
                else {"type": "object", "additionalProperties": inner}
            )
        if kind in PRIMITIVES:
            return dict(PRIMITIVES[kind])
        if kind not in self.tables:
            return {}  # Kubernetes' own
        if kind not in self.definitions:
            self.definitions[kind] = {}
            table = self.tables[kind]
            self.definitions[kind] = {
                "type": "object",
                "additionalProperties": False,
                "properties": {
                    json_name: self.of(table["openapi_types"][name])
                    for name, json_name in sorted(table["attribute_map"].items())
                },
            }
        return {"$ref": f"#/$defs/{kind}"}


def main() -> None:
    """Write kubernetes.json beside this file."""
    modules, packages = Path(sys.argv[1]), Path(sys.argv[2])
    kinds: dict[str, Any] = {}
    for name in FILES:
        kinds |= defined(modules / name)
    kserve = KServe(packages)
    kinds["serving.kserve.io/v1beta1/InferenceService"] = kserve.of("V1beta1InferenceService")
    kinds["serving.kserve.io/v1alpha1/ServingRuntime"] = kserve.of("V1alpha1ServingRuntime")
    text = json.dumps({"kinds": kinds, "$defs": kserve.definitions}, indent=1, sort_keys=True)
    (Path(__file__).parent / "kubernetes.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
