"""Distils azure.json from the Python packages that Microsoft generates from its published API: run by a person, seldom.

    uv pip install --no-deps --target FOLDER azure-ai-ml==1.35.2 azure-mgmt-applicationinsights==4.1.0 \
        azure-mgmt-authorization==4.0.0 azure-mgmt-containerregistry==15.0.0 azure-mgmt-keyvault==14.1.0 \
        azure-mgmt-loganalytics==14.0.0 azure-mgmt-monitor==7.0.0 azure-mgmt-msi==7.1.0 azure-mgmt-resource==26.0.0 \
        azure-mgmt-storage==25.3.0
    python tests/schemas/distil_azure.py FOLDER

Those packages pin what no group of ours fits, and are two hundred megabytes; what the tests need of them is the shape of
a dozen resources. A body that has a property which the API does not know, or lacks one that it requires, does not fit.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
import types
import typing
from enum import Enum
from pathlib import Path
from typing import Any

ML = "azure.ai.ml._restclient.arm_ml_service.models"
# Type of the resource, as ARM writes it: the API's version that the package is of, its module, the class of a PUT's body.
RESOURCES = {
    "Microsoft.Authorization/roleAssignments": (
        "2022-04-01",
        "azure.mgmt.authorization.v2022_04_01.models",
        "RoleAssignmentCreateParameters",
    ),
    "Microsoft.ContainerRegistry/registries": (
        "2025-11-01",
        "azure.mgmt.containerregistry.models",
        "Registry",
    ),
    "Microsoft.Insights/actionGroups": ("2023-01-01", "azure.mgmt.monitor.models", "ActionGroupResource"),
    "Microsoft.Insights/autoscaleSettings": (
        "2022-10-01",
        "azure.mgmt.monitor.models",
        "AutoscaleSettingResource",
    ),
    "Microsoft.Insights/components": (
        "2020-02-02",
        "azure.mgmt.applicationinsights.v2020_02_02.models",
        "ApplicationInsightsComponent",
    ),
    "Microsoft.Insights/metricAlerts": ("2018-03-01", "azure.mgmt.monitor.models", "MetricAlertResource"),
    "Microsoft.KeyVault/vaults": (
        "2026-05-15",
        "azure.mgmt.keyvault.models",
        "VaultCreateOrUpdateParameters",
    ),
    "Microsoft.MachineLearningServices/workspaces": ("2025-12-01", ML, "Workspace"),
    "Microsoft.MachineLearningServices/workspaces/environments/versions": (
        "2025-12-01",
        ML,
        "EnvironmentVersion",
    ),
    "Microsoft.MachineLearningServices/workspaces/models/versions": ("2025-12-01", ML, "ModelVersion"),
    "Microsoft.MachineLearningServices/workspaces/onlineEndpoints": ("2025-12-01", ML, "OnlineEndpoint"),
    "Microsoft.MachineLearningServices/workspaces/onlineEndpoints/deployments": (
        "2025-12-01",
        ML,
        "OnlineDeployment",
    ),
    "Microsoft.ManagedIdentity/userAssignedIdentities": (
        "2024-11-30",
        "azure.mgmt.msi.v2024_11_30.models",
        "Identity",
    ),
    "Microsoft.OperationalInsights/workspaces": ("2025-07-01", "azure.mgmt.loganalytics.models", "Workspace"),
    "Microsoft.Resources/deployments": ("2026-06-01", "azure.mgmt.resource.deployments.models", "Deployment"),
    "Microsoft.Resources/resourceGroups": (
        "2025-04-01",
        "azure.mgmt.resource.resources.models",
        "ResourceGroup",
    ),
    "Microsoft.Storage/storageAccounts": (
        "2026-09-01",
        "azure.mgmt.storage.models",
        "StorageAccountCreateParameters",
    ),
    "Microsoft.Storage/storageAccounts/blobServices/containers": (
        "2026-09-01",
        "azure.mgmt.storage.models",
        "BlobContainer",
    ),
}
PRIMITIVES: dict[str, dict[str, Any]] = {
    "str": {"type": "string"},
    "int": {"type": "integer"},
    "float": {"type": "number"},
    "bool": {"type": "boolean"},
    "object": {},
    "iso-8601": {"type": "string"},
    "duration": {"type": "string", "pattern": "^P"},
}


class Shapes:
    """JSON Schemas of classes, by name."""

    def __init__(self) -> None:
        self.definitions: dict[str, Any] = {}

    def of(self, cls: type) -> dict[str, Any]:
        """A reference to a class's schema, which is made when it is first asked for."""
        key = f"{cls.__module__.split('.models')[0].rpartition('.')[2]}.{cls.__name__}"
        if key not in self.definitions:
            self.definitions[key] = {}  # some refer to themselves
            old = hasattr(cls, "_attribute_map")
            self.definitions[key] = self._old(cls) if old else self._new(cls)
        return {"$ref": f"#/$defs/{key}"}

    # Classes of two generators: msrest's tables, and annotated fields.
    def _old(self, cls: Any) -> dict[str, Any]:
        kinds = vars(cls).get("_subtype_map", {})  # those that derive from it inherit the table
        module = sys.modules[cls.__module__]
        if kinds and any(kinds.values()):
            (name, classes), *_ = kinds.items()
            key = re.sub(r"\\.", ".", cls._attribute_map[name]["key"])
            return _either(key, {v: self.of(getattr(module, c)) for v, c in classes.items()})
        properties: dict[str, Any] = {}
        required: dict[str, list[str]] = {}
        for name, entry in cls._attribute_map.items():
            rule = cls._validation.get(name, {}) if hasattr(cls, "_validation") else {}
            if rule.get("readonly"):
                continue
            path = [p.replace("\\.", ".") for p in re.split(r"(?<!\\)\.", entry["key"])]
            at = properties
            for part in path[:-1]:  # flattened: written flat in Python, nested in the API
                at = at.setdefault(part, {"type": "object", "additionalProperties": False, "properties": {}})[
                    "properties"
                ]
            schema = self._by_name(entry["type"], module)
            for ours, theirs in (("pattern", "pattern"), ("maximum_ex", "exclusiveMaximum")):
                if ours in rule:
                    schema = {**schema, theirs: rule[ours]}
            at[path[-1]] = schema
            if rule.get("required"):
                required.setdefault("/".join(path[:-1]), []).append(path[-1])
        for where, names in required.items():
            at_schema: Any = {"properties": properties}
            for part in where.split("/") if where else []:
                at_schema = at_schema["properties"][part]
            if where:
                at_schema["required"] = sorted(names)
        return _object(properties, required.get("", []))

    def _by_name(self, name: str, module: Any) -> dict[str, Any]:
        if name.startswith("["):
            return {"type": "array", "items": self._by_name(name[1:-1], module)}
        if name.startswith("{"):
            return {"type": "object", "additionalProperties": self._by_name(name[1:-1], module)}
        return dict(PRIMITIVES[name]) if name in PRIMITIVES else self.of(getattr(module, name))

    def _new(self, cls: Any) -> dict[str, Any]:
        kinds = getattr(cls, "__mapping__", {})
        derived = {v: c for v, c in kinds.items() if c is not cls and issubclass(c, cls)}
        if derived:
            field = next(f for f in _fields(cls).values() if f._is_discriminator)
            return _either(
                field._rest_name,
                {(v.value if isinstance(v, Enum) else v): self.of(c) for v, c in derived.items()},
            )
        package = importlib.import_module(cls.__module__.rpartition(".")[0])
        spaces = {**vars(sys.modules[cls.__module__]), "_models": package, "models": package}
        spaces |= {name: item for name, item in vars(package).items() if isinstance(item, type)}
        properties, required = {}, []
        hints: dict[str, Any] = {}
        for base in reversed(cls.__mro__):
            for name, hint in vars(base).get("__annotations__", {}).items():
                if name in _fields(cls):
                    hints[name] = _evaluated(hint, spaces)
        for name, field in _fields(cls).items():
            if field._visibility == ["read"]:
                continue
            optional, schema = self._by_hint(hints[name])
            properties[field._rest_name] = schema
            if not optional:
                required.append(field._rest_name)
        return _object(properties, required)

    def _by_hint(self, hint: Any) -> tuple[bool, dict[str, Any]]:
        origin, given = typing.get_origin(hint), typing.get_args(hint)
        if origin in (typing.Union, types.UnionType):
            kinds = [g for g in given if g is not type(None)]
            enum = next((g for g in kinds if isinstance(g, type) and issubclass(g, Enum)), None)
            schema = _choices(enum) if enum else self._by_hint(kinds[0])[1]
            return type(None) in given, schema
        if origin is list:
            return False, {"type": "array", "items": self._by_hint(given[0])[1]}
        if origin is dict:
            return False, {"type": "object", "additionalProperties": self._by_hint(given[1])[1]}
        if origin is typing.Literal:
            return False, {"const": given[0].value if isinstance(given[0], Enum) else given[0]}
        if isinstance(hint, type) and issubclass(hint, Enum):
            return False, _choices(hint)
        named = getattr(hint, "__name__", "object")
        plain = {"timedelta": "duration", "datetime": "iso-8601", "Any": "object"}.get(named, named)
        return False, dict(PRIMITIVES[plain]) if plain in PRIMITIVES else self.of(hint)


def _choices(enum: type[Enum]) -> dict[str, Any]:
    return {"type": "string", "enum": [str(item.value) for item in enum]}


def _evaluated(hint: Any, spaces: dict[str, Any]) -> Any:
    if not isinstance(hint, str):
        hint = getattr(hint, "__forward_arg__", hint)
    holder = type("Holder", (), {"__annotations__": {"it": hint}})
    return typing.get_type_hints(holder, spaces, spaces)["it"]


def _fields(cls: Any) -> dict[str, Any]:
    cls.__new__(cls)  # this is what fills the table
    return dict(cls._attr_to_rest_field)


def _object(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    schema = {
        "type": "object",
        "additionalProperties": False,
        "properties": dict(sorted(properties.items())),
    }
    return schema | ({"required": sorted(required)} if required else {})


def _either(key: str, classes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {
        "type": "object",
        "required": [key],
        "properties": {key: {"enum": sorted(classes)}},
        "allOf": [
            {"if": {"properties": {key: {"const": value}}, "required": [key]}, "then": ref}
            for value, ref in sorted(classes.items())
        ],
    }


def main() -> None:
    """Write azure.json beside this file."""
    import azure

    for folder in (sys.argv[1], *sys.argv[2:]):
        sys.path.insert(0, folder)
        azure.__path__.append(str(Path(folder) / "azure"))
        # The package of machine learning would import all that it depends on; its models need none of it.
        for depth in (2, 3, 4):
            name = ".".join(ML.split(".")[:depth])
            path = Path(folder, *name.split("."))
            if path.is_dir():
                sys.modules[name] = types.ModuleType(name)
                sys.modules[name].__path__ = [str(path)]
    shapes = Shapes()
    found = {}
    for kind, (version, module, name) in RESOURCES.items():
        found[kind] = {"apiVersion": version, **shapes.of(getattr(importlib.import_module(module), name))}
    text = json.dumps(
        {"resources": found, "$defs": dict(sorted(shapes.definitions.items()))}, indent=1, sort_keys=True
    )
    (Path(__file__).parent / "azure.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
