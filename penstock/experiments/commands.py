"""`penstock experiment …`. Every command imports what it needs when it runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from penstock.console import progress
from penstock.errors import PenstockError

if TYPE_CHECKING:
    from penstock.experiments.analysis import Limit

__all__ = ["experiment"]

experiment = typer.Typer(
    no_args_is_help=True,
    help="Plan an experiment, and say what came out of it. Running one is `penstock rollout`.",
)

Json = Annotated[bool, typer.Option("--json", help="For programs.")]
Level = Annotated[float, typer.Option(help="Chance of finding a difference where there is none.")]


@experiment.command()
def plan(
    effect: Annotated[
        float, typer.Option(help="Least difference to be found: 0.01 is one point of a share.")
    ],
    baseline: Annotated[float | None, typer.Option(help="A share's present value, such as 0.1.")] = None,
    deviation: Annotated[float | None, typer.Option(help="Of a mean: standard deviation of a user.")] = None,
    power: Annotated[float, typer.Option(help="Chance of finding the effect if it is there.")] = 0.8,
    alpha: Level = 0.05,
    shares: Annotated[str, typer.Option(help="Of the arms, control first.")] = "50,50",
    per_day: Annotated[float | None, typer.Option(help="New users a day.")] = None,
    traffic: Annotated[float, typer.Option(help="Share of them that takes part.")] = 1.0,
    as_json: Json = False,
) -> None:
    """How many users it takes, and how many days."""
    from penstock.experiments.planning import duration, plan_means, plan_proportions

    if (baseline is None) == (deviation is None):
        raise PenstockError("--baseline of a share, or --deviation of a mean: one of the two")
    parts = _numbers(shares, "--shares")
    found = (
        plan_proportions(baseline, effect, alpha=alpha, power=power, shares=parts)
        if baseline is not None
        else plan_means(deviation or 0.0, effect, alpha=alpha, power=power, shares=parts)
    )
    ends = {"fixed": found.total, "sequential": found.sequential}
    days = {key: duration(n, per_day, traffic=traffic) for key, n in ends.items()} if per_day else {}
    if as_json:
        print(json.dumps(found.dump() | {"days": days}))
        return
    lasting = {key: f", {days[key]:,} days" if days else "" for key in ends}
    each = " + ".join(f"{n:,}" for n in found.units)
    print(f"one look at the end:      {found.total:,} users ({each}){lasting['fixed']}")
    print(
        f"a look whenever you like: at most {found.sequential:,} users{lasting['sequential']}; "
        "less if the effect is larger"
    )


@experiment.command()
def analyse(
    path: Annotated[Path, typer.Argument(help="CSV or Parquet, a row for each user that was assigned.")],
    metric: Annotated[str, typer.Option(help="Column to compare: 0 and 1, or any numbers.")],
    planned: Annotated[int, typer.Option(min=1, help="Users of all arms at which the experiment ends.")],
    control: Annotated[str, typer.Option(help="Name of the arm that the others are compared with.")] = "a",
    unit: Annotated[str, typer.Option(help="Column of the user's id.")] = "user",
    arm: Annotated[str, typer.Option(help="Column of the arm.")] = "arm",
    shares: Annotated[
        str | None, typer.Option(help="As assigned, such as a=90,b=10.", show_default="equal")
    ] = None,
    covariate: Annotated[
        str | None, typer.Option(help="Column of what was measured before: narrows intervals (CUPED).")
    ] = None,
    denominator: Annotated[
        str | None, typer.Option(help="Column of a ratio's denominator, such as views of clicks.")
    ] = None,
    guardrail: Annotated[
        list[str] | None,
        typer.Option(help="COLUMN:MARGIN or COLUMN:MARGIN:lower, a loss that is accepted. Repeatable."),
    ] = None,
    better: Annotated[
        Literal["higher", "lower"], typer.Option(help="Which way the metric is good.")
    ] = "higher",
    alpha: Level = 0.05,
    once: Annotated[
        bool,
        typer.Option(
            "--once", help="Tests for one look, at the planned number; sharper, but no second look."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """What to do, in a sentence: better, worse, not decided, harmful, or not to be trusted."""
    from penstock.experiments.analysis import Asked, analysed, read

    asked = Asked(
        unit=unit,
        arm=arm,
        metric=metric,
        control=control,
        planned=planned,
        shares=_shares(shares) if shares else None,
        covariate=covariate,
        denominator=denominator,
        guardrails=[_limit(item) for item in guardrail or ()],
        better=better,
        alpha=alpha,
        always=not once,
    )
    with progress(f"reading {path}", None):
        frame = read(path, asked)
    found = analysed(frame, asked)
    if as_json:
        print(json.dumps(found.dump()))
        return
    print(found.verdict.text)
    for name, item in found.comparisons.items():
        print(
            f"  {name}: {item.treatment:.4g}, {control} {item.control:.4g}, difference {item.difference:+.3g} "
            f"({item.low:.3g} to {item.high:.3g}), p = {item.p:.2g}, {item.method}"
        )
    for limit in found.guardrails:
        print(
            f"  {limit.name} in {limit.arm}: {limit.status}, loses {limit.loss:.3g} "
            f"({limit.low:.3g} to {limit.high:.3g}) of {limit.margin:g}"
        )
    print(f"  assignment: p = {found.mismatch.p:.2g}{', off' if found.mismatch.off else ''}")


def _numbers(text: str, option: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise PenstockError(f"{option}: {text!r} is no list of numbers such as 50,50") from error


def _shares(text: str) -> dict[str, float]:
    pairs = [part.partition("=") for part in text.split(",")]
    values = _numbers(",".join(value for _, _, value in pairs), "--shares")
    if not all(name and equals for name, equals, _ in pairs) or min(values) < 0 or not sum(values):
        raise PenstockError(f"--shares: {text!r} is not such as a=90,b=10")
    return {name.strip(): value for (name, _, _), value in zip(pairs, values, strict=True)}


def _limit(text: str) -> Limit:
    from penstock.experiments.analysis import Limit

    column, _, rest = text.partition(":")
    margin, _, way = rest.partition(":")
    if not column or way not in {"", "higher", "lower"}:
        raise PenstockError(f"--guardrail: {text!r} is not such as latency:5:lower")
    value = _numbers(margin, "--guardrail")[0]
    if value < 0:
        raise PenstockError(f"--guardrail: {text!r}: a margin is 0 or more")
    return Limit(column, value, "lower" if way == "lower" else "higher")
