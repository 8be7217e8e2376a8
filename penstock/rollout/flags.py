"""Feature flags: code paths that lie dormant, targeting, percentages and kill switches, by OpenFeature.

Flags are evaluated by flagd's own core out of a file in flagd's format, so that a flagd somewhere else would decide alike. The
client is OpenFeature's; its provider is ours: flagd's brings gRPC along, half a second of imports and a thread, to read a file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from openfeature.client import OpenFeatureClient
from openfeature.contrib.tools.flagd.core import FlagdCore
from openfeature.evaluation_context import EvaluationContext
from openfeature.flag_evaluation import FlagResolutionDetails, FlagValueType
from openfeature.provider import AbstractProvider, Metadata

from penstock.config.rollout import Plan
from penstock.console import say
from penstock.errors import PenstockError
from penstock.storage import write_text

__all__ = ["KILL", "ROUTE", "FileProvider", "Flags", "checked", "read", "switched"]

ROUTE = "route"  # a flag of this name says which arm a request goes to; "strategy" leaves it to the strategy
KILL = "predictions"  # a flag of this name, off: nobody is answered any more
KEYS = {"$schema", "flags", "$evaluators", "metadata"}
FLAG_KEYS = {"state", "variants", "defaultVariant", "targeting", "metadata"}
OPERATORS = {
    "var", "if", "==", "===", "!=", "!==", ">", ">=", "<", "<=", "!", "!!", "or", "and", "in", "cat", "+", "-", "*", "/",
    "%", "min", "max", "merge", "map", "filter", "all", "none", "some", "missing", "missing_some", "substr", "reduce",
    "fractional", "starts_with", "ends_with", "sem_ver", "$ref",
}  # fmt: skip


class FileProvider(AbstractProvider):
    """OpenFeature's door to flagd's core, fed from a file; read again when the file has changed.

    A file that is no longer one of flags is refused, and what was read before stays in force.

    Args:
        path: Of JSON in flagd's format.

    Attributes:
        constant: Names of flags that say the same whoever asks.
        taken: How often the file was taken over.

    Raises:
        PenstockError: It is none to begin with.
    """

    constant: frozenset[str]

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.core = FlagdCore()
        self.refused: str | None = None
        self.taken = 0
        self._stamp = self._stamped()
        self._take(read(path))

    def _take(self, found: dict[str, Any]) -> None:
        flags = found["flags"]
        constant = frozenset(name for name, flag in flags.items() if not flag.get("targeting"))
        self.core.set_flags(found)  # which changes what it is given
        self._names, self.constant = frozenset(flags), constant
        self.taken += 1

    def has(self, name: str) -> bool:
        """Whether there is a flag of that name."""
        return name in self._names

    def _stamped(self) -> tuple[int, int] | None:
        try:
            about = self.path.stat()
        except OSError:
            return None
        return about.st_mtime_ns, about.st_ino

    def look(self) -> None:
        """Take over what has changed."""
        stamp = self._stamped()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._take(read(self.path))
            self.refused = None
        except Exception as error:  # flagd's core has errors of many kinds
            self.refused = str(error)
            say(f"flags: what was read before stays in force: {error}")

    def get_metadata(self) -> Metadata:
        return Metadata(name="penstock-flags-file")

    def get_provider_hooks(self) -> list[Any]:
        return []

    def resolve_boolean_details(
        self, flag_key: str, default_value: bool, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[bool]:
        return self.core.resolve_boolean_value(flag_key, default_value, evaluation_context)

    def resolve_string_details(
        self, flag_key: str, default_value: str, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[str]:
        return self.core.resolve_string_value(flag_key, default_value, evaluation_context)

    def resolve_integer_details(
        self, flag_key: str, default_value: int, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[int]:
        return self.core.resolve_integer_value(flag_key, default_value, evaluation_context)

    def resolve_float_details(
        self, flag_key: str, default_value: float, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[float]:
        return self.core.resolve_float_value(flag_key, default_value, evaluation_context)

    def resolve_object_details(
        self,
        flag_key: str,
        default_value: Sequence[FlagValueType] | Mapping[str, FlagValueType],
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[Sequence[FlagValueType] | Mapping[str, FlagValueType]]:
        return self.core.resolve_object_value(flag_key, default_value, evaluation_context)


class Flags:
    """What a router asks.

    Args:
        path: The file.
        domain: Of OpenFeature: another rollout in the same process has other flags.

    Raises:
        PenstockError: The file is none of flags.
    """

    def __init__(self, path: Path, domain: str) -> None:
        from openfeature import api

        self.provider = FileProvider(path)
        api.set_provider(self.provider, domain)
        self.client: OpenFeatureClient = api.get_client(domain)
        self._known: dict[tuple[str, Any], tuple[int, Any]] = {}

    @property
    def targets(self) -> bool:
        """Whether it matters to a route or a switch who asks."""
        provider = self.provider
        return any(provider.has(name) and name not in provider.constant for name in (ROUTE, KILL))

    def route(self, key: str, attributes: Mapping[str, Any] | None = None) -> str | None:
        """The arm that a request goes to; None leaves it to the strategy.

        Args:
            key: Whose request it is.
            attributes: That targeting may ask for.
        """
        if not self.provider.has(ROUTE):
            return None
        chosen: str = self._value(self.client.get_string_value, ROUTE, "strategy", key, attributes)
        return None if chosen == "strategy" else chosen

    def is_on(
        self, name: str, key: str, *, default: bool, attributes: Mapping[str, Any] | None = None
    ) -> bool:
        """Whether a code path is open to somebody."""
        if not self.provider.has(name):
            return default  # OpenFeature would say so in its log, at every request
        found: bool = self._value(self.client.get_boolean_value, name, default, key, attributes)
        return found

    def _value(
        self,
        asked: Callable[..., Any],
        name: str,
        default: Any,
        key: str,
        attributes: Mapping[str, Any] | None,
    ) -> Any:
        """To ask OpenFeature costs 50 µs; what is the same for everybody is asked once."""
        provider = self.provider
        if name not in provider.constant:
            return asked(name, default, EvaluationContext(key, dict(attributes or {})))
        taken, known = self._known.get((name, default), (0, None))
        if taken != (
            now := provider.taken
        ):  # before it is asked: another thread may take a file over meanwhile
            known = asked(name, default)
            self._known[name, default] = now, known
        return known


# --- the file ---------------------------------------------------------------------------------------


def read(path: Path) -> dict[str, Any]:
    """A file of flags.

    Raises:
        PenstockError: It is missing, or not in flagd's format.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise PenstockError(f"{path}: there is no such file", hint='begin with {"flags": {}}') from error
    except (OSError, ValueError) as error:
        raise PenstockError(f"{path}: not JSON: {error}", hint="mend it") from error
    problem = checked(found) or _core_refuses(found)
    if problem is not None:
        raise PenstockError(f"{path}: {problem}", hint="https://flagd.dev/reference/flag-definitions/")
    return dict(found)


def _core_refuses(found: dict[str, Any]) -> str | None:
    """What flagd's core does not take, for reasons of its own."""
    try:
        FlagdCore().set_flags(deepcopy(found))  # it changes what it is given
    except Exception as error:  # it raises whatever its parts raise
        return f"flagd's core does not take it: {type(error).__name__}: {error}"
    return None


def checked(found: Any, plan: Plan | None = None) -> str | None:
    """What is wrong with flags, in words; None if nothing.

    Args:
        found: The file's content.
        plan: Whose arms a flag ``route`` may name; None for any.
    """
    if not isinstance(found, dict) or not isinstance(found.get("flags"), dict):
        return "there is no object `flags`"
    if unknown := sorted(set(found) - KEYS):
        return f"{unknown[0]} is no key of such a file"
    for name, flag in found["flags"].items():
        problem = _flag_checked(name, flag)
        if problem is not None:
            return f"flags.{name}: {problem}"
    route = found["flags"].get(ROUTE)
    if route is not None:
        values = route["variants"].values()
        if not all(isinstance(value, str) for value in values):
            return f"flags.{ROUTE}: its variants are names of arms, or strategy"
        if plan is not None and (strange := [v for v in values if v != "strategy" and v not in plan.arms]):
            return f"flags.{ROUTE}: there is no arm {strange[0]}; there are: {', '.join(plan.arms)}"
    kill = found["flags"].get(KILL)
    if kill is not None and not all(isinstance(value, bool) for value in kill["variants"].values()):
        return f"flags.{KILL}: its variants are true and false"
    return None


def _flag_checked(name: str, flag: Any) -> str | None:
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,100}", name):
        return "is no name of a flag"
    if not isinstance(flag, dict):
        return "is no object"
    if unknown := sorted(set(flag) - FLAG_KEYS):
        return f"{unknown[0]} is no key of a flag"
    if flag.get("state") not in {"ENABLED", "DISABLED"}:
        return "state is ENABLED or DISABLED"
    variants = flag.get("variants")
    if not isinstance(variants, dict) or not variants:
        return "there are no variants"
    if len({type(value) for value in variants.values()}) > 1:
        return "variants are of different types"
    if flag.get("defaultVariant") not in variants:
        return f"defaultVariant {flag.get('defaultVariant')!r} is none of its variants"
    return _rule_checked(flag.get("targeting") or {}, set(variants))


def _rule_checked(rule: Any, variants: set[str]) -> str | None:
    """Operators that do not exist would be evaluated to nothing, in silence."""
    if isinstance(rule, list):
        return next((found for part in rule if (found := _rule_checked(part, variants))), None)
    if not isinstance(rule, dict):
        return None
    for operator, arguments in rule.items():
        if operator not in OPERATORS:
            return f"targeting: there is no operator {operator}"
        if operator == "fractional":
            shares = [part for part in arguments if isinstance(part, list)]
            strange = [
                part[0] for part in shares if part and isinstance(part[0], str) and part[0] not in variants
            ]
            if strange:
                return f"targeting: fractional: {strange[0]} is none of its variants"
        if (found := _rule_checked(arguments, variants)) is not None:
            return found
    return None


def switched(path: Path, name: str, variant: str) -> tuple[Any, Any]:
    """Give a flag another default, and nothing else decides any more where targeting does not; before and after.

    Args:
        path: The file.
        name: Of the flag.
        variant: One of its variants; or ``off`` and ``on`` of its state, where no variant is called so.

    Raises:
        PenstockError: There is no such flag or variant.
    """
    found = read(path)
    flags = found["flags"]
    if name not in flags:
        raise PenstockError(
            f"{path}: there is no flag {name}", hint=f"there are: {', '.join(flags) or 'none'}"
        )
    before = json.loads(json.dumps(flags[name]))
    if variant in flags[name]["variants"]:
        flags[name]["defaultVariant"] = variant
        flags[name]["state"] = "ENABLED"
    elif variant in {"enabled", "disabled"}:
        flags[name]["state"] = variant.upper()
    else:
        raise PenstockError(
            f"{path}: {name} has no variant {variant}",
            hint=f"there are: {', '.join(flags[name]['variants'])}; or enabled, disabled",
        )
    write_text(path, json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    return before, flags[name]
