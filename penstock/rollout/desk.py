"""What an operator does to a rollout: checked, put in force, and written into the audit trail. For the command line and the console.

Everything here blocks: it reads artefacts and asks predictors. A router calls it in a thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from penstock.config.rollout import BlueGreen, Plan, Rollout
from penstock.errors import PenstockError
from penstock.rollout import settings as rules
from penstock.rollout.audit import Entry, Intent
from penstock.rollout.declared import check_artifacts
from penstock.rollout.settings import Settings
from penstock.rollout.smoke import smoke
from penstock.rollout.state import ConflictError, Store

__all__ = ["Desk"]

TRIES = 3
LONGEST = 1000  # characters of a reason
SEEN_WITHIN = 10.0  # seconds within which every router has what was changed
LOOK = 0.05


class Desk:
    """Operations on one rollout.

    Args:
        view: What is declared.
        store: Its state.
        root: The repository.
    """

    def __init__(self, view: Rollout, store: Store, root: Path = Path()) -> None:
        self.view, self.store, self.root = view, store, root

    def begin(self) -> tuple[Settings, str | None]:
        """The settings in force, made from what is declared if there are none; and a warning, if conf/ says otherwise by now.

        Raises:
            PenstockError: What is declared cannot be served.
        """
        declared = rules.digest(self.view.plan())
        found = self.store.settings()
        if found is None:
            check_artifacts(self.view.plan(), self.root)
            found = rules.begun(self.view.plan(), declared)
            intent = Intent("penstock rollout up", "declare", "the first settings, as conf/ has them")
            try:
                self.store.change(None, found, intent)
            except ConflictError:  # another was quicker
                return self.settings(), None
            return found, None
        warning = None
        if found.declared != declared:
            warning = (
                "conf/ has changed since; what is in force stays so. To put in force what is declared: "
                "penstock rollout apply"
            )
        return found, warning

    def settings(self) -> Settings:
        """In force.

        Raises:
            PenstockError: There are none yet.
        """
        found = self.store.settings()
        if found is None:
            raise PenstockError(
                f"{self.view.model}: nothing is in force yet", hint="begin: penstock rollout up NAME"
            )
        return found

    def set(self, assignments: Sequence[str], who: str, why: str) -> Settings:
        """Other settings: ``strategy.kind=canary``, ``strategy.steps=[1,10,100]``, ``arms.next.artifact=models/next``.

        Raises:
            PenstockError: They cannot be honoured; nothing has changed.
        """

        def change(settings: Settings) -> Settings:
            plan = rules.set_to(settings, list(assignments))
            self._check(settings, plan)
            return rules.changed(settings, plan)

        return self._changed(change, Intent(who, "set", why or " ".join(assignments)))

    def apply(self, who: str, why: str) -> Settings:
        """What is declared in conf/.

        Raises:
            PenstockError: It cannot be honoured; nothing has changed.
        """
        plan = self.view.plan()

        def change(settings: Settings) -> Settings:
            self._check(settings, plan)
            return rules.changed(settings, plan).model_copy(update={"declared": rules.digest(plan)})

        return self._changed(change, Intent(who, "apply", why or "as conf/ declares it"))

    def _check(self, settings: Settings, plan: Plan) -> None:
        if plan == settings.plan:
            raise PenstockError("that is what is in force", hint="nothing was changed")
        try:
            Rollout.model_validate(
                self.view.model_dump() | plan.model_dump()
            )  # what the router's pace must allow
        except ValidationError as error:
            words = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
            raise PenstockError(f"refused: {words}", hint="nothing was changed") from error
        check_artifacts(plan, self.root)
        if self.view.router.flags is not None:
            from penstock.rollout.flags import checked, read

            problem = checked(read(self.root / self.view.router.flags), plan)
            if problem is not None:
                raise PenstockError(f"{self.view.router.flags}: {problem}", hint="mend it first")

    def promote(self, to: str | None, who: str, why: str) -> Settings:
        """A step on; see ``settings.promoted``. A version that was idle is warmed up and tested before it answers anybody.

        Raises:
            PenstockError: There is nothing to promote, or it does not pass.
        """

        def change(settings: Settings) -> Settings:
            after = rules.promoted(settings, to)
            if after.champion != settings.champion:
                strategy = settings.plan.strategy
                warmup = strategy.warmup if isinstance(strategy, BlueGreen) else 1
                smoke(self.view, after, after.champion, warmup, self.root)
            return after

        return self._changed(change, Intent(who, "promote", why or "asked for"))

    def rollback(self, who: str, why: str) -> Settings:
        """The champion from before; see ``settings.rolled_back``. Nothing is tested first: it is what one does at three in the morning.

        Raises:
            PenstockError: There is nothing to go back to.
        """
        return self._changed(rules.rolled_back, Intent(who, "rollback", why or "asked for"))

    def pause(self, who: str, why: str) -> Settings:
        """Nothing changes by itself any more, but for guardrails."""
        return self._changed(rules.paused, Intent(who, "pause", why or "asked for"))

    def resume(self, who: str, why: str) -> Settings:
        """As before the pause."""
        return self._changed(rules.resumed, Intent(who, "resume", why or "asked for"))

    def stop(self, arm: str, who: str, why: str) -> Settings:
        """An arm gets nothing any more.

        Raises:
            PenstockError: It is the champion, or there is none of that name.
        """

        def change(settings: Settings) -> Settings:
            if arm not in settings.plan.arms:
                raise PenstockError(
                    f"there is no arm {arm}", hint=f"there are: {', '.join(settings.plan.arms)}"
                )
            return rules.without(settings, arm, why)

        return self._changed(change, Intent(who, "stop", why or "asked for"))

    def flag(self, name: str, variant: str, who: str, why: str) -> Entry:
        """Switch a feature flag.

        Raises:
            PenstockError: There is no such flag or variant, or no file of flags is declared.
        """
        from penstock.rollout.flags import switched

        if self.view.router.flags is None:
            raise PenstockError(
                "router.flags: no file of flags is declared", hint="name one in conf/rollout/"
            )
        before, after = switched(self.root / self.view.router.flags, name, variant)
        return self.store.note(Intent(who, f"flag {name}", why or "asked for"), before, after)

    def _changed(self, change: Callable[[Settings], Settings], intent: Intent) -> Settings:
        intent = replace(intent, why=intent.why[:LONGEST])
        for _ in range(TRIES):
            before = self.settings()
            after = change(before)
            try:
                self.store.change(before, after, intent)
            except ConflictError:
                continue  # judged anew on what is in force now
            return after
        raise PenstockError(
            "somebody else changes the settings at the same time", hint="look at them, and try again"
        )

    def seen(self, version: int, within: float = SEEN_WITHIN) -> list[str]:
        """Wait until all routers have a version; those that have not in time."""
        ends = time.monotonic() + within
        while True:
            routers: dict[str, Any] = self.store.facts("router/")
            late = [name for name, about in routers.items() if about.get("version", 0) < version]
            if not late or time.monotonic() > ends:
                return late
            time.sleep(LOOK)
