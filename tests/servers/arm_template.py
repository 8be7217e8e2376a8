"""Expands an ARM template as Azure would: the few functions that deploy/azure/ uses, and an error on any other."""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["Group", "expanded"]

TOKEN = re.compile(r"\s*(?:'((?:[^']|'')*)'|([A-Za-z_]\w*)|(-?\d+)|([(),.\[\]]))")


class Group:
    """Where a template is deployed.

    Args:
        subscription: Its id.
        name: Of the resource group.
        location: Of the resource group.
        tenant: Its id.
    """

    def __init__(self, subscription: str, name: str, location: str, tenant: str) -> None:
        self.subscription, self.name, self.location, self.tenant = subscription, name, location, tenant

    @property
    def path(self) -> str:
        return f"/subscriptions/{self.subscription}/resourceGroups/{self.name}"


class _Evaluation:
    def __init__(
        self,
        template: Mapping[str, Any],
        given: Mapping[str, Any],
        group: Group,
        reference: Callable[[str], Any],
    ) -> None:
        self.group = group
        self.reference = reference
        self.template = template
        unknown = set(given) - set(template.get("parameters", {}))
        if unknown:
            raise ValueError(f"the template has no parameter {sorted(unknown)[0]!r}")
        self.parameters = {}
        for name, rule in template.get("parameters", {}).items():
            if name not in given and "defaultValue" not in rule:
                raise ValueError(f"the parameter {name!r} has no value")
            value = given[name]["value"] if name in given else self.value(rule["defaultValue"])
            kinds = {"string": str, "object": dict, "int": int, "bool": bool}
            if not isinstance(value, kinds[rule["type"]]):
                raise ValueError(f"the parameter {name!r} is no {rule['type']}")  # noqa: TRY004
            if rule["type"] == "string" and not rule.get("minLength", 0) <= len(value) <= rule.get(
                "maxLength", 1 << 20
            ):
                raise ValueError(f"the parameter {name!r} is too short or too long")
            self.parameters[name] = value

    def value(self, item: Any) -> Any:
        if isinstance(item, Mapping):
            return {self.value(k): self.value(v) for k, v in item.items()}
        if isinstance(item, list):
            return [self.value(i) for i in item]
        if (
            isinstance(item, str)
            and item.startswith("[")
            and item.endswith("]")
            and not item.startswith("[[")
        ):
            tokens = []
            text, at = item[1:-1], 0
            while at < len(text.rstrip()):
                match = TOKEN.match(text, at)
                if match is None:
                    raise ValueError(f"no expression: {item}")
                tokens.append(match)
                at = match.end()
            found, rest = self._term(tokens)
            if rest:
                raise ValueError(f"no expression: {item}")
            return found
        return item

    def _term(self, tokens: list[re.Match[str]]) -> tuple[Any, list[re.Match[str]]]:
        head, rest = tokens[0], tokens[1:]
        if head[1] is not None:
            return head[1].replace("''", "'"), rest
        if head[3] is not None:
            return int(head[3]), rest
        if head[2] is None or not rest or rest[0][4] != "(":
            raise ValueError(f"not understood: {head[0]}")
        rest = rest[1:]
        arguments = []
        while rest[0][4] != ")":
            argument, rest = self._term(rest)
            arguments.append(argument)
            if rest[0][4] == ",":
                rest = rest[1:]
        rest = rest[1:]
        found = self._call(head[2], arguments)
        while rest and rest[0][4] == ".":
            found, rest = found[rest[1][2]], rest[2:]
        return found, rest

    def _call(self, name: str, given: list[Any]) -> Any:
        group = self.group
        calls: dict[str, Callable[..., Any]] = {
            "parameters": lambda key: self.parameters[key],
            "variables": lambda key: self.value(self.template["variables"][key]),
            "concat": lambda *texts: "".join(texts),
            "empty": lambda item: not item,
            "not": lambda item: not item,
            "if": lambda condition, yes, no: yes if condition else no,
            "resourceGroup": lambda: {"id": group.path, "location": group.location, "name": group.name},
            "subscription": lambda: {"subscriptionId": group.subscription, "tenantId": group.tenant},
            "resourceId": lambda kind, *names: group.path + _of(kind, names),
            "subscriptionResourceId": lambda kind, *names: (
                f"/subscriptions/{group.subscription}" + _of(kind, names)
            ),
            "uniqueString": lambda *texts: hashlib.sha256("|".join(texts).encode()).hexdigest()[:13],
            "guid": lambda *texts: str(uuid.uuid5(uuid.NAMESPACE_URL, "|".join(texts))),
            "reference": lambda identifier, _version: self.reference(identifier),
        }
        if name not in calls:
            raise ValueError(f"the function {name} is not known here")
        return calls[name](*given)


def _of(kind: str, names: tuple[str, ...]) -> str:
    provider, *types = kind.split("/")
    if len(types) != len(names):
        raise ValueError(f"resourceId: {kind} takes {len(types)} names, not {len(names)}")
    return f"/providers/{provider}/" + "/".join(f"{t}/{n}" for t, n in zip(types, names, strict=True))


def expanded(
    template: Mapping[str, Any],
    given: Mapping[str, Any],
    group: Group,
    put: Callable[[str, str, dict[str, Any]], Any],
    reference: Callable[[str], Any],
) -> tuple[list[str], dict[str, Any]]:
    """Deploy a template.

    Args:
        template: As it is in the file.
        given: Values of its parameters, ``{name: {"value": …}}``.
        group: Where.
        put: Is given id, version of the API and body of each resource, in the order in which they need each other.
        reference: Gives the properties of a resource that was put.

    Returns:
        The ids, and the outputs.

    Raises:
        ValueError: Azure would not take the template.
    """
    known = {"$schema", "contentVersion", "metadata", "parameters", "variables", "resources", "outputs"}
    if set(template) - known:
        raise ValueError(f"a template has no {sorted(set(template) - known)[0]!r}")
    evaluation = _Evaluation(template, given, group, reference)
    waiting = []
    for resource in template["resources"]:
        if evaluation.value(resource.get("condition", True)):
            scope = evaluation.value(resource["scope"]) if "scope" in resource else group.path
            names = tuple(evaluation.value(resource["name"]).split("/"))
            waiting.append((scope + _of(resource["type"], names), resource))
    ids = [identifier for identifier, _ in waiting]
    done: list[str] = []
    while waiting:
        for identifier, resource in waiting:
            needed = [evaluation.value(i) for i in resource.get("dependsOn", [])]
            strange = [i for i in needed if i not in ids]
            if strange:
                raise ValueError(f"{identifier} depends on {strange[0]}, which is not in the template")
            if all(i in done for i in needed):
                break
        else:
            raise ValueError("the resources depend on each other in a circle")
        waiting.remove((identifier, resource))
        apart = {"type", "apiVersion", "name", "dependsOn", "condition", "scope"}
        body = evaluation.value({k: v for k, v in resource.items() if k not in apart})
        put(identifier, resource["apiVersion"], body)
        done.append(identifier)
    outputs = {
        name: {"type": rule["type"], "value": evaluation.value(rule["value"])}
        for name, rule in template.get("outputs", {}).items()
    }
    return done, outputs
