"""What is in force: a plan, how far it has come, and what it was before. Changes are pure functions of it."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from penstock.config import View
from penstock.config.rollout import AB, Bandit, BlueGreen, Canary, Plan, Rolling, Single
from penstock.errors import PenstockError

__all__ = [
    "Settings",
    "addresses",
    "begun",
    "changed",
    "checked",
    "digest",
    "paused",
    "promoted",
    "resumed",
    "rolled_back",
    "rolled_on",
    "set_to",
    "with_resting",
    "without",
]

NONE = "there is nothing to {}: {} answers alone"


class Settings(View):
    """One version of the settings in force.

    Attributes:
        version: Grows by one with each change; routers look for it.
        epoch: Grows when arms or shares begin anew; users are assigned, and results counted, by it.
        step: Of a canary: index into its steps.
        plan: Arms, strategy, what it is judged by.
        previous: What was in force before this strategy; a roll-back without another way returns to it.
        is_paused: Nothing is changed by itself.
        off: Arms that get nothing, with why.
        resting: Replicas that are out of rotation, as ``arm/index``.
        slots: Of arms that predictors are started for: which sixteen ports are theirs.
        declared: SHA-256 of what conf/ declared when the state was made, or taken over since.
    """

    version: Annotated[int, Field(ge=1)] = 1
    epoch: Annotated[int, Field(ge=1)] = 1
    step: Annotated[int, Field(ge=0)] = 0
    plan: Plan
    previous: Plan | None = None
    is_paused: bool = False
    off: dict[str, str] = Field(default_factory=dict)
    resting: tuple[str, ...] = ()
    slots: dict[str, int] = Field(default_factory=dict)
    declared: str = ""

    @property
    def champion(self) -> str:
        """Who answers when nobody else does."""
        return self.plan.strategy.champion

    @property
    def stage(self) -> str:
        """What counters belong to: shares do not change within it."""
        return f"{self.epoch}.{self.step}"

    def shares(self) -> dict[str, float]:
        """Shares of requests that each arm answers; a bandit's are its policy's."""
        strategy = self.plan.strategy
        shares = {strategy.champion: 1.0}
        if isinstance(strategy, AB):
            shares = dict(strategy.shares)
        elif isinstance(strategy, Bandit):
            shares = {arm: 1.0 / len(strategy.candidates) for arm in strategy.candidates}
        elif isinstance(strategy, Canary):
            share = strategy.steps[self.step] / 100.0
            shares = {strategy.champion: 1.0 - share, strategy.canary: share}
        for arm in self.off:
            if arm in shares and arm != strategy.champion:
                shares[strategy.champion] = shares.get(strategy.champion, 0.0) + shares.pop(arm)
        return shares


def begun(plan: Plan, declared: str) -> Settings:
    """The first settings of a rollout."""
    return Settings(plan=plan, declared=declared, slots=_slots({}, plan))


def _slots(before: dict[str, int], plan: Plan) -> dict[str, int]:
    """Ports that arms have stay theirs; a new arm takes the first that are free."""
    kept = {arm: slot for arm, slot in before.items() if arm in plan.started()}
    for arm in plan.started():
        if arm not in kept:
            kept[arm] = next(slot for slot in range(len(kept) + 1) if slot not in kept.values())
    return kept


def addresses(settings: Settings, ports: int) -> dict[str, tuple[str, ...]]:
    """Where each arm's replicas listen.

    Args:
        settings: In force.
        ports: The first of the rollout's.
    """
    found = {}
    for name, arm in settings.plan.arms.items():
        if arm.artifact is None:
            found[name] = arm.urls
        else:
            first = ports + 16 * settings.slots[name]
            found[name] = tuple(f"http://127.0.0.1:{first + at}" for at in range(arm.replicas))
    return found


def digest(plan: Plan) -> str:
    """By which a plan is known again."""
    return hashlib.sha256(plan.model_dump_json().encode()).hexdigest()


def _next(settings: Settings, **changes: Any) -> Settings:
    return settings.model_copy(update={"version": settings.version + 1, **changes})


def _anew(settings: Settings, plan: Plan, **changes: Any) -> Settings:
    slots = _slots(settings.slots, plan)
    return _next(
        settings, plan=plan, epoch=settings.epoch + 1, step=0, off={}, resting=(), slots=slots, **changes
    )


def changed(settings: Settings, plan: Plan) -> Settings:
    """Another plan.

    Raises:
        PenstockError: It would change the artefact under an arm that answers, or cut a running roll short.
    """
    before = settings.plan
    if isinstance(before.strategy, Rolling):
        raise PenstockError(
            f"{settings.champion}'s replicas are being rolled", hint="wait until it is done, or roll it back"
        )
    answering = {arm for arm, share in settings.shares().items() if share > 0}
    for name, arm in before.arms.items():
        after = plan.arms.get(name)
        if name in answering and after != arm:
            what = "taken away" if after is None else "changed"
            raise PenstockError(
                f"arms.{name}: answers requests and cannot be {what} under them",
                hint="roll it (strategy.kind=rolling), or bring the new version in as an arm of its own",
            )
    return _anew(settings, plan, previous=before)


def set_to(settings: Settings, assignments: list[str]) -> Plan:
    """A plan with some keys set otherwise, checked whole.

    A strategy of another kind is a strategy anew: nothing of the one before is kept but the champion.

    Args:
        settings: In force.
        assignments: ``key=value``, the value as YAML: ``strategy.kind=canary``, ``strategy.steps=[1,10,100]``.

    Raises:
        PenstockError: A key is not known, or the plan does not hold together.
    """
    import yaml

    whole: dict[str, Any] = settings.plan.model_dump(mode="json", exclude_defaults=True)
    # A model's dump leaves out what is as by default, and with it what tells one strategy from another.
    whole["strategy"]["kind"] = settings.plan.strategy.kind
    kinds = [text.split("=", 1)[1] for text in assignments if text.startswith("strategy.kind=")]
    if kinds and kinds[-1] != settings.plan.strategy.kind:
        whole["strategy"] = {"kind": kinds[-1]}
        if kinds[-1] != "blue_green":
            whole["strategy"]["champion"] = settings.champion
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise PenstockError(f"{text!r} sets nothing", hint="write KEY=VALUE, as strategy.kind=canary")
        try:
            parsed = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise PenstockError(f"{key}: {value!r} is not YAML", hint="quote it") from error
        _put(whole, key.split("."), parsed)
    return checked(whole)


def _put(whole: dict[str, Any], keys: list[str], value: Any) -> None:
    at = whole
    for key in keys[:-1]:
        inner = at.setdefault(key, {})
        if not isinstance(inner, dict):
            raise PenstockError(f"{'.'.join(keys)}: {key} has no keys", hint="set it whole")
        at = inner
    if value is None:
        at.pop(keys[-1], None)
    else:
        at[keys[-1]] = value


def checked(whole: dict[str, Any]) -> Plan:
    """A plan out of what a person wrote.

    Raises:
        PenstockError: It does not hold together; the message names the key.
    """
    try:
        return TypeAdapter(Plan).validate_python(whole)
    except ValidationError as error:
        kinds = {"single", "shadow", "ab", "bandit", "blue_green", "canary", "rolling"}
        lines = []
        for problem in error.errors(include_url=False):
            loc = [str(part) for part in problem["loc"]]
            if len(loc) > 1 and loc[0] == "strategy" and loc[1] in kinds:
                del loc[1]  # which of the views it was; no key of the file
            where = ".".join(loc)
            words = problem["msg"].removeprefix("Value error, ")
            lines.append(f"{where}: {words}" if where else words)
        raise PenstockError("refused: " + "; ".join(lines), hint="nothing was changed") from error


def _single(settings: Settings, champion: str) -> Plan:
    return settings.plan.model_copy(update={"strategy": Single(kind="single", champion=champion)})


def promoted(settings: Settings, to: str | None = None) -> Settings:
    """One step on: the next share of a canary, the switch of blue and green, a challenger as champion.

    Args:
        settings: In force.
        to: The arm, where there are several to choose from.

    Raises:
        PenstockError: There is nothing to promote, or it is not clear which.
    """
    strategy = settings.plan.strategy
    if to is not None and to not in strategy.arms:
        raise PenstockError(f"there is no arm {to} in it", hint=f"there are: {', '.join(strategy.arms)}")
    if to is not None and to in settings.off:
        raise PenstockError(f"{to} is off: {settings.off[to]}", hint="set the strategy anew to try it again")
    if isinstance(strategy, BlueGreen):
        other = strategy.model_copy(update={"live": strategy.idle, "idle": strategy.live})
        if to == strategy.live:
            raise PenstockError(f"{to} is live", hint="nothing to do")
        return _anew(settings, settings.plan.model_copy(update={"strategy": other}), previous=settings.plan)
    if isinstance(strategy, Canary) and to is None and strategy.canary in settings.off:
        raise PenstockError(
            f"{strategy.canary} is off: {settings.off[strategy.canary]}",
            hint="set the strategy anew to try it again",
        )
    if isinstance(strategy, Canary) and to is None and settings.step + 1 < len(strategy.steps):
        return _next(settings, step=settings.step + 1)
    chosen = to or _only_challenger(settings)
    if chosen == strategy.champion and isinstance(strategy, Single):
        raise PenstockError(NONE.format("promote", chosen), hint="set a strategy: penstock rollout set")
    return _anew(settings, _single(settings, chosen), previous=settings.plan)


def _only_challenger(settings: Settings) -> str:
    strategy = settings.plan.strategy
    if isinstance(strategy, Single):
        raise PenstockError(
            NONE.format("promote", strategy.champion), hint="set a strategy: penstock rollout set"
        )
    if isinstance(strategy, Rolling):
        raise PenstockError("replicas are being rolled", hint="it goes on by itself; or roll it back")
    others = [arm for arm in strategy.arms if arm != strategy.champion and arm not in settings.off]
    if len(others) != 1:
        raise PenstockError(
            f"which of {', '.join(others) or 'none'} is to be promoted?", hint="name it: --to ARM"
        )
    return others[0]


def rolled_back(settings: Settings) -> Settings:
    """One version answers everything, the one that did before.

    A canary, an A/B test, a bandit or a shadow ends with the champion alone; blue and green switch back; after a promotion,
    what was in force before it is in force again, with the old champion alone.

    Raises:
        PenstockError: There is nothing to go back to.
    """
    strategy = settings.plan.strategy
    if isinstance(strategy, BlueGreen):
        return promoted(settings)
    if isinstance(strategy, Single):
        if settings.previous is None:
            raise PenstockError(
                NONE.format("roll back", strategy.champion), hint="see: penstock rollout history"
            )
        before = settings.previous.strategy.champion
        if before == strategy.champion or before not in settings.plan.arms:
            raise PenstockError(
                f"{strategy.champion} was the champion before, too", hint="see: penstock rollout history"
            )
        return _anew(settings, _single(settings, before), previous=settings.plan)
    plan = _single(settings, strategy.champion)
    return _anew(settings, plan, previous=settings.plan)


def without(settings: Settings, arm: str, why: str) -> Settings:
    """An arm gets nothing any more; the champion answers in its place.

    Raises:
        PenstockError: It is the champion.
    """
    if arm == settings.champion:
        raise PenstockError(f"{arm} is the champion", hint="roll back, or promote another")
    return _next(settings, off={**settings.off, arm: why})


def paused(settings: Settings) -> Settings:
    """Nothing is changed by itself: no step, no learning, no conclusion. Guardrails still take an arm back."""
    return _next(settings, is_paused=True)


def resumed(settings: Settings) -> Settings:
    """As before the pause."""
    return _next(settings, is_paused=False)


def with_resting(settings: Settings, resting: tuple[str, ...]) -> Settings:
    """Some replicas out of rotation, all others in it."""
    return _next(settings, resting=resting)


def rolled_on(settings: Settings) -> Settings:
    """The resting replica answers with the new artefact; after the last one, the arm has it, and the roll is over."""
    strategy = settings.plan.strategy
    assert isinstance(strategy, Rolling)
    arm = settings.plan.arms[strategy.champion]
    if settings.step + 1 < arm.replicas:
        return _next(settings, step=settings.step + 1, resting=())
    arms = {**settings.plan.arms, strategy.champion: arm.model_copy(update={"artifact": strategy.artifact})}
    plan = settings.plan.model_copy(
        update={"arms": arms, "strategy": Single(kind="single", champion=strategy.champion)}
    )
    return _anew(settings, plan, previous=settings.plan)
