"""A challenger is handed over to a rollout, as a canary, and the rollout is asked later what has become of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from penstock.config.maintenance import ByRollout
from penstock.errors import PenstockError
from penstock.rollout.declared import declared
from penstock.rollout.desk import Desk
from penstock.rollout.state import StateError, open_store

__all__ = ["arm_of", "fate", "hand_over"]

WHO = "penstock maintain"
OURS = re.compile(r"m\d{8}t\d{12}-[a-z]+")  # arms that were made here; others are somebody's own
Fate = Literal["promoted", "kept", "under way"]


def arm_of(incident: str) -> str:
    """What a challenger is called as an arm: its incident's id, within what names of arms may be."""
    return "m" + "".join(letter for letter in incident.lower() if letter.isalnum() or letter == "-")[:39]


@contextmanager
def _desk(name: str, root: Path) -> Iterator[Desk]:
    view = declared(name, root=root)
    state = view.state
    if state.kind == "sqlite":  # paths of conf/ are relative to the repository
        state = state.model_copy(update={"path": str(root / state.path)})
        view = view.model_copy(update={"state": state})
    try:
        store = open_store(view)
        try:
            yield Desk(view, store, root)
        finally:
            store.close()
    except StateError as error:
        raise PenstockError(f"rollout {name}: {error}", hint="can its state be reached?") from error


def hand_over(policy: ByRollout, incident: str, artefact: Path, root: Path) -> str:
    """Make a challenger a canary; returns what was done, in words.

    Arms of earlier challengers that neither answer nor are what a roll-back returns to are taken away.

    Args:
        policy: How the canary grows.
        incident: Its id.
        artefact: The challenger's folder.
        root: The repository.

    Raises:
        PenstockError: No rollout is in force, another change is under way there, or it refuses the challenger.
    """
    arm = arm_of(incident)
    with _desk(policy.rollout, root) as desk:
        settings = desk.settings()
        if settings.plan.strategy.kind != "single":
            raise PenstockError(
                f"rollout {policy.rollout}: {settings.plan.strategy.kind} is under way",
                hint="one change at a time: end it, or wait for it; then penstock maintain run",
            )
        old = settings.previous.strategy.champion if settings.previous is not None else None
        done = [
            name
            for name in settings.plan.arms
            if OURS.fullmatch(name) and name not in {settings.champion, old, arm}
        ]
        after = desk.set(
            [
                *(f"arms.{name}=null" for name in done),
                f"arms.{arm}.artifact={artefact}",
                "strategy.kind=canary",
                f"strategy.canary={arm}",
                f"strategy.steps=[{', '.join(f'{step:g}' for step in policy.steps)}]",
                f"strategy.bake={policy.bake}",
                f"strategy.at_least={policy.at_least}",
            ],
            WHO,
            incident,
        )
    share = after.shares()[arm]
    return (
        f"canary {arm} of rollout {policy.rollout} with {share:.0%} of the requests, version {after.version}"
    )


def fate(policy: ByRollout, incident: str, root: Path) -> tuple[Fate, str]:
    """What has become of a challenger that was handed over, and that in words.

    Raises:
        PenstockError: The rollout's state cannot be read.
    """
    arm = arm_of(incident)
    with _desk(policy.rollout, root) as desk:
        settings = desk.settings()
    if settings.champion == arm:
        return "promoted", f"{arm} answers for rollout {policy.rollout}"
    if arm in settings.off:
        return "kept", f"{arm} was taken out: {settings.off[arm]}"
    if arm not in settings.plan.strategy.arms:
        return "kept", f"rollout {policy.rollout} went back to {settings.champion}"
    return "under way", f"{arm} has {settings.shares().get(arm, 0.0):.0%} of the requests"
