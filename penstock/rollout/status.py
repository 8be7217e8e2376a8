"""A rollout in lines, for whoever has a terminal at three in the morning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["entry_line", "lines", "problems"]


def lines(found: Mapping[str, Any]) -> list[str]:
    """What is known of it.

    Args:
        found: As ``penstock.rollout.back.told`` has it.
    """
    settings = found["settings"]
    if settings is None:
        return [f"{found['model']}: nothing is in force yet"]
    strategy = settings["plan"]["strategy"]
    paused = ", paused" if settings["is_paused"] else ""
    told = [
        f"{found['model']:<12}{strategy['kind']}, version {settings['version']}, stage {found['stage']}{paused}"
    ]
    report = found.get("report") or {}
    if report:
        told.append(f"{'verdict':<12}{report['verdict']}")
    policy = found.get("policy") or {}
    shares = policy.get("shares") if policy.get("stage") == found["stage"] else None
    for arm, about in settings["plan"]["arms"].items():
        figures = report.get("arms", {}).get(arm, {})
        share = (shares or found["shares"]).get(arm, 0.0)
        where = about.get("artifact") or ", ".join(about.get("urls") or ())
        role = " (champion)" if arm == found["champion"] else ""
        told.append(f"{arm:<12}{share:7.2%}  {where}{role}{_figures(figures)}")
        if arm in settings["off"]:
            told.append(f"{'':<12}off: {settings['off'][arm]}")
    for name, about in sorted(found["replicas"].items()):
        ready = "ready" if about["ready"] else "not ready"
        rests = ", out of rotation" if name in settings["resting"] else ""
        told.append(
            f"{name:<12}{about['url']}  {about['artifact']}, {ready}{rests}, {about['bytes'] / 1e6:.0f} MB"
        )
    told.append(f"{'routers':<12}{', '.join(found['routers']) or 'none'}")
    if found["history"]:
        told.append(f"{'last change':<12}{entry_line(found['history'][0])}")
    return told


def _figures(figures: Mapping[str, Any]) -> str:
    if not figures or not figures.get("requests"):
        return ""
    rate = figures["errors"] / figures["requests"]
    words = f"  {figures['requests']:,} requests, errors {rate:.2%}"
    if figures.get("p99_ms") is not None:
        words += f", p50 {figures['p50_ms']:.2g} ms, p99 {figures['p99_ms']:.2g} ms"
    kpi = figures.get("kpi")
    if kpi and kpi["value"] is not None:
        words += f", kpi {kpi['value']:.4g}"
        if kpi["low"] is not None:
            words += f" ({kpi['low']:.4g} to {kpi['high']:.4g})"
    return words


def problems(found: Mapping[str, Any]) -> list[str]:
    """What is not well, in words.

    Args:
        found: As ``penstock.rollout.back.told`` has it.
    """
    settings = found["settings"]
    if settings is None:
        return ["nothing is in force"]
    wrong = [f"{arm} is off: {why}" for arm, why in settings["off"].items()]
    if found["broken"] is not None:
        wrong.append(f"the audit trail is not what was written, from entry {found['broken']} on")
    if not found["routers"]:
        wrong.append("no router gives a sign of life")
    late = [name for name, about in found["routers"].items() if about.get("version") != settings["version"]]
    if late:
        wrong.append(f"another version is in force at {', '.join(late)}")
    report = found.get("report")
    if report is None:
        wrong.append(
            "the controller gives no sign of life: nothing is taken back, and no step taken, by itself"
        )
    else:
        wrong += [f"{arm}: {why}" for arm, why in report["harms"].items()]
    wrong += [
        f"{name} is not ready" for name, about in sorted(found["replicas"].items()) if not about["ready"]
    ]
    return wrong


def entry_line(entry: Mapping[str, Any]) -> str:
    """An entry of the audit trail."""
    return (
        f"{entry['number']}  {entry['time']}  {entry['who']}  {entry['what']}{_change(entry)}: {entry['why']}"
    )


def _change(entry: Mapping[str, Any]) -> str:
    """What has changed, in a few words."""
    before, after = entry["before"], entry["after"]
    if not isinstance(after, dict):
        return ""
    if "plan" not in after:
        was = (before or {}).get("defaultVariant")
        return f" ({was} → {after['defaultVariant']})" if "defaultVariant" in after else ""
    return f" ({_brief(before)} → {_brief(after)})" if before else f" ({_brief(after)})"


def _brief(settings: Mapping[str, Any]) -> str:
    strategy = settings["plan"]["strategy"]
    champion = strategy.get("champion") or strategy.get("live")
    step = ""
    if strategy["kind"] == "canary":
        step = f" {strategy['steps'][settings['step']]:g} %"
    elif strategy["kind"] == "rolling":
        step = f" {settings['step']}"
    off = f" without {', '.join(settings['off'])}" if settings["off"] else ""
    return f"{strategy['kind']}{step}, {champion} answers{off}"
